"""The schema of a sweep's YAML: every key, its default and its bounds, as frozen values.

Files are read by icu_ray/config_file.py. Nothing here imports Ray or torch, so a plan is printed in a second.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from icu_ray.data.examples import Columns

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""
Setting = Annotated[float, Field(allow_inf_nan=False)] | Annotated[int, Field(gt=-(2**63), lt=2**63)] | str | bool
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="after")
    def _nameable(self) -> Section:
        for key, value in self:
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not _nameable(text):
                    raise ValueError(
                        f"{key}: holds a zero byte, or is longer than a path (4095 bytes) or a name in it (255) can be"
                    )
        return self


def _nameable(text: str) -> bool:
    """Whether a system can look for a file of this name; most texts of a config name files or may do so."""
    data = text.encode("utf-8", "surrogatepass")
    return b"\0" not in data and len(data) <= 4095 and all(len(part) <= 255 for part in data.split(b"/"))


class StandinConfig(Section):
    """A small language model that is trained here until it has memorised the forget samples."""

    size: Literal["small", "medium", "large"] = "small"
    """About 0.7, 1.6 or 5 million parameters at the default vocabulary."""
    family: Literal["gpt_neo", "llama"] = "gpt_neo"
    """Architecture of the network."""
    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 2048
    """Tokens of its own byte-pair tokenizer, trained on the same texts."""
    max_epochs: Count = 40
    """Passes over its corpus after which it is refused if it has not memorised enough."""
    learning_rate: Positive = 2e-3
    """Adam's step while it is trained."""
    batch_size: Count = 16
    """Rows of one training step."""
    target_repeats: Count = 4
    """How often each forget row stands in one epoch of the training corpus, as duplicated text does on the web."""
    min_memorization: Fraction = 0.9
    """Training goes on until MA on every forget sample reaches this (and EL10 reaches min_extraction)."""
    min_extraction: Fraction = 0.5
    """EL10 that every forget sample must reach before training ends."""
    seed: Seed = 0
    """Of its weights and of the order of its corpus."""


