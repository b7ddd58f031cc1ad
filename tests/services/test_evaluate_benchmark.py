"""`icu-ray evaluate --config`: a benchmark is asked of a model by itself, with the stage's numbers.

Needs: nothing but this package; no Ray, no network: the store has all answers, which the model gives here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.cli.main import main
from icu_ray.config import TofuData
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.tasks import benchmark_task, task_names
from icu_ray.evaluation.model_requests import cut_slices, dump_answers
from icu_ray.evaluation.stage.answers import answer_slice
from icu_ray.evaluation.suites import Options
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import load_model
from icu_ray.services.evaluate import asked_of
from icu_ray.storage.store import Store
from tests.support.benchmark_case import benchmark_folder, small_model


def test_tofu_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = benchmark_folder(tmp_path / "tofu", "tofu"), small_model(tmp_path / "model")
    storage, limit = tmp_path / "runs", 2
    asked = asked_of("tofu_small", [f"data.folder={folder}"]).benchmark
    assert asked.conventions == DEFINED and asked.form.template == "question-answer"
    loaded, store, expected = load_model(str(model)), Store(str(storage / "store")), {}
    for name in task_names(asked):
        task = benchmark_task(name, asked, limit).load()
        requests, answers = task.ask(loaded.tokenizer), []
        for part in cut_slices(task.measure, requests):
            given = answer_slice(loaded, part)
            answers += given
            key = part.key(folder_fingerprint(model), "float32")
            store.get_or_make(
                "answers", key, lambda at, given=given: (at / "answers.json").write_bytes(dump_answers(given))
            )  # type: ignore[misc]
        expected |= dict(task.score(requests, answers).metrics)
    told = ["--config", "tofu_small", f"data.folder={folder}", "--limit", str(limit), "--storage", str(storage)]
    assert main(["evaluate", "--model", str(model), *told, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["model"] == "model" and not found["errors"]
    assert {name: found["metrics"][name] for name in expected} == pytest.approx(expected)
    assert {"tofu/forget_Q_A_Prob", "tofu/forget_Truth_Ratio", "tofu/forget_Q_A_ROUGE"} <= set(expected)
    # What several sets say together is there too.
    assert "tofu/model_utility" in found["metrics"]
    assert main(["evaluate", "--model", str(model), *told, "--suite", "benchmark"]) == 0
    assert "tofu/forget_Q_A_Prob" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = benchmark_folder(tmp_path / "tofu", "tofu"), small_model(tmp_path / "model", positions=256)

    def refused(*told: str) -> str:
        assert main(["evaluate", "--model", str(model), "--storage", str(tmp_path / "runs"), *told]) == 2
        return capsys.readouterr().err

    assert "--suite benchmark: give --config NAME" in refused("--suite", "benchmark")
    assert "data.source=synthetic is no benchmark" in refused("--config", "quickstart")
    own = ("--config", "tofu_small", f"data.folder={folder}")
    chat = refused("--config", "tofu", f"data.folder={folder}")
    assert "asks its set forget by the model's chat template" in chat and "data.template: question-answer" in chat
    (folder / "world_facts_perturbed.json").write_text(
        json.dumps([{"question": "Why? " * 80, "answer": "So.", "perturbed_answer": ["No."]}])
    )
    assert "tofu_world_facts: its longest row has" in refused(*own)
    (folder / "retain_perturbed.json").unlink()
    assert "it lacks retain_perturbed.json, which TOFU asks" in refused(*own)
    with pytest.raises(UserError, match="tofuu"):
        asked_of("tofuu")
    theirs = asked_of("tofu", [f"data.folder={folder}"]).benchmark
    assert theirs.conventions == Conventions.open_unlearning()


def test_the_configs_limit_mirror_and_precision_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = benchmark_folder(tmp_path / "tofu", "tofu"), small_model(tmp_path / "model")
    given: list[tuple[Options, str]] = []

    def note(models: object, tasks: object, options: Options, *, precision: str, **others: object) -> list[object]:
        given.append((options, precision))
        return []

    monkeypatch.setattr("icu_ray.services.evaluate.evaluate", note)
    told = ["evaluate", "--model", str(model), "--json", "--config", "tofu_small", f"data.folder={folder}"]
    more = ["models.0.precision=bf16", "evaluation.limit=3", f"evaluation.mirror={tmp_path}"]
    assert main([*told, *more]) == 0
    assert main([*told, *more, "--limit", "2", "--mirror", str(folder), "--precision", "fp32"]) == 0
    (by_config, precision), (by_options, other) = given
    assert (by_config.limit, by_config.mirror, precision) == (3, tmp_path, "bf16")
    assert (by_options.limit, by_options.mirror, other) == (2, folder, "fp32")
    assert main(["evaluate", "--model", str(model), "--json"]) == 0 and given[-1] == (Options(), "fp32")
    asked = asked_of("tofu_small", [f"data.folder={folder}"])
    mixed = replace(
        asked, models=(*asked.models, asked.models[0].model_copy(update={"precision": "bf16", "source": "x/y"}))
    )
    assert mixed.precision(["x/y"]) == "bf16"
    with pytest.raises(UserError, match="bf16 and fp32; give --precision"):
        mixed.precision([str(model)])


def test_only_data_sets_that_are_asked_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def commit(name: str, revision: str | None, *said: str) -> str:
        looked.append(name)
        return "c" * 40

    monkeypatch.setattr("icu_ray.data.hub_data.commit_of", commit)
    asked_of("wmdp_zephyr")  # whose questions are lm-eval's, and whose texts are given to those who ask for them
    assert looked == []
    asked = asked_of("tofu").benchmark
    assert looked == ["locuslab/TOFU"] and isinstance(asked.section, TofuData) and asked.section.revision == "c" * 40
