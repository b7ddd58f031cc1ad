"""What is misspelt in a method's settings, or cannot be, is told by the plan with what to write.

Needs: nothing but this package; no Ray, no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError, did_you_mean
from icu_ray.plan.planning import plan_sweep
from tests.support.benchmark_case import small_model


def planned(method: dict[str, Any], model: dict[str, Any] | None = None, **more: Any) -> int:
    tree = {
        "name": "t",
        "models": [{"name": "m", **(model or {"standin": {}})}],
        "data": {"source": "synthetic"},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        "methods": [method],
        **more,
    }
    return len(plan_sweep(resolve_config(tree, "t"), dry_run=True).trials)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "NPO"}, r"unknown method 'NPO' \(did you mean 'npo'\?\)"),
        ({"name": "GradDiff"}, r"\(did you mean 'graddiff'\?\)"),
        (
            {"name": "rmu", "settings": {"layer": 1, "train_layers": 1}},
            r"'train_layers' must be text, found 1 \(default ''\); write '1', with quotes",
        ),
        (
            {"name": "rmu", "settings": {"layer": 1, "train_layers": [0, 1]}},
            r"'train_layers': expected one value, found a list; several are one text: '0,1'",
        ),
        (
            {"name": "rmu", "settings": {"layer": 0, "train_layers": "0,1"}},
            r"'train_layers' names 1, above 'layer' 0, whose states are read: .* expected 0 to 0",
        ),
        (
            {"name": "rmu", "settings": {"layer": 1, "train_parameters": "out_prj"}},
            r"methods\.0: rmu: no parameter of model m is called 'out_prj' \(did you mean 'out_proj'\?\); expected ",
        ),
    ],
)
def test_what_is_misspelt(method: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        planned(method)


def test_parameters_of_a_model_that_is_here(tmp_path: Path) -> None:
    model = {"source": str(small_model(tmp_path / "model"))}
    settings = {"layer": 1, "train_layers": "0,1", "train_parameters": "down_proj, mlp.up_proj, weight"}
    assert planned({"name": "rmu", "settings": settings}, model) > 0
    settings["train_parameters"] = "down_proj,c_fc"
    with pytest.raises(UserError, match=r"no parameter of model .*model is called 'c_fc'; expected .*down_proj"):
        planned({"name": "rmu", "settings": settings}, model)
    # With a retain loss that reads the last layer, those above have a gradient.
    assert planned({"name": "rmu", "settings": {"layer": 0, "train_layers": "0,1", "retain": "nll"}}, model) > 0


def test_a_warm_up_is_not_longer_than_a_trial() -> None:
    stop = {"max_epochs": 4}
    assert planned({"name": "graddiff"}, optim={"warmup_epochs": 4.0}, stop=stop) > 0
    with pytest.raises(
        UserError, match=r"optim\.warmup_epochs: found 4\.5, more than the 4 epochs .* \(stop\.max_epochs"
    ):
        planned({"name": "graddiff"}, optim={"warmup_epochs": 4.5}, stop=stop)
    own = {"standin": {}, "max_epochs": 2}
    with pytest.raises(UserError, match=r"more than the 2 epochs of a trial \(max_epochs of model m\)"):
        planned({"name": "graddiff"}, own, optim={"warmup_epochs": 3.0}, stop=stop)
    # What takes no steps of its own, or by settings of its own, does not warm up.
    assert planned({"name": "task_vector"}, optim={"warmup_epochs": 4.5}, stop=stop) > 0


def test_words_are_near_whatever_their_case() -> None:
    assert did_you_mean("TOFU", ["tofu", "muse"]) == " (did you mean 'tofu'?)"
    assert did_you_mean("bertscore", ["BERTScore"]) == " (did you mean 'BERTScore'?)"
    assert did_you_mean("xyz", ["tofu"]) == ""
