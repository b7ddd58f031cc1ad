"""Artefacts that several trials share, each made once and kept under the hash of what decides its content.

A store lives at a local folder or an fsspec URL (s3://…, gs://…, memory://…). An artefact is a folder of files that
`make` writes; it becomes visible all at once, with a manifest of its key, sizes and SHA-256 sums, and is checked
against that manifest on every read: what is damaged, or another artefact, is made again and the log says so. Two makers
on one machine wait for each other; two on different machines may both work, and the later one takes the earlier one's.
Remote artefacts are mirrored to a local cache, so `get_or_make` always answers with a local folder.

    folder = Store("runs/store").get_or_make("pairs", {"sample": 0, "texts": fingerprint}, make)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout

from icu_ray.storage.files import cache_folder, file_system, join, local_path, read_bytes, sync_folder, write_atomic

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
_HASHABLE = "null, bool, int, finite float, str, and lists and string-keyed mappings of these"
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def content_hash(value: JsonValue) -> str:
    """SHA-256 of a plain value: equal values have equal hashes on every machine and in every Python.

    Floats count by their repr (0.1 and 0.10 are one), lists and tuples are alike, key order is not seen. TypeError on
    what has no honest hash: NaN, paths, sets, arrays, objects.
    """
    return hashlib.sha256(_canonical(value).encode("ascii")).hexdigest()


def _canonical(value: JsonValue) -> str:
    _refuse_unhashable(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _refuse_unhashable(value: JsonValue, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value!r} has no honest hash")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _refuse_unhashable(item, f"{where}[{number}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is no string")
            _refuse_unhashable(item, f"{where}.{key}")
    else:
        raise TypeError(f"{where}: {type(value).__name__} has no honest hash; allowed are {_HASHABLE}")


def stays_inside(name: str) -> bool:
    """Whether a relative name from a manifest or listing, which whoever may write there has chosen, stays below its
    folder: neither absolute nor by way of '..'."""
    return bool(name) and "\0" not in name and not name.startswith("/") and ".." not in name.split("/")


class _Damaged(Exception):
    """An artefact is there and is not what was written; the store has said so and removed it."""


class Store:
    """A content-addressed collection of artefacts below `root` (path or fsspec URL)."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        """`cache`: local folder that mirrors a remote root; default `files.cache_folder`."""
        path = local_path(root)
        self.remote = root.rstrip("/") if path is None else None
        if path is None:
            path = Path(cache or cache_folder()) / "store" / content_hash(self.remote)[:16]
        # Absolute, because Ray workers have another working directory than the driver.
        self.folder = path.absolute()

    def contains(self, kind: str, key: Mapping[str, JsonValue]) -> bool:
        """Whether a complete artefact is there (its bytes are checked only when it is got)."""
        name = content_hash([kind, key])
        if (self.folder / kind / name / MANIFEST).is_file():
            return True
        return self.remote is not None and read_bytes(join(self.remote, kind, name, MANIFEST)) is not None

    def location(self, kind: str, key: Mapping[str, JsonValue]) -> str:
        """Path or URL of an artefact's folder, be it there or not."""
        root = str(self.folder) if self.remote is None else self.remote
        return join(root, kind, content_hash([kind, key]))

    def local(self, kind: str, key: Mapping[str, JsonValue]) -> Path | None:
        """An artefact's folder where a complete one lies on this machine; its bytes are not checked."""
        folder = self.folder / kind / content_hash([kind, key])
        return folder if (folder / MANIFEST).is_file() else None

    def find(self, kind: str, key: Mapping[str, JsonValue]) -> Path | None:
        """Folder of an artefact that is there and whole, else None; a damaged one is removed, which is told."""

        def damaged(folder: Path) -> None:
            raise _Damaged

        if not self.contains(kind, key):
            return None
        try:
            return self.get_or_make(kind, key, damaged)
        except _Damaged:
            return None

    def get_or_make(self, kind: str, key: Mapping[str, JsonValue], make: Callable[[Path], None]) -> Path:
        """Folder of the artefact named by (kind, key); `make` fills an empty folder when it is missing or damaged."""
        name = content_hash([kind, key])
        home = self.folder / kind
        final = home / name
        home.mkdir(parents=True, exist_ok=True)
        # The kernel frees this lock when its holder dies, so a killed maker blocks nobody.
        with FileLock(home / f".{name}.lock"):
            self._remove_leftovers(home, name)
            if self._usable(final, kind, name):
                if self.remote is not None and not self._uploaded(kind, name):
                    self._upload(final, kind, name)
                return final
            if self.remote is not None and self._download(kind, name, final):
                return final
            with self._staging(home, name) as staging:
                make(staging)
                _write_manifest(staging, kind, key)
                self._publish(staging, final)
            if self.remote is not None:
                self._upload(final, kind, name)
        return final

    def remove_leftovers(self) -> None:
        """Remove what killed makers of this machine left; the lock of one that is at work keeps its own."""
        for staging in self.folder.glob(f"*/.*-{socket.gethostname()}-*.staging"):
            name = staging.name[1:].partition("-")[0]
            with contextlib.suppress(Timeout), FileLock(staging.parent / f".{name}.lock", timeout=0):
                self._remove_leftovers(staging.parent, name)

    @staticmethod
    def _usable(final: Path, kind: str, name: str) -> bool:
        if not final.exists():
            return False
        trouble = verify(final, name)
        if trouble is None:
            return True
        log.warning("artefact %s/%s in %s is damaged (%s); it is made again", kind, name[:12], final, trouble)
        shutil.rmtree(final)
        return False

    @staticmethod
    def _remove_leftovers(home: Path, name: str) -> None:
        """Staging folders that a killed maker of this machine left; the lock says that nobody works in them."""
        for leftover in home.glob(f".{name}-{socket.gethostname()}-*.staging"):
            shutil.rmtree(leftover, ignore_errors=True)

    @staticmethod
    @contextlib.contextmanager
    def _staging(home: Path, name: str) -> Iterator[Path]:
        staging = home / f".{name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}.staging"
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @staticmethod
    def _publish(staging: Path, final: Path) -> None:
        try:
            os.rename(staging, final)
        except OSError:
            # Another machine on a shared folder was faster; its artefact has the same key, hence the same meaning.
            if verify(final, final.name) is not None:
                raise
        sync_folder(final.parent)

    def _uploaded(self, kind: str, name: str) -> bool:
        assert self.remote is not None
        return read_bytes(join(self.remote, kind, name, MANIFEST)) is not None

    def _upload(self, final: Path, kind: str, name: str) -> None:
        """Files first and the manifest last: a remote artefact without manifest does not exist."""
        assert self.remote is not None
        names = [*_files(final), MANIFEST]
        for file in names:
            filesystem, inside = file_system(join(self.remote, kind, name, file))
            filesystem.makedirs(os.path.dirname(inside), exist_ok=True)
            filesystem.put_file(str(final / file), inside)

    def _download(self, kind: str, name: str, final: Path) -> bool:
        assert self.remote is not None
        manifest = read_bytes(join(self.remote, kind, name, MANIFEST))
        if manifest is None:
            return False
        with self._staging(final.parent, name) as staging:
            try:
                (staging / MANIFEST).write_bytes(manifest)
                for file in _manifest_files(staging):
                    filesystem, inside = file_system(join(self.remote, kind, name, file))
                    (staging / file).parent.mkdir(parents=True, exist_ok=True)
                    filesystem.get_file(inside, str(staging / file))
                trouble = verify(staging, name)
            except (FileNotFoundError, ValueError) as error:
                trouble = str(error)
            if trouble is None:
                self._publish(staging, final)
                return True
        log.warning("artefact %s/%s at %s is damaged (%s); it is made again", kind, name[:12], self.remote, trouble)
        return False


