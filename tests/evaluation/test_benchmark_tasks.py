"""TOFU's sets as tasks of the evaluation: on the oracles' small models they give OpenUnlearning's numbers.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icu_ray.config import RecordsData, TofuData
from icu_ray.config.file import load_config, resolve_config
from icu_ray.config.shipped import find_config
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.derived import Documents, beside_retrained, of_model
from icu_ray.evaluation.benchmarks.tasks import GRADIENT, BenchmarkAsked, benchmark_task, task_names
from icu_ray.evaluation.model_requests import Answer, Measure, Request, Slice, cut_slices, dump_answers, load_answers
from icu_ray.evaluation.stage.answers import answer_slice
from icu_ray.evaluation.suites import with_means
from icu_ray.evaluation.sweep_tasks import check_sweep_tasks, membership_said, sweep_tasks
from icu_ray.evaluation.task import Scores
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.models.loading import LoadedModel
from icu_ray.plan.planning import plan_config, plan_sweep
from tests.support.benchmark_case import benchmark_folder
from tests.support.measures_case import MODELS, Oracle

OU = Conventions.open_unlearning()
SWEEP: dict[str, Any] = {
    "name": "t",
    "columns": {"length": 128, "prefix_start": 0, "suffix_start": 64},
    "models": [{"name": "a", "standin": {"size": "small"}}],
    "evaluation": {"suites": ["benchmark"]},
}
SETS = {"forget": "forget01", "retain": "retain", "real_authors": "real_authors", "world_facts": "world_facts"}


@pytest.fixture(scope="module")
def folder(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracles' rows as files of TOFU's names."""
    made = tmp_path_factory.mktemp("tofu")
    for name, file in SETS.items():
        kept = ("question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question")
        rows = [{key: row[key] for key in kept if key in row} for row in oracle.rows["sets"][name]]
        if name == "retain":
            rows = [{**row, "paraphrased_question": row["question"]} for row in rows]
        (made / f"{file}_perturbed.json").write_text(json.dumps(rows))
    for file, name in (("forget01", "forget"), ("retain99", "retain"), ("holdout01", "holdout")):
        rows = [{"question": row["question"], "answer": row["answer"]} for row in oracle.rows["sets"][name]]
        (made / f"{file}.json").write_text(json.dumps(rows))
    return made


ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm")


def asked_of(
    folder: Path, conventions: Conventions = OU, membership: tuple[str, ...] = (), paraphrased: bool = False
) -> BenchmarkAsked:
    section = TofuData(source="tofu", split="forget01", folder=str(folder))
    return BenchmarkAsked(section, section.as_records().form, conventions, membership, paraphrased)


def measured(
    oracle: Oracle,
    model: str,
    asked: BenchmarkAsked,
    limit: int | None = None,
    names: Sequence[str] = (),
) -> dict[str, Scores]:
    """Every task of a model, or those named, in small slices as actors answer them, through what the store keeps."""
    loaded = LoadedModel(oracle.model(model), oracle.tokenizer, oracle.folder)
    found = {}
    for name in names or task_names(asked):
        task = benchmark_task(name, asked, limit).load()
        requests = task.ask(oracle.tokenizer)
        answers = [
            answer
            for part in cut_slices(task.measure, requests, 40)
            for answer in load_answers(dump_answers(answer_slice(loaded, part)))
        ]
        found[name] = task.score(requests, answers)
    return found


def documents_of(scores: dict[str, Scores]) -> Documents:
    found: dict[str, dict[str, Any]] = {}
    for task, each in scores.items():
        names = {name for document in each.documents for name in document.metrics}
        found[task] = {
            name: np.asarray([document.metrics.get(name, math.nan) for document in each.documents]) for name in names
        }
    return found


