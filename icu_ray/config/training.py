"""From texts to steps: tokens, pairs, losses, optimizer, batches."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from icu_ray.config.section import Count, Fraction, Momentum, Place, Positive, Section, Seed, Weight


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
    positions: Literal["real", "padded"] = "real"
    """What positions count in rows that are padded on the left: only real tokens, as when the text was learnt; or
    padding too, as in the authors' code, where models with absolute positions see a short text at places where they
    have never seen it."""
    columns_of: Literal["auto", "source", "model"] = "auto"
    """Which tokens the columns count: the source's (GPT-2) or the model's own; auto: the model's own for stand-ins."""


class PairsConfig(Section):
    """Pairs: the text that goes with each target in training (the paper's analogous texts, sections IV-C2, V-D)."""

    by: Literal["nearest", "random", "given", "file"] = "nearest"
    """How each target gets its pair. nearest: the most similar text of the pool. random: a row of the pool, drawn
    uniformly for each target separately, so that two targets may get the same one. given (only with
    data.source=records): row i of the pool file belongs to row i of the forget file, or a column of the forget file
    holds it (data.pair_column). file: a file names it (pairs.file). Only nearest needs an encoder. A text in several
    windows has one pair, which goes with each of them."""
    resample: Literal["epoch", "never"] = "epoch"
    """With random: pairs are drawn again for each epoch, or once. They depend on the trial's seed, the epoch, the
    number of targets and the size of the pool, and on nothing else. All that the seeds can draw in `stop.max_epochs`
    epochs is known beforehand. What is kept of the original model (kl.cache) is made for these rows; the plan says its
    size."""
    file: Place | None = None
    """With file: a .jsonl, .json, .csv, .tsv or .parquet file with columns `target` and `pair`, which hold ids of the
    data (doc_ids of the extraction benchmark, record-7 of synthetic rows, ids of records). It names one pair of the
    pool for every target."""
    pool: Literal["remaining"] = "remaining"
    """Where pairs are sought: among all rows that are not targets of the sample."""
    metric: Literal["cosine"] = "cosine"
    """Similarity of embeddings."""
    encoder: Place = "sentence-transformers/all-MiniLM-L6-v2"
    """With nearest: hub id, folder, or 'bundled' for the copy of all-MiniLM-L6-v2 that is installed as a package."""
    max_ngram_overlap: Fraction | None = None
    """Refuse neighbours sharing more than this fraction of the target's 10-grams (None: keep all, as the authors). For
    your own texts 0.1 with `candidates: 50` is better: docs/method.md has what was measured."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 10
    """Nearest neighbours considered for each target; the best that is allowed is taken."""
    overlap_fallback: Literal["refuse", "least"] = "refuse"
    """Where all candidates share more than `max_ngram_overlap`: refuse the sweep, or take the one that shares least."""
    index: Literal["exact", "approximate"] = "exact"
    """approximate: faiss's inverted file, for thousands of targets and a pool of millions; it misses some neighbours.
    Exact takes 8 s of one core for 1,000 targets and a million texts (benchmarks/index.py)."""
    shards: Count | None = None
    """Parts into which the pool is cut for search; default: by its size."""
    actors: Count = 1
    """Ray actors that embed texts."""
    batch_size: Count = 64
    """Texts embedded at a time."""

    @model_validator(mode="after")
    def _fitting(self) -> PairsConfig:
        if self.resample == "never" and self.by != "random":
            raise ValueError(f"resample=never is for by=random; with by={self.by} pairs are never drawn")
        if self.max_ngram_overlap is not None and self.by != "nearest":
            raise ValueError(f"max_ngram_overlap chooses among nearest neighbours; with by={self.by} leave it out")
        if self.overlap_fallback == "least" and self.max_ngram_overlap is None:
            raise ValueError("overlap_fallback=least is for max_ngram_overlap; set that too, or leave both out")
        if self.file is not None and self.by != "file":
            raise ValueError(f"'file' names the pairs with by=file, found by={self.by}; leave out one of them")
        if self.by == "file" and self.file is None:
            raise ValueError("by=file needs 'file', a file with columns target and pair")
        return self


INSTRUCTION = (
    "Invent another answer to the question above. Keep the form and the length of the answer, and replace every fact "
    "in it by a different one that is made up. Write the new answer alone. New answer:"
)
_OF_GENERATION = ("repeats", "temperature", "max_new_tokens", "instruction", "seed")


class AnswersConfig(Section):
    """Second answers to the targets' prompts, for methods that teach them or prefer them to the true ones."""

    free_texts: ClassVar[frozenset[str]] = frozenset({"instruction"})
    sentences: Place | None = None
    """File of sentences of ignorance, one per line, for idkdpo and idknll; default: a built-in list. One is drawn for
    each target and epoch from the trial's seed."""
    alternates: Literal["given", "generated"] = "given"
    """Where alternates, which altpo reads, come from: a column of the forget file (data.alternates_column), or the
    model itself, which is asked to invent them before its trials begin."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 5
    """With generated: alternates for each target."""
    temperature: Positive = 1.0
    """With generated: the model's scores are divided by it before a token is sampled."""
    max_new_tokens: Count = 200
    """With generated: the most tokens of an alternate."""
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    """With generated: what the model is told after the prompt and the true answer: in a chat as the user's next turn,
    in plain rows as a separate paragraph."""
    seed: Seed = 42
    """With generated: seed of the sampling; each alternate is drawn from it and the target's id. All trials
    share them, whatever their own seeds."""

    @property
    def generation(self) -> dict[str, Any]:
        """What decides generated alternates beside model and rows."""
        return self.model_dump(mode="json", include=set(_OF_GENERATION))

    @model_validator(mode="after")
    def _fitting(self) -> AnswersConfig:
        if self.alternates == "given":
            for key in _OF_GENERATION:
                if getattr(self, key) != AnswersConfig.model_fields[key].default:
                    raise ValueError(f"'{key}' is for alternates=generated, found alternates=given; leave it out")
        if not self.instruction.strip():
            raise ValueError("instruction: is blank; expected what the model is to be told")
        return self


