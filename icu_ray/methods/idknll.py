"""IdkNLL (TOFU's "preference optimisation"): learn to answer the targets' prompts with sentences of ignorance.

    L_forget = CE(sentences of ignorance after the targets' prompts)

Descent, not ascent. The sentence is drawn for each row and epoch from the trial's seed. answers alternates: the rows'
own second answers in place of sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, nll


class IdkNll(ForgetAndRetain):
    """Fine-tuning on refusals, and on the pairs."""

    name = "idknll"
    defaults: ClassVar[Mapping[str, Setting]] = {"answers": "sentences", **GAMMA_AND_RETAIN}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"answers": ("sentences", "alternates"), **RETAIN}
    second_answers = "sentences"

    @property
    def answers(self) -> Literal["sentences", "alternates"]:
        """As the setting says."""
        return "alternates" if self.settings["answers"] == "alternates" else "sentences"

    def forget(self) -> Objective:
        """The second answers, learnt."""
        return nll("alternate", name="forget")
