"""audit.json, beside a trial's evaluation.json: what attacks found on its models.

audit = read_audit(paths)                    # None: it was not audited
"""

from __future__ import annotations

from dataclasses import asdict

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.files import join, write_atomic
from icu_ray.storage.results import to_json
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.storage.values import read_value

_REMEDY = "remove the file to have the trial audited again"


def audit_file(paths: TrialPaths) -> str:
    """audit.json of a trial."""
    return join(paths.root, "audit.json")


def write_audit(paths: TrialPaths, audit: TrialAudit) -> None:
    """What the attacks found on the models before and after."""
    write_atomic(audit_file(paths), to_json(asdict(audit), indent=1))


def read_audit(paths: TrialPaths) -> TrialAudit | None:
    """audit.json, or None where the trial was not audited; UserError where it is of another model."""
    found = read_value(TrialAudit, audit_file(paths), _REMEDY)
    result = None if found is None else read_result(paths)
    if found is not None and result is not None and result.model_hash and found.models[1] != result.model_hash:
        raise UserError(f"{without_secrets(audit_file(paths))}: is of another model than {paths.result}; {_REMEDY}")
    return found
