"""The rows of a benchmark's sets, from a folder or the hub.

    for asked in sets_of(section):                  # section: config.data.benchmark
        rows = set_rows(section, asked)             # one dict a row, by column

    known_paraphrases(section)                      # of the questions to forget
    remarks = check_tables(section)                 # before anything starts

A set whose table came to the hub later is left out where a folder lacks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icu_ray.config import MuseData, RwkuData, TofuData, WmdpData
from icu_ray.config.benchmarks import below, hub_place
from icu_ray.data.hub_data import is_hub_data
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Benchmark, PromptSet, Split, Table

Section = TofuData | MuseData | WmdpData | RwkuData
"""What a config says of a benchmark."""


def benchmark_of(section: Section) -> Benchmark:
    """The benchmark that a section names."""
    return BENCHMARKS[section.source]


def split_of(section: Section) -> Split:
    """What is unlearned and asked there."""
    return benchmark_of(section).splits[section.corpus if isinstance(section, RwkuData) else section.split]


def forget_file(section: Section) -> str:
    """The file of the table that is to be forgotten."""
    if isinstance(section, MuseData):
        return f"{section.split}/{'/'.join(section.forget_part)}.jsonl"
    return split_of(section).forget


def sets_of(section: Section) -> tuple[PromptSet, ...]:
    """The sets that are asked; UserError where a folder lacks the table of one."""
    benchmark, found = benchmark_of(section), []
    for asked in split_of(section).sets:
        tables = [benchmark.table(file) for file in (asked.table, asked.shots) if file]
        missing = [table for table in tables if not _is_there(table_place(section, table))]
        if not missing:
            found.append(asked)
        elif not missing[0].later:
            raise _lacks(section, missing[0])
    return tuple(found)


def table_place(section: Section, table: Table) -> str:
    """The file of a table in the section's folder, or its name on the hub (data/hub_data.py)."""
    if isinstance(section, RwkuData):
        return below(section.folder, f"{section.subject}/{table.file}" if table.by_subject else table.file)
    if section.folder is not None:
        return below(section.folder, table.file)
    return hub_place(table.hub, section.revision, table.configuration, table.split)


def set_rows(section: Section, asked: PromptSet) -> list[dict[str, Any]]:
    """The rows of a set: texts by column, of the column of wrong answers a list of texts.

    UserError where they cannot be read, or hold something else.
    """
    return _rows(section, benchmark_of(section).table(asked.table), asked.columns, asked.wrong)


def shots_of(section: Section, asked: PromptSet) -> list[tuple[str, str]]:
    """The examples, question and answer, that stand before every question of a set."""
    if asked.shots is None:
        return []
    rows = _rows(section, benchmark_of(section).table(asked.shots), (asked.prompt, asked.answer), None)
    return [(row[asked.prompt], row[asked.answer]) for row in rows]


def has_paraphrases(section: Section) -> bool:
    """Whether a benchmark asks of what is unlearned in other words too."""
    return bool(_paraphrased(section))


def known_paraphrases(section: Section, *, from_hub: bool = True) -> dict[str, tuple[str, ...]]:
    """Of each question to forget, the same in other words; {} where the benchmark or the folder has none.

    from_hub: whether tables of the hub are read; else they have none. UserError where they cannot be read.
    """
    found: dict[str, list[str]] = {}
    for asked in _paraphrased(section):
        table = benchmark_of(section).table(asked.table)
        place = table_place(section, table)
        if not _is_there(place) or (is_hub_data(place) and not from_hub):
            continue
        assert asked.paraphrase is not None
        for row in _rows(section, table, (asked.prompt, asked.paraphrase), None):
            found.setdefault(row[asked.prompt], []).append(row[asked.paraphrase])
    return {question: tuple(dict.fromkeys(texts)) for question, texts in found.items()}


def _paraphrased(section: Section) -> list[PromptSet]:
    return [asked for asked in split_of(section).sets if asked.members and asked.paraphrase]


