"""A method's own learning rates and filter: cells, names, ids, and what is refused.

Needs: nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from icu_ray.errors import UserError
from tests.plan.test_plan import ids, plan


def test_each_learning_rate_goes_with_each_cell() -> None:
    made = plan({"methods": [{"name": "icu", "alpha": [0.5, 1.0], "lr": [1e-4, 3e-4]}]})
    cells = {(trial.settings.alpha, trial.settings.lr) for trial in made.trials}
    assert cells == {(0.5, 1e-4), (0.5, 3e-4), (1.0, 1e-4), (1.0, 3e-4)}
    assert len({trial.name for trial in made.trials}) == len(made.trials)
    assert any(trial.name.endswith("lr0.0003") for trial in made.trials)


def test_an_unwritten_one_is_the_models_or_the_sweeps_and_changes_no_id() -> None:
    sweep = plan({"methods": [{"name": "icu"}], "optim": {"lr": 1e-4}})
    assert {trial.settings.lr for trial in sweep.trials} == {1e-4}
    assert ids(plan({"methods": [{"name": "icu", "lr": 1e-4}], "optim": {"lr": 7.0}})) == ids(sweep)
    models = [{"name": "a", "standin": {"size": "small"}, "lr": 2e-4}]
    assert {t.settings.lr for t in plan({"models": models, "methods": [{"name": "icu"}]}).trials} == {2e-4}
    assert {t.settings.lr for t in plan({"models": models, "methods": [{"name": "icu", "lr": 3e-4}]}).trials} == {3e-4}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "task_vector", "lr": 1e-4}, r"methods\.0\.lr: task_vector learns by its own setting"),
        ({"name": "original", "lr": 1e-4}, r"methods\.0\.lr: original trains nothing"),
        ({"name": "original", "filter": "or"}, r"methods\.0\.filter: original trains nothing"),
        ({"name": "task_vector", "filter": "or"}, r"methods\.0\.filter: task_vector learns all targets"),
        (
            {"name": "graddiff", "step": {"rule": "gru"}, "alpha": [0.5, 1.0]},
            r"weight changes nothing, and there are 2",
        ),
        ({"name": "kl", "step": {"rule": "gru"}, "beta": [1.0, 4.0]}, r"weight changes nothing, and there are 2"),
        ({"name": "npo", "alpha": [1.0, 4.0]}, r"npo has no retain part with these settings"),
        ({"name": "icu", "lr": [1e-4, 1e-4]}, "one and the same cell"),
    ],
)
def test_what_would_count_for_nothing_is_refused(method: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan({"methods": [method]})


def test_the_direction_of_two_retain_terms_depends_on_their_weights() -> None:
    assert len(plan({"methods": [{"name": "icu", "step": {"rule": "gru"}, "alpha": [0.5, 1.0]}]}).trials) == 8


def test_a_search_chooses_its_own() -> None:
    search = {"trials": 2, "stop_early": False, "space": {"lr": {"low": 1e-4, "high": 1e-3}}}
    models = [{"name": "a", "standin": {"size": "small"}}]
    with pytest.raises(UserError, match=r"methods\.0\.lr: a search"):
        plan({"methods": [{"name": "icu", "lr": 1e-4}], "models": models, "samples": [0], "search": search})


def test_a_methods_own_filter_is_as_if_the_sweep_had_it() -> None:
    made = plan({"methods": [{"name": "icu"}, {"name": "npo", "filter": "never"}]})
    assert {t.label: t.settings.filter.rule for t in made.trials} == {"icu": "or", "npo": "never"}
    apart = plan({"methods": [{"name": "npo"}], "filter": {"rule": "never"}})
    assert ids(apart) == {trial.trial_id for trial in made.trials if trial.label == "npo"}
    assert ids(plan({"methods": [{"name": "npo", "filter": "or"}]})) == ids(plan({"methods": [{"name": "npo"}]}))
