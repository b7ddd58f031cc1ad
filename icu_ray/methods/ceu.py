"""CE-U (Yang, "CE-U: cross entropy unlearning"): what the model says, less the true token, is the goal.

    L = 1/N sum_t - sum_v q_t(v) log p_t(v)          q_t: p_t without the true token, and without a gradient

The first tokens of each answer are left out (skip_first). There is no retain part. The least value is q's entropy,
which is reached as the true token's probability goes to 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Method, Setting, TokenRule
from icu_ray.methods.objective import Objective, others


class CeU(Method):
    """Cross-entropy against the model's own distribution without the true token."""

    name = "ceu"
    defaults: ClassVar[Mapping[str, Setting]] = {"skip_first": 1}
    not_negative: ClassVar[tuple[str, ...]] = ("skip_first",)
    uses_alpha = False
    uses_beta = False

    @property
    def target_rule(self) -> TokenRule:
        """A row with no more tokens than are left out weighs nothing."""
        return TokenRule(skip_first=int(self.settings["skip_first"]))

    def objective(self) -> Objective:
        """On the targets alone."""
        return others("target")
