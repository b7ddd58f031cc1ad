"""Mirrors, suites and the command line: what is wrong is refused with file, row and reason before a model is loaded.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.evaluation import definition
from icu_ray.evaluation.definition import Definition, find_definition
from icu_ray.evaluation.kinds import harness
from icu_ray.evaluation.rows.quick_world import QuickWorld, entries_of, kind_of, quick_dialogues, quick_rows
from icu_ray.evaluation.rows.write_mirror import AUTHORS_FILES, write_mirror
from icu_ray.evaluation.suites import MEANS, SUITES, Options, check_names, open_task, tasks_of, with_means
from icu_ray.evaluation.sweep_tasks import check_sweep_tasks, sweep_tasks
from icu_ray.storage.store import content_hash
from tests.support.evaluation_case import rows_of, save_model, write_csv, write_jsonl, write_mirror_rows

Rows = list[dict[str, Any]]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    write_mirror_rows(tmp_path / "mirror")
    return tmp_path / "mirror"


def load(mirror: Path, task: str) -> None:
    open_task(task, Options(mirror=mirror)).load()


def change(rows: Rows, row: int, **columns: Any) -> Rows:
    return [{**each, **columns} if n == row else each for n, each in enumerate(rows)]


def drop(rows: Rows, row: int, column: str) -> Rows:
    return [{k: v for k, v in each.items() if n != row or k != column} for n, each in enumerate(rows)]


@pytest.mark.parametrize(
    ("task", "spoil", "message"),
    [
        ("hellaswag", lambda r: change(r, 2, label="4"), r"row 3: label 4 is none of its 4 candidates"),
        ("hellaswag", lambda r: change(r, 2, label=""), r"row 3: no document of this task \(ValueError"),
        ("hellaswag_icu", lambda r: change(r, 1, label="-1"), r"row 2: label '-1' is none of its 4 candidates"),
        ("hellaswag", lambda r: change(r, 3, endings=[]), r"row 4: its list of candidates is empty"),
        ("hellaswag_icu", lambda r: change(r, 3, endings=["", "a", "b", "c"]), r"row 4: a candidate is empty"),
        ("hellaswag", lambda r: drop(r, 4, "ctx_b"), r"row 5: lacks ctx_b; expected the columns of row 1"),
        ("piqa", lambda r: change(r, 1, sol1=7), r"row 2: sol1 is a number, expected a text as in row 1"),
        ("piqa", lambda r: change(r, 1, extra=7), r"row 2: has also extra"),
        ("piqa", lambda r: change(r, 0, label=2), r"row 1: no document of this task|row 1: label 2"),
        ("winogrande", lambda r: change(r, 2, answer="3"), r"row 3: no document of this task \(KeyError: '3'\)"),
        ("winogrande_icu", lambda r: change(r, 2, sentence="no blank"), r"row 3: no document of this task"),
        ("pubmedqa", lambda r: change(r, 1, final_decision="perhaps"), r"row 2: label 'perhaps' is none of its 3"),
        ("copa", lambda r: change(r, 4, question="reason"), r"row 5: no document of this task \(KeyError: 'reason'\)"),
        ("lambada_openai", lambda r: change(r, 1, text=None), r"row 2: no document of this task"),
    ],
)
def test_wrong_rows(mirror: Path, task: str, spoil: Callable[[Rows], Rows], message: str) -> None:
    name = task.removesuffix("_icu")
    path = mirror / "lm_eval" / f"{name}.jsonl"
    write_jsonl(path, spoil(rows_of()[name]))
    with pytest.raises(UserError, match=f"{path}: {message}" if "|" not in message else message):
        load(mirror, task)


def test_a_line_that_is_no_json(mirror: Path) -> None:
    path = mirror / "lm_eval" / "piqa.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:-9], *lines[3:]]))
    with pytest.raises(UserError, match=f"{path}: row 3: no JSON"):
        load(mirror, "piqa")
    path.write_text("[1, 2]\n")
    with pytest.raises(UserError, match=f"{path}: row 1: expected a JSON object"):
        load(mirror, "piqa")
    path.write_text("")
    with pytest.raises(UserError, match=f"{path}: holds no row"):
        load(mirror, "piqa")
    path.write_bytes(b'{"goal": "\xff"}')
    with pytest.raises(UserError, match=f"{path}: byte 10 is not UTF-8"):
        load(mirror, "piqa")


def test_a_split_that_is_not_there(mirror: Path) -> None:
    (mirror / "lm_eval" / "mathqa_test.jsonl").unlink()
    with pytest.raises(UserError, match=r"reads split 'test' .* but there is only mathqa\.jsonl"):
        load(mirror, "mathqa")
    load(mirror, "mathqa_icu")  # reads the validation split, which is there
    (mirror / "lm_eval" / "piqa.jsonl").unlink()
    with pytest.raises(UserError, match="there is no file of this task"):
        load(mirror, "piqa")


def test_wrong_authors_files(mirror: Path) -> None:
    path = mirror / "validation" / "wizard_of_wikipedia.json"
    path.write_text(json.dumps({"text": {"0": ["a", "b"], "1": ["alone"]}}))
    with pytest.raises(UserError, match=f"{path}: row 1: expected a list of at least two texts"):
        load(mirror, "wow")
    path.write_text(json.dumps({"text": {"0": ["a", " "]}}))
    with pytest.raises(UserError, match=f"{path}: row 0: its last turn"):
        load(mirror, "wow")
    path.write_text("{}")
    with pytest.raises(UserError, match=f"{path}: expected"):
        load(mirror, "wow")
    path.unlink()
    with pytest.raises(UserError, match=r"no validation/wizard_of_wikipedia\.json"):
        load(mirror, "wow")
    pile = mirror / "validation" / "pile.csv"
    write_csv(pile, [{"text": "a b"}, {"text": ""}])
    with pytest.raises(UserError, match=f"{pile}: row 2: text is empty"):
        load(mirror, "pile_icu")
    write_csv(pile, [{"words": "a b"}])
    with pytest.raises(UserError, match=f"{pile}: no column text; found words"):
        load(mirror, "pile_rolling")
    pubmed = mirror / "validation" / "pubmed_qa.csv"
    write_csv(pubmed, [{"question": "q", "abstract": "a", "final_decision": "never"}])
    with pytest.raises(UserError, match=f"{pubmed}: row 1: label 'never'"):
        load(mirror, "pubmedqa_icu")


def test_unknown_names_and_groups() -> None:
    with pytest.raises(UserError, match=r"unknown suite 'lm_evl' \(did you mean 'lm_eval'\?\)"):
        tasks_of(["lm_evl"], [])
    with pytest.raises(UserError, match=r"unknown task 'helaswag' \(did you mean 'hellaswag'\?\)"):
        find_definition("helaswag", SUITES["icu"])


def test_another_task_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name of the harness's index, here a small index of a folder: with examples, it reads their split too."""
    from lm_eval import tasks

    (tmp_path / "boats.yaml").write_text(
        "task: boats\ndataset_path: none/boats\noutput_type: multiple_choice\ntraining_split: train\n"
        'test_split: test\nnum_fewshot: 2\ndoc_to_text: "{{q}}"\ndoc_to_choice: ["yes", "no"]\ndoc_to_target: a\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    index = tasks.TaskManager
    own = lambda **more: index(**{"include_defaults": False, "include_path": str(tmp_path), **more})  # noqa: E731
    monkeypatch.setattr(tasks, "TaskManager", own)
    monkeypatch.setattr(definition, "harness_index", own)
    mirror = tmp_path / "mirror"
    write_jsonl(mirror / "lm_eval" / "boats_test.jsonl", [{"q": f"Is {n} a boat?", "a": "no"} for n in range(3)])
    with pytest.raises(UserError, match="task boats reads split 'train'"):
        load(mirror, "boats")
    write_jsonl(mirror / "lm_eval" / "boats_train.jsonl", [{"q": f"Is ship {n} a boat?", "a": "yes"} for n in range(9)])
    task = open_task("boats", Options(mirror=mirror)).load()
    requests = task.ask(None)  # type: ignore[arg-type]
    assert task.documents == 3 and len(requests) == 6
    assert requests[0].context.count("a boat? yes") == 2 and requests[0].context.endswith("\n\nIs 0 a boat?")
    with pytest.raises(UserError, match="unknown task 'boat'"):
        load(mirror, "boat")


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"task piqa: baber/piqa cannot be had from the hub .* evaluation\.mirror \(--mirror\)"
    with pytest.raises(UserError, match=said):
        open_task("piqa", Options())


def test_a_file_of_rows_that_is_not_there_is_named_before_anything_is_read(tmp_path: Path) -> None:
    rows, task = tmp_path / "rows.jsonl", tmp_path / "recall.yaml"
    task.write_text(
        f"task: recall\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: a\ndoc_to_choice: [b, c]\ndoc_to_target: b\n"
    )
    with pytest.raises(UserError, match=r"task recall: .*recall\.yaml: data_files: .*rows\.jsonl: no such file"):
        check_names([str(task)], trust_task_code=False)
    rows.write_text("{}\n")
    check_names([str(task)], trust_task_code=False)


def own_task(path: Path, kwargs: dict[str, Any]) -> str:
    """A task in a file, whose rows are read by datasets' own reader of JSON."""
    config = {"task": "recall", "dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test"}
    asked = {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": ["b", "c"], "doc_to_target": 0}
    path.write_text(json.dumps(config | asked))
    return str(path)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"data_dir": "data", "data_files": {"test": "x.jsonl"}},
        {"data_dir": "~/data", "data_files": {"test": "x.jsonl"}},
        {"data_files": {"test": "data/**/deep.jsonl"}},
        {"data_files": {"test": ["data/x.jsonl", "data/a/b/deep.jsonl"]}},
        {"data_files": [{"split": "test", "path": "data/x.jsonl"}]},
        {"data_files": {"test": "~/data/x.jsonl"}},
        {"data_dir": "other", "data_files": {"test": "data/x.jsonl"}},
    ],
    ids=str,
)
def test_files_of_rows_are_looked_for_where_datasets_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    """Refused is what datasets would refuse, and nothing else."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for file in ("data/x.jsonl", "data/a/b/deep.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(tmp_path / file, [{"q": "Which?"}])
    task = own_task(tmp_path / "recall.yaml", kwargs)
    try:
        datasets.load_dataset("json", **kwargs)
    except FileNotFoundError:
        with pytest.raises(UserError, match=r"data_files: .*x\.jsonl: no such file"):
            check_names([task], trust_task_code=False)
    else:
        check_names([task], trust_task_code=False)


def test_with_a_mirror_a_tasks_own_files_need_not_be_there(tmp_path: Path) -> None:
    task = own_task(tmp_path / "recall.yaml", {"data_files": {"test": "nowhere.jsonl"}})
    tree = {
        "name": "x",
        "models": [{"name": "m", "standin": {}}],
        "data": {"source": "synthetic", "records": 16, "sample_size": 4, "heldout": 8},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
    }
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        check_sweep_tasks(resolve_config({**tree, "evaluation": {"tasks": [task]}}, "test"), read=True)
    (tmp_path / "mirror" / "lm_eval").mkdir(parents=True)
    write_jsonl(tmp_path / "mirror" / "lm_eval" / "recall_test.jsonl", [{"q": "Which?"}])
    asked = {"tasks": [task], "mirror": str(tmp_path / "mirror")}
    check_sweep_tasks(resolve_config({**tree, "evaluation": asked}, "test"), read=True)


def test_files_of_rows_that_cannot_be_read_are_not_blamed_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "x.jsonl").write_text('{"q": \n')
    task = own_task(tmp_path / "recall.yaml", {"data_files": {"test": str(tmp_path / "x.jsonl")}})
    with pytest.raises(UserError, match=r"recall\.yaml: its files of rows cannot be read as json \(.*JSON") as refused:
        open_task(task, Options())
    assert "hub" not in str(refused.value) and "mirror" not in str(refused.value)


def test_a_mirror_is_written_from_any_dataset_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Path
) -> None:
    """A local dataset in place of the hub's, by the same code; what cannot be had is named with its place."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    own = find_definition("piqa")
    source = {"validation": str(mirror / "lm_eval" / "piqa.jsonl")}
    local = Definition(
        own.name, own.path, {**own.config, "dataset_path": "json", "dataset_kwargs": {"data_files": source}}
    )
    said: list[str] = []
    out = tmp_path / "out"
    with pytest.raises(UserError) as refused:
        write_mirror(out, [local, find_definition("hellaswag")], said.append, authors=False)
    assert f"{out / 'lm_eval' / 'hellaswag_validation.jsonl'}\n    split 'validation' of Rowan/hellaswag" in str(
        refused.value
    )
    assert said == [f"{out / 'lm_eval' / 'piqa_validation.jsonl'}: 5 rows of json"]
    ours, theirs = (open_task("piqa", Options(mirror=m)).load().ask(None) for m in (out, mirror))  # type: ignore[arg-type]
    assert ours == theirs
    write_mirror(out, [local], said.append, authors=False)
    assert said[-1].endswith("there already")


