"""Whole folders in storage, local or behind an fsspec URL: fetched, removed, and handed to Arrow.

with fetched("s3://bucket/runs/demo/trials/ab12/model") as folder: ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.files import file_system, local_path
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.store import stays_inside


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
    with scratch_folder() as copy:
        root = inside.rstrip("/") + "/"
        names = [str(path).removeprefix(root) for path in filesystem.find(inside)]
        names = [name for name in names if not name.endswith(without)]
        for name in names:
            if not stays_inside(name):  # a bucket takes '..' for a name like any other
                shown = without_secrets(url)
                raise UserError(f"{shown}: holds a file named {name!r}, which leads out of the folder; remove it")
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        filesystem.get([root + name for name in names], [str(copy / name) for name in names])
        yield copy


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
