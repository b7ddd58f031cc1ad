"""When an attempt of a ledger has ended: what was asked for beside its trial, what its model is asked again, and what
the ledger may not tell.

Needs: nothing. The trials are written by hand (tests/support/ledgers.py); what is around them is real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.errors import UserError
from icu_ray.requests import judging
from icu_ray.requests.ending import not_carried_out
from icu_ray.requests.ledger import FILE
from icu_ray.requests.ledger_texts import read_state
from icu_ray.requests.purge import purge
from icu_ray.requests.record import Asked
from icu_ray.requests.regression import Answers
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.run_requests import run
from icu_ray.requests.undo import undo
from icu_ray.requests.verify_ledger import verify
from icu_ray.storage.audits import ModelAudit
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import write_evaluation
from tests.support.ledgers import TEXTS, answering, enter, made, trial, write

WHOLE = ModelAudit(total=2, back=0)
BROKEN = ModelAudit(total=2, back=0, unmeasured=2, errors={"relearn": "OutOfMemoryError: 2 GiB"})


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger whose runs are attacked; two requests wait."""
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path, audit=["prompt", "relearn"])
    enter(folder, 0), enter(folder, 1)
    return folder


def states(folder: Path) -> dict[str, str]:
    return {name: each.state for name, each in read_state(folder).requests.items()}


def record_of(folder: Path, request: str, attempt: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evidence" / request / f"attempt-{attempt}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("audit", "code", "said"),
    [
        (None, 130, "was interrupted"),
        (WHOLE, 130, "was interrupted"),
        (None, 1, "the audit has no result"),
        (None, 0, "the audit has no result"),
        (BROKEN, 1, "audit relearn failed (OutOfMemoryError: 2 GiB)"),
    ],
)
def test_an_attempt_whose_audit_is_not_carried_out_stays_open(
    audited: Path, audit: ModelAudit | None, code: int, said: str
) -> None:
    ran = run(audited, one_by_one=True, forget=trial(audit=audit, code=code))
    assert ran.ended == () and ran.code == (code or 1) and said in ran.stopped and "'run' goes on" in ran.stopped
    assert states(audited) == {"r1": "running", "r2": "waiting"} and verify(audited).troubles == ()
    assert not (audited / "versions").exists()
    ran = run(audited, one_by_one=True, forget=trial(audit=WHOLE))
    assert ran.code == 0 and states(audited) == {"r1": "done", "r2": "done"} and len(read_state(audited).attempts) == 2
    assert record_of(audited, "r1", 1)["audit"]["said"] == "no attack brought a row back (of 2)"
    assert record_of(audited, "r1", 1)["ledger"]["not_carried_out"] == {}


