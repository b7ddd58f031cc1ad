"""What the evaluation measures after each epoch (evaluation.when=epochs), as small panels: a line a trial.

    figure = evaluated_epochs(block, report, theme)

Of a benchmark its own table's columns, then what else was evaluated; epochs.csv has all of it. Forget quality, a
p-value over many orders of magnitude, is drawn by its logarithm. Lines and other models are as in epochs.py. A trial
whose epochs were not evaluated has no line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.derived import ATTACKS
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.contents import Report
from icu_ray.report.figures.epochs import EpochMeasure, draw_measures
from icu_ray.report.figures.theme import Theme
from icu_ray.report.numbers.benchmark_tables import is_benchmarks
from icu_ray.report.numbers.rows import P_VALUE, Block

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluated_measures(block: Block) -> tuple[EpochMeasure, ...]:
    """Those that any trial has after an epoch between its first and its last; () where no epoch was evaluated."""
    points = [metrics for row in block.methods for trial in row.trials for metrics in trial.by_epoch.values()]
    there = dict.fromkeys(name for metrics in points for name, value in metrics.items() if value is not None)
    own = [
        reported if "/" in reported else f"{name}/{reported}"
        for name, benchmark in BENCHMARKS.items()
        for reported in (*benchmark.reported, *ATTACKS)
    ]
    names = [f"{name}_log10" if name.endswith(P_VALUE) else name for name in own]
    names += [name for name in there if not is_benchmarks(name)]
    return tuple(_measure(block, name) for name in dict.fromkeys(names) if name in there)


def _measure(block: Block, metric: str) -> EpochMeasure:
    ppl = metric.startswith("ppl/")
    share = not ppl and not is_benchmarks(metric)
    scale = 100 if share else 1

    def points(trial: ReportedTrial) -> list[tuple[int, float]]:
        values = ((epoch, metrics.get(metric)) for epoch, metrics in trial.by_epoch.items())
        return [(epoch, scale * value) for epoch, value in values if value is not None]

    def level(gold: bool) -> float | None:
        row = next((row for row in block.rows if (row.gold if gold else row.before)), None)
        value = None if row is None else block.evaluated_mean(row, metric)
        return None if value is None else scale * value

    heading = metric.split("/", 1)[1] if is_benchmarks(metric) else f"{metric} (%)" if share else metric
    heading = heading.replace("_log10", " (log10)")
    return EpochMeasure(heading, points, level(gold=False), level(gold=True), share, spread=ppl)


def evaluated_epochs(block: Block, report: Report, theme: Theme) -> Figure:
    """Panels of all of them for one model, four to a line."""
    return draw_measures(block, evaluated_measures(block), report, theme, marked=True)
