"""The ledger of requests: a chain that shows every change, survives every kill, and has one runner.

Needs: nothing. The trials are written by hand (tests/support/ledgers.py); what is around them is real.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icu_ray.cli.main import main
from icu_ray.config import LoraConfig
from icu_ray.errors import UserError
from icu_ray.models.adapters import attach, save_adapter
from icu_ray.requests import judging
from icu_ray.requests import ledger as ledger_module
from icu_ray.requests import verify_ledger as verify_module
from icu_ray.requests.ledger import FILE, HEAD, Book, read_chain, writing
from icu_ray.requests.ledger_settings import init
from icu_ray.requests.ledger_texts import TEXTS, proved, read_state
from icu_ray.requests.purge import purge
from icu_ray.requests.regression import Answers, came_back, still_forgotten
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.run_requests import run
from icu_ray.requests.runner import holding
from icu_ray.requests.undo import undo
from icu_ray.requests.verify_ledger import verify
from icu_ray.storage.thresholds import Limit, Thresholds
from tests.support.ledgers import SETTINGS, answering, enter, made, saved, trial, write
from tests.support.ledgers import TEXTS as SENTENCES
from tests.support.tiny_models import tiny_model


def states(folder: Path) -> dict[str, str]:
    return {name: each.state for name, each in read_state(folder).requests.items()}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three requests that are done, in two versions; a fourth waits."""
    folder = made(tmp_path)
    enter(folder, 0), enter(folder, 1)
    assert run(folder, forget=trial()).code == 0
    enter(folder, 2)
    assert run(folder, forget=trial()).code == 0
    enter(folder, 3)
    return folder


