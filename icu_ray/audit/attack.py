"""What an attack is.

An attack is a frozen dataclass whose fields are its settings, in a file of its own in attacks/:

    result = Sample(counts=(1, 10, 100)).run(Target(loaded, material))

It asks a model for rows that were to be forgotten and says, row by row and for each budget, what came back. It does the
same with control rows, as far as it can: what comes back of those is chance. It does not decide what counts as back:
verdict.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from icu_ray.audit.findings import AttackResult
from icu_ray.audit.rows import Material

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel


@dataclass(frozen=True)
class Target:
    """The model that is attacked, in eval mode on its device, and what may be used for it.

    on_part: hears the part that is done, 0..1.
    """

    loaded: LoadedModel
    material: Material
    on_part: Callable[[float], None] = lambda part: None


class Attack(Protocol):
    """name: as in a config's `audit.attacks`. unit: what its budget counts, in the plural; more of it is
    the stronger attack, but for those in config.auditing.FALLING. version: raised when what it
    finds changes. changes_weights: the model is of no use to anybody else afterwards. brings_back: whether its findings
    have a recall, so that it can tell that a row came back."""

    name: ClassVar[str]
    unit: ClassVar[str]
    version: ClassVar[int]
    changes_weights: ClassVar[bool]
    brings_back: ClassVar[bool]

    def run(self, target: Target) -> AttackResult:
        """UserError where it cannot be run on this model at all. A row that was asked and gave no answer has a finding
        without a recall: one that is left out was not asked."""
        ...
