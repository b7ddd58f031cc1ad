"""Files of the field's benchmarks: whether a folder has those that a config reads.

check_benchmark_files(config.data)      # UserError: what was looked for, where, and how it comes there
"""

from __future__ import annotations

from pathlib import Path

from icu_ray.config import RecordsData
from icu_ray.data.hub_data import is_hub_data
from icu_ray.errors import UserError, did_you_mean


def check_benchmark_files(data: RecordsData) -> None:
    """UserError where a benchmark's folder lacks a file to forget or to keep; nothing for a user's own texts."""
    section = data.benchmark
    folder = getattr(section, "folder", None)
    if section is None or folder is None:
        return
    wanted = [Path(name) for name in (data.forget, data.pool) if name is not None and not is_hub_data(name)]
    # A user's own pool is told of as a user's own file.
    inside = [path for path in wanted if path.is_relative_to(folder)]
    missing = [path.relative_to(folder).as_posix() for path in inside if not path.is_file()]
    if not missing:
        return
    source, found = getattr(section, "source", ""), sorted(_names(Path(folder)))
    part = next((name.partition("/")[0] for name in missing if "/" in name), missing[0])
    near = did_you_mean(part, [name for name in found if name != part])
    pieces = ", 'icu-ray data pieces' cuts them" if getattr(section, "pieces", None) else ""
    what = "there is no such folder" if not Path(folder).is_dir() else f"it lacks {', '.join(missing)}{near}"
    raise UserError(
        f"data.folder: {folder}: {what}; data.source={source} reads {', '.join(_below(inside, folder))} there; "
        f"{section.fetched.format(folder=folder)}{pieces}"
    )


def _below(paths: list[Path], folder: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
