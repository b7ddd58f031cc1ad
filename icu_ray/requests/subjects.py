"""The answer by subject: whose data the texts are, and whether all texts of a subject are forgotten.

for each in by_subject(verdict.texts, {"forget-1": "17", "forget-2": "17"}): print(each.said)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icu_ray.storage.verdict_parts import TextVerdict


@dataclass(frozen=True)
class SubjectVerdict:
    """One subject: how many texts it has, how many of them are forgotten, and how many could not be measured."""

    subject: str
    texts: int
    forgotten: int
    not_measured: int

    @property
    def said(self) -> str:
        """'all 3 texts of subject 17 are forgotten'."""
        several = f"text{'' if self.texts == 1 else 's'} of subject {self.subject}"
        are = "is" if (self.texts if self.all else self.forgotten) == 1 else "are"
        if self.all:
            return (
                f"the {several} {are} forgotten" if self.texts == 1 else f"all {self.texts} {several} {are} forgotten"
            )
        unmeasured = f", {self.not_measured} could not be measured" if self.not_measured else ""
        return f"{self.forgotten} of {self.texts} {several} {are} forgotten{unmeasured}"

    @property
    def all(self) -> bool:
        """Whether every text of the subject is forgotten, each by itself."""
        return self.forgotten == self.texts


def by_subject(texts: Sequence[TextVerdict], subjects: Mapping[str, str]) -> tuple[SubjectVerdict, ...]:
    """subjects: of each text by its id. In the order of the texts, subjects that still have something first."""
    found: dict[str, list[str]] = {}
    for text in texts:
        if text.id in subjects:
            found.setdefault(subjects[text.id], []).append(text.state)
    told = [
        SubjectVerdict(subject, len(states), states.count("forgotten"), states.count("not_measured"))
        for subject, states in found.items()
    ]
    return tuple(sorted(told, key=lambda each: each.all))


def subjects_json(found: Sequence[SubjectVerdict]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "subject": each.subject,
            "texts": each.texts,
            "forgotten": each.forgotten,
            "not_measured": each.not_measured,
            "all_forgotten": each.all,
        }
        for each in found
    ]
