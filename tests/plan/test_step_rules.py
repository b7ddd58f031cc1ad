"""What a plan says of step rules: names, ids, pairs, memory, time, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan
from icu_ray.plan.model_memory import memories
from icu_ray.plan.planning import plan_sweep
from tests.plan.test_plan import SMALL, ids, plan

SAM: dict[str, Any] = {"rule": "sam"}


def stepped(step: dict[str, Any] | None, name: str = "npo", model: dict[str, Any] | None = None, **more: Any) -> Plan:
    method = {"name": name, **({} if step is None else {"step": step}), **more}
    models = [{"name": "a", "standin": {"size": "small"}, **(model or {})}]
    return plan_sweep(resolve_config({**SMALL, "models": models, "methods": [method]}, "t"), dry_run=True)


def test_a_rule_is_part_of_name_and_id_where_it_is_set() -> None:
    plain, sam = stepped(None), stepped(SAM)
    assert "step" not in plain.trials[0].identity["method"]
    assert sam.trials[0].identity["method"]["step"] == {"rule": "sam", "rho": 0.01}
    assert [trial.label for trial in sam.trials] == ["npo-sam"] * 2
    assert sam.trials[0].hyperparameters["step"] == "sam" and sam.trials[0].hyperparameters["rho"] == 0.01
    assert ids(stepped({**SAM, "rho": 0.01})) == ids(sam)
    others = [{**SAM, "rho": 0.02}, {"rule": "gru"}, {"rule": "gru", "average": 0.8}]
    others += [{"rule": "gru", "max_opposition": 0.5}]
    assert len({frozenset(ids(found)) for found in (plain, sam, *map(stepped, others))}) == 6
    assert stepped(SAM, label="mine").trials[0].label == "mine"


def test_one_grid_takes_a_method_with_and_without() -> None:
    made = plan({"methods": [{"name": "npo"}, {"name": "npo", "step": SAM}, {"name": "npo", "step": {"rule": "gru"}}]})
    assert {trial.label for trial in made.trials} == {"npo", "npo-sam", "npo-gru"}


def test_gru_gives_pairs_to_a_method_without() -> None:
    assert stepped(None, "kumpr").trials[0].work is not None
    pairs = {rule: stepped({"rule": rule}, "kumpr").trials[0].work for rule in ("sam", "gru")}
    assert not pairs["sam"].paired and pairs["gru"].paired  # type: ignore[union-attr]


def test_memory_and_time_count_the_rule() -> None:
    plain, sam, gru = (stepped(step, "graddiff") for step in (None, SAM, {"rule": "gru"}))
    need = [memories(each)[0].need.training for each in (plain, sam, gru)]  # type: ignore[union-attr]
    assert need[0] < need[2] < need[1]
    work = [each.trials[0].work.train for each in (plain, sam, gru)]  # type: ignore[union-attr]
    assert work[1] == pytest.approx(1.5 * work[0]) and work[2] == work[0]


@pytest.mark.parametrize(
    ("step", "name", "model", "said"),
    [
        (SAM, "dpo", {}, r"methods\.0\.step: rule=sam takes .* the loss of dpo is not a sum"),
        ({"rule": "gru"}, "pdu", {}, "the loss of pdu is not a sum"),
        (SAM, "original", {}, "takes no steps of unlearning"),
        (SAM, "npo", {"zero_stage": 3}, "zero_stage=3 model a has them divided; expected zero_stage 0 to 2"),
        ({"rule": "gru"}, "npo", {"zero_stage": 1, "offload_optimizer": True}, "offload_optimizer of model a"),
        (SAM, "npo", {"precision": "bf16"}, "precision=bf16 can tell apart"),
        ({"rule": "same"}, "npo", {}, r"methods\.0\.step\.rule: expected 'sam' or 'gru', found \"same\""),
        ({"rule": "gru", "rho": 0.1}, "npo", {}, "'rho' is not for rule=gru"),
        ({"rule": "sam", "average": 0.1}, "npo", {}, "'average' is not for rule=sam"),
        ({"rule": "sam", "rho": 0}, "npo", {}, "rho: expected greater than 0|rho: .*greater than 0"),
        ({"rule": "gru", "max_opposition": 2}, "npo", {}, "max_opposition: .*less than or equal to 1"),
    ],
)
def test_what_cannot_be_right_is_refused(step: dict[str, Any], name: str, model: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        stepped(step, name, model)


def test_models_that_a_method_does_not_run_on_may_be_as_they_like() -> None:
    models = [
        {"name": name, "standin": {"size": size}, "zero_stage": stage}
        for name, size, stage in (("a", "small", 0), ("b", "medium", 3))
    ]
    made = plan({"models": models, "methods": [{"name": "npo", "step": SAM, "models": ["a"]}, {"name": "kumpr"}]})
    assert {trial.model.name for trial in made.trials if trial.label == "npo-sam"} == {"a"}


def test_a_resolved_config_is_the_same_again() -> None:
    config = stepped({"rule": "gru", "average": 0.8}).config
    assert resolve_config(config.model_dump(mode="json"), "again") == config
