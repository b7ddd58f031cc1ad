"""What the card of a data set says of its configurations, looked at before `datasets` follows it.

    configurations = card_configurations(folder, "data.forget: hub:org/qa")     # {'forget01': {'data_files': ...}}

Whoever writes a card decides which files are read. They may be its data set's own and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from icu_ray.errors import UserError

CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
"""Files in which a data set describes itself."""


def card_configurations(folder: Path, named: str) -> dict[str, dict[str, Any]]:
    """What is said of each; UserError, which begins with `named`, where one names files outside of the folder."""
    import yaml
    from huggingface_hub import DatasetCard

    readme, alone = folder / "README.md", folder / ".huggingface.yaml"
    said: list[Any] = [DatasetCard.load(readme).data.to_dict()] if readme.is_file() else []
    if alone.exists():
        said.append(yaml.safe_load(alone.read_text(encoding="utf-8")))
    found = {}
    for card in said:
        entries = card.get("configs") if isinstance(card, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):  # what is none, `datasets` refuses
                for pattern in _texts([entry.get("data_files"), entry.get("data_dir")]):
                    if not _own(pattern):
                        raise outside(pattern, named)
                found[str(entry.get("config_name"))] = entry
    return found


def outside(name: str, named: str) -> UserError:
    """What is said of a card that names such a file."""
    return UserError(f"{named}: its card names files outside of it: {name!r}")


def stays_inside(name: str) -> bool:
    """Whether the path of a file is relative and nowhere leads up."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _own(pattern: str) -> bool:
    # fsspec, by which `datasets` finds files, also takes file:/x and a.zip::http://x.
    try:
        scheme = urlsplit(pattern).scheme
    except ValueError:
        return False
    return stays_inside(pattern) and not scheme and "://" not in pattern and "::" not in pattern


def _texts(said: Any) -> Iterator[str]:
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict | list):
        for each in said.values() if isinstance(said, dict) else said:
            yield from _texts(each)
