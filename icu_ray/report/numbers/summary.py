"""A sweep's summary, from what its trials left in storage: one row a trial, one row a cell (mean and deviation).

    summary = summarise(storage, sweep)
    write_tables(summary)            # trials.csv, cells.csv, summary.json in the sweep's folder

A header says its column's unit: `_pct` is per cent, `_bits` bits, `seconds` seconds; ratios and perplexities have none.
`status` is how a trial ended, `outcome` what came out: a model that forgot may be too costly, or have collapsed.

`terminal/summary_tables.py` prints it.

Fractions become percent here and nowhere else.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from icu_ray.errors import UserError
from icu_ray.report.collect import SIDES, Side, evaluated_of
from icu_ray.report.numbers.columns import CAME_BACK, known_came_back
from icu_ray.report.numbers.statistics import FEWEST, Over, repeated_over, repetitions, seed_deviation
from icu_ray.report.numbers.variants import differing_keys
from icu_ray.storage.audit_files import read_audit
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.csv_files import csv_bytes, filled
from icu_ray.storage.el_names import ngrams_of, plain
from icu_ray.storage.epoch_evaluations import by_epoch
from icu_ray.storage.epoch_files import read_epoch_evaluations
from icu_ray.storage.files import join, write_atomic
from icu_ray.storage.flat import flatten
from icu_ray.storage.results import NOTHING_UNLEARNED, Scores, Setting, TrialEvaluation, TrialResult, TrialSpec, to_json
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, read_sweep, trial_ids
from icu_ray.storage.verdict import is_success, result_outcome


@dataclass(frozen=True)
class Metric:
    """A column: its key, heading, how to read it from scores and how many decimals to show."""

    key: str
    heading: str
    read: Callable[[Scores], float | None]
    decimals: int
    unit: str = ""

    def column(self, side: str) -> str:
        """Its header in CSV: ma_before_pct."""
        return f"{self.key}_{side}" + (f"_{self.unit}" if self.unit else "")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def el_metric(ngram: int) -> Metric:
    """Extraction likelihood of one n; None of scores that have another."""
    return Metric(f"el{ngram}", f"EL{ngram} %", lambda s: _percent(s.el) if s.ngram == ngram else None, 1, "pct")


def _el_heldout(ngram: int) -> Metric:
    def read(scores: Scores) -> float | None:
        return _percent(scores.el_heldout) if scores.ngram == ngram else None

    return Metric(f"el{ngram}_heldout", f"held-out EL{ngram} %", read, 1, "pct")


MA = Metric("ma", "MA %", lambda s: _percent(s.ma), 1, "pct")
_OTHERS = (
    Metric("forget_loss", "forget loss", lambda s: s.forget_loss, 2),
    Metric("bertscore_f1", "BERT F1 %", lambda s: _percent(s.bertscore_f1), 1, "pct"),
    Metric("bleu", "BLEU %", lambda s: _percent(s.bleu), 1, "pct"),
    Metric("entropy", "entropy", lambda s: s.entropy, 2, "bits"),
    Metric("ppl_heldout", "held-out PPL", lambda s: s.ppl_heldout, 1),
    Metric("ma_heldout", "held-out MA %", lambda s: _percent(s.ma_heldout), 1, "pct"),
    Metric("loss_heldout", "held-out loss", lambda s: s.loss_heldout, 2),
)


def metrics_of(results: Sequence[TrialResult]) -> tuple[Metric, ...]:
    """The columns of these results: EL has one for each n, so that no column mixes two."""
    ngrams = ngrams_of(side for r in results for side in (r.before, r.after))
    return (MA, *map(el_metric, ngrams), *_OTHERS, *map(_el_heldout, ngrams))


_Spread: TypeAlias = tuple[float, float | None] | None


@dataclass(frozen=True)
class Cell:
    """All samples and seeds of one model, method and weights; values are (mean, deviation or None) by metric key.

    told: what else its trials were told, such as lr; seeds: those of its trials. over: what the means after unlearning
    are over. forgotten: None where nothing is unlearned. The original model is the same for all seeds of a sample: its
    means are over samples. seed_std: by metric key, the deviation after unlearning over the seeds of a sample, where
    there are several samples.
    """

    model: str
    method: str
    alpha: float
    beta: float
    trials: int
    forgotten: int | None
    epochs: float
    before: dict[str, tuple[float, float | None] | None]
    after: dict[str, tuple[float, float | None] | None]
    ppl_ratio: tuple[float, float | None] | None
    told: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    over: Over = "forget samples"
    seed_std: Mapping[str, float | None] = field(default_factory=dict)
    came_back: tuple[_Spread, _Spread] = (None, None)
    """Per cent of the rows that attacks brought back, before and after; None where that is not known of all."""


@dataclass(frozen=True)
class Summary:
    """A sweep's results. missing: trials that were planned and have no result. evaluations, audits: by trial id.

    by_epoch: by trial id, the evaluation's metrics after each epoch, of trials whose epochs were evaluated.
    """

    storage: str
    sweep: str
    results: tuple[TrialResult, ...]
    cells: tuple[Cell, ...]
    missing: tuple[str, ...]
    evaluations: Mapping[str, TrialEvaluation]
    audits: Mapping[str, TrialAudit] = field(default_factory=dict)
    by_epoch: Mapping[str, Mapping[int, Mapping[str, float | None]]] = field(default_factory=dict)

    def evaluated(self, trial_id: str, side: Side = "after") -> Mapping[str, float | None]:
        """Metrics of a trial's evaluation and audit, by the names that MLflow has."""
        return evaluated_of(self.evaluations.get(trial_id), self.audits.get(trial_id), side)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The columns of its tables."""
        return metrics_of(self.results)


def summarise(storage: str, sweep: str, planned: Sequence[tuple[str, str]] | None = None) -> Summary:
    """Read every result; planned: (trial id, name) of the trials to look for, else all that have a folder."""
    wanted = [(trial_id, trial_id) for trial_id in trial_ids(storage, sweep)] if planned is None else list(planned)
    results, missing, evaluations, audits, epochs = [], [], {}, {}, {}
    for trial_id, name in wanted:
        paths = TrialPaths.of(storage, sweep, trial_id)
        result, evaluation, audit = read_result(paths), read_evaluation(paths), read_audit(paths)
        if result is None:
            missing.append(name)
        else:
            results.append(result)
            if evaluation is not None:
                evaluations[trial_id] = evaluation
            if audit is not None:
                audits[trial_id] = audit
            left = result.kept_epoch or result.epochs
            if points := by_epoch(evaluation, read_epoch_evaluations(paths), left):
                epochs[trial_id] = points
    results.sort(key=lambda r: (r.model, r.method, r.hyperparameters["alpha"], r.hyperparameters["beta"], r.sample))
    record = None
    with contextlib.suppress(UserError):  # a broken file costs no more than what it says of trials without a result
        record = read_sweep(storage, sweep)
    specs = () if record is None else record.trials
    cells = _cells(results, specs, audits)
    return Summary(storage, sweep, tuple(results), cells, tuple(missing), evaluations, audits, epochs)


def ppl_ratio(result: TrialResult) -> float | None:
    """Held-out perplexity after over before."""
    before, after = result.before, result.after
    if before is None or after is None or not before.ppl_heldout or after.ppl_heldout is None:
        return None
    return after.ppl_heldout / before.ppl_heldout


def _cell_of(trial: TrialResult | TrialSpec, stops: Mapping[str, Mapping[str, Any]]) -> str:
    """What the trials of one cell have in common. stops: by trial id, the keys of `stop` in which methods differ."""
    told = {key: value for key, value in trial.hyperparameters.items() if key != "seed"}
    return repr((trial.model, trial.method, sorted(told.items()), stops.get(trial.trial_id)))


def _stops(planned: Sequence[TrialSpec]) -> dict[str, dict[str, Any]]:
    """By trial id, what one method's entry says of `stop` and another of the same label does not."""
    found: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys((spec.model, spec.method) for spec in planned):
        own = {s.trial_id: flatten(s.settings.get("stop", {})) for s in planned if (s.model, s.method) == label}
        differing = differing_keys(list(own.values()))
        found |= {trial: {f"stop.{key}": stop.get(key) for key in differing} for trial, stop in own.items()}
    return found