class ModelConfig(Section):
    """One causal LM of the grid: a hub id, a local folder, or a stand-in built here."""

    name: Name
    """What tables, trials and other keys call it."""
    source: str | None = None
    """Hub id or local folder."""
    standin: StandinConfig | None = None
    """Settings of a stand-in, in place of `source`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; default: its main branch."""
    trust_remote_code: bool = False
    """Run Python code that the model's folder brings."""
    workers: Count = 1
    """Training workers of one trial, placed together as a gang."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Default: 0 for stand-ins, 1 otherwise. Never part of a trial's identity."""
    cpus_per_worker: Count = 1
    """CPU cores of one worker."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and gradients in training."""
    zero_stage: Annotated[int, Field(ge=0, le=2)] = 0
    """ZeRO stage; at 3 the weights are spread over workers, which saving does not gather yet."""
    offload_optimizer: bool = False
    """Keep Adam's state in main memory, not on the GPU."""
    micro_batch: Count | None = None
    """Samples per forward of one worker; default: the global batch divided by the workers."""
    batch_size: Count | None = None
    """Global batch; default train.batch_size."""
    lr: Positive | None = None
    """Default optim.lr."""
    max_epochs: Count | None = None
    """Default stop.max_epochs."""
    train: bool = True
    """False: a row of its own without training, as the paper's OPT: measured and evaluated on every sample."""
    minutes_per_epoch: Positive | None = None
    """Measured minutes of one epoch (training and probe) on this model's workers, for the plan's estimate."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if (self.source is None) == (self.standin is None):
            raise ValueError("give exactly one of 'source' (hub id or folder) and 'standin'")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return 0 if self.standin is not None else 1


class ColumnsConfig(Section):
    """Layout of a row in tokens (section V-B: 100 pre-prefix, 50 prefix, 50 suffix)."""

    length: Annotated[int, Field(ge=4, le=4096)] = 200
    """Tokens of a row."""
    prefix_start: Annotated[int, Field(ge=0)] = 100
    """First token of the prefix, which prompts the model; what stands before it is the pre-prefix."""
    suffix_start: Annotated[int, Field(ge=1)] = 150
    """First token of the suffix, which the model must not be able to say."""

    @model_validator(mode="after")
    def _ordered(self) -> ColumnsConfig:
        if not self.prefix_start < self.suffix_start < self.length:
            raise ValueError("must satisfy prefix_start < suffix_start < length")
        return self

    def value(self) -> Columns:
        """The plain value the other rooms use."""
        return Columns(self.length, self.prefix_start, self.suffix_start)


class SyntheticData(Section):
    """Seeded private-looking records made with Faker: needs no download."""

    source: Literal["synthetic"]
    """Which kind of data this is."""
    records: Annotated[int, Field(ge=8, le=1_000_000)] = 384
    """Rows of the whole corpus; the forget samples are drawn from it, the rest is the pool."""
    sample_size: Count = 32
    """Rows of one forget sample."""
    heldout: Count = 64
    """Further rows that no stand-in ever sees, for held-out perplexity."""
    seed: Seed = 0
    """Of the records; another seed is another world."""


class ExtractionData(Section):
    """The LM extraction benchmark: (15000, 200) GPT-2 token rows of the Pile."""

    source: Literal["extraction"]
    """Which kind of data this is."""
    folder: str = "data/lm_extraction"
    """Where the benchmark's files lie."""
    tokens: str = "train_dataset.npy"
    """File of the token rows in `folder`."""
    sample_file: str = "lm_extraction_128_{sample}.csv"
    """The paper's forget samples; rows in ascending doc_id, whatever the file's order."""
    tokenizer: str = "openai-community/gpt2"
    """Hub id or folder of the GPT-2 tokenizer that wrote the rows."""
    draw: Count | None = None
    """When set, each sample is this many rows drawn with the sample number as seed, and no CSV is read."""
    limit: Count | None = None
    """Use only this many rows of the paper's forget sample (the first by doc_id)."""
    pool_rows: Count | None = None
    """Use only this many rows outside the samples (the first by doc_id), for small machines."""
    heldout: Annotated[int, Field(ge=0)] = 0
    """Rows kept out of the pool and of stand-in training (the last by doc_id), for held-out perplexity."""
    corpora: tuple[str, ...] | None = None
    """Use only targets from these parts of the Pile, as the sample file names them; default: all."""


class RecordsData(Section):
    """A user's own texts: .jsonl, .csv or .parquet with a text column."""

    source: Literal["records"]
    """Which kind of data this is."""
    forget: str
    """File of the texts to forget; may contain {sample}."""
    pool: str | None = None
    """File of the remaining texts, from which pairs are taken; may be left out for methods without pairs."""
    heldout: str | None = None
    """File of texts that nobody asked to forget, for held-out perplexity."""
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the pool (its last) that are kept out of it instead, where there is no file of held-out texts."""
    text_column: str = "text"
    """Column of the texts."""
    id_column: str | None = None
    """Column of the names of texts; default: rows are numbered."""

    @model_validator(mode="after")
    def _one_heldout(self) -> RecordsData:
        if self.heldout is not None and self.heldout_rows:
            raise ValueError("give either 'heldout' (a file) or 'heldout_rows' (of the pool)")
        return self


Data = Annotated[SyntheticData | ExtractionData | RecordsData, Field(discriminator="source")]


class MethodStop(Section):
    """A stopping rule of one method; what is left out is as in the sweep's `stop`."""

    rule: Literal["and", "or"] | None = None
    """As stop.rule."""
    ma: Fraction | None = None
    """As stop.ma."""
    el: Fraction | None = None
    """As stop.el."""


