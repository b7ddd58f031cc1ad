"""LoRA adapters: which are trained in place of a model's own weights, and what a trial then leaves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from icu_ray.config.section import Count, Name, Positive, Section


class LoraConfig(Section):
    """Train an adapter (LoRA) on the model, whose own weights stay as they are."""

    rank: Annotated[Count, Field(le=4096)] = 8
    """Width of the two small matrices that are added next to each matrix of the model."""
    alpha: Positive = 16
    """What they add is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before an adapter; above 0 the numbers depend on the number of workers and on the micro batch."""
    targets: Annotated[tuple[Name, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of linear layers, such as q_proj, or all of them but the output matrix, which cannot have an adapter."""
    save: Literal["adapter", "merged", "both"] = "merged"
    """What a trial leaves as its model: only the adapter, a whole model with the adapter merged into it, or both."""

    def identity(self) -> dict[str, Any]:
        """What of it decides a trial's result."""
        targets = self.targets if isinstance(self.targets, str) else sorted(set(self.targets))
        return {"rank": self.rank, "alpha": float(self.alpha), "dropout": self.dropout, "targets": targets}
