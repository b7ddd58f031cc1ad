"""The columns of the paper's Table I in its order, and the few of ours that stand after them.

    for column in PAPER_COLUMNS: column.heading, column.value(scores)

Fractions of the files become percent here. `Scores` is asked for each column's field by name: columns that no stage
has measured are empty, not zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from icu_ray.metrics.scores import COLUMNS, HIGHER_IS_BETTER, PRINTED_CAP
from icu_ray.results import Scores


@dataclass(frozen=True)
class Column:
    """A metric as tables show it. key: the paper's columns as in metrics/scores.py; field: its name in Scores."""

    key: str
    heading: str
    latex: str
    field: str
    better: Literal["lower", "higher"]
    decimals: int
    percent: bool = False
    meaning: str = ""

    @property
    def arrow(self) -> str:
        """↓ or ↑, as the paper marks the better direction."""
        return "↓" if self.better == "lower" else "↑"

    @property
    def perplexity(self) -> bool:
        """Whether the paper prints '>1000' for large values of it."""
        return self.key.startswith("ppl_") and self.key != "ppl_ratio"

    def value(self, scores: Scores | None) -> float | None:
        """This metric of a model, None where it was not measured."""
        value: float | None = getattr(scores, self.field, None)
        return None if value is None else value * (100 if self.percent else 1)

    def text(self, value: float | None) -> str:
        """A value as tables print it: '–' for none, '>1000' for the perplexity of a collapsed model."""
        if value is None:
            return "–"
        if self.perplexity and value > PRINTED_CAP:
            return ">1000"
        return f"{value:.{self.decimals}f}" if abs(value) < 1e5 else f"{value:.1e}"


def _paper(key: str, heading: str, latex: str, field: str, decimals: int, percent: bool, meaning: str) -> Column:
    better: Literal["lower", "higher"] = "higher" if key in HIGHER_IS_BETTER else "lower"
    return Column(key, heading, latex, field, better, decimals, percent, meaning)


PAPER_COLUMNS: tuple[Column, ...] = (
    _paper("el10", "EL₁₀ (%)", r"EL$_{10}$ (\%)", "el10", 1, True, "extraction likelihood of the forget sample"),
    _paper("ma", "MA (%)", r"MA (\%)", "ma", 1, True, "memorisation accuracy on the forget sample"),
    _paper("bert", "BERT (F1)", "BERT (F1)", "bertscore_f1", 1, True, "BERTScore of what is said after the prompt"),
    _paper("entropy", "Entropy", "Entropy", "entropy", 3, False, "bits of the tokens of what is said after the prompt"),
    _paper("cls", "Cls Avg. (ACC)", "Cls Avg. (ACC)", "cls", 1, True, "mean accuracy of nine classification tasks"),
    _paper("dia", "Dia Avg. (F1)", "Dia Avg. (F1)", "dia", 1, True, "mean F1 of four dialogue tasks"),
    _paper("ppl_pile", "Pile (PPL)", "Pile (PPL)", "ppl_pile", 1, False, "perplexity on Pile validation texts"),
    _paper("ppl_wikitext", "Wikitext (PPL)", "Wikitext (PPL)", "ppl_wikitext", 1, False, "perplexity on Wikitext"),
    _paper("gpt", "GPT", "GPT", "gpt", 2, False, "grade of a GPT-4 judge"),
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
OWN_COLUMNS = (HELDOUT, PPL_RATIO)
ALL_COLUMNS = (*PAPER_COLUMNS, *OWN_COLUMNS)
