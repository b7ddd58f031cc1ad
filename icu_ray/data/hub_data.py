"""Data sets of the hub, or in a folder that is laid out like one: `hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT`.

    name = pinned("hub:locuslab/TOFU#forget01", "data.forget")     # 'hub:locuslab/TOFU@324592d8…#forget01'
    files = hub_files(name, "data.forget")                         # for data/table_files.py
    names, rows = hub_rows(name, "data.forget")                    # without files; each row: {column: value}

A branch is read at the commit at which the hub client's cache has it, else at the hub's newest. What is read are tables
of the repository, as the library `datasets` finds them (its card says which configuration has which files); code in it
is never run. Only the files of one configuration are downloaded, into the hub client's own cache, and from there they
are read without a network. A folder beside that cache holds the repository's file names, so that `datasets` sees all
of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData
from icu_ray.data.hub_cards import card_configurations, outside
from icu_ray.data.hub_repository import (
    INSTEAD,
    TABLES,
    commit_of,
    ending,
    fetch,
    file_names,
    kept,
    skeleton,
    without_network,
    wrong_id,
)
from icu_ray.errors import UserError, did_you_mean, explained

PREFIX = "hub:"
EXPECTED = "hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT, of which all after NAME may be left out"
OWN_READERS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
"""Files that are read as those of a user. `datasets`, which reads the others, guesses at types: '007' becomes 7."""
_SAID = {"config_name", "data_files", "data_dir", "default", "description", "version", "features", "sep", "delimiter"}
"""Of a configuration. Whatever else its card says is how `datasets` is to read its files, which is then left to it."""
_LISTED = 20
_PART = r"(?:#(?P<configuration>[^:#/\s]*)(?::(?P<split>\w[\w.-]*))?)?"
_FOLDER = re.compile(rf"hub:(?P<name>(?:~|\.{{0,2}}/|\.{{1,2}}$)[^#]*){_PART}")
_ID = re.compile(rf"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?{_PART}")

Files = tuple[tuple[str, Path], ...]
"""Their names in a data set, and where they are."""


@dataclass(frozen=True)
class HubData:
    """name: a hub id, or a folder where `local`. None: what the hub or the data set takes for want of another."""

    name: str
    revision: str | None
    configuration: str | None
    split: str | None
    local: bool

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        split = f":{self.split}" if self.split else ""
        part = f"#{self.configuration or ''}{split}" if self.configuration or split else ""
        return f"{PREFIX}{self.name}{revision}{part}"


def is_hub_data(name: object) -> bool:
    """Whether a name of a file means a data set; a file of such a name is meant by ./hub:..."""
    return str(name).startswith(PREFIX)


def parsed(name: str, key: str) -> HubData:
    """What a name says; UserError, which begins with `key`, for one that is malformed."""
    if found := _FOLDER.fullmatch(name):
        return HubData(found["name"], None, found["configuration"] or None, found["split"], True)
    found = _ID.fullmatch(name)
    if found is None or wrong_id(found["name"]):
        raise UserError(
            f"{key}: {name}: expected {EXPECTED}, or hub:./FOLDER#CONFIGURATION:SPLIT; OWNER and NAME are of letters, "
            "digits, - _ and ., without -- or .., and do not begin or end with - or . nor end with .git"
        )
    return HubData(found["name"], found["revision"], found["configuration"] or None, found["split"], False)


def pinned(name: str, key: str, instead: str = INSTEAD) -> str:
    """The name with the commit in place of a branch or nothing; UserError where neither cache nor hub knows it.

    instead: what to do without a network.
    """
    parsed(name.replace("{sample}", "0"), key)
    # It may stand after the # alone.
    head, mark, part = name.partition("#")
    data = parsed(head, key)
    commit = None if data.local else _commit(data, key, instead)
    return str(replace(data, revision=commit)) + mark + part


def pinned_data(data: RecordsData) -> RecordsData:
    """The section with the commits of its data sets, so that all that is read later is of the same ones."""
    named = {key: getattr(data, key) for key in ("forget", "pool", "heldout")}
    instead = INSTEAD if data.benchmark is None else without_network(data.benchmark)
    found = {key: pinned(name, f"data.{key}", instead) for key, name in named.items() if name and is_hub_data(name)}
    if not found:
        return data
    made = data.model_copy(update=found)
    if data.benchmark is not None:
        own = {"revision": parsed(found["forget"], "data").revision} if "forget" in found else found
        made = made.standing_for(data.benchmark.model_copy(update=own))
    return made


def hub_files(name: str, key: str) -> Files:
    """The files of its rows, in their order; none where `hub_rows` is to read them. UserError as there."""
    data = parsed(name, key)
    return _found(data, key, _state(data))[0]


def hub_rows(name: str, key: str, columns: Iterable[str] | None = None) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The names of its columns, and its rows (of these columns alone). UserError where it cannot be had or read."""
    data = parsed(name, key)
    table = _found(data, key, _state(data))[1]
    if columns is not None:
        wanted = list(dict.fromkeys(columns))
        for column in wanted:
            if column not in table.column_names:
                known = did_you_mean(column, table.column_names)
                raise UserError(f"{key}: {name}: no column '{column}'{known}; found {', '.join(table.column_names)}")
        table = table.select_columns(wanted)
    return list(table.column_names), iter(table)


