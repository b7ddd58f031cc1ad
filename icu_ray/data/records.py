"""A user's own texts: files of texts, of prompts and completions, or of chats, as data/table_files.py reads them.

The forget file may name the sample (`forget-{sample}.jsonl`); its rows are the targets, the pool file's rows the pool.
A row that is in both is refused: unlearning it while learning it says nothing. Texts that differ only in line ends and
blanks are the same text. Whatever cannot be read is refused with file, line and what was expected.

    records = read_records(Path("forget.jsonl"), RowForm(), None, key="data.forget")
"""

from __future__ import annotations

import contextlib
import unicodedata
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import RecordsData, RowForm
from icu_ray.data.benchmark_files import check_benchmark_files
from icu_ray.data.corpus import Corpus, check_of, row_digests
from icu_ray.data.examples import Examples
from icu_ray.data.forms import Written, kind_of, system_of, written, written_alternates, written_pair
from icu_ray.data.hub_data import is_hub_data
from icu_ray.data.record_table import RecordTable, TableWriter, joined_tables
from icu_ray.data.table_files import file_ending, read_columns
from icu_ray.errors import UserError


@dataclass(frozen=True)
class Record:
    """One text with its id and where it stands ('line 7', 'row 7').

    boundary, chat: see `Examples`. prompt: what is given, without tags; None: a plain text. subject: whose data it is.
    pair: its own analogous text, where its file has a column of them. alternates: other answers to its prompt.
    """

    id: str
    text: str
    where: str
    boundary: int | None = None
    chat: str | None = None
    prompt: str | None = None
    subject: str | None = None
    pair: Written | None = None
    alternates: tuple[str, ...] | None = None

    @property
    def content(self) -> str:
        """The same for texts that differ only in line ends, in blanks, or in how an accent is encoded.

        Of a chat its system text is a part: under another one the model is asked something else.
        """
        return _content(self.text if self.chat is None else f"{system_of(self.chat)}\0{self.text}")

    @property
    def bytes(self) -> bytes:
        """All that decides its rows, for fingerprints; of a plain text its UTF-8."""
        parts = [self.text, *(() if self.boundary is None else (str(self.boundary), self.chat or ""))]
        return "\0".join(parts).encode("utf-8", "surrogatepass")


def _table() -> TableWriter[Record]:
    return TableWriter(Record, texts=("id", "text", "where", "chat", "prompt"), numbers=("boundary",))


