"""From a config file to a checked plan: everything that can be refused is refused here, before Ray starts.

plan = plan_config(find_config("paper"), ["samples=[0]"])      # find_config: config/shipped.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icu_ray.config import ExtractionData, RecordsData, SweepConfig
from icu_ray.config.file import load_config
from icu_ray.data.hub_data import pinned_data
from icu_ray.data.sources import checked_data
from icu_ray.errors import UserError
from icu_ray.models.checking import check_models
from icu_ray.models.hub import is_pinned
from icu_ray.plan.budget import Budget
from icu_ray.plan.drawn_pairs import drawn_pairs_said
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.plan.text_lengths import check_texts
from icu_ray.storage.files import check_writable


def plan_config(path: Path, overrides: Sequence[str] = (), *, dry_run: bool = False) -> Plan:
    """Load, check and expand. A dry run goes on without the benchmark's files; its ids are then provisional."""
    return plan_sweep(load_config(path, overrides), dry_run=dry_run)


def plan_sweep(config: SweepConfig, *, dry_run: bool = False) -> Plan:
    """Check a config's models, storage and data, and expand it."""
    if isinstance(config.data, RecordsData):
        config = config.model_copy(update={"data": pinned_data(config.data)})
    asked = config.filter
    encoders: list[tuple[str, str, int | None]] = [("filter.encoder", asked.encoder, asked.encoder_layer)]
    if config.pairs.by == "nearest":
        encoders.append(("pairs.encoder", config.pairs.encoder, None))
    check_models(config.models, encoders)
    _refuse_impossible_scale(config)
    Budget(config, ())
    if config.evaluation.asked:
        # Knows lm-evaluation-harness, which takes a while to import: only who evaluates waits for it.
        from icu_ray.evaluation.sweep_tasks import check_sweep_tasks

        check_sweep_tasks(config, read=not dry_run)
    missing = ""
    if dry_run and isinstance(config.data, ExtractionData) and not Path(config.data.folder).is_dir():
        missing = f"data.folder {config.data.folder} is not there ('icu-ray data fetch' says how to get it)"
    data, corpus = (None, None) if missing else checked_data(config)
    remarks = (*_unknown_commits(config), *check_texts(config, corpus))
    if data is not None:
        data = replace(data, remarks=(*data.remarks, *remarks, *drawn_pairs_said(config, data)))
    if not dry_run:
        check_writable(config.storage, "store", config.name, f"{config.name}/trials", f"{config.name}/logs")
    return make_plan(config, data, provisional=missing)


def _unknown_commits(config: SweepConfig) -> tuple[str, ...]:
    """What to say of models of the hub whose commit nothing tells."""
    sources = [(model.name, model.source, model.revision) for model in config.models]
    unknown = [name for name, source, revision in sources if source is not None and not is_pinned(source, revision)]
    if not unknown:
        return ()
    return (
        f"neither the local cache nor the hub tells the commit of {', '.join(unknown)}: until one does, trials know "
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