def test_an_attack_that_fails_again_is_said_not_to_be_carried_out(
    audited: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(audited, forget=trial(audit=None, code=130)).code == 130
    broken = trial(audit=BROKEN, code=1)
    assert run(audited, forget=broken).ended == ()
    monkeypatch.setattr("icu_ray.requests.run_requests.run", lambda folder, **given: run(folder, forget=broken))
    capsys.readouterr()
    assert main(["requests", "run", str(audited)]) == 1
    lacking = {"audit relearn": "OutOfMemoryError: 2 GiB"}
    line = "asked for and not carried out: audit relearn (OutOfMemoryError: 2 GiB)"
    assert line in capsys.readouterr().out
    assert states(audited) == {"r1": "done", "r2": "done"}
    assert record_of(audited, "r1", 1)["ledger"]["not_carried_out"] == lacking
    page = (audited / "evidence" / "r1" / "record.html").read_text()
    assert "Asked for and not carried out:" in page and "nobody has tried" not in page
    assert main(["requests", "show", str(audited), "r1"]) == 0 and line in capsys.readouterr().out
    assert verify(audited).troubles == ()


def test_what_is_no_success_ends_without_its_audit_and_says_so(audited: Path) -> None:
    ran = run(audited, forget=trial(0.8, audit=None, code=1))
    assert ran.code == 1 and ran.ended[0]["version"] is None and set(ran.ended[0]["not_carried_out"]) == {"audit"}
    main(["requests", "show", str(audited), "r1"])
    page = (audited / "evidence" / "r1" / "record.html").read_text()
    assert "Asked for (prompt, relearn) and not carried out" in page and "nobody has tried" not in page


def test_a_task_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    given = read_state(folder).settings["options"]
    file = str(write(tmp_path / "forget.jsonl", TEXTS[:2]))
    done = trial()(str(tmp_path / "model"), forget=file, out=folder / "work", asked=Asked(), **given)
    assert done.paths is not None and done.result is not None
    config = unlearn_config(str(tmp_path / "model"), forget=file, out="x", suites=["icu"], gpus=0)
    assert not_carried_out(config, done) == ({}, ["evaluation"])
    hashes = ("", done.result.model_hash)
    write_evaluation(done.paths, TrialEvaluation({}, hashes, {}, {}, {"cls/piqa": "no network"}))
    assert not_carried_out(config, done) == ({"evaluation cls/piqa": "no network"}, [])


def test_a_sweep_that_stopped_after_its_trial_has_not_ended(tmp_path: Path) -> None:
    folder = made(tmp_path)
    enter(folder, 0)
    ran = run(folder, forget=trial(code=1))
    assert (ran.ended, ran.code) == ((), 1)
    assert "what follows the trial failed (its run stopped there)" in ran.stopped
    assert run(folder, forget=trial()).code == 0 and len(read_state(folder).attempts) == 1


def test_a_sweep_that_stops_again_is_no_end_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path)
    enter(folder, 0)
    assert run(folder, forget=trial(code=1)).ended == ()
    (ended,) = run(folder, forget=trial(code=1)).ended
    assert ended["not_carried_out"] == {"what follows the trial": "its run stopped there"} and ended["done"] == ["r1"]


def test_an_attempt_from_another_base_is_given_up_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path)
    enter(folder, 0)
    assert run(folder, forget=trial()).code == 0
    said = run(folder, base=0, forget=trial(code=130)).stopped
    assert "'run --abandon --from-version 0 KEY=VALUE' gives it up" in said
    assert run(folder, base=0, abandon=True, forget=trial()).code == 0 and read_state(folder).current == 2


def test_what_its_model_does_not_bear_out_when_asked_in_fp32_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = made(tmp_path, precision="bf16")
    enter(folder, 0)
    monkeypatch.setattr(judging, "ask", answering(0.089))
    (ended,) = run(folder, forget=trial()).ended
    (reason,) = ended["reasons"]
    assert ended["version"] is None and states(folder) == {"r1": "not acceptable"}
    assert "in the trial, measured in bf16 (MA 30.0 %, EL2 1.0 %), and are not when" in reason
    assert "asked again in fp32 (MA 30.0 %, EL2 8.9 %)" in reason
    assert ended["next"][-1]["models.0.precision"] == "fp32"
    record = record_of(folder, "r1", 1)
    assert (record["verdict"]["forgotten"], record["verdict"]["success"]) == (False, False)
    assert "(measured in bf16); the model asked again in fp32: NO" in record["verdict"]["lines"]["forgotten?"]
    monkeypatch.setattr(judging, "ask", answering(None))
    (ended,) = run(folder, again=True, forget=trial()).ended
    assert "could not be measured when the model is asked again" in ended["reasons"][0]
    # A rounding above the threshold is what later runs let pass as well.
    monkeypatch.setattr(judging, "ask", answering(0.0599))
    assert run(folder, again=True, forget=trial()).code == 0
    enter(folder, 1)
    assert run(folder, forget=trial()).code == 0 and states(folder) == {"r1": "done", "r2": "done"}
    monkeypatch.setattr(judging, "ask", answering(0.089))
    (ended,) = run(folder, base=0, forget=trial()).ended
    assert [reason.partition(":")[0] for reason in ended["reasons"]] == ["r1", "r2"] and ended["version"] is None
    assert states(folder) == {"r1": "done", "r2": "done"}  # in the version that stays in force