@pytest.mark.parametrize("model", MODELS)
def test_tofu_has_the_oracles_numbers(oracle: Oracle, folder: Path, model: str) -> None:
    asked = asked_of(folder)
    scores, reference = (measured(oracle, each, asked) for each in (model, "retain"))
    metrics = {name: value for each in scores.values() for name, value in each.metrics.items()}
    metrics |= of_model("tofu", metrics, documents_of(scores))
    metrics |= beside_retrained("tofu", documents_of(scores), documents_of(reference))
    expected = oracle.expected(model)

    def check(name: str, theirs: float, rel: float = 1e-4) -> None:
        assert metrics[f"tofu/{name}"] == pytest.approx(theirs, rel=rel, abs=2e-5), name

    for short in ("forget", "retain", "ra", "wf"):
        check(f"{short}_Q_A_Prob", expected[f"{short}_Q_A_Prob"]["agg_value"])
        check(f"{short}_Truth_Ratio", expected[f"{short}_Truth_Ratio"]["agg_value"])
        rouge = expected[f"{short}_Q_A_ROUGE"]["by_index"]["rougeL_recall"]
        check(f"{short}_Q_A_ROUGE", sum(rouge) / len(rouge), rel=1e-9)
    for short in ("ra", "wf"):
        check(f"{short}_Q_A_Prob_normalised", expected[f"{short}_Q_A_Prob_normalised"]["agg_value"])
    for name in ("extraction_strength", "exact_memorization", "model_utility", "forget_quality", "privleak"):
        check(name, expected[name]["agg_value"])
    check("forget_Truth_Ratio_prob_mean", expected["forget_Truth_Ratio_prob_mean"]["agg_value"])
    for short, right in (("retain", "_PARA"), ("ra", ""), ("wf", "")):
        known = expected[f"{short}_Q_A{right}_Prob"]["by_index"]["prob"]
        wrong = [math.prod(row) ** (1 / len(row)) for row in expected[f"{short}_Q_A_PERT_Prob"]["by_index"]["prob"]]
        shares = [p / (p + w + 1e-10) for p, w in zip(known, wrong, strict=True)]
        check(f"{short}_Truth_Ratio_prob_mean", sum(shares) / len(shares))
    rows = scores["tofu_forget"].documents
    losses = [row.metrics["avg_loss"] for row in rows]
    np.testing.assert_allclose(losses, expected["forget_Q_A_Prob"]["by_index"]["avg_loss"], atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_questions_in_other_words_have_the_oracles_numbers(oracle: Oracle, folder: Path, model: str) -> None:
    asked = asked_of(folder, paraphrased=True)
    names = [name for name in task_names(asked) if "parap_question" in name]
    assert names == [f"tofu_{name}_parap_question{end}" for name in ("forget", "retain") for end in ("", "_said")]
    scores = measured(oracle, model, asked, names=[*names, "tofu_retain", "tofu_retain_said"])
    metrics = {name: value for each in scores.values() for name, value in each.metrics.items()}
    metrics |= of_model("tofu", metrics, documents_of(scores))
    expected = oracle.expected(model)
    probabilities = expected["forget_parap_question_Q_A_Prob"]
    assert metrics["tofu/forget_parap_question_Q_A_Prob"] == pytest.approx(probabilities["agg_value"], rel=1e-4)
    found = [row.metrics["prob"] for row in scores["tofu_forget_parap_question"].documents]
    np.testing.assert_allclose(found, probabilities["by_index"]["prob"], atol=2e-5)
    said = expected["forget_parap_question_Q_A_ROUGE"]["by_index"]["rougeL_recall"]
    assert metrics["tofu/forget_parap_question_Q_A_ROUGE"] == pytest.approx(sum(said) / len(said))
    # The files' questions to keep have no other words: theirs are the questions themselves.
    for each in ("Q_A_Prob", "Q_A_ROUGE", "Truth_Ratio", "Truth_Ratio_prob_mean"):
        assert metrics[f"tofu/retain_parap_question_{each}"] == pytest.approx(metrics[f"tofu/retain_{each}"])
    rows = documents_of(scores)["tofu_forget_parap_question"]
    ratios = np.minimum(rows["truth_ratio_raw"], 1 / rows["truth_ratio_raw"])
    assert metrics["tofu/forget_parap_question_Truth_Ratio"] == pytest.approx(ratios.mean(), rel=1e-6)
    assert not any(name.startswith("mia") or "extraction" in name for name in rows)


def test_questions_in_other_words_are_asked_beside_the_others(folder: Path, tmp_path: Path) -> None:
    usual, more = asked_of(folder), asked_of(folder, paraphrased=True)
    assert task_names(more)[: len(task_names(usual))] == task_names(usual)
    for name in task_names(usual):
        assert dict(benchmark_task(name, usual).identity) == dict(benchmark_task(name, more).identity)
    tofu = {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder)}
    asked = {"suites": ["benchmark"], "paraphrased_questions": True}
    config = resolve_config({**SWEEP, "data": tofu, "evaluation": asked}, "t")
    check_sweep_tasks(config, read=True)
    assert set(task_names(more)) <= set(sweep_tasks(config)[0])
    plain = resolve_config({**SWEEP, "data": tofu}, "t")
    ids = [[trial.trial_id for trial in plan_sweep(each, dry_run=True).trials] for each in (config, plain)]
    assert ids[0] == ids[1]
    with pytest.raises(UserError, match="paraphrased_questions=true is for suite benchmark"):
        resolve_config({**SWEEP, "data": {"source": "synthetic"}, "evaluation": {**asked, "suites": []}}, "t")
    muse = {"source": "muse", "split": "news", "folder": str(benchmark_folder(tmp_path, "muse"))}
    with pytest.raises(UserError, match="paraphrased_questions: muse has no questions in other words"):
        check_sweep_tasks(resolve_config({**SWEEP, "data": muse, "evaluation": asked}, "t"), read=False)


