"""Files of prompts and completions and of chats: how they are read, found out, and refused.

Needs: nothing.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config import SweepConfig
from icu_ray.config.file import load_config, resolve_config
from icu_ray.data import table_files
from icu_ray.data.forms import detected
from icu_ray.data.sources import check_data, load_corpus
from icu_ray.errors import UserError
from icu_ray.plan.grid import make_plan
from icu_ray.plan.own_files import as_read

CHAT = [
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A mathematician."},
    {"role": "user", "content": "Where did she live?"},
    {"role": "assistant", "content": "In London."},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
            writer.writerows(cells)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def config(forget: str, pool: str | None = None, **changes: Any) -> SweepConfig:
    data = {"source": "records", "forget": forget, "pool": pool, **changes.pop("data", {})}
    return resolve_config({"name": "t", "models": [{"name": "m", "source": "x"}], "data": data, **changes}, "test")


QA = {"prompt_column": "question", "completion_column": "answer"}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_four_formats_hold_questions_or_chats(tmp_path: Path, ending: str) -> None:
    rows = [
        {"name": "x", "question": "Who?", "answer": "Ada, of course."},
        {"name": "y", "question": "Q", "answer": "A"},
    ]
    file = write(tmp_path / f"qa.{ending}", rows)
    found, _ = load_corpus(config(file, data={**QA, "template": "question-answer", "id_column": "name"})).sample(0)
    assert found.ids == ("x", "y")
    assert found.texts == ("Question: Who?\nAnswer: Ada, of course.", "Question: Q\nAnswer: A")
    assert found.boundaries == (22, 19)
    chats = write(tmp_path / f"chats.{ending}", [{"messages": CHAT}])
    found, _ = load_corpus(config(chats, data={"messages_column": "messages", "system": "Be brief."})).sample(0)
    assert found.texts == ("Who is Ada?\nA mathematician.\nWhere did she live? In London.",)
    assert found.texts[0][found.boundaries[0] :] == " In London."  # type: ignore[index]
    assert found.chats is not None
    told = json.loads(found.chats[0])
    assert told == {"date": "2025-04-10", "messages": [{"role": "system", "content": "Be brief."}, *CHAT]}


def test_what_changes_rows_changes_trials_and_nothing_else_does(tmp_path: Path) -> None:
    def ids(rows: list[dict[str, Any]], name: str = "f.jsonl", **changes: Any) -> str:
        asked = config(write(tmp_path / name, rows), methods=[{"name": "kumpr"}], **changes)
        return make_plan(asked, check_data(asked)).trials[0].trial_id

    rows = [{"question": "Who?", "answer": "Ada."}]
    plain = ids(rows, data=QA)
    assert plain == ids([{"p": "Who?", "c": "Ada."}], data={"prompt_column": "p", "completion_column": "c"})
    assert plain == ids(rows, "other.json", data=QA)
    assert plain == ids(rows, data=QA, loss={"on": "completion"})
    told = [
        plain,
        ids([{"question": "Who? Ada.", "answer": "Yes."}], data=QA),
        ids([{"question": "Who?  ", "answer": "Ada."}], data=QA),
        ids([{"text": "Who? Ada."}]),
        ids(rows, data={**QA, "template": "question-answer"}),
        ids(rows, data={**QA, "template": "question-answer", "tags": ["Q: ", "\nA: "]}),
        ids(rows, data={**QA, "template": "chat"}),
        ids(rows, data={**QA, "template": "chat", "system": "Be brief."}),
        ids(rows, data={**QA, "template": "chat", "chat_date": "2024-01-01"}),
        ids(rows, data=QA, loss={"on": "all"}),
    ]
    assert len(set(told)) == len(told)
    # Of plain texts `loss.on` says nothing.
    assert ids([{"text": "Who? Ada."}], loss={"on": "all"}) == told[3]


def test_a_prompt_that_is_kept_with_another_answer_is_said(tmp_path: Path) -> None:
    forget = write(
        tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ada."}, {"question": "Where?", "answer": "L."}]
    )
    pool = [{"question": "Who ?", "answer": "Ada."}, {"question": " Who?", "answer": "Bob."}]
    check = check_data(config(forget, write(tmp_path / "p.jsonl", pool), data=QA))
    (remark,) = check.remarks
    assert "1 prompt of" in remark and "'forget-1' (line 1) and 'pool-2' (line 2)" in remark
    assert not check_data(config(forget, write(tmp_path / "q.jsonl", pool[:1] * 2), data=QA)).remarks


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Who?", "answer": " "}, "line 1: column 'answer' is empty"),
        ({"question": "Who?", "answer": 3}, "line 1: column 'answer' holds int, expected text"),
        ({"question": "Who?"}, "line 1: no column 'answer'"),
        ({"messages": "hello"}, "holds no JSON list of messages"),
        ({"messages": []}, "holds list, expected a list of messages"),
        ({"messages": CHAT[:1]}, "has no message of the assistant"),
        ({"messages": CHAT[:3]}, "does not end with the assistant"),
        ({"messages": CHAT[1:]}, "message 1: found role 'assistant' at the beginning, expected system or user"),
        ({"messages": [CHAT[0], *CHAT]}, "message 2: found role 'user' after 'user', expected assistant"),
        ({"messages": [*CHAT, CHAT[1]]}, "message 5: found role 'assistant' after 'assistant', expected user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1: found role 'tool'"),
        ({"messages": [{"role": "user"}]}, "message 1: expected an object with role and content"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": ""}]}, "message 2 of 'assistant' is empty"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    columns = {"messages_column": "messages"} if "messages" in row else QA
    with pytest.raises(UserError) as caught:
        check_data(config(write(tmp_path / "f.jsonl", [row]), data=columns))
    assert said in str(caught.value) and "data.forget: " in str(caught.value) and "\n" not in str(caught.value)


def test_two_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    rows = [{"id": 7, "question": "Who?", "answer": "Ada."}, {"id": 7, "question": "Who?", "answer": "Bob."}]
    with pytest.raises(UserError, match="id '7' appears twice, in line 1 and line 2"):
        check_data(config(write(tmp_path / "f.jsonl", rows), data={**QA, "id_column": "id"}))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"prompt_column": "question"}, "give both 'prompt_column' and 'completion_column'"),
        ({**QA, "messages_column": "m"}, "give either 'messages_column'"),
        ({"messages_column": "m", "template": "plain"}, "'messages_column' needs template chat, found plain"),
        ({"template": "chat"}, "'template' is for rows with"),
        ({**QA, "tags": ["", ""]}, "'tags' is for template question-answer"),
        ({**QA, "system": "x"}, "'system' is for template chat"),
        ({**QA, "template": "chat", "chat_date": "10 Apr"}, "expected a day such as 2025-04-10, found '10 Apr'"),
        ({**QA, "template": "jinja"}, "expected 'plain', 'question-answer' or 'chat'"),
    ],
)
def test_forms_that_cannot_be(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        config("f.jsonl", data=data)
    assert said in str(caught.value)


def test_what_does_not_go_with_prompts() -> None:
    with pytest.raises(
        UserError, match=r"rows\.long: model m is a stand-in, which learns only as much of a long completion"
    ):
        config("f.jsonl", data=QA, rows={"long": "windows"}, models=[{"name": "m", "standin": {}}])
    with pytest.raises(UserError, match="is a stand-in, whose tokenizer has no chat template"):
        config("f.jsonl", data={**QA, "template": "chat"}, models=[{"name": "m", "standin": {}}])


def test_a_config_file_may_say_all_of_it(tmp_path: Path) -> None:
    """`on` is true, and a day a date, to YAML; system text is longer than a file's name may be."""
    (tmp_path / "c.yaml").write_text(
        "name: t\nmodels: [{name: m, source: x}]\nloss:\n  on: all\n"
        "data: {source: records, forget: f.jsonl, messages_column: m, chat_date: 2024-01-31, system: '"
        + "x" * 5000
        + "'}"
    )
    found = load_config(tmp_path / "c.yaml")
    assert found.loss.on == "all" and found.data.chat_date == "2024-01-31"  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_usual_columns_are_found(tmp_path: Path, ending: str) -> None:
    def found(chat: bool, **row: Any) -> dict[str, Any]:
        return detected(Path(write(tmp_path / f"f.{ending}", [row])), lambda: chat, "k")

    assert found(False, question="q", answer="a", more="m") == {**QA, "template": "question-answer"}
    assert found(True, question="q", answer="a") == {**QA, "template": "chat"}
    assert found(False, prompt="q", completion="a")["template"] == "plain"
    assert found(True, messages=CHAT) == {"messages_column": "messages"}
    assert found(True, text="t", question="q", answer="a") == found(True, body="b") == {}