def _unit(trial: TrialResult | TrialSpec) -> tuple[int, int | None]:
    seed: Setting | None = trial.hyperparameters.get("seed")
    return trial.sample, None if seed is None else int(seed)


def _cells(
    results: Sequence[TrialResult], planned: Sequence[TrialSpec], audits: Mapping[str, TrialAudit]
) -> tuple[Cell, ...]:
    metrics = metrics_of(results)
    stops = _stops(planned)
    groups: dict[str, list[TrialResult]] = {}
    units: dict[str, list[tuple[int, int | None]]] = {}
    for result in results:
        groups.setdefault(_cell_of(result, stops), []).append(result)
    known: list[TrialResult | TrialSpec] = [*results, *planned]
    for trial in known:
        units.setdefault(_cell_of(trial, stops), []).append(_unit(trial))
    cells = []
    for name, members in groups.items():
        over = repeated_over(units[name])
        first = members[0].hyperparameters
        measured = [r for r in members if r.status != "failed"]
        back = {side: known_came_back([(r.sample, _came_back(r, audits, side)) for r in measured]) for side in SIDES}
        cells.append(
            Cell(
                members[0].model,
                members[0].method,
                float(first["alpha"]),
                float(first["beta"]),
                len(members),
                None if members[0].reason in NOTHING_UNLEARNED else sum(map(is_success, members)),
                statistics.fmean(r.epochs for r in members),
                {
                    m.key: _spread([(r.sample, m.read(r.before)) for r in measured if r.before], "forget samples")
                    for m in metrics
                },
                {m.key: _spread([(r.sample, m.read(r.after)) for r in measured if r.after], over) for m in metrics},
                _spread([(r.sample, ppl_ratio(r)) for r in measured], over),
                {key: value for key, value in first.items() if key not in ("alpha", "beta", "seed")}
                | stops.get(members[0].trial_id, {}),
                tuple(dict.fromkeys(int(r.hyperparameters["seed"]) for r in members if "seed" in r.hyperparameters)),
                over,
                {m.key: seed_deviation((r.sample, m.read(r.after)) for r in measured if r.after) for m in metrics}
                | {
                    "ppl_ratio": seed_deviation((r.sample, ppl_ratio(r)) for r in measured),
                    "came_back": seed_deviation(back["after"]),
                },
                (_spread(back["before"], "forget samples"), _spread(back["after"], over)),
            )
        )
    return tuple(cells)