def _content(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_records(
    path: Path,
    form: RowForm,
    id_column: str | None,
    key: str,
    prefix: str = "row",
    subject_column: str | None = None,
    pair_column: str | None = None,
    alternates_column: str | None = None,
) -> RecordTable[Record]:
    """All records of a file; ids are the id column's, else '<prefix>-<number>' counted from 1. `key`: for messages."""
    kept = _kept.get()
    if kept is None or not path.is_file():
        return _read(path, form, id_column, key, prefix, subject_column, pair_column, alternates_column)
    stat = path.stat()
    columns = (subject_column, pair_column, alternates_column)
    asked = (str(path), stat.st_size, stat.st_mtime_ns, form, id_column, prefix, columns)
    if asked not in kept:
        kept[asked] = _read(path, form, id_column, key, prefix, *columns)
    return kept[asked]


_kept: ContextVar[dict[Hashable, RecordTable[Record]] | None] = ContextVar("_kept", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Inside, a file that has not changed is not read twice in the same way, however often a request looks at it."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _read(
    path: Path,
    form: RowForm,
    id_column: str | None,
    key: str,
    prefix: str,
    subject_column: str | None,
    pair_column: str | None,
    alternates_column: str | None,
) -> RecordTable[Record]:
    named = {kind: column for kind, column in (("id", id_column), ("subject", subject_column)) if column is not None}
    more = tuple(column for column in (alternates_column, pair_column) if column is not None)
    columns = (*form.columns, *named.values(), *more)
    records, known = _table(), set[int]()
    for number, (where, values) in enumerate(read_columns(path, columns, key), start=1):
        cells, others = values[: len(form.columns)], values[len(form.columns) :]
        row, pair = written(form, cells, f"{key}: {path}: {where}"), None
        if pair_column is not None:
            pair = written_pair(form, cells, pair_column, others.pop(), f"{key}: {path}: {where}")
        alternates = None
        if alternates_column is not None:
            alternates = written_alternates(alternates_column, others.pop(), f"{key}: {path}: {where}")
        names: dict[str, str] = {}
        for (what, column), value in zip(named.items(), others, strict=True):
            value = _whole(value)
            if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
                raise UserError(
                    f"{key}: {path}: {where}: {what} column '{column}' holds {kind_of(value)}, expected text or number"
                )
            names[what] = str(value)
            if not names[what].isascii() and any("\ud800" <= letter <= "\udfff" for letter in names[what]):
                raise UserError(f"{key}: {path}: {where}: {what} column '{column}' holds half of a surrogate pair")
        name = names.get("id", f"{prefix}-{number}")
        if id_column is not None:
            # A million names take much room, so their hashes say which may stand twice; the file then says where.
            if hash(name) in known:
                rows = read_columns(path, columns, key)
                first = next(place for place, found in rows if str(_whole(found[len(form.columns)])) == name)
                if first != where:
                    raise UserError(f"{key}: {path}: id '{name}' appears twice, in {first} and {where}")
            known.add(hash(name))
        subject = names.get("subject")
        records.append(Record(name, row.text, where, row.boundary, row.chat, row.prompt, subject, pair, alternates))
    if not records:
        raise UserError(f"{key}: {path}: holds no rows")
    return records.finish()


def _whole(value: Any) -> Any:
    """A whole number of a table in whose column one was once missing, which made fractions of all."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_files(data: RecordsData, samples: Sequence[int]) -> None:
    """UserError for a file of texts that is not there, or whose name does not say what it is. Nothing is read."""
    check_benchmark_files(data)
    forget = [("forget", data.forget.replace("{sample}", str(sample))) for sample in samples]
    for key, name in (*forget, ("pool", data.pool), ("heldout", data.heldout)):
        if name is not None and not is_hub_data(name):
            file_ending(Path(name), f"data.{key}")


def load_records(data: RecordsData, samples: Sequence[int]) -> Corpus:
    """Targets, pool and held-out rows of a config; UserError on anything that would make the result meaningless."""
    check_benchmark_files(data)
    by_sample = "{sample}" in data.forget
    if not by_sample and len(samples) > 1:
        raise UserError(
            f"data.forget: {data.forget} is one file for samples {', '.join(map(str, samples))}; "
            "put {sample} into its name, or set samples to one number"
        )

    def read(name: str, key: str, prefix: str, *columns: str | None) -> RecordTable[Record]:
        return read_records(Path(name), data.form, data.id_column, f"data.{key}", prefix, *columns)

    forget = {
        sample: read(
            data.forget.replace("{sample}", str(sample)),
            "forget",
            f"forget{sample if by_sample else ''}",
            data.subject_column,
            data.pair_column,
            data.alternates_column,
        )
        for sample in samples
    }
    pool = read(data.pool, "pool", "pool") if data.pool is not None else _table().finish()
    heldout = read(data.heldout, "heldout", "heldout") if data.heldout is not None else _table().finish()
    pool_marks, heldout_marks = _marks(pool), _marks(heldout)
    if data.heldout_rows:
        if data.heldout_rows >= len(pool):
            raise UserError(
                f"data.heldout_rows: {data.heldout_rows} of the {len(pool)} rows of {data.pool or 'no pool'} leave "
                "none to pair with"
            )
        heldout, heldout_marks = pool[-data.heldout_rows :], pool_marks[-data.heldout_rows :]
        pool, pool_marks = pool[: -data.heldout_rows], pool_marks[: -data.heldout_rows]
    # A text that stands in the pool too would be learnt, and then asked for as one that was not.
    kept_out = {record.content: record for record in heldout}
    alike = np.flatnonzero(np.isin(pool_marks[:, 0], heldout_marks[:, 0])).tolist()
    both = {row: kept_out[pool[row].content] for row in alike if pool[row].content in kept_out}
    remarks = [_held_out_too(pool, both, data)] if data.heldout is not None else []
    if both:
        left = np.setdiff1d(np.arange(len(pool)), list(both))
        pool, pool_marks = pool.take(left), pool_marks[left]
    if data.pool_rows is not None:
        if data.pool_rows > len(pool):
            raise UserError(
                f"data.pool_rows: {data.pool_rows} rows asked for, but only {len(pool)} can be taken from "
                f"{data.pool or 'no pool'}"
            )
        pool, pool_marks = pool[: data.pool_rows], pool_marks[: data.pool_rows]
    for sample, records in forget.items():
        name, marks = data.forget.replace("{sample}", str(sample)), _marks(records)
        _refuse_twice(records, name)
        near = pool.take(_alike(pool_marks, marks))
        _refuse_overlap(records, name, near, "data.pool", str(data.pool))
        _refuse_overlap(records, name, heldout.take(_alike(heldout_marks, marks)), "data.heldout", str(data.heldout))
        remarks.append(_other_answers(records, near, data))
    own = {sample: _own_pairs(records, data, sample) for sample, records in forget.items()}
    for sample, pairs in own.items():
        name, known = data.forget.replace("{sample}", str(sample)), {pair.content: pair for pair in pairs}
        for record in heldout.take(_alike(heldout_marks, _marks(pairs))) if pairs else ():
            if (pair := known.get(record.content)) is not None:
                raise UserError(
                    f"data.pair_column: {name}: {pair.where}: the pair in column '{data.pair_column}' is the held-out "
                    f"text '{record.id}' ({record.where}) too, and would be trained on; give another text"
                )
    distinct = _distinct(chain.from_iterable(forget.values()), f"data.forget: {data.forget}")
    own_rows = _distinct(chain.from_iterable(own.values()), f"data.pair_column: {data.forget}")
    taken = distinct.keys() & own_rows.keys() or (own_rows and own_rows.keys() & set(pool.texts["id"]))
    for name in sorted(taken)[:1]:
        raise UserError(
            f"data.pair_column: the pair of '{name.removesuffix(':pair')}' would be called '{name}', as another text is"
        )
    # No row of the pool bears the id of a target: that was refused. So the pool's rows follow as they are.
    place = {name: number for number, name in enumerate(distinct)}
    targets = {sample: np.array([place[r.id] for r in records], dtype=np.int64) for sample, records in forget.items()}
    pool_rows = len(distinct) + np.arange(len(pool))
    pair_place = {name: len(distinct) + len(pool) + number for number, name in enumerate(own_rows)}
    pools = {
        # The pairs of a column come last, in the targets' order.
        sample: np.append(pool_rows, [pair_place[pair.id] for pair in pairs]).astype(np.int64) if pairs else pool_rows
        for sample, pairs in own.items()
    }
    parts = [table_of(distinct.values()), pool, *([table_of(own_rows.values())] if own_rows else [])]
    rows = joined_tables(parts)
    heldout_rows = len(rows) + np.arange(len(heldout))
    digests = row_digests(record.bytes for record in chain(rows, heldout))
    ids = chain(rows.texts["id"], heldout.texts["id"])
    return Corpus(
        rows=examples_of(rows),
        targets=targets,
        pools=pools,
        heldout=examples_of(heldout) if len(heldout) else None,
        alternates={sample: tuple(r.alternates or () for r in records) for sample, records in forget.items()}
        if data.alternates_column is not None
        else {},
        check=replace(
            check_of("records", ids, digests, targets, pools, heldout_rows),
            remarks=tuple(dict.fromkeys(filter(None, remarks))),
            subjects={
                record.id: record.subject
                for records in forget.values()
                for record in records
                if record.subject is not None
            },
        ),
    )


def _distinct(records: Iterable[Record], where: str) -> dict[str, Record]:
    """By id; UserError where one names two texts."""
    found: dict[str, Record] = {}
    for record in records:
        known = found.setdefault(record.id, record)
        if known.bytes != record.bytes:
            raise UserError(f"{where}: id '{record.id}' names two different texts")
    return found


def _own_pairs(forget: Sequence[Record], data: RecordsData, sample: int) -> list[Record]:
    """The pairs that the forget file itself holds, as rows whose ids are their targets'; none without such a column."""
    if data.pair_column is None:
        return []
    by_text = {record.content: record for record in forget}
    found = []
    for record in forget:
        if record.pair is None:
            continue
        row = record.pair
        pair = Record(f"{record.id}:pair", row.text, record.where, row.boundary, row.chat, row.prompt)
        target = by_text.get(pair.content)
        if target is not None:
            raise UserError(
                f"data.pair_column: {data.forget.replace('{sample}', str(sample))}: {record.where}: the pair in column "
                f"'{data.pair_column}' is a text to forget, '{target.id}' ({target.where}); give another text"
            )
        found.append(pair)
    return found


def table_of(records: Iterable[Record]) -> RecordTable[Record]:
    """These records, copied."""
    writer = _table()
    for record in records:
        writer.append(record)
    return writer.finish()


def examples_of(records: Sequence[Record]) -> Examples:
    """The records of one file or of files of one form, as rows for any model."""
    table = records if isinstance(records, RecordTable) else table_of(records)
    boundaries = table.numbers.get("boundary")
    return Examples(
        table.texts["id"],
        table.texts["text"],
        boundaries=None if boundaries is None else array("q", boundaries.tobytes()),
        chats=table.texts.get("chat"),
    )


def _marks(records: Sequence[Record]) -> NDArray[np.int64]:
    """(N, 3) hashes of what each says, of its id and of its prompt (0: none): by them a large file is searched."""
    marks = array("q")
    for record in records:
        prompt = 0 if record.prompt is None else hash(_content(record.prompt))
        marks.extend((hash(record.content), hash(record.id), prompt))
    return np.array(marks, dtype=np.int64).reshape(-1, 3)


def _alike(marks: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that may say the same as one of the others, bear its id or answer its prompt; of the rest none does."""
    said, named, asked = (np.isin(marks[:, part], others[:, part]) for part in range(3))
    return np.flatnonzero(said | named | (asked & (marks[:, 2] != 0)))


def _held_out_too(pool: Sequence[Record], both: Mapping[int, Record], data: RecordsData) -> str:
    """What to say of rows of the pool, by their number, that are held out; UserError where no other row is left."""
    if not both:
        return ""
    if len(both) == len(pool):
        raise UserError(f"data.heldout: {data.heldout}: each text of {data.pool} is in it too; expected others")
    rows = "1 row" if len(both) == 1 else f"{len(both)} rows"
    named = [f"'{pool[row].id}' ({pool[row].where}) is '{held.id}' ({held.where})" for row, held in both.items()]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"{rows} of {data.pool} left out of the pool, for {data.heldout} has them too: {'; '.join(named[:3])}{more}."


def _other_answers(forget: Sequence[Record], others: Sequence[Record], data: RecordsData) -> str:
    """What to say of prompts to forget that stand in the pool too, with another completion; '' for none."""
    kept = {_content(record.prompt): record for record in others if record.prompt is not None}
    found = [(record, kept.get(_content(record.prompt))) for record in forget if record.prompt is not None]
    both = [f"'{mine.id}' ({mine.where}) and '{pool.id}' ({pool.where})" for mine, pool in found if pool is not None]
    if not both:
        return ""
    prompts = "1 prompt" if len(both) == 1 else f"{len(both)} prompts"
    more = f" and {len(both) - 3} more" if len(both) > 3 else ""
    return (
        f"{prompts} of {data.forget} with another completion in {data.pool}: {'; '.join(both[:3])}{more}. The model "
        "may keep that one."
    )


def _refuse_twice(forget: Sequence[Record], name: str) -> None:
    first: dict[str, Record] = {}
    for record in forget:
        known = first.setdefault(record.content, record)
        if known is not record:
            raise UserError(
                f"data.forget: {name}: the same text appears twice: '{known.id}' ({known.where}) and '{record.id}' "
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