class MethodConfig(Section):
    """One method and its cells: every alpha with every beta, or the listed [alpha, beta] cells."""

    name: Name = "icu"
    """icu, kumpr, kl, llmu, po, dpo, npo, original, or the name of an installed plug-in."""
    label: Name | None = None
    """Shown in tables in place of the name, for example 'gradient-ascent'."""
    alpha: Weight | tuple[Weight, ...] = 0.5
    """Weight of learning the analogous texts (equation 3), one or several."""
    beta: Weight | tuple[Weight, ...] = 1.0
    """Weight of the divergence to the original model (equation 4), one or several."""
    cells: tuple[tuple[Weight, Weight], ...] | None = None
    """Pairs [alpha, beta] in place of the full grid of `alpha` and `beta`."""
    settings: dict[str, Setting] = {}
    """What this method alone understands, for example {"beta_dpo": 0.1}."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of the models to run it on; default: all that are trained."""
    stop: MethodStop = MethodStop()
    """Where this method ends by another rule than the sweep's `stop`, as the paper's baselines did."""

    @model_validator(mode="after")
    def _one_grid(self) -> MethodConfig:
        if self.cells is not None and self.model_fields_set & {"alpha", "beta"}:
            raise ValueError("give either 'cells' or 'alpha' and 'beta': beside cells they would count for nothing")
        return self

    def grid(self) -> tuple[tuple[float, float], ...]:
        """The (alpha, beta) cells in their written order."""
        if self.cells is not None:
            return self.cells
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        betas = self.beta if isinstance(self.beta, tuple) else (self.beta,)
        return tuple((a, b) for a in alphas for b in betas)


class TokensConfig(Section):
    """How source rows become rows of a model's vocabulary (spec: re-tokenisation)."""

    retokenize: Literal["auto", "always"] = "auto"
    """auto: rows of GPT-2 tokens go as they are to a model with GPT-2's tokenizer; always: decoded and encoded again,
    as in the authors' code."""
    cleanup: bool = False
    """Remove spaces before punctuation when rows are decoded, as transformers did before 4.45."""
    alignment: Literal["fixed", "reference"] = "fixed"
    """reference: labels as in the authors' code, two tokens ahead for tokenizers that begin with BOS; fixed: one
    ahead."""
    columns_of: Literal["auto", "source", "model"] = "auto"
    """Whose tokens the columns count: the source's (GPT-2), or the model's own; auto: the model's own for stand-ins."""


class PairsConfig(Section):
    """Analogous data (section IV-C2, V-D): the nearest neighbour of each target in the pool."""

    pool: Literal["remaining"] = "remaining"
    """Where pairs are sought: among all rows that are not targets of the sample."""
    metric: Literal["cosine"] = "cosine"
    """Similarity of embeddings."""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id, folder, or 'bundled' for the copy of all-MiniLM-L6-v2 that is installed as a package."""
    max_ngram_overlap: Fraction | None = None
    """Refuse neighbours sharing more than this fraction of the target's 10-grams (None: keep all, as the authors)."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 10
    """Nearest neighbours looked at for each target; the best that is allowed is taken."""
    index: Literal["exact", "approximate"] = "exact"
    """approximate: faiss's inverted file, for thousands of targets and a pool of millions; it misses some neighbours.
    Exact takes 8 s of one core for 1,000 targets and a million texts (benchmarks/index.py)."""
    shards: Count | None = None
    """Parts into which the pool is cut for search; default: by its size."""
    actors: Count = 1
    """Ray actors that embed texts."""
    batch_size: Count = 64
    """Texts embedded at one time."""


class LossConfig(Section):
    """Which tokens are scored and how they are averaged (equations 1, 3, 4)."""

    span: Literal["all", "prefix_suffix", "suffix"] = "all"
    """Which tokens of a row are scored: all, as in the authors' code; prefix and suffix, as in the paper; the suffix
    alone."""
    reduction: Literal["token_mean", "sum", "seq_mean"] = "token_mean"
    """Mean over the tokens of a batch, as in the authors' code; sum, as printed in the paper; or mean of the rows'
    means."""
    kl: Literal["kl", "reference_ce"] = "kl"
    """kl: equation (4). reference_ce: the authors' cross-entropy, which has the same gradient and another value."""
    kl_positions: Literal["all", "span"] = "all"
    """Where the divergence is measured: at all tokens of a pair, or at those of `span`."""
    chunk: Count = 256
    """Tokens whose vocabulary-wide scores exist at one time."""
    joint_forward: bool = True
    """Targets and pairs go through the model together; two forwards give the same numbers."""


