"""The columns of the paper's Table I in its order, and the few of ours that stand after them.

    for column in PAPER_COLUMNS: column.heading, column.value(scores)

Fractions of the files become percent here. A column is a field of `Scores` or a metric of the evaluation; what was not
measured is empty, not zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from icu_ray.metrics.scores import COLUMNS, HIGHER_IS_BETTER, PRINTED_CAP
from icu_ray.storage.el_names import PAPER_NGRAM
from icu_ray.storage.results import Scores


@dataclass(frozen=True)
class Column:
    """A metric as tables show it. key: the paper's columns as in metrics/scores.py; field: its name in Scores.

    metrics: for columns of the evaluation or the audit, its names there; the first that there is in a report is taken
    for all of it, so that no table mixes two suites. ngram: of a column of EL, which has no value of another n.
    """

    key: str
    heading: str
    latex: str
    field: str
    better: Literal["lower", "higher", "unchanged"]
    decimals: int
    percent: bool = False
    meaning: str = ""
    metrics: tuple[str, ...] = ()
    ngram: int | None = None

    @property
    def in_files(self) -> str:
        """The key with its unit, as CSV headers have it: ma_pct."""
        unit = "_pct" if self.percent else "_bits" if "(bits)" in self.heading else ""
        return f"{self.key}{unit}"

    @property
    def arrow(self) -> str:
        """↓ or ↑, as the paper marks the better direction; nothing where a value should stay what it was."""
        return {"lower": "↓", "higher": "↑", "unchanged": ""}[self.better]

    @property
    def perplexity(self) -> bool:
        """Whether the paper prints '>1000' for large values of it."""
        return self.key.startswith("ppl_") and self.key != "ppl_ratio"

    def value(
        self, scores: Scores | None, evaluated: Mapping[str, float | None] | None = None, metric: str = ""
    ) -> float | None:
        """This metric of a model, None where it was not measured. metric: which one of the evaluated ones is meant."""
        value: float | None = (evaluated or {}).get(metric) if metric else getattr(scores, self.field, None)
        if self.ngram is not None and scores is not None and scores.ngram != self.ngram:
            return None
        return None if value is None else value * (100 if self.percent else 1)

    def text(self, value: float | None) -> str:
        """A value as tables print it: '–' for none, '>1000' for the perplexity of a collapsed model."""
        if value is None:
            return "–"
        if self.perplexity and value > PRINTED_CAP:
            return ">1000"
        return f"{value:.{self.decimals}f}" if abs(value) < 1e5 else f"{value:.1e}"


def _paper(
    key: str, heading: str, field: str, decimals: int, percent: bool, meaning: str, *metrics: str, latex: str = ""
) -> Column:
    better: Literal["lower", "higher"] = "higher" if key in HIGHER_IS_BETTER else "lower"
    in_latex = latex or heading.replace("%", r"\%")
    return Column(key, heading, in_latex, field, better, decimals, percent, meaning, metrics)


def el_column(ngram: int) -> Column:
    """Extraction likelihood of one n."""
    heading, latex = f"EL{ngram} (%)", rf"EL$_{{{ngram}}}$ (\%)"
    meaning = "extraction likelihood of the forget sample"
    return Column(f"el{ngram}", heading, latex, "el", "lower", 1, True, meaning, ngram=ngram)


PAPER_COLUMNS: tuple[Column, ...] = (
    el_column(PAPER_NGRAM),
    _paper("ma", "MA (%)", "ma", 1, True, "memorisation accuracy on the forget sample", latex=r"MA (\%)"),
    _paper("bert", "BERT F1 (%)", "bertscore_f1", 1, True, "BERTScore of what is said after the prompt"),
    _paper("entropy", "Entropy (bits)", "entropy", 3, False, "bits of the tokens of what is said after the prompt"),
    _paper(
        "cls",
        "Cls Avg. (%)",
        "",
        1,
        True,
        "mean accuracy of classification tasks",
        "cls/icu_avg",
        "cls/avg",
    ),
    _paper("dia", "Dia Avg. (%)", "", 1, True, "mean F1 of dialogue tasks", "dialogue/avg"),
    _paper("ppl_pile", "Pile (PPL)", "", 1, False, "perplexity on Pile texts", "ppl/pile_icu", "ppl/pile_rolling"),
    _paper(
        "ppl_wikitext",
        "Wikitext (PPL)",
        "",
        1,
        False,
        "perplexity on Wikitext",
        "ppl/wikitext_icu",
        "ppl/wikitext_rolling",
    ),
    _paper("gpt", "GPT", "", 2, False, "grade of a GPT-4 judge"),
)
assert tuple(column.key for column in PAPER_COLUMNS) == COLUMNS

HELDOUT = Column(
    "ppl_heldout",
    "held-out PPL",
    "held-out PPL",
    "ppl_heldout",
    "lower",
    1,
    meaning="perplexity on texts of the same kind that nobody asked to forget",
)
PPL_RATIO = Column(
    "ppl_ratio",
    "PPL ratio",
    "PPL ratio",
    "",
    "lower",
    2,
    meaning="held-out perplexity after unlearning over before",
)
# The quick suite asks about made-up records, not what the paper asks: never in the paper's columns or scores.
QUICK_CLS = Column(
    "quick_cls",
    "quick Cls (%)",
    r"quick Cls (\%)",
    "",
    "higher",
    1,
    True,
    "mean accuracy of the quick suite's choices",
    ("cls/quick_avg",),
)
QUICK_DIA = Column(
    "quick_dia",
    "quick Dia (%)",
    r"quick Dia (\%)",
    "",
    "higher",
    1,
    True,
    "F1 of the quick suite's dialogue",
    ("dialogue/quick_f1",),
)
CAME_BACK = Column(
    "came_back",
    "Came back (%)",
    r"Came back (\%)",
    "",
    "lower",
    1,
    True,
    "rows to forget that any attack of the audit brought back",
    ("audit/came_back",),
)
OWN_COLUMNS = (HELDOUT, PPL_RATIO, CAME_BACK, QUICK_CLS, QUICK_DIA)
MORE_MEASURES = (
    Column(
        "forget_loss",
        "forget loss",
        "forget loss",
        "forget_loss",
        "higher",
        2,
        meaning="mean negative log-likelihood of the forget sample's tokens",
    ),
    Column(
        "bleu", "BLEU (%)", r"BLEU (\%)", "bleu", "lower", 1, True, "words that what is said shares with the true text"
    ),
    Column(
        "ma_heldout",
        "held-out MA (%)",
        r"held-out MA (\%)",
        "ma_heldout",
        "unchanged",
        1,
        True,
        "memorisation accuracy on held-out texts",
    ),
    Column(
        "el_heldout",
        "held-out EL (%)",
        r"held-out EL (\%)",
        "el_heldout",
        "unchanged",
        1,
        True,
        "extraction likelihood of held-out texts",
    ),
    Column(
        "loss_heldout",
        "held-out loss",
        "held-out loss",
        "loss_heldout",
        "lower",
        2,
        meaning="mean negative log-likelihood of the held-out texts' tokens",
    ),
)
"""Measured, and in trials.csv; no column of the report's tables."""
ALL_COLUMNS = (*PAPER_COLUMNS, *OWN_COLUMNS)


def known_came_back(values: Sequence[tuple[int, float | None]]) -> Sequence[tuple[int, float | None]]:
    """The values of `CAME_BACK` that a mean may be taken of, by forget sample: none where nothing came back of those
    that are known and others are not, for a mean of 0 would tell that of all."""
    return values if any(value for _, value in values) or all(value is not None for _, value in values) else ()


def columns_of(ngrams: Iterable[int], evaluated: Mapping[str, str]) -> tuple[Column, ...]:
    """ALL_COLUMNS with one of EL for each of these n, beside the paper's own, and the metric that each shows."""
    every = (*map(el_column, sorted({PAPER_NGRAM, *ngrams})), *ALL_COLUMNS[1:])
    return tuple(replace(column, metrics=tuple(filter(None, [evaluated.get(column.key)]))) for column in every)


def evaluated_metrics(evaluations: Iterable[Mapping[str, float | None]]) -> dict[str, str]:
    """By column key, the evaluation's metric that it shows: the first of its names that any of these has."""
    there = {name for metrics in evaluations for name, value in metrics.items() if value is not None}
    found = {column.key: next((name for name in column.metrics if name in there), "") for column in ALL_COLUMNS}
    return {key: name for key, name in found.items() if name}
