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
    family: Literal["gpt_neo", "llama"] = "gpt_neo"
    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 2048
    max_epochs: Count = 40
    learning_rate: Positive = 2e-3
    batch_size: Count = 16
    target_repeats: Count = 4
    """How often each forget row stands in one epoch of the training corpus, as duplicated text does on the web."""
    min_memorization: Fraction = 0.9
    """Training goes on until MA on every forget sample reaches this (and EL10 reaches min_extraction)."""
    min_extraction: Fraction = 0.5
    seed: Seed = 0


class ModelConfig(Section):
    """One causal LM of the grid: a hub id, a local folder, or a stand-in built here."""

    name: Name
    source: str | None = None
    """Hub id or local folder."""
    standin: StandinConfig | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    workers: Count = 1
    gpus_per_worker: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Default: 0 for stand-ins, 1 otherwise. Never part of a trial's identity."""
    cpus_per_worker: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Annotated[int, Field(ge=0, le=2)] = 0
    """ZeRO stage; at 3 the weights are spread over workers, which saving does not gather yet."""
    offload_optimizer: bool = False
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
    prefix_start: Annotated[int, Field(ge=0)] = 100
    suffix_start: Annotated[int, Field(ge=1)] = 150

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
    records: Annotated[int, Field(ge=8, le=1_000_000)] = 384
    """Rows of the whole corpus; the forget samples are drawn from it, the rest is the pool."""
    sample_size: Count = 32
    heldout: Count = 64
    """Further rows that no stand-in ever sees, for held-out perplexity."""
    seed: Seed = 0


class ExtractionData(Section):
    """The LM extraction benchmark: (15000, 200) GPT-2 token rows of the Pile."""

    source: Literal["extraction"]
    folder: str = "data/lm_extraction"
    tokens: str = "train_dataset.npy"
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


class RecordsData(Section):
    """A user's own texts: .jsonl, .csv or .parquet with a text column."""

    source: Literal["records"]
    forget: str
    """File of the texts to forget; may contain {sample}."""
    pool: str | None = None
    """File of the remaining texts, from which pairs are taken; may be left out for methods without pairs."""
    heldout: str | None = None
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the pool (its last) that are kept out of it instead, where there is no file of held-out texts."""
    text_column: str = "text"
    id_column: str | None = None

    @model_validator(mode="after")
    def _one_heldout(self) -> RecordsData:
        if self.heldout is not None and self.heldout_rows:
            raise ValueError("give either 'heldout' (a file) or 'heldout_rows' (of the pool)")
        return self


Data = Annotated[SyntheticData | ExtractionData | RecordsData, Field(discriminator="source")]


class MethodStop(Section):
    """A stopping rule of one method; what is left out is as in the sweep's `stop`."""

    rule: Literal["and", "or"] | None = None
    ma: Fraction | None = None
    el: Fraction | None = None


class MethodConfig(Section):
    """One method and its cells: every alpha with every beta, or the listed [alpha, beta] cells."""

    name: Name = "icu"
    label: Name | None = None
    """Shown in tables in place of the name, for example 'gradient-ascent'."""
    alpha: Weight | tuple[Weight, ...] = 0.5
    beta: Weight | tuple[Weight, ...] = 1.0
    cells: tuple[tuple[Weight, Weight], ...] | None = None
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
    cleanup: bool = False
    alignment: Literal["fixed", "reference"] = "fixed"
    columns_of: Literal["auto", "source", "model"] = "auto"
    """Whose tokens the columns count: the source's (GPT-2), or the model's own; auto: the model's own for stand-ins."""


class PairsConfig(Section):
    """Analogous data (section IV-C2, V-D): the nearest neighbour of each target in the pool."""

    pool: Literal["remaining"] = "remaining"
    metric: Literal["cosine"] = "cosine"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id, folder, or 'bundled' for the copy of all-MiniLM-L6-v2 that is installed as a package."""
    max_ngram_overlap: Fraction | None = None
    """Refuse neighbours sharing more than this fraction of the target's 10-grams (None: keep all, as the authors)."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 10
    index: Literal["exact", "approximate"] = "exact"
    """approximate: faiss's inverted file, for thousands of targets and a pool of millions; it misses some neighbours.
    Exact takes 8 s of one core for 1,000 targets and a million texts (benchmarks/index.py)."""
    shards: Count | None = None
    actors: Count = 1
    batch_size: Count = 64


class LossConfig(Section):
    """Which tokens are scored and how they are averaged (equations 1, 3, 4)."""

    span: Literal["all", "prefix_suffix", "suffix"] = "all"
    reduction: Literal["token_mean", "sum", "seq_mean"] = "token_mean"
    kl: Literal["kl", "reference_ce"] = "kl"
    kl_positions: Literal["all", "span"] = "all"
    chunk: Count = 256
    """Tokens whose vocabulary-wide scores exist at one time."""
    joint_forward: bool = True
    """Targets and pairs go through the model together; two forwards give the same numbers."""


class KlConfig(Section):
    """How the original model enters equation (4)."""

    cache: Literal["hidden", "probs", "recompute"] = "hidden"


class OptimConfig(Section):
    """Adam as in the authors' code: no weight decay, no schedule, no clipping."""

    lr: Positive = 5e-6
    betas: tuple[Momentum, Momentum] = (0.9, 0.98)
    eps: Positive = 1e-8


