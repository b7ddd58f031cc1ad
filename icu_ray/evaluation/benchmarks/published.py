"""Models that a benchmark's makers have published: the target, and the same trained without the texts to forget.

published_retrained(BENCHMARKS["tofu"].splits["forget10"], "open-unlearning/tofu_Llama-3.2-1B-Instruct_full")
# 'open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90'
without_retrained_said(config)          # what a sweep without a retrained model will not compute, a line a model
"""

from __future__ import annotations

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.evaluation.benchmarks.definition import Split
from icu_ray.evaluation.benchmarks.rows import benchmark_of, split_of

ANY_BASE = "MODEL"
"""Stands in an id for the name of the base model."""
_BESIDE_RETRAINED = ("forget_quality", "privleak")


def shown(hub_id: str, base: str = ANY_BASE) -> str:
    """An id of `Split.models` with the base model's name in it."""
    return hub_id.replace("{}", base)


def published_retrained(split: Split, source: str | None) -> str | None:
    """The retrained model that is published for a model's source; its base's name is ANY_BASE where the source is not
    the published target. None where none is published."""
    known = split.models or {}
    if "retrained" not in known:
        return None
    before, _, after = known.get("target", "").partition("{}")
    is_target = source is not None and after != "" and source.startswith(before) and source.endswith(after)
    base = source[len(before) : -len(after)] if is_target and source is not None else ANY_BASE
    return shown(known["retrained"], base)


def without_retrained_said(config: SweepConfig) -> tuple[str, ...]:
    """What is not computed for models without a retrained one, and how each can have one; () where nothing is missing
    or no benchmark is asked."""
    data = config.data
    if "benchmark" not in config.evaluation.suites or not isinstance(data, RecordsData) or data.benchmark is None:
        return ()
    section = data.benchmark
    missing = [name for name in _BESIDE_RETRAINED if name in benchmark_of(section).reported]  # type: ignore[arg-type]
    if not missing:
        return ()
    split = split_of(section)  # type: ignore[arg-type]
    return tuple(
        f"{model.name}: without a retrained model there is no {' and no '.join(missing)}; "
        f"{_how(model, number, published_retrained(split, model.source))}"
        for number, model in enumerate(config.models)
        if model.retrained is False
    )


def _how(model: ModelConfig, number: int, published: str | None) -> str:
    ways = [f"models.{number}.retrained=true trains one"] if model.made_here else []
    if published is not None and model.standin is None:
        ways.append(f"models.{number}.retrained={published} names the one that is published")
    return " or ".join(ways) or f"models.{number}.retrained=ID names one"
