"""Evaluations of other frameworks into a sweep's folder, and a sweep's trials in their form.

import_files(["saves/eval/tofu_npo/TOFU_EVAL.json"], "runs", "tofu", model="llama-1b")
write_open_unlearning([("runs", "tofu")]).files       # ("npo-llama-1b-s0_EVAL.json", ...)
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.collect import Collected, ReportedTrial, collect
from icu_ray.report.formats.open_unlearning import from_open_unlearning, to_open_unlearning
from icu_ray.report.numbers.field_names import SOURCES
from icu_ray.report.numbers.trial_documents import documents_of
from icu_ray.storage.files import join, list_dir, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.imported import Imported
from icu_ray.storage.imported_files import imported_labels, is_label, write_imported
from icu_ray.storage.trial_files import no_trials_said, read_sweep, trial_ids

FOLDER = "open-unlearning"
ENDING = "_EVAL.json"
_BENCHMARKS = ("tofu", "muse", "wmdp", "rwku", "lmeval")
_KINDS = re.compile(r"_(EVAL|SUMMARY)$")
_PLAIN_FOLDERS = ("evals", "eval", "")


@dataclass(frozen=True)
class Import:
    """One file that was read. replaced: whether something had its label."""

    imported: Imported
    replaced: bool


def import_files(
    files: Sequence[str], storage: str, sweep: str, *, label: str | None = None, model: str = ""
) -> tuple[Import, ...]:
    """Read evaluation files (paths or URLs) and keep each in the sweep's folder; all of them, or none.

    label: what the only file is called; by default a file is called by `label_of`. model: the model of ours beside
    which they stand. UserError for what is no evaluation, no sweep, no label, and for two files with one label.
    """
    if not trial_ids(storage, sweep) and read_sweep(storage, sweep) is None:
        raise UserError(no_trials_said(storage, sweep))
    if label is not None and len(files) > 1:
        raise UserError(f"--label {label}: is for one file, found {len(files)}; read them one at a time")
    labels: dict[str, str] = {}
    found = []
    for file in files:
        named = label_of(file) if label is None else label
        if not is_label(named):
            what = f"{without_secrets(file)}: found no label in its name; give one with --label"
            what = what if label is None else f"--label {label[:120]!r}"
            raise UserError(f"{what}: expected up to 100 ASCII letters, digits and ._+=(),-, no sign first")
        if named in labels:
            raise UserError(
                f"{without_secrets(file)}: would be called {named!r}, as {without_secrets(labels[named])} is; read "
                "them one at a time, each with its --label"
            )
        labels[named] = file
        found.append(_read(file, named, model))
    there = imported_labels(storage, sweep)
    for imported in found:
        write_imported(storage, sweep, imported)
    return tuple(Import(imported, imported.label in there) for imported in found)


def _read(file: str, label: str, model: str) -> Imported:
    where = without_secrets(file)
    data = read_bytes(file)
    if data is None:
        raise UserError(f"{where}: no such file")
    metrics = from_open_unlearning(data, where)
    return Imported(label, model, _name(file), hashlib.sha256(data).hexdigest(), time.time(), metrics)


def label_of(file: str) -> str:
    """What a file's model is called: the file's name without _EVAL.json; where that names a benchmark, its folder's.

    'npo-s0_EVAL.json' is npo-s0; 'saves/eval/tofu_npo/TOFU_EVAL.json' and '.../tofu_npo/evals/TOFU_EVAL.json' tofu_npo.
    """
    *folders, _ = without_secrets(file).replace("\\", "/").split("/")
    stem = _KINDS.sub("", _name(file).removesuffix(".json"))
    if stem.lower() in _BENCHMARKS:
        named = [folder for folder in folders if folder not in (*_PLAIN_FOLDERS, ".", "..") and ":" not in folder]
        stem = named[-1] if named else stem
    return _as_label(stem)


def _name(file: str) -> str:
    return without_secrets(file).replace("\\", "/").rpartition("/")[2]


def _as_label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=(),-]+", "-", text).lstrip("._+=(),-")[:100]


@dataclass(frozen=True)
class Exported:
    """Where a sweep's files for OpenUnlearning lie. without: trials that have a result and no metric of its."""

    folder: str
    found: Collected
    files: tuple[str, ...]
    without: tuple[str, ...]


def write_open_unlearning(sweeps: Sequence[tuple[str, str]]) -> Exported:
    """One `<trial name>_EVAL.json` for each trial with a result, into the first sweep's report/open-unlearning.

    Files that an earlier call left and this one does not make are removed. UserError as `collect` raises it, and where
    no trial has measured anything that OpenUnlearning has a name for.
    """
    sweeps = list(dict.fromkeys(sweeps))
    found = collect(sweeps)
    trials = [trial for trial in found.trials if trial.measured is not None]
    unread: list[str] = []
    contents = [(trial, to_open_unlearning(trial, documents_of(trial, unread).get(trial.name))) for trial in trials]
    found = replace(found, broken=tuple(dict.fromkeys((*found.broken, *unread))))
    named = _names([trial for trial, data in contents if data is not None])
    files = {named[trial.trial_id]: data for trial, data in contents if data is not None}
    if not files:
        what = f"{len(trials)} trials have a result, and none has" if trials else "no trial has a result, so none has"
        raise UserError(
            f"{without_secrets(join(*sweeps[0]))}: {what} a metric that OpenUnlearning has a name for; those are "
            f"{', '.join(SOURCES)}"
        )
    folder = join(*sweeps[0], "report", FOLDER)
    for name, data in files.items():
        write_atomic(join(folder, name), data)
    for name in set(list_dir(folder)) - set(files):
        if name.endswith(ENDING):
            remove(join(folder, name))
    return Exported(folder, found, tuple(files), tuple(trial.name for trial, data in contents if data is None))


def _names(trials: Sequence[ReportedTrial]) -> dict[str, str]:
    """A file's name for each trial, by its id; with that id where two trials have one name."""
    stems = {trial.trial_id: _as_label(trial.name) or trial.trial_id for trial in trials}
    counts = list(stems.values())
    return {
        trial_id: (stem if counts.count(stem) == 1 else f"{stem}-{trial_id}") + ENDING
        for trial_id, stem in stems.items()
    }
