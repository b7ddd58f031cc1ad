"""Trials put together to the paper's rows: one block a model, the original model first, then methods by (alpha, beta).

    blocks = make_blocks(collect(folders))

A row is the mean over forget samples, of each over its seeds; of a single sample, over its seeds. Trials that differ in
anything else of their config are never averaged: they stand in rows of their own, named by what differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from icu_ray import methods
from icu_ray.errors import UserError
from icu_ray.report.collect import Collected, ReportedTrial
from icu_ray.report.numbers.columns import (
    ALL_COLUMNS,
    CAME_BACK,
    HELDOUT,
    PPL_RATIO,
    Column,
    columns_of,
    evaluated_metrics,
    known_came_back,
)
from icu_ray.report.numbers.paper_tables import PaperRow, paper_row, paper_size
from icu_ray.report.numbers.statistics import Estimate, Over, mean_interval, repeated_over, repetitions, seed_deviation
from icu_ray.report.numbers.summary import ppl_ratio
from icu_ray.report.numbers.variants import variants_of
from icu_ray.storage.results import Scores
from icu_ray.storage.verdict import is_success

Mark = Literal["best", "second"]
BEFORE = "before"
P_VALUE = "/forget_quality"
"""How the metric ends whose mean is geometric."""
_ORDER = ("kumpr", "po", "dpo", "npo", "kl", "llmu")
"""The paper's order of rows; what it does not have stands between these and ICU, which comes last."""


