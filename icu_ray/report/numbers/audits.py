"""What attacks brought back, model by model: a line for the original, the retrained and every unlearned model.

    for table in audit_tables(blocks): ...        # () where no trial was audited

A line is a trial, for two trials are attacked on rows of their own; the means over trials are in the main table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.rows import Block
from icu_ray.storage.audits import AuditedRow, AuditPoint, ModelAudit
from icu_ray.storage.verdict import Outcome, result_outcome

Role = Literal["original", "retrained", "unlearned"]
WORST = 10
"""Rows of a trial that are shown."""
_LIMITS = ("_low", "_high")
_PASSED: tuple[Outcome, ...] = ("success", "too_costly", "collapsed")


@dataclass(frozen=True)
class BackRow:
    """A row that an attack got most of. true: its secret, '' where it is not known."""

    found: AuditedRow
    true: str


@dataclass(frozen=True)
class AuditLine:
    """One model's audit. row: the row of the main table that it belongs to. outcome: by the thresholds, None where
    nothing was unlearned. also: how many of the rows that came back the retrained model says too; None without one."""

    name: str
    row: str
    role: Role
    outcome: Outcome | None
    audit: ModelAudit
    also: int | None = None
    worst_rows: tuple[BackRow, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the means of MA and EL lie below the thresholds."""
        return self.outcome in _PASSED

    @property
    def both(self) -> bool:
        """Whether it passed by the thresholds, and yet rows came back."""
        return self.passed and self.audit.back > 0

    def at_worst(self, attack: str) -> AuditPoint | None:
        """Where an attack brought most rows back, at its weakest; what tells something before what may be chance.

        None where it was not run, or could not have the model speak.
        """
        points = [point for point in self.audit.curves if point.attack == attack]
        return min(
            points, key=lambda p: (not self.audit.counted(p), -p.back / p.total, p.strength, -p.total), default=None
        )


@dataclass(frozen=True)
class AuditTable:
    """One model's lines. attacks: those that have a model speak. numbers: (attack/name, its value on each line).

    remarks: what was not measured or failed, each with the names of the lines that it is said of. unaudited: trials
    with a result that were not attacked.
    """

    model: str
    attacks: tuple[str, ...]
    lines: tuple[AuditLine, ...]
    numbers: tuple[tuple[str, tuple[float | None, ...]], ...]
    remarks: tuple[tuple[str, tuple[str, ...]], ...]
    unaudited: tuple[str, ...]

    @property
    def shown_numbers(self) -> tuple[tuple[str, tuple[tuple[float | None, ...], ...]], ...]:
        """The same for tables: a value is followed by the limits of its interval, if it has one. What the retrained
        model measures beside each other one stands on its own line, where there is that."""
        by_name = dict(self.numbers)
        gold = any(line.role == "retrained" for line in self.lines)
        shown = []
        for name, values in self.numbers:
            limits = [by_name[f"{name}{end}"] for end in _LIMITS if f"{name}{end}" in by_name]
            beside = gold and name.partition("/")[2].startswith("retrained_")
            if not beside and not any(name.removesuffix(end) in by_name for end in _LIMITS if name.endswith(end)):
                shown.append((name, tuple(zip(values, *limits, strict=True))))
        return tuple(shown)

    @property
    def unlearned(self) -> tuple[AuditLine, ...]:
        """The lines of methods."""
        return tuple(line for line in self.lines if line.role == "unlearned")


def audit_tables(blocks: Sequence[Block]) -> tuple[AuditTable, ...]:
    """Those of the models of which any trial was audited."""
    return tuple(table for block in blocks if (table := _table(block)).lines)


def _table(block: Block) -> AuditTable:
    trials = [(row, trial) for row in block.rows for trial in row.trials if trial.measured is not None]
    golds = {_sample(t): t.audit.after for row, t in trials if row.gold and t.audit is not None}
    lines = _originals([trial for _, trial in trials], golds)
    for row, trial in trials:
        if trial.audit is not None and trial.result is not None:
            name = row.name if len(row.trials) == 1 else f"{row.name}, {_unit(trial)}"
            role: Role = "retrained" if row.gold else "unlearned"
            outcome = None if row.gold else result_outcome(trial.result)
            audit = trial.audit.after
            gold = None if row.gold else golds.get(_sample(trial))
            worst = () if row.gold else _worst_rows(audit, trial)
            lines.append(AuditLine(name, row.name, role, outcome, audit, _also(audit, gold), worst))
    curves = [point.attack for line in lines for point in line.audit.curves]
    names = dict.fromkeys(name for line in lines for name in line.audit.numbers)
    return AuditTable(
        block.model,
        tuple(dict.fromkeys(curves)),
        tuple(lines),
        tuple((name, tuple(line.audit.numbers.get(name) for line in lines)) for name in names),
        _remarks(lines),
        tuple(trial.name for row, trial in trials if trial.audit is None),
    )


def _originals(trials: Iterable[ReportedTrial], golds: dict[str, ModelAudit]) -> list[AuditLine]:
    """The model before, of each forget sample once."""
    found: dict[str, ReportedTrial] = {}
    for trial in trials:
        if trial.audit is not None:
            found.setdefault(_sample(trial), trial)
    lines = []
    for sample, trial in found.items():
        assert trial.audit is not None
        name = "before unlearning" + (f", sample {trial.sample}" if len(found) > 1 else "")
        before = trial.audit.before
        lines.append(AuditLine(name, "before unlearning", "original", None, before, _also(before, golds.get(sample))))
    return lines


def _sample(trial: ReportedTrial) -> str:
    return repr(trial.settings.get("sample", trial.sample))


def _unit(trial: ReportedTrial) -> str:
    sample, seed = trial.unit
    return f"sample {sample}" + ("" if seed is None else f", seed {seed}")


def _also(audit: ModelAudit, gold: ModelAudit | None) -> int | None:
    if gold is None:
        return None
    return len({row.row for row in audit.rows if row.back} & {row.row for row in gold.rows if row.back})


def _remarks(lines: Sequence[AuditLine]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    said: dict[str, list[str]] = {}
    for line in lines:
        failed = [f"{attack} failed: {error}" for attack, error in line.audit.errors.items()]
        for remark in dict.fromkeys([*failed, *line.audit.missing]):
            said.setdefault(remark, []).append(line.name)
    return tuple((remark, tuple(names)) for remark, names in said.items())


def _worst_rows(audit: ModelAudit, trial: ReportedTrial) -> tuple[BackRow, ...]:
    true = {sample.id: sample.reference for sample in trial.samples}
    ranked = sorted(audit.rows, key=lambda row: (not row.back, -row.recall, row.row))
    return tuple(BackRow(row, true.get(row.row, "")) for row in ranked[:WORST] if row.recall > 0)


def audits_said(tables: Sequence[AuditTable]) -> str:
    """How many unlearned models gave rows back, in a sentence; '' where none was attacked."""
    lines = [line for table in tables for line in table.unlearned]
    if not lines:
        return ""
    back, both = sum(line.audit.back > 0 for line in lines), sum(line.both for line in lines)
    unknown = sum(line.audit.share is None for line in lines)
    models = "model" if len(lines) == 1 else "models"
    said = f"Attacks brought texts back from {back} of {len(lines)} unlearned {models}"
    said += f", {both} of which had passed the thresholds" if both else ""
    return said + (f"; of {unknown} it is not known." if unknown else ".")
