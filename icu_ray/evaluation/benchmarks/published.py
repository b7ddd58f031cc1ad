"""Models that a benchmark's makers have published: the target, and the same trained without the texts to forget.

published_retrained(BENCHMARKS["tofu"].splits["forget10"], "open-unlearning/tofu_Llama-3.2-1B-Instruct_full")
# 'open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90'
without_retrained_said(config)          # what a sweep without a retrained model will not compute, a line a model
check_published(config)                 # UserError for a model that is published for another split
"""

from __future__ import annotations

import re

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.definition import Split
from icu_ray.evaluation.benchmarks.rows import Section, benchmark_of, split_of
from icu_ray.models.retrained import published_retrained as as_model

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


def check_published(config: SweepConfig) -> tuple[str, ...]:
    """UserError where `source` or `retrained` of a model is one that is published for another split than the config's;
    what to say of a published target that is fine-tuned again. () where the data are of no benchmark."""
    data = config.data
    if not isinstance(data, RecordsData) or data.benchmark is None:
        return ()
    section: Section = data.benchmark  # type: ignore[assignment]
    remarks = []
    for number, model in enumerate(config.models):
        retrained = as_model(model)
        if retrained is not None:
            _check_of_split(section, f"models.{number}.retrained", str(retrained.source), "retrained")
            published = _base(split_of(section), "retrained", str(retrained.source)) is not None
            if published and (fold := getattr(section, "fold", None)) is not None:
                remarks.append(
                    f"{model.name}: {retrained.source} was trained without the texts raw/forget, not without only fold "
                    f"{fold}: privleak computed with it is not that of this fold"
                )
        if model.source is None:
            continue
        _check_of_split(section, f"models.{number}.source", model.source, "target")
        if model.train is not None and _base(split_of(section), "target", model.source) is not None:
            remarks.append(
                f"{model.name}: {model.source} is the published target, which has been fine-tuned on these texts, and "
                f"is fine-tuned on them again; models.{number}.train=null takes it as it was published"
            )
    return tuple(remarks)


def _check_of_split(section: Section, key: str, named: str, wanted: str) -> None:
    """UserError for a model that is published for another split, or for a retrained one that is the target.

    wanted: what it is to be. As a source this split's retrained model is not refused: it may be measured by itself.
    """
    benchmark, own = benchmark_of(section), split_of(section)
    name = next(name for name, split in benchmark.splits.items() if split is own)
    if _base(own, wanted, named) is not None:
        return
    expected, what = (own.models or {}).get(wanted), "the target" if wanted == "target" else "the retrained model"
    others = {other: split for other, split in benchmark.splits.items() if split is not own}
    for kind, called in (("retrained", "retrained model"), ("target", "target")):
        base = _base(own, kind, named)
        if base is not None and wanted == "retrained":
            found = "which has read the texts to forget"
        elif base is None and (
            near := [other for other, split in others.items() if _base(split, kind, named) is not None]
        ):
            found = f"published for split {' and '.join(near)}"
            base = _base(others[near[0]], kind, named)
        else:
            continue
        raise UserError(
            f"{key}: {named} is {benchmark.title}'s {called}, {found}; expected {what} of data.split={name}, "
            f"{shown(str(expected), base or ANY_BASE)}"
        )


def _base(split: Split, kind: str, named: str) -> str | None:
    """The base model's name in the id of a published model ('' where an id has none); None for another model."""
    known = (split.models or {}).get(kind)
    if known is None:
        return None
    found = re.fullmatch("(.+)".join(map(re.escape, known.split("{}"))), named)
    return None if found is None else "".join(found.groups())
