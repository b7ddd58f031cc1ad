"""Groups of lm-evaluation-harness: which tasks they mean, and their numbers, which are lm-eval's own.

Needs: nothing but this package; no Ray, no network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.evaluation.groups import Group, Mean, find_group
from icu_ray.evaluation.model_requests import Answer
from icu_ray.evaluation.suites import Options, open_tasks, with_means, with_tasks_of_groups
from icu_ray.evaluation.sweep_tasks import check_sweep_tasks, sweep_tasks
from tests.support.benchmark_case import benchmark_folder

SIZES = {"boats": 3, "ships": 5, "trains": 2}


def task_file(folder: Path, name: str, size: int, tag: str = "") -> None:
    """A task with so many questions in a file of its own; the right answer is 'yes'."""
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps({"q": f"Is {name} {n} one?"}) + "\n" for n in range(size)))
    config = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}}
    asked = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": 0,
    }
    metric = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    (folder / f"{name}.yaml").write_text(
        json.dumps({**config, "test_split": "test", **asked, **metric, **({"tag": tag} if tag else {})})
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """vehicles: a group of a group of two tasks, and of a third one by its tag."""
    for name, size in SIZES.items():
        task_file(tmp_path, name, size, tag="on_rails" if name == "trains" else "")
    water = {"group": "water", "task": ["boats", "ships"], "aggregate_metric_list": [{"metric": "acc"}]}
    (tmp_path / "water.yaml").write_text(json.dumps(water))
    even = [{"metric": "acc", "weight_by_size": False}]
    (tmp_path / "even.yaml").write_text(json.dumps({**water, "group": "even", "aggregate_metric_list": even}))
    both = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}, {"metric": "acc_norm"}]
    whole = {"group": "vehicles", "task": ["water", "on_rails"], "aggregate_metric_list": both}
    (tmp_path / "vehicles.yaml").write_text(json.dumps(whole))
    return tmp_path


def group_at(path: Path) -> Group:
    found = find_group(str(path))
    assert found is not None
    return found


def test_mmlu_and_wmdp_are_groups_whose_index_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from icu_ray.evaluation import definition, groups

    def none() -> None:
        raise AssertionError("the harness's index takes long")

    monkeypatch.setattr(definition, "harness_index", none)
    monkeypatch.setattr(groups, "harness_index", none)
    mmlu, wmdp = find_group("mmlu"), find_group("wmdp")
    assert mmlu is not None and wmdp is not None
    assert len(set(mmlu.tasks)) == 57 and mmlu.reported == (Mean("acc", None, True),)
    assert [each.name for each in mmlu.groups] == [
        "mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities",
    ]  # fmt: skip
    assert wmdp.tasks == ("wmdp_bio", "wmdp_chem", "wmdp_cyber")
    assert find_group("wmdp_bio") is None and find_group("piqa") is None
    tag = find_group("mmlu_stem_tasks")
    assert tag is not None and len(tag.tasks) == 19 and tag.reported == ()


def test_a_group_has_the_harness_s_tasks_and_numbers(folder: Path) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(folder))
    values = {"boats": (0.5, 0.25), "ships": (0.9, 0.75), "trains": (0.1, 0.5)}
    theirs: dict[str, Any] = {
        name: {"acc,none": acc, "acc_norm,none": norm, "sample_len": SIZES[name]}
        for name, (acc, norm) in values.items()
    }
    ours = {f"cls/{name}_acc": acc for name, (acc, _) in values.items()}
    ours |= {f"cls/{name}_acc_norm": norm for name, (_, norm) in values.items()}
    for name in ("vehicles", "water", "even"):
        loaded = manager.load([name])["groups"][name]
        group = group_at(folder / f"{name}.yaml")
        assert sorted(group.called) == sorted(each.task_name for each in loaded.get_all_tasks())
        found, expected = group.means(ours, SIZES), loaded.aggregate(theirs)
        assert found[f"cls/{name}_acc"] == pytest.approx(expected["acc,none"])
        assert found.get(f"cls/{name}_acc_norm") == pytest.approx(expected.get("acc_norm,none"))
    assert group_at(folder / "vehicles.yaml").means(ours, SIZES)["cls/water_acc"] == pytest.approx((1.5 + 4.5) / 8)
    # Of a group of which a task could not be evaluated nothing is said.
    assert group_at(folder / "vehicles.yaml").means(ours, {**SIZES, "trains": 0}) == {
        "cls/water_acc": pytest.approx(6 / 8)
    }


def test_metrics_by_a_filter_are_their_own() -> None:
    group = Group("g", "g", ("a", "b"), ("a", "b"), (Mean("exact_match", None, True),))
    metrics = {"gen/a_exact_match_strict": 1.0, "gen/b_exact_match_strict": 0.0, "gen/a_exact_match": 0.5}
    assert group.means(metrics, {"a": 1, "b": 3}) == {"gen/g_exact_match": 0.5, "gen/g_exact_match_strict": 0.25}
    named = Group("g", "g", ("a", "b"), ("a", "b"), (Mean("exact_match", ("strict",), False),))
    assert named.means(metrics, {"a": 1, "b": 3}) == {"gen/g_exact_match_strict": 0.5}


def test_a_group_is_evaluated_as_its_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    names, groups = with_tasks_of_groups([str(folder / "vehicles.yaml"), str(folder / "boats.yaml")])
    assert names == tuple(str(folder / f"{name}.yaml") for name in ("boats", "ships", "trains"))
    metrics: dict[str, float] = {}
    documents: dict[str, int] = {}
    for source in open_tasks(names, Options(limit=4)):
        task = source.load()
        requests = task.ask(None)  # type: ignore[arg-type]
        right = 1 if task.name == "boats" else 0
        answers = [Answer(float(number % 2 == right), 1) for number in range(len(requests))]
        metrics |= task.score(requests, answers).metrics
        documents[task.name] = task.documents
    assert documents == {"boats": 3, "ships": 4, "trains": 2}
    found = with_means(metrics, groups, documents)
    assert (found["cls/boats_acc"], found["cls/ships_acc"]) == (0, 1)
    assert found["cls/water_acc"] == pytest.approx(4 / 7) and found["cls/vehicles_acc"] == pytest.approx(6 / 9)


def test_what_is_no_group_is_refused(folder: Path) -> None:
    def refused(said: str, **keys: Any) -> None:
        (folder / "odd.yaml").write_text(json.dumps({"group": "odd", **keys}))
        with pytest.raises(UserError, match=said):
            find_group(str(folder / "odd.yaml"))

    refused(r"odd\.yaml: task 'boat' is neither in a file next to it nor a task of lm-eval \(did you", task=["boat"])
    refused(r"odd\.yaml: task: expected a list of tasks, found None")
    refused(
        "a task that is made in the group's own file, with keys task, num_fewshot",
        task=[{"task": "boats", "num_fewshot": 2}],
    )
    refused(
        "aggregation: expected mean, found 'median'",
        task="boats",
        aggregate_metric_list=[{"metric": "acc", "aggregation": "median"}],
    )


def test_wmdp_asks_its_questions_and_mmlu_s(tmp_path: Path) -> None:
    files = benchmark_folder(tmp_path / "files", "wmdp", rows=40, kept=80)
    tree = {
        "name": "t",
        "data": {"source": "wmdp", "split": "bio", "folder": str(files)},
        "models": [{"name": "a", "standin": {"size": "small"}}],
        "evaluation": {"suites": ["benchmark"], "tasks": ["wmdp"]},
    }
    config = resolve_config(tree, "t")
    names, options = sweep_tasks(config)
    assert names[0] == "wmdp_bio" and len(names) == 60 and names[-1] == "wmdp_cyber"
    assert [group.name for group in options.groups] == ["mmlu", "wmdp"]
    check_sweep_tasks(config, read=False)
    with pytest.raises(UserError, match=r"unknown task 'mmluu'"):
        check_sweep_tasks(resolve_config({**tree, "evaluation": {"tasks": ["mmluu"]}}, "t"), read=False)
