"""What evaluation.when=epochs takes, told before anything starts: models that are evaluated more, and disk for them.

epoch_models_said(plan)     # ["After each epoch too: up to 54 more models. ... 2.5 GB ..."]
"""

from __future__ import annotations

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.plan.drawn_pairs import in_bytes
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.model_shapes import adapter_parameters
from icu_ray.plan.models_here import shape_here
from icu_ray.plan.trial import DONE, Trial
from icu_ray.storage.epoch_files import kept_epochs, read_epoch_evaluations
from icu_ray.storage.trial_files import TrialPaths, read_result


def epoch_models_said(plan: Plan) -> list[str]:
    """Sentences; [] where epochs are not evaluated."""
    if not plan.config.evaluation.by_epoch:
        return []
    coming = [coming_trial(plan)] * plan.open_trials if plan.open_trials else []
    counts: dict[str, int] = {}
    for trial in (*plan.waiting, *coming):
        # Epoch 0 is the original, and the last one the trial's own model, unless that is the best one's.
        more = max(0, trial.settings.max_epochs - (plan.config.stop.keep == "last"))
        counts[trial.model.name] = counts.get(trial.model.name, 0) + more
    models = {trial.model.name: trial.model for trial in (*plan.waiting, *coming) if counts[trial.model.name]}
    said = []
    if models:
        sizes = {name: bytes_kept(model, plan.config) for name, model in models.items()}
        each = ", ".join(
            f"{'a size that is not known here' if size is None else in_bytes(size)} a model of {name}"
            for name, size in sizes.items()
        )
        total = sum(counts[name] * size for name, size in sizes.items() if size is not None)
        said.append(
            f"After each epoch too (evaluation.when=epochs): up to {sum(counts.values())} more models. Each stays on "
            f"disk until it has been evaluated: {each}, at most {in_bytes(total)} in all where trials leave no room "
            "for the evaluation before they end."
        )
    before = [trial.name for trial in plan.trials if _without_epochs(plan, trial)]
    if before:
        names = ", ".join(before[:3]) + (f" and {len(before) - 3} more" if len(before) > 3 else "")
        said.append(
            f"Trials that have ended without models of their epochs have no curve, and are not run again: {names}."
        )
    return said


def bytes_kept(model: ModelConfig, config: SweepConfig) -> float | None:
    """Size of the model after an epoch on disk, about; None where nothing here tells the model's."""
    shape = shape_here(model, config)
    if shape is None:
        return None
    # An adapter alone is kept, unless its base is made here.
    alone = model.lora is not None and not model.made_here
    parameters = adapter_parameters(shape, model.lora.rank) if alone and model.lora is not None else shape.parameters
    return parameters * (2 if model.precision == "bf16" else 4)


def _without_epochs(plan: Plan, trial: Trial) -> bool:
    """Whether a trial is done, had several epochs, and neither models nor evaluations of them are there."""
    if trial.status not in DONE or trial.settings.max_epochs < 2:
        return False
    paths = TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)
    result = read_result(paths)
    if result is None or result.epochs < 2:
        return False
    return not read_epoch_evaluations(paths) and not kept_epochs(paths)