def lines(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def changed(content: list[bytes], place: int) -> list[bytes]:
    entry = json.loads(content[place])
    entry["time"] = "2001-01-01T00:00:00Z"
    return [*content[:place], json.dumps(entry).encode() + b"\n", *content[place + 1 :]]


def swapped(content: list[bytes], place: int) -> list[bytes]:
    other = place + 1 if place + 1 < len(content) else place - 1
    content = list(content)
    content[place], content[other] = content[other], content[place]
    return content


@pytest.mark.parametrize(
    ("tamper", "number"),
    [
        (changed, lambda place, last: place + 1),
        (lambda content, place: [*content[:place], *content[place + 1 :]], lambda place, last: place + 1),
        (swapped, lambda place, last: min(place, last - 2) + 1),
        (lambda content, place: content[:place], lambda place, last: place + 1),
        (lambda content, place: [*content[:place], b"{}\n", *content[place + 1 :]], lambda place, last: place + 1),
        (lambda content, place: [*content[:place], b"no json\n", *content[place:]], lambda place, last: place + 1),
    ],
    ids=["changed", "removed", "reordered", "cut off", "emptied", "put in"],
)
def test_tamper_is_shown_with_the_number_of_the_entry(
    ledger: Path, tamper: Callable[..., list[bytes]], number: Callable[[int, int], int], capsys: Any
) -> None:
    whole = lines(ledger)
    assert main(["requests", "verify", str(ledger)]) == 0
    for place in range(len(whole)):
        (ledger / FILE).write_bytes(b"".join(tamper(whole, place)))
        if place == 0 and not lines(ledger):
            continue
        capsys.readouterr()
        assert main(["requests", "verify", str(ledger), "--json"]) == 1, place
        told = json.loads(capsys.readouterr().out)
        assert not told["ok"] and told["troubles"][0]["entry"] == number(place, len(whole)), (place, told)
        # Nothing is added to a ledger that is damaged.
        assert main(["requests", "undo", str(ledger), "r1"]) == 2
        assert "not as it was written" in capsys.readouterr().err
    (ledger / FILE).write_bytes(b"".join(whole))
    assert verify(ledger).troubles == ()


def test_who_has_no_key_can_write_no_entry(ledger: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(ledger / FILE, other / FILE)
    (other / "key").write_bytes(b"k" * 32)
    Book(other, list(read_chain(ledger).entries)).append("undone", {"request": "r4", "back_to": 2, "waiting": []})
    shutil.copyfile(other / FILE, ledger / FILE)
    (trouble,) = verify(ledger).troubles
    assert trouble.entry == len(lines(ledger)) and "key" in trouble.said
    shutil.copyfile(other / HEAD, ledger / HEAD)
    assert any(HEAD in each.said for each in verify(ledger).troubles)


def test_a_record_and_a_version_that_were_changed_are_shown(ledger: Path) -> None:
    file = ledger / "evidence" / "r2" / "attempt-1.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"ma_after": 0.3', b'"ma_after": 0.1'))
    (trouble,) = verify(ledger).troubles
    assert "attempt-1.json" in trouble.said and trouble.entry > 0
    file.write_bytes(b"no record")
    assert [each.entry > 0 for each in verify(ledger).troubles] == [True]
    file.write_bytes(content)
    weights = ledger / "versions" / "1" / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + b"x")
    assert [str(each) for each in verify(ledger).troubles if "version 1 is another model" in each.said]
    with pytest.raises(UserError, match="version 1 is another model"):
        undo(ledger, "r3")


def test_an_old_version_may_be_deleted_and_no_file_changed(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ledger / "versions" / "2" / "record.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"first_original"', b'"first_0riginal"'))
    (trouble,) = verify(ledger).troubles
    assert "record.json: is another file than the ledger names" in trouble.said
    with pytest.raises(UserError, match=r"record.json: is another file"):
        run(ledger, forget=trial())
    file.write_bytes(whole)
    shutil.rmtree(ledger / "versions" / "1" / "model")
    found = verify(ledger)
    assert found.troubles == () and "version 1 is not in force, and its model is no longer" in found.remarks[0]
    (ledger / "versions" / "1" / "version.json").unlink()
    assert "version.json: is not there" in verify(ledger).troubles[0].said
    shutil.rmtree(ledger / "versions" / "1")
    assert verify(ledger).troubles == ()

    def dies(self: Book, kind: str, told: Any) -> Any:  # version and evidence are written, the entry is not
        if kind == "run ended":
            raise KeyboardInterrupt
        return real(self, kind, told)

    real = Book.append
    monkeypatch.setattr(Book, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        run(ledger, forget=trial())
    monkeypatch.undo()
    left = [ledger / "versions" / "3", ledger / "evidence" / "r4" / "attempt-3.json"]
    assert all(each.exists() for each in left)
    with writing(ledger) as book:
        book.append("run abandoned", {"attempt": 3})
    assert sum("was given up" in each for each in verify(ledger).remarks) == 2
    undo(ledger, "r4")
    assert not any(each.exists() for each in left) and verify(ledger).troubles == ()
    shutil.rmtree(ledger / "versions" / "2")
    assert "version 2 is not there" in verify(ledger).troubles[0].said


def test_an_old_copy_of_ledger_and_head_is_shown_by_the_records(ledger: Path) -> None:
    old = {name: (ledger / name).read_bytes() for name in (FILE, HEAD)}
    assert run(ledger, forget=trial()).code == 0
    for name, content in old.items():
        (ledger / name).write_bytes(content)
    found = verify(ledger).troubles
    assert found and "cut off" in found[0].said and found[0].entry == len(old[FILE].splitlines()) + 1


def test_half_an_entry_is_none_and_is_said(ledger: Path) -> None:
    whole = (ledger / FILE).read_bytes()
    (ledger / FILE).write_bytes(whole + b'{"number": 99, "ki')
    found = verify(ledger)
    assert found.troubles == () and "18 bytes behind the last entry are no entry" in found.remarks[0]
    enter(ledger, 4)
    assert (ledger / FILE).read_bytes().startswith(whole) and len(lines(ledger)) == len(whole.splitlines()) + 1
    assert verify(ledger).remarks == () and states(ledger)["r5"] == "waiting"


def test_texts_that_were_changed_are_shown_and_not_run(tmp_path: Path, capsys: Any) -> None:
    folder = made(tmp_path)
    enter(folder, 0)
    file = folder / TEXTS / "r1.jsonl"
    whole = file.read_text()
    rows = whole.splitlines(keepends=True)
    for content, said in (
        (whole.replace("forget-0-1", "forget-0-9"), "text 'forget-0-1' of r1 was changed"),
        (rows[0] + rows[1].replace(SENTENCES[1], SENTENCES[9]), "text 'forget-0-1' of r1 was changed"),
        (rows[0], "r1 has 2 texts by the ledger, found 1"),
        (rows[0] + "{", "the texts of r1 were changed"),
        (whole, ""),
    ):
        file.write_text(content)
        capsys.readouterr()
        assert main(["requests", "verify", str(folder)]) == int(bool(said)) and said in capsys.readouterr().out
        if said:
            with pytest.raises(UserError, match=r"expected the texts that were added as request r1"):
                run(folder, forget=trial())
    assert run(folder, forget=trial()).code == 0


def test_who_writes_while_another_reads_raises_no_alarm(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = ledger_module._read, [1]

    def parsed(*given: Any) -> Any:
        if left[0]:  # an entry is added after the entries were read, before anything is made of them
            left[0] = 0
            enter(ledger, 4)
        return real(*given)

    monkeypatch.setattr(ledger_module, "_read", parsed)
    assert read_chain(ledger).troubles == () and not left[0]
    asked = [1]

    def checked(*given: Any) -> Any:
        if asked[0]:  # and a purge deletes texts after the chain was read
            asked[0] = 0
            purge(ledger, days=0.0)
        return found_of(*given)

    found_of = verify_module._versions
    monkeypatch.setattr(verify_module, "_versions", checked)
    assert verify(ledger).troubles == () and not asked[0] and read_state(ledger).requests["r1"].purged


def test_states_versions_and_undo(ledger: Path) -> None:
    assert states(ledger) == {"r1": "done", "r2": "done", "r3": "done", "r4": "waiting"}
    state = read_state(ledger)
    assert state.current == 2 and state.versions[2].base == 1 and state.covers(2) == ("r1", "r2", "r3")
    told = json.loads((ledger / "versions" / "2" / "version.json").read_text())
    assert (told["number"], told["base"], told["requests"]) == (2, 1, ["r3"])
    assert told["base_sha256"] == state.versions[1].sha256
    asked = state.attempts[2].ended["asked"]  # type: ignore[index]
    assert asked["r1"]["earlier"] and asked["r1"]["accepted"]["ma"] == asked["r1"]["ma"]  # the same random model
    assert undo(ledger, "r2") == {"request": "r2", "back_to": 0, "waiting": ["r1", "r3"]}
    assert states(ledger) == {"r1": "waiting", "r2": "undone", "r3": "waiting", "r4": "waiting"}
    assert run(ledger, forget=trial()).code == 0
    state = read_state(ledger)
    assert state.current == 3 and state.versions[3].base == 0 and state.covers(3) == ("r1", "r3", "r4")
    assert undo(ledger, "r4")["back_to"] == 0
    with pytest.raises(UserError, match="r4: is undone already"):
        undo(ledger, "r4")
    with pytest.raises(UserError, match=r"r9: no such request .*known: r1, r2, r3, r4"):
        undo(ledger, "r9")
    assert verify(ledger).troubles == ()


def test_a_request_that_is_not_below_by_itself_is_run_again(tmp_path: Path) -> None:
    folder = made(tmp_path)
    enter(folder, 0, due="2030-01-02"), enter(folder, 1, due="2030-01-01")
    seen: list[str] = []

    def forget(model: str, **rest: Any) -> Any:
        seen.append(model)
        return trial({"r1/": 0.7, "r2/": 0.2} if len(seen) == 1 else 0.3)(model, **rest)

    ran = run(folder, forget=forget)
    assert ran.code == 0 and [each["done"] for each in ran.ended] == [["r2"], ["r1"]]
    assert ran.ended[0]["left"] == ["r1"] and seen[1].endswith("versions/1/model")
    record = json.loads((folder / "evidence" / "r1" / "attempt-1.json").read_text())
    assert record["ledger"]["state"] == "waiting" and record["verdict"]["said"].startswith("NOT forgotten yet")
    assert states(folder) == {"r1": "done", "r2": "done"}


def test_held_out_thresholds_are_those_of_the_first_original(tmp_path: Path) -> None:
    folder = made(tmp_path)
    own = Thresholds(Limit(0.4, "heldout", 0.1, 20), Limit(0.02, "heldout", 0.0, 20), "and", 1.5, 2)
    enter(folder, 0)
    assert run(folder, forget=trial(limits=own)).code == 0
    enter(folder, 1)
    found: list[Any] = []

    def forget(model: str, *, overrides: Any, **rest: Any) -> Any:
        known = {name: value for name, value in rest.items() if name not in ("out", "asked")}
        found.append(unlearn_config(model, overrides=overrides, out="x", **known))
        return trial(limits=own)(model, overrides=overrides, **rest)

    assert run(folder, forget=forget, overrides=["optim.lr=1e-5"]).code == 0
    (config,) = found
    assert (config.stop.ma, config.stop.el) == (pytest.approx(0.4), pytest.approx(0.02)) and config.stop.ma > 0.4
    assert config.optim.lr == 1e-5 and read_state(folder).attempts[1].overrides == ()
    enter(folder, 2)
    assert run(folder, forget=trial(limits=own), base=0).code == 0
    assert read_state(folder).attempts[3].overrides == ()


def test_what_is_not_acceptable_leaves_the_version_and_says_why(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ran = run(ledger, forget=trial(0.8))
    assert ran.code == 1 and ran.ended[0]["version"] is None and "NOT forgotten" in ran.ended[0]["reasons"][0]
    assert states(ledger)["r4"] == "not acceptable" and read_state(ledger).current == 2
    assert run(ledger, forget=trial()).ended == ()  # nothing waits
    ran = run(ledger, again=True, forget=trial(ppl=40.0))
    assert "2.00 times" in ran.ended[0]["reasons"][0]
    back = {"r1": Answers(0.9, 0.4, 1.0, ((0.9, 0.4, 1.0), (0.2, 0.0, 5.0)))}
    monkeypatch.setattr(judging, "ask", lambda *given: answering()(*given) | back)
    ran = run(ledger, again=True, forget=trial())
    (reason,) = ran.ended[0]["reasons"]
    assert reason.startswith("r1 comes back: MA ") and "1 of its texts were forgotten and are not any more" in reason
    assert ran.ended[0]["asked"]["r1"]["came_back"] == ["forget-0-0"]
    assert states(ledger) == {"r1": "done", "r2": "done", "r3": "done", "r4": "not acceptable"}
    monkeypatch.setattr(judging, "ask", answering())
    ran = run(ledger, base=0, forget=trial())
    assert (
        ran.code == 0 and ran.ended[0]["done"] == ["r1", "r2", "r3", "r4"] and read_state(ledger).versions[3].base == 0
    )
    assert verify(ledger).troubles == ()


def test_what_cannot_be_measured_is_not_acceptable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path)
    enter(folder, 0)
    (ended,) = run(folder, forget=trial(ppl=None)).ended
    assert ended["version"] is None and "costs against the first original could not be measured" in ended["reasons"][0]
    assert run(folder, again=True, forget=trial(ppl=26.0)).code == 0
    enter(folder, 1)
    # The first original is gone: the ledger knows that version 1 cost 1.3, and the run 25 / 20 to its base.
    (ended,) = run(folder, forget=trial(ppl=25.0, original=False)).ended
    assert ended["cost"]["ratio"] == pytest.approx(1.3 * 25 / 20) and ended["version"] is None
    assert ended["cost"]["original"] == pytest.approx(25 / 1.3 / 1.25) and "1.62 times" in ended["reasons"][0]
    (ended,) = run(folder, again=True, forget=trial(ppl=21.0, original=False)).ended
    assert ended["version"] == 2 and ended["cost"]["by_the_ledger"] == "it cannot be loaded"
    enter(folder, 2)
    nothing = Answers(None, None, None, ((None, None, None),) * 2)
    monkeypatch.setattr(judging, "ask", lambda *given: answering()(*given) | {"r1": nothing})
    (ended,) = run(folder, forget=trial()).ended
    assert ended["reasons"] == ["whether r1 is still forgotten could not be measured"]
    one = Answers(0.4, 0.01, 4.0, ((0.7, 0.01, 4.0), (0.1, 0.01, 4.0)))  # the mean is low, one text is not
    monkeypatch.setattr(judging, "ask", lambda *given: answering()(*given) | {"r1": one})
    (ended,) = run(folder, again=True, forget=trial()).ended
    assert ended["version"] is None and ended["asked"]["r1"]["came_back"] == ["forget-0-0"]
    assert ended["asked"]["r1"]["forgotten"] is True and ended["reasons"][0].startswith("r1 comes back")


def test_the_next_free_number_names_a_request(tmp_path: Path, capsys: Any) -> None:
    folder = made(tmp_path)
    assert [enter(folder, 0, request="r2"), enter(folder, 1), enter(folder, 2)] == ["r2", "r3", "r4"]
    (tmp_path / "other.jsonl").write_text('{"id": "a", "said": "w21 w22 w23"}\n')
    capsys.readouterr()
    assert main(["requests", "add", str(folder), str(tmp_path / "other.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "FILE" in said and "--forget" not in said, said


def test_without_held_out_texts_init_says_that_no_cost_is_measured(tmp_path: Path) -> None:
    saved(tmp_path / "model", 0), saved(tmp_path / "unlearned", 1)
    said: list[str] = []
    given: dict[str, Any] = {"id_column": "id", "gpus": 0, "overrides": SETTINGS}
    init(tmp_path / "ledger", str(tmp_path / "model"), given, purge_days=1.0, say=said.append)
    assert [line for line in said if "there are no held-out texts" in line]
    enter(tmp_path / "ledger", 0)
    assert run(tmp_path / "ledger", forget=trial(ppl=None)).code == 0


def test_one_by_one_goes_by_due_date_and_abandon_gives_up(tmp_path: Path) -> None:
    folder = made(tmp_path)
    enter(folder, 0, due="2031-01-01"), enter(folder, 1), enter(folder, 2, due="2030-01-01")

    def dies() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, one_by_one=True, forget=trial(stop=dies))
    assert states(folder) == {"r1": "waiting", "r2": "waiting", "r3": "running"}
    with pytest.raises(UserError, match="goes on with its own settings"):
        run(folder, overrides=["optim.lr=1e-3"], forget=trial())
    enter(folder, 3)
    ran = run(folder, abandon=True, one_by_one=True, overrides=["optim.lr=1e-3"], forget=trial())
    assert [each["done"] for each in ran.ended] == [["r3"], ["r1"], ["r2"], ["r4"]]
    assert len(read_state(folder).attempts) == 5


def test_purged_texts_are_gone_and_proved(ledger: Path, capsys: Any) -> None:
    assert purge(ledger)["requests"] == []
    said = [text.encode() for text in SENTENCES[:6]]

    def hits() -> list[str]:
        files = [path for path in ledger.rglob("*") if path.is_file() and not path.is_symlink()]
        return [str(path) for path in files if any(text in path.read_bytes() for text in said)]

    assert any("samples.jsonl" in hit for hit in hits()) and any("texts" in hit for hit in hits())
    told = purge(ledger, days=0.0)
    assert told["requests"] == ["r1", "r2", "r3"] and told["texts"] == 6 and hits() == []
    assert sorted(Path(file).name for file in told["files"]) == [f"forget-{n}.jsonl" for n in range(3)]
    assert verify(ledger).troubles == () and (ledger / TEXTS / "r4.jsonl").is_file()
    assert proved(ledger, Path(told["files"][1]))[0]["found"] == ["r2/forget-1-0"]
    one = ledger.parent / "one.txt"
    one.write_text(f"  {SENTENCES[0].replace(' ', '  ')}\n")
    assert proved(ledger, one) == [{"id": "one.txt", "found": ["r1/forget-0-0"]}]
    ran = run(ledger, forget=trial())
    assert ran.code == 0 and ran.ended[0]["purged"] == {"requests": 3, "texts": 6}
    with pytest.raises(UserError, match=r"r1, r2, r3 would be remembered again.*--from-version 2"):
        run(ledger, base=0, forget=trial())
    with pytest.raises(UserError, match="r2, r3 would have to be applied again"):
        undo(ledger, "r1")
    assert undo(ledger, "r4")["back_to"] == 2


def test_texts_that_a_killed_writer_left_go_although_nothing_is_due(tmp_path: Path) -> None:
    folder = made(tmp_path)
    in_a_child(0, folder, "add", 0)
    assert "is of no request" in verify(folder).remarks[0]
    assert purge(folder)["requests"] == [] and verify(folder).remarks == ()


def models(folder: Path) -> set[int]:
    """Versions whose models are there."""
    return {int(each.parent.name) for each in (folder / "versions").glob("*/model")}


def test_versions_that_still_know_purged_texts_go_with_them(ledger: Path, capsys: Any) -> None:
    original = {each.name: each.read_bytes() for each in (ledger.parent / "model").iterdir()}
    assert models(ledger) == {1, 2}  # r1 and r2 were forgotten in version 1, r3 in version 2
    told = purge(ledger, days=0.0)
    assert told["versions"] == [1] and models(ledger) == {2} and read_state(ledger).versions[1].purged
    assert "versions/1/model/: still knew r3" in told["places"]
    (said,) = told["still_know"]
    assert said.startswith("the model you began from still knows the texts of r1, r2, r3") and "/model" in said
    assert {each.name: each.read_bytes() for each in (ledger.parent / "model").iterdir()} == original
    found = verify(ledger)
    assert found.troubles == () and not any("version 1" in each for each in found.remarks)
    with pytest.raises(UserError, match=r"r3: its texts are purged, and with them the model of version 1"):
        undo(ledger, "r3")
    with pytest.raises(UserError, match=r"r3 would be remembered again.*--from-version 2"):
        run(ledger, base=1, forget=trial())
    assert run(ledger, forget=trial()).code == 0 and read_state(ledger).versions[3].base == 2
    capsys.readouterr()
    assert main(["requests", "purge", str(ledger)]) == 0
    assert "nothing is due\nthe model you began from still" in capsys.readouterr().out and models(ledger) == {2, 3}
    assert main(["requests", "purge", str(ledger), "--after", "0d"]) == 0
    assert "purged: r4, version 2; 2 texts" in capsys.readouterr().out and models(ledger) == {3}
    (ledger / "versions" / "2" / "model").mkdir()
    assert "was deleted by a purge, and is there" in verify(ledger).troubles[0].said


def test_what_cannot_be_deleted_is_named_and_holds_nothing_up(ledger: Path, tmp_path: Path) -> None:
    model, elsewhere = ledger / "versions" / "1" / "model", tmp_path / "moved"
    shutil.move(model, elsewhere)
    model.symlink_to(elsewhere)
    told = purge(ledger, days=0.0)
    assert any("versions/1/model/: still knew r3; it is a link to" in each for each in told["unreached"])
    assert not model.is_symlink() and elsewhere.is_dir() and told["versions"] == [1]
    assert run(ledger, forget=trial()).code == 0  # nothing is left of the purge


def test_a_damaged_adapter_does_not_stop_a_purge(ledger: Path) -> None:
    (ledger / "versions" / "2" / "model" / "adapter_config.json").write_text("{")
    told = purge(ledger, days=0.0)  # version 1 may be what it is an adapter on
    assert told["requests"] and told["versions"] == [] and models(ledger) == {1, 2}
    assert "version 1 still knows the texts of r3, and stays because version 2" in told["still_know"][1]


def test_what_undo_needs_is_not_purged(ledger: Path) -> None:
    undo(ledger, "r3")
    assert run(ledger, forget=trial()).code == 0  # r4, on version 1
    state = read_state(ledger)
    assert state.current == 3 and state.versions[3].base == 1
    # Version 2 was made for a request that was undone; both have forgotten r1 and r2.
    with writing(ledger) as book:
        book.append("purge started", {"requests": ["r1", "r2"]})  # as a ledger from before has it
    assert purge(ledger, days=30.0)["versions"] == [] and models(ledger) == {1, 2, 3}
    assert undo(ledger, "r4")["back_to"] == 1
    enter(ledger, 4)
    assert run(ledger, forget=trial()).code == 0
    told = purge(ledger, days=0.0)
    assert sorted(told["requests"]) == ["r3", "r4", "r5"] and told["versions"] == [1, 2, 3]
    assert models(ledger) == {4} and verify(ledger).troubles == ()


def test_a_version_that_the_one_in_force_is_an_adapter_on_stays_and_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    enter(folder, 0)
    assert run(folder, forget=trial()).code == 0
    model = tiny_model("gpt_neo", seed=1)
    attach(model, LoraConfig(rank=2), 0, "tiny")
    shutil.rmtree(tmp_path / "unlearned")
    (tmp_path / "unlearned").mkdir()
    save_adapter(model, tmp_path / "unlearned", str(folder / "versions" / "1" / "model"), None)
    enter(folder, 1)
    assert run(folder, forget=trial()).code == 0
    told = purge(folder, days=0.0)
    assert told["versions"] == [] and models(folder) == {1, 2}
    assert told["still_know"][1].startswith("version 1 still knows the texts of r2, and stays because version 2 is an")
    assert verify(folder).troubles == () and purge(folder)["versions"] == []
    # Where nothing stands on it any more the next purge removes it, although no text is due.
    (folder / "versions" / "2" / "model" / "adapter_config.json").unlink()
    told = purge(folder)
    assert (told["requests"], told["versions"]) == ([], [1]) and models(folder) == {2} and len(told["still_know"]) == 1


def test_a_second_runner_is_refused_and_told_who_runs(ledger: Path, capsys: Any) -> None:
    code = (
        "import sys, time; from pathlib import Path; from icu_ray.requests.runner import holding\n"
        "with holding(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(ledger)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for words in (["run"], ["purge"], ["undo", "r1"]):
            assert main(["requests", words[0], str(ledger), *words[1:]]) == 2
            said = " ".join(capsys.readouterr().err.split())
            assert f"process {holder.pid} on {os.uname().nodename}" in said
        assert main(["requests", "list", str(ledger)]) == 0
        enter(ledger, 5)  # who only enters a request need not wait for a run
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with holding(ledger):
        pass


def test_writers_that_are_killed_leave_a_whole_chain(ledger: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from icu_ray.requests.ledger import writing\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "  with writing(Path(sys.argv[1])) as book:\n"
        "    told = {'request': f'k{len(book.entries)}', 'subject': None, 'due': None, 'file': 'f'}\n"
        "    told |= {'form': {}, 'texts': []}\n"
        "    book.append('added', told)\n"
    )
    before = len(read_chain(ledger).entries)
    for milliseconds in (1, 7, 13, 29, 47):
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(ledger)], stdout=subprocess.PIPE) for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(milliseconds / 1000)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        assert read_chain(ledger).troubles == ()
        with writing(ledger) as book:
            assert [entry.number for entry in book.entries] == list(range(1, len(book.entries) + 1))
    assert len(read_chain(ledger).entries) > before


OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 12)),
    st.tuples(st.sampled_from(["run", "again", "original", "one"]), st.sampled_from([0.3, 0.3, 0.8])),
    st.tuples(st.just("undo"), st.integers(1, 5)),
    st.tuples(st.just("purge"), st.just(0)),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(OPERATIONS, st.one_of(st.none(), st.integers(0, 25))), min_size=3, max_size=9))
def test_any_operations_with_a_kill_between_any_two_writes(
    model_place: Path, steps: list[tuple[tuple[str, Any], int | None]]
) -> None:
    with tempfile.TemporaryDirectory(dir=model_place) as place:
        for name in ("model", "unlearned"):
            (Path(place) / name).symlink_to(model_place / name)
        folder = made(Path(place))
        for (what, value), kill in steps:
            in_a_child(kill, folder, what, value)
            found = verify(folder)
            assert found.troubles == (), (what, value, kill, found)
        in_a_child(None, folder, "again", 0.3)
        in_a_child(None, folder, "purge", 0)
        found = verify(folder)
        assert found.troubles == () and found.remarks == (), found
        state = read_state(folder)
        assert {each.state for each in state.requests.values()} <= {"done", "undone"}
        assert not [each for each in state.requests.values() if each.held]
        assert list((folder / TEXTS).glob("*")) == [] and not list((folder / "versions").glob(".*"))
        done = {name for name, each in state.requests.items() if each.state == "done"}
        assert done == set(state.covers(state.current))
        knowing = {each.number for each in state.versions.values() if not done <= set(state.covers(each.number))}
        assert not models(folder) & knowing and (state.current == 0 or state.current in models(folder))


@pytest.fixture(scope="module")
def model_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ledgers")
    saved(place / "model", 0), saved(place / "unlearned", 1)
    return place


def operate(folder: Path, what: str, value: Any) -> None:
    judging.ask = answering()  # type: ignore[assignment]
    if what == "add":
        enter(folder, value)
    elif what == "undo":
        undo(folder, f"r{value}")
    elif what == "purge":
        purge(folder, days=0.0)
    else:
        words: dict[str, Any] = {
            "run": {},
            "again": {"again": True},
            "original": {"base": 0},
            "one": {"one_by_one": True},
        }
        run(folder, forget=trial(value), **words[what])


def in_a_child(kill: int | None, folder: Path, what: str, value: Any) -> None:
    """Operate in a process that ends, as by SIGKILL, at its write number `kill`; a refusal is no failure.

    It is the fork of one that has loaded this file and nothing else. A fork of this process would not do: what a thread
    of it (Ray has many) holds at that moment, the child would wait for without end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=_operated, args=(kill, folder, what, value))
    child.start()
    child.join(timeout=300)
    if child.exitcode is None:
        child.kill()
    assert child.exitcode in (0, 2, -signal.SIGKILL), (kill, what, value, child.exitcode)
    child.close()


def _operated(kill: int | None, folder: Path, what: str, value: Any) -> None:
    if kill is not None:
        dying(kill)
    try:
        operate(folder, what, value)
    except UserError:
        sys.exit(2)


def dying(left: int) -> None:
    """Have this process killed before its write number `left`; a line of the ledger is then half written."""
    count = [left]

    def counted(name: str, module: Any) -> None:
        real = getattr(module, name)

        def write(*given: Any, **more: Any) -> Any:
            count[0] -= 1
            if count[0] < 0:
                if name == "write" and isinstance(given[1], bytes):
                    real(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        setattr(module, name, write)

    for name in ("write", "rename", "replace", "link", "unlink", "rmdir", "fsync"):
        counted(name, os)


@pytest.mark.slow
def test_a_purge_that_is_killed_at_any_write_is_finished_by_the_next(ledger: Path) -> None:
    kept, kill = ledger.parent / "kept", 0
    shutil.copytree(ledger, kept, symlinks=True)
    while True:
        shutil.rmtree(ledger)
        shutil.copytree(kept, ledger, symlinks=True)
        in_a_child(kill, ledger, "purge", 0)
        found, state = verify(ledger), read_state(ledger)
        assert found.troubles == (), (kill, found)
        if state.versions[1].purged:
            break
        assert 2 in models(ledger) and (1 in models(ledger) or state.removing), kill
        in_a_child(None, ledger, "purge", 0)
        found, state = verify(ledger), read_state(ledger)
        assert found.troubles == found.remarks == () and models(ledger) == {2} and state.versions[1].purged, kill
        kill += 1
    assert kill > 20


def test_what_comes_back_is_told_by_text() -> None:
    limits = Thresholds(Limit(0.6), Limit(0.05), ngram=2)
    now = Answers(0.55, 0.02, 3.0, ((0.9, 0.0, 1.0), (0.2, 0.04, 5.0), (0.7, 0.0, 2.0)))
    then = [(0.5, 0.0, 4.0), (0.2, 0.0, 5.0), (0.7, 0.0, 2.0)]
    assert came_back(now, limits, then, ["a", "b", "c"]) == ["a"]
    assert still_forgotten(now, limits, (0.5, 0.02)) is True
    # A mean that lay a rounding above its threshold when it was accepted may do so again, and no higher.
    assert still_forgotten(Answers(0.601, 0.02, 3.0, ()), limits, (0.601, 0.02)) is True
    assert still_forgotten(Answers(0.602, 0.02, 3.0, ()), limits, (0.601, 0.02)) is False
    # No mean counts as a rounding that lay 0.01 and more above it.
    assert still_forgotten(Answers(0.609, 0.02, 3.0, ()), limits, (0.7, 0.02)) is True
    assert still_forgotten(Answers(0.611, 0.02, 3.0, ()), limits, (0.7, 0.02)) is False
    assert still_forgotten(Answers(None, 0.02, 3.0, ()), limits, (0.5, 0.02)) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "LEDGER", "--model", "MODEL"], "is there already"),
        (["init", "new", "--model", "standin"], "a stand-in is trained on the texts"),
        (["init", "new", "--model", "nowhere/at-all-x"], "nowhere/at-all-x"),
        (["init", "new", "--model", "MODEL", "--retain", "gone.jsonl"], "--retain: "),
        (["init", "new", "--model", "MODEL", "--gpus", "0", "optim.lrr=1"], "did you mean"),
        (["init", "new", "--model", "MODEL", "--after", "soon"], "expected a time such as 30d"),
        (["init", "new", "--model", "MODEL", "--gpus", "0", "storage=elsewhere"], "storage itself"),
        (["init", "new", "--model", "MODEL", "--gpus", "0", "data.forget=f.jsonl"], "'icu-ray requests add'"),
        (["init", "new", "--model", "MODEL", "--gpus", "0", "seeds=[1,2]"], "make 2 trials; expected one"),
        (["init", "new", "--model", "MODEL", "--mlflow", "https://me:pw@host"], "--mlflow https://host: holds"),
        (["run", "LEDGER", "name=mine"], "name: the ledger sets name itself"),
        (["run", "LEDGER", "data={pool: p.jsonl}"], "give --retain to 'icu-ray requests init'"),
        (["run", "LEDGER", "data.heldout_rows=0"], "the same for all runs"),
        (["run", "LEDGER", "models.0.source=other"], "give --model"),
        (["run", "LEDGER", "resources={keep_models: false}"], "keeps the model of each version"),
        (["run", "LEDGER", "tracking.uri=https://me:pw@host"], "MLFLOW_TRACKING_PASSWORD"),
        (["run", "LEDGER", "search.space.lr.low=1e-5"], "is one trial"),
        (["run", "LEDGER", "methods.0.beta=[0.5, 1.0]"], "make 2 trials; expected one"),
        (["add", "LEDGER", "gone.jsonl"], "no such file"),
        (["add", "LEDGER", "forget-0.jsonl"], "is in request r1 already"),
        (["add", "LEDGER", "keep.jsonl"], "are in it too"),
        (["add", "LEDGER", "forget-9.jsonl", "--due", "tomorrow"], "expected a day"),
        (["add", "LEDGER", "forget-9.jsonl", "--id", "../r"], "expected up to 64 letters"),
        (["add", "LEDGER", "forget-9.jsonl", "--id", "r2"], "is in the ledger already"),
        (["add", "nowhere", "forget-9.jsonl"], "no such folder"),
        (["run", "LEDGER", "--from-version", "9"], "no such version"),
        (["run", "LEDGER", "stop.maa=1"], "did you mean"),
        (["undo", "LEDGER", "r44"], "no such request"),
        (["show", "LEDGER", "q"], "no such request"),
        (["bundle", "LEDGER", "r4", "out.zip"], "no run of it has ended"),
        (["verify", "LEDGER", "--text", "gone.txt"], "no such file"),
    ],
)
def test_bad_input_is_refused(
    shared_ledger: Path, words: list[str], said: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_ledger.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = (shared_ledger / FILE).read_bytes()
    typed = [{"LEDGER": "ledger", "MODEL": "model"}.get(word, word) for word in words]
    try:
        code = main(["requests", *typed])
    except SystemExit as ended:  # argparse's own
        code = int(str(ended.code))
    error = " ".join(capsys.readouterr().err.split())
    assert code == 2 and said in error and "Traceback" not in error and "me:pw" not in error, error
    assert (shared_ledger / FILE).read_bytes() == before and not Path("new").exists() and not Path("out.zip").exists()


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made(tmp_path_factory.mktemp("shared"))
    enter(folder, 0)
    run(folder, forget=trial())
    for number in (1, 2, 3):
        enter(folder, number)
    write(folder.parent / "forget-9.jsonl", SENTENCES[18:20])
    return folder