def test_the_authors_files_are_those_of_the_mirror(shared: Path) -> None:
    from icu_ray.storage.store import file_hash

    for file in AUTHORS_FILES:
        path = shared / "data" / file.place
        assert (path.stat().st_size, file_hash(path)) == (file.size, file.sha256)


def test_the_real_mirror_is_read_whole(shared: Path) -> None:
    """Documents of the tasks whose files are complete (spec section 3)."""
    options = Options(mirror=shared / "data")
    counts = {"copa_icu": 100, "arc_challenge_icu": 299, "pubmedqa_icu": 500, "wow": 967, "ed": 2758, "bst": 1009}
    counts |= {"woi": 516, "pile_rolling": 1500, "wikitext_icu": 500}
    for name, documents in counts.items():
        assert open_task(name, options).load().documents == documents, name
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(shared / "data" / "gpt2_tokenizer")
    windows = open_task("pile_icu", options).load().ask(tokenizer)
    assert len(windows) == 591 and sum(len(w.tokens) for w in windows) == 302_111
    assert len(windows[-1].tokens) == 31


def test_suites_and_means() -> None:
    assert [len(SUITES[name]) for name in ("lm_eval", "icu", "quick")] == [9, 17, 4]
    assert tasks_of(["lm_eval", "quick"], ["boolq", "piqa"]) == (*SUITES["lm_eval"], *SUITES["quick"], "boolq")
    all_nine = {name: 0.1 * n for n, name in enumerate(MEANS["cls/avg"])}
    assert with_means(all_nine)["cls/avg"] == pytest.approx(0.4)
    all_nine.popitem()
    assert "cls/avg" not in with_means(all_nine)


