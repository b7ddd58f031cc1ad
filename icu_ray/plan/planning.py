"""From a config file to a checked plan: everything that can be refused is refused here, before Ray starts.

plan = plan_config(find_config("paper"), ["samples=[0]"])      # find_config: config/shipped.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icu_ray import methods
from icu_ray.config import ExtractionData, RecordsData, SweepConfig
from icu_ray.config.file import load_config
from icu_ray.data.encoder import BUNDLED, BUNDLED_NAME, encoder_named
from icu_ray.data.hub_data import pinned_data
from icu_ray.data.records import check_files
from icu_ray.data.sources import checked_data
from icu_ray.data.training_texts import check_training_texts
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.published import check_published, without_retrained_said
from icu_ray.evaluation.benchmarks.rows import check_tables
from icu_ray.models.checking import check_models
from icu_ray.models.folders import adapter_here
from icu_ray.models.hub import is_pinned, require_encoder_reachable, require_reachable
from icu_ray.models.retrained import published_retrained
from icu_ray.plan.audit_checks import check_audit
from icu_ray.plan.budget import Budget
from icu_ray.plan.drawn_pairs import drawn_pairs_said
from icu_ray.plan.generated_answers import check_generation
from icu_ray.plan.grid import Plan, check_methods, make_plan, needs_pairs
from icu_ray.plan.method_checks import check_answers, check_methods_fit, fine_tuning_said, named_parts
from icu_ray.plan.text_lengths import check_texts
from icu_ray.storage.files import check_writable


def plan_config(path: Path, overrides: Sequence[str] = (), *, dry_run: bool = False) -> Plan:
    """Load, check and expand. A dry run goes on without the benchmark's files; its ids are then provisional."""
    return plan_sweep(load_config(path, overrides), dry_run=dry_run)


def plan_sweep(config: SweepConfig, *, dry_run: bool = False) -> Plan:
    """Check a config's models, storage and data, and expand it."""
    benchmark_said = check_published(config)
    if isinstance(config.data, RecordsData):
        config = config.model_copy(update={"data": pinned_data(config.data)})
    # What is told at once comes before what needs torch to be imported.
    check_methods(config)
    if isinstance(config.data, RecordsData):
        check_files(config.data, config.samples)
        if config.data.benchmark is not None and "benchmark" in config.evaluation.suites:
            benchmark_said += check_tables(config.data.benchmark)  # type: ignore[arg-type]
    asked = config.filter
    encoders: list[tuple[str, str, int | None]] = [("filter.encoder", asked.encoder, asked.encoder_layer)]
    if config.pairs.by == "nearest":
        encoders.append(("pairs.encoder", config.pairs.encoder, None))
    check_models(config.models, encoders, config.chats, named_parts(config))
    check_methods_fit(config)
    _refuse_impossible_scale(config)
    Budget(config, ())
    told: tuple[str, ...] = ()
    if config.evaluation.asked:
        # Knows lm-evaluation-harness, which takes a while to import: only who evaluates waits for it.
        from icu_ray.evaluation.sweep_tasks import check_sweep_tasks, membership_said

        check_sweep_tasks(config, read=not dry_run)
        told = membership_said(config)
    missing = ""
    if dry_run and isinstance(config.data, ExtractionData) and not Path(config.data.folder).is_dir():
        missing = f"data.folder {config.data.folder} is not there ('icu-ray data fetch' says how to get it)"
    data, corpus = (None, None) if missing else checked_data(config)
    if data is not None:
        check_answers(config, data)
    check_training_texts(config, corpus)
    remarks = check_texts(config, corpus, dry_run=dry_run)
    check_generation(config, corpus, dry_run=dry_run)
    if "benchmark" in config.evaluation.suites:
        from icu_ray.plan.benchmark_prompts import check_prompts

        remarks = (*remarks, *check_prompts(config, dry_run=dry_run))
    if "prompt" in config.audit.names:
        from icu_ray.plan.paraphrases import check_paraphrases

        check_paraphrases(config, dry_run=dry_run)
    remarks = (*remarks, *check_audit(config))
    unreachable = _unreachable(config)
    if not unreachable:
        remarks = (*_unknown_commits(config), *remarks)
    remarks = (*remarks, *without_retrained_said(config), *benchmark_said)
    if data is not None:
        remarks = (*remarks, *drawn_pairs_said(config, data), *fine_tuning_said(config), *told)
        data = replace(data, remarks=(*data.remarks, *remarks))
    if not dry_run:
        check_writable(config.storage, "store", config.name, f"{config.name}/trials", f"{config.name}/logs")
    return replace(make_plan(config, data, provisional=missing), unreachable=unreachable)


def _unreachable(config: SweepConfig) -> str:
    """What is wrong with a model or an encoder of a hub that does not answer; '' where all can be had.

    Not refused here: a plan may be of trials that are done, or of a cluster whose machines have what this one lacks.
    """
    try:
        for _, source, revision in _sources(config):
            require_reachable(source, revision)
        for published in filter(None, map(published_retrained, config.models)):
            require_reachable(str(published.source), published.revision, pickles=False)
        bundled = f"set {{}}, the copy of {BUNDLED_NAME} that is installed, or give an encoder's folder"
        keys = {"filter.encoder": (config.filter.encoder, "filter.encoder=bundled filter.encoder_layer=6")}
        paired = any(needs_pairs(each, a, b) for each in config.methods for a, b in methods.cells(each))
        if config.pairs.by == "nearest" and paired:
            keys["pairs.encoder"] = (config.pairs.encoder, "pairs.encoder=bundled")
        for key, (encoder, setting) in keys.items():
            if encoder != BUNDLED:
                require_encoder_reachable(encoder_named(key, encoder), encoder, bundled.format(setting))
    except UserError as error:
        return str(error)
    return ""


def _sources(config: SweepConfig) -> list[tuple[str, str, str | None]]:
    """Name, source and revision of each model that is not made here, published retrained ones among them, and of the
    base of each that is an adapter."""
    found = []
    for model in config.models:
        both = (model.name, model), (f"the retrained model of {model.name}", published_retrained(model))
        for name, each in both:
            if each is not None and each.source is not None:
                found.append((name, each.source, each.revision))
                if (adapter := adapter_here(each.source, each.revision)) is not None:
                    found.append((f"the base of {name}", adapter.base, adapter.revision))
    return found


def _unknown_commits(config: SweepConfig) -> tuple[str, ...]:
    """What to say of models of the hub whose commit nothing tells."""
    unknown = [name for name, source, revision in _sources(config) if not is_pinned(source, revision)]
    if not unknown:
        return ()
    return (
        f"neither the local cache nor the hub gives the commit of {', '.join(unknown)}: until one does, trials know "
        "the model by its name, and they count as others afterwards",
    )


def _refuse_impossible_scale(config: SweepConfig) -> None:
    limit = config.resources.max_workers
    for number, model in enumerate(config.models):
        if limit is not None and model.workers > limit:
            raise UserError(
                f"models.{number}.workers: {model.name} needs {model.workers} workers at once, but "
                f"resources.max_workers allows {limit}"
            )
