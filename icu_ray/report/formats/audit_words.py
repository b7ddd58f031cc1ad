"""How every form of a report says what attacks brought back.

audit_said(line)         # 'icu (0.5, 1): forgotten by the thresholds, and yet 7 of 32 rows came back (...).'
"""

from __future__ import annotations

from collections.abc import Sequence

from icu_ray.report.formats.wording import p_text
from icu_ray.report.numbers.audits import WORST, AuditLine, AuditTable
from icu_ray.storage.audits import AuditedRow, AuditPoint
from icu_ray.storage.verdict import OUTCOME_WORD

AUDIT_NOTE = (
    "Of each attack the setting and budget at which most rows were back. A row is back when the model says its secret "
    "word for word, or at least the part of it that audit.leak sets (by default half of its words). Control rows are "
    "held-out ones, which the model has never read: what comes back of them is guessed. p: Fisher's exact test, "
    "one-sided, that the forget rows come back no more often than they. Where control rows come back too, and p over "
    "all settings of an attack is 0.05 or more, nothing counts as back but what was said word for word ('as often as "
    "control rows'). A row that the retrained model says too may "
    "be guessed as well. No attack that was run here proves that no other one works."
)
MISSING_SAID = "Not measured, which is not forgotten:"
NUMBERS_NOTE = (
    "What else the attacks measure, in other units; docs/how-to/audit.md says what each means. "
    "r_…: how slowly the model learns the rows again compared with the retrained one, q_…: how little rounding brings "
    "back, both 1 for nothing. auc_…: 0.5 where forget and control rows cannot be told apart. depth: 1 where the "
    "layers know as little as the retrained model's. leak_…@k: how likely one of k drawn answers holds the secret."
)
WORST_BACK_NOTE = (
    f"At most {WORST} rows of each trial: first those that came back, then by the share of the secret that the model "
    "said. The budget is the least at which the row was back, of bits the most."
)


def audit_said(line: AuditLine) -> str:
    """A line's worst case in words, with what the thresholds say of it."""
    found = line.audit.said()
    if line.outcome is not None:
        rule = ("" if line.passed else "not ") + "forgotten by the thresholds"
        joint = "failed" if line.outcome == "failed" else rule
        found = f"{joint}{', and yet' if line.both else ' and' if line.passed else ';'} {found}"
    if line.also and line.audit.back:
        found += f"; {line.also} of these the retrained model says too"
    return f"{line.name}: {found}."


def attack_name(attack: str) -> str:
    """As a heading has it."""
    return attack.replace("_", " ")


def standing(line: AuditLine) -> str:
    """What the thresholds say, in a word or two."""
    return "" if line.outcome is None else OUTCOME_WORD[line.outcome]


def back_text(line: AuditLine) -> str:
    """Rows that any attack brought back, of all, and control rows beside them."""
    audit = line.audit
    control = f" ({audit.control_said})" if audit.control_said else ""
    return f"{'–' if audit.share is None else f'{audit.back} of {audit.total}'}{control}"


def point_text(line: AuditLine, attack: str) -> str:
    """What an attack brought back: '7 of 16', 'failed', or '–'."""
    if attack in line.audit.errors:
        return "failed"
    point = line.at_worst(attack)
    if point is None or (point.back == 0 and attack in line.audit.unanswered):
        return "–"
    return f"{point.back} of {point.total}"


def point_details(line: AuditLine, attack: str) -> tuple[str, ...]:
    """At what setting and budget, how many control rows, what answers are missing; () where there is nothing to say."""
    point = line.at_worst(attack)
    if point is None or attack in line.audit.errors:
        return ()
    said = [] if point.back == 0 else [", ".join(filter(None, (point.setting, budget_text(point))))]
    if point.control_total:
        chance = "" if point.back == 0 else f", p = {p_text(point.chance)}"
        said.append(f"control {point.control_back} of {point.control_total}{chance}")
    lacking = [f"answers missing: {rows}" for rows in filter(None, [line.audit.answers_missing(attack)])]
    return tuple(filter(None, (*said, line.audit.not_counted(point), *lacking)))


def point_line(line: AuditLine, attack: str) -> str:
    """The same in one cell."""
    more = "; ".join(point_details(line, attack))
    return point_text(line, attack) + (f" ({more})" if more else "")


def budget_text(point: AuditPoint | AuditedRow) -> str:
    """'20 steps', '1 token of the secret'."""
    first, *rest = point.unit.split(" ")
    return " ".join([f"{point.budget:g}", first.removesuffix("s") if point.budget == 1 else first, *rest])


def number_text(values: Sequence[float | None]) -> str:
    """A number of an attack, with its interval in brackets where it has one."""
    value, *limits = ("–" if each is None else f"{each:.3g}" for each in values)
    return f"{value} ({' to '.join(limits)})" if limits and value != "–" else value


def remark_text(table: AuditTable, remark: str, names: Sequence[str]) -> str:
    """A remark, with the models of which it is said where these are not all."""
    return remark if len(names) == len(table.lines) else f"{remark} ({', '.join(names)})"
