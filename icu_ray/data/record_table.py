"""The records of a file as columns: a sequence of them that makes each when it is asked for.

    writer = TableWriter(Record, texts=("id", "text"), numbers=("boundary",))
    for record in read(): writer.append(record)
    table = writer.finish()             # table[7], len(table), table.take(rows), table.texts["id"]

What stands in every row is kept by field (data/text_columns.py); what few rows have is kept for these alone.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from icu_ray.data.text_columns import TextColumn, TextWriter, joined_columns

T = TypeVar("T")


class RecordTable(Sequence[T]):
    """N records. texts, numbers: columns by field, without those in which no record has anything.

    rest: what a record has beside them, by row and field.
    """

    def __init__(
        self,
        make: Callable[..., T],
        count: int,
        texts: Mapping[str, TextColumn],
        numbers: Mapping[str, NDArray[np.int64]],
        rest: Mapping[int, Mapping[str, Any]],
    ) -> None:
        self._make, self._count, self._rest = make, count, rest
        self.texts, self.numbers = texts, numbers

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> RecordTable[T]: ...
    def __getitem__(self, place: int | slice) -> T | RecordTable[T]:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(self._count), dtype=np.int64))
        row = range(self._count)[place]
        known = {name: column[row] for name, column in self.texts.items()}
        numbers = {name: int(column[row]) for name, column in self.numbers.items()}
        return self._make(**{**known, **numbers, **self._rest.get(row, {})})

    def __iter__(self) -> Iterator[T]:
        names = (*self.texts, *self.numbers)
        columns = [*self.texts.values(), *map(_integers, self.numbers.values())]
        rows = zip(*columns, strict=True) if columns else repeat((), self._count)
        for row, values in enumerate(rows):
            yield self._make(**{**dict(zip(names, values, strict=True)), **self._rest.get(row, {})})

    def take(self, rows: NDArray[np.int64]) -> RecordTable[T]:
        """The records at `rows`, (M,) int64, without a copy of their texts."""
        rest = {n: self._rest[row] for n, row in enumerate(rows.tolist()) if row in self._rest} if self._rest else {}
        texts = {name: column.take(rows) for name, column in self.texts.items()}
        return RecordTable(self._make, len(rows), texts, {n: column[rows] for n, column in self.numbers.items()}, rest)


def _integers(column: NDArray[np.int64]) -> Iterator[int]:
    for first in range(0, len(column), 4096):
        yield from column[first : first + 4096].tolist()


class TableWriter(Generic[T]):
    """Records, one after the other, into a table. make: their dataclass. texts, numbers: its fields with columns."""

    def __init__(self, make: type[T], texts: Sequence[str], numbers: Sequence[str]) -> None:
        self._make = make
        self._texts = {name: TextWriter() for name in texts}
        self._numbers = {name: array("q") for name in numbers}
        self._none = {name: array("q") for name in (*texts, *numbers)}
        known: Any = make
        self._others = {f.name: f.default for f in dataclasses.fields(known) if f.name not in self._none}
        self._rest: dict[int, dict[str, Any]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, record: T) -> None:
        """UserError as in `PackedWriter.append`."""
        for name, writer in self._texts.items():
            text = getattr(record, name)
            writer.append(text or "")
            if text is None:
                self._none[name].append(self._count)
        for name, column in self._numbers.items():
            number = getattr(record, name)
            column.append(number or 0)
            if number is None:
                self._none[name].append(self._count)
        for name, default in self._others.items():
            if (value := getattr(record, name)) is not default:
                self._rest.setdefault(self._count, {})[name] = value
        self._count += 1

    def finish(self) -> RecordTable[T]:
        """A table of all that was written."""
        empty = {name for name, rows in self._none.items() if self._count and len(rows) == self._count}
        for name, rows in self._none.items():
            for row in rows if name not in empty else ():
                self._rest.setdefault(row, {})[name] = None
        return RecordTable(
            self._make,
            self._count,
            {name: writer.finish() for name, writer in self._texts.items() if name not in empty},
            {name: np.array(column, dtype=np.int64) for name, column in self._numbers.items() if name not in empty},
            self._rest,
        )


def joined_tables(tables: Sequence[RecordTable[T]]) -> RecordTable[T]:
    """One table of all their records, which have the same columns; without a copy of their texts."""
    first = tables[0]
    starts = np.cumsum([0, *map(len, tables)]).tolist()
    return RecordTable(
        first._make,
        starts[-1],
        {name: joined_columns([table.texts[name] for table in tables]) for name in first.texts},
        {name: np.concatenate([table.numbers[name] for table in tables]) for name in first.numbers},
        {start + row: rest for table, start in zip(tables, starts, strict=False) for row, rest in table._rest.items()},
    )