def check_tables(section: Section) -> tuple[str, ...]:
    """UserError where files of the section's folder are not the benchmark's tables; what to say of those that are cut.

    Refused: a table without rows or with more than the benchmark's, a column of another kind, and questions on what is
    forgotten none of which is among those to forget. Nothing is looked at on the hub, whose commit says what it is.
    """
    if section.folder is None:
        return ()
    benchmark, split, on_forgotten = benchmark_of(section), split_of(section), list[tuple[PromptSet, list[str]]]()
    counted = {} if getattr(section, "pieces", None) else _trained_on(section, split)
    for asked in sets_of(section):
        rows = set_rows(section, asked)
        counted[asked.table] = len(rows)
        if asked.shots is not None:
            counted[asked.shots] = len(shots_of(section, asked))
        if asked.members and asked.kind == "questions":
            on_forgotten.append((asked, [row[asked.prompt] for row in rows]))
    cut = []
    for file, found in counted.items():
        table = benchmark.table(file)
        # Of a table of several subjects we know how many rows all have.
        expected = None if table.by_subject else table.rows
        if found == 0 or (expected is not None and found > expected):
            wanted = "some" if expected is None else f"the {expected:,} of {benchmark.title}"
            raise UserError(f"data.folder: {table_place(section, table)}: found {found:,} rows, expected {wanted}")
        if expected is not None and found < expected:
            cut.append(f"{file} {found:,} of {expected:,}")
    remarks = [said for asked, questions in on_forgotten for said in _strange(section, asked, questions)]
    if cut:
        remarks.append(
            f"data.folder: {section.folder}: not all rows of {benchmark.title}: {', '.join(cut)}; its numbers are of "
            "these only"
        )
    return tuple(remarks)


def _trained_on(section: Section, split: Split) -> dict[str, int]:
    """The rows of the tables to forget and to keep, by file."""
    benchmark, key = benchmark_of(section), f"data.source={section.source}"
    tables = [benchmark.table(file) for file in (forget_file(section), split.retain) if file is not None]
    places = {table.file: (Path(table_place(section, table)), table.columns) for table in tables}
    return {file: sum(1 for _ in read_columns(place, names, key)) for file, (place, names) in places.items()}


def _strange(section: Section, asked: PromptSet, questions: list[str]) -> list[str]:
    """What to say of questions that are not among those to forget; UserError where none is."""
    benchmark, forget = benchmark_of(section), forget_file(section)
    known = {row[asked.prompt] for row in _rows(section, benchmark.table(forget), (asked.prompt,), None)}
    strange = [question for question in questions if question not in known]
    if not strange:
        return []
    said = f"data.folder: {table_place(section, benchmark.table(asked.table))}: "
    if len(strange) == len(questions):
        raise UserError(
            f"{said}none of its {len(questions):,} questions is in {forget}, found {strange[0]!r:.80}; expected the "
            "same questions in both files"
        )
    return [f"{said}{len(strange):,} of its {len(questions):,} questions are not in {forget}"]


def _rows(section: Section, table: Table, columns: tuple[str, ...], lists: str | None) -> list[dict[str, Any]]:
    place, key = table_place(section, table), f"data.source={section.source}"
    if not _is_there(place):
        raise _lacks(section, table)
    found = []
    for where, values in read_columns(Path(place), columns, key):
        row = dict(zip(columns, values, strict=True))
        for column, value in row.items():
            texts = value if column == lists else [value]
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                expected = "a list of texts" if column == lists else "text"
                raise UserError(f"{key}: {place}: {where}: column '{column}': expected {expected}, found {value!r:.80}")
            if not all(text.strip() for text in texts):
                raise UserError(
                    f"{key}: {place}: {where}: column '{column}' holds an empty text, which nothing measures"
                )
        found.append(row)
    return found


def _is_there(place: str) -> bool:
    return is_hub_data(place) or Path(place).is_file()


def _lacks(section: Section, table: Table) -> UserError:
    how = section.fetched.format(folder=section.folder)
    return UserError(
        f"data.folder: {section.folder}: it lacks {Path(table_place(section, table)).relative_to(section.folder or '')}"
        f", which {benchmark_of(section).title} asks; {how}"
    )