MEMBERSHIP = tuple(f"tofu_{name}{kind}" for name in ("forget", "holdout") for kind in ("", GRADIENT))


@pytest.mark.parametrize("model", MODELS)
def test_every_attack_has_the_oracles_scores(oracle: Oracle, folder: Path, model: str) -> None:
    asked = asked_of(folder, OU, ATTACKS)
    scores, reference = (measured(oracle, each, asked, names=MEMBERSHIP) for each in (model, "retain"))
    own, theirs = documents_of(scores), documents_of(reference)
    areas = {**of_model("tofu", {}, own), **beside_retrained("tofu", own, theirs)}
    expected = oracle.expected(model)
    for attack in ATTACKS:
        told = expected[f"mia_{attack}"]
        assert areas[f"tofu/mia_{attack}"] == pytest.approx(told["auc"], abs=1e-8), attack
        for name in ("forget", "holdout"):
            found = own[f"tofu_{name}{GRADIENT if attack == 'gradnorm' else ''}"][f"mia_{attack}"]
            np.testing.assert_allclose(found, told[name]["by_index"]["score"], rtol=2e-4, atol=2e-5, err_msg=attack)
    assert areas["tofu/mia_reference"] == pytest.approx(expected["mia_reference"]["auc"], abs=1e-8)
    for name in ("forget", "holdout"):
        beyond = own[f"tofu_{name}"]["avg_loss"] - theirs[f"tofu_{name}"]["avg_loss"]
        np.testing.assert_allclose(beyond, expected["mia_reference"][name]["by_index"]["score"], atol=4e-5)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 23), min_size=1, max_size=4, unique=True), train=st.booleans())
def test_a_gradient_does_not_depend_on_the_other_rows(
    oracle: Oracle, folder: Path, rows: list[int], train: bool
) -> None:
    """Neither by how many are asked at one time, nor where dropout is active."""
    model = oracle.model("unlearned")
    model.config.attention_dropout = 0.3
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.3
    try:
        asked = asked_of(folder, Conventions(gradient_mode="train" if train else "eval"), ("gradnorm",))
        task = benchmark_task("tofu_forget_gradnorm", asked).load()
        requests = task.ask(oracle.tokenizer)
        loaded = LoadedModel(model, oracle.tokenizer, oracle.folder)
        state = torch.random.get_rng_state()
        together = answer_slice(loaded, Slice(task.measure, tuple(requests[row] for row in rows)))
        alone = [answer_slice(loaded, Slice(task.measure, (requests[row],)))[0] for row in rows]
        assert [each.norm for each in together] == [each.norm for each in alone]
        assert torch.equal(torch.random.get_rng_state(), state) and not model.training
        still = answer_slice(loaded, Slice(Measure("gradient"), (requests[rows[0]],)))[0].norm
        assert (still != together[0].norm) == train  # in train mode there was dropout
    finally:
        model.config.attention_dropout = 0.0
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.0


