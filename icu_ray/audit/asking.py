"""Rows asked of a model as it stands: what it says, and how surprising it finds their secrets.

    asked_all(loaded, material, "nf4", 4)      # Findings of the forget and the control rows
    secret_losses(loaded.model, rows)          # (N,) nats a token
    missing_of(findings)                       # what could not be asked, in sentences

A row's numbers depend on that row alone, but for rounding: neither on the others nor on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icu_ray.audit.beside import secret_scores
from icu_ray.audit.findings import Finding, Group
from icu_ray.audit.recite import recite
from icu_ray.audit.rows import AuditRow, Material
from icu_ray.metrics.answers import AnswerScores, Floats, avg_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icu_ray.models.loading import LoadedModel


def secret_losses(model: PreTrainedModel, rows: Sequence[AuditRow]) -> Floats:
    """(N,) the mean loss of each row's secret in nats a token, what ends it included; NaN where it is not finite."""
    return _losses(secret_scores(model, rows))


def _losses(scores: Sequence[AnswerScores]) -> Floats:
    losses = avg_losses(scores)
    return np.where(np.isfinite(losses), losses, np.nan)


def mean_probability(losses: Sequence[float] | Floats) -> float:
    """The mean over rows of exp(-loss), 0..1: how well a model knows the rows. NaN where a loss is, or of no rows."""
    known = np.asarray(losses, dtype=float)
    return float(np.exp(-known).mean()) if len(known) else float("nan")


def asked(
    loaded: LoadedModel, rows: Sequence[AuditRow], group: Group, setting: str, budget: float
) -> tuple[Finding, ...]:
    """One finding a row, with `loss` among its measures.

    A model whose scores are not finite says nothing: that row has no recall and no loss, which is not forgetting.
    """
    if not rows:
        return ()
    scores = secret_scores(loaded.model, rows)
    losses, said = _losses(scores), recite(loaded, rows, openings=[each.copied for each in scores])
    return tuple(
        Finding(
            row.id,
            group,
            setting,
            budget,
            None if each.broken else each.recall,
            None if each.broken else each.exact,
            each.text,
            {} if np.isnan(loss) else {"loss": float(loss)},
        )
        for row, loss, each in zip(rows, losses, said, strict=True)
    )


def asked_all(loaded: LoadedModel, material: Material, setting: str, budget: float) -> tuple[Finding, ...]:
    """`asked` of the forget rows, then of the control rows."""
    return asked(loaded, material.forget, "forget", setting, budget) + asked(
        loaded, material.control, "control", setting, budget
    )


def losses_of(findings: Iterable[Finding]) -> Floats:
    """(N,) what `asked` found of the forget rows, in their order; NaN where there is none."""
    return np.array([each.measures.get("loss", np.nan) for each in findings if each.group == "forget"])


def missing_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """A sentence for each setting and budget at which the model did not answer."""
    counts: dict[tuple[str, float], int] = {}
    for each in findings:
        if each.recall is None:
            key = each.setting, each.budget
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        f"{setting} at {budget:g}: the model's scores are not finite after {count} prompts, or these leave it no place "
        "for an answer, so that it says nothing there"
        for (setting, budget), count in counts.items()
    )
