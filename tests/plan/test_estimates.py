"""What trials are thought to take and cost, how those that ended correct it, and when a budget is used up.

Needs: nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import FilterConfig, ModelConfig, PricesConfig, SweepConfig
from icu_ray.config.file import load_config, resolve_config
from icu_ray.config.shipped import find_config
from icu_ray.errors import UserError
from icu_ray.methods.cost import Cost
from icu_ray.plan import text_lengths
from icu_ray.plan.budget import Budget, cost_of, load_prices
from icu_ray.plan.estimate_correction import corrected, error_said
from icu_ray.plan.estimates import PAIRED, estimate_of
from icu_ray.plan.machine_speed import (
    GPU_REFERENCE_FLOPS,
    GPU_REFERENCE_SCORE,
    REFERENCE_SCORE,
    core_flops,
    gpu_flops,
    gpu_flops_of,
    machine_name,
)
from icu_ray.plan.past_trials import FILE, Ended, Past, past_of, remember
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.text_lengths import Lengths
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import EpochRecord, Scores, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, start_trial, write_events, write_result
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

PRICES = "currency: EUR\ngpu_hour: 2.5\nspot_gpu_hour: 0.75\ncpu_hour: 0.05\n"
GPU_MODELS = [
    {"name": "large", "source": "org/neo-1.3B", "workers": 3, "gpus_per_worker": 1},
    {"name": "small", "source": "org/neo-125M", "gpus_per_worker": 1},
]
CPU_MODELS = [{"name": "cores", "standin": {}, "workers": 2, "cpus_per_worker": 2}]
SCORES = Scores(0.5, 0.1, 2.0, 0.4, 0.1, 3.0)


@pytest.fixture(autouse=True)
def _no_gpu_and_no_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU nothing measures it, and what trials took elsewhere tells nothing here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "cache"))
    gpu_flops.cache_clear()


def config(folder: Path, models: list[dict[str, Any]], **resources: Any) -> SweepConfig:
    values = {
        "name": "t",
        "storage": str(folder / "runs"),
        "data": {"source": "synthetic", "records": 40, "sample_size": 6, "heldout": 4},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
        "samples": [0, 1],
        "train": {"batch_size": 6},
        "models": models,
        "methods": [{"name": "icu", "alpha": [0.1, 0.5], "beta": 1.0}],
        "resources": resources,
    }
    return resolve_config(values, "t")


def planned(folder: Path, models: list[dict[str, Any]], **resources: Any) -> tuple[Trial, ...]:
    return plan_sweep(config(folder, models, **resources), dry_run=True).trials


@pytest.fixture
def prices(tmp_path: Path) -> str:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    return str(file)


def test_minutes_grow_with_the_model_and_shrink_with_its_workers(tmp_path: Path) -> None:
    sweep = config(tmp_path, GPU_MODELS)
    large, small = sweep.models
    alone = large.model_copy(update={"workers": 1})

    def minutes_of(model: ModelConfig, **changed: Any) -> float:
        return estimate_of(model.model_copy(update=changed), sweep, 128).minutes

    rest = minutes_of(small, minutes_per_epoch=1e-9)
    assert (minutes_of(alone) - rest) / (minutes_of(small) - rest) == pytest.approx(1.3e9 / 125e6, rel=0.1)
    assert (minutes_of(alone) - rest) / (minutes_of(large) - rest) == pytest.approx(3)
    assert minutes_of(small, minutes_per_epoch=2.0) - rest == pytest.approx(2.0 * 12)
    assert minutes_of(small, minutes_per_epoch=2.0, max_epochs=3) - rest == pytest.approx(2.0 * 3)


def test_what_is_counted_of_a_trial(tmp_path: Path) -> None:
    sweep = config(tmp_path, CPU_MODELS)
    (model,) = sweep.models
    whole = estimate_of(model, sweep, 16).work
    assert estimate_of(model, sweep, 32).work.train == 2 * whole.train
    # Without pairs half of it is trained, and with the steps of stand-ins few epochs are enough.
    alone = estimate_of(model.model_copy(update={"lr": 5e-4}), sweep, 16, cost=Cost()).work
    assert alone.train == whole.train / 2 and alone.measure == whole.measure and alone.epochs < whole.epochs
    # Held-out texts are measured once; a larger encoder of BERTScore counts in each epoch.
    assert estimate_of(model, sweep, 16, heldout=8).work.end > 0 == whole.end
    bundled = sweep.model_copy(update={"filter": FilterConfig(encoder="bundled", encoder_layer=6)})
    assert estimate_of(model, bundled, 16).work.measure < whole.measure


@given(gpu=st.floats(0, 1e4), cpu=st.floats(0, 1e4))
def test_costs_are_hours_times_prices(gpu: float, cpu: float) -> None:
    both = PricesConfig(gpu_hour=2.5, spot_gpu_hour=0.75, cpu_hour=0.05, spot_cpu_hour=0.02)
    assert cost_of(gpu, cpu, both).by_kind == {
        "on demand": pytest.approx(2.5 * gpu + 0.05 * cpu),
        "spot": pytest.approx(0.75 * gpu + 0.02 * cpu),
    }
    # Cores without a spot price are had on demand; without a spot price of GPUs there is no spot cost to tell.
    no_spot_cores = PricesConfig(gpu_hour=2.5, spot_gpu_hour=0.75, cpu_hour=0.05)
    assert cost_of(gpu, cpu, no_spot_cores).by_kind["spot"] == pytest.approx(0.75 * gpu + 0.05 * cpu)
    assert set(cost_of(gpu, cpu, PricesConfig(gpu_hour=1)).by_kind) == {"on demand"}


def test_a_price_file_and_how_its_cost_reads(prices: str) -> None:
    assert str(cost_of(1000, 20, load_prices(Path(prices)))) == "2,501.00 EUR on demand, 751.00 EUR spot"


def test_what_ended_corrects_what_waits(tmp_path: Path) -> None:
    trials = planned(tmp_path, GPU_MODELS)
    assert corrected(trials) == list(trials)
    assert "counted operations" in error_said(trials)
    large = [trial for trial in trials if trial.model.name == "large"]
    ended = {large[0].trial_id: 3.0, large[1].trial_id: 5.0}
    some = [
        replace(trial, took=trial.minutes * ended[trial.trial_id]) if trial.trial_id in ended else trial
        for trial in trials
    ]
    for before, after in zip(some, corrected(some), strict=True):
        # Their own model's mean pace for the large ones, that of all for the small ones, of which none has ended.
        assert after.minutes == pytest.approx(before.minutes * (1 if before.trial_id in ended else 4.0))
    assert "may be off by a factor of 3" in error_said(some)


def test_an_error_is_told_of_what_waits_alone(tmp_path: Path) -> None:
    trials = planned(tmp_path, GPU_MODELS)
    paces = {"large": [1.0, 1.0, 1.0, 1.0], "small": [1.0, 2.0, 3.0, None]}
    taken = {name: iter(known) for name, known in paces.items()}
    some = []
    for trial in trials:
        pace = next(taken[trial.model.name])
        some.append(trial if pace is None else replace(trial, took=pace * trial.minutes))
    # The standard deviation of 1, 2, 3 is 1, their mean 2. The large ones, all ended, say nothing about what waits.
    assert error_said(some) == "± 50 % a trial, by the 3 that have ended"


def result_of(trial: Trial, status: Any, seconds: float) -> TrialResult:
    return TrialResult(
        trial_id=trial.trial_id,
        name=trial.name,
        model=trial.model.name,
        method=trial.label,
        sample=trial.sample,
        hyperparameters=trial.hyperparameters,
        status=status,
        reason="",
        epochs=3,
        before=None,
        after=None,
        seconds={"total": seconds},
    )


def test_a_plan_reads_what_trials_took_and_spent(tmp_path: Path) -> None:
    trials = planned(tmp_path, GPU_MODELS)
    finished, failed, cut, new = (t for t in trials if t.model.name == "large")
    for trial in (finished, failed, cut):
        paths = TrialPaths.of(str(tmp_path / "runs"), "t", trial.trial_id)
        spec = TrialSpec(trial.trial_id, trial.name, trial.model.name, trial.label, trial.sample, {})
        start_trial(paths, spec)
        history = [EpochRecord(0, 6, SCORES), EpochRecord(1, 6, SCORES, seconds={"train": 100.0, "validate": 20.0})]
        write_events(paths, history)
        if trial is not cut:
            write_result(paths, result_of(trial, "finished" if trial is finished else "failed", 600.0))
    found = {trial.trial_id: trial for trial in planned(tmp_path, GPU_MODELS)}
    read = {which.trial_id: found[which.trial_id] for which in (finished, failed, cut, new)}
    assert [(t.status, t.took, t.spent) for t in read.values()] == [
        ("finished", 10.0, 10.0),
        ("failed", None, 10.0),
        ("resumable", None, 2.0),
        ("new", None, 0.0),
    ]
    # Trials that ended well tell the pace of the others; all that ran have used up the budget: 22 minutes of 3 GPUs.
    assert found[new.trial_id].minutes == pytest.approx(new.minutes * 10.0 / finished.minutes)
    budget = Budget(config(tmp_path, GPU_MODELS, max_hours=1.1), list(found.values()))
    assert budget.spent() == (pytest.approx(1.1), 0.0)
    assert budget.used_up() == "resources.max_hours=1.1 is reached (1.10 h)"


def test_a_budget_of_hours_counts_what_runs(tmp_path: Path) -> None:
    trials = planned(tmp_path, CPU_MODELS)
    budget = Budget(config(tmp_path, CPU_MODELS, max_hours=0.3 * 4 / 3600), trials)
    assert budget.used_up() == ""
    budget.started(trials[0])
    began = time.monotonic()
    while budget.used_up() == "":
        assert time.monotonic() - began < 60
    budget.ended(trials[0])
    took = time.monotonic() - began
    # Two workers of two cores each, for the 0.3 s that are allowed at least.
    spent = budget.spent()
    assert spent[0] == 0.0 and 0.3 <= spent[1] * 3600 / 4 <= took + 0.01
    time.sleep(0.05)
    assert budget.spent() == spent


def test_cores_do_not_use_up_the_hours_of_a_sweep_with_gpus(tmp_path: Path) -> None:
    both = planned(tmp_path, [*GPU_MODELS, *CPU_MODELS])
    spent = [replace(trial, spent=60.0) if trial.model.name == "cores" else trial for trial in both]
    budget = Budget(config(tmp_path, [*GPU_MODELS, *CPU_MODELS], max_hours=1), spent)
    assert budget.spent() == (0.0, pytest.approx(4 * 4)) and budget.used_up() == ""


def test_a_budget_of_money_by_spot_and_on_demand_prices(tmp_path: Path, prices: str) -> None:
    trials = [replace(trial, spent=20.0) for trial in planned(tmp_path, GPU_MODELS[:1])]  # 4 x 1/3 h x 3 GPUs
    on_demand = Budget(config(tmp_path, GPU_MODELS[:1], max_cost=10, prices=prices), trials)
    assert on_demand.used_up() == "resources.max_cost=10 is reached (10.00 EUR)"
    spot = config(tmp_path, GPU_MODELS[:1], max_cost=10, prices=prices, spot=True)
    assert Budget(spot, trials).used_up() == ""
    assert Budget(spot, [replace(trial, spent=70.0) for trial in trials]).used_up().endswith("(10.50 EUR)")


REFUSED = [
    ("gpu_hour: -1\n", {}, GPU_MODELS, r"gpu_hour.*greater than or equal to 0"),
    ("gpu_hours: 1\n", {}, GPU_MODELS, r"did you mean 'gpu_hour'"),
    ("gpu_hour: cheap\n", {}, GPU_MODELS, r"gpu_hour: expected a valid number"),
    ("[1, 2]\n", {}, GPU_MODELS, r"prices\.yaml"),
    ("cpu_hour: 1\n", {}, GPU_MODELS, r"gpu_hour"),
    ("gpu_hour: 1\n", {"spot": True}, GPU_MODELS, r"resources\.spot: .*prices\.yaml has no spot_gpu_hour"),
    (
        "gpu_hour: 1\n",
        {"max_cost": 5},
        CPU_MODELS,
        r"resources\.max_cost: .* no cpu_hour, but cores trains without",
    ),
]


@pytest.mark.parametrize(("content", "resources", "models", "said"), REFUSED)
def test_price_files_that_are_refused(
    content: str, resources: dict[str, Any], models: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        planned(tmp_path, models, prices=str(file), **resources)


@pytest.fixture
def speed(tmp_path: Path) -> Iterator[Path]:
    """The file that keeps this machine's speed, in an empty folder."""
    core_flops.cache_clear()
    yield tmp_path / "cache" / "machine_speed.json"
    core_flops.cache_clear()