class LossConfig(Section):
    """Which tokens are scored and how they are averaged (equations 1, 3, 4)."""

    on: Literal["completion", "all"] = "completion"
    """What is scored of a row of prompt and completion: the completion and its end of text, or the prompt too. A plain
    text is scored whole."""
    span: Literal["all", "prefix_suffix", "suffix"] = "all"
    """Which tokens of a row are scored: all, as in the authors' code; prefix and suffix, as in the paper; only the
    suffix."""
    reduction: Literal["token_mean", "sum", "seq_mean"] = "token_mean"
    """Mean over the tokens of a batch, as in the authors' code; sum, as printed in the paper; or mean of the rows'
    means."""
    kl: Literal["kl", "reference_ce", "reverse"] = "kl"
    """kl: equation (4). reference_ce: the authors' cross-entropy, which has the same gradient and another value.
    reverse: the divergence of the model from the original, with the model's probabilities as weights."""
    kl_positions: Literal["all", "span", "padded"] = "all"
    """Where the divergence is measured: at all real tokens of a pair, with a prompt where the tokens of `on` are
    predicted; where those of `span` are; or at all and at its padding, as in the authors' code."""
    chunk: Count = 256
    """Tokens whose vocabulary-wide scores exist at one time."""
    joint_forward: bool = True
    """Targets and pairs go through the model together; two forwards give the same numbers."""


class KlConfig(Section):
    """How the original model enters equation (4)."""

    cache: Literal["hidden", "probs", "recompute"] = "hidden"
    """What is kept of the original model for the pairs: its last hidden states; its probabilities, as in the authors'
    code; or nothing but the rows themselves, and a frozen copy of it is run again at every step (recompute). That copy
    is the choice for pairs drawn from a large pool, whose states may fill a disk. Each worker holds a whole one in
    addition to the model, on its own device; with `zero_stage: 3` it is divided among the workers once it is loaded."""


class OptimConfig(Section):
    """Adam; by default as in the authors' code: no weight decay, no schedule, no clipping."""

    lr: Positive = 5e-6
    """Learning rate. With a schedule, the highest."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.98)
    """Decay of Adam's two moments."""
    eps: Positive = 1e-8
    """Added to Adam's denominator."""
    weight_decay: Weight = 0.0
    """AdamW's decoupled weight decay, of all weights that are trained but biases and norms, as in transformers; 0 is
    Adam."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up the learning rate stays, or falls to 0 at the end of the last of `stop.max_epochs` epochs (or
    of `stop.max_steps` steps)."""
    warmup_epochs: Weight = 0.0
    """Epochs in which the learning rate rises evenly, as in transformers: of n steps the first has none of it (only
    Adam's moments change), each next one 1/n more, and the step after them all. A part of an epoch is rounded down to
    whole steps."""
    clip: Positive | None = None
    """Largest norm of a step's gradient over all trained weights, to which a larger one is scaled down; default: as it
    is."""


class TrainConfig(Section):
    """How targets and their pairs become batches."""

    batch_size: Count = 8
    """Targets of one step, over all workers; each comes with its pair, so a step has as many rows of the pool."""
    anchor: Literal["forget", "retain"] = "forget"
    """What an epoch runs over. forget: the targets, each with its pair. retain (with pairs.by=random): all rows of
    the pool in a shuffled order, each with a target drawn uniformly from those not yet forgotten (of a text in
    windows each window counts as one), so that no batch is empty whatever `empty_batch` and `batching` say. What is
    kept of the original model (kl.cache) then covers the whole pool. A method without pairs runs over the targets all
    the same."""
    empty_batch: Literal["skip", "momentum"] = "skip"
    """What happens with a batch in which every target is forgotten: no step, or one by Adam's momentum alone, as in the
    authors' code."""
    batching: Literal["slots", "repack"] = "slots"
    """slots: forgotten targets keep their place in the batches and count for nothing; repack: batches are made of the
    others only."""
