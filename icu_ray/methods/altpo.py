"""AltPO (Mekala et al., "Alternate preference optimization"): prefer a plausible other answer to the true one.

    L_forget = 2/beta * mean over rows of softplus(- beta * (log P(other)/P_0(other) - log P(target)/P_0(target)))

The other answers are the rows' own alternates, or (answers.alternates=generated) what the model itself invents, as in
the paper; one is drawn for each row and epoch. The paper's grid: beta 0.05, 0.1, 0.5; alpha 1, 2, 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN
from icu_ray.methods.idkdpo import IdkDpo


class AltPo(IdkDpo):
    """IdkDPO with alternates in place of sentences of ignorance."""

    name = "altpo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_dpo": 0.1, "answers": "alternates", **GAMMA_AND_RETAIN}
    second_answers: ClassVar[Literal["sentences", "alternates"] | None] = "alternates"
