"""Which trials of a sweep with evaluation.when=epochs lack the evaluation of their epochs, and why.

for line in epochs_missing(sweep, found.trials): ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.report.collect import ReportedTrial, SweepFolder
from icu_ray.storage.epoch_evaluations import asked_alike


def epochs_missing(sweep: SweepFolder, trials: Sequence[ReportedTrial]) -> list[str]:
    """A sentence a reason; [] where nothing lacks, or the sweep asks for no evaluation of epochs."""
    if sweep.record is None or not _by_epoch(sweep.record.config):
        return []
    place = (sweep.storage, sweep.name)
    own = [each for each in trials if (each.storage, each.sweep) == place and each.measured is not None]
    own = [trial for trial in own if trial.epochs > 1]
    lines, before = [], []
    for trial in own:
        if not trial.epoch_evaluations and not _by_epoch({} if trial.provenance is None else trial.provenance.config):
            before.append(trial.name)
            continue
        known = {each.epoch for each in trial.epoch_evaluations} | set(trial.by_epoch)
        lacks = [str(epoch) for epoch in range(1, trial.epochs) if epoch not in known]
        if lacks:
            lines.append(f"{trial.name}: not evaluated after epoch {', '.join(lacks)}")
        evaluation = trial.evaluation
        other = [e.epoch for e in trial.epoch_evaluations if evaluation is not None and not asked_alike(e, evaluation)]
        if other:
            lines.append(
                f"{trial.name}: asked otherwise after epoch {', '.join(map(str, other))} than the trial's model, and "
                "left out; the models after epochs are gone"
            )
        for each in trial.epoch_evaluations:
            lines += [
                f"{trial.name}: not evaluated on {task} after epoch {each.epoch}: {error}"
                for task, error in each.errors.items()
            ]
    if before:
        lines.insert(
            0,
            f"ended before evaluation.when=epochs was set, and kept no models of epochs, so that what is evaluated has "
            f"no curve: {', '.join(before)}",
        )
    return lines


def _by_epoch(config: Mapping[str, Any]) -> bool:
    evaluation = config.get("evaluation")
    return isinstance(evaluation, Mapping) and evaluation.get("when") == "epochs"
