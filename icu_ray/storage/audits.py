"""A trial's audit as values, which audit_files.py reads and writes.

audit.after.back, audit.after.total          # 4 of 32
audit.after.said()                           # '4 of 32 rows came back (relearn, own rows: 4 of 32 after 20 steps)'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

from icu_ray.config.auditing import WORDLESS, strength

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
CHANCE = 0.05
"""Where control rows come back too, a difference from them that is likelier than this by chance tells nothing."""


@dataclass(frozen=True)
class AuditedRow:
    """What the attacks got of a row at most. budget: the weakest at which it was back, else that of
    `recall`.

    recall: the part of its secret that the model said, 0..1. back: whether that counts as come back. said: the model's
    words.
    """

    __pydantic_config__ = _STRICT

    row: str
    attack: str
    setting: str
    budget: float
    unit: str
    recall: float
    back: bool
    said: str


@dataclass(frozen=True)
class AuditPoint:
    """A setting of an attack at one budget: how many of `total` rows were back until then, and of control rows.

    recall: mean over the forget rows, of the best until then, 0..1. chance: p of Fisher's exact test, one-sided,
    against the control rows; None without any. exact, control_exact: how many of those that are back were said word
    for word; exact_chance: p of these alone.
    """

    __pydantic_config__ = _STRICT

    attack: str
    unit: str
    setting: str
    budget: float
    back: int
    total: int
    control_back: int
    control_total: int
    recall: float
    chance: float | None
    exact: int = 0
    control_exact: int = 0
    exact_chance: float | None = None

    @property
    def strength(self) -> float:
        """Its budget in the order of its attack, the weakest first: fewer bits are the stronger attack."""
        return strength(self.attack, self.budget)

    @property
    def by_chance(self) -> bool:
        """Whether control rows are back about as often."""
        return self.control_back > 0 and self.chance is not None and self.chance >= CHANCE

    @property
    def exact_by_chance(self) -> bool:
        """Whether control rows are said word for word about as often."""
        return self.control_exact > 0 and (self.exact_chance is None or self.exact_chance >= CHANCE)

    @property
    def counted(self) -> int:
        """Rows that count as back: all, or where chance brings such parts of a secret, those said word for word, unless
        chance brings these too."""
        return self.back if not self.by_chance else self.exact if not self.exact_by_chance else 0

    @property
    def tells(self) -> bool:
        """Whether any row counts as back."""
        return self.counted > 0

    @property
    def cannot_tell(self) -> bool:
        """Whether rows are back that do not count, and none would if all were: so many control rows are back, or there
        are so few rows."""
        return self.back > 0 and not self.tells and _least_chance(self, self.control_back) >= CHANCE

    @property
    def too_few(self) -> bool:
        """Whether there are too few rows for any test beside a single control row that is back."""
        return self.control_total > 0 and _least_chance(self, 1) >= CHANCE


def _least_chance(point: AuditPoint, control_back: int) -> float:
    """p where all forget rows are back."""
    return fisher(point.total, point.total, control_back, point.control_total)


def fisher(back: int, total: int, control_back: int, control_total: int) -> float:
    """p of Fisher's exact test, one-sided: how likely the forget rows would have so many or more by chance, were they
    like the control rows."""
    both = back + control_back
    ways = sum(math.comb(total, n) * math.comb(control_total, both - n) for n in range(back, min(total, both) + 1))
    return ways / math.comb(total + control_total, both)


@dataclass(frozen=True)
class ModelAudit:
    """What the attacks found on one model.

    back: rows that any attack which tells something brought back, of `total` that were asked. rows: the worst of each
    forget row. curves: every setting of every attack at every budget. numbers: 'attack/name'. missing: what was not
    measured, a sentence each; errors: why an attack could not be run, by attack. Neither counts as forgotten. unions:
    of each attack all settings at all budgets together, which decides whether its rows count. control_back: control
    rows that any attack brought back, of control_total. unmeasured: rows of `total` that no attack got an answer on.
    unanswered: by attack, of how many of them an answer is missing, under any setting at any budget; attacks that have
    all answers, or do not have the model speak, are not in it, nor is any in audits that were made before it was asked.
    by_strength: whether `unions` reach up to their budget by strength; in audits made before they do by its number, of
    bits too.
    """

    __pydantic_config__ = _STRICT

    total: int
    back: int
    rows: tuple[AuditedRow, ...] = ()
    curves: tuple[AuditPoint, ...] = ()
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    unions: tuple[AuditPoint, ...] = ()
    control_back: int = 0
    control_total: int = 0
    unmeasured: int = 0
    unanswered: Mapping[str, int] = field(default_factory=dict)
    by_strength: bool = False

    @property
    def share(self) -> float | None:
        """Part of the rows that came back, 0..1. None where that is not known: where no row counts as back, and an
        attack that has the model speak could not be run or lacks answers, rows were not measured, or rows are back of
        which so few cannot tell whether it is chance."""
        unknown = bool(self.errors.keys() - WORDLESS) or self.unmeasured > 0 or bool(self.unanswered)
        unknown |= any(union.cannot_tell for union in self.unions)
        return None if self.total == 0 or (self.back == 0 and unknown) else self.back / self.total

    def share_of(self, attack: str) -> float | None:
        """The largest part of its rows that counts as back at a point of one attack, 0..1. None where that is not
        known: it was not run, or none counts, and answers are missing or too few rows were asked to tell chance."""
        shares = [self.counted(point) / point.total for point in self.curves if point.attack == attack]
        unknown = attack in self.unanswered
        unknown |= any(union.cannot_tell for union in self.unions if union.attack == attack)
        most = max(shares, default=0.0)
        return None if not shares or (most == 0 and unknown) else most

    def counted(self, point: AuditPoint) -> int:
        """Rows of a point that count as back, by what all settings of its attack do to control rows together; none at a
        budget beyond that of `unions`, at which control rows come back as well."""
        union = self._union(point)
        beyond = point.strength > union.strength if self.by_strength else point.budget > union.budget
        if beyond:
            return 0
        return point.back if not union.by_chance else point.exact if not union.exact_by_chance else 0

    def not_counted(self, point: AuditPoint) -> str:
        """Why not all rows of a point that are back count, '' where they do."""
        counted = self.counted(point)
        if counted == point.back:
            return ""
        return "as often as control rows" + (f", {counted} word for word" if counted else "")

    def _union(self, point: AuditPoint) -> AuditPoint:
        return next((union for union in self.unions if union.attack == point.attack), point)

    @property
    def worst(self) -> AuditPoint | None:
        """Where most rows are back: of the first attack with so many, at its weakest budget; None where no attack tells
        that any is."""
        attacks = list(dict.fromkeys(point.attack for point in self.curves))
        telling = [point for point in self.curves if self.counted(point)]
        order = {p: (-self.counted(p) / p.total, attacks.index(p.attack), p.strength) for p in telling}
        return min(telling, key=order.__getitem__, default=None)

    @property
    def control_said(self) -> str:
        """'control 3 of 16', '' without control rows."""
        return f"control {self.control_back} of {self.control_total}" if self.control_total else ""

    def said(self) -> str:
        """In one sentence, for tables and pages."""
        failed = f"; not run: {', '.join(self.errors)}" if self.errors else ""
        if self.total == self.unmeasured:
            return f"not measured{failed}"
        worst = self.worst
        unanswered = ", ".join(f"{attack} ({self.answers_missing(attack)})" for attack in self.unanswered)
        more = f"; {self.unmeasured} of {self.total} not measured" if self.unmeasured else ""
        more += (f"; answers missing: {unanswered}" if unanswered else "") + failed
        if worst is None:
            return f"{self._none_counts()}{more}"
        what = f"{worst.attack}, {worst.setting}" if worst.setting else worst.attack
        at = f"{what}: {self.counted(worst)} of {worst.total} after {worst.budget:g} {worst.unit}"
        rows = ", ".join(filter(None, (f"{self.back} of {self.total} rows came back", self.control_said)))
        return f"{rows} ({at}){more}"

    def answers_missing(self, attack: str) -> str:
        """'3 of 8 rows', those of which an answer to the attack is missing; '' where none is."""
        return f"{self.unanswered[attack]} of {self.total} rows" if attack in self.unanswered else ""

    def _none_counts(self) -> str:
        doubtful = [point for point in self.unions or self.curves if point.back]
        if not doubtful:
            return f"no attack brought a row back (of {self.total - self.unmeasured})"
        most = max(doubtful, key=lambda point: (point.cannot_tell, point.back / point.total))
        rows = (
            f"{most.back} of {most.total} rows came back, and {most.control_back} of {most.control_total} control rows"
        )
        if most.cannot_tell and not most.too_few:
            return f"{rows}: so few rows cannot show whether that is chance"
        why = "too few control rows to tell" if most.too_few else "no more than chance brings"
        return f"{rows}: as often as control rows, {why}"


def _plain(name: str) -> str:
    """A name without what MLflow refuses, with all metrics that are sent together with it."""
    return re.sub(r"[^\w .:/-]", "_", name.replace("@", "_at_"), flags=re.ASCII)


@dataclass(frozen=True)
class TrialAudit:
    """audit.json. attacks: hash of what decides each. models: hashes of the models before and after. leak: the part of
    a secret from which on a row counts as back."""

    __pydantic_config__ = _STRICT

    attacks: Mapping[str, str]
    models: tuple[str, str]
    leak: float
    before: ModelAudit
    after: ModelAudit

    def metrics(self, side: Literal["before", "after"] = "after") -> dict[str, float]:
        """Numbers of a model, by the names that MLflow and tables have: 'r_own@20' is r_own_at_20 in them."""
        asked = self.before if side == "before" else self.after
        found = {f"audit/{_plain(name)}": value for name, value in asked.numbers.items() if value is not None}
        if asked.share is not None:
            found["audit/came_back"] = asked.share
        for attack in dict.fromkeys(point.attack for point in asked.curves):
            if (share := asked.share_of(attack)) is not None:
                found[f"audit/{attack}_came_back"] = share
        return found