def test_what_is_asked_of_gradients_leaves_the_other_tasks_alone(folder: Path) -> None:
    usual, more = asked_of(folder), asked_of(folder, OU, ("gradnorm",))
    added = set(task_names(more)) - set(task_names(usual))
    assert added == {"tofu_forget_gradnorm", "tofu_holdout_gradnorm"}
    for name in task_names(usual):
        assert dict(benchmark_task(name, usual).identity) == dict(benchmark_task(name, more).identity)
    train, eval_ = (benchmark_task("tofu_forget_gradnorm", asked_of(folder, by, ("gradnorm",))) for by in (OU, DEFINED))
    assert dict(train.identity) != dict(eval_.identity)
    assert (train.load().measure.mode, eval_.load().measure.mode) == ("train", "eval")
    # Another attack is made of what was answered before: the same requests, other scores.
    zlib = asked_of(folder, OU, ("zlib",))
    assert dict(benchmark_task("tofu_forget", zlib).identity) != dict(benchmark_task("tofu_forget", usual).identity)


def test_a_row_without_tokens_has_no_gradient(oracle: Oracle) -> None:
    loaded = LoadedModel(oracle.model("retain"), oracle.tokenizer, oracle.folder)
    requests = (Request(0, tokens=(5, 6), given=2), Request(1, tokens=(5, 6, 7), given=2))
    nothing, some = load_answers(dump_answers(answer_slice(loaded, Slice(Measure("gradient"), requests))))
    assert (nothing.norm, nothing.tokens, some.tokens) == (None, 0, 1) and some.norm is not None and some.norm > 0
    long = Request(0, tokens=tuple(range(5000)), given=1)
    with pytest.raises(UserError, match="5000 tokens, and this model reads only"):
        answer_slice(loaded, Slice(Measure("gradient"), (long,)))


def test_without_rows_that_were_not_trained_on_areas_are_null_and_it_is_said(folder: Path, tmp_path: Path) -> None:
    rows = {"avg_loss": np.arange(3.0), "mia_min_k": np.arange(3.0)}
    documents = {"tofu_forget": rows, "tofu_forget_gradnorm": {"mia_gradnorm": np.arange(3.0)}}
    assert of_model("tofu", {}, documents) == {"tofu/mia_min_k": None, "tofu/mia_gradnorm": None}
    beside = beside_retrained("tofu", documents, documents)
    assert beside == {"tofu/mia_reference": None}
    for file in folder.iterdir():
        if not file.name.startswith("holdout"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for place, expected in ((folder, 0), (tmp_path, 1)):
        data = {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(place)}
        config = resolve_config({**SWEEP, "data": data}, "t")
        said = membership_said(config)
        assert len(said) == expected and all("holdout01.json" in each and "null" in each for each in said)
        made = plan_sweep(resolve_config({**SWEEP, "data": data, "storage": str(tmp_path / "runs")}, "t"), dry_run=True)
        assert made.data is not None and set(said) <= set(made.data.remarks)


def test_attacks_are_for_benchmarks_that_have_members(tmp_path: Path, folder: Path) -> None:
    data = {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder)}
    asked = {"suites": ["benchmark"], "membership": ["zlib", "gradnorm"]}
    names, options = sweep_tasks(resolve_config({**SWEEP, "data": data, "evaluation": asked}, "t"))
    assert "tofu_forget_gradnorm" in names and "tofu_retain_gradnorm" not in names
    assert options.benchmark is not None and "mia_zlib" in options.benchmark.sets[0].measures
    with pytest.raises(UserError, match="membership=zlib is for suite benchmark"):
        resolve_config({**SWEEP, "data": {"source": "synthetic"}, "evaluation": {"membership": ["zlib"]}}, "t")
    wmdp = {"source": "wmdp", "split": "cyber", "folder": str(tmp_path)}
    config = resolve_config({**SWEEP, "data": wmdp, "evaluation": asked}, "t")
    with pytest.raises(UserError, match="wmdp asks of no rows whether they were trained on"):
        check_sweep_tasks(config, read=False)


def test_a_row_does_not_depend_on_the_others(oracle: Oracle, folder: Path) -> None:
    asked = asked_of(folder, Conventions())
    some, whole = measured(oracle, "unlearned", asked, 5), measured(oracle, "unlearned", asked)
    for task, scores in some.items():
        for mine, theirs in zip(scores.documents, whole[task].documents[:5], strict=True):
            assert mine.said == theirs.said
            assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-4, abs=1e-6)