def test_the_speed_of_this_machine_is_measured_once_and_kept(speed: Path) -> None:
    first = core_flops()
    kept = json.loads(speed.read_text())
    assert first > 1e8 and len(kept) == 1
    speed.write_text(json.dumps({name: 2 * score for name, score in kept.items()}))
    core_flops.cache_clear()
    assert core_flops() == pytest.approx(2 * first)  # read, not measured again
    for damaged in ("", "[1]", '{"other": "x"}'):
        speed.write_text(damaged)
        core_flops.cache_clear()
        assert core_flops() > 1e8


def test_the_estimate_of_a_sweep_is_near_what_it_took(speed: Path) -> None:
    """extraction_small: six cells of three samples, 251 s a sample on the machine of reference (docs/results.md)."""
    core_flops()
    (name,) = json.loads(speed.read_text())
    speed.write_text(json.dumps({name: REFERENCE_SCORE}))
    core_flops.cache_clear()
    sweep = load_config(find_config("extraction_small"))
    estimated = sum(
        60 * estimate_of(model, sweep, 32, heldout=64, cost=Cost() if (alpha, beta) == (0, 0) else PAIRED).minutes
        for method in sweep.methods
        for alpha, beta in method.grid()
        for model in sweep.models
    )
    took = 20 + 48 + 72 + 13 + 42 + 56
    assert 1 / 1.5 < estimated / took < 1.5, estimated