class TrainConfig(Section):
    """How samples become batches."""

    batch_size: Count = 8
    empty_batch: Literal["skip", "momentum"] = "skip"
    batching: Literal["slots", "repack"] = "slots"


class FilterConfig(Section):
    """Iterative unlearning refinement (section IV-D): which samples count as forgotten."""

    rule: Literal["or", "and"] = "or"
    sticky: bool = False
    at_start: bool = True
    prompt: Literal["prefix", "full"] = "prefix"
    bertscore: Fraction = 0.3
    bleu: Fraction = 0.01
    encoder: str = "google-bert/bert-base-uncased"
    """BERT encoder of BERTScore: hub id, folder, or 'bundled'."""
    encoder_layer: Count | None = 9
    beams: Count = 2
    strip_special: bool = True
    batch_size: Count = 128


class GenerateConfig(Section):
    """Whether generation is told which tokens are padding."""

    mask: bool = True


class ElConfig(Section):
    """Extraction likelihood."""

    ngram: Count = 10
    start: Annotated[int, Field(ge=1)] | None = None
    """First prefix length; default: the suffix's start (150), the authors' choice; 1 is Jang et al.'s."""
    denominator: Literal["label", "generation"] = "label"
    batch_cut: Count | None = None
    """Reproduce generate()'s whole-batch end-of-text cut for batches of this size (the authors': 8)."""


class EvalConfig(Section):
    """How the probe runs."""

    span: Literal["all", "prefix_suffix"] = "all"
    chunk: Count = 64
    """Sequences whose key/value rows are held at one time."""
    el: Literal["always", "decision"] = "always"
    """'decision': EL is decoded only where it can change the stopping decision, and at the end."""
    heldout: Literal["ends", "epochs"] = "ends"
    """When perplexity on held-out rows is measured: before and after, or after every epoch."""


class StopConfig(Section):
    """When a trial ends (sections IV-D, V-D)."""

    rule: Literal["and", "or"] = "and"
    ma: Fraction = 0.5994
    el: Fraction = 0.0499
    on_empty: bool = True
    max_epochs: Count = 50


class TrackingConfig(Section):
    """MLflow; the server's address comes from MLFLOW_TRACKING_URI when that is set."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


class JudgeConfig(Section):
    """The GPT judge: an OpenAI-compatible endpoint, how fast it may be asked, and what it costs (icu-ray judge).

    The key is no part of it: `api_key_env` names the environment variable that holds it.
    """

    base_url: str = "https://api.openai.com/v1"
    model: Annotated[str, Field(min_length=1)] = "gpt-4-turbo"
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = "OPENAI_API_KEY"
    """None: the endpoint wants no key."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """None: the endpoint's own sampling, as in the paper."""
    prompt_file: str | None = None
    """A text file in place of the built-in instruction; it must ask for the last line 'Final score: X'."""
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    usd_per_million_input: Weight | None = None
    usd_per_million_output: Weight | None = None
    reply_tokens: Count = 200
    """Length of an answer that the cost estimate and the token rate reckon with before it is known."""
    timeout_s: Positive = 120.0
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
    high: Weight
    log: bool = False

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
    seed: Seed = 0


class NodeTypeConfig(Section):
    """A kind of node that the cluster's autoscaler may add: what one holds, and how many there may be."""

    name: Name
    cpus: Annotated[float, Field(ge=0)]
    gpus: Annotated[float, Field(ge=0)] = 0.0
    most: Count


class ResourcesConfig(Section):
    """What the sweep may use of the cluster; no part of any trial's identity."""

    max_workers: Count | None = None
    """Training workers of all running trials together; default: what the cluster has."""
    max_concurrent: Count | None = None
    node_types: tuple[NodeTypeConfig, ...] = ()
    """What an autoscaler may add, where Ray itself does not tell (Ray 2.60 never does): without it a trial that does
    not fit the nodes which are up is refused."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Times a trial is continued from its checkpoint after a failure of a worker or node."""
    epoch_minutes: Positive | None = None
    """A trial of which no epoch ends for so long hangs: its workers are replaced, at most `retries` times."""
    keep_models: bool = True
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
    gpu_hour: Annotated[float, Field(ge=0)]
    spot_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    cpu_hour: Annotated[float, Field(ge=0)] | None = None
    spot_cpu_hour: Annotated[float, Field(ge=0)] | None = None


class SweepConfig(Section):
    """A whole sweep: models x samples x methods' cells, and how each trial is run and judged."""

    name: Name
    storage: str = "./runs"
    fidelity: Literal["default", "reference", "paper"] = "default"
    seed: Seed = 42
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    data: Data
    samples: Annotated[tuple[Annotated[int, Field(ge=0, le=10**9)], ...], Field(min_length=1)] = (0,)
    columns: ColumnsConfig = ColumnsConfig()
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (MethodConfig(),)
    tokens: TokensConfig = TokensConfig()
    pairs: PairsConfig = PairsConfig()
    loss: LossConfig = LossConfig()
    kl: KlConfig = KlConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    filter: FilterConfig = FilterConfig()
    generate: GenerateConfig = GenerateConfig()
    el: ElConfig = ElConfig()
    eval: EvalConfig = EvalConfig()
    stop: StopConfig = StopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig | None = None
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

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
