"""What a dry run says of an audit: counts that follow from the config, and more of what is asked for more.

Needs: nothing.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icu_ray.config.file import resolve_config
from icu_ray.plan.audit_cost import audit_cost, audit_json, audit_said, quick_said
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.report.terminal.plan_table import plan_json, print_plan

TREE: dict[str, Any] = {
    "name": "t",
    "data": {"source": "synthetic", "records": 96, "sample_size": 16, "heldout": 8},
    "columns": {"length": 48, "prefix_start": 16, "suffix_start": 32},
    "models": [{"name": "small", "standin": {"size": "small"}}],
    "methods": [{"name": "icu"}, {"name": "kumpr"}],
    "pairs": {"encoder": "bundled"},
    "filter": {"encoder": "bundled", "encoder_layer": 6},
}


def planned(tmp_path: Path, **more: Any) -> Plan:
    return plan_sweep(resolve_config({**TREE, "storage": str(tmp_path), **more}, "t"), dry_run=True)


def audit(*attacks: str, **more: Any) -> dict[str, Any]:
    return {"attacks": list(attacks), **more}


def test_counts_by_hand(tmp_path: Path) -> None:
    # 16 targets and 8 held-out rows; answers of 16 + 32 tokens; the original and two trials.
    found = audit_json(planned(tmp_path, audit=audit("prefix_search", "quantise", "prompt", "sample", "relearn")))
    assert found is not None and found["models"] == 3
    attacks = found["attacks"]
    assert attacks["prefix_search"]["forwards"] == 24 * 3
    assert attacks["quantise"]["answers"] == 5 * 24 * 3 and attacks["quantise"]["tokens"] == 5 * 24 * 3 * 48
    assert attacks["prompt"]["answers"] == 12 * 24 * 3
    assert attacks["sample"]["answers"] == 2 * 100 * 24 * 3
    # Asked before and after 5, 10, 20 and 50 steps; of its own rows half are taught, the other half is asked for.
    assert attacks["relearn"]["steps"] == 3 * 50 * 3 and attacks["relearn"]["answers"] == 5 * (16 + 24 + 24) * 3
    assert found["answers"] == sum(each["answers"] for each in attacks.values())
    assert found["hours"] == pytest.approx(sum(each["hours"] for each in attacks.values()), abs=1e-3)


def test_fewer_rows_and_no_control_rows_ask_less(tmp_path: Path) -> None:
    few = audit_json(planned(tmp_path, audit=audit("quantise", rows=4, control=2)))
    assert few is not None and few["answers"] == 5 * 6 * 3
    data = {**TREE["data"], "heldout": 1}
    alone = audit_json(planned(tmp_path, data=data, audit=audit("quantise")))
    assert alone is not None and alone["answers"] == 5 * 17 * 3


def test_a_retrained_model_is_attacked_too_and_compared_with(tmp_path: Path) -> None:
    models = [{**TREE["models"][0], "retrained": True}]
    plan = planned(tmp_path, models=models, audit=audit("membership", "depth", "adapter_off"))
    found = audit_cost(plan)
    assert found is not None and found.models == 4
    assert found.attacks["membership"].forwards == 2 * 24 * 4
    assert found.attacks["depth"].forwards == 2 * 2 * 16 * 4  # two layers
    assert "adapter_off" not in found.attacks  # there is no adapter


def test_more_is_never_quicker(tmp_path: Path) -> None:
    def hours(**more: Any) -> float:
        found = audit_cost(planned(tmp_path, audit=audit("sample", "relearn", **more)))
        assert found is not None
        return found.whole.seconds

    usual = hours()
    assert hours(sample={"samples": 200}) > usual > hours(relearn={"steps": [5]}) and usual > hours(rows=2)


def test_a_dry_run_says_it(tmp_path: Path) -> None:
    plan = planned(tmp_path, audit=audit("quantise", "sample"), stop={"audited": True})
    audited, quick = audit_said(plan)
    assert audited.startswith("The audit asks at most: 360 forward passes, 14,760 answers (708,480 tokens); roughly 0.")
    assert "worker hours, " in audited and "for sample, not in the estimate." in audited
    assert quick.startswith("After each epoch a quick attack asks small at most: 48 forward passes, 16 answers")
    screen = Console(file=io.StringIO(), width=400)
    print_plan(plan, screen)
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert audited in printed and quick in printed
    assert json.loads(plan_json(plan))["audit"] == audit_json(plan)


def test_trials_that_a_search_will_choose_count_too(tmp_path: Path) -> None:
    search = {"trials": 5, "space": {"lr": {"low": 1e-5, "high": 1e-3}}, "objective": "audited"}
    more = {"methods": [{"name": "icu"}], "eval": {"heldout": "epochs"}, "search": search}
    plan = planned(tmp_path, audit=audit("quantise"), **more)
    found = audit_cost(plan)
    assert found is not None and found.models == 1 + len(plan.trials) + plan.open_trials and plan.open_trials
    assert len(quick_said(plan)) == 1


def test_without_an_audit_nothing_is_said(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert audit_said(plan) == quick_said(plan) == [] and audit_json(plan) is None
    assert json.loads(plan_json(plan))["audit"] is None
