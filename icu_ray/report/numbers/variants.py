"""In which settings trials differ: what names a row that would else look like another one.

variants_of(trials)["3f0a..."]        # "optim.lr=0.0001"; "" where nothing sets its row apart

Methods of one model may differ in much that is said elsewhere, such as a stopping rule of their own: a row is set apart
from rows of the same label alone. Learning rates are told wherever a model's trials differ in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.report.collect import ReportedTrial
from icu_ray.storage.flat import flatten

_SAME_FOR_ALL = ("sample", "seed", "format")
_IN_COLUMNS = ("method.alpha", "method.beta")
_ALWAYS = ("optim.lr",)
_OWN_LR = "method.settings.lr"
_OF_A_SAMPLE = ("answers.texts", "pairs.pairs")
"""Hashes of what stands beside the texts of one forget sample. Another sample has others; that is no other setting."""


def variants_of(trials: Sequence[ReportedTrial]) -> dict[str, str]:
    """By trial id, the settings that set trials of one model apart ('optim.lr=0.0001'), '' where none does."""
    told = {trial.trial_id: _told(trial.settings) for trial in trials}
    always = [key for key in _differing(trials, told) if key in _ALWAYS]
    found = {}
    for label in dict.fromkeys(trial.method for trial in trials):
        alike = [trial for trial in trials if trial.method == label]
        keys = sorted({*_differing(alike, told), *always})
        if _OWN_LR in keys:
            keys = [
                key for key in keys if key not in _ALWAYS
            ]  # such a method is trained by its own, and is told it once
        for trial in alike:
            settings = told[trial.trial_id]
            found[trial.trial_id] = ", ".join(f"{_shown(key)}={settings[key]}" for key in keys if key in settings)
    return found


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result, by dotted keys, without what has columns of its own."""
    flat = flatten(settings)
    return {k: v for k, v in flat.items() if k.split(".")[0] not in _SAME_FOR_ALL and k not in _IN_COLUMNS}


def _differing(trials: Sequence[ReportedTrial], told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys in which trials differ; those of a sample's texts, where trials of one sample do."""
    by_sample: dict[int, list[Mapping[str, Any]]] = {}
    for trial in trials:
        if told[trial.trial_id]:  # of one without spec.json nothing is known
            by_sample.setdefault(trial.sample, []).append(told[trial.trial_id])
    within = {key for own in by_sample.values() for key in differing_keys(own)}
    keys = differing_keys([settings for own in by_sample.values() for settings in own])
    return [key for key in keys if key not in _OF_A_SAMPLE or key in within]


def _shown(key: str) -> str:
    """A method's own setting is called as in a config: 'scale', 'step.rho'."""
    return key.removeprefix("method.").removeprefix("settings.")


def differing_keys(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sorted keys that are missing in some or have more than one value."""
    keys = {key for tree in trees for key in tree}
    absent = object()
    return sorted(key for key in keys if len({repr(tree.get(key, absent)) for tree in trees}) > 1)
