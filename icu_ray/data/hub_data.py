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
import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from icu_ray.config import RecordsData
from icu_ray.data.hub_cards import CARDS, card_configurations, outside, stays_inside
from icu_ray.errors import UserError, did_you_mean, explained
from icu_ray.storage.store import CACHE_VARIABLE

PREFIX = "hub:"
EXPECTED = "hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT, of which all after NAME may be left out"
_TABLES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
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
    if found is None or not _is_id(found["name"]):
        raise UserError(
            f"{key}: {name}: expected {EXPECTED}, or hub:./FOLDER#CONFIGURATION:SPLIT; OWNER and NAME are of letters, "
            "digits, - _ and ., without -- or .., and do not begin or end with - or . nor end with .git"
        )
    return HubData(found["name"], found["revision"], found["configuration"] or None, found["split"], False)


def _is_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def pinned(name: str, key: str) -> str:
    """The name with the commit in place of a branch or nothing; UserError where neither cache nor hub knows it."""
    parsed(name.replace("{sample}", "0"), key)
    # It may stand after the # alone.
    head, mark, part = name.partition("#")
    data = parsed(head, key)
    commit = None if data.local else _commit(data.name, data.revision, key)
    return str(replace(data, revision=commit)) + mark + part


def pinned_data(data: RecordsData) -> RecordsData:
    """The section with the commits of its data sets, so that all that is read later is of the same ones."""
    named = {key: getattr(data, key) for key in ("forget", "pool", "heldout")}
    found = {key: pinned(name, f"data.{key}") for key, name in named.items() if name and is_hub_data(name)}
    return data.model_copy(update=found) if found else data


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


@functools.lru_cache(maxsize=16)
def _commit(name: str, revision: str | None, key: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    resolve = functools.partial(HfApi().resolve_revision, name, repo_type="dataset", revision=revision)
    with contextlib.suppress(RevisionResolutionError):
        return str(resolve(local_files_only=True).resolved)
    with _hub_told(f"{key}: {PREFIX}{name}" + (f"@{revision}" if revision else "")):
        return str(resolve().resolved)


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
    commit = _commit(data.name, data.revision, key)
    names = _names(data.name, commit, named)
    _refuse_script(names, data.name.rpartition("/")[2], named)
    return _read(_skeleton(data.name, commit, names), data, named, commit, names)


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
            if _ending(name) not in _TABLES:
                raise UserError(f"{named}: holds {file.name}; expected files of rows: {', '.join(_TABLES)}")
            places[file] = name
        if commit is not None:
            _fetch(data.name, commit, folder, list(places.values()), named)
        own = tuple((name, folder / name) for name in map(places.__getitem__, files[split]))
        plainly = set(described.get(configuration, ())) <= _SAID
        if plainly and all(Path(name).suffix.lower() in OWN_READERS for name, _ in own):
            return own, None
        # `datasets` takes two folders of one name, with equal cards, for the same data set.
        place = tempfile.mkdtemp(dir=_arrow_folder().name) if commit is None else str(_kept(commit) / ".arrow")
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


def _ending(name: str) -> str:
    """How a file ends, without what says that it is compressed."""
    path = PurePosixPath(name)
    return (PurePosixPath(path.stem) if path.suffix in _PACKED else path).suffix.lower()


def _names(name: str, commit: str, named: str) -> list[str]:
    """All files of a repository, from the cache or the hub; those in which it describes itself are then there."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    with _hub_told(named):
        try:
            tree = get_cached_repo_tree(name, repo_type="dataset", revision=commit)
        except CachedRepoTreeNotFoundError:
            snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=list(CARDS))
            tree = get_cached_repo_tree(name, repo_type="dataset", revision=commit)
    return [str(PurePosixPath(file.path)) for file in tree if stays_inside(file.path)]


def _skeleton(name: str, commit: str, names: Iterable[str]) -> Path:
    """A folder with the names of a repository's tables, empty until they are fetched, and its cards."""
    folder = _kept(commit) / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in names:
        place = folder / file
        if _ending(file) in _TABLES and file not in CARDS and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink():  # into a cache that is gone
                _put(place, Path.touch)
            else:
                place.touch()
    _fetch(name, commit, folder, [file for file in CARDS if file in set(names)], f"{PREFIX}{name}@{commit}")
    return folder


def _kept(commit: str) -> Path:
    """Where this machine keeps what it made of a commit."""
    base = Path(os.environ.get(CACHE_VARIABLE) or os.path.expanduser("~/.cache/icu_ray"))
    return base.absolute().resolve() / "hub_data" / commit


def _fetch(name: str, commit: str, folder: Path, files: list[str], named: str) -> None:
    """Have these files of the skeleton lead into the hub client's cache, which downloads what it lacks."""
    from huggingface_hub import snapshot_download

    if not files:
        return
    if wrong := [file for file in files if not stays_inside(file)]:
        raise ValueError(f"{named}: {wrong[0]} lies outside of the folder whose files are replaced")
    patterns = [glob.escape(file) for file in files]
    with _hub_told(named):
        snapshot = Path(snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=patterns))
    for file in files:
        place, real = folder / file, (snapshot / file).resolve()
        if place.is_symlink() and place.resolve() == real:
            continue
        _put(place, functools.partial(Path.symlink_to, target=real))


def _put(place: Path, make: Callable[[Path], None]) -> None:
    """Another process may do the same at this moment."""
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        made = Path(beside) / "made"
        make(made)
        os.replace(made, place)


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


@contextlib.contextmanager
def _hub_told(named: str) -> Iterator[None]:
    """What the hub client raises becomes a UserError of one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{named}: {' '.join(str(error).split())}") from error
    except GatedRepoError as error:
        raise UserError(f"{named}: the hub asks for consent and a login; run 'hf auth login' first") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{named}: the hub knows no such revision of it") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{named}: the hub knows no such data set; a folder is written hub:./FOLDER") from error
    except Exception as error:
        if not is_network_error(error):
            raise
        raise UserError(
            f"{named}: not in the local cache, and the hub cannot be reached ({type(error).__name__}). Without a "
            "network give a folder, as hub:./FOLDER, or a file"
        ) from error


def is_network_error(error: Exception) -> bool:
    """Connection, timeout, proxy and server errors; the hub client's transport differs by version."""
    family = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    transports = {"httpx", "httpx2", "httpcore", "requests", "urllib3", "huggingface_hub"}
    return isinstance(error, ConnectionError | TimeoutError) or bool(family & transports)