def test_a_gpu_is_as_fast_as_its_products_of_matrices() -> None:
    assert gpu_flops_of(None) == gpu_flops_of(GPU_REFERENCE_SCORE) == GPU_REFERENCE_FLOPS
    assert gpu_flops_of(GPU_REFERENCE_SCORE / 4) == pytest.approx(GPU_REFERENCE_FLOPS / 4)


def test_each_window_of_a_long_text_is_counted(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_model("gpt_neo").save_pretrained(model)
    tokenizer().save_pretrained(model)  # each word is a token
    lines = [json.dumps({"text": " ".join(f"w{20 + n}" for n in range(count))}) for count in (12, 20, 40)]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines))
    values = {
        "name": "t",
        "storage": str(tmp_path / "runs"),
        "data": {"source": "records", "forget": str(tmp_path / "forget.jsonl")},
        "columns": {"length": 20, "prefix_start": 4, "suffix_start": 10},
        "samples": [0],
        "models": [{"name": "tiny", "source": str(model), "gpus_per_worker": 0}],
        "methods": [{"name": "kumpr"}],
    }
    (cut,) = plan_sweep(resolve_config(values, "t"), dry_run=True).trials
    (whole,) = plan_sweep(resolve_config({**values, "rows": {"long": "windows"}}, "t"), dry_run=True).trials
    assert cut.work is not None and whole.work is not None
    assert whole.work.train / cut.work.train == pytest.approx(5 / 3)  # of the 40 words from 0, 10 and 20 on