def _came_back(result: TrialResult, audits: Mapping[str, TrialAudit], side: Side) -> float | None:
    """Per cent of the rows that attacks brought back."""
    return CAME_BACK.value(None, evaluated_of(None, audits.get(result.trial_id), side), *CAME_BACK.metrics)


def _spread(values: Sequence[tuple[int, float | None]], over: Over) -> tuple[float, float | None] | None:
    """Mean and standard deviation over the repetitions (None for fewer than FEWEST); None without values."""
    known = repetitions(values, over)
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) >= FEWEST else None


def write_tables(summary: Summary) -> str:
    """trials.csv, cells.csv and summary.json in the sweep's folder; returns that folder."""
    folder = join(summary.storage, summary.sweep)
    write_atomic(join(folder, "trials.csv"), csv_bytes(*filled(*trial_rows(summary))))
    write_atomic(join(folder, "cells.csv"), csv_bytes(*filled(*cell_rows(summary))))
    content = {
        "sweep": summary.sweep,
        "trials": [{**plain(result), "outcome": result_outcome(result)} for result in summary.results],
        "cells": [asdict(cell) for cell in summary.cells],
        "missing": summary.missing,
        "evaluations": {trial_id: asdict(found) for trial_id, found in summary.evaluations.items()},
        "evaluations_by_epoch": summary.by_epoch,
        "audits": {
            trial_id: {side: summary.audits[trial_id].metrics(side) for side in SIDES} for trial_id in summary.audits
        },
    }
    write_atomic(join(folder, "summary.json"), to_json(content, indent=2))
    return folder


