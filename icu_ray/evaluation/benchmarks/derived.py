"""Numbers of a benchmark that need several sets, or the retrained model beside the model.

    of_model("tofu", metrics, documents)                 # model utility, AUC of each membership attack
    beside_retrained("tofu", documents, retrained)       # forget quality, privleak; of no documents: None

documents: by task name, each metric's values in the order of the task's rows; what was not measured is NaN. A number
whose parts are not there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Benchmark
from icu_ray.metrics.answers import Floats
from icu_ray.metrics.forget_quality import UTILITY_PARTS, forget_quality, model_utility
from icu_ray.metrics.membership import auc, privleak, rel_diff

Documents = Mapping[str, Mapping[str, Floats]]
ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
_PRIVLEAK_BY = "mia_min_k"


def of_model(benchmark: str, metrics: Mapping[str, float | None], documents: Documents) -> dict[str, float]:
    """What one model's sets say together, by full name."""
    found: dict[str, float | None] = {}
    parts = {part: metrics.get(f"{benchmark}/{part}") for part in UTILITY_PARTS}
    if all(value is not None for value in parts.values()):
        found["model_utility"] = model_utility(parts)
    found |= _areas(BENCHMARKS[benchmark], documents)
    return _named(benchmark, found)


def beside_retrained(benchmark: str, documents: Documents, retrained: Documents) -> dict[str, float | None]:
    """What a model's rows say beside those of the model that was trained without the texts to forget, by full name.

    None for what cannot be said for want of the retrained model's rows; left out where the model's own lack.
    """
    known = BENCHMARKS[benchmark]
    found: dict[str, float | None] = {}
    task = f"{benchmark}_forget"
    own, other = (each.get(task, {}).get("truth_ratio_raw") for each in (documents, retrained))
    if own is not None:
        found |= {"forget_quality": None, "forget_quality_log10": None}
        if other is not None and len(own) == len(other):
            quality = forget_quality(own, other)
            found |= {"forget_quality": quality.p, "forget_quality_log10": quality.log10}
    area, reference = (_areas(known, each).get(_PRIVLEAK_BY) for each in (documents, retrained))
    if area is not None:
        found["privleak"] = None if reference is None else privleak(area, reference)
        found["rel_diff"] = None if reference is None else rel_diff(area, reference)
    return {
        f"{benchmark}/{name}": value if value is not None and np.isfinite(value) else None
        for name, value in found.items()
    }


def _areas(benchmark: Benchmark, documents: Documents) -> dict[str, float]:
    """AUC of each membership attack whose members and others were measured."""
    sides: dict[bool, Mapping[str, Floats]] = {}
    for split in benchmark.splits.values():
        for each in split.sets:
            if each.members is not None and f"{benchmark.name}_{each.name}" in documents:
                sides[each.members] = documents[f"{benchmark.name}_{each.name}"]
    if len(sides) < 2:
        return {}
    both = [name for name in ATTACKS if name in sides[True] and name in sides[False]]
    areas = {name: auc(sides[True][name], sides[False][name]).value for name in both}
    return {name: area for name, area in areas.items() if area is not None}


def _named(benchmark: str, found: Mapping[str, float | None]) -> dict[str, float]:
    return {f"{benchmark}/{name}": value for name, value in found.items() if value is not None and np.isfinite(value)}