def verify(folder: Path, name: str | None = None) -> str | None:
    """None when every file is as the manifest says, else what is wrong. name: of the artefact that it must be of."""
    try:
        expected = _manifest_files(folder)
        if name is not None and (actual := _manifest_name(folder)) != name:
            return f"{MANIFEST} is of another artefact, {actual[:12]}"
    except FileNotFoundError:
        return f"no {MANIFEST}"
    except ValueError as error:
        return f"{MANIFEST}: {error}"
    found = set(_files(folder))
    if found != set(expected):
        return f"files differ from the manifest: {', '.join(sorted(found ^ set(expected)))}"
    for file, (size, digest) in expected.items():
        path = folder / file
        if path.stat().st_size != size:
            return f"{file} has {path.stat().st_size} bytes, expected {size}"
        if file_hash(path) != digest:
            return f"{file} has another SHA-256 than when it was written"
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[str]:
    """Relative names of all files of an artefact but its manifest."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for path in found if (name := path.relative_to(folder).as_posix()) != MANIFEST]


def _manifest_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by file name; ValueError when the manifest is no manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unexpected content: {error!r}") from error
    for name in files:
        if not stays_inside(name):
            raise ValueError(f"names {name!r}, outside the artefact")
    return files


def _manifest_name(folder: Path) -> str:
    """The name of the artefact that a manifest says it is of; ValueError where it has none."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    try:
        return content_hash([manifest["kind"], manifest["key"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"unexpected content: {error!r}") from error


def _write_manifest(folder: Path, kind: str, key: Mapping[str, JsonValue]) -> None:
    files = {}
    for name in _files(folder):
        path = folder / name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[name] = {"size": path.stat().st_size, "sha256": file_hash(path)}
    manifest = {"kind": kind, "key": key, "files": files}
    write_atomic(str(folder / MANIFEST), json.dumps(manifest, indent=1, sort_keys=True).encode())
