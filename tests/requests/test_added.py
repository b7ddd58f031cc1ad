"""What a ledger takes in, and how it is made: the rows, ids, columns and due days of requests; the folder itself.

Needs: nothing. The trials are written by hand (tests/support/ledgers.py); what is around them is real.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from icu_ray.cli.main import main
from icu_ray.errors import UserError
from icu_ray.requests import judging, ledger_texts
from icu_ray.requests.ledger import FILE, writing
from icu_ray.requests.ledger_settings import init
from icu_ray.requests.ledger_texts import TEXTS, add, read_state
from icu_ray.requests.run_requests import run
from icu_ray.requests.verify_ledger import verify
from tests.support.ledgers import SETTINGS, answering, made, saved, trial, write
from tests.support.ledgers import TEXTS as SENTENCES


def numbered(path: Path, texts: list[str]) -> Path:
    """Rows whose ids are whole numbers in a column that once had a gap: 1.0, 2.0."""
    if path.suffix == ".parquet":
        rows = pd.DataFrame({"id": [*range(1, len(texts) + 1), None], "text": [*texts, "gone"]})
        rows.dropna().to_parquet(path)
    else:
        path.write_text("".join(json.dumps({"id": float(n), "text": t}) + "\n" for n, t in enumerate(texts, start=1)))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_whole_numbers_as_fractions_are_ids_like_any(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "ask", answering())
    folder = made(tmp_path)
    request = add(folder, numbered(tmp_path / f"forget.{ending}", SENTENCES[:2]))
    assert [text["id"] for text in request.texts] == ["1", "2"]
    rows = [json.loads(line) for line in (folder / TEXTS / "r1.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["r1/1", "r1/2"]
    assert verify(folder).troubles == ()
    assert run(folder, forget=trial()).code == 0
    assert read_state(folder).requests["r1"].state == "done"


def test_texts_that_cannot_be_read_again_as_they_were_enter_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path)
    file = write(tmp_path / "forget.jsonl", SENTENCES[:2])
    before, kept = (folder / FILE).read_bytes(), ledger_texts._kept_rows

    def written_over(*given: Any) -> bytes:  # another program writes the file between the two readings
        write(file, SENTENCES[2:4])
        return kept(*given)

    monkeypatch.setattr(ledger_texts, "_kept_rows", written_over)
    with pytest.raises(UserError, match=r"FILE: .*forget.jsonl: .*'forget-0' of r1 was changed.*add it again"):
        add(folder, file)
    assert (folder / FILE).read_bytes() == before and not list((folder / TEXTS).glob("*"))


def test_a_column_of_paraphrases_is_kept_for_the_run(tmp_path: Path) -> None:
    saved(tmp_path / "model", 0)

    def rows(name: str, texts: list[str]) -> Path:
        cells = [(text.split(), f"w{n + 21} w{n + 22}") for n, text in enumerate(texts)]
        told = [
            {"id": f"{name}-{n}", "q": " ".join(words[:4]), "a": " ".join(words[4:]), "para": para}
            for n, (words, para) in enumerate(cells)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in told))
        return tmp_path / name

    options = {
        "retain": rows("keep.jsonl", SENTENCES[30:]),
        "heldout": rows("heldout.jsonl", SENTENCES[26:30]),
        "id_column": "id",
        "prompt_column": "q",
        "completion_column": "a",
        "audit": ["prompt"],
        "gpus": 0,
        "overrides": [*SETTINGS, "data.paraphrases_column=para"],
    }
    folder = tmp_path / "ledger"
    init(folder, str(tmp_path / "model"), options, purge_days=30.0)
    add(folder, rows("forget.jsonl", SENTENCES[:2]))

    def begun(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the trial was planned, and would be run now
        run(folder, forget=begun)
    kept = [json.loads(line)["para"] for line in (folder / "work" / "attempt-1.jsonl").read_text().splitlines()]
    assert kept == ["w21 w22", "w22 w23"]


def test_a_due_day_is_written_in_one_way(tmp_path: Path, capsys: Any) -> None:
    folder = made(tmp_path)
    for number, due in enumerate(["2020-01-03", "20200101", "2020-W01-4"]):
        file = write(tmp_path / f"forget-{number}.jsonl", SENTENCES[2 * number : 2 * number + 2])
        add(folder, file, due=due)
    state = read_state(folder)
    assert [each.due for each in state.requests.values()] == ["2020-01-03", "2020-01-01", "2020-01-02"]
    assert [each.id for each in state.in_state("waiting")] == ["r2", "r3", "r1"]
    with writing(folder) as book:  # as a ledger from before has it
        told: Any = {"request": "r4", "subject": None, "due": "20200102", "file": "f", "form": {}, "texts": []}
        book.append("added", told)
    capsys.readouterr()
    assert main(["requests", "list", str(folder)]) == 0
    assert capsys.readouterr().out.count("(OVERDUE)") == 4
    assert read_state(folder).requests["r4"].due == "2020-01-02"


def init_words(tmp_path: Path, folder: str) -> list[str]:
    saved(tmp_path / "model", 0)
    write(tmp_path / "keep.jsonl", SENTENCES[30:])
    words = ["requests", "init", folder, "--model", "../model", "--retain", "../keep.jsonl", "--id-column", "id"]
    return [*words, "--gpus", "0", *SETTINGS]


def test_a_ledger_is_not_made_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for typed in (".", str(here)):
        assert main(init_words(tmp_path, typed)) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{typed}: is the working directory; expected a folder that is new or empty" in said
    assert not list(here.iterdir()) and not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_a_ledger_is_made_where_a_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "disk" / "empty")
    (tmp_path / "here" / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "here")
    assert main(init_words(tmp_path, "link")) == 0, capsys.readouterr().err
    assert (tmp_path / "disk" / "empty" / FILE).is_file() and (tmp_path / "here" / "link").is_symlink()
    assert main(init_words(tmp_path, "loop")) == 2
    assert "loop: is there already" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "disk")) == ["empty"]


def test_a_folder_that_cannot_be_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    real = os.rename

    def busy(old: Any, new: Any, **more: Any) -> None:  # as of a folder on which a disk is mounted
        if Path(new).name == "mounted":
            raise OSError(16, "Device or resource busy")
        real(old, new, **more)

    monkeypatch.setattr(os, "rename", busy)
    assert main(init_words(tmp_path, "mounted")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "mounted: no ledger can be put there (Device or resource busy); expected a new folder" in said
    assert not list((tmp_path / "here").iterdir())
