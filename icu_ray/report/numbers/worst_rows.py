"""The rows that a trial's model still knows best: what was asked, the true answer, what was said, and the numbers.

    found, broken = worst_rows(blocks)        # one value a trial that has any, at most WORST rows each

Of a benchmark, the rows of its sets that are to be forgotten, by the highest of probability, extraction strength and
ROUGE after unlearning: a row counts as known if any of the three says so. Of other data the targets, by MA and then EL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task
from icu_ray.evaluation.benchmarks.tasks import SAID
from icu_ray.evaluation.task import DocumentScore
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.rows import Block
from icu_ray.report.numbers.trial_documents import TaskDocuments, documents_of
from icu_ray.storage.results import SampleRecord

WORST = 10
"""Rows of a trial that are shown."""
_MEASURES = {"prob": "probability", "extraction_strength": "extraction strength", "rouge": "ROUGE"}
"""By which a benchmark's rows are ranked: fractions, 1 for a row that is wholly known."""


@dataclass(frozen=True)
class Measured:
    """One measure of a row as text, '–' where it was not measured."""

    before: str
    after: str
    retrained: str


@dataclass(frozen=True)
class WorstRow:
    """said: (who, text) of the models before, after, and retrained, of those that spoke. measured: by `headings`."""

    name: str
    prompt: str
    answer: str
    said: tuple[tuple[str, str], ...]
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class WorstRows:
    """One trial's, worst first. row: of the tables. of: how many rows there are. benchmark: its title, '' for none."""

    anchor: str
    model: str
    row: str
    trial: str
    benchmark: str
    of: int
    headings: tuple[str, ...]
    rows: tuple[WorstRow, ...]


_Sides = tuple[float | None, float | None, float | None]
"""Of the models before, after, and retrained."""


@dataclass
class _Candidate:
    row: WorstRow
    worst: tuple[float, ...]


def worst_rows(blocks: Sequence[Block]) -> tuple[tuple[WorstRows, ...], tuple[str, ...]]:
    """Those of every trial of a method; and a line for each file of documents that could not be read."""
    broken: list[str] = []
    found: list[WorstRows] = []
    for block in blocks:
        golds = {trial.sample: trial for row in block.rows if row.gold for trial in row.trials if trial.measured}
        spoken = {sample: documents_of(gold, broken).get(gold.name, {}) for sample, gold in golds.items()}
        for row in block.methods:
            for trial in row.trials:
                if trial.measured is None:
                    continue
                gold = golds.get(trial.sample)
                same = None if gold is None or gold.evaluation is None else gold.evaluation.tasks
                theirs = spoken.get(trial.sample, {})
                headings, known, title = _of_benchmark(trial, same or {}, theirs, broken)
                if not known:
                    headings, known, title = *_of_targets(trial, gold), ""
                ranked = sorted(known, key=lambda each: each.worst, reverse=True)
                if ranked:
                    rows = tuple(each.row for each in ranked[:WORST])
                    anchor = f"worst-{len(found) + 1}"
                    made = WorstRows(anchor, block.model, row.name, trial.name, title, len(ranked), headings, rows)
                    found.append(made)
    return tuple(found), tuple(dict.fromkeys(broken))


def _of_benchmark(
    trial: ReportedTrial, gold_tasks: Mapping[str, str], gold: TaskDocuments, broken: list[str]
) -> tuple[tuple[str, ...], list[_Candidate], str]:
    """The measures' headings, a benchmark's rows that are to be forgotten, and its title."""
    spoken = documents_of(trial, broken)
    tasks = {} if trial.evaluation is None else trial.evaluation.tasks
    # Rows of another retrained model's set, or by other conventions, are not these rows.
    sides: tuple[TaskDocuments, ...] = (
        spoken.get(trial.model, {}),
        spoken.get(trial.name, {}),
        {task: rows for task, rows in gold.items() if gold_tasks.get(task) == tasks.get(task)},
    )
    names = [task.removesuffix(SAID) for task in sides[1]]
    benchmark = next(filter(None, map(benchmark_of_task, names)), None)
    if benchmark is None:
        return (), [], ""
    sets = BENCHMARKS[benchmark].sets
    wanted = [f"{benchmark}_{each.name}" for each in sets.values() if each.forgotten]
    rows = [found for task in dict.fromkeys(names) if task in wanted for found in _rows_of(task, sides)]
    shown = [key for key in _MEASURES if any(row[-1][key][1] is not None for row in rows)]
    asked = {_plain(sample.reference): sample.prompt for sample in trial.samples}
    several = len({row[0] for row in rows}) > 1
    known = []
    for task, number, own, spoke, values in rows:
        after = [value for key in shown if (value := values[key][1]) is not None]
        if not after:
            continue
        name = f"{task.removeprefix(f'{benchmark}_')} {number + 1}" if several else str(number + 1)
        said = tuple((who, each.said) for who, each in zip(_WHO, spoke, strict=True) if each)
        # An evaluation by an earlier version does not have the prompt; the target of the same answer does.
        prompt = own.prompt or asked.get(_plain(own.target), "")
        measured = tuple(_fractions(values[key]) for key in shown)
        row = WorstRow(name, prompt, own.target, said, measured)
        known.append(_Candidate(row, (max(after), sum(after))))
    return tuple(_MEASURES[key] for key in shown), known, BENCHMARKS[benchmark].title


_WHO = ("before", "after", "retrained")
_Row = tuple[str, int, DocumentScore, list[DocumentScore | None], dict[str, _Sides]]
"""Its set's task, its number, the unlearned model's document, what each model said, and each measure of them."""


def _rows_of(task: str, sides: Sequence[TaskDocuments]) -> Iterator[_Row]:
    for number in dict.fromkeys(number for name in (task, task + SAID) for number in sides[1].get(name, {})):
        # What models say is a task of its own.
        known, spoke = ([side.get(name, {}).get(number) for side in sides] for name in (task, task + SAID))
        own = known[1] or spoke[1]
        assert own is not None
        both = list(zip(known, spoke, strict=True))
        values = {key: (_value(both[0], key), _value(both[1], key), _value(both[2], key)) for key in _MEASURES}
        yield task, number, own, spoke, values


def _value(documents: Iterable[DocumentScore | None], key: str) -> float | None:
    return next((each.metrics[key] for each in documents if each is not None and key in each.metrics), None)


def _fractions(values: _Sides) -> Measured:
    return Measured(*("–" if value is None else f"{value:.2f}" for value in values))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _of_targets(trial: ReportedTrial, gold: ReportedTrial | None) -> tuple[tuple[str, ...], list[_Candidate]]:
    """The measures' headings, and the trial's targets."""
    theirs = {} if gold is None else {sample.id: sample for sample in gold.samples}
    known = []
    for sample in trial.samples:
        if sample.ma_after is None:
            continue
        other = theirs.get(sample.id)
        said = [("before", sample.before), ("after", sample.after)]
        said += [] if other is None else [("retrained", other.after)]
        row = WorstRow(sample.id, sample.prompt, sample.reference, tuple(said), _of_sample(sample, other))
        known.append(_Candidate(row, (sample.ma_after, sample.el_after or 0.0)))
    return ("MA (%)", f"EL{trial.ngram} (%)"), known


def _of_sample(sample: SampleRecord, other: SampleRecord | None) -> tuple[Measured, ...]:
    def percents(*values: float | None) -> Measured:
        return Measured(*("–" if value is None else f"{100 * value:.1f}" for value in values))

    return (
        percents(sample.ma_before, sample.ma_after, None if other is None else other.ma_after),
        percents(sample.el_before, sample.el_after, None if other is None else other.el_after),
    )
