"""A deletion request that is audited: what its config asks for, and what its record says.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.config.auditing import attacks_typed
from icu_ray.errors import UserError
from icu_ray.report.collect import collect
from icu_ray.requests.evidence import audit_of_request
from icu_ray.requests.judging import Judged
from icu_ray.requests.record import plain_verdict
from icu_ray.requests.request_config import unlearn_config
from icu_ray.storage.thresholds import Limit, Thresholds
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
    whole = {**said, "back": 2, "rows": 3, "texts_back": ["forget-1", "forget-3"]}
    assert audit_of_request(whole, judged, "r2") == {
        **said,
        "run_back": 2,
        "run_rows": 3,
        "texts_back": ["c"],
    }
    assert audit_of_request(None, judged, "r2") is None