class KlConfig(Section):
    """How the original model enters equation (4)."""

    cache: Literal["hidden", "probs", "recompute"] = "hidden"
    """What is kept of the original model: its last hidden states; its probabilities, as in the authors' code; or
    nothing, and it is run again."""


class OptimConfig(Section):
    """Adam as in the authors' code: no weight decay, no schedule, no clipping."""

    lr: Positive = 5e-6
    """Learning rate."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.98)
    """Decay of Adam's two moments."""
    eps: Positive = 1e-8
    """Added to Adam's denominator."""


class TrainConfig(Section):
    """How samples become batches."""

    batch_size: Count = 8
    """Targets of one step, over all workers."""
    empty_batch: Literal["skip", "momentum"] = "skip"
    """What happens at a batch of which every target is forgotten: no step, or one by Adam's momentum alone, as in the
    authors' code."""
    batching: Literal["slots", "repack"] = "slots"
    """slots: forgotten targets keep their place in the batches and count for nothing; repack: batches are made of the
    others alone."""


class FilterConfig(Section):
    """Iterative unlearning refinement (section IV-D): which samples count as forgotten."""

    rule: Literal["or", "and"] = "or"
    """Whether low BERTScore or low BLEU is enough to be forgotten, as in the authors' code, or both are needed, as the
    paper says."""
    sticky: bool = False
    """Whether a forgotten target stays so; without, it is judged again after every epoch."""
    at_start: bool = True
    """Judge before the first epoch too."""
    prompt: Literal["prefix", "full"] = "prefix"
    """What the model is given to go on from: the prefix alone, or all that stands before the suffix."""
    bertscore: Fraction = 0.3
    """BERTScore F1 below which a text counts as forgotten."""
    bleu: Fraction = 0.01
    """BLEU below which a text counts as forgotten; 0.01 asks for four words in a row that are right."""
    encoder: str = "google-bert/bert-base-uncased"
    """BERT encoder of BERTScore: hub id, folder, or 'bundled'."""
    encoder_layer: Count | None = 9
    """Its layer whose vectors are compared; null: its last."""
    beams: Count = 2
    """Beams of the search for what the model says."""
    strip_special: bool = True
    """Leave end-of-text marks out of what is compared."""
    batch_size: Count = 128
    """Prompts answered at one time."""


class GenerateConfig(Section):
    """Whether generation is told which tokens are padding."""

    mask: bool = True
    """Give generation the attention mask; the authors' code does not, and padding is then read as text."""


class ElConfig(Section):
    """Extraction likelihood."""

    ngram: Count = 10
    """n of EL's n-grams of tokens."""
    start: Annotated[int, Field(ge=1)] | None = None
    """First prefix length; default: the suffix's start (150), the authors' choice; 1 is Jang et al.'s."""
    denominator: Literal["label", "generation"] = "label"
    """By whose number of n-grams the overlap is divided: the true text's, as in the authors' code, or the generation's,
    as in the paper."""
    batch_cut: Count | None = None
    """Reproduce generate()'s whole-batch end-of-text cut for batches of this size (the authors': 8)."""


class EvalConfig(Section):
    """How the probe runs."""

    span: Literal["all", "prefix_suffix"] = "all"
    """Which tokens MA counts: all, as in the authors' code, or prefix and suffix."""
    chunk: Count = 64
    """Sequences whose key/value rows are held at one time."""
    el: Literal["always", "decision"] = "always"
    """'decision': EL is decoded only where it can change the stopping decision, and at the end."""
    heldout: Literal["ends", "epochs"] = "ends"
    """When perplexity on held-out rows is measured: before and after, or after every epoch."""