def _commit(data: HubData, key: str, instead: str = INSTEAD) -> str:
    return commit_of(data.name, data.revision, f"{key}: {replace(data, configuration=None, split=None)}", instead)


def _state(data: HubData) -> tuple[tuple[str, int, int], ...]:
    """What changes when a folder's data set does; () for one of the hub, whose commit says it."""
    if not data.local:
        return ()
    files = [path for path in sorted(Path(data.name).expanduser().rglob("*")) if path.is_file()]
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@functools.lru_cache(maxsize=8)
def _found(data: HubData, key: str, state: tuple[tuple[str, int, int], ...]) -> tuple[Files, Any]:
    """Its files, or none and what `datasets` made of them: Arrow files that are mapped into memory.

    A plan asks for it several times.
    """
    named = f"{key}: {data}"
    if data.local:
        folder = Path(data.name).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"{named}: no such folder")
        _refuse_script([path.name for path in folder.iterdir()], folder.name, named)
        return _read(folder.resolve(), data, named, None)
    commit = _commit(data, key)
    names = file_names(data.name, commit, named)
    _refuse_script(names, data.name.rpartition("/")[2], named)
    return _read(skeleton(data.name, commit, names, named), data, named, commit, names)


def _refuse_script(names: Iterable[str], repository: str, named: str) -> None:
    if f"{repository}.py" in set(names):
        raise UserError(
            f"{named}: is made by a script, {repository}.py, which is never run; give its rows as a file, or a data "
            "set with files of rows"
        )


def _read(folder: Path, data: HubData, named: str, commit: str | None, names: Iterable[str] = ()) -> tuple[Files, Any]:
    import datasets

    with explained(named), _quietly():
        described = card_configurations(folder, named)
        known = datasets.get_dataset_config_names(str(folder))
        usual = datasets.get_dataset_default_config_name(str(folder))
        configuration = _chosen(data.configuration, known, usual, "configuration", named)
        builder = datasets.load_dataset_builder(str(folder), configuration)
        files = {str(split): [Path(file) for file in found] for split, found in builder.config.data_files.items()}
        split = _chosen(data.split, list(files), next(iter(files)) if len(files) == 1 else None, "split", named)
        places: dict[Path, str] = {}
        for file in (file for found in files.values() for file in found):
            plain = Path(os.path.normpath(file))
            name = plain.relative_to(folder).as_posix() if plain.is_relative_to(folder) else ""
            if not name or (commit is not None and name not in names):
                raise outside(str(file), named)
            if ending(name) not in TABLES:
                raise UserError(f"{named}: holds {file.name}; expected files of rows: {', '.join(TABLES)}")
            places[file] = name
        if commit is not None:
            fetch(data.name, commit, folder, list(places.values()), named)
        own = tuple((name, folder / name) for name in map(places.__getitem__, files[split]))
        plainly = set(described.get(configuration, ())) <= _SAID
        if plainly and all(Path(name).suffix.lower() in OWN_READERS for name, _ in own):
            return own, None
        # `datasets` takes two folders of one name, with equal cards, for the same data set.
        place = tempfile.mkdtemp(dir=_arrow_folder().name) if commit is None else str(kept(commit) / ".arrow")
        try:
            return (), datasets.load_dataset(str(folder), configuration, split=split, cache_dir=place)
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from error  # which says what is wrong


def _chosen(asked: str | None, known: list[str], usual: str | None, what: str, named: str) -> str:
    shown = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
    if asked is None and usual is None:
        sign = "#" if what == "configuration" else ":"
        raise UserError(f"{named}: has several {what}s; name one after {sign}: {shown}")
    if asked is not None and asked not in known:
        raise UserError(f"{named}: no {what} '{asked}'{did_you_mean(asked, known)}; found {shown}")
    return str(asked or usual)


@functools.cache
def _arrow_folder() -> tempfile.TemporaryDirectory[str]:
    """Where this process keeps what it made of folders."""
    return tempfile.TemporaryDirectory(prefix="icu_ray-data-")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the bars of `datasets`, which count what is soon done."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
