"""What a benchmark asks is held against a config's models before anything starts; its shipped configs plan.

Needs: nothing but this package; no Ray, no network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icu_ray.config.file import resolve_config
from icu_ray.config.shipped import find_config
from icu_ray.errors import UserError
from icu_ray.plan.benchmark_prompts import check_prompts
from icu_ray.plan.model_memory import memories
from icu_ray.plan.planning import plan_config, plan_sweep
from icu_ray.report.terminal.plan_table import print_plan
from tests.support.benchmark_case import benchmark_folder, small_model, write_lines

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOLDERS = {
    "tofu": "tofu",
    "tofu_small": "tofu",
    "tofu_smollm2": "tofu",
    "muse_news": "muse",
    "muse_books": "muse",
    "wmdp_zephyr": "wmdp",
    "rwku": "rwku",
}
TRIALS = {"tofu": 17, "tofu_small": 7, "tofu_smollm2": 5, "muse_news": 5, "muse_books": 5, "wmdp_zephyr": 1, "rwku": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """plain: without a chat template. chat: with one. short: with one, of 256 positions. narrow: 400, without."""
    made = tmp_path_factory.mktemp("models")
    return {
        "plain": small_model(made / "plain"),
        "chat": small_model(made / "chat", template=CHATML, layers=8),
        "short": small_model(made / "short", positions=256, template=CHATML),
        "narrow": small_model(made / "narrow", positions=400),
    }


def config(data: dict[str, Any], model: Path | None, **more: Any) -> Any:
    source = {"standin": {}} if model is None else {"source": str(model)}
    tree = {
        "name": "t",
        "models": [{"name": "m", **source}],
        "data": data,
        "methods": [{"name": "graddiff"}],
        "pairs": {"by": "random"},
        "columns": {"length": 128, "prefix_start": 0, "suffix_start": 64},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        "evaluation": {"suites": ["benchmark"]},
        **more,
    }
    return resolve_config(tree, "t")


@pytest.mark.parametrize("name", list(FOLDERS))
def test_shipped_configs_plan_on_files_of_their_layout(
    name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are where their models are known or made here, and with a model that can be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    benchmark = FOLDERS[name]
    folder = benchmark_folder(tmp_path / "files", benchmark, "1_Stephen_King", rows=40, kept=200)
    told = [f"data.folder={folder}", "filter.encoder=bundled", "filter.encoder_layer=6"]
    source = models["plain" if benchmark == "muse" else "chat"]
    own = [] if name == "tofu_small" else [f"models.0.source={source}"]
    # SmolLM2's own file would be converted first, which takes a while.
    found = plan_config(find_config(name), [*told, *(own if name == "tofu_smollm2" else [])], dry_run=True)
    assert len(found.trials) == TRIALS[name]
    said = StringIO()
    print_plan(found, Console(file=said, width=200))
    assert found.worker_minutes > 0
    assert "Estimate for what is left" in said.getvalue() and "suite benchmark" in said.getvalue()
    (memory,) = (each.need for each in memories(found))
    assert memory is not None and memory.total > 1e6
    # Of what takes more than a little it is shown.
    assert ("Memory of one worker in GB" in said.getvalue()) == (memory.total > 1e9)
    gpus = not name.startswith("tofu_sm")
    assert (found.gpu_hours > 0.1) == gpus and (memory.total > 15e9) == gpus
    if own:
        # MUSE's configs name a retrained model of the hub.
        gold = [f"models.0.retrained={source}"] if benchmark == "muse" else []
        read = plan_config(find_config(name), [*told, *own, *gold], dry_run=True)
        assert len(read.trials) == TRIALS[name] and not read.unreachable


@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_each_split_of_tofu_is_read_and_fits(split: str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "files", "tofu")
    data = {"source": "tofu", "split": split, "folder": str(folder)}
    assert check_prompts(config(data, models["chat"])) == ()
    (folder / f"{split}_perturbed.json").unlink()
    with pytest.raises(UserError, match=rf"it lacks {split}_perturbed\.json, which TOFU asks; 'icu-ray data fetch"):
        plan_sweep(config(data, models["chat"]), dry_run=True)


@pytest.mark.parametrize("split", ["bio", "cyber"])
def test_wmdp_asks_tasks_of_the_harness_alone(split: str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "files", "wmdp", rows=40, kept=80)
    found = plan_sweep(config({"source": "wmdp", "split": split, "folder": str(folder)}, models["plain"]), dry_run=True)
    assert found.data is not None and found.data.samples[0].targets == 40


def test_questions_by_a_template_need_one(models: dict[str, Path], tmp_path: Path) -> None:
    folder = str(benchmark_folder(tmp_path / "files", "tofu"))
    data = {"source": "tofu", "split": "forget01", "folder": folder}
    with pytest.raises(UserError, match=r"TOFU asks its set forget by the model's chat template, .*plain\) has none; "):
        check_prompts(config(data, models["plain"]))
    with pytest.raises(UserError, match=r"question-answer"):
        plan_sweep(config(data, models["plain"]), dry_run=True)
    assert check_prompts(config({**data, "template": "question-answer"}, models["plain"])) == ()
    # RWKU's questions are always written by a template, its texts by none.
    people = str(benchmark_folder(tmp_path / "people", "rwku"))
    person = {"source": "rwku", "subject": "1_Person_1", "folder": people}
    for model, found in ((models["plain"], "has none"), (None, "m is a stand-in, whose tokenizer has none")):
        with pytest.raises(UserError, match=rf"RWKU asks its set forget_level1 .*{found}; expected a model whose"):
            plan_sweep(config(person, model, methods=[{"name": "kumpr"}]), dry_run=True)
    assert check_prompts(config(person, models["chat"])) == ()


def test_prompts_with_their_answers_must_fit(models: dict[str, Path], tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "files", "tofu")
    data = {"source": "tofu", "split": "forget01", "folder": str(folder)}
    with pytest.raises(
        UserError,
        match=r"tofu_forget_said: its longest prompt has \d+ tokens in those of m, \d+ with an answer of at most 200, "
        r"and this model reads 256; expected a model that reads as many",
    ):
        check_prompts(config(data, models["short"]))
    shots = [{"question": "Q?", "answer": "A" * (400 if number == 3 else 4)} for number in range(4)]
    long = benchmark_folder(tmp_path / "long", "muse")
    write_lines(long / "news" / "knowmem" / "forget_qa_icl.jsonl", shots)
    with pytest.raises(UserError, match=r"muse_forget_knowmem_said: its longest prompt has \d+ tokens"):
        check_prompts(config({"source": "muse", "split": "news", "folder": str(long)}, models["narrow"]))
    # A text whose tokens are scored needs a place for each of them.
    texts = benchmark_folder(tmp_path / "texts", "muse")
    for kind in ("forget", "retain"):
        write_lines(texts / "news" / "knowmem" / f"{kind}_qa_icl.jsonl", shots[:1])
    write_lines(texts / "news" / "privleak" / "holdout.jsonl", [{"text": "b"}, {"text": "b" * 500}])
    muse = {"source": "muse", "split": "news", "folder": str(texts)}
    with pytest.raises(
        UserError, match=r"muse_holdout_privleak: its longest row has \d+ tokens in those of m, and thi"
    ):
        check_prompts(config(muse, models["narrow"]))
    first = {"suites": ["benchmark"], "limit": 1}
    assert check_prompts(config(muse, models["narrow"], evaluation=first)) == ()


def test_prompts_that_open_unlearning_cuts_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "files", "muse")
    shots = [{"question": f"What is {number}?", "answer": "long " * 20} for number in range(10)]
    write_lines(folder / "news" / "knowmem" / "forget_qa_icl.jsonl", shots)
    muse = {"source": "muse", "split": "news", "folder": str(folder)}
    assert check_prompts(config(muse, models["plain"])) == ()
    theirs = {"suites": ["benchmark"], "conventions": "open_unlearning"}
    said = check_prompts(config(muse, models["plain"], evaluation=theirs))[0]
    assert said.startswith(
        "muse_forget_knowmem_said: 6 of the 6 longest prompts fill 512 tokens of m, where OpenUnlearning cuts"
    )


def test_a_model_that_is_not_here_is_told_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = benchmark_folder(tmp_path / "files", "tofu")
    data = {"source": "tofu", "split": "forget01", "folder": str(folder)}
    (said,) = check_prompts(config(data, Path("org/nowhere")), dry_run=True)
    assert said.startswith("m: its tokenizer is not here, so whether it can read what the benchmark asks")


@pytest.mark.slow
def test_a_dry_run_of_texts_loads_no_tokenizer_for_it(models: dict[str, Path], tmp_path: Path) -> None:
    """Plans of RWKU read no tokenizer, and find a missing template all the same."""
    people = benchmark_folder(tmp_path / "people", "rwku")
    for model, expected in ((models["chat"], "0 []"), (models["plain"], "2 []")):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        code = (
            "import sys; from icu_ray.cli.main import main; code = main(['plan', 'rwku', *sys.argv[1:]]); "
            "print(code, sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
        )
        told = [f"data.folder={people}", "data.subject=1_Person_1", f"models.0.source={model}", "models.0.workers=1"]
        done = subprocess.run(
            [sys.executable, "-c", code, *told],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        assert done.stdout.splitlines()[-1] == expected, done.stderr
