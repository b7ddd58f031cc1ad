"""A user's own texts: .jsonl, .csv or .parquet files with a text column.

The forget file may name the sample (`forget-{sample}.jsonl`); its rows are the targets, the pool file's rows the pool.
A row that is in both is refused: unlearning it while learning it says nothing. Whatever cannot be read is refused with
file, line and what was expected.

    records = read_records(Path("forget.jsonl"), "text", None, key="data.forget")
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icu_ray.config import RecordsData
from icu_ray.data.corpus import Corpus, check_of, row_digests
from icu_ray.data.examples import Examples
from icu_ray.errors import UserError, did_you_mean

READERS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Record:
    """One text with its id and where it stands ('line 7', 'row 7')."""

    id: str
    text: str
    where: str


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


def read_columns(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[str, list[Any]]]:
    """('line 7', values in the columns' order) of each row of a .jsonl, .csv or .parquet file. `key`: for messages."""
    if path.suffix not in READERS:
        raise UserError(f"{key}: {path}: expected a file ending in {', '.join(READERS)}")
    if not path.is_file():
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{key}: {path}: no such file{did_you_mean(path.name, near)}")
    return {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[path.suffix](path, columns, key)


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == "" else type(value).__name__


def _missing(path: Path, key: str, column: str, found: Sequence[str], where: str = "") -> UserError:
    shown = ", ".join(found) or "nothing"
    return UserError(f"{key}: {path}: {where}no column '{column}'{did_you_mean(column, found)}; found {shown}")


def _jsonl(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[str, list[Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # no JSON or UTF-8, 5,000 digits, endless nesting
                raise UserError(f"{key}: {path}: line {number}: no JSON object ({error}); cut short?") from error
            if not isinstance(record, dict):
                raise UserError(f"{key}: {path}: line {number}: found {type(record).__name__}, expected an object")
            for column in columns:
                if column not in record:
                    raise _missing(path, key, column, list(record), f"line {number}: ")
            yield f"line {number}", [record[column] for column in columns]


def _csv(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[str, list[Any]]]:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)  # strict: a quote that is never closed means a truncated file
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    raise _missing(path, key, column, header)
            places = [header.index(column) for column in columns]
            for values in reader:
                if not values:
                    continue
                where = f"the record ending on line {reader.line_num}"
                if len(values) != len(header):
                    raise UserError(f"{key}: {path}: {where}: found {len(values)} fields, expected {len(header)}")
                yield where, [values[place] for place in places]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {path}: no readable CSV ({error}); cut short?") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[str, list[Any]]]:
    # Only where a parquet file is read: the import costs half a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.names
            for column in columns:
                if column not in found:
                    raise _missing(path, key, column, found)
            # Row group by row group, so that a file cut in the middle is found by the group that cannot be read.
            number = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(columns))
                for values in zip(*(table.column(column).to_pylist() for column in columns), strict=True):
                    number += 1
                    yield f"row {number}", list(values)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{key}: {path}: no readable parquet ({error}); truncated?") from error


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
        kept_out = {record.text for record in heldout}
        # A text that stands in the pool once more would be learnt, and then asked for as one that was not.
        pool = [record for record in pool[: -data.heldout_rows] if record.text not in kept_out]
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
        known = first.setdefault(record.text, record)
        if known is not record:
            raise UserError(
                f"data.forget: {name}: the same text stands twice: '{known.id}' ({known.where}) and '{record.id}' "
                f"({record.where}); remove one of them"
            )


def _refuse_overlap(forget: Sequence[Record], name: str, others: Sequence[Record], key: str, other_name: str) -> None:
    by_text = {record.text: record for record in others}
    by_id = {record.id: record for record in others}
    shared = [(record, by_text.get(record.text) or by_id.get(record.id)) for record in forget]
    pairs = [(mine, other) for mine, other in shared if other is not None]
    if pairs:
        named = "; ".join(f"'{mine.id}' ({mine.where}) is '{other.id}' ({other.where})" for mine, other in pairs[:5])
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise UserError(
            f"{key}: {other_name}: {len(pairs)} rows to forget ({name}) are in it too: {named}{more}; remove them"
        )
