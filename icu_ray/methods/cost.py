"""What a method takes, as one value that a plan reckons time and memory with (plan/estimates.py, plan/model_memory.py).

    cost = methods.get("npo").cost
    cost.passes, cost.rescored              # {"target": 1}, {"target"}: the vocabulary is read twice for its rows

The least is one forward and backward for all rows and one pass over the vocabulary. What a method needs beside that
follows from its objective and its step rule. One that overrides `loss()` says what else it takes in `Method.cost`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from icu_ray.config import StepConfig
from icu_ray.methods.objective import SIDES, Objective, Side

Sides = frozenset[Side]


@dataclass(frozen=True)
class Cost:
    """What a step takes.

    passes: the sides whose rows a step needs, and how often the model goes through them, forward and back; a step rule
    goes more than once. rescored: sides whose scores over the vocabulary are computed once more in the backward pass
    (losses of whole rows). original, states: sides on which the original model's distributions, and a layer's hidden
    states, are read; with kl.cache=recompute it goes forward there at every step. after_epoch: sides that go forward
    once more after an epoch, without a step. beside: distributions that a token's terms need beside the model's own, at
    most. matrices: gradients of the output matrix that are there at one time, at most. copies: of what is trained, in
    float32, that a step rule holds at one time, at most.
    """

    passes: Mapping[Side, int] = field(default_factory=lambda: {"target": 1})
    rescored: Sides = frozenset()
    original: Sides = frozenset()
    states: Sides = frozenset()
    after_epoch: Sides = frozenset()
    beside: int = 0
    matrices: int = 1
    copies: int = 0

    @property
    def live(self) -> Sides:
        """Sides on which the original model goes forward where it is kept whole."""
        return self.original | self.states


def cost_of(
    objective: Objective,
    step: StepConfig | None = None,
    parts: tuple[Objective, Objective] | None = None,
    after_epoch: Objective | None = None,
) -> Cost:
    """Of an objective. step, parts: the rule that goes through what forgets and what keeps apart, and these two.
    after_epoch: what is measured once after an epoch."""
    through = [objective]
    if step is not None and parts is not None:
        forget, keep = parts
        through = [forget, forget, keep] if step.rule == "sam" else [forget, keep]
    read = Counter(side for part in through for side in part.read)
    # Rows of which the labels alone are used stand in the batch like the others.
    needed = {side for part in (objective, *through) for side in part.sides}
    kept: dict[Side, bool] = {"pair": objective.needs_reference, "target": objective.needs_target_reference}
    return Cost(
        passes={side: max(read[side], 1) for side in SIDES if side in needed},
        rescored=frozenset(side for part in through for side in part.rescored),
        original=frozenset(side for side, needs in kept.items() if needs),
        states=frozenset({"pair"} if objective.reference_layers else ()),
        after_epoch=frozenset(() if after_epoch is None else after_epoch.read),
        beside=objective.beside,
        matrices=max(matrices_of(part) for part in through),
        copies=_copies(step),
    )


def matrices_of(part: Objective) -> int:
    """Gradients of the output matrix that a backward pass holds at one time.

    The one of all tokens' terms is made in the forward pass. Each side with losses of whole rows makes one of its own
    going back, which is added to those before.
    """
    scored = any(term.kind not in ("softplus", "distance") for _, term in part.terms)
    return max(scored + min(len(part.rescored), 2), 1)


def _copies(step: StepConfig | None) -> int:
    """Gradients of parts, weights to go back to, an average."""
    if step is None:
        return 0
    return 4 if step.rule == "sam" else 3 + (step.settings["average"] < 1)
