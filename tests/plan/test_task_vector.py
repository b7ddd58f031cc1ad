"""What a plan says of the task vector: its own epochs, learning rate and schedule, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from icu_ray.errors import UserError
from icu_ray.plan.model_memory import memories
from tests.plan.test_plan import ids, plan

VECTOR: list[dict[str, Any]] = [{"name": "task_vector"}]


def test_it_trains_by_its_own_settings_and_the_plan_says_so() -> None:
    made = plan({"methods": VECTOR})
    settings = made.trials[0].settings
    assert (settings.max_epochs, settings.lr, settings.optim.schedule) == (10, 1e-5, "cosine")
    assert (settings.stop.rule, settings.filter.rule) == ("epochs", "never")
    assert made.data is not None
    (said,) = [remark for remark in made.data.remarks if "task_vector" in remark]
    assert "epochs=10, lr=1e-05, schedule=cosine" in said and "stop.rule" in said and "the filter" in said
    assert {trial.name for trial in made.trials} == {f"task_vector-{model}-s{n}" for model in "ab" for n in (0, 1)}
    assert made.trials[0].work is not None and made.trials[0].work.epochs == 10
    own = {"epochs": 3, "lr": 1e-3, "schedule": "linear", "scale": 2}
    other = plan({"methods": [{"name": "task_vector", "settings": own}]}).trials[0]
    assert (other.settings.max_epochs, other.settings.lr, other.settings.optim.schedule) == (3, 1e-3, "linear")


@pytest.mark.parametrize(
    "change",
    [
        {"optim": {"lr": 1e-3, "schedule": "linear", "warmup_epochs": 1}},
        {"stop": {"max_epochs": 3, "rule": "or", "max_steps": 7}},
        {"filter": {"rule": "and"}},
    ],
)
def test_what_counts_for_nothing_is_no_part_of_its_id(change: dict[str, Any]) -> None:
    assert ids(plan({"methods": VECTOR, **change})) == ids(plan({"methods": VECTOR}))


@pytest.mark.parametrize(
    ("method", "model", "said"),
    [
        ({}, {"zero_stage": 3}, "zero_stage=3 model a has them divided"),
        ({}, {"precision": "bf16"}, "rounds the small differences away"),
        ({}, {"lora": {"rank": 2}}, "model a has one; expected a model without lora"),
        ({"stop": {"rule": "and"}}, {}, r"methods\.0\.stop\.rule: task_vector always ends after its setting 'epochs'"),
        ({"stop": {"max_epochs": 3}}, {}, r"methods\.0\.stop\.max_epochs: .* give it under settings"),
        ({"step": {"rule": "sam"}}, {}, "takes no steps of unlearning"),
        ({"settings": {"epochs": 0}}, {}, "'epochs' must be above 0"),
        ({"settings": {"schedule": "cosin"}}, {}, "did you mean 'cosine'"),
    ],
)
def test_what_cannot_be_right_is_refused(method: dict[str, Any], model: dict[str, Any], said: str) -> None:
    models = [{"name": "a", "standin": {"size": "small"}, **model}]
    with pytest.raises(UserError, match=said):
        plan({"models": models, "methods": [{"name": "task_vector", **method}]})


def test_it_is_refused_in_a_search() -> None:
    change = {
        "models": [{"name": "a", "standin": {"size": "small"}}],
        "samples": [0],
        "methods": VECTOR,
        "eval": {"heldout": "epochs"},
        "search": {"space": {"lr": {"low": 1e-5, "high": 1e-3}}},
    }
    with pytest.raises(UserError, match="search: task_vector takes its own settings"):
        plan(change)


def test_memory_counts_the_weights_that_are_kept() -> None:
    vector, ascent = (memories(plan({"methods": [{"name": name}]}))[0] for name in ("task_vector", "kumpr"))
    assert vector.need is not None and ascent.need is not None
    copy = ascent.need.gradients  # as large as the weights that are trained
    assert vector.need.weights - ascent.need.weights == pytest.approx(copy)
    assert vector.need.measured - ascent.need.measured == pytest.approx(copy)
