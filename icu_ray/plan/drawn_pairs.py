"""How much is kept of the original model for pairs that are drawn at random, told before anything starts.

drawn_pairs_said(config, data)     # "model 125m: pairs.by=random may draw 5,120 rows of the pools; ... 1.6 GB ..."
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from icu_ray import methods
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.data.corpus import DataCheck
from icu_ray.data.pair_draws import pair_draws
from icu_ray.models.folders import whole_model_here
from icu_ray.plan.known_models import known_config

_HIDDEN: tuple[str, ...] = ("hidden_size", "n_embd", "d_model")
_STANDIN_HIDDEN = {"small": 128, "medium": 160, "large": 256}


def drawn_pairs_said(config: SweepConfig, data: DataCheck) -> tuple[str, ...]:
    """A sentence for each model whose trials need the original model on drawn pairs (equation 4); () for none."""
    if any(sample.pool == 0 for sample in data.samples.values()):
        return ()  # which is refused
    return tuple(_said(model, config, data) for model in config.models if _needs_original(model, config))


def _needs_original(model: ModelConfig, config: SweepConfig) -> bool:
    if config.pairs.by != "random" or not model.unlearn:
        return False
    found = (
        methods.get(method.name, alpha=alpha, beta=beta, settings=method.settings)
        for method in config.methods
        if (method.models is None or model.name in method.models) and method.name in methods.names()
        for alpha, beta in methods.cells(method)
    )
    return any(method.needs_reference or method.reference_layers for method in found)


def _said(model: ModelConfig, config: SweepConfig, data: DataCheck) -> str:
    epochs, rows = config.most_epochs(model), 0
    for sample in data.samples.values():
        draws = pair_draws(config, epochs, sample.targets, sample.pool)
        assert draws is not None
        rows += len(draws.pool_rows)
    whole = config.train.anchor == "retain"
    begin = f"model {model.name}: {'all' if whole else 'pairs.by=random may draw'} {rows:,} rows of the pool"
    begin += "s of all samples" if len(data.samples) > 1 else ""
    begin += " are pairs" if whole else ""
    if config.kl.cache == "recompute":
        original = "a frozen copy of the original model" if model.lora is None else "the model without its adapter"
        return f"{begin}; {original} is run on them (kl.cache=recompute)."
    size = bytes_of_row(model, config)
    much = "how much is not known before the model is there" if size is None else f"about {in_bytes(rows * size)}"
    return (
        f"{begin}, and what the original model says of each is kept (kl.cache={config.kl.cache}): {much}. "
        "kl.cache=recompute keeps none of it."
    )


def bytes_of_row(model: ModelConfig, config: SweepConfig) -> int | None:
    """What is kept of the original model for one row of a pair; None where its config.json is not there."""
    length = config.columns.length
    if config.kl.cache == "probs":
        vocabulary = model.standin.vocabulary if model.standin is not None else _described(model, ("vocab_size",))
        return None if vocabulary is None else length * vocabulary * 4
    hidden = _STANDIN_HIDDEN[model.standin.size] if model.standin is not None else _described(model, _HIDDEN)
    return None if hidden is None else length * hidden * (2 if model.precision == "bf16" else 4)


def _described(model: ModelConfig, names: Sequence[str]) -> int | None:
    assert model.source is not None
    folder = whole_model_here(model.source, model.revision)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # what is wrong with it, checking the model tells
        if folder is None:
            told = dict(known_config(model.source) or {})
        else:
            told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        told = {**told, **(told.get("text_config") or {})}
        found: int | None = next((told[name] for name in names if isinstance(told.get(name), int)), None)
        return found
    return None


def in_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