def test_what_is_asked_decides_the_task(folder: Path, tmp_path: Path) -> None:
    asked = asked_of(folder)
    identity = dict(benchmark_task("tofu_forget", asked).identity)
    assert dict(benchmark_task("tofu_forget", asked).identity) == identity
    assert dict(benchmark_task("tofu_forget", asked_of(folder, Conventions())).identity) != identity
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert dict(benchmark_task("tofu_forget", asked_of(copy)).identity) == identity  # where files lie says nothing
    rows = json.loads((copy / "forget01_perturbed.json").read_text())
    (copy / "forget01_perturbed.json").write_text(json.dumps([{**rows[0], "answer": "Another."}, *rows[1:]]))
    other = BenchmarkAsked(TofuData(source="tofu", split="forget01", folder=f"{copy}/"), asked.form, OU)
    assert dict(benchmark_task("tofu_forget", other).identity) != identity


def test_keys_of_what_was_answered_before_stay() -> None:
    part = Slice(Measure("loglikelihood"), (Request(3, "a", "b"),))
    key = part.key("hash", "float32")
    assert key["measure"] == {
        "kind": "loglikelihood",
        "encoding": "joint",
        "max_length": None,
        "keep": "end",
        "max_new_tokens": 0,
        "greedy_text": False,
    }
    given = Slice(Measure("answer"), (Request(3, tokens=(1, 2, 3), given=1),))
    more = Slice(Measure("answer"), (Request(3, tokens=(1, 2, 3), given=2),))
    assert given.key("h", "f") != more.key("h", "f")
    answer = Answer(-1.5, 2, True, "x", ((-0.5, True, -2.0, 1.0), (-1.0, False, -3.0, 0.5)))
    assert load_answers(dump_answers([answer, Answer(-1.0, 1)])) == (answer, Answer(-1.0, 1))


def test_the_suite_is_for_benchmarks(folder: Path) -> None:
    tree = {
        "name": "t",
        "data": {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder)},
        "models": [{"name": "a", "standin": {"size": "small"}}],
        "evaluation": {"suites": ["benchmark"]},
    }
    names, options = sweep_tasks(resolve_config(tree, "t"))
    assert names[:2] == ("tofu_forget", "tofu_forget_said") and "tofu_holdout" in names
    assert options.benchmark is not None and options.benchmark.conventions == Conventions()
    with pytest.raises(UserError, match="found synthetic"):
        resolve_config({**tree, "data": {"source": "synthetic"}}, "t")
    with pytest.raises(UserError, match="is for suite benchmark"):
        resolve_config({**tree, "evaluation": {"conventions": "open_unlearning"}}, "t")


@pytest.mark.parametrize(("name", "trials"), [("tofu", 17), ("tofu_small", 7)])
def test_shipped_configs_of_tofu_plan_on_its_files(shared: Path, tmp_path: Path, name: str, trials: int) -> None:
    files = shared / "data" / "tofu"
    if not files.is_dir():
        pytest.skip(f"{files} is not there")
    found = plan_config(find_config(name), [f"data.folder={files}", f"storage={tmp_path}"], dry_run=True)
    assert len(found.trials) == trials
    names, _ = sweep_tasks(found.config)
    assert {"tofu_forget", "tofu_retain_said", "tofu_world_facts"} <= set(names)


@pytest.mark.parametrize("name", ["tofu_smollm2", "muse_news", "muse_books", "wmdp_zephyr", "rwku"])
def test_shipped_configs_of_other_benchmarks_are_read(name: str) -> None:
    config = load_config(find_config(name))
    assert isinstance(config.data, RecordsData) and config.data.benchmark is not None
    assert config.evaluation.suites == ("benchmark",)


def test_rwkus_config_asks_the_harness_what_a_model_still_can(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "rwku", "1_Stephen_King")
    config = load_config(find_config("rwku"), [f"data.folder={folder}"])
    check_sweep_tasks(config, read=False)
    names, options = sweep_tasks(config)
    assert [group.name for group in options.groups] == ["mmlu", "bbh"]
    assert {"triviaqa", "truthfulqa_mc2", "rwku_forget_level1_said"} <= set(names)
    asked = {name.partition("_")[0] for name in names}
    assert asked == {"rwku", "mmlu", "bbh", "triviaqa", "truthfulqa"}
    parts = [name for name in names if name.startswith("bbh_")]
    metrics = {f"gen/{name}_exact_match_get-answer": 0.5 for name in parts}
    assert with_means(metrics, options.groups, dict.fromkeys(parts, 10))["gen/bbh_exact_match_get-answer"] == 0.5