class StopConfig(Section):
    """When a trial ends (sections IV-D, V-D)."""

    rule: Literal["and", "or"] = "and"
    """Whether MA and EL must both be below their thresholds, or one."""
    ma: Fraction = 0.5994
    """Memorisation accuracy below which a sample counts as forgotten."""
    el: Fraction = 0.0499
    """Extraction likelihood below which a sample counts as forgotten."""
    on_empty: bool = True
    """End also when the filter has left no target to unlearn."""
    max_epochs: Count = 50
    """Epochs after which a trial ends as not forgotten; the authors' code has no limit."""


class TrackingConfig(Section):
    """MLflow; the server's address comes from MLFLOW_TRACKING_URI when that is set."""

    enabled: bool = True
    """Whether runs are sent to MLflow."""
    uri: str | None = None
    """Address of the server, or sqlite:///FILE; default: a database beside the results."""
    experiment: str | None = None
    """Name of the MLflow experiment; default: the sweep's name."""


class JudgeConfig(Section):
    """The GPT judge: an OpenAI-compatible endpoint, how fast it may be asked, and what it costs (icu-ray judge).

    The key is no part of it: `api_key_env` names the environment variable that holds it.
    """

    base_url: str = "https://api.openai.com/v1"
    """Address of the API."""
    model: Annotated[str, Field(min_length=1)] = "gpt-4-turbo"
    """Name of the judging model there."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = "OPENAI_API_KEY"
    """None: the endpoint wants no key."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """None: the endpoint's own sampling, as in the paper."""
    prompt_file: str | None = None
    """A text file in place of the built-in instruction; it must ask for the last line 'Final score: X'."""
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests under way at one time."""
    requests_per_minute: Positive | None = None
    """Most requests of a minute; default: no limit of ours."""
    tokens_per_minute: Positive | None = None
    """Most tokens of a minute, asked and answered; default: no limit of ours."""
    usd_per_million_input: Weight | None = None
    """Price of what is asked, for the estimate."""
    usd_per_million_output: Weight | None = None
    """Price of what is answered, for the estimate."""
    reply_tokens: Count = 200
    """Length of an answer that the cost estimate and the token rate reckon with before it is known."""
    timeout_s: Positive = 120.0
    """Seconds to wait for an answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Times a request is sent again after 429, 5xx, a cut connection or no answer in time."""
    reasks: Annotated[int, Field(ge=0, le=10)] = 2
    """Times a row is asked again whose answer holds no valid score."""

    @model_validator(mode="after")
    def _usable(self) -> JudgeConfig:
        # The address is written to results and messages: nothing secret may be in it. It is not repeated here either.
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", self.base_url):
            raise ValueError("base_url must be http(s)://host[:port]/path without user, password, query or fragment")
        if (self.usd_per_million_input is None) != (self.usd_per_million_output is None):
            raise ValueError("give both usd_per_million_input and usd_per_million_output, or neither")
        return self


class EvaluationConfig(Section):
    """What every model of the sweep is evaluated on, the original ones too; by default nothing."""

    suites: tuple[Literal["lm_eval", "icu", "quick"], ...] = ()
    """lm_eval: nine tasks as the harness defines them. icu: as the authors ask them, dialogues and perplexities. quick:
    on held-out records of synthetic data."""
    tasks: tuple[str, ...] = ()
    """Further tasks by name: of a suite, or any of lm-evaluation-harness."""
    mirror: str | None = None
    """Folder written by `icu-ray data mirror`; default: the hub."""
    limit: Count | None = None
    """Documents of each task; default: all."""
    dialogue_context: Literal["end", "start"] = "end"
    """Which part of a dialogue of more than 512 tokens the model reads; the authors' code cuts its end."""

    @property
    def asked(self) -> bool:
        """Whether there is anything to evaluate."""
        return bool(self.suites or self.tasks)


