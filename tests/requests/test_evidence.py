"""Records of requests are passed on as they were written, or not at all; a bundle ties each to the chain.

Needs: nothing. The trials are written by hand (tests/support/ledgers.py); what is around them is real.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.requests import judging
from icu_ray.requests.ledger import Book
from icu_ray.requests.ledger_texts import read_state
from icu_ray.requests.run_requests import run
from icu_ray.requests.verify_ledger import verify
from tests.support.ledgers import answering, enter, made, trial


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two requests that are done, one after the other."""
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path)
    enter(folder, 0), enter(folder, 1)
    assert run(folder, one_by_one=True, forget=trial()).code == 0
    return folder


def said(capsys: Any) -> str:
    told = capsys.readouterr()
    return " ".join(f"{told.out} {told.err}".split())


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_record_that_is_not_as_it_was_written_is_not_passed_on(
    ledger: Path, damage: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["requests", "show", str(ledger), "r2"]) == 0
    file, page = ledger / "evidence" / "r2" / "attempt-2.json", ledger / "evidence" / "r2" / "record.html"
    before = page.read_bytes()
    record = json.loads(file.read_bytes())
    record["verdict"]["said"] = "Forgotten, really."
    file.write_text(json.dumps(record))
    if damage == "missing":
        file.unlink()
    words = "attempt-2.json: is not the record that the ledger names" if damage == "changed" else "the record is not"
    for command in (["show", str(ledger), "r2"], ["bundle", str(ledger), "r2", str(ledger.parent / "r2.zip")]):
        capsys.readouterr()
        assert main(["requests", *command]) == 2
        told = said(capsys)
        assert words in told and "from a copy" in told and "Traceback" not in told, told
    assert page.read_bytes() == before and not list(ledger.parent.glob("*.zip*"))
    # A run says it when it has ended, and does the rest all the same.
    enter(ledger, 2)
    entered: list[Path] = []
    monkeypatch.setattr("icu_ray.requests.registering.register", lambda folder: entered.append(folder) or "")
    monkeypatch.setattr("icu_ray.requests.run_requests.run", lambda folder, **_: run(folder, forget=trial()))
    capsys.readouterr()
    assert main(["requests", "run", str(ledger)]) == 0
    told = said(capsys)
    assert "version 3; done: r3" in told and words in told and entered == [ledger]
    assert page.read_bytes() == before and (ledger / "evidence" / "r3" / "record.html").is_file()


def test_an_older_record_of_a_bundle_is_checked_too(ledger: Path, tmp_path: Path, capsys: Any) -> None:
    enter(ledger, 2)
    assert run(ledger, forget=trial(0.8)).code == 1
    assert run(ledger, again=True, forget=trial()).code == 0
    (ledger / "evidence" / "r3" / "attempt-3.json").write_text("{}")
    assert main(["requests", "show", str(ledger), "r3"]) == 0
    assert main(["requests", "bundle", str(ledger), "r3", str(tmp_path / "r3.zip")]) == 2
    assert "attempt-3.json: is not the record that the ledger names" in said(capsys)


def test_a_bundle_holds_what_the_ledger_says_of_each_record(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(ledger, 2), enter(ledger, 3)
    real = Book.append

    def dies(self: Book, kind: str, told: Any) -> Any:  # the records are told, the attempt has not ended
        if kind == "run ended":
            raise KeyboardInterrupt
        return real(self, kind, told)

    monkeypatch.setattr(Book, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        run(ledger, forget=trial())
    monkeypatch.setattr(Book, "append", real)
    assert run(ledger, forget=trial()).code == 0  # r3 and r4 together; r1 and r2 were asked again
    assert verify(ledger).troubles == () and read_state(ledger).requests["r3"].attempts == (3,)
    for request, attempt in (("r1", 1), ("r2", 2), ("r3", 3), ("r4", 3)):
        out = tmp_path / f"{request}.zip"
        assert main(["requests", "bundle", str(ledger), request, str(out)]) == 0
        with zipfile.ZipFile(out) as archive:
            record, chain, readme = (
                archive.read(name) for name in (f"attempt-{attempt}.json", "chain.jsonl", "README.txt")
            )
        told = [entry["told"] for entry in map(json.loads, chain.splitlines()) if entry.get("kind") == "evidence"]
        assert {(each["request"], each["attempt"]) for each in told} == {(request, attempt)}
        assert told[-1]["evidence"] == hashlib.sha256(record).hexdigest()
        assert b"entry 'evidence'" in readme
        others = {"r1", "r2", "r3", "r4"} - {request}
        assert not any(f'"{other}"'.encode() in chain for other in others)
