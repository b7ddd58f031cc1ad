"""What a sweep and its trials leave behind, as values: scores, epochs, samples, generations, results.

icu_ray/storage/trial_files.py says where they lie and reads and writes them. MA and EL are fractions; numbers that are
not finite are written as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from icu_ray.storage.el_names import NamedByN, by_field
from icu_ray.storage.processes import is_gone
from icu_ray.storage.thresholds import Thresholds

Status = Literal["finished", "failed", "not_forgotten"]

SweepState = Literal["running", "finished", "failed", "interrupted"]

Setting: TypeAlias = "float | int | str | bool"

UnixSeconds = Annotated[float, Field(ge=0, lt=1e11)]
BEAT_SECONDS = 30.0
SILENT_SECONDS = 150.0
"""A driver that has not been heard of for this long is taken for dead."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Scores(NamedByN):
    """A model measured on a forget sample: means over its rows; None where not measured or not finite.

    A row that cannot be measured is in no mean; el_unmeasured: how many are too short for EL.
    heldout_texts: how many texts nobody asked to forget were measured, as the forget sample is; *_heldout are their
    means, *_heldout_spread the standard deviations between them. ngram: n of EL, by which files call el: el10.
    """

    __pydantic_config__ = _STRICT

    ma: float | None
    el: float | None
    forget_loss: float | None
    bertscore_f1: float | None
    bleu: float | None
    entropy: float | None
    distinct: float | None = None
    ppl_heldout: float | None = None
    el_unmeasured: int = 0
    ma_heldout: float | None = None
    el_heldout: float | None = None
    loss_heldout: float | None = None
    distinct_heldout: float | None = None
    ma_heldout_spread: float | None = None
    el_heldout_spread: float | None = None
    heldout_texts: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_file(cls, value: Any) -> Any:
        return by_field(value)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a trial. epoch 0 is the original model; `active` counts targets not yet forgotten after it.

    loss: each term of equation (6) as a mean over the epoch's steps. seconds: train, validate.
    notes: what happened besides, such as an optimizer that had to start anew. skipped_steps: how many of `steps`
    changed nothing, because a gradient was not finite. came_back: the part of the targets that a cheap attack brought
    back after it, 0..1; None, and in no file, where that was not asked.
    """

    __pydantic_config__ = _STRICT

    epoch: int
    active: int
    scores: Scores
    loss: Mapping[str, float | None] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    notes: tuple[str, ...] = ()
    skipped_steps: int = 0
    came_back: float | None = None


@dataclass(frozen=True)
class SampleRecord(NamedByN):
    """One target with what the model said after its prompt before and after unlearning, and its own scores.

    ngram: n of EL, by which files call el_before and el_after.
    """

    __pydantic_config__ = _STRICT

    id: str
    prompt: str
    reference: str
    before: str
    after: str
    ma_before: float | None
    ma_after: float | None
    bertscore_after: float | None
    bleu_after: float | None
    forgotten: bool
    el_before: float | None = None
    el_after: float | None = None
    bertscore_before: float | None = None
    bleu_before: float | None = None
    pair_id: str | None = None
    """None: without a pair, or with another one in each epoch (pairs.resample=epoch)."""
    pair_overlap: float | None = None
    """Share of the target's 10-grams that its pair holds too; None: not measured, or another one in each epoch."""
    cut_tokens: int | None = None
    """Tokens at the text's end that were neither forgotten nor measured, for want of room; None: not known."""
    loss_before: float | None = None
    """Mean negative log-likelihood of a token (of the completion alone, where there is a prompt); None: not known."""
    loss_after: float | None = None
    windows: int = 1
    """Overlapping rows in which the text was forgotten and measured (rows.long=windows)."""

    @model_validator(mode="before")
    @classmethod
    def _of_file(cls, value: Any) -> Any:
        return by_field(value)


@dataclass(frozen=True)
class Generations:
    """What the model said after each target's prompt (equation 5's candidate) after an epoch, by target id."""

    __pydantic_config__ = _STRICT

    epoch: int
    said: Mapping[str, str]


