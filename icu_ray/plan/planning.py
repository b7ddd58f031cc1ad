"""From a config file to a checked plan: everything that can be refused is refused here, before Ray starts.

plan = plan_config(find_config("paper"), ["samples=[0]"])
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import icu_ray
from icu_ray.config import ExtractionData, FilterConfig, SweepConfig
from icu_ray.config.file import load_config
from icu_ray.data.bundled import resolve_encoder
from icu_ray.data.sources import check_data
from icu_ray.errors import UserError, did_you_mean
from icu_ray.models.loading import check_model_source
from icu_ray.plan.estimates import Budget
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.storage.files import check_writable

DEFAULT_CONFIG = "quickstart"


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed package, or at the top of a checkout."""
    package = Path(icu_ray.__file__).resolve().parent
    inside = package / "tune_configs"
    return inside if inside.is_dir() else package.parent / "tune_configs"


def shipped_configs() -> list[str]:
    """Names of the shipped configs, sorted."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def find_config(name: str | None) -> Path:
    """A config file: a path, or the name of a shipped one ('paper', 'tune_configs/paper.yaml'); None: quickstart."""
    given = Path(name or DEFAULT_CONFIG)
    if given.is_file():
        return given
    shipped = config_folder() / f"{given.name.removesuffix('.yaml')}.yaml"
    if shipped.is_file() and given.parent.name in ("", "tune_configs"):
        return shipped
    known = shipped_configs()
    raise UserError(
        f"config {given}: no such file{did_you_mean(given.stem, known)}; expected a YAML file, or one of the shipped "
        f"configs: {', '.join(known)}"
    )


def plan_config(path: Path, overrides: Sequence[str] = (), *, dry_run: bool = False) -> Plan:
    """Load, check and expand. A dry run goes on without the benchmark's files; its ids are then provisional."""
    return plan_sweep(load_config(path, overrides), dry_run=dry_run)


def plan_sweep(config: SweepConfig, *, dry_run: bool = False) -> Plan:
    """Check a config's models, storage and data, and expand it."""
    for model in config.models:
        if model.source is not None:
            check_model_source(model.source)
    _refuse_impossible_scale(config)
    _check_filter_encoder(config.filter)
    Budget(config, ())
    _check_evaluation(config, read=not dry_run)
    missing = ""
    if dry_run and isinstance(config.data, ExtractionData) and not Path(config.data.folder).is_dir():
        missing = f"data.folder {config.data.folder} is not there ('icu-ray data fetch' says how to get it)"
    data = None if missing else check_data(config)
    if not dry_run:
        check_writable(config.storage)
    return make_plan(config, data, provisional=missing)


def _refuse_impossible_scale(config: SweepConfig) -> None:
    limit = config.resources.max_workers
    for number, model in enumerate(config.models):
        if limit is not None and model.workers > limit:
            raise UserError(
                f"models.{number}.workers: {model.name} needs {model.workers} workers at once, but "
                f"resources.max_workers allows {limit}"
            )


def _check_evaluation(config: SweepConfig, read: bool) -> None:
    """UserError for a task that is none, a mirror that is not there, and rows that are not as they should be."""
    if not config.evaluation.asked:
        return
    # Knows lm-evaluation-harness, which takes a while to import: only who evaluates waits for it.
    from icu_ray.evaluation.suites import check_names, open_tasks
    from icu_ray.services.evaluate import sweep_tasks

    names, options = sweep_tasks(config)
    if options.mirror is not None and not options.mirror.is_dir():
        raise UserError(
            f"evaluation.mirror: {options.mirror}: no such folder; write one with 'icu-ray data mirror --out DIR'"
        )
    check_names(names)
    if read:
        for source in open_tasks(names, options):
            source.load()


def _check_filter_encoder(settings: FilterConfig) -> None:
    """UserError when BERTScore's encoder is a folder that is none, or has fewer layers than the config asks for."""
    folder = Path(os.path.expanduser(resolve_encoder(settings.encoder)))
    if not folder.is_dir():
        if settings.encoder.startswith((".", "/", "~")):
            raise UserError(f"filter.encoder: {settings.encoder}: no such folder; give a hub id, a folder or 'bundled'")
        return  # a hub id
    try:
        layers = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"filter.encoder: {settings.encoder}: holds no config.json of an encoder ({error})") from error
    if settings.encoder_layer is not None and settings.encoder_layer > layers:
        raise UserError(
            f"filter.encoder_layer: expected at most {layers}, the layers of {settings.encoder}, found "
            f"{settings.encoder_layer}"
        )
