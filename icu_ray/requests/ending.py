"""The end of an attempt whose trial has ended: what was asked for beside it and not carried out, then its entry.

    failed, missing = not_carried_out(config, done)      # {"audit relearn": "out of memory"}, ["audit"]
    told = enter(folder, attempt, done, judged, failed)   # version and evidence, then 'run ended', which counts

What has no result yet (the audit was interrupted, or its stage stopped) keeps an attempt open, and `run` goes on with
it. So does an attack or a task that failed, once. Where it fails again it is taken for one that can never be carried
out: the attempt ends, and entry, record and page say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icu_ray.config import SweepConfig
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.requests.evidence import evidence_of
from icu_ray.requests.judging import Judged
from icu_ray.requests.ledger import now, writing
from icu_ray.requests.ledger_state import Attempt, state_of
from icu_ray.requests.unlearn import Unlearned
from icu_ray.requests.versions import files_told, keep
from icu_ray.storage.audit_files import read_audit
from icu_ray.storage.results import to_json
from icu_ray.storage.trial_files import read_evaluation


def not_carried_out(config: SweepConfig, done: Unlearned) -> tuple[dict[str, str], list[str]]:
    """Attacks and tasks that failed on the attempt's model, with why; and of 'audit' and 'evaluation' those that were
    asked for and have no result. Names are those of `Attempt.failed`."""
    assert done.paths is not None and done.result is not None
    failed: dict[str, str] = {}
    missing = []
    if config.evaluation.asked:
        evaluation = read_evaluation(done.paths)
        missing += ["evaluation"] if evaluation is None else []
        failed |= {} if evaluation is None else {f"evaluation {k}": why for k, why in evaluation.errors.items()}
    if config.audit.asked:
        audit = read_audit(done.paths)
        missing += ["audit"] if audit is None else []
        failed |= {} if audit is None else {f"audit {name}": why for name, why in audit.after.errors.items()}
    if done.exit_code and not failed and not missing:
        failed["what follows the trial"] = "its run stopped there"
    # The ledger keeps these words, and a path in them may hold the trial's id (requests/evidence.py).
    return {name: why.replace(done.result.trial_id, "...") for name, why in failed.items()}, missing


def still_open(attempt: Attempt, done: Unlearned, failed: Mapping[str, str], missing: list[str]) -> str:
    """Why an attempt has not ended, '' where it has. The model of what is no success need not be attacked."""
    assert done.verdict is not None
    if done.exit_code == 130:
        return "was interrupted"
    anew = [name for name in failed if name not in attempt.failed]
    if not done.verdict.success or not (missing or anew):
        return ""
    parts = [f"the {name} has no result" for name in missing] + [f"{name} failed ({failed[name]})" for name in anew]
    return f"has not ended: {'; '.join(parts)}; the log is in the ledger's folder 'work'"


def enter(
    folder: Path, attempt: Attempt, done: Unlearned, judged: Judged, lacking: Mapping[str, str]
) -> Mapping[str, Any]:
    """Version and evidence, then the entry that makes them count; what it tells. lacking: as `not_carried_out`."""
    assert done.result is not None and done.paths is not None
    accepted = not judged.reasons
    requests = [name for name in attempt.requests if accepted and judged.is_done(name)]
    model = Path(done.paths.model)
    told: dict[str, Any] = {
        "attempt": attempt.number,
        "base": attempt.base,
        "outcome": "done" if accepted else "not acceptable",
        "done": requests,
        "left": [name for name in attempt.requests if accepted and name not in requests],
        "version": None,
        "reasons": judged.reasons,
        "not_carried_out": dict(lacking),
        "next": [dict(each.changes) | {"why": each.why} for each in (*done.next_tries, *judged.next)],
        "model": {"sha256": folder_fingerprint(model) if model.is_dir() else None},
        "asked": judged.asked,
        "purged": {"requests": len(judged.purged), "texts": sum(len(each.texts) for each in judged.purged)},
        "cost": judged.cost,
        "measure": judged.measure,
        "trial": {"epochs": done.result.epochs, "seconds": done.result.seconds.get("total")},
    }
    with writing(folder) as book:  # nobody adds an entry meanwhile: the evidence names the head that this one follows
        state, head = state_of(book.entries), book.entries[-1]
        number = max(state.versions, default=0) + 1 if accepted else None
        told["version"] = number
        run_record, evidence = evidence_of(folder, state, attempt, judged, told, head)
        if number is not None:
            version = {
                "number": number,
                "base": attempt.base,
                "requests": requests,
                "made": now(),
                "model_sha256": told["model"]["sha256"],
                "base_sha256": run_record["model"]["sha256_before"],
                "attempt": attempt.number,
            }
            kept = keep(folder, number, model, version, _keyed_files(run_record))
            told["files"] = files_told(kept)
        told["evidence"] = evidence
        for name, digest in evidence.items():  # 'run ended' tells of all, so a bundle of one cannot hold it
            book.append("evidence", {"request": name, "attempt": attempt.number, "evidence": digest})
        book.append("run ended", told)
    return told


def _keyed_files(record: Mapping[str, Any]) -> dict[str, bytes]:
    """The record of a run as files of its version."""
    from icu_ray.report.formats.record_page import record_html

    return {"record.json": to_json(dict(record), indent=2), "record.html": record_html(record).encode()}