class RangeConfig(Section):
    """Values from low to high; log: drawn evenly by their logarithm."""

    low: Weight
    """Smallest value."""
    high: Weight
    """Largest value."""
    log: bool = False
    """Draw evenly by the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeConfig:
        if not self.low < self.high:
            raise ValueError("must satisfy low < high")
        if self.log and self.low <= 0:
            raise ValueError("log needs low > 0")
        return self


class SearchConfig(Section):
    """In place of a grid: one model, one sample, one method, whose values a Tune search chooses trial by trial."""

    space: dict[Literal["alpha", "beta", "lr"], RangeConfig]
    """Ranges of alpha, beta and lr; what is left out keeps its value."""
    trials: Count = 20
    """All together, with those of earlier runs of the same command."""
    algorithm: str = "optuna"
    """optuna, random, or another of Ray Tune's searchers by its name there (its package must be installed)."""
    objective: Literal["forget_cheaply"] = "forget_cheaply"
    """forget_cheaply, to be maximised: minus ten times what MA and EL10 are above their thresholds, minus the logarithm
    of the ratio of held-out perplexity. No normalised score: those depend on the other trials."""
    stop_early: bool = True
    """End trials that fall behind at an epoch (ASHA)."""
    grace_epochs: Count = 3
    """Epochs that every trial is given before it can be ended early."""
    seed: Seed = 0
    """Of the searcher."""


class NodeTypeConfig(Section):
    """A kind of node that the cluster's autoscaler may add: what one holds, and how many there may be."""

    name: Name
    """What messages call it."""
    cpus: Annotated[float, Field(ge=0)]
    """CPU cores of a node."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a node."""
    most: Count
    """How many there may be at one time."""


class ResourcesConfig(Section):
    """What the sweep may use of the cluster; no part of any trial's identity."""

    max_workers: Count | None = None
    """Training workers of all running trials together; default: what the cluster has."""
    max_concurrent: Count | None = None
    """Trials that run at one time; default: as many as fit."""
    node_types: tuple[NodeTypeConfig, ...] = ()
    """What an autoscaler may add, where Ray itself does not tell (Ray 2.60 never does): without it a trial that does
    not fit the nodes which are up is refused."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Times a trial is continued from its checkpoint after a failure of a worker or node."""
    epoch_minutes: Positive | None = None
    """A trial of which no epoch ends for so long hangs: its workers are replaced, at most `retries` times."""
    keep_models: bool = True
    """Whether unlearned models are kept after their trial and evaluation."""
    max_hours: Positive | None = None
    """GPU hours (hours of CPU cores in a sweep without GPUs), ended and running trials together, after which no
    further trial starts."""
    max_cost: Positive | None = None
    """The same in money; needs `prices`."""
    prices: str | None = None
    """YAML file with what an hour costs (keys: see PricesConfig), for the plan's estimate and max_cost."""
    spot: bool = False
    """Whether max_cost counts spot prices."""

    @model_validator(mode="after")
    def _priced(self) -> ResourcesConfig:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs 'prices', a file that says what an hour costs")
        return self


