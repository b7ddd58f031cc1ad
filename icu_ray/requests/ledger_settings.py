"""The settings that all runs of a ledger share, and making a ledger with them.

    init(Path("ledger"), "my-model", {"retain": "others.jsonl", "id_column": "id"}, purge_days=30.0)

They are the options of `icu-ray unlearn` but its forget file. They are tried on a made-up request before the ledger is
made, so that what cannot be is refused then, and stand in its first entry.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData, SweepConfig
from icu_ray.data.records import reading_once
from icu_ray.data.table_files import column_names, read_columns
from icu_ray.errors import UserError, without_secrets
from icu_ray.models.fingerprints import folder_fingerprint, model_fingerprint
from icu_ray.requests.files import heldout_texts
from icu_ray.requests.ledger import made_ledger
from icu_ray.requests.ledger_keys import one_trial, refuse_keys
from icu_ray.requests.request_config import STANDIN, unlearn_config
from icu_ray.requests.unlearn import plan_request
from icu_ray.storage.store import content_hash

WORK = "work"
"""Folder in the ledger where runs leave what they make, with the store that they share."""
_FILES = ("retain", "heldout", "mirror")
_MADE_UP = "This text was made up to try the settings of a ledger, and nobody has ever asked to have it forgotten"


def init(
    folder: Path,
    model: str,
    options: Mapping[str, Any],
    *,
    purge_days: float,
    mlflow: str | None = None,
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make a ledger; what its first entry tells. UserError for what no request could be run with.

    options: those of `unlearn_config` but `forget` and `out`, with `overrides`. purge_days: days after which the texts
    of a request that is done may be deleted. mlflow: address of the registry of models; name: of the model there.
    """
    if model.partition(":")[0] == STANDIN:
        raise UserError(
            "--model standin: a stand-in is trained on the texts of one request; expected a model's folder or hub id"
        )
    options = {key: value for key, value in options.items() if value is not None}
    refuse_keys(options.get("overrides", ()), at_run=False)
    if mlflow is not None and without_secrets(mlflow) != mlflow:
        raise UserError(
            f"--mlflow {without_secrets(mlflow)}: holds a user, a password or a token, which would stand in the ledger "
            "for good; give the address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    for key in _FILES:
        if key in options:
            options[key] = _absolute(str(options[key]))
    model = _absolute(model)
    settings = {
        "model": model,
        "options": options,
        "purge_days": purge_days,
        "mlflow": mlflow,
        "name": name or folder.absolute().name,
    }
    with reading_once():
        config = _tried(settings, say)
    if config.stop.max_ppl_ratio is not None and not heldout_texts(config.data.model_dump(mode="json")):
        say(
            "there are no held-out texts (--heldout, or --retain), so what a run costs is not measured, and the limit "
            "of its cost (stop.max_ppl_ratio) holds nothing back"
        )
    settings["model_sha256"] = original_hash(config)
    with made_ledger(folder, settings):
        pass
    return settings


def _absolute(name: str) -> str:
    """A path of this machine from its root: later commands may be typed in another folder."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def request_config(
    settings: Mapping[str, Any],
    forget: Path,
    out: Path,
    *,
    model: str | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> SweepConfig:
    """The config of a run over the texts of one file. model: default the original."""
    options = dict(settings["options"])
    overrides = [*options.pop("overrides", ()), *overrides]
    source = model or settings["model"]
    return unlearn_config(source, forget=str(forget), out=str(out), overrides=overrides, say=say, **options)


def original_hash(config: SweepConfig) -> str:
    """What tells the original model from any other: its content, or its commit on the hub."""
    source = config.models[0].source
    if source is not None and Path(source).is_dir():
        return folder_fingerprint(Path(source))
    return content_hash(model_fingerprint(config.models[0]))


def _tried(settings: Mapping[str, Any], say: Callable[[str], None]) -> SweepConfig:
    """The config of a made-up request, planned and thrown away."""
    with tempfile.TemporaryDirectory(prefix="icu_ray_ledger_") as scratch:
        forget = Path(scratch) / "made-up.jsonl"
        forget.write_text(json.dumps(_made_up_row(settings["options"])) + "\n", encoding="utf-8")
        try:
            config = request_config(settings, forget, Path(scratch) / "out", say=say)
            one_trial(plan_request(config, dry_run=True))
        except UserError as error:
            if str(forget) not in str(error):
                raise
            where = f"{forget}: "
            raise UserError(f"with a made-up text to forget: {str(error).replace(where, '')}") from error
        return config


def _made_up_row(options: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the files of this ledger have them, by the first row of its retain or held-out file."""
    known = next((Path(options[key]) for key in ("retain", "heldout") if key in options), None)
    row: dict[str, Any] = {str(options.get("text_column", "text")): _MADE_UP}
    if known is not None:
        columns = column_names(known, "data.pool")
        _, values = next(iter(read_columns(known, columns, "data.pool")), ("", []))
        row = {name: _other(value) for name, value in zip(columns, values, strict=False)} or row
    named = [str(options[key]) for key in ("id_column", "subject_column") if key in options]
    return row | dict.fromkeys(named, "made-up")


def _other(value: Any) -> Any:
    """Another value of the same kind; of a chat, one that says something else in every turn."""
    if isinstance(value, str):
        return _MADE_UP
    if isinstance(value, list):
        return [{**turn, "content": _MADE_UP} if isinstance(turn, dict) else _other(turn) for turn in value]
    return value


def records_data(config: SweepConfig) -> RecordsData:
    """The files of a run, which are always a user's own."""
    data = config.data
    if not isinstance(data, RecordsData):
        raise UserError(f"data.source: a ledger is for files of texts (records), found {data.source}")
    return data
