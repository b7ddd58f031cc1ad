"""Paraphrases of the prompts to forget: of a benchmark, of a user's own column, and what is refused in the plan.

Needs: ../shared for one of its tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.audit.jobs import AuditJob
from icu_ray.audit.registry import attack_of
from icu_ray.config import RowForm, SweepConfig
from icu_ray.config.auditing import AuditConfig
from icu_ray.config.data import QUESTION_ANSWER
from icu_ray.config.file import resolve_config
from icu_ray.data.paraphrases import paraphrases_of
from icu_ray.data.records import examples_of, read_records
from icu_ray.data.sources import load_corpus
from icu_ray.errors import UserError
from icu_ray.models.subjects import Subject
from icu_ray.plan.grid import Plan
from icu_ray.plan.own_files import records_of
from icu_ray.plan.planning import plan_sweep
from icu_ray.services.audit import audit_files
from icu_ray.sweep.trial_audit import attack_hashes, rows_asked
from tests.support.benchmark_case import small_model, tofu_folder, write_lines

TAGS = {"template": "question-answer"}
BUNDLED = {"pairs": {"encoder": "bundled"}, "filter": {"encoder": "bundled", "encoder_layer": 6}}


@pytest.fixture
def tofu(tmp_path: Path) -> Path:
    """Six questions, four of which the perturbed table has, in another order; one twice."""
    folder = tofu_folder(tmp_path / "tofu")
    asked = [json.loads(line)["question"] for line in (folder / "forget01.json").read_text().splitlines()]
    rows = [json.loads(line) for line in (folder / "forget01_perturbed.json").read_text().splitlines()]
    for row, question in zip(rows, [asked[3], asked[1], f"{asked[0]} ", asked[5], asked[1], "Who?"], strict=True):
        row["question"] = question
    write_lines(folder / "forget01_perturbed.json", rows)
    return folder


def config_of(data: dict[str, Any], attacks: tuple[str, ...] = ("prompt",), **more: Any) -> SweepConfig:
    tree: dict[str, Any] = {"name": "t", "models": [{"name": "m", "standin": {}}], "data": data, "samples": [0]}
    return resolve_config({**tree, "audit": {"attacks": list(attacks), **more}}, "t")


def asked(config: SweepConfig) -> dict[str, tuple[str, ...]]:
    return dict(rows_asked(config, load_corpus(config), config.models[0], 0).paraphrases)


def test_a_benchmarks_are_found_by_the_question(tofu: Path) -> None:
    data = {"source": "tofu", "split": "forget01", "folder": str(tofu), **TAGS}

    def said(number: int) -> str:
        return f"Question: paraphrased_question {number} of forget01_perturbed?\nAnswer:"

    expected = {"forget-4": (said(0),), "forget-2": (said(1), said(4)), "forget-1": (said(2),), "forget-6": (said(3),)}
    assert asked(config_of(data)) == expected
    # Of the rows that are attacked alone, and for no attack that does not read them.
    assert set(asked(config_of(data, rows=2))) == {"forget-1", "forget-2"}
    assert asked(config_of(data, ("sample",))) == {}
    (tofu / "forget01_perturbed.json").unlink()
    assert asked(config_of(data)) == {}


def test_in_a_chat_they_are_the_users_words(tmp_path: Path) -> None:
    path = tmp_path / "forget.jsonl"
    write_lines(path, [{"q": "Who  wrote it? ", "a": "Ada."}, {"q": "When?", "a": "In 1843."}])
    known = {"Who wrote it?": ("Whose work is it?",), "Why?": ("For what reason?",)}
    for template, expected in (
        ("chat", "Whose work is it?"),
        ("question-answer", "Question: Whose work is it?\nAnswer:"),
    ):
        tags = QUESTION_ANSWER if template == "question-answer" else ("", "")
        form = RowForm(prompt="q", completion="a", template=template, tags=tags)  # type: ignore[arg-type]
        rows = examples_of(read_records(path, form, None, "k"))
        assert paraphrases_of(rows, form, known) == {"row-1": (expected,)}


def own(folder: Path, cells: list[Any]) -> dict[str, Any]:
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}.", "other": cell} for n, cell in enumerate(cells)]
    write_lines(folder / "forget.jsonl", rows)
    write_lines(folder / "pool.jsonl", [{"question": f"Who is {n}?", "answer": f"Person {n}."} for n in range(9)])
    return {
        "source": "records",
        "forget": str(folder / "forget.jsonl"),
        "pool": str(folder / "pool.jsonl"),
        "prompt_column": "question",
        "completion_column": "answer",
        "paraphrases_column": "other",
        **TAGS,
    }


def test_a_column_has_one_or_several(tmp_path: Path) -> None:
    data = own(tmp_path, ["One?", ["Two?", "Too?"], '["Three?"]', "[4?", None, ""])
    expected = {1: ["One?"], 2: ["Two?", "Too?"], 3: ["Three?"], 4: ["[4?"]}
    written = {f"forget-{row}": tuple(f"Question: {t}\nAnswer:" for t in texts) for row, texts in expected.items()}
    assert asked(config_of(data)) == written


def plan_of(folder: Path, data: dict[str, Any], attacks: tuple[str, ...] = ("prompt",)) -> Plan:
    model = folder / "model"
    if not model.exists():
        small_model(model)
    models = [{"name": "m", "source": str(model), "gpus_per_worker": 0}]
    tree = {"name": "t", "storage": str(folder / "runs"), "models": models, "data": data, "samples": [0], **BUNDLED}
    return plan_sweep(resolve_config({**tree, "audit": {"attacks": list(attacks)}}, "t"))


def test_what_cannot_be_read_is_refused_in_the_plan(tmp_path: Path) -> None:
    data = own(tmp_path, ["One?", "Two?"])
    with pytest.raises(UserError, match=r"forget\.jsonl.*column 'others'"):
        plan_of(tmp_path, {**data, "paraphrases_column": "others"})
    for cells, said in (
        ([3, "x"], "holds int"),
        (["x", ["a", " "]], "line 2.*column 'other' holds str, expected text"),
    ):
        with pytest.raises(UserError, match=said):
            plan_of(tmp_path, own(tmp_path, cells))
    plain = {key: value for key, value in data.items() if key not in ("prompt_column", "completion_column", "template")}
    with pytest.raises(UserError, match="rows with prompts"):
        config_of(plain)


def test_they_change_no_trial_and_no_other_attack(tmp_path: Path) -> None:
    data = own(tmp_path, ["One?", "Two?"])
    bare = {key: value for key, value in data.items() if key != "paraphrases_column"}
    with_, without = (plan_of(tmp_path, each, ("prompt", "sample")) for each in (data, bare))
    assert with_.trials[0].trial_id == without.trials[0].trial_id
    first, second = (attack_hashes(plan, plan.trials[0]) for plan in (with_, without))
    assert first["sample"] == second["sample"] and first["prompt"] != second["prompt"]
    rows = [rows_asked(each.config, load_corpus(each.config), each.config.models[0], 0) for each in (with_, without)]
    keys = {
        name: [AuditJob(Subject("m", "m", "hash"), attack_of(name, with_.config.audit), each).key() for each in rows]
        for name in ("prompt", "sample")
    }
    assert keys["sample"][0] == keys["sample"][1] and keys["prompt"][0] != keys["prompt"][1]


@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_all_of_tofus_questions_have_one(shared: Path, split: str) -> None:
    data = {"source": "tofu", "split": split, "folder": str(shared / "data" / "tofu"), **TAGS}
    found = asked(config_of(data))
    assert len(found) == {"forget01": 40, "forget05": 200, "forget10": 400}[split]
    assert all(text.startswith("Question: ") and text.endswith("\nAnswer:") for each in found.values() for text in each)


def test_other_words_in_the_same_column_are_asked_again(tmp_path: Path) -> None:
    def hashes(*cells: str) -> tuple[str, dict[str, str]]:
        made = plan_of(tmp_path, own(tmp_path, list(cells)), ("prompt", "sample"))
        return made.trials[0].trial_id, attack_hashes(made, made.trials[0])

    (trial, first), (same, again), (other, changed) = hashes("One?", "Two?"), hashes("One?", "Two?"), hashes("1?", "2?")
    assert trial == same == other and first == again
    assert changed["prompt"] != first["prompt"] and changed["sample"] == first["sample"]


def test_an_audit_of_files_refuses_a_missing_column(tmp_path: Path) -> None:
    data, model = own(tmp_path, ["One?", "Two?"]), small_model(tmp_path / "model")
    attacks, storage = AuditConfig(attacks=("prompt",)), str(tmp_path / "runs")
    with pytest.raises(UserError, match=r"forget\.jsonl.*column 'others'"):
        audit_files([str(model)], Path(data["forget"]), attacks, paraphrases_column="others", storage=storage)
    # The columns of prompts are found first, as without paraphrases.
    told: dict[str, Any] = {"source": str(model)}
    found = records_of(Path(data["forget"]), {"paraphrases_column": "other"}, told, "t", lambda line: None)
    assert (found.prompt_column, found.paraphrases_column) == ("question", "other")
