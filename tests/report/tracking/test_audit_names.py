"""MLflow takes the name of every number that an audit has.

Needs: nothing but this package; no Ray, no server.
"""

from __future__ import annotations

from mlflow.utils.validation import _validate_metric

from icu_ray.audit.attacks.sample import Sample, _means
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.registry import attacks_of
from icu_ray.audit.verdict import model_audit
from icu_ray.config.auditing import AuditConfig
from icu_ray.storage.audits import TrialAudit


def test_mlflow_takes_the_names_of_leaks() -> None:
    measures = {"leak_exact": 0.25, "leak_recall": 0.5}
    findings = tuple(Finding("a", "forget", "temperature 0.7", k, 0.6, False, "said", measures) for k in (1, 16))
    result = AttackResult(findings, _means(findings), ())
    audit = model_audit({"sample": result}, {"sample": Sample.unit}, 0.5)
    found = TrialAudit({}, ("a", "b"), 0.5, audit, audit).metrics()
    assert found["audit/sample/leak_exact_at_16 temperature 0.7"] == 0.25
    assert len(found) >= 5
    for name, value in found.items():
        _validate_metric(name, value, 0, 0)


def test_names_of_attacks_and_their_units_fit() -> None:
    for attack in attacks_of(AuditConfig(attacks=("all",))):
        _validate_metric(f"audit/{attack.name}_came_back", 0.5, 0, 0)
