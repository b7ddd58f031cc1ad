"""Many texts as one sequence that holds no Python object for each: a pool may have a million of them.

    writer = TextWriter()
    for text in read(): writer.append(text)
    texts = writer.finish()             # texts[7], len(texts), texts.take(rows): a Sequence of str

Texts lie end to end in UTF-8 with their ends beside them, as Arrow lays them out. What is larger than IN_MEMORY lies in
a file without a name in the system's folder for such files, which is mapped into memory: its pages are read when they
are asked for, and the system takes them back when it needs room. A column goes to other processes as whole buffers, so
that Ray keeps one copy of it a node.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from icu_ray.errors import UserError

IN_MEMORY = 8 * 2**20
"""Bytes that are held before they are written to the file."""
_AT_ONCE = 2**18
"""Bytes of texts that an iteration reads at one time."""


class Packed:
    """N byte strings in one buffer. data: (B,) uint8; ends: (N + 1,) int64, where each begins and the last ends."""

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[np.int64], mapped: mmap.mmap | None = None) -> None:
        self.data, self.ends, self._mapped = data, ends, mapped

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.data, self.ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def between(self, first: int, last: int) -> memoryview:
        """The bytes of the strings first..last-1, end to end."""
        return self.data[self.ends[first] : self.ends[last]].data

    def release(self) -> None:
        """Gives the file's pages back, which are read again when they are asked for."""
        if self._mapped is not None and hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


class PackedWriter:
    """Byte strings, one after the other, into a `Packed`."""

    def __init__(self) -> None:
        self._waiting, self._ends, self._written = bytearray(), array("q", [0]), 0
        self._file: Any = None

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, content: bytes) -> None:
        """UserError where the system's folder for such files has no room."""
        self._waiting += content
        self._ends.append(self._written + len(self._waiting))
        if len(self._waiting) >= IN_MEMORY:
            self._flush()

    def _flush(self) -> None:
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="icu-ray-texts-")  # noqa: SIM115 - it is mapped
            self._file.write(self._waiting)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"TMPDIR: {tempfile.gettempdir()} has no room for a copy of the texts ({error.strerror}); set TMPDIR "
                "to a folder that has"
            ) from error
        self._written += len(self._waiting)
        self._waiting = bytearray()

    def finish(self) -> Packed:
        ends = np.frombuffer(self._ends, dtype=np.int64)
        if self._file is None:
            return Packed(np.frombuffer(bytes(self._waiting), dtype=np.uint8), ends)
        self._flush()
        with self._file:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return Packed(np.frombuffer(mapped, dtype=np.uint8), ends, mapped)


class TextColumn(Sequence[str]):
    """N texts in one or several buffers; rows: (N,) int64 which of all their texts these are, None: all, in order."""

    def __init__(self, parts: Sequence[Packed], rows: NDArray[np.int64] | None = None) -> None:
        self._parts, self._rows = tuple(parts), rows
        self._starts = np.cumsum([0, *map(len, self._parts)])

    def __reduce__(self) -> tuple[Any, ...]:
        # A few of many texts do not take all of them along.
        packed = self if self._rows is None or 2 * len(self._rows) > self._starts[-1] else text_column(self)
        return TextColumn, (packed._parts, packed._rows)

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> TextColumn: ...
    def __getitem__(self, place: int | slice) -> str | TextColumn:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self)), dtype=np.int64))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place = place % len(self)
        row = int(place if self._rows is None else self._rows[place])
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        row -= int(self._starts[part])
        return _text(self._parts[part].between(row, row + 1))

    def __iter__(self) -> Iterator[str]:
        if self._rows is None:
            yield from self._stored(0, len(self))
            return
        # Rows that follow each other are read together.
        borders = [0, *(np.flatnonzero(np.diff(self._rows) != 1) + 1).tolist(), len(self._rows)]
        for low, high in itertools.pairwise(borders):
            if low < high:
                yield from self._stored(int(self._rows[low]), int(self._rows[high - 1]) + 1)

    def _stored(self, low: int, high: int) -> Iterator[str]:
        """The stored texts low..high-1."""
        for part, start in zip(self._parts, self._starts.tolist(), strict=False):
            first, end = max(low - start, 0), min(high - start, len(part))
            while first < end:
                most = int(np.searchsorted(part.ends, part.ends[first] + _AT_ONCE, side="right")) - 1
                last = min(max(most, first + 1), end)
                content = bytes(part.between(first, last))
                ends = (part.ends[first : last + 1] - part.ends[first]).tolist()
                part.release()
                yield from (_text(content[a:b]) for a, b in itertools.pairwise(ends))
                first = last

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: NDArray[np.int64]) -> TextColumn:
        """The texts at `rows`, (M,) int64, without a copy of them."""
        return TextColumn(self._parts, rows if self._rows is None else self._rows[rows])


def _text(content: bytes | memoryview) -> str:
    return str(content, "utf-8", "surrogatepass")


class TextWriter:
    """Texts, one after the other, into a column."""

    def __init__(self) -> None:
        self._packed = PackedWriter()

    def append(self, text: str) -> None:
        """UserError as in `PackedWriter.append`."""
        self._packed.append(text.encode("utf-8", "surrogatepass"))

    def finish(self) -> TextColumn:
        return TextColumn([self._packed.finish()])


def text_column(texts: Iterable[str]) -> TextColumn:
    """A column of these texts, copied."""
    writer = TextWriter()
    for text in texts:
        writer.append(text)
    return writer.finish()


def joined_columns(columns: Sequence[TextColumn]) -> TextColumn:
    """One column of all their texts, without a copy of them."""
    parts = [part for column in columns for part in column._parts]
    if all(column._rows is None for column in columns):
        return TextColumn(parts)
    rows, start = [], 0
    for column in columns:
        stored = int(column._starts[-1])
        rows.append(start + (np.arange(stored) if column._rows is None else column._rows))
        start += stored
    return TextColumn(parts, np.concatenate(rows).astype(np.int64))


def distinct_rows(texts: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(U,) rows at which a text stands for the first time, ascending, and (N,) the number of each row's text there.

    Texts are told apart by 128 bits of a hash: 16 bytes a row instead of the text.
    """
    writer = PackedWriter()
    for text in texts:
        writer.append(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    halves = writer.finish().data.view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal texts the first row comes first
    new = np.ones(len(order), dtype=bool)
    new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    first = order[new]
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    of_row = np.empty(len(order), dtype=np.int64)
    of_row[order] = number[np.cumsum(new) - 1]
    return np.sort(first), of_row
