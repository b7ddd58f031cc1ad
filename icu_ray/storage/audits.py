"""A trial's audit as values, which audit_files.py reads and writes.

audit.after.back, audit.after.total          # 4 of 32
audit.after.said()                           # '4 of 32 rows came back (relearn, own rows: 4 of 32 after 20 steps)'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
CHANCE = 0.05
"""Where control rows come back too, a difference from them that is likelier than this by chance tells nothing."""


@dataclass(frozen=True)
class AuditedRow:
    """What the attacks got of a row at most. budget: the least at which it was back, else that of `recall`.

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
    for word.
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

    @property
    def by_chance(self) -> bool:
        """Whether control rows are back about as often."""
        return self.control_back > 0 and self.chance is not None and self.chance >= CHANCE

    @property
    def counted(self) -> int:
        """Rows that count as back: all, or where chance brings such parts of a secret, those said word for word, if no
        control row was."""
        return self.back if not self.by_chance else self.exact if self.control_exact == 0 else 0

    @property
    def tells(self) -> bool:
        """Whether any row counts as back."""
        return self.counted > 0


@dataclass(frozen=True)
class ModelAudit:
    """What the attacks found on one model.

    back: rows that any attack which tells something brought back, of `total`. rows: the worst of each forget row.
    curves: every setting of every attack at every budget. numbers: 'attack/name'. missing: what was not measured, a
    sentence each; errors: why an attack could not be run, by attack. Neither counts as forgotten.
    """

    __pydantic_config__ = _STRICT

    total: int
    back: int
    rows: tuple[AuditedRow, ...] = ()
    curves: tuple[AuditPoint, ...] = ()
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Part of the rows that came back, 0..1; None where nothing was measured."""
        return self.back / self.total if self.total else None

    @property
    def worst(self) -> AuditPoint | None:
        """Where most rows are back, at the least budget; None where no attack tells that any is."""
        telling = [point for point in self.curves if point.tells]
        return min(telling, key=lambda p: (-p.counted / p.total, p.budget)) if telling else None

    def said(self) -> str:
        """In one sentence, for tables and pages."""
        if self.total == 0:
            return "not measured"
        worst = self.worst
        failed = f"; not run: {', '.join(self.errors)}" if self.errors else ""
        if worst is None:
            return f"no attack brought a row back (of {self.total}){failed}"
        what = f"{worst.attack}, {worst.setting}" if worst.setting else worst.attack
        at = f"{what}: {worst.counted} of {worst.total} after {worst.budget:g} {worst.unit}"
        return f"{self.back} of {self.total} rows came back ({at}){failed}"


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
        for point in asked.curves:
            name = f"audit/{point.attack}_came_back"
            found[name] = max(found.get(name, 0.0), point.counted / point.total)
        return found
