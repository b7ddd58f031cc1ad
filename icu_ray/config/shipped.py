"""The configs that come with the package, and which file a name means.

config = load_config(find_config("table1"))
"""

from __future__ import annotations

import itertools
from pathlib import Path

from icu_ray.errors import UserError, did_you_mean

DEFAULT_CONFIG = "quickstart"


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "tune_configs"
    return inside if inside.is_dir() else package.parent / "tune_configs"


def shipped_configs() -> list[str]:
    """Names of the shipped configs, sorted."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def config_summary(name: str) -> str:
    """What a shipped config says of itself: the comment at its top."""
    text = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    top = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in top)


def find_config(name: str | None) -> Path:
    """A config file: a path, or the name of a shipped one ('paper', 'tune_configs/paper.yaml'); None: quickstart."""
    given = Path(name or DEFAULT_CONFIG)
    if given.is_file():
        return given
    shipped = config_folder() / f"{given.name.removesuffix('.yaml')}.yaml"
    if shipped.is_file() and given.parent.name in ("", "tune_configs"):
        return shipped
    known = shipped_configs()
    beside = [str(path) for ending in ("yaml", "yml") for path in given.parent.glob(f"*.{ending}")]
    near = (did_you_mean(str(given), beside) if given.suffix else "") or did_you_mean(given.stem, known)
    raise UserError(
        f"config {given}: no such file{near}; expected a YAML file, or one of the shipped configs: {', '.join(known)}"
    )
