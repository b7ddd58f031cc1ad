"""Membership inference: can one tell from the model's scores alone that it has read the forget rows?

Scores are low for what a model knows (metrics/membership.py): the loss, the loss over the compressed length (zlib), the
least probable tokens (min-k, Shi et al. 2024) and the same normalised (min-k++, Zhang et al. 2025); beside a model that
never read the rows, the difference of the losses (reference). The area under the ROC curve of forget against control
rows is 1 where all forget rows are better known, and 0.5 where nothing tells them apart. It is below where they were
forgotten so hard that this gives them away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from icu_ray.audit.attack import Target
from icu_ray.audit.beside import model_beside, secret_scores
from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.rows import AuditRow
from icu_ray.metrics.answers import AnswerScores, Floats, avg_losses
from icu_ray.metrics.membership import K, auc, min_k_plus_plus_scores, min_k_scores, privleak, zlib_scores

Scores = dict[str, Floats]
Z = 1.959964
"""Half the width of a 95 % interval in standard deviations."""


@dataclass(frozen=True)
class Membership:
    """k: the share of tokens that min-k and min-k++ look at.

    measures: the scores of each row. numbers: for each score `auc_…` with the limits of its 95 % interval, `auc_…_low`
    and `auc_…_high`; where there is a retrained model, its own areas as `retrained_auc_…`, and `privleak` in per cent,
    by min-k. The budget is the one forward that each row takes.
    """

    k: float = K

    name: ClassVar[str] = "membership"
    unit: ClassVar[str] = "forward passes"
    version: ClassVar[int] = 1
    changes_weights: ClassVar[bool] = False
    brings_back: ClassVar[bool] = False

    def run(self, target: Target) -> AttackResult:
        """One forward a row, and one of the retrained model."""
        material, eos_id = target.material, target.loaded.tokenizer.eos_token_id
        rows: dict[Group, tuple[AuditRow, ...]] = {"forget": material.forget, "control": material.control}
        answered = {group: secret_scores(target.loaded.model, each) for group, each in rows.items()}
        found = {group: self._scores(answered[group], rows[group], eos_id) for group in rows}
        target.on_part(0.5)
        numbers: dict[str, float] = {}
        missing = [] if material.control else ["no control rows: there is nothing to tell the forget rows apart from"]
        retrained = model_beside(target, "retrained")
        if retrained is None:
            missing.append("no retrained model: its loss is no reference, and there is no privleak")
        else:
            known = {
                group: self._scores(secret_scores(retrained.model, rows[group]), rows[group], eos_id) for group in rows
            }
            for group in rows:
                found[group]["reference"] = found[group]["loss"] - known[group]["loss"]
            for score in known["forget"]:
                numbers |= _area(f"retrained_auc_{score}", known["forget"][score], known["control"][score])
        for score in found["forget"]:
            numbers |= _area(f"auc_{score}", found["forget"][score], found["control"][score])
        if retrained is not None:
            leak = privleak(numbers.get("auc_min_k"), numbers.get("retrained_auc_min_k"))
            numbers |= {} if leak is None else {"privleak": leak}
        for group, scores in answered.items():
            if broken := sum(each.broken for each in scores):
                missing.append(f"{broken} of {len(scores)} {group} rows: the model's scores are not finite")
        target.on_part(1.0)
        findings = [
            Finding(row.id, group, "", 1.0, measures=measures)
            for group, each in rows.items()
            for place, row in enumerate(each)
            if (measures := _known(found[group], place))
        ]
        return AttackResult(tuple(findings), numbers, tuple(missing))

    def _scores(self, scores: Sequence[AnswerScores], rows: Sequence[AuditRow], eos_id: int | None) -> Scores:
        losses = avg_losses(scores)
        return {
            "loss": losses,
            "zlib": zlib_scores(losses, [row.secret for row in rows]),
            "min_k": min_k_scores(scores, eos_id, self.k),
            "min_k_plus_plus": min_k_plus_plus_scores(scores, eos_id, self.k),
        }


def _known(scores: Scores, place: int) -> dict[str, float]:
    """The scores of one row that could be measured."""
    return {name: float(each[place]) for name, each in scores.items() if math.isfinite(each[place])}


def _area(name: str, members: Floats, others: Floats) -> dict[str, float]:
    """An area and its interval by name; nothing where there is none."""
    area = auc(members, others)
    if area.value is None:
        return {}
    low, high = auc_interval(area.value, area.members, area.others)
    return {name: area.value, f"{name}_low": low, f"{name}_high": high}


def auc_interval(area: float, members: int, others: int) -> tuple[float, float]:
    """The 95 % interval of an area of so many rows, both at least 1.

    All areas from which this one is no more than Z standard deviations away, by Hanley and McNeil's variance with the
    mean number of rows (Newcombe 2006, Statistics in Medicine 25:559, method 5). It has a width at 0 and 1 too, where
    DeLong's interval and a bootstrap have none, and needs no random numbers.
    """

    def near(true: float) -> bool:
        more = (members + others) / 2 - 1
        spread = 1 + more * (1 - true) / (2 - true) + more * true / (1 + true)
        return abs(area - true) <= Z * math.sqrt(true * (1 - true) * spread / (members * others))

    return _border(near, area, 0.0), _border(near, area, 1.0)


def _border(near: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `near` ceases to hold on the way from `inside` to `outside`, by bisection."""
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if near(middle) else (inside, middle)
    return inside
