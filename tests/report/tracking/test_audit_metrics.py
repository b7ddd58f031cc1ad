"""What MLflow gets of an audit: names that it takes, with the values of both models.

Needs: nothing; the slow test writes a database of MLflow's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name

from icu_ray.audit.findings import AttackResult
from icu_ray.audit.verdict import model_audit
from icu_ray.report.collect_tracked import collect_tracked
from icu_ray.report.tracking.metrics import result_batches
from icu_ray.report.tracking.sync import sync_sweep
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.trial_files import TrialPaths, read_result
from tests.support.report_case import Cell, write_sweep
from tests.support.written_audits import audit_of, audit_trial


def written(folder: Path) -> Path:
    sweep = write_sweep(folder, "s", [Cell()])
    audit_trial(sweep, Cell().trial_id, audit_of({0: 4, 20: 4}), audit_of({0: 0, 20: 3}))
    return sweep


def test_names_are_such_that_mlflow_takes_them() -> None:
    numbers = dict.fromkeys(("r_own@20", "leak_exact@16 temperature 0.7", "auc_min_k++", "a,b(c)"), 0.5)
    audit = model_audit({"sample": AttackResult((), numbers)}, {"sample": "samples"}, 0.5)
    metrics = TrialAudit({}, ("", ""), 0.5, audit, audit).metrics()
    for name in metrics:
        _validate_metric_name(name)
    assert set(metrics) == {
        "audit/sample/r_own_at_20",
        "audit/sample/leak_exact_at_16 temperature 0.7",
        "audit/sample/auc_min_k__",
        "audit/sample/a_b_c_",
    }


def test_metrics_of_both_models(tmp_path: Path) -> None:
    written(tmp_path)
    result = read_result(TrialPaths.of(str(tmp_path), "s", Cell().trial_id))
    assert result is not None
    audit = TrialAudit({}, ("", ""), 0.5, audit_of({0: 4}), audit_of({0: 0, 20: 3}))
    original, after = (batch.values for batch in result_batches(result, None, audit))
    assert original["before/audit/came_back"] == 1.0 and original["before/audit/relearn_came_back"] == 1.0
    assert after["audit/came_back"] == pytest.approx(0.75) and after["audit/quantise_came_back"] == 0.0
    assert after["audit/membership/auc_loss"] == 0.75
    # What was not measured is not sent: it would read as forgotten.
    nothing = TrialAudit({}, ("", ""), 0.5, ModelAudit(0, 0), ModelAudit(0, 0))
    assert not any(name.startswith("audit") for name in result_batches(result, None, nothing)[1].values)


@pytest.mark.slow
def test_a_run_has_them(tmp_path: Path) -> None:
    written(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sync_sweep(str(tmp_path), "s", uri, over=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (run,) = (run for run in runs if "mlflow.parentRunId" in run.data.tags)
    assert run.data.metrics["audit/came_back"] == pytest.approx(0.75)
    assert run.data.metrics["before/audit/came_back"] == 1.0
    assert run.data.tags["audit"].startswith("3 of 4 rows came back")
    assert "audit.json" in {item.path for item in client.list_artifacts(run.info.run_id)}
    # Where the sweep's folder is gone, its tables come from MLflow.
    (tmp_path / "s").rename(tmp_path / "gone")
    found = collect_tracked(uri, "s")
    (trial,) = found.collected.trials
    assert found.tracked and trial.metrics()["audit/came_back"] == pytest.approx(0.75)
