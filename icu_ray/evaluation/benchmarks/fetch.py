"""`icu-ray data fetch tofu`: a benchmark's tables from the hub into the folder that `data.folder` names.

    fetch_benchmark(BENCHMARKS["tofu"], Path("data/tofu"), print)

Licence and size are said first. Files are loaded by the hub's own client (HF_ENDPOINT names a mirror) into its cache,
read as tables, counted, and written as one JSON object a line; a table with another number of rows than the benchmark
has is refused. What is there already is counted and kept. `source.json` names the commits that the files are of, and
those files that it found there, whose commit it does not know; a folder with files of another commit is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from icu_ray.config.benchmarks import COMMITS, hub_place
from icu_ray.data.hub_data import parsed, pinned
from icu_ray.data.hub_repository import table_sizes
from icu_ray.data.table_files import column_names, read_columns
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.definition import Benchmark, Table
from icu_ray.storage.files import check_writable, write_atomic

Say = Callable[[str], None]
_SUBJECTS = "forget_target.json"
"""The table that numbers the subjects, whose folders are called 1_Stephen_King."""
_SOURCE = "source.json"


def fetch_benchmark(benchmark: Benchmark, folder: Path, report: Say, *, revision: str | None = None) -> None:
    """Write all tables below `folder`; `report` gets a line a table.

    UserError for a benchmark that is given on request, without a network, for a revision that is none, and where a
    table is not the published one or `folder` has those of another commit.
    """
    key = f"data fetch {benchmark.name}"
    if benchmark.access:
        raise UserError(f"{key}: {benchmark.access.format(folder=folder)}; then set data.folder={folder}")
    check_writable(str(folder), key="--out")
    instead = (
        f"nothing is fetched: run this on a machine that has one, and copy {folder} here, with "
        f"{benchmark.tables[0].file} and the other tables"
    )
    named = {hub: _name(hub, revision or COMMITS.get(hub)) for hub in benchmark.hubs}
    commits = {hub: str(parsed(pinned(name, key, instead), key).revision) for hub, name in named.items()}
    told = _told(benchmark, commits, folder, key)
    _say_first(benchmark, commits, key, instead, report)
    # Before the first table, so that those of a download that is broken off are known.
    write_atomic(str(folder / _SOURCE), json.dumps(told, indent=1).encode())
    names = None
    for table in benchmark.tables:
        if table.by_subject:
            if names is None:
                names = _subject_folders(folder)
            _fetch_by_subject(table, commits[table.hub], folder, names, key, report)
        else:
            _fetch(table, commits[table.hub], folder, key, report)
    report(f"{benchmark.name} is in {folder}; set data.folder to it")


def _told(benchmark: Benchmark, commits: Mapping[str, str], folder: Path, key: str) -> dict[str, Any]:
    """What source.json is to say; UserError where the folder's files are of another commit.

    Its `found` are tables that lay there before anything was fetched: nothing tells their commit.
    """
    before = _read_source(folder / _SOURCE, key)
    for hub, commit in commits.items():
        there, known = _there(benchmark, hub, folder), before.get("commits", {}).get(hub, commit)
        if there and known != commit:
            raise UserError(
                f"{key}: {folder} has {there[0]}{' and others' * (len(there) > 1)} of {hub} at {known}, as its "
                f"{_SOURCE} says; asked for is {commit}. Fetch that into another folder, with another --out, or "
                f"complete this one with --revision {known}"
            )
    there = [file for hub in commits for file in _there(benchmark, hub, folder, subjects=False)]
    found = [file for file in there if not before or file in before.get("found", [])]
    told = {"benchmark": benchmark.name, "licence": benchmark.licence, "commits": dict(commits)}
    return {**told, "found": found} if found else told


def _read_source(place: Path, key: str) -> dict[str, Any]:
    """What source.json says; {} where there is none."""
    if not place.is_file():
        return {}
    try:
        read = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key}: {place}: no JSON ({error}); move it away, or name another --out") from error
    if not isinstance(read, dict) or not isinstance(read.get("commits"), dict):
        raise UserError(f"{key}: {place}: names no commits, as ours does; move it away, or name another --out")
    return read


def _there(benchmark: Benchmark, hub: str, folder: Path, *, subjects: bool = True) -> list[str]:
    """The files of a data set's tables that the folder has; subjects: those in a folder of each subject too."""
    tables = [table for table in benchmark.tables if table.hub == hub and (subjects or not table.by_subject)]
    return [each.file for each in tables if any(folder.glob(f"*/{each.file}" if each.by_subject else each.file))]