def test_a_tokenizer_that_is_not_there_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not answer takes 10 s to say so, and a grid has thousands of trials."""
    asked: list[str] = []

    def missing(source: str, *_: object) -> Lengths:
        asked.append(source)
        raise UserError("the hub cannot be reached")

    monkeypatch.setattr(text_lengths, "lengths_in", missing)
    forget = tmp_path / "forget.jsonl"
    forget.write_text('{"text": "one"}\n')
    values = {
        "name": "t",
        "data": {"source": "records", "forget": str(forget)},
        "rows": {"long": "windows"},
        "models": [{"name": "m", "source": "org/not-here"}],
    }
    sweep = resolve_config(values, "t")
    assert [text_lengths.target_rows(sweep, sweep.models[0], 0, texts) for texts in (5, 5, 6)] == [5, 5, 6]
    assert asked == ["org/not-here"]


def test_trials_that_ended_on_this_machine_tell_the_next_ones(speed: Path, tmp_path: Path) -> None:
    sweep = config(tmp_path, CPU_MODELS)
    (first, *_) = planned(tmp_path, CPU_MODELS)
    assert first.work is not None and past_of(first.work) is None
    assert "where no such trial has ended yet; a trial may be off by a factor of 3" in error_said([first])
    # This machine is slower than counted, and trials need fewer epochs than expected.
    work, epochs = first.work, 6
    seconds = {"start": 4.0, "train": 9.0, "measure": 30.0, "save": 0.6}
    remember(work, epochs, seconds)
    (again, *_) = planned(tmp_path, CPU_MODELS)
    assert 60 * again.minutes == pytest.approx(43.6) and again.told_by == 1
    assert error_said([again]) == (
        "from 1 trial of about this size that ended on this machine, too few to say how far it may be off"
    )
    # Twice the rows take twice as long in each epoch, but start no later.
    assert work.end and estimate_of(sweep.models[0], sweep, 12, heldout=8).minutes * 60 == pytest.approx(
        4 + 2 * 39 + 0.6
    )
    # Other models, of another size or on other devices, are not told by it.
    assert all(trial.told_by == 0 for trial in planned(tmp_path, GPU_MODELS))
    assert past_of(replace(work, parameters=100 * work.parameters)) is None
    # Where a line is cut, or another machine's, the others are read.
    file = speed.parent / FILE
    line = file.read_text()
    file.write_text(line[:50] + "\n[]\n" + line.replace(str(machine_name("cpu")), "another") + line)
    (again, *_) = planned(tmp_path, CPU_MODELS)
    assert 60 * again.minutes == pytest.approx(43.6) and again.told_by == 1


def test_how_far_past_trials_would_have_been_off_is_said(speed: Path, tmp_path: Path) -> None:
    (first, *_) = planned(tmp_path, CPU_MODELS)
    assert first.work is not None
    work, seconds = first.work, {"start": 4.0, "train": 9.0, "measure": 30.0, "save": 0.6}

    def past(*factors: float) -> Past:
        return Past(tuple(Ended(work, 6, {part: each * much for part, each in seconds.items()}) for much in factors))

    assert past(1, 1).error is None
    assert past(1, 1.1, 0.9, 1, 1).error == 1.5  # never said to be nearer
    assert (past(1, 1, 1, 4, 4).error or 0) > 2
    for _ in range(3):
        remember(work, 6, seconds)
    assert error_said(planned(tmp_path, CPU_MODELS)) == (
        "from 3 trials of about this size that ended on this machine; "
        "four of five such estimates are within a factor of 1.5"
    )