def test_whose_data_a_text_is_changes_no_trial(tmp_path: Path) -> None:
    def planned(rows: list[dict[str, Any]], **data: Any) -> tuple[str, Any]:
        pool = write(tmp_path / "p.jsonl", [{"text": "x"}, {"text": "y"}])
        asked = config(write(tmp_path / "f.jsonl", rows), pool, data=data)
        check = check_data(asked)
        return make_plan(asked, check).trials[0].trial_id, check.subjects

    rows = [{"text": "one", "who": 17}, {"text": "two", "who": "Ada"}]
    trial, subjects = planned(rows, subject_column="who")
    assert subjects == {"forget-1": "17", "forget-2": "Ada"}
    assert planned(rows) == (trial, {})
    with pytest.raises(UserError, match="line 2: subject column 'who' holds nothing, expected text or number"):
        planned([rows[0], {"text": "two", "who": None}], subject_column="who")


def test_a_template_in_a_file_changes_trials_of_chats_alone(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text("{}")
    file = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ada."}])

    def trial(template: str) -> str:
        asked = config(file, data={**QA, "template": template}, methods=[{"name": "kumpr"}])
        asked = asked.model_copy(update={"models": (asked.models[0].model_copy(update={"source": str(model)}),)})
        return make_plan(asked, check_data(asked)).trials[0].trial_id

    before = trial("chat"), trial("plain")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert trial("chat") != before[0] and trial("plain") == before[1]


def test_the_same_turns_under_another_system_text_are_another_row(tmp_path: Path) -> None:
    def told(system: str) -> dict[str, Any]:
        return {"messages": [{"role": "system", "content": system}, *CHAT]}

    file = write(tmp_path / "f.jsonl", [told("Be brief."), told("Be rude.")])
    kept = write(tmp_path / "p.jsonl", [told("Be kind."), told("Be good.")])
    assert check_data(config(file, kept, data={"messages_column": "messages"})).samples[0].targets == 2
    twice = write(tmp_path / "g.jsonl", [told("Be brief."), told(" Be  brief.")])
    with pytest.raises(UserError, match="the same text appears twice"):
        check_data(config(twice, data={"messages_column": "messages"}))
    again = write(tmp_path / "q.jsonl", [told("Be kind."), told("Be rude.")])
    with pytest.raises(UserError, match="1 rows to forget"):
        check_data(config(file, again, data={"messages_column": "messages"}))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_that_a_missing_one_made_fractions_are_ids_and_subjects(tmp_path: Path, ending: str) -> None:
    rows = [{"id": float(n), "who": who, "question": "Who?", "answer": f"{n}"} for n, who in enumerate((17.0, 9.0))]
    named = {"id_column": "id", "subject_column": "who"}
    check = check_data(config(write(tmp_path / f"f.{ending}", rows), data={**QA, **named}))
    assert check.subjects == {"0": "17", "1": "9"}
    rows[0]["id"] = 1.5
    with pytest.raises(UserError, match="id column 'id' holds float, expected text or number"):
        check_data(config(write(tmp_path / f"g.{ending}", rows), data={**QA, **named}))


def test_the_texts_of_a_chat_are_as_long_as_a_text_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "LONGEST", 100)
    chat = [CHAT[0], {"role": "assistant", "content": "x" * 101}]
    for ending in ("jsonl", "parquet"):
        file = write(tmp_path / f"f.{ending}", [{"messages": chat}])
        with pytest.raises(UserError, match="column 'messages' holds 101 characters, expected at most 100"):
            check_data(config(file, data={"messages_column": "messages"}))
    monkeypatch.setattr(table_files, "UNPACKED_BYTES", 1000)
    monkeypatch.setattr(table_files, "UNPACKED_TIMES", 1)
    file = write(tmp_path / "many.parquet", [{"messages": [CHAT[0], {**CHAT[1], "content": "x" * 90}]}] * 1000)
    with pytest.raises(UserError, match="one text many times"):
        check_data(config(file, data={"messages_column": "messages"}))


def test_tags_and_system_texts_say_which_template_is_meant(tmp_path: Path) -> None:
    """A model with a chat template makes no chat of what was given tags; without one, system text asks for it."""
    file, told = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ada."}]), {"source": "records"}
    data = {**told, "forget": file}
    for said, template in (({"tags": ["Q: ", " A: "]}, "question-answer"), ({"system": "Be brief."}, "chat")):
        found = as_read({**data, **said}, {}, "test", lambda line: None)
        assert found["template"] == template and found["prompt_column"] == "question"
    with pytest.raises(UserError, match="'tags' is for template question-answer"):
        as_read({**data, "tags": ["Q: ", " A: "], "template": "chat"}, {}, "test", lambda line: None)
