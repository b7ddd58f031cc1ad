"""A user's own texts: files with a text column, as data/table_files.py reads them.

The forget file may name the sample (`forget-{sample}.jsonl`); its rows are the targets, the pool file's rows the pool.
A row that is in both is refused: unlearning it while learning it says nothing. Texts that differ only in line ends and
blanks are the same text. Whatever cannot be read is refused with file, line and what was expected.

    records = read_records(Path("forget.jsonl"), "text", None, key="data.forget")
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icu_ray.config import RecordsData
from icu_ray.data.corpus import Corpus, check_of, row_digests
from icu_ray.data.examples import Examples
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError


@dataclass(frozen=True)
class Record:
    """One text with its id and where it stands ('line 7', 'row 7')."""

    id: str
    text: str
    where: str

    @property
    def content(self) -> str:
        """The same for texts that differ only in line ends, in blanks, or in how an accent is encoded."""
        return " ".join(unicodedata.normalize("NFC", self.text).split())


def read_records(path: Path, text_column: str, id_column: str | None, key: str, prefix: str = "row") -> list[Record]:
    """All records of a file; ids are the id column's, else '<prefix>-<number>' counted from 1. `key`: for messages."""
    columns = (text_column,) if id_column is None else (text_column, id_column)
    records: list[Record] = []
    first: dict[str, str] = {}
    for number, (where, values) in enumerate(read_columns(path, columns, key), start=1):
        text = values[0]
        if not isinstance(text, str):
            raise UserError(f"{key}: {path}: {where}: column '{text_column}' holds {_kind(text)}, expected text")
        if not text.strip():
            raise UserError(f"{key}: {path}: {where}: column '{text_column}' is empty; remove the row or fill it")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{key}: {path}: {where}: column '{text_column}' holds half a character (a lone surrogate)")
        name = f"{prefix}-{number}"
        if id_column is not None:
            if not isinstance(values[1], (str, int)) or isinstance(values[1], bool) or values[1] == "":
                raise UserError(
                    f"{key}: {path}: {where}: id column '{id_column}' holds {_kind(values[1])}, expected text or number"
                )
            name = str(values[1])
        if name in first:
            raise UserError(f"{key}: {path}: id '{name}' stands twice, in {first[name]} and {where}")
        first[name] = where
        records.append(Record(name, text, where))
    if not records:
        raise UserError(f"{key}: {path}: holds no rows")
    return records


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == "" else type(value).__name__


def load_records(data: RecordsData, samples: Sequence[int]) -> Corpus:
    """Targets, pool and held-out rows of a config; UserError on anything that would make the result meaningless."""
    by_sample = "{sample}" in data.forget
    if not by_sample and len(samples) > 1:
        raise UserError(
            f"data.forget: {data.forget} is one file for samples {', '.join(map(str, samples))}; "
            "put {sample} into its name, or set samples to one number"
        )

    def read(name: str, key: str, prefix: str) -> list[Record]:
        return read_records(Path(name), data.text_column, data.id_column, f"data.{key}", prefix)

    forget = {
        sample: read(data.forget.replace("{sample}", str(sample)), "forget", f"forget{sample if by_sample else ''}")
        for sample in samples
    }
    pool = read(data.pool, "pool", "pool") if data.pool is not None else []
    heldout = read(data.heldout, "heldout", "heldout") if data.heldout is not None else []
    if data.heldout_rows:
        if data.heldout_rows >= len(pool):
            raise UserError(
                f"data.heldout_rows: {data.heldout_rows} of the {len(pool)} rows of {data.pool or 'no pool'} leave "
                "none to pair with"
            )
        heldout = pool[-data.heldout_rows :]
        kept_out = {record.content for record in heldout}
        # A text that stands in the pool once more would be learnt, and then asked for as one that was not.
        pool = [record for record in pool[: -data.heldout_rows] if record.content not in kept_out]
    for sample, records in forget.items():
        name = data.forget.replace("{sample}", str(sample))
        _refuse_twice(records, name)
        for key, others, other_name in (("pool", pool, data.pool), ("heldout", heldout, data.heldout)):
            _refuse_overlap(records, name, others, f"data.{key}", str(other_name))
    rows: dict[str, Record] = {}
    for record in (*(record for records in forget.values() for record in records), *pool):
        known = rows.setdefault(record.id, record)
        if known.text != record.text:
            raise UserError(f"data.id_column: id '{record.id}' names two different texts of the forget and pool files")
    place = {name: number for number, name in enumerate(rows)}
    targets = {sample: np.array([place[r.id] for r in records], dtype=np.int64) for sample, records in forget.items()}
    pool_rows = np.array([place[record.id] for record in pool], dtype=np.int64)
    pools = dict.fromkeys(samples, pool_rows)
    everything = [*rows.values(), *heldout]
    heldout_rows = np.arange(len(rows), len(everything))
    digests = row_digests(record.text.encode("utf-8", "surrogatepass") for record in everything)
    ids = [record.id for record in everything]
    return Corpus(
        rows=_examples(list(rows.values())),
        targets=targets,
        pools=pools,
        heldout=_examples(heldout) if heldout else None,
        check=check_of("records", ids, digests, targets, pools, heldout_rows),
    )


def _examples(records: Sequence[Record]) -> Examples:
    return Examples(tuple(record.id for record in records), tuple(record.text for record in records))


def _refuse_twice(forget: Sequence[Record], name: str) -> None:
    first: dict[str, Record] = {}
    for record in forget:
        known = first.setdefault(record.content, record)
        if known is not record:
            raise UserError(
                f"data.forget: {name}: the same text stands twice: '{known.id}' ({known.where}) and '{record.id}' "
                f"({record.where}); remove one of them"
            )


def _refuse_overlap(forget: Sequence[Record], name: str, others: Sequence[Record], key: str, other_name: str) -> None:
    by_text = {record.content: record for record in others}
    by_id = {record.id: record for record in others}
    shared = [(record, by_text.get(record.content) or by_id.get(record.id)) for record in forget]
    pairs = [(mine, other) for mine, other in shared if other is not None]
    if pairs:
        named = "; ".join(f"'{mine.id}' ({mine.where}) is '{other.id}' ({other.where})" for mine, other in pairs[:5])
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise UserError(
            f"{key}: {other_name}: {len(pairs)} rows to forget ({name}) are in it too: {named}{more}; remove them"
        )
