"""What trials share, as they are handed it: where each finds what it needs, or why it cannot have it.

prepared = prepare(plan, root)               # prepare.py makes it
reason = prepared.failure(trial); keys = prepared.keys(trial)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from icu_ray.methods import RETRAINED
from icu_ray.plan.trial import Trial
from icu_ray.trial.artefacts import ArtefactKeys, ArtefactRecord, Needs, RetrainedKeys

ModelSample: TypeAlias = tuple[str, int]
"""A model's name and the number of a forget sample."""


@dataclass(frozen=True)
class Prepared:
    """artefacts: where trials find what they need. failures: why others cannot have it. records: all that was asked.

    retrained, not_retrained: the same of the gold standard, which only its own trial needs. not_invented: why there are
    no alternates for those that read them.
    """

    artefacts: Mapping[ModelSample, ArtefactKeys]
    failures: Mapping[ModelSample, str]
    records: tuple[ArtefactRecord, ...]
    retrained: Mapping[ModelSample, RetrainedKeys] = field(default_factory=dict)
    not_retrained: Mapping[ModelSample, str] = field(default_factory=dict)
    not_invented: Mapping[ModelSample, str] = field(default_factory=dict)

    def failure(self, trial: Trial) -> str | None:
        """Why a trial cannot run; None where it can."""
        own = trial.model.name, trial.sample
        if own in self.failures:
            return self.failures[own]
        if trial.settings.method == RETRAINED:
            return self.not_retrained.get(own)
        return self.not_invented.get(own) if "alternates" in Needs.of([trial]).answers else None

    def keys(self, trial: Trial) -> ArtefactKeys:
        """Where a trial finds what it needs."""
        own = trial.model.name, trial.sample
        found = self.artefacts[own].of(Needs.of([trial]))
        return replace(found, retrained=self.retrained[own]) if trial.settings.method == RETRAINED else found

    def made(self, kind: str) -> int:
        """How many artefacts of a kind had to be made."""
        return sum(record.made for record in self.records if record.kind == kind)
