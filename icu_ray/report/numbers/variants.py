"""In which settings trials differ: what names a row that would else look like another one.

variants_of(trials)["3f0a..."]        # "optim.lr=0.0001"; "" where all trials of the model agree
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.report.collect import ReportedTrial
from icu_ray.storage.flat import flatten

_SAME_FOR_ALL = ("method", "sample", "seed", "format")
_WEIGHTS = ("alpha", "beta")


def variants_of(trials: Sequence[ReportedTrial]) -> dict[str, str]:
    """By trial id, the settings in which trials of one model differ ('optim.lr=0.0001'), '' where none does."""
    flat = {
        trial.trial_id: {k: v for k, v in flatten(trial.settings).items() if k.split(".")[0] not in _SAME_FOR_ALL}
        for trial in trials
    }
    differing = differing_keys([settings for settings in flat.values() if settings])
    own = _own_settings(trials)
    return {
        trial_id: ", ".join(
            [f"{key}={settings[key]}" for key in differing if settings and key in settings] + own.get(trial_id, [])
        )
        for trial_id, settings in flat.items()
    }


def _own_settings(trials: Sequence[ReportedTrial]) -> dict[str, list[str]]:
    """By trial id, in which of a method's own settings the trials of one label differ: ['scale=2']."""
    found = {}
    for label in dict.fromkeys(trial.method for trial in trials):
        told = {t.trial_id: flatten(t.settings.get("method", {})) for t in trials if t.method == label and t.settings}
        differing = [key for key in differing_keys(list(told.values())) if key not in _WEIGHTS]
        for trial_id, settings in told.items():
            known = [key for key in differing if key in settings]
            found[trial_id] = [f"{key.removeprefix('settings.')}={settings[key]}" for key in known]
    return found


def differing_keys(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sorted keys that are missing in some or have more than one value."""
    keys = {key for tree in trees for key in tree}
    absent = object()
    return sorted(key for key in keys if len({repr(tree.get(key, absent)) for tree in trees}) > 1)
