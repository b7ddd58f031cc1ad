"""A user's own texts: files of texts, of prompts and completions, or of chats, as data/table_files.py reads them.

The forget file may name the sample (`forget-{sample}.jsonl`); its rows are the targets, the pool file's rows the pool.
A row that is in both is refused: unlearning it while learning it says nothing. Texts that differ only in line ends and
blanks are the same text. Whatever cannot be read is refused with file, line and what was expected.

    records = read_records(Path("forget.jsonl"), RowForm(), None, key="data.forget")
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from icu_ray.config import RecordsData, RowForm
from icu_ray.data.corpus import Corpus, check_of, row_digests
from icu_ray.data.examples import Examples
from icu_ray.data.forms import Written, kind_of, system_of, written, written_pair
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError


@dataclass(frozen=True)
class Record:
    """One text with its id and where it stands ('line 7', 'row 7').

    boundary, chat: see `Examples`. prompt: what is given, without tags; None: a plain text. subject: whose data it is.
    pair: its own analogous text, where its file has a column of them.
    """

    id: str
    text: str
    where: str
    boundary: int | None = None
    chat: str | None = None
    prompt: str | None = None
    subject: str | None = None
    pair: Written | None = None

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
) -> list[Record]:
    """All records of a file; ids are the id column's, else '<prefix>-<number>' counted from 1. `key`: for messages."""
    named = {kind: column for kind, column in (("id", id_column), ("subject", subject_column)) if column is not None}
    columns = (*form.columns, *named.values(), *(() if pair_column is None else (pair_column,)))
    records: list[Record] = []
    first: dict[str, str] = {}
    for number, (where, values) in enumerate(read_columns(path, columns, key), start=1):
        cells, others = values[: len(form.columns)], values[len(form.columns) :]
        row, pair = written(form, cells, f"{key}: {path}: {where}"), None
        if pair_column is not None:
            pair = written_pair(form, cells, pair_column, others.pop(), f"{key}: {path}: {where}")
        names: dict[str, str] = {}
        for (what, column), value in zip(named.items(), others, strict=True):
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # as a table holds whole numbers in whose column one was once missing
            if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
                raise UserError(
                    f"{key}: {path}: {where}: {what} column '{column}' holds {kind_of(value)}, expected text or number"
                )
            names[what] = str(value)
        name = names.get("id", f"{prefix}-{number}")
        if name in first:
            raise UserError(f"{key}: {path}: id '{name}' stands twice, in {first[name]} and {where}")
        first[name] = where
        records.append(Record(name, row.text, where, row.boundary, row.chat, row.prompt, names.get("subject"), pair))
    if not records:
        raise UserError(f"{key}: {path}: holds no rows")
    return records


def load_records(data: RecordsData, samples: Sequence[int]) -> Corpus:
    """Targets, pool and held-out rows of a config; UserError on anything that would make the result meaningless."""
    by_sample = "{sample}" in data.forget
    if not by_sample and len(samples) > 1:
        raise UserError(
            f"data.forget: {data.forget} is one file for samples {', '.join(map(str, samples))}; "
            "put {sample} into its name, or set samples to one number"
        )

    def read(name: str, key: str, prefix: str, *columns: str | None) -> list[Record]:
        return read_records(Path(name), data.form, data.id_column, f"data.{key}", prefix, *columns)

    forget = {
        sample: read(
            data.forget.replace("{sample}", str(sample)),
            "forget",
            f"forget{sample if by_sample else ''}",
            data.subject_column,
            data.pair_column,
        )
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
    remarks = [_other_answers(records, pool, data) for records in forget.values()] if data.pool is not None else []
    own = {sample: _own_pairs(records, data, sample) for sample, records in forget.items()}
    rows: dict[str, Record] = {}
    every = [*forget.values(), pool, *own.values()]
    for record in (record for records in every for record in records):
        known = rows.setdefault(record.id, record)
        if known.bytes != record.bytes:
            raise UserError(f"data.id_column: id '{record.id}' names two different texts of the forget and pool files")
    place = {name: number for number, name in enumerate(rows)}
    targets = {sample: np.array([place[r.id] for r in records], dtype=np.int64) for sample, records in forget.items()}
    pool_rows = np.array([place[record.id] for record in pool], dtype=np.int64)
    pools = {
        # The pairs of a column come last, in the targets' order.
        sample: np.append(pool_rows, [place[pair.id] for pair in pairs]).astype(np.int64) if pairs else pool_rows
        for sample, pairs in own.items()
    }
    everything = [*rows.values(), *heldout]
    heldout_rows = np.arange(len(rows), len(everything))
    digests = row_digests(record.bytes for record in everything)
    ids = [record.id for record in everything]
    return Corpus(
        rows=examples_of(list(rows.values())),
        targets=targets,
        pools=pools,
        heldout=examples_of(heldout) if heldout else None,
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


def _own_pairs(forget: Sequence[Record], data: RecordsData, sample: int) -> list[Record]:
    """The pairs that the forget file itself holds, as rows whose ids are their targets'; none without such a column."""
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


def examples_of(records: Sequence[Record]) -> Examples:
    """The records of one file or of files of one form, as rows for any model."""
    boundaries = tuple(record.boundary for record in records if record.boundary is not None)
    chats = tuple(record.chat for record in records if record.chat is not None)
    ids, texts = tuple(record.id for record in records), tuple(record.text for record in records)
    return Examples(ids, texts, boundaries=boundaries or None, chats=chats or None)


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
