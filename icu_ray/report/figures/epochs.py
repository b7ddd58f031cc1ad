"""Every measure that trials take after each epoch, as small panels: a line a trial.

    figure = every_measure(block, report, theme)

Dotted: the original model, mean over its forget samples. Dashed: the retrained model, mean over its trials. The terms
of a loss are means over an epoch's steps; the other two models have none. What the evaluation measures is
evaluated_epochs.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from icu_ray.report.collect import ReportedTrial
from icu_ray.report.contents import Report
from icu_ray.report.figures.theme import Theme, legend_below, panels, styles
from icu_ray.report.numbers.rows import Block
from icu_ray.storage.el_names import ngrams_of
from icu_ray.storage.results import EpochRecord, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 4
_WIDE = 10.0
"""Losses and perplexities above 0 that span more than this are drawn on a logarithmic axis."""
_SPREAD = ("forget loss", "held-out perplexity")


@dataclass(frozen=True)
class EpochMeasure:
    """points: its values of a trial by epoch. original, retrained: those of these models, None where they have none.

    share: a fraction, in per cent. spread: where its values span much, they are drawn on a logarithmic axis.
    """

    heading: str
    points: Callable[[ReportedTrial], list[tuple[int, float]]]
    original: float | None = None
    retrained: float | None = None
    share: bool = False
    spread: bool = False


_PLAIN: tuple[tuple[str, str, bool], ...] = (
    ("forget_loss", "forget loss", False),
    ("bertscore_f1", "BERTScore F1 (%)", True),
    ("bleu", "BLEU (%)", True),
    ("entropy", "entropy (bits)", False),
    ("distinct", "distinct tokens (%)", True),
    ("ppl_heldout", "held-out perplexity", False),
    ("loss_heldout", "held-out loss", False),
    ("distinct_heldout", "held-out distinct tokens (%)", True),
    ("ma_heldout", "held-out MA (%)", True),
)
"""Field of Scores, heading, whether it is a fraction, which is drawn in per cent."""


def epoch_measures(block: Block) -> tuple[EpochMeasure, ...]:
    """Those that any trial of a model's methods has of any epoch after the first."""
    records = [record for trial in _trials(block) for record in trial.history]
    ngrams = ngrams_of(record.scores for record in records if record.scores.el is not None)
    others = _original(block), _retrained(block)

    def of_scores(heading: str, read: Callable[[Scores], float | None], share: bool) -> EpochMeasure:
        def percent(scores: Scores) -> float | None:
            value = read(scores)
            return None if value is None else 100 * value if share else value

        original, retrained = (_mean(percent, scores) for scores in others)
        points = _points(lambda record: percent(record.scores))
        return EpochMeasure(heading, points, original, retrained, share, heading in _SPREAD)

    found = [of_scores("MA (%)", lambda scores: scores.ma, share=True)]
    found += [of_scores(f"EL{n} (%)", _of_n("el", n), share=True) for n in ngrams]
    found += [of_scores(heading, _field(name), share) for name, heading, share in _PLAIN]
    found += [of_scores(f"held-out EL{n} (%)", _of_n("el_heldout", n), share=True) for n in ngrams]
    terms = dict.fromkeys(name for record in records for name in record.loss)
    found += [EpochMeasure(f"loss: {name}", _points(_term(name))) for name in terms]
    return tuple(each for each in found if any(epoch for t in _trials(block) for epoch, _ in each.points(t)))


def _points(read: Callable[[EpochRecord], float | None]) -> Callable[[ReportedTrial], list[tuple[int, float]]]:
    return lambda trial: [(r.epoch, value) for r in trial.history if (value := read(r)) is not None]


def _field(name: str) -> Callable[[Scores], float | None]:
    return lambda scores: getattr(scores, name)


def _of_n(name: str, ngram: int) -> Callable[[Scores], float | None]:
    return lambda scores: getattr(scores, name) if scores.ngram == ngram else None


def _term(name: str) -> Callable[[EpochRecord], float | None]:
    return lambda record: record.loss.get(name)


def _trials(block: Block) -> list[ReportedTrial]:
    return [trial for row in block.methods for trial in row.trials if len(trial.history) > 1]


def every_measure(block: Block, report: Report, theme: Theme) -> Figure:
    """Panels of all measures that one model's trials take, four to a line."""
    return draw_measures(block, epoch_measures(block), report, theme)


def draw_measures(
    block: Block, measures: Sequence[EpochMeasure], report: Report, theme: Theme, *, marked: bool = False
) -> Figure:
    """A panel a measure, four to a line. marked: every value has a mark, not the last one alone."""
    looks = styles(theme, report.blocks)
    across = min(_ACROSS, len(measures))
    figure, grid = panels(math.ceil(len(measures) / across), across, width=2.9, height=2.1)
    axes = [axis for line in grid for axis in line]
    last = max(trial.history[-1].epoch for trial in _trials(block))
    for axis, measure in zip(axes, measures, strict=False):
        drawn: list[float] = []
        for row in block.methods:
            style = looks[row.name]
            for trial in row.trials:
                points = measure.points(trial)
                if len(trial.history) < 2 or not points:
                    continue
                drawn += [value for _, value in points]
                axis.plot(
                    *zip(*points, strict=True),
                    color=style.color,
                    linestyle=style.line,
                    marker=style.marker,
                    markersize=3.5,
                    markevery=None if marked else [-1],
                    linewidth=1.2,
                    label=row.name,
                )
        levels = ((measure.original, "original", (0, (1, 2))), (measure.retrained, "retrained", (0, (5, 3))))
        for value, label, line in levels:
            if value is not None:
                drawn.append(value)
                axis.axhline(value, color=theme.ink, linewidth=1, linestyle=line, label=label)
        _finish(axis, measure, drawn, last)
    for axis in axes[len(measures) :]:
        axis.set_visible(False)
    legend_below(figure, axes[: len(measures)], 2 * across)
    return figure


def _finish(axis: Axes, measure: EpochMeasure, drawn: list[float], last: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axis.set_title(measure.heading, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_xlabel("epoch", fontsize=8)
    axis.grid(axis="y")
    axis.set_xlim(-0.04 * last, 1.04 * last)
    if measure.spread and min(drawn) > 0 and max(drawn) / min(drawn) > _WIDE:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif measure.share or not any(drawn):
        axis.set_ylim(0, None if max(drawn) > 0 else 1)


def _original(block: Block) -> list[Scores]:
    """Of each forget sample once: whichever trial measured it first has said it all."""
    found: dict[str, Scores] = {}
    for trial in (trial for row in block.rows for trial in row.trials):
        before = trial.result.before if trial.result else None
        scores = before or (trial.history[0].scores if trial.history else None)
        if scores is not None:
            found.setdefault(repr((trial.settings.get("sample", trial.sample), scores.ngram)), scores)
    return list(found.values())


def _retrained(block: Block) -> list[Scores]:
    golds = [trial.measured for row in block.rows if row.gold for trial in row.trials if trial.measured is not None]
    return [gold.after for gold in golds if gold.after is not None]


def _mean(read: Callable[[Scores], float | None], scores: Iterable[Scores]) -> float | None:
    values = [value for each in scores if (value := read(each)) is not None]
    return fmean(values) if values else None
