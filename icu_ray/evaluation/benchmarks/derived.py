"""Numbers of a benchmark that need several sets, or the retrained model beside the model.

    of_model("tofu", metrics, documents)                 # model utility, AUC of each attack, truth ratio prob_mean
    beside_retrained("tofu", documents, retrained)       # forget quality, privleak, the attack by reference

documents: by task name, each metric's values in the order of the task's rows; what was not measured is NaN. A number
whose parts are not there is left out, but for the AUC of an attack whose members alone were measured: it is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Benchmark
from icu_ray.evaluation.benchmarks.tasks import metric_names
from icu_ray.metrics.answers import EPSILON, Floats, mean_of, prob_mean_scores
from icu_ray.metrics.forget_quality import UTILITY_PARTS, forget_quality, model_utility
from icu_ray.metrics.membership import auc, privleak, reference_scores, rel_diff

Documents = Mapping[str, Mapping[str, Floats]]
PROB_MEAN = "_prob_mean"
"""Ends the name of a truth ratio that is the mean of P_right / (P_right + P_wrong), as in OpenUnlearning's paper."""
_REFERENCE = "mia_reference"
_BY_ITSELF = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm")
ATTACKS = (*_BY_ITSELF, _REFERENCE)
"""All that have an AUC; the last one needs the retrained model."""
_PRIVLEAK_BY = "mia_min_k"
FORGET_QUALITY = (
    "forget_quality",
    "forget_quality_log10",
    "forget_quality_floor_log10",
    "forget_quality_rows",
    "forget_quality_rows_asked",
)
"""The p-value and its logarithm, the smallest logarithm that so many rows can have, the rows that both models have a
truth ratio of, and all rows that were asked."""


def of_model(benchmark: str, metrics: Mapping[str, float | None], documents: Documents) -> dict[str, float | None]:
    """What one model's sets say together, by full name."""
    found: dict[str, float | None] = {}
    parts = {part: metrics.get(f"{benchmark}/{part}") for part in UTILITY_PARTS}
    if all(value is not None for value in parts.values()):
        found["model_utility"] = model_utility(parts)
    for each in BENCHMARKS[benchmark].sets.values():
        name = metric_names(each)["truth_ratio"]
        # Where a truth ratio was left out for rows that could not be measured, so is this one.
        if metrics.get(f"{benchmark}/{name}") is not None:
            values = prob_means(documents.get(f"{benchmark}_{each.name}", {}))
            found |= {} if values is None else {f"{name}{PROB_MEAN}": mean_of(values).value}
    return {**_named(benchmark, found), **_full(benchmark, _areas(*_sides(BENCHMARKS[benchmark], documents)))}


def prob_means(rows: Mapping[str, Floats]) -> Floats | None:
    """(N,) P_right / (P_right + P_wrong) of a set's rows; None where no truth ratio was asked of them."""
    right, ratios = rows.get("prob_right"), rows.get("truth_ratio_raw")
    return None if right is None or ratios is None else prob_mean_scores(right, ratios)


def beside_retrained(benchmark: str, documents: Documents, retrained: Documents) -> dict[str, float | None]:
    """What a model's rows say beside those of the model that was trained without the texts to forget, by full name.

    retrained: {} where there is none. None for what cannot be said for want of its rows, and for privleak where the
    retrained model's AUC is 1; left out where the model's own lack.
    """
    known = BENCHMARKS[benchmark]
    found: dict[str, float | None] = {}
    task = f"{benchmark}_forget"
    own, other = (each.get(task, {}).get("truth_ratio_raw") for each in (documents, retrained))
    if own is not None:
        found |= dict.fromkeys(FORGET_QUALITY)
        if other is not None and len(own) == len(other):
            quality = forget_quality(own, other)
            told = (quality.p, quality.log10, quality.floor_log10, float(quality.counted), float(quality.rows))
            found |= dict(zip(FORGET_QUALITY, told, strict=True))
    own_sides, their_sides = _sides(known, documents), _sides(known, retrained)
    area, reference = (_areas(*sides).get(_PRIVLEAK_BY) for sides in (own_sides, their_sides))
    if area is not None:
        # Where the retrained model's AUC is 1 its complement, by which privleak divides, is 0.
        found["privleak"] = None if reference is None or 1 - reference <= EPSILON else privleak(area, reference)
        found["rel_diff"] = None if reference is None else rel_diff(area, reference)
    members, others = (_beyond(mine, other) for mine, other in zip(own_sides, their_sides, strict=True))
    by_reference = _areas(members, others, (_REFERENCE,))
    known_values = {
        f"{benchmark}/{name}": value if value is not None and np.isfinite(value) else None
        for name, value in found.items()
    }
    return {**known_values, **_full(benchmark, by_reference)}


_Side = Mapping[str, Floats]


def _sides(benchmark: Benchmark, documents: Documents) -> tuple[_Side, _Side]:
    """What was measured of the rows that are members, and of those that are not; nothing where they were not asked."""
    sides: dict[bool, dict[str, Floats]] = {True: {}, False: {}}
    for each in benchmark.sets.values():
        if each.members is not None:
            name = f"{benchmark.name}_{each.name}"
            sides[each.members] |= {**documents.get(name, {}), **documents.get(f"{name}_gradnorm", {})}
    return sides[True], sides[False]


def _beyond(own: _Side, retrained: _Side) -> _Side:
    """The scores by reference: each row's loss beyond that of the retrained model."""
    losses, reference = own.get("avg_loss"), retrained.get("avg_loss")
    if losses is None or reference is None or len(losses) != len(reference):
        return {}
    return {_REFERENCE: reference_scores(losses, reference)}


def _areas(members: _Side, others: _Side, attacks: Sequence[str] = _BY_ITSELF) -> dict[str, float | None]:
    """AUC of each attack of which the members were measured; None where there are no others to tell them from."""
    return {
        name: auc(members[name], others[name]).value if name in others else None for name in attacks if name in members
    }


def _named(benchmark: str, found: Mapping[str, float | None]) -> dict[str, float]:
    return {f"{benchmark}/{name}": value for name, value in found.items() if value is not None and np.isfinite(value)}


def _full(benchmark: str, areas: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"{benchmark}/{name}": area for name, area in areas.items()}
