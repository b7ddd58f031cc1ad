"""The few file operations that everything in storage needs, for local folders and fsspec URLs (s3://, gs://, memory://).

write_atomic(join(root, "result.json"), data); data = read_bytes(url); names = list_dir(url)
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError, without_secrets

CACHE_VARIABLE = "ICU_RAY_CACHE"


def cache_folder() -> Path:
    """What later runs on this machine are quicker by: $ICU_RAY_CACHE, else icu_ray in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get(CACHE_VARIABLE) or os.path.join(base, "icu_ray"))


def local_path(url: str) -> Path | None:
    """The path of a plain path or file:// URL, None for a remote URL."""
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url else Path(url)


def join(root: str, *parts: str) -> str:
    """Path or URL of something below `root`."""
    return "/".join((root.rstrip("/") or "/", *parts))


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a remote URL, and the path inside it."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:  # unknown protocol, or its package is missing
        raise UserError(without_secrets(f"storage {url}: {error}")) from error
    return filesystem, str(path)


def write_atomic(url: str, data: bytes) -> None:
    """Write a whole file so that a reader sees the old bytes or the new ones, never a part.

    Local: a temporary file, fsync, rename. Remote: one put, which object stores make visible at its end.
    """
    path = local_path(url)
    if path is None:
        filesystem, inside = file_system(url)
        filesystem.makedirs(os.path.dirname(inside), exist_ok=True)
        filesystem.pipe_file(inside, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files, results are for their whole group
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(url: str) -> bytes | None:
    """The content of a file, None where there is none."""
    path = local_path(url)
    try:
        if path is not None:
            return path.read_bytes()
        filesystem, inside = file_system(url)
        return bytes(filesystem.cat_file(inside))
    except (FileNotFoundError, NotADirectoryError):
        return None


def modified(url: str) -> float:
    """When a file was last written, in Unix seconds of the storage's clock; NotImplementedError where it tells none."""
    path = local_path(url)
    if path is not None:
        return path.stat().st_mtime
    filesystem, inside = file_system(url)
    filesystem.invalidate_cache()
    return float(filesystem.modified(inside).timestamp())


def list_dir(url: str) -> list[str]:
    """Sorted names directly below `url`, [] where there is no such folder; unfinished writes are left out."""
    path = local_path(url)
    if path is not None:
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    else:
        filesystem, inside = file_system(url)
        filesystem.invalidate_cache()
        try:
            names = [os.path.basename(str(entry).rstrip("/")) for entry in filesystem.ls(inside, detail=False)]
        except FileNotFoundError:
            names = []
    return sorted(name for name in names if not name.endswith(".tmp"))


def check_writable(root: str, *folders: str, key: str = "storage") -> None:
    """UserError unless files can be written below `root`, on this machine also in these `folders` of it as far as they
    are there; creates nothing that stays. key: what names the place."""
    path = local_path(root)
    try:
        if path is None:
            probe = join(root, f".writable-{uuid.uuid4().hex}")
            filesystem, inside = file_system(probe)
            write_atomic(probe, b"")
            filesystem.rm_file(inside)
            return
        for place in (path, *(path / name for name in folders)):
            existing = next(at for at in (place.absolute(), *place.absolute().parents) if os.path.lexists(at))
            if not existing.is_dir():
                what = "a file" if existing.exists() else "a link to nothing"
                raise UserError(f"{key} {root}: {existing} is {what}, expected a folder; set {key} to another place")
            with tempfile.TemporaryDirectory(dir=existing, prefix=".icu-ray-writable-"):
                pass
    except UserError:
        raise
    except Exception as error:  # a remote file system raises what its vendor likes; here all of it means 'no'
        said = without_secrets(f"{key} {root}: cannot be written ({type(error).__name__}: {error})")
        raise UserError(f"{said}; set {key} to a writable place") from error
