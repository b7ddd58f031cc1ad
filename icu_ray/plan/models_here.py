"""What is known here of a model's size, without a download: from its config.json, or from known figures.

    shape = shape_here(model, config)          # None: nothing at hand tells

A stand-in's figures are those that training/standin_models.py makes it with.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.models.folders import whole_model_here
from icu_ray.plan.known_models import known_config
from icu_ray.plan.model_shapes import ModelShape, shape_of

STANDINS: Mapping[str, tuple[int, int, int]] = {"small": (128, 2, 4), "medium": (160, 4, 5), "large": (256, 6, 8)}
"""Width, layers and heads of stand-ins, as training/standin_models.py makes them."""
STANDIN_POSITIONS = 512
"""Which they have at least."""


def shape_here(model: ModelConfig, config: SweepConfig) -> ModelShape | None:
    """Its shape; None where nothing at hand tells, or for a family that is not counted."""
    described = config_here(model, config)
    return None if described is None else shape_of(described)


def layers_of(model: ModelConfig, config: SweepConfig) -> int | None:
    """How many layers a model has; None where nothing at hand tells."""
    shape = shape_here(model, config)
    return None if shape is None else shape.layers


def config_here(model: ModelConfig, config: SweepConfig) -> Mapping[str, Any] | None:
    """The keys of a model's config.json; None where it is not at hand and the model is none of the known ones."""
    if model.standin is not None:
        hidden, layers, heads = STANDINS[model.standin.size]
        positions = max(config.columns.length, STANDIN_POSITIONS)
        tied = {"vocab_size": model.standin.vocabulary, "hidden_size": hidden, "tie_word_embeddings": True}
        if model.standin.family == "llama":
            wide = {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": hidden * 8 // 3}
            return {"model_type": "llama", **tied, **wide}
        sizes = {"num_layers": layers, "num_heads": heads, "max_position_embeddings": positions}
        return {"model_type": "gpt_neo", **tied, **sizes}
    assert model.source is not None
    folder = whole_model_here(model.source, model.revision)
    if folder is not None:
        with contextlib.suppress(OSError, ValueError):  # what is wrong with it, checking the model tells
            told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if isinstance(told, dict):
                return told
    return known_config(model.source)
