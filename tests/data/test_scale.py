"""Large files: columns of texts are the texts, and a pool of any size is read without a Python object for each row.

Needs: nothing.
"""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.config import Columns, RecordsData
from icu_ray.config.file import load_data
from icu_ray.data import text_columns
from icu_ray.data.examples import Examples
from icu_ray.data.pairing import embedded_texts
from icu_ray.data.record_table import TableWriter, joined_tables
from icu_ray.data.records import load_records
from icu_ray.data.text_columns import PackedWriter, TextColumn, distinct_rows, joined_columns, text_column
from icu_ray.errors import UserError

# A lone surrogate may stand in an id.
TEXTS = st.lists(st.text(st.characters(exclude_categories=()), max_size=6), max_size=12)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(TEXTS, min_size=1, max_size=3), data=st.data(), held=st.sampled_from([1, 7, 1000]))
def test_a_column_is_the_sequence_of_its_texts(parts: list[list[str]], data: st.DataObject, held: int) -> None:
    """Whether it lies in a file, is joined of others, or is a part of one; in this process and in another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_columns, "IN_MEMORY", held)
        column, known = joined_columns([text_column(part) for part in parts]), [t for part in parts for t in part]
        rows = data.draw(st.lists(st.sampled_from(range(len(known))), max_size=20)) if known else []
        taken = column.take(np.array(rows, dtype=np.int64))
        both = joined_columns([taken, column])
        for mine, expected in (
            (column, known),
            (taken, [known[row] for row in rows]),
            (both, [known[row] for row in rows] + known),
            (column[1:], known[1:]),
        ):
            assert mine == tuple(expected) and len(mine) == len(expected)
            assert [mine[place] for place in range(-len(expected), len(expected))] == 2 * expected
            again: TextColumn = pickle.loads(pickle.dumps(mine))
            assert list(again) == expected
            with pytest.raises(IndexError):
                mine[len(expected)]


def test_a_few_of_many_texts_do_not_take_all_of_them_along() -> None:
    column = text_column("x" * 1000 for _ in range(1000))
    assert len(pickle.dumps(column)) > 1_000_000
    assert len(pickle.dumps(column.take(np.array([3, 5])))) < 5000


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.sampled_from(["a", "b", "ab", "", "c"]), max_size=30))
def test_distinct_texts_are_numbered_by_their_first_row(texts: list[str]) -> None:
    number: dict[str, int] = {}
    of_row = [number.setdefault(text, len(number)) for text in texts]
    found = embedded_texts(Examples(tuple(map(str, range(len(texts)))), tuple(texts)), Columns(), own_columns=True)
    assert found.distinct == tuple(number) and found.of_row.tolist() == of_row
    assert [list(units) for units in found.units] == [text.split() for text in texts]
    assert distinct_rows(texts)[0].tolist() == [texts.index(text) for text in number]


@dataclass(frozen=True)
class Item:
    name: str
    said: str | None = None
    place: int | None = None
    rare: tuple[int, ...] | None = None


ITEMS = st.builds(
    Item,
    st.text(max_size=3),
    st.none() | st.text(max_size=3),
    st.none() | st.integers(-5, 5),
    st.none() | st.tuples(st.integers()),
)


@settings(max_examples=100, deadline=None)
@given(items=st.lists(ITEMS, max_size=8), data=st.data())
def test_a_table_is_the_sequence_of_its_records(items: list[Item], data: st.DataObject) -> None:
    def table(items: list[Item]) -> Any:
        writer = TableWriter(Item, texts=("name", "said"), numbers=("place",))
        for item in items:
            writer.append(item)
        return writer.finish()

    found = table(items)
    assert list(found) == items == [found[row] for row in range(len(items))]
    rows = data.draw(st.lists(st.sampled_from(range(len(items))), max_size=10)) if items else []
    assert list(found.take(np.array(rows, dtype=np.int64))) == [items[row] for row in rows]
    assert list(found[1:]) == items[1:]
    assert list(joined_tables([found, found])) == [*items, *items]


def test_a_folder_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_columns.tempfile, "TemporaryFile", full)
    writer = PackedWriter()
    with pytest.raises(UserError, match=r"TMPDIR: .* has no room for a copy of the texts \(No space left on device\)"):
        writer.append(b"x" * text_columns.IN_MEMORY)


def _pool(file: Path, rows: int) -> int:
    words = [f"word{n}" for n in range(50)]
    columns = {
        "question": [f"question {n} {' '.join(words[:10])}" for n in range(rows)],
        "answer": [f"answer {n} {' '.join(words)}" for n in range(rows)],
    }
    pq.write_table(pa.table(columns), file, compression="none")
    return file.stat().st_size


def test_reading_a_pool_makes_no_list_of_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python holds grows by the numbers kept for each row, a part of the texts themselves."""
    monkeypatch.setattr(text_columns, "IN_MEMORY", 2**14)
    monkeypatch.setattr(text_columns, "_AT_ONCE", 2**12)
    _pool(tmp_path / "forget.parquet", 5)
    forget = pq.read_table(tmp_path / "forget.parquet").to_pydict()
    forget["question"] = [f"else {each}" for each in forget["question"]]
    pq.write_table(pa.table(forget), tmp_path / "forget.parquet")
    peaks, sizes = [], []
    for rows in (500, 1500, 4500):
        sizes.append(_pool(tmp_path / "pool.parquet", rows))
        data = load_data(
            {
                "source": "records",
                "forget": str(tmp_path / "forget.parquet"),
                "pool": str(tmp_path / "pool.parquet"),
                "prompt_column": "question",
                "completion_column": "answer",
            },
            "test",
        )
        assert isinstance(data, RecordsData)
        tracemalloc.start()
        corpus = load_records(data, (0,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(corpus.pools[0]) == rows and corpus.rows.texts[-1].endswith("word49")
    # The first reading also pays for what is imported; the others differ by their rows alone.
    assert peaks[2] - peaks[1] < (sizes[2] - sizes[1]) / 2
