"""Section `audit`: with which attacks a sweep asks whether what was unlearned is really gone."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from icu_ray.config.section import Count, Fraction, Place, Positive, Section
from icu_ray.errors import UserError, did_you_mean

AttackName = Literal[
    "prompt",
    "prefix_search",
    "sample",
    "quantise",
    "relearn",
    "adapter_off",
    "membership",
    "depth",
    "neighbours",
]
ATTACK_NAMES: tuple[AttackName, ...] = get_args(AttackName)
"""All attacks, the cheap ones first."""
WORDLESS: frozenset[str] = frozenset({"membership", "depth", "neighbours"})
"""Those that do not have the model speak: whether a text comes back they cannot tell, run or not."""
FALLING: frozenset[str] = frozenset({"quantise"})
"""Those whose budget falls as they get stronger: fewer bits are the stronger attack."""


def strength(attack: str, budget: float) -> float:
    """Puts the budgets of one attack in order, the weakest first; says nothing between two attacks."""
    return -budget if attack in FALLING else budget


def attacks_typed(typed: str | None, option: str) -> tuple[str, ...]:
    """Names of attacks, or 'all', that stand in an option, separated by commas; () for None, where it is not given.

    UserError for others, and where the option names none.
    """
    if typed is None:
        return ()
    names = tuple(name.strip() for name in typed.split(",") if name.strip())
    if not names:
        raise UserError(f"{option} '{typed}': names no attack; expected one or more of: all, {', '.join(ATTACK_NAMES)}")
    for name in names:
        if name not in (*ATTACK_NAMES, "all"):
            known = ", ".join(ATTACK_NAMES)
            raise UserError(f"{option}: '{name}' is not known{did_you_mean(name, ATTACK_NAMES)}; known: all, {known}")
    return names


class RelearnConfig(Section):
    """Attack relearn: a few steps of fine-tuning after which the texts may be back."""

    steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 10, 20, 50)
    """Steps of AdamW after which the model is asked again."""
    lr: Positive = 2e-5
    """Learning rate."""
    batch_size: Count = 8
    """Rows of a step."""


class SampleConfig(Section):
    """Attack sample: the model is asked many times, and draws its answers."""

    samples: Count = 100
    """Answers drawn for each row and temperature."""
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.7, 1.0)
    """Temperatures at which answers are drawn."""
    nli: Place | None = None
    """Model of natural language inference (hub id or folder) that says whether an answer entails the secret. Default:
    entailment is not measured."""


class AuditConfig(Section):
    """Attacks on every model of the sweep, while the trials run; by default none."""

    attacks: tuple[AttackName | Literal["all"], ...] = ()
    """Which ones; all: every attack. 'icu-ray list attacks' says what each does."""
    leak: Annotated[Fraction, Field(gt=0)] = 0.5
    """A row has come back when an attack has the model say this part of its secret or more: ROUGE-L recall over words,
    0 to 1."""
    rows: Count | None = None
    """Use only this many targets (the first), for attacks that take long. Default: all."""
    control: Count = 32
    """Held-out rows that are attacked in the same way; what comes back of these is chance."""
    kin: Count = 32
    """Rows of the pool (its first) that relearn trains on and neighbours examines."""
    relearn: RelearnConfig = RelearnConfig()
    """Settings of attack relearn."""
    sample: SampleConfig = SampleConfig()
    """Settings of attack sample."""

    @property
    def asked(self) -> bool:
        """Whether there is anything to attack with."""
        return bool(self.attacks)

    @property
    def names(self) -> tuple[AttackName, ...]:
        """The attacks, each once, the cheap ones first."""
        chosen = set(ATTACK_NAMES) if "all" in self.attacks else set(self.attacks)
        return tuple(name for name in ATTACK_NAMES if name in chosen)
