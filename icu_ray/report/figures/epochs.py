"""Every measure that trials take after each epoch, as small panels: a line a trial.

    figure = every_measure(block, report, theme)

Dotted: the original model, mean over its forget samples. Dashed: the retrained model, mean over its trials. The terms
of a loss are means over an epoch's steps; the other two models have none. What a benchmark measures is not here: a
sweep evaluates models when their trial has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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
    """scores: reads it of a model's scores, None for a term of the loss, which only a training epoch has."""

    heading: str
    read: Callable[[EpochRecord], float | None]
    scores: Callable[[Scores], float | None] | None = None
    share: bool = False


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
    found = [_of_scores("MA (%)", lambda scores: scores.ma, share=True)]
    found += [_of_scores(f"EL{n} (%)", _of_n("el", n), share=True) for n in ngrams]
    found += [_of_scores(heading, _field(name), share) for name, heading, share in _PLAIN]
    found += [_of_scores(f"held-out EL{n} (%)", _of_n("el_heldout", n), share=True) for n in ngrams]
    terms = dict.fromkeys(name for record in records for name in record.loss)
    found += [EpochMeasure(f"loss: {name}", _term(name)) for name in terms]
    later = [record for record in records if record.epoch]
    return tuple(each for each in found if any(each.read(record) is not None for record in later))


def _of_scores(heading: str, read: Callable[[Scores], float | None], share: bool) -> EpochMeasure:
    def percent(scores: Scores) -> float | None:
        value = read(scores)
        return None if value is None else 100 * value if share else value

    return EpochMeasure(heading, lambda record: percent(record.scores), percent, share)


def _field(name: str) -> Callable[[Scores], float | None]:
    return lambda scores: getattr(scores, name)


def _of_n(name: str, ngram: int) -> Callable[[Scores], float | None]:
    return lambda scores: getattr(scores, name) if scores.ngram == ngram else None


def _term(name: str) -> Callable[[EpochRecord], float | None]:
    return lambda record: record.loss.get(name)


def _trials(block: Block) -> list[ReportedTrial]:
    return [trial for row in block.methods for trial in row.trials if len(trial.history) > 1]


def every_measure(block: Block, report: Report, theme: Theme) -> Figure:
    """Panels of all measures of one model, four to a line."""
    measures = epoch_measures(block)
    looks = styles(theme, report.blocks)
    across = min(_ACROSS, len(measures))
    figure, grid = panels(math.ceil(len(measures) / across), across, width=2.9, height=2.1)
    axes = [axis for line in grid for axis in line]
    original, retrained = _original(block), _retrained(block)
    last = max(trial.history[-1].epoch for trial in _trials(block))
    for axis, measure in zip(axes, measures, strict=False):
        drawn: list[float] = []
        for row in block.methods:
            style = looks[row.name]
            for trial in row.trials:
                points = [(r.epoch, value) for r in trial.history if (value := measure.read(r)) is not None]
                if len(trial.history) < 2 or not points:
                    continue
                drawn += [value for _, value in points]
                axis.plot(
                    *zip(*points, strict=True),
                    color=style.color,
                    linestyle=style.line,
                    marker=style.marker,
                    markersize=3.5,
                    markevery=[-1],
                    linewidth=1.2,
                    label=row.name,
                )
        for scores, label, line in ((original, "original", (0, (1, 2))), (retrained, "retrained", (0, (5, 3)))):
            value = _mean(measure.scores, scores)
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
    if measure.heading in _SPREAD and min(drawn) > 0 and max(drawn) / min(drawn) > _WIDE:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif measure.share:
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


def _mean(read: Callable[[Scores], float | None] | None, scores: Iterable[Scores]) -> float | None:
    values = [value for each in scores if read is not None and (value := read(each)) is not None]
    return fmean(values) if values else None
