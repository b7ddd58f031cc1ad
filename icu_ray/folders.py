"""Whole folders in storage, local or behind an fsspec URL: fetched, removed, and handed to Arrow.

with fetched("s3://bucket/runs/demo/trials/ab12/model") as folder: ...
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icu_ray.store import file_system, list_dir, local_path


def remove(url: str) -> None:
    """Delete a file or folder, local or remote, if it is there."""
    path = local_path(url)
    if path is not None and path.is_symlink():
        path.unlink()
        return
    filesystem, inside = file_system(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm(inside, recursive=True)


@contextlib.contextmanager
def fetched(url: str, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """The folder itself where it is local; else a copy of it for a while, less the files with the endings `without`."""
    folder = local_path(url)
    if folder is not None:
        yield folder
        return
    filesystem, inside = file_system(url)
    with tempfile.TemporaryDirectory(prefix="icu_ray_fetched_") as copy:
        if without:
            for name in list_dir(url):
                if not name.endswith(without):
                    filesystem.get_file(f"{inside.rstrip('/')}/{name}", str(Path(copy) / name))
        else:
            filesystem.get(inside.rstrip("/") + "/", copy + "/", recursive=True)
        yield Path(copy)


def put(folder: str, url: str) -> None:
    """Copy what lies in a local folder to a remote one."""
    filesystem, inside = file_system(url)
    filesystem.put(folder + "/", inside, recursive=True)


def arrow_file_system(url: str) -> tuple[Any, str]:
    """The file system of a remote URL as Ray takes it (None for local ones), and the path in it."""
    folder = local_path(url)
    if folder is not None:
        return None, str(folder)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, inside = file_system(url)
    return PyFileSystem(FSSpecHandler(filesystem)), inside
