"""Audits written by hand beside a sweep's trials, as attacks leave them."""

from __future__ import annotations

from pathlib import Path

from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.verdict import model_audit
from icu_ray.storage.audit_files import write_audit
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.trial_files import TrialPaths
from tests.support.report_case import TARGETS

ROWS = TARGETS
UNITS = {"relearn": "steps", "quantise": "bits", "sample": "samples", "membership": "forward passes", "depth": "layers"}


def found(group: Group, said: int, setting: str, budget: float, text: str = "12 Elm Street") -> list[Finding]:
    """ROWS rows of which the first `said` are said word for word."""
    return [
        Finding(f"r{i}" if group == "forget" else f"c{i}", group, setting, budget, float(i < said), i < said, text)
        for i in range(ROWS)
    ]


def audit_of(
    steps: dict[int, int], control: int = 0, quantised: int = 0, text: str = "12 Elm Street", broken: bool = False
) -> ModelAudit:
    """steps: rows back of relearn after so many steps. control: of control rows, at each of them."""
    relearn = [f for step, back in steps.items() for f in found("forget", back, "own rows", step, text)]
    relearn += [f for step in steps for f in found("control", control, "own rows", step)]
    results = {
        "relearn": AttackResult(tuple(relearn), {"r_own@20": 0.25}, ("kin rows: there are none",)),
        "quantise": AttackResult(
            tuple(found("forget", 0, "int8", 8.0) + found("forget", quantised, "nf4", 4.0, text)), {"q_nf4": 0.5}
        ),
        "membership": AttackResult((), {"auc_loss": 0.75}),
    }
    return model_audit(results, UNITS, 0.5, {"depth": "there is no retrained model"} if broken else {})


def audit_trial(folder: Path, trial_id: str, before: ModelAudit, after: ModelAudit) -> None:
    """audit.json of a trial of `write_sweep`."""
    audit = TrialAudit({"relearn": "a", "quantise": "b"}, ("", ""), 0.5, before, after)
    write_audit(TrialPaths.of(str(folder.parent), folder.name, trial_id), audit)
