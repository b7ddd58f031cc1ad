"""The plan as a table for people and as JSON for scripts: what would run, in which order, with what, for how long."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.config.keys import written
from icu_ray.config.recipes import recipe_values
from icu_ray.console.terminal import print_words
from icu_ray.errors import without_secrets
from icu_ray.methods import RETRAINED
from icu_ray.plan.audit_cost import audit_json, audit_said
from icu_ray.plan.budget import cost_of, load_prices
from icu_ray.plan.epoch_models import epoch_models_said
from icu_ray.plan.estimate_correction import error_said
from icu_ray.plan.generated_answers import generation_said, generations
from icu_ray.plan.grid import Plan
from icu_ray.plan.model_memory import memories
from icu_ray.plan.time_beside import evaluation_said, evaluation_times, trainings
from icu_ray.plan.trial import DONE
from icu_ray.report.numbers.thresholds import thresholds_said
from icu_ray.report.terminal.fitting import Heading, print_fitting
from icu_ray.report.terminal.memory_table import memory_json, print_memory


def print_plan(plan: Plan, console: Console) -> None:
    """One row a trial in the order of starting, and what the whole asks for."""
    config = plan.config
    headings = (
        *(Heading("trial"), Heading("model", spare=6), Heading("sample", True, 5), Heading("method", spare=7)),
        *(Heading("alpha", True, 4), Heading("beta", True, 3), Heading("lr", True, 2)),
        *(Heading("workers", True), Heading("status")),
        *([Heading("GPU h", True, 1)] if any(trial.model.gpus for trial in plan.trials) else []),
    )
    rows = []
    for trial in plan.trials:
        status = trial.status if trial.status != "resumable" else f"resumable at epoch {trial.epochs_done}"
        takes = trial.model.gpus
        each = "CPU" if not takes else "GPU" if takes == 1 else f"x {takes:g} GPU"
        rows.append(
            (
                f"{escape(trial.name)} [dim]{trial.trial_id[:8]}[/dim]",
                escape(trial.model.name),
                str(trial.sample),
                escape(trial.label),
                f"{trial.settings.alpha:g}",
                f"{trial.settings.beta:g}",
                f"{trial.settings.lr:g}",
                f"{trial.workers} {each}",
                status.replace("_", " "),
                f"{trial.gpu_hours:.2f}" if trial.model.gpus else "-",
            )[: len(headings)]
        )
    print_fitting(console, headings, rows, where="--json")
    counts = Counter(trial.status for trial in plan.trials)
    said = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in counts.items())
    widest = max(model.workers for model in config.models)
    if plan.trials:
        several = "trial" if len(plan.trials) == 1 else "trials"
        needs = f"the largest needs {widest} worker{'s at once' if widest > 1 else ''}"
        console.print()
        print_words(console, f"{len(plan.trials)} {several} ({said}); {needs}.")
    print_memory(console, memories(plan))
    print_words(console, f"Forgotten: {forgotten_when(config)}.")
    if config.search is not None:
        ranges = ", ".join(f"{name} {r.low:g} to {r.high:g}" for name, r in config.search.space.items())
        print_words(console, f"{plan.open_trials} further trials that {config.search.algorithm} chooses: {ranges}.")
    waiting = [trial for trial in plan.trials if trial.status not in DONE]
    for said in trained_said(plan):
        print_words(console, said)
    invented = generations(plan)
    for said in generation_said(invented, config):
        print_words(console, said)
    if waiting:
        gpu_hours, worker_minutes = plan_gpu_hours(plan), plan.worker_minutes
        worker_minutes += sum(each.minutes for each in invented if not each.model.gpus)
        gpus = any(trial.model.gpus for trial in waiting)
        minutes = f"{worker_minutes:.0f}"
        worker = f"{'less than 1' if minutes == '0' else minutes} worker minute"
        worker += f"{'' if minutes in ('0', '1') else 's'} on CPU"
        hours = "less than 0.1" if gpu_hours < 0.05 else f"{gpu_hours:.1f}"
        much = f"{hours} GPU hours" if gpus else worker
        print_words(console, f"Estimate for what is left: {much} ({error_said(plan.trials)}).")
        for said in beside_said(plan):
            print_words(console, said)
        if config.resources.prices is not None:
            cpu_hours = sum(trial.cpu_hours for trial in waiting if not trial.model.gpus)
            cpu_hours += sum(each.cpu_hours for each in invented)
            cost = cost_of(gpu_hours, cpu_hours, load_prices(Path(config.resources.prices)))
            print_words(console, f"The trials cost {cost}.")
    evaluation, audit = config.evaluation, config.audit
    trained = sum(t.settings.max_epochs > 0 or t.settings.method == RETRAINED for t in plan.trials)
    models = trained + len({trial.model.name for trial in plan.trials})
    if evaluation.asked:
        names = ", ".join([*(f"suite {name}" for name in evaluation.suites), *evaluation.tasks])
        print_words(console, f"Evaluated while the trials run: {names}, on {models} models.")
        for said in epoch_models_said(plan):
            print_words(console, said)
    if audit.asked:
        print_words(console, f"Audited while the trials run: {', '.join(audit.names)}, on {models} models.")
    for said in audit_said(plan):
        print_words(console, said)
    folder = without_secrets(f"{config.storage.rstrip('/')}/{config.name}")
    for said in recipe_said(config):
        print_words(console, said)
    print_words(console, f"Fidelity '{config.fidelity}'; results go to {folder}.")
    for remark in () if plan.data is None else plan.data.remarks:
        print_words(console, remark, "yellow")
    for remark in unreachable_said(plan):
        print_words(console, remark, "yellow")
    if plan.provisional:
        print_words(console, f"Ids are provisional: {plan.provisional}", "yellow")


def plan_gpu_hours(plan: Plan) -> float:
    """Of the trials that wait, and of what is invented for them."""
    return plan.gpu_hours + sum(each.gpu_hours for each in generations(plan))


def trained_said(plan: Plan) -> list[str]:
    """What is trained before the trials, a sentence a model; what of it is in the store already is not looked up."""
    said = []
    for model in dict.fromkeys(trial.model for trial in plan.waiting):
        samples = 0 if plan.data is None else len(plan.data.samples)
        again = f"once more without {'each' if samples > 1 else 'the'} forget sample" if model.retrained is True else ""
        if isinstance(model.retrained, str):
            said += _published_said(plan, model)
        if model.train is None:
            said += [f"{model.name}: trained as a stand-in, then {again}."] if again else []
            continue
        own = next((each for each in trainings(plan) if each.model == model), None)
        epochs, until = model.train.epochs, model.train.min_memorization
        most = f"at most {epochs} epochs" if until is not None else f"{epochs} epoch{'s' * (epochs != 1)}"
        goal = "" if until is None else f", until MA is {100 * until:g} %"
        cost = ""
        if own is not None:
            several = "" if f"{own.minutes:.0f}" in ("0", "1") else "s"
            cost = f"; about {max(own.minutes, 1):.0f} minute{several}"
        said.append(f"{model.name}: fine-tuned first, {most}{goal}" + (f"; then {again}" if again else "") + cost + ".")
    return said


def beside_said(plan: Plan) -> list[str]:
    """What takes time beside the trials: how much where that is reckoned, and what is not, a sentence each."""
    said, config = [], plan.config
    trained, evaluated = trainings(plan), evaluation_times(plan)
    if trained:
        hours, minutes = sum(each.gpu_hours for each in trained), sum(each.worker_minutes for each in trained)
        much = [f"{max(hours, 0.1):.1f} GPU hours"] if hours else []
        much += [f"{max(minutes, 1):.0f} worker minute{'s' * (minutes >= 1.5)} on CPU"] if minutes else []
        said.append(f"Fine-tuning before the trials: {' and '.join(much)} more, as uncertain as the estimate above.")
    said += evaluation_said(evaluated)
    if (trained or evaluated) and (config.resources.max_hours, config.resources.max_cost) != (None, None):
        said.append("The budget counts only the trials.")
    rest = ["The start of Ray", "preparation", *(["the audit"] if config.audit.asked else []), "the report"]
    standins = any(trial.model.standin is not None for trial in plan.waiting)
    rest[1] += " with the training of stand-ins" * standins
    said.append(f"{', '.join(rest[:-1])} and {rest[-1]} take extra time.")
    return said


def _published_said(plan: Plan, model: ModelConfig) -> list[str]:
    """Of a published retrained model that still has to be measured."""
    waits = [t for t in plan.waiting if t.model.name == model.name and t.settings.method == RETRAINED]
    return [
        f"{model.name}: its retrained model is {model.retrained}, as it was published: not trained, but measured and "
        f"evaluated like the others; about {max(trial.minutes, 1):.0f} minute{'s' * (trial.minutes >= 1.5)}."
        for trial in waits
    ]


def forgotten_when(config: SweepConfig) -> str:
    """The thresholds that trials will be judged by, and what it may cost."""
    ratio = config.stop.max_ppl_ratio
    cost = "" if ratio is None else f"; a success: at no more than {ratio:g} times the original's held-out perplexity"
    return thresholds_said(config.model_dump(), "EL{}".format) + cost


def recipe_said(config: SweepConfig) -> list[str]:
    """What the config's recipe sets, and what the config has in its place; nothing without a recipe."""
    values = recipe_values(config)
    if not values:
        return []
    kept = ", ".join(f"{each.key}={written(each.value)}" for each in values if not each.changed)
    changed = [
        f"{key}={written(value)} in place of {written(each.value)}"
        for each in values
        for key, value in each.changed.items()
    ]
    others = f" The config has {', '.join(changed)}." if changed else " The config changes none of its values."
    return [f"Recipe '{config.recipe}' sets {kept or 'nothing that the config does not set'}.{others}"]


