"""Which trials of a sweep with evaluation.when=epochs lack the evaluation of their epochs, and why.

for line in epochs_missing(sweep, found.trials): ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.report.collect import ReportedTrial, SweepFolder


def epochs_missing(sweep: SweepFolder, trials: Sequence[ReportedTrial]) -> list[str]:
    """A sentence a reason; [] where nothing lacks, or the sweep asks for no evaluation of epochs."""
    if sweep.record is None or not _by_epoch(sweep.record.config):
        return []
    own = [trial for trial in trials if trial.sweep == sweep.name and trial.measured is not None and trial.epochs > 1]
    lines, before = [], []
    for trial in own:
        if not trial.epoch_evaluations and not _by_epoch({} if trial.provenance is None else trial.provenance.config):
            before.append(trial.name)
            continue
        known = {each.epoch for each in trial.epoch_evaluations} | set(trial.by_epoch)
        lacks = [str(epoch) for epoch in range(1, trial.epochs) if epoch not in known]
        if lacks:
            lines.append(f"{trial.name}: not evaluated after epoch {', '.join(lacks)}")
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
