"""`from icu_ray.api import probe, unlearn, sweep`: light to import, any order of imports, the commands' numbers.

What the functions give when they run for real is shown by the pages of docs/ (test_docs.py).

Needs: nothing.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icu_ray.cli.main import main as cli
from tests.support.tiny_models import save_byte_tokenizer, tiny_model

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
import sys
import icu_ray
assert "icu_ray.api" not in sys.modules
from icu_ray.api import probe, sweep, unlearn
frames = sweep("quickstart", {"storage": "not-here"}, dry_run=True)
assert len(frames.plan) == 12 and len(frames.trials) == 0, frames
# Planning needs neither; pandas makes the frames.
print(sorted({"torch", "ray", "mlflow"} & set(sys.modules)))
"""
    assert run(code).strip() == "[]"


def test_sweep_is_the_function_in_every_order_of_imports() -> None:
    code = """
import importlib, inspect, itertools, sys

STEPS = (
    "import icu_ray",
    "import icu_ray.sweep.__main__",
    "from icu_ray.sweep.__main__ import main",
    "from icu_ray.cli import sweep",
    "import icu_ray.sweep.run",
    "from icu_ray.api import sweep",
    "importlib.import_module('icu_ray.sweep')",
)
tried = 0
for steps in itertools.permutations(STEPS, 2):
    for name in [name for name in sys.modules if name == "icu_ray" or name.startswith("icu_ray.")]:
        del sys.modules[name]
    for step in steps:
        exec(step, {"importlib": importlib})
    from icu_ray.api import sweep
    try:
        sweep({"name": "none"}, {"optim.lr": "fast"}, dry_run=True)
    except Exception as error:
        assert type(error).__name__ == "UserError" and "sweep(config): optim.lr" in str(error), (steps, error)
    else:
        raise AssertionError(steps)
    assert list(inspect.signature(sweep).parameters) == ["config", "overrides", "dry_run", "wait"], steps
    tried += 1
print(tried)
"""
    assert run(code).strip() == "42"


def test_the_door_of_the_main_job_is_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Trials that end meanwhile, in another process of the tests, change estimates and so the order of the plan.
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path))
    told = subprocess.run(
        [sys.executable, "-m", "icu_ray.sweep", "quickstart", "--dry-run", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "ICU_RAY_CACHE": str(tmp_path)},
    )
    assert told.returncode == 0 and not told.stderr, told.stderr
    from icu_ray.api import sweep

    plan = sweep("quickstart", dry_run=True).plan
    trials = json.loads(told.stdout)["trials"]
    assert [trial["trial_id"] for trial in trials] == list(plan["trial_id"])
    # Hyperparameters are columns of their own, in place of one of mappings.
    assert "hyperparameters" not in plan
    assert [[*row] for row in plan[["alpha", "beta", "lr"]].to_numpy()] == [
        [trial["hyperparameters"][key] for key in ("alpha", "beta", "lr")] for trial in trials
    ]


def test_names_are_those_of_the_command_line() -> None:
    from icu_ray.api import probe, sweep, unlearn
    from icu_ray.cli import main as command_line

    commands = next(
        action for action in command_line.make_parser()._actions if hasattr(action, "choices") and action.choices
    ).choices
    assert isinstance(commands, dict)
    left_out = {"help", "json", "dry_run", "run", "verbosity"}
    switches = {action.dest for action in commands["sweep"]._actions} - {"help", "verbosity", "json"}
    assert set(inspect.signature(sweep).parameters) == switches
    for name, function in (("probe", probe), ("unlearn", unlearn)):
        options = {action.dest: action.default for action in commands[name]._actions if action.dest not in left_out}
        parameters = inspect.signature(function).parameters
        assert set(parameters) == set(options), name
        for key, parameter in parameters.items():
            if options[key] is not None and parameter.default not in (None, inspect.Parameter.empty):
                assert parameter.default == type(parameter.default)(options[key]), (name, key)


def test_a_call_is_written_as_one_would_type_it() -> None:
    from icu_ray.api import unlearn
    from icu_ray.requests.wording import python_call

    given = {"model": "m", "out": Path("o"), "alpha": 0.5, "beta": 4.0, "overrides": {"optim.lr": 1e-4}}
    said = python_call("unlearn", unlearn, given)
    assert said == "unlearn(model='m', out='o', beta=4.0, overrides={'optim.lr': 0.0001})"


def test_probe_gives_the_commands_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from icu_ray.api import probe

    model = tmp_path / "model"
    network = tiny_model("gpt_neo")
    network.resize_token_embeddings(320)
    network.save_pretrained(model)
    save_byte_tokenizer(model, 300)
    ids = np.random.default_rng(0).integers(3, 300, (5, 24))
    np.save(tmp_path / "forget.npy", ids)
    frame = probe(model, tmp_path / "forget.npy", el_start=12, ngram=2)
    options = ["--model", str(model), "--forget", str(tmp_path / "forget.npy"), "--el-start", "12", "--ngram", "2"]
    capsys.readouterr()
    assert cli(["probe", *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert frame.to_dict("records") == said.pop("per_sample")
    assert frame.attrs == said
    assert list(frame.columns) == ["id", "ma", "el2", "forget_loss"] and len(frame) == 5


def test_a_wrong_key_is_said_before_anything_starts(tmp_path: Path) -> None:
    from icu_ray.api import sweep
    from icu_ray.errors import UserError

    with pytest.raises(UserError, match=r"unknown key \(did you mean 'lr'\?\)"):
        sweep("quickstart", {"optim.lrr": 1, "storage": tmp_path})
    assert not list(tmp_path.iterdir())
