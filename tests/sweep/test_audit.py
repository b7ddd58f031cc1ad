"""The audit beside the trials on a real Ray: what it leaves, and that nothing is attacked twice.

Needs: one Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icu_ray.audit.registry import attacks_of
from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan
from icu_ray.storage.audit_files import audit_file, read_audit, write_audit
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.files import write_atomic
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.audit import SweepAudit
from icu_ray.sweep.trial_audit import attack_hashes, outstanding_audits, remove_unkept
from tests.support.ended_sweep import ended_sweep

BARE: dict[str, Any] = {"name": "t", "models": [{"name": "m", "source": "gpt2"}], "data": {"source": "synthetic"}}
CHEAP: dict[str, Any] = {"attacks": ["prefix_search", "quantise", "membership"], "control": 2}


def audited_sweep(folder: Path, **more: Any) -> Plan:
    return ended_sweep(folder, {"audit": {**CHEAP, **more}})


def run(plan: Plan, folder: Path) -> SweepAudit:
    stage = SweepAudit(plan, str(folder / "runs" / "store"), lambda step: None)
    with stage.running():
        for trial in outstanding_audits(plan):
            stage.add(trial)
        stage.finish()
    return stage


def paths_of(plan: Plan) -> TrialPaths:
    return TrialPaths.of(plan.config.storage, "t", plan.trials[0].trial_id)


def test_a_trial_is_audited_once(ray_cluster: None, tmp_path: Path) -> None:
    plan = audited_sweep(tmp_path)
    assert len(outstanding_audits(plan)) == 1
    assert run(plan, tmp_path).failures == []
    audit = read_audit(paths_of(plan))
    assert audit is not None and set(audit.attacks) == set(CHEAP["attacks"])
    # One model, which nothing was unlearned from: before and after are the same, of all four targets.
    assert audit.before == audit.after and audit.after.total == 4
    assert {point.attack for point in audit.after.curves} >= {"quantise"}
    assert all(point.control_total == 2 for point in audit.after.curves if point.attack == "quantise")
    assert "audit/membership/auc_loss" in audit.metrics()
    # Nothing is outstanding now; a config that asks for more is, and another limit is counted anew.
    assert outstanding_audits(plan) == ()
    assert len(outstanding_audits(audited_sweep(tmp_path, leak=0.25))) == 1
    more = audited_sweep(tmp_path, attacks=[*CHEAP["attacks"], "neighbours"])
    assert len(outstanding_audits(more)) == 1


def test_models_that_are_not_kept_go_once_they_are_audited(tmp_path: Path) -> None:
    """Also where an earlier run was interrupted between audit and removal; one that failed stays, to be made again."""
    plan = audited_sweep(tmp_path)
    (trial,) = plan.trials
    paths, found = paths_of(plan), ModelAudit(4, 0)
    model = Path(paths.model)
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    result = read_result(paths)
    assert result is not None

    def left_after(audit: ModelAudit) -> bool:
        hashes = (result.model_hash, result.model_hash)
        write_audit(paths, TrialAudit(attack_hashes(plan, trial), hashes, plan.config.audit.leak, found, audit))
        remove_unkept(plan, plan.trials)
        return model.is_dir()

    remove_unkept(plan, plan.trials)
    assert model.is_dir()  # not audited yet
    assert left_after(ModelAudit(0, 0, errors={"quantise": "out of memory"}))
    assert not left_after(found)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    plan = audited_sweep(tmp_path)
    write_atomic(audit_file(paths_of(plan)), b"{}")
    assert len(outstanding_audits(plan)) == 1
    with pytest.raises(UserError, match="audited again"):
        read_audit(paths_of(plan))


def test_what_an_audit_asks_changes_no_trial(tmp_path: Path) -> None:
    ids = {plan.trials[0].trial_id for plan in (ended_sweep(tmp_path, {}), audited_sweep(tmp_path))}
    assert len(ids) == 1


def test_what_will_measure_nothing_is_said_in_the_plan(tmp_path: Path) -> None:
    plan = audited_sweep(tmp_path, attacks=["all"])
    assert plan.data is not None
    said = " ".join(plan.data.remarks)
    assert "depth compares with a retrained model, and there is none of m" in said
    assert "adapter_off is for adapters, and there is none on m" in said
    with pytest.raises(UserError, match=r"audit\.sample\.nli: \./nowhere: no such model"):
        audited_sweep(tmp_path / "b", attacks=["sample"], sample={"nli": "./nowhere"})


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        ({"attacks": ["smaple"]}, "audit.attacks"),
        ({"attacks": ["all"], "leak": 0}, "audit.leak"),
        ({"attacks": ["relearn"], "relearn": {"steps": []}}, "audit.relearn.steps"),
        ({"attacks": ["sample"], "sample": {"temperatures": [0]}}, "audit.sample.temperatures"),
    ],
)
def test_wrong_settings_are_refused(audit: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve_config({**BARE, "audit": audit}, "test")


def test_all_is_every_attack() -> None:
    config = resolve_config({**BARE, "audit": {"attacks": ["all"]}}, "test")
    names = [attack.name for attack in attacks_of(config.audit)]
    assert len(names) == len(set(names)) == 9
