"""A deletion request that is audited: what its config asks for, and what its record says.

Needs: nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.verdict import model_audit
from icu_ray.config.auditing import attacks_typed
from icu_ray.errors import UserError
from icu_ray.report.collect import collect
from icu_ray.report.formats.record_page import record_html
from icu_ray.requests.evidence import audit_of_request
from icu_ray.requests.judging import Judged
from icu_ray.requests.record import plain_verdict
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.run_requests import run
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_result, read_samples
from icu_ray.storage.verdict import Verdict, verdict_json, verdict_of
from tests.support.ledgers import enter, made, trial
from tests.support.report_case import Cell, write_sweep
from tests.support.written_audits import audit_of, audit_trial


def test_attacks_are_asked_for_and_change_nothing_else(tmp_path: Path) -> None:
    plain, audited = (
        unlearn_config("standin", forget=None, out=str(tmp_path), gpus=0, audit=audit)
        for audit in ((), ("sample", "prompt"))
    )
    assert plain.audit.names == () and audited.audit.names == ("prompt", "sample")
    assert audited.model_copy(update={"audit": plain.audit}) == plain


def test_an_attack_that_is_none_is_named() -> None:
    assert attacks_typed(" prompt, sample,", "--audit") == ("prompt", "sample")
    with pytest.raises(UserError, match=r"--audit: 'smaple' is not known.*sample"):
        attacks_typed("prompt,smaple", "--audit")


def test_the_record_says_what_came_back_and_holds_no_words(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [Cell()])
    audit_trial(folder, Cell().trial_id, audit_of({0: 4}), audit_of({0: 0, 20: 3}, text="12 Elm Street, a secret"))
    (trial,) = collect([(str(tmp_path), "s")]).trials
    assert trial.result is not None
    trial = replace(trial, result=replace(trial.result, thresholds=Thresholds(Limit(0.5994), Limit(0.0499))))
    assert trial.result is not None and trial.verdict is not None and trial.verdict.success
    assert "3 of 4 rows came back" in trial.verdict.headline
    told = plain_verdict(trial.result, trial.verdict)
    assert told["audit"]["texts_back"] == ["r0", "r1", "r2"] and told["audit"]["rows"] == 4
    assert told["lines"]["does it come back?"].startswith("3 of 4 rows came back")
    assert "a secret" not in repr(told)


def test_a_request_of_several_hears_of_its_own_texts() -> None:
    names = {"forget-1": ("r1", "a"), "forget-2": ("r2", "b"), "forget-3": ("r2", "c")}
    judged = Judged(own={}, names=names, measure={}, record={})
    said = {"said": "2 of 3 rows came back", "missing": [], "errors": {}}
    whole = {**said, "back": 2, "rows": 3, "share": 0.5, "texts_back": ["forget-1", "forget-3"]}
    told = {**said, "run_back": 2, "run_rows": 3, "run_share": 0.5, "texts_back": ["c"]}
    # Trials of before did not tell which rows were attacked.
    assert audit_of_request(whole, judged, "r2") == told
    lists = {"texts_attacked": ["c"], "texts_not_measured": ["b"]}
    assert audit_of_request({**whole, "texts_attacked": ["forget-1", "forget-3"]}, judged, "r2") == told | lists
    assert audit_of_request(None, judged, "r2") is None


NAMES = {f"forget-{n}": (f"r{1 if n < 3 else 2}", f"text-{n}") for n in (1, 2, 3, 4)}


def asked(
    *said: str, back: Sequence[str] = (), of: Sequence[str] = tuple(NAMES), failed: str | None = None
) -> ModelAudit:
    """An audit of the texts `of`, of which `said` got an answer and `back` came back. failed: an attack."""
    findings = [Finding(name, "forget", "as written", 1, float(name in back), name in back) for name in said]
    results = {"prompt": AttackResult(tuple(findings))} if said else {}
    return model_audit(results, {"prompt": "prompts"}, 0.5, {failed: "out of memory"} if failed else {}, (), set(of))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose first request is done."""
    folder = made(tmp_path_factory.mktemp("ledger"))
    enter(folder, 0)
    run(folder, forget=trial())
    return folder


def verdict_with(audit: ModelAudit, ledger: Path) -> Verdict:
    """Of the ledger's trial, had it been audited."""
    (root,) = ledger.glob("work/run-*/trials/*")
    paths = TrialPaths.of(str(ledger / "work"), root.parents[1].name, root.name)
    result = read_result(paths)
    assert result is not None
    verdict = verdict_of(result, read_samples(paths), audit=TrialAudit({}, ("", ""), 0.5, audit, audit))
    assert verdict is not None
    return verdict


def test_the_answer_says_when_it_is_not_known_whether_texts_come_back(ledger: Path) -> None:
    assert "Attacks" not in verdict_with(asked(*NAMES), ledger).headline
    for audit, said in (
        (asked(failed="relearn"), "not measured; not run: relearn"),
        (asked(*NAMES, failed="relearn"), "no attack brought a row back (of 4); not run: relearn"),
        (asked("forget-1"), "no attack brought a row back (of 1); 3 of 4 not measured"),
    ):
        verdict = verdict_with(audit, ledger)
        assert verdict.headline == f"Forgotten. Attacks: {said}." and verdict_json(verdict)["audit"]["share"] is None


@pytest.mark.parametrize(
    ("audit", "said", "share"),
    [
        (asked(*NAMES), "2 of 2 texts were attacked; none of these counts as back.", 0.0),
        (asked(*NAMES, back=["forget-3"]), "2 of 2 texts were attacked; text-3 came back.", 0.25),
        (asked("forget-1", "forget-2", of=["forget-1", "forget-2"]), "none of 2 texts could be attacked.", 0.0),
        (asked(*list(NAMES)[:3]), "1 of 2 texts was attacked; none of these counts as back.", None),
        (asked(failed="relearn"), "none of 2 texts could be attacked. relearn failed: out of memory.", None),
        (
            asked(*NAMES, failed="relearn"),
            "2 of 2 texts were attacked; none of these counts as back. relearn failed: out of memory.",
            None,
        ),
    ],
)
def test_the_page_counts_the_attacked_texts_of_the_request(
    ledger: Path, audit: ModelAudit, said: str, share: float | None
) -> None:
    """The page of a real ledger's record, with the audit of a run over r1 (text-1, text-2) and r2 (text-3, text-4)."""
    record = json.loads((ledger / "evidence" / "r1" / "attempt-1.json").read_bytes())
    whole = verdict_json(verdict_with(audit, ledger))["audit"]
    told = audit_of_request(whole, Judged(own={}, names=NAMES, measure={}, record={}), "r2")
    assert told is not None and told["run_share"] == share
    assert sorted((*told["texts_attacked"], *told["texts_not_measured"])) == ["text-3", "text-4"]
    page = record_html(
        {**record, "audit": told, "now": {"state": "done", "purged": False, "not_reached": [], "curve": []}}
    )
    (shown,) = re.findall(r"<h2>Audit</h2>\s*<p>(.*?)</p>", page, re.DOTALL)
    assert re.sub(r" Not measured: .*?their prompt\.", "", shown.split("Of this request: ")[1]) == said


def test_records_of_before_say_what_is_not_known(ledger: Path) -> None:
    record = json.loads((ledger / "evidence" / "r1" / "attempt-1.json").read_bytes())
    old = {"said": "no attack brought a row back (of 1)", "run_back": 0, "run_rows": 1, "missing": [], "errors": {}}
    page = record_html({**record, "audit": {**old, "texts_back": []}})
    assert "Of this request: no text is known to have come back (which were attacked was not written down)." in page
