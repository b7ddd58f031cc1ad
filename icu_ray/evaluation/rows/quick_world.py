"""A small suite on the quickstart's made-up records: what a stand-in can know of records it has never read.

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

from icu_ray.data.pen import WORLD
from icu_ray.data.synthetic import make_records
from icu_ray.evaluation.rows.read_mirror import Row
from icu_ray.storage.store import JsonValue

CANDIDATES = 4
_ENTRY = re.compile(r"(?<=\.)(?<!Dr\.) (?=[A-Z]|\d{1,2} [A-Z][a-z]+ \d{4}:)")
"""Between sentences; a dated entry of some kinds of record begins with its day."""
_NAMES = sorted(
    name
    for field, names in WORLD.items()
    if field != "doctor"  # "Dr." does not say which
    for name in names.split("|")
    if " " in name
)
_KINDS = ("clinic", "bank", "shop", "insurer")


@dataclass(frozen=True)
class QuickWorld:
    """Whose held-out records: those after the first `records` that `seed` makes, as a sweep's data section says."""

    seed: int = 0
    records: int = 640
    heldout: int = 64
    tokens: int = 128

    def key(self) -> dict[str, JsonValue]:
        """What decides the rows."""
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


def kind_of(record: str) -> str:
    """Which kind of record this is, by how it begins."""
    for kind in _KINDS:
        if record.startswith(tuple(WORLD[kind].split("|"))):
            return kind
    return "staff" if record.startswith("Staff file") else "contact"


def _choices(world: QuickWorld) -> list[Row]:
    texts = world.texts()
    entries = [(kind_of(text), entry) for text in texts for entry in entries_of(text)[2:]]
    rows: list[Row] = []
    for number, text in enumerate(texts):
        own = entries_of(text)
        at = len(own) // 2
        right = own[at]
        # Of about the same length: the sum of log-probabilities prefers what is short.
        others = sorted({entry for kind, entry in entries if kind != kind_of(text)})
        wrong = sorted(others, key=lambda entry: (abs(len(entry) - len(right)), entry))[: CANDIDATES - 1]
        if at < 1 or len(wrong) < CANDIDATES - 1:
            continue
        label = Random(f"{world.seed}:{number}").randrange(CANDIDATES)
        candidates = [*wrong[:label], right, *wrong[label:]]
        rows.append({"context": " ".join(own[:at]), "choices": candidates, "label": label})
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
