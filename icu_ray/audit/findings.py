"""What an attack leaves: of each row, at each budget, how much came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Group = Literal["forget", "control", "kin"]
"""Whose row: one that was to be forgotten, one that the model has never read, or one that it was to keep. What comes
back of the second kind is what chance brings."""


@dataclass(frozen=True)
class Finding:
    """One row under one setting of an attack at one budget.

    row: its id. setting: what else was chosen ('temperature 1', 'nf4', 'own rows'). budget: how much of the attack's
    unit it took, cumulative in the order of strength. recall: the part of the row's secret that the model said, 0..1
    (recite.py); None where the attack does not have a model speak, or it gave no answer. exact: whether the secret was
    said word for word; None as recall. said: the model's words. measures: other numbers of the row, such as a depth.
    entailed: whether what was said entails the secret, by an NLI model; None where none was asked.
    """

    row: str
    group: Group
    setting: str
    budget: float
    recall: float | None = None
    exact: bool | None = None
    said: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)
    entailed: bool | None = None


@dataclass(frozen=True)
class AttackResult:
    """findings: in any order. numbers: of all rows together, such as an AUC. missing: why something is not measured, a
    sentence each; nothing that is missing counts as forgotten."""

    findings: tuple[Finding, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AttackResult:
        """What `as_json` gave."""
        findings = tuple(Finding(**{**each, "measures": dict(each["measures"])}) for each in data["findings"])
        return cls(findings, dict(data["numbers"]), tuple(data["missing"]))
