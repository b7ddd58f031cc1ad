"""What a trial has measured under the names that OpenUnlearning gives its metrics, in its units (fractions, p-values).

    measured(trial, "forget_Q_A_Prob")        # of the unlearned model; side="before": of the original one

A measure of the evaluation is found by its name: to have one more, add the name to `EVALUATED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, TypeAlias

from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.field_rows import FieldRow
from icu_ray.storage.results import SampleRecord

Side = Literal["before", "after"]


@dataclass(frozen=True)
class FieldMeasure:
    """A metric of one model. aggregate: None where it is not finite. rows: the quantities of each row, by its number.

    A measure of the evaluation has no rows here: they lie in its documents (field_rows.py).
    """

    aggregate: float | None
    rows: Mapping[int, FieldRow] = field(default_factory=dict)


Source: TypeAlias = Callable[[ReportedTrial, Side], FieldMeasure | None]
"""Reads a metric of a trial; None where it was not measured."""

EVALUATED = (
    "forget_quality",
    "forget_truth_ratio",
    "forget_Truth_Ratio",
    "forget_Q_A_Prob",
    "forget_Q_A_PARA_Prob",
    "forget_Q_A_PERT_Prob",
    "forget_Q_A_ROUGE",
    "forget_Q_A_gibberish",
    "forget_Truth_Ratio_prob_mean",
    "forget_parap_question_Truth_Ratio",
    "forget_parap_question_Truth_Ratio_prob_mean",
    "forget_parap_question_Q_A_Prob",
    "forget_parap_question_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "retain_Truth_Ratio_prob_mean",
    "retain_parap_question_Truth_Ratio",
    "retain_parap_question_Truth_Ratio_prob_mean",
    "retain_parap_question_Q_A_Prob",
    "retain_parap_question_Q_A_ROUGE",
    "retain_Q_A_Prob",
    "retain_Q_A_PARA_Prob",
    "retain_Q_A_PERT_Prob",
    "retain_Q_A_ROUGE",
    "ra_Truth_Ratio",
    "ra_Truth_Ratio_prob_mean",
    "ra_Q_A_Prob",
    "ra_Q_A_Prob_normalised",
    "ra_Q_A_ROUGE",
    "wf_Truth_Ratio",
    "wf_Truth_Ratio_prob_mean",
    "wf_Q_A_Prob",
    "wf_Q_A_Prob_normalised",
    "wf_Q_A_ROUGE",
    "model_utility",
    "exact_memorization",
    "extraction_strength",
    "mia_loss",
    "mia_zlib",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_gradnorm",
    "mia_reference",
    "privleak",
    "rel_diff",
    "forget_knowmem_ROUGE",
    "forget_verbmem_ROUGE",
    "retain_knowmem_ROUGE",
)
"""Metrics of the evaluation, each found under its own name, or behind a suite's ('tofu/forget_quality')."""


def measured(trial: ReportedTrial, name: str, side: Side = "after") -> FieldMeasure | None:
    """A metric of the model after unlearning, or before; None where it was not measured, or is none of ours."""
    if trial.measured is None:
        return None
    sources = SOURCES.get(name, ())
    return next((found for source in sources if (found := source(trial, side)) is not None), None)


def _evaluated(name: str) -> Source:
    def read(trial: ReportedTrial, side: Side) -> FieldMeasure | None:
        metrics = {} if trial.evaluation is None else getattr(trial.evaluation, side)
        for known, value in metrics.items():
            if value is not None and known.rpartition("/")[2] == name:
                return FieldMeasure(float(value))
        return None

    return read


def _probability(trial: ReportedTrial, side: Side) -> FieldMeasure | None:
    """exp(-loss) of each answer, a loss being the mean over the answer's tokens, its end of text among them."""
    if not _prompted(trial):
        return None
    losses = _of_rows(trial.samples, lambda sample: getattr(sample, f"loss_{side}"))
    return _mean_of("prob", [{"prob": None if x is None else math.exp(-x), "avg_loss": x} for x in losses])


def _exact_memorization(trial: ReportedTrial, side: Side) -> FieldMeasure | None:
    """MA: the share of a text's tokens that are the first choice, the last one among them, which theirs leaves out."""
    values = _of_rows(trial.samples, lambda sample: getattr(sample, f"ma_{side}"))
    return _mean_of("score", [{"score": value} for value in values])


SOURCES: Mapping[str, tuple[Source, ...]] = {
    **{name: (_evaluated(name),) for name in EVALUATED},
    "forget_Q_A_Prob": (_evaluated("forget_Q_A_Prob"), _probability),
    # They compute forget quality from this one of a retrained model's file.
    "forget_truth_ratio": (_evaluated("forget_truth_ratio"), _evaluated("forget_Truth_Ratio")),
    "exact_memorization": (_evaluated("exact_memorization"), _exact_memorization),
}
"""By a metric's name, where it is read; the first source that has it counts. What has no equivalent is not here."""


def _prompted(trial: ReportedTrial) -> bool:
    """Whether the targets are answers to prompts: of a plain text there is no probability of an answer."""
    data = {} if trial.provenance is None else trial.provenance.config.get("data")
    keys = ("prompt_column", "messages_column")
    return isinstance(data, Mapping) and any(data.get(key) is not None for key in keys)


def _of_rows(samples: Iterable[SampleRecord], read: Callable[[SampleRecord], float | None]) -> tuple[float | None, ...]:
    """A value of each row; none at all where a text is several windows, which count as the worst of them does."""
    known = tuple(samples)
    return () if any(sample.windows != 1 for sample in known) else tuple(map(read, known))


def _mean_of(quantity: str, rows: list[Mapping[str, float | None]]) -> FieldMeasure | None:
    values = [value for row in rows if (value := row[quantity]) is not None]
    return FieldMeasure(fmean(values), dict(enumerate(rows))) if values else None