def test_of_two_requests_the_one_that_is_not_borne_out_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = made(tmp_path, precision="bf16")
    enter(folder, 0), enter(folder, 1)
    calls: list[str] = []

    def ask(model: str, questions: Any, trust: bool = False) -> dict[str, Answers]:
        calls.append(model)
        high = answering(0.089)(model, [each for each in questions if each.request == "r2"])
        return answering()(model, questions) | (high if len(calls) == 1 else {})

    monkeypatch.setattr(judging, "ask", ask)
    monkeypatch.setattr("icu_ray.requests.run_requests.run", lambda folder, **given: run(folder, forget=trial()))
    assert main(["requests", "run", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "attempt 1: version 1; done: r1\n" in said and "run again: r2" in said and "attempt 2: version 2" in said
    assert "r2: MA 30.0 %, EL 8.9 %, NOT forgotten when the model is asked in fp32 (it was in the trial" in said
    assert record_of(folder, "r2", 1)["ledger"]["state"] == "waiting" and states(folder) == dict.fromkeys(
        ("r1", "r2"), "done"
    )


def first_of_two_undone(tmp_path: Path) -> Path:
    """A ledger whose r1 and r2 were done one after the other, and r1 taken back."""
    folder = made(tmp_path)
    for number in (0, 1):
        enter(folder, number)
        assert run(folder, forget=trial()).code == 0
    undo(folder, "r1")
    return folder


def test_a_version_that_has_forgotten_what_was_undone_is_no_base(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = first_of_two_undone(tmp_path)
    before = (folder / FILE).read_bytes()
    assert main(["requests", "run", str(folder), "--from-version", "2"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--from-version 2: r1 is forgotten in it, and was undone; expected one of 0" in said
    assert (folder / FILE).read_bytes() == before
    enter(folder, 2)
    with pytest.raises(UserError, match="r1 is forgotten in it, and was undone"):
        run(folder, base=1, forget=trial())
    assert run(folder, base=0, forget=trial()).code == 0
    assert states(folder) == {"r1": "undone", "r2": "done", "r3": "done"} and read_state(folder).covers(3) == (
        "r2",
        "r3",
    )


def test_what_the_base_of_a_version_has_forgotten_is_done_in_ledgers_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = first_of_two_undone(tmp_path)
    enter(folder, 2)
    monkeypatch.setattr("icu_ray.requests.run_requests._check_base", lambda state, base: None)
    assert run(folder, base=2, forget=trial()).code == 0
    state = read_state(folder)
    assert states(folder) == {"r1": "done", "r2": "done", "r3": "done"} and state.covers(3) == ("r1", "r2", "r3")
    assert [state.requests[name].version for name in ("r1", "r2", "r3")] == [1, 2, 3]
    assert verify(folder).troubles == ()


def test_no_unkeyed_hash_of_the_texts_stays(audited: Path, capsys: Any) -> None:
    path = str(audited / "work" / "trials")
    ids: set[str] = set()

    def forget(model: str, **given: Any) -> Any:
        # A plain hash over the texts, as a real trial's id is; an error names a path with it.
        name = trial()(model, **given).result.trial_id  # type: ignore[union-attr]
        ids.add(name)
        broken = ModelAudit(total=2, back=0, unmeasured=2, errors={"relearn": f"OSError: {path}/{name}/model"})
        return trial(0.8 if len(ids) == 1 else 0.3, audit=broken, code=1)(model, **given)

    assert run(audited, forget=forget).code == 1  # not acceptable
    assert record_of(audited, "r1", 1)["model"]["folder"] is None
    for _ in range(2):
        enter(audited, len(read_state(audited).requests))
        run(audited, again=True, forget=forget)
        run(audited, again=True, forget=forget)
    state = read_state(audited)
    assert state.versions and state.attempts[2].failed == {"audit relearn"}
    kept = record_of(audited, "r1", 2)["model"]["folder"]
    assert kept.endswith("versions/1/model")
    main(["requests", "bundle", str(audited), "r1", str(audited / "r1.zip")])
    purge(audited, days=0.0)
    files = [audited / FILE, *audited.glob("evidence/*/*"), *audited.glob("versions/*/*.*")]
    assert len(files) > 6 and ids
    for name in ids:
        assert [str(file) for file in files if name[:8].encode() in file.read_bytes()] == []
