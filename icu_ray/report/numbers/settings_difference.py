"""In which settings, data and versions two sweeps differ, key by key.

key_differences(settings_of(first), settings_of(second))        # (KeyDifference("optim.lr", 1e-05, 0.0001), ...)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from icu_ray.report.collect import Collected
from icu_ray.report.numbers.variants import differing_keys
from icu_ray.storage.flat import flatten
from icu_ray.storage.results import Provenance

Only = Literal["first", "second"]
_WHERE = ("name", "storage")
"""Keys that differ between any two sweeps."""
_NAMED = ("models", "methods")


@dataclass(frozen=True)
class KeyDifference:
    """A key with its value on both sides. only: the side that alone has it; then the other one's value is None."""

    key: str
    first: Any
    second: Any
    only: Only | None = None


def settings_of(found: Collected) -> dict[str, Any]:
    """A sweep's settings by dotted key, else those by which its trials were made; without its name and storage."""
    made = [trial.provenance.config for trial in found.trials if trial.provenance is not None]
    config: Mapping[str, Any] = next(iter([*found.configs, *made]), {})
    return flatten({key: value for key, value in config.items() if key not in _WHERE})


def data_of(found: Collected) -> dict[str, str]:
    """Fingerprints of the texts, and of the files of each original model that has a result."""
    values = {"texts": [made.data for made in _made(found)]}
    for trial in found.trials:
        if trial.result is not None and trial.provenance is not None:
            values.setdefault(f"original model {trial.model}", []).append(trial.provenance.model)
    return _joined(values)


def versions_of(found: Collected) -> dict[str, str]:
    """Of this package with its commit, and of the others that count."""
    values: dict[str, list[str]] = {}
    for made in _made(found):
        said = f"{made.version} {made.commit[:12]}{' with local changes' * made.dirty}"
        values.setdefault("icu_ray", []).append(said)
        for package, version in made.packages.items():
            values.setdefault(package, []).append(version)
    return _joined(values)


def _made(found: Collected) -> list[Provenance]:
    """What the results were made from; where there is none yet, what the sweep would be made from."""
    made = [t.provenance for t in found.trials if t.provenance is not None and t.result is not None]
    return made or [sweep.record.provenance for sweep in found.sweeps if sweep.record is not None]


def _joined(values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each key's different values in one text."""
    texts = {key: "; ".join(sorted({each for each in several if each})) for key, several in values.items()}
    return {key: text for key, text in texts.items() if text}


def key_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[KeyDifference, ...]:
    """In the order of the keys. A model or method that one side alone has is one difference, not one for each key."""
    found: dict[str, KeyDifference] = {}
    whole = sorted(_entries(first) ^ _entries(second), key=len)
    for key in differing_keys([first, second]):
        named = next((name for name in whole if key.startswith(f"{name}.")), None)
        if named is None:
            only: Only | None = "second" if key not in first else "first" if key not in second else None
            found[key] = KeyDifference(key, first.get(key), second.get(key), only)
            continue
        mine, theirs = _below(named, first), _below(named, second)
        found[named] = KeyDifference(named, mine or None, theirs or None, "first" if mine else "second")
    return tuple(found.values())


def _entries(flat: Mapping[str, Any]) -> set[str]:
    """'methods.npo' and the like: named entries of lists."""
    parts = [key.split(".") for key in flat if key.partition(".")[0] in _NAMED]
    # A name may hold a dot ('models.1.3b.source'): an entry's own key 'name' says where it ends.
    return {".".join(part[:-1]) for part in parts if len(part) > 2 and part[-1] == "name"}


def _below(name: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in flat.items() if key.startswith(f"{name}.")}