@dataclass(frozen=True)
class Row:
    """One method with its weights on one model (or the model before), over `units` of (sample, seed).

    values, marks: by column key. cells: every unit's own values, for paired tests (the model before has one a text
    set, numbered). alpha, beta: None where the method does not use it. trials: all of the row's trials, with those that
    failed or are not over.
    """

    label: str
    method: str
    alpha: float | None
    beta: float | None
    variant: str
    trials: tuple[ReportedTrial, ...]
    cells: Mapping[tuple[int, int | None], Mapping[str, float | None]]
    values: Mapping[str, Estimate | None]
    paper: PaperRow | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def before(self) -> bool:
        """Whether this is the model before unlearning."""
        return self.method == BEFORE

    @property
    def gold(self) -> bool:
        """Whether this is the gold standard, the same model trained without the texts to forget."""
        return self.method == methods.RETRAINED

    @property
    def name(self) -> str:
        """'icu (0.5, 1)', with what sets it apart from another row of the same cell."""
        return row_name(self.label, self.alpha, self.beta, self.variant)

    @property
    def units(self) -> tuple[tuple[int, int | None], ...]:
        """(forget sample, seed) of all its trials, with or without a result; of the model before, its text sets."""
        return tuple(dict.fromkeys([*(trial.unit for trial in self.trials), *self.cells]))

    @property
    def over(self) -> Over:
        """What its repetitions are."""
        return repeated_over(self.units)

    @property
    def varied(self) -> dict[str, str]:
        """What else its trials were told, by key, such as lr and seed; several values joined by a space."""
        told = [trial.hyperparameters for trial in self.trials]
        keys = dict.fromkeys(key for each in told for key in each if key not in ("alpha", "beta"))
        return {key: " ".join(dict.fromkeys(str(each[key]) for each in told if key in each)) for key in keys}

    @property
    def forgotten(self) -> int:
        """Trials that are a success by their verdict: forgotten, within the cost limit, not collapsed."""
        return sum(trial.result is not None and is_success(trial.result) for trial in self.trials)

    @property
    def counted(self) -> tuple[int | None, float | None]:
        """Trials that forgot, and mean epochs; None and None where nothing is unlearned."""
        return (None, None) if self.before or self.gold else (self.forgotten, self.epochs)

    @property
    def epochs(self) -> float | None:
        """Mean number of epochs of the trials that count."""
        known = [trial.measured.epochs for trial in self.trials if trial.measured is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Block:
    """One model's rows. size: the paper's name of it, None where the paper has no such model.

    before: all metrics of the original model; of those that depend on the forget sample, such as what needs the
    retrained model, the first one's. samples: the same of each forget sample. columns: those of its rows' values, each
    with the metric that it shows.
    """

    model: str
    size: str | None
    standin: bool
    rows: tuple[Row, ...]
    before: Mapping[str, float | None] = field(default_factory=dict)
    columns: tuple[Column, ...] = ALL_COLUMNS
    samples: tuple[Mapping[str, float | None], ...] = ()

    @property
    def el_columns(self) -> tuple[Column, ...]:
        """Those of EL that hold anything, the paper's where none does."""
        own = [column for column in self.columns if column.ngram is not None]
        return tuple(c for c in own if any(row.values[c.key] for row in self.rows)) or ALL_COLUMNS[:1]

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows of methods of unlearning: those that are compared, and the population of scores."""
        return tuple(row for row in self.rows if not (row.before or row.gold))

    def evaluated(self, row: Row) -> list[Mapping[str, float | None]]:
        """What the evaluation of each of a row's trials measured; of the model before, of each forget sample."""
        if row.before:
            return list(self.samples) or [self.before]
        return [trial.evaluation.after for trial in row.trials if trial.evaluation is not None]

    def evaluated_mean(self, row: Row, metric: str) -> float | None:
        """Mean of a metric of the evaluation over a row's trials, None where none has it.

        Of forget quality, a p-value over many orders of magnitude, 10 to the mean of its logarithm.
        """
        known = [metrics for metrics in self.evaluated(row) if metrics.get(metric) is not None]
        values = [value for metrics in known if (value := metrics[metric]) is not None]
        if not values:
            return None
        if metric.endswith(P_VALUE):
            logs = [_log10(value, metrics.get(f"{metric}_log10")) for value, metrics in zip(values, known, strict=True)]
            return float(10 ** fmean(logs))
        return fmean(values)


def _log10(p: float, known: float | None) -> float:
    if known is not None:
        return known
    return math.log10(p) if p > 0 else -math.inf


def row_name(label: str, alpha: float | None, beta: float | None, variant: str) -> str:
    """'icu (0.5, 1) [optim.lr=0.0001]'."""
    weights = "" if alpha is None and beta is None else f" ({_weight(alpha)}, {_weight(beta)})"
    return label + weights + (f" [{variant}]" if variant else "")


def _weight(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def make_blocks(found: Collected) -> tuple[Block, ...]:
    """One block a model, in the order of the configs."""
    known = [trial for trial in found.trials if trial.model != "?"]
    names = [str(model.get("name")) for config in found.configs for model in config.get("models", ())]
    models = dict.fromkeys([name for name in names if any(t.model == name for t in known)] + [t.model for t in known])
    evaluated = evaluated_metrics(t.metrics() for t in known)
    columns = columns_of((trial.ngram for trial in known), evaluated)
    return tuple(_block(model, [t for t in known if t.model == model], found.configs, columns) for model in models)


def _block(
    model: str, trials: Sequence[ReportedTrial], configs: Sequence[Mapping[str, Any]], columns: tuple[Column, ...]
) -> Block:
    described = [entry for config in configs for entry in config.get("models", ()) if entry.get("name") == model]
    source = next((entry.get("source") for entry in described), None)
    standin = any(entry.get("standin") is not None for entry in described)
    paper = paper_size(model, source) if source is not None or standin else None
    # The gold standard is one a sample, whatever the methods were told.
    variants = variants_of([trial for trial in trials if trial.base_method != methods.RETRAINED])
    groups: dict[tuple[str, float | None, float | None, str], list[ReportedTrial]] = {}
    for trial in trials:
        if not _trains(trial) and trial.base_method != methods.RETRAINED:
            continue  # it is the row before unlearning
        groups.setdefault((trial.method, *weights_of(trial), variants.get(trial.trial_id, "")), []).append(trial)
    ordered = sorted(groups, key=lambda key: (*_place(groups[key][0]), key[0], key[1] or 0.0, key[2] or 0.0, key[3]))
    samples = _before_metrics(trials)
    before: dict[str, float | None] = {}
    for each in samples:
        before |= {name: value for name, value in each.items() if before.get(name) is None}
    rows = [_before_row(trials, paper, before, columns)]
    rows += [_row(key, groups[key], paper, columns) for key in ordered]
    if standin and paper is not None:
        rows = _sole_icu_beside_the_papers(rows, paper[0])
    return Block(model, None if paper is None else paper[0], standin, _marked(rows, columns), before, columns, samples)


def _place(trial: ReportedTrial) -> tuple[int, int]:
    method = trial.base_method
    if method == methods.RETRAINED:
        return (-1, 0)
    if method == "icu":
        whole = trial.alpha > 0 and trial.beta > 0
        ascent = trial.alpha == 0 and trial.beta == 0  # equation (6) is then KUMPR's
        return (0 if ascent else len(_ORDER) + 2, int(whole))
    return (_ORDER.index(method) if method in _ORDER else len(_ORDER), 0)


def _before_row(
    trials: Sequence[ReportedTrial],
    paper: tuple[str, str] | None,
    before: Mapping[str, float | None],
    columns: tuple[Column, ...],
) -> Row:
    cells: dict[tuple[int, int | None], dict[str, float | None]] = {}
    samples: dict[str, dict[str, float | None]] = {}
    heldout: set[str] = set()
    audited = {_sample_of(trial): trial.audit.metrics("before") for trial in trials if trial.audit is not None}
    for trial in trials:
        scores = (trial.result.before if trial.result else None) or (trial.history[0].scores if trial.history else None)
        # The original model depends on the forget sample alone: whichever trial measured it first has said it all.
        sample = _sample_of(trial)
        if scores is None:
            continue
        if (known := samples.get(sample)) is not None:  # all but EL of another n
            known.update({c.key: c.value(scores) for c in columns if c.ngram == scores.ngram and known[c.key] is None})
            continue
        # What does not depend on the sample is one measurement, and one cell has it: what the model can do, and its
        # perplexity on the held-out texts of a sweep's data. An audit is of the sample's rows.
        metrics = {**({} if cells else before), **audited.get(sample, {})}
        cell = samples[sample] = _cell(scores, None, metrics, columns)
        texts = repr((trial.provenance and trial.provenance.data, trial.settings.get("heldout")))
        if texts in heldout:
            cell[HELDOUT.key] = None
        elif cell[HELDOUT.key] is not None:
            heldout.add(texts)
        cells[len(cells), None] = cell
    family = "" if paper is None else paper[1]
    printed = paper_row(paper[0], "opt" if family == "opt" else BEFORE, None, None) if paper else None
    return Row(
        "before unlearning",
        BEFORE,
        None,
        None,
        "",
        (),
        cells,
        _estimates(cells, columns, repeated_over(cells)),
        printed,
    )


def _sample_of(trial: ReportedTrial) -> str:
    return repr(trial.settings.get("sample", trial.sample))


def _before_metrics(trials: Sequence[ReportedTrial]) -> tuple[dict[str, float | None], ...]:
    """What the original model can do, of each forget sample, from whichever of its trials say it."""
    found: dict[str, dict[str, float | None]] = {}
    for trial in trials:
        if trial.evaluation is not None:
            own = found.setdefault(_sample_of(trial), {})
            own.update({n: value for n, value in trial.evaluation.before.items() if own.get(n) is None})
    return tuple(found.values())


def _row(
    key: tuple[str, float | None, float | None, str],
    trials: Sequence[ReportedTrial],
    paper: tuple[str, str] | None,
    columns: tuple[Column, ...],
) -> Row:
    label, alpha, beta, variant = key
    cells = {
        trial.unit: _cell(
            trial.measured.after,
            ppl_ratio(trial.measured),
            trial.metrics(),
            columns,
        )
        for trial in trials
        if trial.measured is not None and trial.measured.after is not None
    }
    method = trials[0].base_method
    printed = None
    if paper is not None and paper[1] != "opt":
        known_as = "kumpr" if method == "icu" and alpha == 0 and beta == 0 else method
        printed = paper_row(paper[0], known_as, alpha, beta)
    return Row(
        label,
        method,
        alpha,
        beta,
        variant,
        tuple(sorted(trials, key=lambda trial: (trial.sample, str(trial.unit[1])))),
        cells,
        _estimates(cells, columns, repeated_over(trial.unit for trial in trials)),
        printed,
    )


def _trains(trial: ReportedTrial) -> bool:
    try:
        return methods.method_class(trial.base_method).trains
    except UserError:  # a plug-in of the machine that ran the sweep
        return True


def _sole_icu_beside_the_papers(rows: list[Row], size: str) -> list[Row]:
    """Stand-ins need other weights than the paper's; their only cell of ICU still stands where its (0.5, 1.0) does."""
    cells = [row for row in rows if row.method == "icu" and row.alpha and row.beta]
    if len(cells) != 1 or cells[0].paper is not None:
        return rows
    return [replace(row, paper=paper_row(size, "icu", 0.5, 1.0)) if row is cells[0] else row for row in rows]


def weights_of(trial: ReportedTrial) -> tuple[float | None, float | None]:
    """(alpha, beta), None for what the method does not use."""
    try:
        found = methods.method_class(trial.base_method)
    except UserError:  # a plug-in of the machine that ran the sweep
        return trial.alpha, trial.beta
    uses_alpha = found.alpha_counts(trial.hyperparameters)
    return trial.alpha if uses_alpha else None, trial.beta if found.uses_beta else None


def _cell(
    scores: Scores, ratio: float | None, metrics: Mapping[str, float | None], columns: Sequence[Column]
) -> dict[str, float | None]:
    values = {column.key: column.value(scores, metrics, "".join(column.metrics)) for column in columns}
    return {**values, PPL_RATIO.key: ratio}


def _estimates(
    cells: Mapping[tuple[int, int | None], dict[str, float | None]], columns: Sequence[Column], over: Over
) -> dict[str, Estimate | None]:
    found: dict[str, Estimate | None] = {}
    for column in columns:
        values: Sequence[tuple[int, float | None]] = [(s, cell[column.key]) for (s, _), cell in cells.items()]
        if column.key == CAME_BACK.key:
            values = known_came_back(values)
        estimate = mean_interval(repetitions(values, over), over)
        spread = seed_deviation(values)
        found[column.key] = None if estimate is None else replace(estimate, seed_std=spread)
    return found


def _marked(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Row, ...]:
    compared = [row for row in rows if not (row.before or row.gold)]
    by_column = {column.key: rank(column, [row.values[column.key] for row in compared]) for column in columns}
    marked = [
        replace(row, marks={key: mark for key, marks in by_column.items() if (mark := marks[place]) is not None})
        for place, row in enumerate(compared)
    ]
    return (*(row for row in rows if row.before or row.gold), *marked)


def rank(column: Column, estimates: Sequence[Estimate | None]) -> list[Mark | None]:
    """Best and second best of a column, as printed: what reads the same is equally good.

    One value is no contest, and behind two that share the first place nobody is second.
    """
    shown = [None if e is None else round(e.mean, column.decimals) for e in estimates]
    if column.perplexity:
        shown = [None if value is None else min(value, 1000.0) for value in shown]
    levels = sorted({value for value in shown if value is not None}, reverse=column.better == "higher")
    if sum(value is not None for value in shown) < 2 or len(levels) < 2:
        return [None] * len(shown)
    second = levels[1] if shown.count(levels[0]) == 1 else None
    return [None if v is None else "best" if v == levels[0] else "second" if v == second else None for v in shown]


def shown_columns(blocks: Sequence[Block]) -> tuple[Column, ...]:
    """The columns that hold anything: the paper's in its order, measured here or printed there, then our own."""
    rows = [row for block in blocks for row in block.rows]

    def holds(column: Column, row: Row) -> bool:
        return row.values[column.key] is not None or (row.paper is not None and column.key in row.paper.printed)

    return tuple(
        replace(column, meaning=f"{column.meaning} ({column.metrics[0]})") if column.metrics else column
        for column in (blocks[0].columns if blocks else ALL_COLUMNS)
        if any(holds(column, row) for row in rows)
    )