def _name(hub: str, revision: str | None) -> str:
    return f"hub:{hub}" + (f"@{revision}" if revision else "")


def _say_first(benchmark: Benchmark, commits: Mapping[str, str], key: str, instead: str, report: Say) -> None:
    rows = [table.rows for table in benchmark.tables if not table.later]
    counted = f"{sum(filter(None, rows)):,} rows" + (" and more" if None in rows else "")
    report(f"{benchmark.title}: {len(benchmark.tables)} tables, {counted}. Licence: {benchmark.licence}.")
    for hub, commit in commits.items():
        size = sum(table_sizes(hub, commit, f"{key}: {_name(hub, commit)}", instead).values())
        report(f"{hub} at {commit[:12]}: at most {_bytes(size)} to download")


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _fetch(table: Table, commit: str, folder: Path, key: str, report: Say) -> None:
    place = folder / table.file
    if place.is_file():
        _counted(table, _count(place, table, key), str(place), key)
        report(f"{place}: there already")
        return
    try:
        rows = _read(table, commit, key)
    except UserError as error:
        if not (table.later and "no configuration" in str(error)):
            raise
        report(f"{place}: {table.hub} has no {table.configuration} at {commit[:12]}; left out")
        return
    write_atomic(str(place), _lines(rows))
    report(f"{place}: {len(rows):,} rows")


def _fetch_by_subject(table: Table, commit: str, folder: Path, names: Mapping[str, str], key: str, report: Say) -> None:
    rows, by_subject = _read(table, commit, key), dict[str, list[dict[str, Any]]]()
    for row in rows:
        by_subject.setdefault(str(row["subject"]), []).append(row)
    if unknown := sorted(by_subject.keys() - names.keys()):
        raise UserError(f"{key}: {table.configuration}: rows of '{unknown[0]}', whom {_SUBJECTS} does not have")
    for subject, own in by_subject.items():
        # A thousand small files, which are written anew each time: not each of them waits for the disk.
        place = folder / names[subject] / table.file
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(_lines(own))
    report(f"{folder}/*/{table.file}: {len(rows):,} rows of {len(by_subject)} subjects")


def _subject_folders(folder: Path) -> dict[str, str]:
    """The folder of each subject, numbered as RWKU's own scripts number them."""
    found = read_columns(folder / _SUBJECTS, ("target",), "data fetch")
    names = [str(target) for _, (target,) in found]
    return {name: f"{number}_{name.replace(' ', '_').replace('/', '_')}" for number, name in enumerate(names, start=1)}


def _read(table: Table, commit: str, key: str) -> list[dict[str, Any]]:
    """The rows as the hub has them; UserError where they are others than the benchmark's."""
    place = Path(hub_place(table.hub, commit, table.configuration, table.split))
    columns = column_names(place, key)
    if lacking := [column for column in table.columns if column not in columns]:
        raise UserError(f"{key}: {place}: no column '{lacking[0]}'; found {', '.join(columns)}")
    rows = [dict(zip(columns, values, strict=True)) for _, values in read_columns(place, columns, key)]
    _counted(table, len(rows), str(place), key)
    return rows


def _count(place: Path, table: Table, key: str) -> int:
    return sum(1 for _ in read_columns(place, table.columns, key))


def _counted(table: Table, found: int, place: str, key: str) -> None:
    if table.rows is not None and found != table.rows:
        raise UserError(
            f"{key}: {place}: found {found:,} rows, expected the {table.rows:,} of {table.configuration}"
            f"{f' {table.split}' if table.split else ''}; move the file away, or name another --revision"
        )


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
