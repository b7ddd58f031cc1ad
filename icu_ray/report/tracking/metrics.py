"""What storage records, as batches of metrics for MLflow: plain values, no server.

    for batch in epoch_batches(history, started, there={0, 1}):     # epochs 2 and later
        send_metrics(client, run_id, batch)                         # icu_ray/report/tracking/sync.py

Points of a trial carry the times that storage says, so that a batch which a slow server takes twice is one to it:
MLflow keeps one point for a step, time and value.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import EpochRecord, TrialEvaluation, TrialResult
from icu_ray.storage.verdict import result_outcome

EPOCH_METRIC = "active_samples"
"""Sent with every epoch in one atomic batch: where it has a step, that whole epoch is on the server."""


@dataclass(frozen=True)
class MetricBatch:
    """Metrics by name, all at one step. seconds: the time of the points (Unix); None: the time of sending."""

    values: Mapping[str, float]
    step: int
    seconds: float | None = None

    def without(self, there: Mapping[str, float]) -> MetricBatch:
        """The same, less the values that a run already has."""
        return replace(self, values={name: v for name, v in self.values.items() if there.get(name) != v})


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """The metrics of one epoch under the names the UI shows."""
    values: dict[str, float | None] = {EPOCH_METRIC: float(record.active), **plain(record.scores)}
    values["came_back"] = record.came_back
    values |= {f"loss/{name}": value for name, value in record.loss.items()}
    values |= {f"seconds/{name}": value for name, value in record.seconds.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def epoch_batches(history: Sequence[EpochRecord], started: float, there: Collection[int]) -> Iterator[MetricBatch]:
    """A batch for each epoch that is not `there`."""
    for record, ended in zip(history, _ends(history, started), strict=True):
        if record.epoch not in there:
            yield MetricBatch(epoch_metrics(record), record.epoch, ended)


def _ends(history: Sequence[EpochRecord], started: float) -> list[float]:
    """The time of each epoch: the trial's start and all seconds until its end."""
    return list(itertools.accumulate((sum(r.seconds.values()) for r in history), initial=started))[1:]


def evaluated_batches(
    points: Mapping[int, Mapping[str, float | None]], history: Sequence[EpochRecord], started: float
) -> Iterator[MetricBatch]:
    """A batch for each epoch of what the evaluation measured on its model, whose names begin with 'epoch/'."""
    times = {record.epoch: ended for record, ended in zip(history, _ends(history, started), strict=True)}
    for epoch, metrics in points.items():
        values = {f"epoch/{name}": value for name, value in metrics.items() if value is not None}
        if epoch in times:
            yield MetricBatch(values, epoch, times[epoch])


def result_batches(
    result: TrialResult, evaluation: TrialEvaluation | None, audit: TrialAudit | None = None
) -> tuple[MetricBatch, MetricBatch]:
    """The original model's scores, at step 0, and the unlearned model's, at the last epoch."""
    values: dict[str, float] = {"epochs": float(result.epochs)}
    original: dict[str, float] = {}
    for side, scores, side_values in (("before", result.before, original), ("after", result.after, values)):
        if scores is not None:
            side_values |= {f"{side}/{name}": float(v) for name, v in plain(scores).items() if v is not None}
    if result.before and result.after and result.before.ppl_heldout and result.after.ppl_heldout is not None:
        values["ppl_heldout_ratio"] = result.after.ppl_heldout / result.before.ppl_heldout
    if evaluation is not None:
        original |= {f"before/{name}": value for name, value in evaluation.before.items() if value is not None}
        values |= {name: value for name, value in evaluation.after.items() if value is not None}
    if audit is not None:
        original |= {f"before/{name}": value for name, value in audit.metrics("before").items()}
        values |= audit.metrics("after")
    return MetricBatch(original, 0, result.ended), MetricBatch(values, result.epochs, result.ended)


def sweep_batch(results: Sequence[TrialResult | None]) -> MetricBatch:
    """How many trials of a sweep have started (None: no result yet), and how they ended.

    trials_not_acceptable: forgotten, but too costly or collapsed. trials_measured: of models from which nothing is
    unlearned, the gold standard among them.
    """
    ended = [result_outcome(result) for result in results if result is not None]
    counts = {
        "trials_forgotten": ended.count("success"),
        "trials_not_acceptable": ended.count("too_costly") + ended.count("collapsed"),
        "trials_not_forgotten": ended.count("not_forgotten"),
        "trials_failed": ended.count("failed"),
        "trials_measured": ended.count("measured"),
        "trials_started": len(results),
    }
    return MetricBatch({name: float(count) for name, count in counts.items()}, len(ended))