@dataclass(frozen=True)
class Provenance:
    """What a result was made from. data, model: hashes of all rows of the sweep and of the original model's files."""

    __pydantic_config__ = _STRICT

    version: str
    commit: str
    dirty: bool
    data: str = ""
    model: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config of the sweep."""


@dataclass(frozen=True)
class TrialSpec:
    """A trial as it was planned; `started` (Unix seconds) and `provenance` once it has been started.

    method: the label of tables. settings: nested plain values that decide the result beside the hyperparameters.
    """

    __pydantic_config__ = _STRICT

    trial_id: str
    name: str
    model: str
    method: str
    sample: int
    hyperparameters: Mapping[str, Setting]
    max_epochs: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    started: UnixSeconds | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True)
class TrialResult:
    """result.json. ended: Unix seconds.

    seconds: train and validate, of all epochs; start, load, engine, checkpoint and save, of the last attempt; total,
    their sum. Results of earlier versions lack engine and checkpoint.
    """

    __pydantic_config__ = _STRICT

    trial_id: str
    name: str
    model: str
    method: str
    sample: int
    hyperparameters: Mapping[str, Setting]
    status: Status
    reason: str
    epochs: int
    before: Scores | None
    after: Scores | None
    seconds: Mapping[str, float]
    provenance: Provenance | None = None
    ended: UnixSeconds | None = None
    thresholds: Thresholds | None = None
    """None in results of earlier versions, and where the trial failed."""
    model_hash: str = ""
    """SHA-256 of the unlearned model's files, '' where it was not kept."""
    kept_epoch: int | None = None
    """The epoch whose model this is, where it is not the last one's (stop.keep=best)."""


ENDED_EARLY = "ended early by the search: it fell behind the other trials"
"""Reason of a trial that a search's scheduler ended; it leaves no model."""

RETRAINED_WITHOUT = "the gold standard: trained without the texts to forget"
"""Reason of the trial that is the gold standard (models.N.retrained)."""

NOT_TRAINED = "not trained"
"""Reason of a trial without an epoch: the model as it is."""

NOTHING_UNLEARNED = (NOT_TRAINED, RETRAINED_WITHOUT)
"""Reasons of trials that measure a model and unlearn nothing: they are neither a success of a method nor a failure."""


@dataclass(frozen=True)
class TrialEvaluation:
    """evaluation.json. before, after: metrics by full name (cls/hellaswag_acc), fractions and perplexities.

    tasks: hash of what decides each task. models: hashes of the models before and after. errors: by task.
    documents: SHA-256 of documents.parquet; "" where there is none, or an earlier version wrote it.
    """

    __pydantic_config__ = _STRICT

    tasks: Mapping[str, str]
    models: tuple[str, str]
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    errors: Mapping[str, str] = field(default_factory=dict)
    documents: str = ""


@dataclass(frozen=True)
class Sweep:
    """sweep.json. id: made once for this folder, so that an MLflow run is found again. trials: in the plan's order.

    subjects: whose data a target is, by its id, where the forget file says so.
    """

    __pydantic_config__ = _STRICT

    id: str
    name: str
    started: UnixSeconds
    config: Mapping[str, Any]
    trials: tuple[TrialSpec, ...]
    provenance: Provenance
    subjects: Mapping[str, str] = field(default_factory=dict)

    def tracking(self, key: str) -> str | None:
        """A text of the config's section 'tracking', None where it has none."""
        section = self.config.get("tracking")
        value = section.get(key) if isinstance(section, Mapping) else None
        return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class Beat:
    """beat.json: the driver's last sign of life (Unix seconds), the state it said to be in, and its process.

    under_way: the steps of the shared work that it was at, each with its stage: 'pairs: embedding, 34 %'.
    """

    __pydantic_config__ = _STRICT

    time: UnixSeconds
    state: SweepState
    process: str = ""
    under_way: tuple[str, ...] = ()

    def state_at(self, now: float) -> SweepState:
        """`state`, but a driver that says 'running' and has been silent for long, or is gone from here, was killed."""
        killed = abs(now - self.time) > SILENT_SECONDS or is_gone(self.process)
        return "interrupted" if self.state == "running" and killed else self.state


def finite(value: Any) -> Any:
    """`value` with numbers that JSON cannot say (NaN, infinities) as None, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def to_json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON of plain values; not-finite numbers become null."""
    text = json.dumps(finite(value), ensure_ascii=False, indent=indent, allow_nan=False)
    # Half of a surrogate pair, which a broken tokenizer may emit, has no UTF-8: it is kept as a question mark.
    return (text + "\n").encode("utf-8", errors="replace")
