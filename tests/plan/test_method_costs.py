"""What a plan reckons of what a method says that it takes: operations of an epoch, and memory.

Needs: nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.grid import Plan
from icu_ray.plan.memory import Memory
from icu_ray.plan.model_memory import memories
from icu_ray.plan.model_shapes import ModelShape
from icu_ray.plan.models_here import shape_here
from tests.plan.test_plan import SMALL, plan

MODEL = {"name": "a", "standin": {"size": "small"}}
TOKENS = SMALL["data"]["sample_size"] * SMALL["columns"]["length"]
HALF = {"alpha": 0.5}


def planned(name: str, cache: str = "hidden", model: dict[str, Any] | None = None, **told: Any) -> Plan:
    change = {"models": [{**MODEL, **(model or {})}], "samples": [0], "kl": {"cache": cache}}
    return plan({**change, "methods": [{"name": name, **told}]})


def passes(found: Plan) -> float:
    """Operations of an epoch's training over those of one pass over the targets."""
    (trial,) = found.trials
    assert trial.work is not None
    return trial.work.train / (6 * parameters_of(trial.model) * TOKENS)


def need(found: Plan) -> Memory:
    (told,) = memories(found)
    assert told.need is not None
    return told.need


def shape() -> ModelShape:
    config = planned("kumpr").config
    found = shape_here(config.models[0], config)
    assert found is not None
    return found


def head() -> float:
    """One more time over the vocabulary, of a pass."""
    return 2 * shape().head / (6 * parameters_of(planned("kumpr").trials[0].model))


@pytest.mark.parametrize(
    ("name", "told", "wanted"),
    [
        ("kumpr", {}, 1),
        ("icu", HALF, 2),
        ("kl", {}, 2),
        ("llmu", HALF, 2),
        ("po", HALF, 2),
        ("graddiff", {}, 2),
        ("wga", {}, 2),
        ("undial", {}, 1),
        ("ceu", {}, 1),
        ("pdu", {}, 2),
        ("rmu", {"settings": {"layer": 1}}, 2),
        ("graddiff", {"step": {"rule": "sam"}}, 3),
        ("graddiff", {"step": {"rule": "gru"}}, 2),
        ("kumpr", {"step": {"rule": "gru"}}, 2),
    ],
)
def test_what_takes_nothing_beside_its_passes(name: str, told: dict[str, Any], wanted: int) -> None:
    assert passes(planned(name, **told)) == pytest.approx(wanted, rel=1e-12)


def test_losses_of_whole_rows_read_the_vocabulary_twice() -> None:
    once = head()
    assert 0.01 < once < 1
    assert passes(planned("npo")) == pytest.approx(1 + once)
    assert passes(planned("simnpo")) == pytest.approx(2 + once)
    assert passes(planned("dpo")) == pytest.approx(2 + 2 * once)
    assert passes(planned("npo", step={"rule": "sam"})) == pytest.approx(2 + 2 * once)


def test_an_original_model_that_is_run_again_counts() -> None:
    rmu = {"settings": {"layer": 1}}
    for name, told in (("kl", {}), ("rmu", rmu)):
        assert passes(planned(name, "recompute", **told)) == pytest.approx(2 + 1 / 3)
    # Of the targets too.
    assert passes(planned("undial", "recompute", alpha=1.0)) == pytest.approx(2 + 1 / 3)
    both = {"settings": {"retain": "kl"}, "alpha": 1.0}
    assert passes(planned("undial", "recompute", **both)) == pytest.approx(2 + 2 / 3)
    assert passes(planned("npo", "recompute")) == passes(planned("npo"))


def test_what_is_measured_after_an_epoch_counts() -> None:
    assert passes(planned("pdu", settings={"dual_update": "epoch"})) == pytest.approx(2 + 1 / 3)


def test_memory_counts_the_live_original_of_rmu(monkeypatch: pytest.MonkeyPatch) -> None:
    rmu = {"settings": {"layer": 1}}
    kept, live = (need(planned("rmu", cache, **rmu)) for cache in ("hidden", "recompute"))
    assert kept.reference == 0 and live.reference == 4 * shape().parameters
    assert need(planned("kl", "recompute")).reference == live.reference
    # With an adapter it is the same model.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lora = {"source": "EleutherAI/gpt-neo-125m", "standin": None, "lora": {"rank": 4}}
    assert need(planned("rmu", "recompute", lora, **rmu)).reference == 0


def test_memory_counts_each_gradient_of_the_output_matrix() -> None:
    plain, one, more = (need(planned(name)) for name in ("kumpr", "npo", "dpo"))
    assert plain.vocabulary == one.vocabulary
    beside = need(planned("graddiff")).vocabulary
    assert more.vocabulary - beside == pytest.approx(4 * shape().head)
    half = {"precision": "bf16"}
    apart = need(planned("dpo", model=half)).vocabulary - need(planned("graddiff", model=half)).vocabulary
    assert apart == pytest.approx(2 * shape().head)
