"""What was evaluated of the model after one epoch of a trial, and a trial's values by epoch.

    points = by_epoch(evaluation, epochs, last=10)      # {0: {...}, 1: {...}, ..., 10: {...}}

storage/epoch_files.py says where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ConfigDict

from icu_ray.storage.results import TrialEvaluation


@dataclass(frozen=True)
class EpochEvaluation:
    """A line of epochs/evaluations.jsonl. metrics: by full name, as in evaluation.json, None where not measured.

    model: hash of the model's files. tasks: hash of what decides each task. errors: by task. retrained: which retrained
    model's evaluation its metrics stand beside, '' for none; None where that was not looked up yet.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    epoch: int
    model: str
    tasks: Mapping[str, str]
    metrics: Mapping[str, float | None]
    errors: Mapping[str, str] = field(default_factory=dict)
    retrained: str | None = None


def by_epoch(
    evaluation: TrialEvaluation | None, epochs: Sequence[EpochEvaluation], left: int | None
) -> dict[int, Mapping[str, float | None]]:
    """Metrics by epoch, those of the original model at 0; {} where no model of an epoch was evaluated.

    left: the epoch whose model the trial has left, with the values of its own evaluation; None while it runs. Epochs
    that were asked otherwise than that evaluation are left out: their models cannot be asked again.
    """
    points = {each.epoch: each.metrics for each in epochs if evaluation is None or asked_alike(each, evaluation)}
    if points and evaluation is not None:
        points[0] = evaluation.before
        if left is not None:
            points[left] = evaluation.after
    return dict(sorted(points.items()))


def asked_alike(epoch: EpochEvaluation, evaluation: TrialEvaluation) -> bool:
    """Whether the tasks that both have asked the same."""
    return all(evaluation.tasks.get(task, digest) == digest for task, digest in epoch.tasks.items())
