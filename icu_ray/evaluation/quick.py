"""A small suite on the synthetic world of the quickstart: what a stand-in can know of records it has never read.

    tasks = quick_rows("choice", QuickWorld()), quick_rows("cloze", QuickWorld())

All of it is made from held-out records by seed: `choice` asks which of four entries goes on a record (its own next one
or one of three other kinds of record), `cloze` for the last word of a name that all records share ("camping" ->
"stove"), the dialogue for a record's next entry after its earlier ones, and the perplexity is that of whole records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random

from icu_ray.data.synthetic import WORLD, make_records
from icu_ray.evaluation.mirror import Row
from icu_ray.store import JsonValue

CANDIDATES = 4
_ENTRY = re.compile(r"(?<=[a-z0-9)]{2}\.) (?=[A-Z])")
"""Between sentences; the full stop after "Dr" does not end one."""
_NAMES = sorted({name for names in WORLD.values() for name in names.split("|") if " " in name})


@dataclass(frozen=True)
class QuickWorld:
    """Whose held-out records: those after `records` rows of the world of `seed`, as a sweep's data section says."""

    seed: int = 0
    records: int = 640
    heldout: int = 64
    tokens: int = 128

    def key(self) -> dict[str, JsonValue]:
        """What decides the rows made of this world."""
        return {"world": dict(asdict(self)), "version": 1}

    def texts(self) -> list[str]:
        """The held-out records."""
        return make_records(self.seed, self.records, self.records + self.heldout, self.tokens)


def entries_of(record: str) -> list[str]:
    """A record's sentences."""
    return _ENTRY.split(record)


def quick_rows(kind: str, world: QuickWorld) -> list[Row]:
    """Rows of the tasks quick_choice and quick_cloze."""
    return _choices(world) if kind == "choice" else _clozes(world)


def quick_dialogues(world: QuickWorld) -> list[list[str]]:
    """Each record as turns: its sentences, the last of which is to be said."""
    return [entries for entries in map(entries_of, world.texts()) if len(entries) >= 2]


def _choices(world: QuickWorld) -> list[Row]:
    records = [entries_of(text) for text in world.texts()]
    rows: list[Row] = []
    for number, entries in enumerate(records):
        random = Random(f"{world.seed}:{number}")
        at = len(entries) // 2
        others = [other for other in records if other[0].split()[0] != entries[0].split()[0]]
        if at < 1 or len(others) < CANDIDATES - 1:
            continue
        wrong = [other[-1] for other in random.sample(others, CANDIDATES - 1)]
        label = random.randrange(CANDIDATES)
        candidates = [*wrong[:label], entries[at], *wrong[label:]]
        rows.append({"context": " ".join(entries[:at]), "choices": candidates, "label": label})
    return rows


def _clozes(world: QuickWorld) -> list[Row]:
    rows: list[Row] = []
    for text in world.texts():
        places: Mapping[int, str] = {
            found.end(): name for name in _NAMES for found in re.finditer(rf"\b{re.escape(name)}\b", text)
        }
        for end in sorted(places):
            last = places[end].split()[-1]
            rows.append({"context": text[: end - len(last) - 1], "target": f" {last}"})
    return rows
