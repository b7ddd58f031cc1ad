"""A measure that is asked for after a sweep is made for the models that it kept, and nothing else is done.

Needs: Rays of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icu_ray.plan.grid import Plan
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_evaluation
from icu_ray.sweep.run import run_sweep
from tests.support.benchmark_case import tofu_folder, tofu_sweep
from tests.support.trained import lent

ROWS = 6
WRITTEN_ANEW = {"evaluation.json", "documents.parquet"}
"""Of a trial's files."""


def planned(folder: Path, membership: list[str]) -> Plan:
    return tofu_sweep(folder, ["kumpr", "graddiff"], 1, {"membership": membership})


def files(folder: Path) -> dict[str, int]:
    """When each file below a folder was written, by its path there."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def artefacts(store: Path, kind: str) -> dict[str, int]:
    """Of a kind in the store, whole ones."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (store / kind).glob("*/manifest.json")}


def evaluations(plan: Plan) -> dict[str, TrialEvaluation]:
    found = {}
    for trial in plan.trials:
        read = read_evaluation(TrialPaths.of(plan.config.storage, "t", trial.trial_id))
        assert read is not None
        found[trial.label] = read
    return found


@pytest.mark.slow
def test_a_measure_added_later_is_made_for_the_kept_models_alone(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tofu_folder(tmp_path / "tofu", ROWS, later=True)
    runs, store = tmp_path / "runs", tmp_path / "runs" / "store"
    with lent(trained, store):
        assert run_sweep(planned(tmp_path, [])) == 0
    plan = planned(tmp_path, ["gradnorm"])
    assert len(plan.trials) == 3 and not plan.waiting
    before = evaluations(plan)
    assert all("tofu/mia_min_k" in each.after and "tofu/mia_reference" in each.after for each in before.values())
    assert not any("tofu/mia_gradnorm" in each.after for each in before.values())
    gone = next(trial for trial in plan.trials if trial.label == "graddiff")
    shutil.rmtree(TrialPaths.of(plan.config.storage, "t", gone.trial_id).model)
    trials, made = files(runs / "t" / "trials"), {kind.name: artefacts(store, kind.name) for kind in store.iterdir()}
    capfd.readouterr()

    assert run_sweep(plan) == 1  # for one model cannot be asked any more
    said = " ".join(capfd.readouterr().out.split())
    assert f"{gone.name}: its model is no longer there and is not evaluated again" in said
    assert "0 trials to run, 3 already done" in said
    # No file of any trial was written but the evaluations of those whose models are there.
    now = files(runs / "t" / "trials")
    written = {path for path in now if now[path] != trials.get(path)}
    kept = {trial.trial_id for trial in plan.trials if trial is not gone}
    assert written == {f"{trial}/{file}" for trial in kept for file in WRITTEN_ANEW} and set(now) == set(trials)
    # Of what is shared, the two new tasks of the original and of two models; all that was there is as it was.
    for kind, known in made.items():
        new = artefacts(store, kind)
        assert {name: new.get(name) for name in known} == known
        assert len(new) - len(known) == (6 if kind in ("evaluations", "answers") else 0), kind
    after = evaluations(plan)
    assert after["graddiff"] == before["graddiff"]
    for label in set(after) - {"graddiff"}:
        old, new_ = before[label], after[label]
        assert {task: new_.tasks[task] for task in old.tasks} == dict(old.tasks)
        assert set(new_.tasks) - set(old.tasks) == {"tofu_forget_gradnorm", "tofu_holdout_gradnorm"}
        for was, is_ in ((old.before, new_.before), (old.after, new_.after)):
            assert {name: is_[name] for name in was} == pytest.approx(dict(was))
            assert set(is_) - set(was) == {"tofu/mia_gradnorm"}
            area = is_["tofu/mia_gradnorm"]
            assert area is not None and 0 <= area <= 1

    # Its benchmark's table has every attack.
    page = (runs / "t" / "report" / "report.html").read_text()
    assert all(f"mia_{attack}" in page for attack in ("min_k", "gradnorm", "reference")) and "mia_zlib" not in page

    # Once more there is nothing to do but to say so.
    again = files(runs / "t" / "trials")
    assert run_sweep(planned(tmp_path, ["gradnorm"])) == 1
    assert files(runs / "t" / "trials") == again
