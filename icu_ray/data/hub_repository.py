"""A repository of the hub as a folder: its commit, the names of its files, and those of them that are asked for.

    commit = commit_of("org/qa", "main", "data.forget: hub:org/qa@main")
    names = file_names("org/qa", commit, named)
    folder = skeleton("org/qa", commit, names, named)       # tables are empty until they are fetched
    fetch("org/qa", commit, folder, ["full.json"], named)

Files lie in the hub client's own cache, and the folder, beside it, has links to them. `named`: for messages.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from icu_ray.config.benchmarks import BENCHMARK_HUBS
from icu_ray.config.data import BenchmarkData
from icu_ray.data.hub_cards import CARDS, stays_inside
from icu_ray.errors import UserError
from icu_ray.storage.files import cache_folder

TABLES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_PACKED = (".gz", ".bz2", ".xz", ".zst")


INSTEAD = "give a folder, as hub:./FOLDER, or a file"
"""What to do without a network, where a config's own key names the data set."""


def without_network(benchmark: BenchmarkData | type[BenchmarkData]) -> str:
    """What to do about a benchmark's data set; its section has one key for all its files."""
    return f"set data.folder=FOLDER, a folder with its files; {benchmark.fetched.format(folder='FOLDER')}"


def _instead(name: str) -> str:
    of = BENCHMARK_HUBS.get(name)
    return INSTEAD if of is None else without_network(of)


@functools.lru_cache(maxsize=16)
def commit_of(name: str, revision: str | None, named: str, instead: str = INSTEAD) -> str:
    """Of a branch that at which the local cache has it, else the hub's newest. instead: of a network, for messages."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    resolve = functools.partial(HfApi().resolve_revision, name, repo_type="dataset", revision=revision)
    with contextlib.suppress(RevisionResolutionError):
        return str(resolve(local_files_only=True).resolved)
    with hub_told(named, functools.partial(_of_data, instead=instead)):
        return str(resolve().resolved)


def ending(name: str) -> str:
    """How a file ends, without what says that it is compressed."""
    path = PurePosixPath(name)
    return (PurePosixPath(path.stem) if path.suffix in _PACKED else path).suffix.lower()


def file_names(name: str, commit: str, named: str) -> list[str]:
    """All files of a repository, from the cache or the hub; those in which it describes itself are then there."""
    return [path for path, _ in _tree(name, commit, named) if stays_inside(path)]


def table_sizes(name: str, commit: str, named: str, instead: str) -> dict[str, int]:
    """Bytes of each table of a repository. instead: of a network, for messages."""
    return {
        path: size for path, size in _tree(name, commit, named, instead) if ending(path) in TABLES and path not in CARDS
    }


def _tree(name: str, commit: str, named: str, instead: str | None = None) -> list[tuple[str, int]]:
    """The paths and bytes of its files."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    with hub_told(named, functools.partial(_of_data, instead=instead or _instead(name))):
        try:
            tree = get_cached_repo_tree(name, repo_type="dataset", revision=commit)
        except CachedRepoTreeNotFoundError:
            snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=list(CARDS))
            tree = get_cached_repo_tree(name, repo_type="dataset", revision=commit)
    return [(str(PurePosixPath(file.path)), int(file.size)) for file in tree]


def skeleton(name: str, commit: str, names: Iterable[str], named: str) -> Path:
    """A folder with the names of a repository's tables, empty until they are fetched, and its cards."""
    folder = kept(commit) / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in names:
        place = folder / file
        if ending(file) in TABLES and file not in CARDS and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink():  # into a cache that is gone
                _put(place, Path.touch)
            else:
                place.touch()
    fetch(name, commit, folder, [file for file in CARDS if file in set(names)], named)
    return folder


def kept(commit: str) -> Path:
    """Where this machine keeps what it made of a commit."""
    return cache_folder().absolute().resolve() / "hub_data" / commit


def fetch(name: str, commit: str, folder: Path, files: list[str], named: str) -> None:
    """Have these files of the skeleton lead into the hub client's cache, which downloads what it lacks."""
    from huggingface_hub import snapshot_download

    if not files:
        return
    if wrong := [file for file in files if not stays_inside(file)]:
        raise ValueError(f"{named}: {wrong[0]} is outside the folder whose files are replaced")
    patterns = [glob.escape(file) for file in files]
    with hub_told(named, functools.partial(_of_data, instead=_instead(name))):
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


Trouble = Literal["name", "revision", "repository", "network"]
"""What the hub client complains of: no name that a hub can have, nothing it knows of that name, or no answer."""


@contextlib.contextmanager
def hub_told(named: str, say: Callable[[Trouble, Exception], str]) -> Iterator[None]:
    """What the hub client raises inside becomes a UserError of one line: `named`, and what `say` says of it."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{named}: {say('name', error)}") from error
    except GatedRepoError as error:
        raise UserError(f"{named}: the hub asks for consent and a login; run 'hf auth login' first") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{named}: {say('revision', error)}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{named}: {say('repository', error)}") from error
    except Exception as error:
        if not is_network_error(error):
            raise
        raise UserError(f"{named}: {say('network', error)}") from error


def _of_data(trouble: Trouble, error: Exception, instead: str = INSTEAD) -> str:
    if trouble == "name":
        return " ".join(str(error).split())
    if trouble == "revision":
        return "the hub knows no such revision of it"
    if trouble == "repository":
        return "the hub knows no such data set; a folder is written hub:./FOLDER"
    return (
        f"not in the local cache, and the hub cannot be reached ({type(error).__name__}). Without a network {instead}"
    )


def wrong_id(name: str) -> str:
    """Why the hub can have no repository of this name; '' where it can."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return " ".join(str(error).split())
    return ""


def is_network_error(error: Exception) -> bool:
    """Connection, timeout, proxy and server errors; the hub client's transport differs by version."""
    family = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    transports = {"httpx", "httpx2", "httpcore", "requests", "urllib3", "huggingface_hub"}
    return isinstance(error, ConnectionError | TimeoutError) or bool(family & transports)
