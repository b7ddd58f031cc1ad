"""RMU (Li et al., "The WMDP benchmark"): push a layer's states to a random direction on targets, keep them on pairs.

    L_forget = mean over rows of the mean over their tokens of mean_d (h - steering * u)^2
    L_retain = the same of the pairs with the original model's states as the goal          (retain: embed_diff)

h is the output of layer `layer`, counted from 0, at the scored tokens themselves. u is uniform in [0, 1) in each
dimension, then scaled to length 1, and follows from `control_seed`. `train_layers` ("5,6,7") and `train_parameters`
("down_proj") name what is trained, all where they are empty. The rest is frozen; no optimizer or checkpoint sees it.

length row: as above. length broadcast: OpenUnlearning's slip, each row's sum times the batch's mean of 1 / tokens.
positions all: the plain mean over all positions, padding too, as in the paper's repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from icu_ray.errors import UserError
from icu_ray.methods.base import Setting, TokenRule
from icu_ray.methods.forget_retain import ForgetAndRetain
from icu_ray.methods.objective import Objective, distance


class Rmu(ForgetAndRetain):
    """Representation misdirection; defaults are OpenUnlearning's, the paper has steering 6.5, alpha 1200 for a 7B."""

    name = "rmu"
    defaults: ClassVar[Mapping[str, Setting]] = {
        "layer": 7,
        "steering": 2.0,
        "length": "row",
        "positions": "answer",
        "train_layers": "",
        "train_parameters": "",
        "control_seed": 0,
        "gamma": 1.0,
        "retain": "embed_diff",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "length": ("row", "broadcast"),
        "positions": ("answer", "all"),
        "retain": ("embed_diff", "nll", "kl"),
    }
    not_negative: ClassVar[tuple[str, ...]] = ("layer", "steering", "control_seed", "gamma")

    def set_up(self, given: Mapping[str, Setting]) -> None:
        """What is trained, from its words."""
        layers = _words(self.settings["train_layers"])
        if not all(layer.isdecimal() for layer in layers):
            raise UserError(
                f"method rmu: setting 'train_layers' must be numbers of layers such as '5,6,7', found "
                f"{self.settings['train_layers']!r}"
            )
        self._layers, self._parameters = frozenset(map(int, layers)), _words(self.settings["train_parameters"])
        above = sorted(layer for layer in self._layers if layer > self.layer)
        if above and self.settings["retain"] == "embed_diff":
            raise UserError(
                f"method rmu: setting 'train_layers' names {', '.join(map(str, above))}, above 'layer' {self.layer}, "
                "whose states are read: nothing there has a gradient with retain=embed_diff; expected 0 to "
                f"{self.layer}"
            )

    @property
    def layer(self) -> int:
        """Whose states are moved."""
        return int(self.settings["layer"])

    @property
    def named_layers(self) -> tuple[int, ...]:
        """The one that is read, and those that are trained."""
        return (self.layer, *sorted(self._layers))

    @property
    def named_parts(self) -> tuple[str, ...]:
        """Those of `train_parameters`."""
        return self._parameters

    @property
    def target_rule(self) -> TokenRule:
        """Rows count alike, whatever the config's reduction."""
        if self.settings["positions"] == "all":
            return TokenRule(positions="padded", reduction="token_mean")
        return TokenRule(reduction="broadcast" if self.settings["length"] == "broadcast" else "seq_mean")

    @property
    def pair_rule(self) -> TokenRule:
        """As of targets, for states; other retain losses count tokens as everywhere."""
        return self.target_rule if self.settings["retain"] == "embed_diff" else TokenRule()

    def forget(self) -> Objective:
        """Of the targets' states."""
        seed = int(self.settings["control_seed"])
        return distance("target", self.layer, steering=self.number("steering"), seed=seed)

    def retain(self) -> Objective:
        """Of the pairs' states, or as of other methods."""
        return (
            distance("pair", self.layer, name="retain") if self.settings["retain"] == "embed_diff" else super().retain()
        )

    def trains_parameter(self, name: str) -> bool:
        """By the first number in its name, which is its layer's, and by the names of modules.

        Layers above the one that is read have no gradient, unless the retain loss has one for them.
        """
        number = re.search(r"\.(\d+)\.", name)
        if self.settings["retain"] == "embed_diff" and number is not None and int(number[1]) > self.layer:
            return False
        if self._layers and (number is None or int(number[1]) not in self._layers):
            return False
        return not self._parameters or any(f".{part}." in f".{name}." for part in self._parameters)


def _words(value: Setting) -> tuple[str, ...]:
    return tuple(word.strip() for word in str(value).split(",") if word.strip())
