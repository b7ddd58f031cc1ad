"""A trial's model as a folder that can be published: weights, tokenizer, model card, the licence of the model before.

    folder = export_model("runs/quickstart", Path("published"), trial="icu-small-s0-a0.5-b1.0")

Pushing it to a hub is the hub client's work (`hf upload`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from icu_ray.errors import UserError, did_you_mean, without_secrets
from icu_ray.models.folders import ADAPTER_CONFIG, whole_model_here
from icu_ray.report.collect import ReportedTrial, collect
from icu_ray.report.formats.model_card import Base, model_card
from icu_ray.storage.files import list_dir, local_path
from icu_ray.storage.folders import fetched
from icu_ray.storage.results import NOTHING_UNLEARNED

CARD = "README.md"


def export_model(run: str, out: Path, *, trial: str | None = None) -> ReportedTrial:
    """Copy the model of a trial to `out`, which must not be there or be empty, with its card; the trial.

    run: a sweep's folder <storage>/<name>, or the folder that `icu-ray unlearn --out` made. trial: its name or id, or
    the beginning of one; where one trial alone has kept its model it need not be said. UserError for what is not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--to {out}: is there already, and not an empty folder; give another one")
    chosen = _chosen(run, _trials(run), trial)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        with fetched(chosen.paths.model) as model:
            shutil.copytree(model, staging, dirs_exist_ok=True)
        base, licences = _base(chosen)
        base = replace(base, alone=(staging / ADAPTER_CONFIG).is_file())
        (staging / CARD).write_text(model_card(chosen, base), encoding="utf-8")
        for file in licences:
            shutil.copyfile(file, staging / file.name)
        staging.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            out.rmdir()
        os.rename(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return chosen


def _trials(run: str) -> list[ReportedTrial]:
    folder = local_path(run)
    top = None if folder is None else folder / "model"
    if top is not None and top.is_symlink():
        # Of a request: what lies on top is the model of the request that counts.
        own = top.resolve().parent
        sweep = own.parents[1]
        found = collect([(str(sweep.parent), sweep.name)]).trials
        return [trial for trial in found if trial.trial_id == own.name]
    storage, _, name = run.rstrip("/").rpartition("/")
    return list(collect([(storage or ".", name)]).trials)


def _chosen(run: str, trials: Sequence[ReportedTrial], wanted: str | None) -> ReportedTrial:
    where = without_secrets(run)
    there = [trial for trial in trials if trial.result is not None and list_dir(trial.paths.model)]
    if not there:
        raise UserError(f"{where}: none of its {len(trials)} trials has kept a model (resources.keep_models)")
    names = ", ".join(trial.name for trial in there[:5]) + (" …" if len(there) > 5 else "")
    if wanted is None:
        if len(there) > 1:
            raise UserError(f"{where}: {len(there)} trials have models; say which with --trial: {names}")
        return there[0]
    tests: list[Callable[[ReportedTrial], bool]] = [
        lambda trial: wanted in (trial.name, trial.trial_id),
        lambda trial: trial.name.startswith(wanted) or trial.trial_id.startswith(wanted),
    ]
    for test in tests:
        if found := [trial for trial in there if test(trial)]:
            if len(found) > 1:
                raise UserError(f"--trial {wanted}: means {', '.join(f'{t.name} {t.trial_id[:8]}' for t in found)}")
            return found[0]
    hint = did_you_mean(wanted, [trial.name for trial in there])
    raise UserError(f"--trial {wanted}: no trial of {where} with a model is called so{hint}; there are {names}")


def _base(trial: ReportedTrial) -> tuple[Base, list[Path]]:
    """The model before, as the config said it, and the licence files that lie in its folder."""
    models = [] if trial.provenance is None else trial.provenance.config.get("models", [])
    described: dict[str, Any] = next((each for each in models if each.get("name") == trial.model), {})
    source, revision = described.get("source"), described.get("revision")
    # The gold standard has no adapter, whatever the trials of its model train.
    nothing = trial.result is not None and trial.result.reason in NOTHING_UNLEARNED
    lora = None if nothing else described.get("lora")
    folder = None
    if source is not None:
        with contextlib.suppress(UserError):  # a GGUF file that is no longer there tells no licence
            folder = whole_model_here(source, revision)
    if folder is None or not folder.is_dir():
        return Base(source, revision, lora=lora, train=described.get("train")), []
    licences = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.upper().startswith("LICEN")]
    return Base(source, revision, _licence(folder / CARD), lora, train=described.get("train")), licences


def _licence(card: Path) -> str | None:
    """What a model card's front matter says; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        text = card.read_text(encoding="utf-8")
        if text.startswith("---\n"):
            found = yaml.safe_load(text[4:].partition("\n---")[0])
            if isinstance(found, dict) and isinstance(found.get("license"), str):
                return str(found["license"])
    return None