def test_the_evaluation_section_of_a_config() -> None:
    tree = {
        "name": "x",
        "models": [{"name": "m", "standin": {}}],
        "data": {"source": "synthetic", "records": 16, "sample_size": 4, "heldout": 8, "seed": 5},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
    }
    world = QuickWorld(5, 16, 8, 64)
    assert sweep_tasks(resolve_config(tree, "test")) == ((), Options(world=world))
    asked = {"suites": ["quick"], "tasks": ["boolq"], "mirror": "mirror", "limit": 3}
    config = resolve_config({**tree, "evaluation": asked, "fidelity": "reference"}, "test")
    assert sweep_tasks(config) == ((*SUITES["quick"], "boolq"), Options(Path("mirror"), 3, "start", world))
    with pytest.raises(UserError, match=r"evaluation: quick asks about held-out records of data\.source=synthetic"):
        resolve_config({**tree, "data": {"source": "extraction"}, "evaluation": asked}, "test")
    with pytest.raises(UserError, match=r"evaluation\.suites"):
        resolve_config({**tree, "evaluation": {"suites": ["lm_evl"]}}, "test")


def test_the_quick_suite_is_made_of_held_out_records_by_seed() -> None:
    world = QuickWorld(seed=3, records=16, heldout=24, tokens=64)
    texts = world.texts()
    choices = quick_rows("choice", world)
    assert len(choices) > 12
    for row in choices:
        [text] = [t for t in texts if t.startswith(row["context"])]
        assert text[len(row["context"]) + 1 :].startswith(row["choices"][row["label"]])
        kinds = {
            kind_of(t)
            for c in row["choices"]
            for t in texts
            if c in entries_of(t) and c != row["choices"][row["label"]]
        }
        assert kind_of(text) not in kinds
    clozes = quick_rows("cloze", world)
    assert clozes and all(any(t.startswith(r["context"] + r["target"]) for t in texts) for r in clozes)
    assert [" ".join(turns) for turns in quick_dialogues(world)] == texts
    assert content_hash(quick_rows("choice", world)) == content_hash(choices)
    other = QuickWorld(seed=4, records=16, heldout=24, tokens=64)
    assert quick_rows("cloze", other) != clozes and other.key() != world.key()


