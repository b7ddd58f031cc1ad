"""What is judged: each continuation beside its own prompt and reference, found by id and never by position.

A source is a sweep's folder, one trial's folder, or a .jsonl, .json, .csv, .tsv or .parquet file. Trials bring what the
original model said ('before') and what the unlearned one says ('after'); one original model's text stands in many
trials and is kept once. A file has the columns id, prompt, reference, candidate, or id and candidate with a second file
of id, prompt, reference. End-of-text marks are no part of a candidate.

    candidates = read_candidates(["runs/quickstart"], which="both", references=None, note=print)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from icu_ray.data.table_files import READERS, read_columns
from icu_ray.errors import UserError
from icu_ray.storage.files import list_dir, local_path
from icu_ray.storage.results import TrialSpec
from icu_ray.storage.store import content_hash
from icu_ray.storage.trial_files import TrialPaths, read_samples, read_spec, trial_ids

Which = Literal["before", "after", "both"]

_ANYWHERE = re.compile(r"<\|(?:endoftext|end_of_text|eot_id|im_end)\|>")
_AT_END = re.compile(r"(?:\s*(?:</s>|<eos>|<pad>))+\s*\Z")
"""Marks that may also be honest text (struck-through HTML), so they go only where a text ends."""


@dataclass(frozen=True)
class Candidate:
    """One continuation to judge. cell: rows that are averaged together. sample_id: the target's own id."""

    id: str
    cell: str
    sample_id: str
    prompt: str
    reference: str
    text: str

    @property
    def fingerprint(self) -> str:
        """Hash of the three texts: an id whose texts have changed is another row."""
        return content_hash([self.prompt, self.reference, self.text])[:16]


def without_end_marks(text: str) -> str:
    """`text` without the marks that tokenizers put at the end of a text."""
    return _AT_END.sub("", _ANYWHERE.sub("", text))


def read_candidates(
    sources: Sequence[str], which: Which, references: Path | None, note: Callable[[str], None]
) -> tuple[Candidate, ...]:
    """Every candidate of the sources, ids unique; UserError when there is none. `note`: told what is left out.

    references: file of id, prompt, reference for candidate files that hold only id and candidate.
    """
    texts = None if references is None else _references(references)
    by_sweep: dict[str, list[Candidate]] = {}
    for source in sources:
        if source.lower().endswith(READERS):
            by_sweep.setdefault("", []).extend(_from_file(Path(source), texts))
            continue
        if texts is not None:
            raise UserError(f"--references: {references} goes with candidate files, and {source} is a folder")
        for paths in _trials(source):
            sweep = paths.root.rstrip("/").split("/")[-3] if "/trials/" in paths.root else ""
            by_sweep.setdefault(sweep, []).extend(_from_trial(paths, which, note))
    several = len(by_sweep) > 1
    # Cells of two sweeps may bear one name and mean two things.
    rows = [
        replace(row, id=f"{sweep}/{row.id}", cell=f"{sweep}/{row.cell}") if several and sweep else row
        for sweep, found in by_sweep.items()
        for row in found
    ]
    unique: dict[str, Candidate] = {}
    for row in rows:
        # One original model's text comes from each of its trials; its id names the text, so equal ids are equal rows.
        if unique.setdefault(row.id, row) != row:
            raise UserError(f"candidate '{row.id}' has two different texts in {', '.join(sources)}")
    if not unique:
        raise UserError(f"{', '.join(sources)}: no candidates; trials write samples.jsonl when they are over")
    return tuple(unique.values())


def _trials(source: str) -> list[TrialPaths]:
    """The trial that a folder is, or the trials of the sweep that it is."""
    root = source.rstrip("/")
    if {"spec.json", "samples.jsonl"} & set(list_dir(root)):
        folder = local_path(root)
        return [TrialPaths(root if folder is None else str(folder.resolve()))]
    storage, _, name = root.rpartition("/")
    ids = trial_ids(storage or ".", name)
    if not ids:
        raise UserError(
            f"{source}: holds no trials; expected the folder of a sweep (<storage>/<name>), of a trial, or a file "
            f"ending in {', '.join(READERS)}"
        )
    return [TrialPaths.of(storage or ".", name, trial_id) for trial_id in ids]


def _from_trial(paths: TrialPaths, which: Which, note: Callable[[str], None]) -> Iterator[Candidate]:
    spec, samples = read_spec(paths), read_samples(paths)
    if spec is None or not samples:
        note(f"{paths.root}: no {'spec.json' if spec is None else 'samples.jsonl'}; the trial is left out")
        return
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise UserError(
                f"{paths.samples}: id '{sample.id}' appears twice; remove the file, a trial writes it again"
            )
        seen.add(sample.id)
        texts = {"before": sample.before, "after": sample.after}
        for when in ("before", "after"):
            if which not in (when, "both"):
                continue
            row = Candidate("", "", sample.id, sample.prompt, sample.reference, without_end_marks(texts[when]))
            if when == "after":
                yield replace(row, id=f"{spec.trial_id}/{sample.id}", cell=_cell(spec))
            else:
                row_id = f"{spec.model}-s{spec.sample}-before/{sample.id}/{row.fingerprint[:8]}"
                yield replace(row, id=row_id, cell=f"{spec.model}-before")


def _cell(spec: TrialSpec) -> str:
    """A trial's name without its forget sample, over which the paper averages."""
    weights = spec.hyperparameters
    return f"{spec.method}-{spec.model}" + "".join(
        f"-{letter}{weights[name]:g}" for letter, name in (("a", "alpha"), ("b", "beta")) if name in weights
    )


def _from_file(path: Path, references: Mapping[str, tuple[str, str]] | None) -> Iterator[Candidate]:
    key = "candidates"
    seen: dict[str, str] = {}
    columns = ("id", "candidate") if references is not None else ("id", "candidate", "prompt", "reference")
    for where, values in read_columns(path, columns, key):
        name = _id(values[0], f"{key}: {path}: {where}")
        if name in seen:
            raise UserError(f"{key}: {path}: id '{name}' appears twice, in {seen[name]} and {where}")
        seen[name] = where
        if references is None:
            prompt, reference = (_text(values[n], columns[n], f"{key}: {path}: {where}") for n in (2, 3))
        elif name in references:
            prompt, reference = references[name]
        else:
            raise UserError(f"{key}: {path}: {where}: id '{name}' is not in the references file")
        text = without_end_marks(_text(values[1], "candidate", f"{key}: {path}: {where}"))
        yield Candidate(f"{path.stem}/{name}", path.stem, name, prompt, reference, text)
    if not seen:
        raise UserError(f"{key}: {path}: holds no rows")


def _references(path: Path) -> dict[str, tuple[str, str]]:
    key = "--references"
    found: dict[str, tuple[str, str]] = {}
    for where, (raw, prompt, reference) in read_columns(path, ("id", "prompt", "reference"), key):
        name = _id(raw, f"{key}: {path}: {where}")
        if name in found:
            raise UserError(f"{key}: {path}: {where}: id '{name}' appears twice")
        found[name] = (
            _text(prompt, "prompt", f"{key}: {path}: {where}"),
            _text(reference, "reference", f"{key}: {path}: {where}"),
        )
    return found


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UserError(f"{where}: column 'id' holds {value!r}, expected text or a whole number")
    return str(value)


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: column '{column}' holds {type(value).__name__}, expected text")
    # Half of a surrogate pair has no UTF-8 and no endpoint would take it: a question mark, as in results.
    return value.encode("utf-8", errors="replace").decode("utf-8")
