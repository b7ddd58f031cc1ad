"""Adapter off: has the model forgotten, or does an adapter on top of it only keep it silent?

An unlearned model that is a LoRA adapter comes with a base whose weights nobody has changed. Whoever has the adapter's
folder has the base too, and can leave the adapter out, or apply a part of it:

    weights = base + scale (base with adapter - base)

for scales from 1 (as it is) to 0 (the base alone). As a rule the base recites all: then nothing was removed from the
weights, and the adapter must never be handed out without being merged. A model whose weights are its own has no adapter
to take off, which is told as missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from icu_ray.audit.attack import Target
from icu_ray.audit.beside import load_beside
from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.recite import cut_secrets, recite
from icu_ray.audit.rows import AuditRow
from icu_ray.models.loading import with_base

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterOff:
    """scales: of the adapter, in falling order. The budget is the share of it that was taken away, 1 - scale."""

    scales: tuple[float, ...] = (1.0, 0.5, 0.0)

    name: ClassVar[str] = "adapter_off"
    unit: ClassVar[str] = "adapters taken away"
    version: ClassVar[int] = 3
    changes_weights: ClassVar[bool] = False
    brings_back: ClassVar[bool] = True

    def run(self, target: Target) -> AttackResult:
        """A greedy answer a row and scale. UserError where the base cannot be loaded."""
        loaded, material = target.loaded, target.material
        _, adapter = with_base(loaded.folder, str(loaded.folder), weights=False)
        if adapter is None:
            return AttackResult((), missing=("the model is no adapter on a base: there is none to take off",))
        base = load_beside(loaded, adapter.base, adapter.revision)
        own = {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}
        asked: list[tuple[Group, AuditRow]] = [("forget", row) for row in material.forget]
        asked += [("control", row) for row in material.control]
        findings, broken = [], 0
        for done, scale in enumerate(self.scales, 1):
            _blend(base.model, own, loaded.model, scale)
            setting = "adapter off" if scale == 0 else "with the adapter" if scale == 1 else f"{scale:g} of the adapter"
            for (group, row), said in zip(asked, recite(base, [row for _, row in asked]), strict=True):
                broken += said.broken
                recall, exact = (None, None) if said.broken else (said.recall, said.exact)
                findings.append(Finding(row.id, group, setting, 1 - scale, recall, exact, said.text))
            target.on_part(done / len(self.scales))
        missing = [f"{broken} of {len(asked) * len(self.scales)} answers: the model's scores are not finite"]
        return AttackResult(tuple(findings), missing=(*missing[: bool(broken)], *cut_secrets(material.forget)))


def _blend(model: PreTrainedModel, base: dict[str, Tensor], merged: PreTrainedModel, scale: float) -> None:
    """Set the weights of `model` to base + scale (merged - base), in float32 and rounded once."""
    import torch

    others = dict(merged.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(base[name].float().lerp(others[name].float(), scale))