class PricesConfig(Section):
    """A price file: what an hour of one GPU (with its share of the machine) costs, and of one CPU core without one."""

    currency: str = "USD"
    """Shown beside sums."""
    gpu_hour: Annotated[float, Field(ge=0)]
    """Of one GPU, on demand."""
    spot_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """The same on a spot machine."""
    cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one CPU core in a sweep without GPUs."""
    spot_cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """The same on a spot machine."""


class SweepConfig(Section):
    """A whole sweep: models x samples x methods' cells, and how each trial is run and judged."""

    name: Name
    """Of the sweep: its folder in the storage, its MLflow experiment."""
    storage: str = "./runs"
    """Where everything is written: a folder, or a URL such as s3://bucket/runs."""
    fidelity: Literal["default", "reference", "paper"] = "default"
    """Whose side is taken where paper and authors' code differ; sets several keys together, each of which can be given
    by itself."""
    seed: Seed = 42
    """Of what is random in a trial: the order of batches, dropout."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """The models of the grid."""
    data: Data
    """The texts: synthetic, the extraction benchmark, or your own records."""
    samples: Annotated[tuple[Annotated[int, Field(ge=0, le=10**9)], ...], Field(min_length=1)] = (0,)
    """Numbers of the forget samples; each is unlearned in its own trials."""
    columns: ColumnsConfig = ColumnsConfig()
    """Layout of a row in tokens."""
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (MethodConfig(),)
    """The methods of the grid with their (alpha, beta) cells."""
    tokens: TokensConfig = TokensConfig()
    """How rows become tokens of a model."""
    pairs: PairsConfig = PairsConfig()
    """How analogous texts are found."""
    loss: LossConfig = LossConfig()
    """What the losses count."""
    kl: KlConfig = KlConfig()
    """How the original model is kept for equation (4)."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    train: TrainConfig = TrainConfig()
    """Batches."""
    filter: FilterConfig = FilterConfig()
    """Iterative refinement: which targets are still to be unlearned."""
    generate: GenerateConfig = GenerateConfig()
    """Generation in filter and probe."""
    el: ElConfig = ElConfig()
    """Extraction likelihood."""
    eval: EvalConfig = EvalConfig()
    """The probe: MA, EL and held-out perplexity."""
    stop: StopConfig = StopConfig()
    """When a trial ends."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What the models can still do."""
    search: SearchConfig | None = None
    """A search in place of the grid."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    resources: ResourcesConfig = ResourcesConfig()
    """Workers, retries, budget."""

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        for what, values in (("models", [m.name for m in self.models]), ("samples", [str(s) for s in self.samples])):
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{what}: {', '.join(twice)} stands there twice")
        if self.el.start is not None and self.el.start + self.el.ngram > self.columns.length:
            raise ValueError(
                f"el.start={self.el.start} leaves no {self.el.ngram}-gram before column {self.columns.length}"
            )
        suffix_length = self.columns.length - self.columns.suffix_start
        if suffix_length < self.el.ngram:
            raise ValueError(f"el.ngram={self.el.ngram} does not fit a suffix of {suffix_length} tokens")
        if self.search is not None:
            self._check_search(self.search)
        quick = [name for name in (*self.evaluation.suites, *self.evaluation.tasks) if name.startswith("quick")]
        if quick and not isinstance(self.data, SyntheticData):
            raise ValueError(f"evaluation: {quick[0]} asks about held-out records of data.source=synthetic")
        for model in self.models:
            batch = model.batch_size or self.train.batch_size
            if batch % model.workers:
                raise ValueError(
                    f"model {model.name}: global batch {batch} is not a multiple of {model.workers} workers"
                )
            micro = model.micro_batch
            if micro is not None and (batch // model.workers) % micro:
                raise ValueError(
                    f"model {model.name}: micro_batch {micro} does not divide the {batch // model.workers} samples of "
                    "a worker"
                )
        return self

    def _check_search(self, search: SearchConfig) -> None:
        counts = {"models": len(self.models), "samples": len(self.samples), "methods": len(self.methods)}
        for key, count in counts.items():
            if count != 1:
                raise ValueError(
                    f"search: needs exactly one of {key}, found {count}; search the others in their own sweeps"
                )
        method = self.methods[0]
        if method.cells is not None or isinstance(method.alpha, tuple) or isinstance(method.beta, tuple):
            raise ValueError(
                "search: several cells of methods.0 beside a search would count for nothing; give one, or none"
            )
        if not search.space:
            raise ValueError("search.space: give ranges of alpha, beta or lr")
        if search.stop_early and self.eval.heldout != "epochs":
            raise ValueError("search.stop_early compares trials at every epoch: set eval.heldout to 'epochs'")
