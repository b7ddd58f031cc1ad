"""Values that every data source produces and every model consumes: rows of text, and the same rows in one vocabulary.

`Examples` knows no model; `TokenRows` is what one model sees of them. Both are frozen and hold numpy arrays only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import Columns
from icu_ray.data.positions import real_positions

IGNORED_LABEL = -100
BETWEEN_WINDOWS = " […] "
"""Stands between the windows of one text where they are shown."""


@dataclass(frozen=True)
class Examples:
    """N source rows before any model's tokenizer has seen them.

    ids: N distinct names (the doc_id of the extraction benchmark, a record's id, or a row number).
    texts: the whole row as text. Of a user's files both may be columns that make a text when it is asked for.
    token_rows: (N, length) int64 ids in `tokenizer`'s vocabulary where the source is token rows, else None.
    tokenizer: name or path of the tokenizer that wrote `token_rows`, else None.
    boundaries: N characters of each text that are given, the prompt; the completion follows. None: rows of one layout.
    chats: N JSON objects of messages and date, which a model's own chat template writes in place of the text.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    token_rows: NDArray[np.int64] | None = None
    tokenizer: str | None = None
    boundaries: Sequence[int] | None = None
    chats: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.boundaries is not None and len(self.boundaries) != len(self.ids):
            raise ValueError(f"{len(self.boundaries)} boundaries for {len(self.ids)} ids")
        if len(self.ids) != len(self.texts):
            raise ValueError(f"{len(self.ids)} ids for {len(self.texts)} texts")
        if self.token_rows is not None and len(self.token_rows) != len(self.ids):
            raise ValueError(f"{len(self.token_rows)} token rows for {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """The rows at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        rows = None if self.token_rows is None else self.token_rows[chosen]
        boundaries = None if self.boundaries is None else tuple(self.boundaries[i] for i in chosen)
        ids, texts = tuple(self.ids[i] for i in chosen), tuple(self.texts[i] for i in chosen)
        chats = None if self.chats is None else tuple(self.chats[i] for i in chosen)
        return Examples(ids, texts, rows, self.tokenizer, boundaries, chats)

    def first(self, count: int | None) -> Examples:
        """The first `count` rows; None: all."""
        return self if count is None or count >= len(self) else self.select(range(count))

    def fingerprint(self) -> str:
        """SHA-256 of the content, all but the tokenizer's name; equal content from two paths has one fingerprint."""
        digest = hashlib.sha256()
        for part in chain(self.ids, self.texts, self.chats or ()):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        if self.token_rows is not None:
            digest.update(repr(self.token_rows.shape).encode())
            digest.update(np.ascontiguousarray(self.token_rows, dtype="<i8").tobytes())
        if self.boundaries is not None:
            digest.update(b"boundaries" + np.asarray(self.boundaries, dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class TokenRows:
    """N rows in one model's own vocabulary, left padded to one length (spec: re-tokenisation).

    ids: N names.
    input_ids: (N, L) int64, left padded with pad_id.
    mask: (N, L) bool, True where a real token stands.
    labels: (N, L) int64 in the Hugging Face convention (the loss shifts by one; IGNORED_LABEL is not scored).
    prompt_ids, prompt_mask: (N, P) the filter's prompt (prefix tokens), left padded.
    references: N texts of the true suffix, which the filter compares with.
    positions: whether positions count real tokens alone or, as in the authors' code, left pads too.
    lengths: N tokens of each whole text, more than L where its end is cut off; None: not known.
    texts: (rows.long=windows) the number of the text that each row is a window of; the windows of a text stand next to
    each other and bear its id. None: every row is a text of its own.
    starts: N columns at which each row's completion begins, after its prompt; None: at columns.suffix_start.
    """

    ids: tuple[str, ...]
    input_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    prompt_ids: NDArray[np.int64]
    prompt_mask: NDArray[np.bool_]
    references: tuple[str, ...]
    columns: Columns
    pad_id: int
    eos_id: int | None
    positions: Literal["real", "padded"] = "real"
    lengths: tuple[int, ...] | None = None
    texts: tuple[int, ...] | None = None
    starts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in ("input_ids", "mask", "labels"):
            if getattr(self, name).shape != (n, self.columns.length):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {(n, self.columns.length)}")
        if self.prompt_ids.shape != self.prompt_mask.shape or len(self.prompt_ids) != n:
            raise ValueError(f"prompts have shapes {self.prompt_ids.shape} and {self.prompt_mask.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def position_ids(self) -> NDArray[np.int64] | None:
        """(N, L) int64, 0 for a row's first real token and for its pads; None: the model counts columns."""
        return real_positions(self.mask) if self.positions == "real" else None

    def position_ids_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """(B, L) of some rows alone, which costs nothing for the others."""
        return real_positions(self.mask[rows]) if self.positions == "real" else None

    @property
    def suffix_starts(self) -> NDArray[np.int64]:
        """(N,) columns at which what must not be said begins: the completion, or the layout's suffix."""
        if self.starts is None:
            return np.full(len(self), self.columns.suffix_start, dtype=np.int64)
        return np.asarray(self.starts, dtype=np.int64)

    @property
    def measured_labels(self) -> NDArray[np.int64]:
        """(N, L) the labels that measures count: of rows with a prompt the completion's, whatever losses count."""
        if self.starts is None:
            return self.labels
        given = np.arange(self.columns.length) < self.suffix_starts[:, None]
        return np.where(given, IGNORED_LABEL, self.labels)

    @property
    def cut_tokens(self) -> tuple[int, ...] | None:
        """N tokens at each text's end that its row has no place for; None: not known."""
        if self.lengths is None:
            return None
        return tuple(0 if self.texts is not None else max(n - self.columns.length, 0) for n in self.lengths)

    @property
    def text_of_row(self) -> NDArray[np.int64]:
        """(N,) number of the text that each row is, or is a window of."""
        return np.arange(len(self)) if self.texts is None else np.asarray(self.texts, dtype=np.int64)

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """(T,) the row of each text, of several windows the first."""
        return np.flatnonzero(np.diff(self.text_of_row, prepend=-1))

    @property
    def windows(self) -> NDArray[np.int64]:
        """(T,) how many rows each text is."""
        return np.diff(self.first_rows, append=len(self))

    @property
    def text_ids(self) -> tuple[str, ...]:
        """T names of the texts."""
        return tuple(self.ids[row] for row in self.first_rows)

    def by_text(self, values: NDArray[Any], worst: np.ufunc = np.maximum) -> NDArray[Any]:
        """(T,) from (N,): what each text's worst window has, which np.maximum or np.minimum finds; NaN if any is."""
        return values if self.texts is None or not len(values) else worst.reduceat(values, self.first_rows)

    def joined(self, said: Sequence[str]) -> tuple[str, ...]:
        """T texts from N: what belongs to the windows of a text, one after the other."""
        parts = zip(self.first_rows, self.windows, strict=True)
        return tuple(BETWEEN_WINDOWS.join(said[first : first + count]) for first, count in parts)

    def share(self, rank: int, world_size: int) -> TokenRows:
        """The rows that one of several workers measures; no text is split."""
        mine = np.array_split(np.arange(len(self.first_rows)), world_size)[rank]
        return self.select(np.flatnonzero(np.isin(self.text_of_row, self.text_of_row[self.first_rows[mine]])))

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> TokenRows:
        """The rows at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return TokenRows(
            tuple(self.ids[i] for i in chosen),
            self.input_ids[chosen],
            self.mask[chosen],
            self.labels[chosen],
            self.prompt_ids[chosen],
            self.prompt_mask[chosen],
            tuple(self.references[i] for i in chosen),
            self.columns,
            self.pad_id,
            self.eos_id,
            self.positions,
            None if self.lengths is None else tuple(self.lengths[i] for i in chosen),
            None if self.texts is None else tuple(self.texts[i] for i in chosen),
            None if self.starts is None else tuple(self.starts[i] for i in chosen),
        )