@pytest.mark.slow
def test_the_command_refuses_and_evaluates(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks through the command; the second call asks no model anything."""
    model = save_model(tmp_path / "tiny")
    common = ["evaluate", "--model", str(model), "--storage", str(tmp_path / "runs")]
    assert main([*common, "--suite", "icu", "--mirror", str(tmp_path / "none")]) == 2
    assert "no such folder; write one with" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path), "--tasks", "quick_cloze", "--storage", str(tmp_path)]) == 2
    assert "no config.json in this folder" in capsys.readouterr().err
    asked = [*common, "--tasks", "piqa,copa_icu,quick_cloze", "--mirror", str(mirror), "--limit", "4", "--json"]
    assert main([*asked, "--documents", str(tmp_path / "documents.parquet")]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["model"] == "tiny" and found["errors"] == {}
    assert set(found["metrics"]) == {
        "cls/piqa_acc",
        "cls/piqa_acc_norm",
        "cls/copa_icu_acc",
        "cls/quick_cloze_acc",
    }
    assert found["documents"] == {"piqa": 4, "copa_icu": 4, "quick_cloze": 4}
    assert (tmp_path / "documents.parquet").is_file()
    monkeypatch.setattr("icu_ray.services.evaluate.connected", lambda: pytest.fail("a Ray was started"))
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out) == [found]
    assert main(asked[:-1]) == 0
    assert "cls/piqa_acc_norm" in capsys.readouterr().out


def test_naming_tasks_of_a_suite_imports_neither_torch_nor_lm_eval(mirror: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from icu_ray.evaluation.suites import *; "
        f"open_tasks(tasks_of(['lm_eval', 'icu', 'quick'], []), Options(mirror=Path({str(mirror)!r}))); "
        "print([m for m in ('torch', 'lm_eval', 'ray', 'transformers') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
    assert harness.__name__  # the module that would import them is among those loaded
