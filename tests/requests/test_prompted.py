"""A deletion request for questions with answers or for chats: found by their columns, checked before anything starts.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.data import tokens
from icu_ray.data.examples import Examples
from icu_ray.requests.subjects import by_subject, subjects_json
from icu_ray.requests.unlearn import unlearn_config
from icu_ray.storage.verdict import TextVerdict
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

TEMPLATE = "{% for m in messages %}w60 {{ m.content }} w1 {% endfor %}{% if add_generation_prompt %}w60 {% endif %}"


def model(folder: Path, template: str | None = None) -> str:
    """It reads 32 tokens; its words are w2, w3, ..., and w1 is its end of text."""
    tiny_model("gpt_neo").save_pretrained(folder)
    made = tokenizer()
    made.chat_template = template
    made.save_pretrained(folder)
    return str(folder)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def words(*numbers: int) -> str:
    return " ".join(f"w{20 + n}" for n in numbers)


ROWS = [{"question": words(2, 3), "answer": words(*range(4, 12))}, {"question": words(12), "answer": words(13, 14)}]
KEPT = [{"question": words(*range(20, 30)), "answer": words(n)} for n in range(31, 35)]


def test_rows_are_as_long_as_prompts_and_completions_ask_for(tmp_path: Path) -> None:
    files: dict[str, Any] = {"forget": write(tmp_path / "f.jsonl", ROWS), "retain": write(tmp_path / "k.jsonl", KEPT)}
    told: list[str] = []

    def config(place: str, chats: str | None = None, **more: Any) -> Any:
        source = model(tmp_path / place, chats)
        return unlearn_config(
            source, **files, out=str(tmp_path / "out"), overrides=["el.ngram=2"], say=told.append, **more
        )

    found = config("plain")
    assert found.data.form.template == "question-answer" and not found.data.heldout_rows
    assert told == [
        f"{files['forget']}: 'question' is given and 'answer' follows, written 'Question: ...\\nAnswer: ...'"
    ]
    found = config("plain", prompt_column="question", completion_column="answer")
    assert len(told) == 1 and found.data.form.template == "plain"
    # The longest text to forget has 2 + 8 tokens and its end; but a kept prompt of 10 needs two more behind it.
    assert found.columns.length == 12
    found = config("chatty", TEMPLATE)
    assert found.data.form.template == "chat" and "by the model's chat template" in told[1]
    assert found.columns.length == max(2 + 2 + 1 + 8 + 1, 10 + 3 + 2)
    found = config("chatty", TEMPLATE, template="plain")
    assert found.data.form.template == "plain" and "one after the other" in told[2]


def test_what_no_hub_can_give_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = ["--forget", write(tmp_path / "f.jsonl", ROWS), "--retain", write(tmp_path / "k.jsonl", KEPT)]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "el.ngram=2"]
    bundled = ["filter.encoder=bundled", "filter.encoder_layer=1"]

    def refused(*more: str) -> str:
        assert main([*asked, *more]) == 2 and not (tmp_path / "out").exists()
        return " ".join(capsys.readouterr().err.split())

    # The pairs' encoder is the installed one; BERTScore's is one of the hub.
    said = refused()
    assert (
        "filter.encoder: google-bert/bert-base-uncased: neither a folder here nor in the local cache, and the hub"
        in said
    )
    assert "Without a network set filter.encoder=bundled filter.encoder_layer=6, the copy of" in said
    assert "pairs.encoder: some/encoder: neither a folder" in refused(*bundled, "pairs.encoder=some/encoder")
    # A dry run, which may be of another machine, says it and goes on.
    assert main([*asked, "--dry-run"]) == 0
    assert "on this machine a run would be refused: filter.encoder:" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, *bundled, "--dry-run"]) == 0
    assert "would be refused" not in capsys.readouterr().out
    # A model that is called almost like a folder here.
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "my-model")
    asked[2] = "my-modl"
    assert "model my-modl: neither a folder here (did you mean 'my-model'?) nor" in refused("--length", "32", *bundled)


@pytest.mark.slow
def test_an_answer_that_the_model_cannot_read_at_once_is_forgotten_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"question": words(2), "answer": words(*range(3, 43))}]
    files = ["--forget", write(tmp_path / "f.jsonl", rows), "--retain", write(tmp_path / "k.jsonl", KEPT)]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "--template", "plain"]
    asked += ["el.ngram=2", "filter.encoder=bundled", "filter.encoder_layer=1", "stop.max_epochs=1"]
    assert main(asked) in (0, 1), capfd.readouterr()
    said = capfd.readouterr().out
    assert "forgotten whole, in overlapping windows, each text judged as one" in " ".join(said.split())
    texts = json.loads((tmp_path / "out" / "record.json").read_text())["texts"]
    assert (texts["row_tokens"], texts["in_windows"], texts["cut"]) == (32, 1, 0)
    assert [each["windows"] for each in texts["each"]] == [1, 1, 2]
    assert all(each["ma_after"] is not None for each in texts["each"])


def test_the_plan_says_what_was_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [*KEPT, {"question": ROWS[0]["question"], "answer": words(40)}]
    files = ["--forget", write(tmp_path / "f.jsonl", ROWS), "--retain", write(tmp_path / "k.jsonl", kept)]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "el.ngram=2"]
    assert (
        main([*asked, "--dry-run", "--json", "--template", "plain", "filter.encoder=bundled", "filter.encoder_layer=1"])
        == 0
    )
    said = capsys.readouterr()
    assert "'question' is given and 'answer' follows, one after the other" in said.err
    (remark,) = json.loads(said.out)["remarks"]
    assert "1 prompt of" in remark and "'forget-1' (line 1) and 'pool-5' (line 5)" in remark


def test_of_a_large_pool_the_longest_prompts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    whole = tokens.row_lengths

    def watched(examples: Examples, tokenizer: Any) -> Any:
        counted.append(len(examples))
        return whole(examples, tokenizer)

    monkeypatch.setattr(tokens, "row_lengths", watched)
    monkeypatch.setattr("icu_ray.plan.text_lengths.COUNTED", 2)
    kept = [{"question": words(*range(20, 20 + n)), "answer": words(40)} for n in (3, 9, 1, 6, 2)]
    files = ["--forget", write(tmp_path / "f.jsonl", ROWS), "--retain", write(tmp_path / "k.jsonl", kept)]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "el.ngram=2"]
    options = ["--template", "plain", "filter.encoder=bundled", "filter.encoder_layer=1", "--dry-run", "--json"]
    assert main([*asked, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    (remark,) = said["remarks"]
    assert "k.jsonl: the 2 rows with the longest prompts were counted in tokens of m, and fit" in remark
    # For the length of the rows: both files; for the plan: the two targets and two of the pool, and the targets.
    assert counted == [2, 2, 4, 2]
    # The longest prompt of all has 9 tokens and needs two more behind it: the rows are as long as without the bound.
    monkeypatch.setattr("icu_ray.plan.text_lengths.COUNTED", 10_000)
    assert main([*asked, *options]) == 0
    assert [trial["trial_id"] for trial in json.loads(capsys.readouterr().out)["trials"]] == [
        trial["trial_id"] for trial in said["trials"]
    ]


LONG = words(*range(2, 17))


def test_answers_too_short_for_el_are_counted_beforehand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["unlearn", "--model", model(tmp_path / "m"), "--out", str(tmp_path / "out"), "--template", "plain"]
    options = ["--dry-run", "--json", "el.ngram=5", "filter.encoder=bundled", "filter.encoder_layer=1"]
    assert main([*asked, "--forget", write(tmp_path / "f.jsonl", ROWS), *options]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["remarks"]
    assert "1 of 2 completions with fewer than 5 tokens" in remark and "forget-2 (3)" in remark, remark
    file = write(tmp_path / "g.jsonl", ROWS[1:])
    assert main([*asked, "--forget", file, *options]) == 2
    error = capsys.readouterr().err
    assert "el.ngram=5" in error and "1 of 1 completions" in error and "expected at most el.ngram=3" in error, error
    assert main([*asked, "--forget", file, *options, "stop.rule=or"]) == 0  # MA alone can tell


def test_an_earlier_prompt_that_fills_a_row_is_refused_beforehand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write(tmp_path / "earlier.jsonl", [ROWS[0], {"question": f"{LONG} {LONG} {LONG}", "answer": "w2"}])
    files = ["--forget", write(tmp_path / "f.jsonl", ROWS), "--also-check", earlier, "--template", "plain"]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "el.ngram=2"]
    assert main([*asked, "filter.encoder=bundled", "filter.encoder_layer=1", "--quiet"]) == 2
    assert f"--also-check: {earlier}: line 2: its prompt alone has 45 tokens and fills a row of 32" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"question": "w2", "answer": ""}], [], "--forget: {file}: line 1: column 'answer' is empty"),
        (
            [{"question": LONG, "answer": "w2"}],
            ["--length", "12"],
            "'forget-1': its prompt alone has 15 tokens and fills",
        ),
        (
            [{"question": "w2", "answer": LONG}],
            ["--length", "12"],
            "1 of 1 texts is longer than 12 tokens: forget-1 (17)",
        ),
        (
            [{"question": LONG, "answer": f"{LONG} {LONG}"}],
            ["rows.long=refuse"],
            "rows of this model have at most 32",
        ),
        ([{"question": "w2", "answer": "w3"}], ["--template", "chat"], "--template: chat: the tokenizer of"),
        ([{"messages": [{"role": "user", "content": "w2"}]}], [], "has no message of the assistant"),
        ([{"messages": [{"role": "assistant", "content": "w2"}]}], [], "found role 'assistant' at the beginning"),
        (
            [{"messages": [{"role": "user", "content": "w2"}, {"role": "assistant", "content": "w3"}]}],
            [],
            "no chat template",
        ),
        (
            [{"id": 1, "prompt": "w2", "completion": f"w{n}"} for n in (3, 4)],
            ["--id-column", "id"],
            "id '1' appears twice",
        ),
        ([{"question": "w2", "answer": "w3"}], ["--prompt-column", "question"], "give both 'prompt_column' and"),
    ],
)
def test_requests_that_cannot_be(
    tmp_path: Path, rows: list[dict[str, Any]], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "f.jsonl", rows)
    asked = ["unlearn", "--model", model(tmp_path / "m"), "--forget", file, "--out", str(tmp_path / "out")]
    plain = [] if "--template" in options or "--prompt-column" in options else ["--template", "plain"]
    plain = plain if "question" in rows[0] else []
    capsys.readouterr()  # what saving the model said
    code = main([*asked, *options, *plain, "el.ngram=2", "filter.encoder=bundled", "filter.encoder_layer=1", "--quiet"])
    error = capsys.readouterr().err.strip()
    assert code == 2 and said.format(file=file) in error, error
    assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_kept_prompt_that_fills_a_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [*KEPT, {"question": LONG, "answer": "w2"}]
    files = ["--forget", write(tmp_path / "f.jsonl", ROWS), "--retain", write(tmp_path / "k.jsonl", kept)]
    asked = ["unlearn", "--model", model(tmp_path / "m"), *files, "--out", str(tmp_path / "out"), "--template", "plain"]
    assert (
        main(
            [
                *asked,
                "--length",
                "12",
                "el.ngram=2",
                "pairs.encoder=bundled",
                "filter.encoder=bundled",
                "filter.encoder_layer=1",
            ]
        )
        == 2
    )
    assert "'pool-5': its prompt alone has 15 tokens and fills a row of 12" in capsys.readouterr().err


def test_the_answer_by_subject() -> None:
    states = {"a": "forgotten", "b": "left", "c": "forgotten", "d": "not_measured", "e": "forgotten", "f": "left"}
    texts = [TextVerdict(name, state, 0.5, 0.0) for name, state in states.items()]  # type: ignore[arg-type]
    found = by_subject(texts, {"a": "17", "b": "9", "c": "17", "d": "9", "e": "Ada", "f": "9", "g": "17"})
    assert [each.said for each in found] == [
        "0 of 3 texts of subject 9 are forgotten, 1 could not be measured",
        "all 2 texts of subject 17 are forgotten",
        "the text of subject Ada is forgotten",
    ]
    assert subjects_json(found)[0] == {
        "subject": "9",
        "texts": 3,
        "forgotten": 0,
        "not_measured": 1,
        "all_forgotten": False,
    }