def unreachable_said(plan: Plan) -> list[str]:
    """What a run of trials that wait would be refused for on this machine."""
    waits = plan.unreachable and (plan.waiting or plan.open_trials)
    return [f"on this machine a run would be refused: {plan.unreachable}"] if waits else []


def plan_json(plan: Plan) -> str:
    """The plan as JSON, for scripts."""
    return json.dumps(
        {
            "name": plan.config.name,
            "storage": without_secrets(plan.config.storage),
            "fidelity": plan.config.fidelity,
            "recipe": None
            if plan.config.recipe is None
            else {
                "name": plan.config.recipe,
                "values": [asdict(each) for each in recipe_values(plan.config)],
            },
            "forgotten_when": forgotten_when(plan.config),
            "gpu_hours": round(plan_gpu_hours(plan), 3),
            "error": error_said(plan.trials),
            "provisional": plan.provisional,
            "memory": memory_json(memories(plan)),
            "remarks": [*([] if plan.data is None else plan.data.remarks), *unreachable_said(plan)],
            "trained": trained_said(plan),
            "evaluated_by_epoch": epoch_models_said(plan),
            "beside": {
                "fine_tuning_gpu_hours": round(sum(each.gpu_hours for each in trainings(plan)), 3),
                "evaluation_gpu_hours_at_most": round(sum(each.gpu_hours for each in evaluation_times(plan)), 3),
                "said": beside_said(plan),
            },
            "audit": audit_json(plan),
            "invented": generation_said(generations(plan), plan.config),
            "trials": [
                {
                    "trial_id": trial.trial_id,
                    "name": trial.name,
                    "model": trial.model.name,
                    "sample": trial.sample,
                    "method": trial.label,
                    "hyperparameters": trial.hyperparameters,
                    "workers": trial.workers,
                    "gpus_per_worker": trial.model.gpus,
                    "status": trial.status,
                    "epochs_done": trial.epochs_done,
                    "minutes": round(trial.minutes, 2),
                    "gpu_hours": round(trial.gpu_hours, 3),
                }
                for trial in plan.trials
            ],
        },
        indent=2,
    )