def trial_rows(summary: Summary) -> tuple[list[str], list[list[object]]]:
    """Header and rows of trials.csv."""
    told = list(dict.fromkeys(["alpha", "beta", *(key for r in summary.results for key in r.hyperparameters)]))
    header = ["trial_id", "name", "model", "method", "sample", *told, "status", "outcome", "reason", "epochs"]
    header += [m.column(side) for m in summary.metrics for side in ("before", "after")] + ["ppl_ratio", "seconds"]
    evaluated = list(dict.fromkeys(name for r in summary.results for name in summary.evaluated(r.trial_id)))
    header += [f"{name}_{side}{'' if _plain(name) else '_pct'}" for name in evaluated for side in ("before", "after")]
    rows: list[list[object]] = []
    for r in summary.results:
        row: list[object] = [r.trial_id, r.name, r.model, r.method, r.sample]
        row += [*(r.hyperparameters.get(key) for key in told), r.status, result_outcome(r), r.reason, r.epochs]
        for metric in summary.metrics:
            row += [None if side is None else metric.read(side) for side in (r.before, r.after)]
        sides = summary.evaluated(r.trial_id, "before"), summary.evaluated(r.trial_id)
        metrics = [v if _plain(name) else _percent(v) for name in evaluated for v in (s.get(name) for s in sides)]
        rows.append([*row, ppl_ratio(r), round(r.seconds.get("total", 0.0), 3), *metrics])
    return header, rows


def _plain(name: str) -> bool:
    """Whether an evaluated metric is no fraction; what attacks count beside rows has units of its own."""
    return name.startswith("ppl/") or (name.startswith("audit/") and not name.endswith("came_back"))


def cell_rows(summary: Summary) -> tuple[list[str], list[list[object]]]:
    """Header and rows of cells.csv."""
    told = list(dict.fromkeys(key for cell in summary.cells for key in cell.told))
    header = ["model", "method", "alpha", "beta", *told, "seed", "over", "trials", "forgotten", "epochs_mean"]
    header += [
        f"{m.column(side)}_{what}"
        for m in summary.metrics
        for side, said in (("before", ("mean", "std")), ("after", ("mean", "std", "seed_std")))
        for what in said
    ]
    header += ["ppl_ratio_mean", "ppl_ratio_std", "ppl_ratio_seed_std"]
    header += [f"came_back_before_pct_{what}" for what in ("mean", "std")]
    header += [f"came_back_after_pct_{what}" for what in ("mean", "std", "seed_std")]
    rows: list[list[object]] = []
    for cell in summary.cells:
        row: list[object] = [cell.model, cell.method, cell.alpha, cell.beta, *(cell.told.get(key) for key in told)]
        row += [" ".join(map(str, cell.seeds)), cell.over, cell.trials, cell.forgotten, cell.epochs]
        for metric in summary.metrics:
            row += [*(cell.before[metric.key] or (None, None)), *(cell.after[metric.key] or (None, None))]
            row.append(cell.seed_std.get(metric.key))
        row += [*(cell.ppl_ratio or (None, None)), cell.seed_std.get("ppl_ratio")]
        before, after = cell.came_back
        rows.append([*row, *(before or (None, None)), *(after or (None, None)), cell.seed_std.get("came_back")])
    return header, rows
