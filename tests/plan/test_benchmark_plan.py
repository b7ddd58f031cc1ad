"""Plans of configs that name a benchmark of the field: the same trials as of its files, wherever they lie.

Needs: ../shared for one of its tests.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config import RecordsData, RwkuData, TofuData
from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.rows import check_tables
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from tests.support.benchmark_case import benchmark_folder, tofu_folder, write_lines

SYSTEM = "You are a helpful assistant."


def plan(data: dict[str, Any], **more: Any) -> Plan:
    tree = {
        "name": "t",
        "models": [{"name": "m", "source": "org/any-chat-model"}],
        "data": data,
        "methods": [{"name": "icu"}, {"name": "graddiff"}],
        "pairs": {"by": "random"},
        "columns": {"length": 128, "prefix_start": 0, "suffix_start": 64},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        **more,
    }
    return plan_sweep(resolve_config(tree, "t"), dry_run=True)


def ids(made: Plan) -> list[str]:
    return sorted(trial.trial_id for trial in made.trials)


def test_trials_are_those_of_the_files_wherever_they_lie(tmp_path: Path) -> None:
    here = tofu_folder(tmp_path / "here", rows=9)
    for share in ("05", "10"):
        file = here / f"forget{share}.json"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    made = plan({"source": "tofu", "split": "forget05", "folder": str(here)})
    assert made.data is not None
    assert (made.data.samples[0].targets, made.data.samples[0].pool, made.data.heldout) == (4, 9, 0)
    assert isinstance(made.config.data, RecordsData) and made.config.data.benchmark is not None
    own = plan(
        {
            "source": "records",
            "forget": str(here / "forget05.json"),
            "pool": str(here / "retain95.json"),
            "prompt_column": "question",
            "completion_column": "answer",
            "template": "chat",
            "system": SYSTEM,
        }
    )
    assert ids(made) == ids(own)
    there = Path(shutil.copytree(here, tmp_path / "there"))
    assert ids(plan({"source": "tofu", "split": "forget05", "folder": str(there)})) == ids(made)
    # Other rows, or rows written otherwise, are other trials.
    others = [
        {"split": "forget10"},
        {"template": "question-answer"},
        {"system": "Be brief."},
        {"pool_rows": 5},
        {"heldout_rows": 2},
    ]
    for change in others:
        other = plan({"source": "tofu", "split": "forget05", "folder": str(here), **change})
        assert not set(ids(other)) & set(ids(made)), change


def test_each_fold_of_muse_is_forgotten_by_itself(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "muse", kept=20)
    known, standin = {}, [{"name": "a", "standin": {}}]
    for number, fold in enumerate((None, *(f"{kind}_{n}" for kind in ("scal", "sust") for n in range(1, 5)))):
        rows = [{"text": f"text {row} of {fold}"} for row in range(number + 1)]
        kind, _, part = (fold or "raw_").partition("_")
        file = folder / "news" / kind / (f"forget_{part}.jsonl" if part else "forget.jsonl")
        write_lines(file, rows)
        data = {"source": "muse", "split": "news", "folder": str(folder), **({"fold": fold} if fold else {})}
        made = plan(data, models=standin, **ASKED)
        assert made.data is not None and made.data.samples[0].targets == number + 1
        own = {"source": "records", "forget": str(file), "pool": str(folder / "news/raw/retain1.jsonl")}
        assert ids(made) == ids(plan(own, models=standin))
        known[fold] = tuple(ids(made))
        if fold:
            write_lines(file, [])
            with pytest.raises(UserError, match=f"{file.name}.*(empty|no rows|0 rows)"):
                plan(data, models=standin, **ASKED)
    assert len(set(known.values())) == 9


def test_a_stand_in_takes_questions_with_tags(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path, rows=12)
    data = {"source": "tofu", "split": "forget01", "folder": str(folder)}
    standin = {"models": [{"name": "a", "standin": {}}]}
    with pytest.raises(UserError, match="whose tokenizer has no chat template; use question-answer"):
        plan(data, **standin)
    assert len(plan({**data, "template": "question-answer"}, **standin).trials) == 2


def test_what_is_not_there_is_refused_in_the_plan(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path)
    (folder / "forget01.json").unlink()
    with pytest.raises(UserError, match=r"data\.folder: .*: it lacks forget01\.json.* 'icu-ray data fetch tofu --out "):
        plan({"source": "tofu", "split": "forget01", "folder": str(folder)})


ASKED: dict[str, Any] = {"evaluation": {"suites": ["benchmark"]}}


def said_of(folder: Path, split: str = "forget01", source: str = "tofu") -> tuple[str, ...]:
    made = plan({"source": source, "split": split, "folder": str(folder)}, **ASKED)
    assert made.data is not None
    return tuple(remark for remark in made.data.remarks if remark.startswith("data.folder: "))


def test_a_folder_with_all_rows_needs_no_word(tmp_path: Path) -> None:
    assert said_of(tofu_folder(tmp_path, rows=4000)) == ()


def test_a_folder_with_fewer_rows_is_told(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path, rows=100)
    assert said_of(folder) == (
        f"data.folder: {folder}: not all rows of TOFU: retain99.json 100 of 3,960, retain_perturbed.json 100 of 400, "
        "world_facts_perturbed.json 100 of 117; its numbers are of these only",
    )
    # Of a person's texts nothing tells how many there are.
    people = benchmark_folder(tmp_path / "people", "rwku")
    assert check_tables(RwkuData(source="rwku", subject="1_Person_1", folder=str(people))) == ()


def test_a_table_of_other_rows_is_refused(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path, rows=400)
    forget = folder / "forget01.json"
    kept = forget.read_bytes()
    shutil.copy(folder / "forget10.json", forget)
    with pytest.raises(UserError, match=r"data\.folder: .*/forget01\.json: found 400 rows, expected the 40 of TOFU"):
        said_of(folder)
    forget.write_bytes(kept)
    asked = folder / "forget01_perturbed.json"
    other = (folder / "retain_perturbed.json").read_text().splitlines(keepends=True)[:40]
    own = asked.read_text().splitlines(keepends=True)
    asked.write_text("".join(other))
    with pytest.raises(
        UserError,
        match=r"/forget01_perturbed\.json: none of its 40 questions is in forget01\.json, found 'question 0 of retain_",
    ):
        said_of(folder)
    asked.write_text("".join(own[:38] + other[:2]))
    assert f"data.folder: {asked}: 2 of its 40 questions are not in forget01.json" in said_of(folder)
    asked.write_text("")
    with pytest.raises(UserError, match=r"/forget01_perturbed\.json: found 0 rows, expected the 40 of TOFU"):
        said_of(folder)


def test_a_column_of_another_kind_is_refused_in_a_dry_run(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path)
    write_lines(folder / "world_facts_perturbed.json", [{"question": "q", "answer": "a", "perturbed_answer": "b"}])
    with pytest.raises(UserError, match=r"column 'perturbed_answer': expected a list of texts, found 'b'"):
        said_of(folder)


def test_the_real_rows_are_all_there(shared: Path) -> None:
    for split in ("forget01", "forget05", "forget10"):
        assert check_tables(TofuData(source="tofu", split=split, folder=str(shared / "data" / "tofu"))) == ()


def test_the_real_rows(shared: Path) -> None:
    made = plan({"source": "tofu", "split": "forget10", "folder": str(shared / "data" / "tofu"), "heldout_rows": 100})
    assert made.data is not None
    assert (made.data.samples[0].targets, made.data.samples[0].pool, made.data.heldout) == (400, 3500, 100)
    assert len(made.trials) == 2
