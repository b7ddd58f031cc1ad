"""Forget quality and privleak, which join a trial's evaluation once the retrained model beside it has one.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy import stats

from icu_ray.config.file import resolve_config
from icu_ray.evaluation.benchmarks.derived import FORGET_QUALITY, beside_retrained
from icu_ray.evaluation.stage.results import store_evaluation
from icu_ray.evaluation.task import DocumentScore, Scores, TaskSource
from icu_ray.methods import RETRAINED
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.trial import Trial
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.epoch_files import read_epoch_evaluations, write_epoch_evaluations
from icu_ray.storage.files import join, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.store import Store, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, write_evaluation
from icu_ray.sweep import retrained_measures
from icu_ray.sweep.retrained_measures import add_retrained_measures

TASKS = {"tofu_forget": "a", "tofu_holdout": "b"}
ROWS = 12
AREA = "tofu/mia_min_k"
NOTHING = dict.fromkeys(f"tofu/{name}" for name in (*FORGET_QUALITY, "privleak", "rel_diff"))
"""What cannot be said without a retrained model is null."""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    tree = {
        "name": "t",
        "storage": str(tmp_path),
        "data": {"source": "synthetic", "records": 24, "sample_size": 4, "heldout": 4},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
        "models": [{"name": "small", "standin": {"size": "small"}, "retrained": True}],
        "methods": [{"name": "kumpr"}],
    }
    return plan_sweep(resolve_config(tree, "t"), dry_run=True)


def evaluated(
    plan: Plan, trial: Trial, seed: int = 1, tasks: dict[str, str] = TASKS, hashes: tuple[str, str] = ("x", "y")
) -> dict[str, np.ndarray]:
    """Give a trial an evaluation of random rows; the truth ratios of its own model, and the scores of both sets."""
    random, tables, own = np.random.default_rng(seed), [], {}
    for model in dict.fromkeys((trial.model.name, trial.name)):
        for task in tasks:
            columns = {"truth_ratio_raw": random.random(ROWS), "mia_min_k": random.random(ROWS)}
            if model == trial.name:
                own |= {f"{task}/{name}": values for name, values in columns.items()}
            order = random.permutation(ROWS)  # rows may stand in any order
            told = {name: values[order] for name, values in columns.items()}
            tables.append(pa.table({"model": [model] * ROWS, "task": [task] * ROWS, "document": order, **told}))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.concat_tables(tables), buffer)
    paths, content = paths_of(plan, trial), buffer.getvalue()
    write_atomic(paths.documents, content)
    digest = hashlib.sha256(content).hexdigest()
    write_evaluation(paths, TrialEvaluation(tasks, hashes, {}, {"tofu/forget_Q_A_Prob": 0.5}, {}, digest))
    return own


def paths_of(plan: Plan, trial: Trial) -> TrialPaths:
    return TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)


def after(plan: Plan, trial: Trial) -> dict[str, float | None]:
    """All but the AUC, which needs no other model."""
    found = read_evaluation(paths_of(plan, trial))
    assert found is not None
    return {name: value for name, value in found.after.items() if name != AREA}


def both(plan: Plan) -> tuple[Trial, Trial]:
    gold = next(trial for trial in plan.trials if trial.settings.method == RETRAINED)
    return next(trial for trial in plan.trials if trial is not gold), gold


def test_rows_are_compared_with_the_retrained_models(plan: Plan) -> None:
    trial, gold = both(plan)
    own = evaluated(plan, trial, 1)
    add_retrained_measures(plan)
    assert after(plan, trial) == {"tofu/forget_Q_A_Prob": 0.5, **NOTHING}  # nothing to compare with yet
    theirs = evaluated(plan, gold, 2)
    add_retrained_measures(plan)
    found = after(plan, trial)
    ratio = "tofu_forget/truth_ratio_raw"
    assert found["tofu/forget_quality"] == pytest.approx(stats.ks_2samp(own[ratio], theirs[ratio]).pvalue)

    def area(of: dict[str, np.ndarray]) -> float:
        members, others = of["tofu_forget/mia_min_k"], of["tofu_holdout/mia_min_k"]
        return float((others[:, None] > members[None]).mean())

    privleak = 100 * ((1 - area(own)) - (1 - area(theirs))) / (1 - area(theirs))
    assert found["tofu/privleak"] == pytest.approx(privleak)
    assert after(plan, gold)["tofu/forget_quality"] == 1.0 and after(plan, gold)["tofu/privleak"] == pytest.approx(0)
    assert found["tofu/forget_Q_A_Prob"] == 0.5


def test_numbers_of_its_own_rows_that_an_earlier_version_did_not_make_join_too(plan: Plan) -> None:
    trial, _ = both(plan)
    own = evaluated(plan, trial, 1)
    add_retrained_measures(plan)
    members, others = own["tofu_forget/mia_min_k"], own["tofu_holdout/mia_min_k"]
    found = read_evaluation(paths_of(plan, trial))
    assert found is not None and found.after[AREA] == pytest.approx((others[:, None] > members[None]).mean())
    assert found.before[AREA] not in (None, found.after[AREA])


def test_what_was_asked_otherwise_is_not_compared(plan: Plan) -> None:
    trial, gold = both(plan)
    evaluated(plan, trial, 1)
    evaluated(plan, gold, 2, {**TASKS, "tofu_forget": "other conventions"})
    add_retrained_measures(plan)
    assert after(plan, trial) == {"tofu/forget_Q_A_Prob": 0.5, **NOTHING}


def test_what_was_beside_another_retrained_model_does_not_stay(plan: Plan) -> None:
    trial, gold = both(plan)
    evaluated(plan, trial, 1)
    evaluated(plan, gold, 2)
    add_retrained_measures(plan)
    assert after(plan, trial)["tofu/privleak"] is not None
    for others in ((trial,), (trial, replace(gold, trial_id="another, of which nothing is known yet"))):
        add_retrained_measures(replace(plan, trials=others))
        assert after(plan, trial) == {"tofu/forget_Q_A_Prob": 0.5, **NOTHING}
        add_retrained_measures(plan)
        assert after(plan, trial)["tofu/privleak"] is not None


def test_a_trial_that_changed_nothing_has_its_models_numbers(plan: Plan) -> None:
    trial, gold = both(plan)
    original = replace(trial, trial_id="as it is", name="original-small-s0")
    own = evaluated(plan, replace(original, name="small"), hashes=("x", "x"))
    theirs = evaluated(plan, gold, 2)
    add_retrained_measures(replace(plan, trials=(original, gold)))
    ratio = "tofu_forget/truth_ratio_raw"
    expected = pytest.approx(stats.ks_2samp(own[ratio], theirs[ratio]).pvalue)
    assert after(plan, original)["tofu/forget_quality"] == expected


def test_a_trial_whose_evaluation_failed_has_no_numbers_of_its_model(plan: Plan) -> None:
    trial, gold = both(plan)
    evaluated(plan, replace(trial, name="small"))  # the original model's documents alone, though the trial changed it
    evaluated(plan, gold, 2)
    add_retrained_measures(plan)
    assert after(plan, trial) == {"tofu/forget_Q_A_Prob": 0.5, **NOTHING}
    before = read_evaluation(paths_of(plan, trial))
    assert before is not None and before.before["tofu/forget_quality"] is not None


def test_the_rows_that_count_and_the_floor_are_said() -> None:
    ratios = np.arange(40.0)
    known = np.where(ratios < 2, ratios, np.nan)
    found = beside_retrained(
        "tofu", {"tofu_forget": {"truth_ratio_raw": known}}, {"tofu_forget": {"truth_ratio_raw": ratios}}
    )
    assert found["tofu/forget_quality"] == 1.0
    assert (found["tofu/forget_quality_rows"], found["tofu/forget_quality_rows_asked"]) == (2, 40)
    assert found["tofu/forget_quality_floor_log10"] == pytest.approx(np.log10(2 / 6))


def test_privleak_is_none_where_the_retrained_model_tells_all_apart() -> None:
    def sides(members: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        return {"tofu_forget": {"mia_min_k": members}, "tofu_holdout": {"mia_min_k": np.arange(10.0)}}

    found = beside_retrained("tofu", sides(np.arange(10.0)), sides(np.arange(10.0) - 100))
    assert found["tofu/privleak"] is None and found["tofu/rel_diff"] == pytest.approx(-50)
    found = beside_retrained("tofu", sides(np.arange(10.0)), sides(np.arange(10.0) - 5))
    assert found["tofu/privleak"] is not None


def test_epochs_get_them_from_the_store_and_keep_them_where_that_lost_the_rows(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, gold = both(plan)
    source = TaskSource("tofu_forget", {"asks": "a"}, lambda: pytest.fail("nothing is asked"))
    tasks = {source.name: content_hash(dict(source.identity))}
    monkeypatch.setattr(retrained_measures, "open_tasks", lambda names, options: [source])
    ratios = np.random.default_rng(5).random(ROWS)
    scores = Scores({}, tuple(DocumentScore(n, "", "", (), {"truth_ratio_raw": r}) for n, r in enumerate(ratios)))
    store = Store(join(plan.config.storage, "store"))
    store_evaluation(store, "epoch 1", "hash of 1", "float32", source, scores)
    paths, measured = paths_of(plan, trial), {"tofu/forget_Q_A_Prob": 0.5}
    write_epoch_evaluations(paths, [EpochEvaluation(n, f"hash of {n}", tasks, measured) for n in (1, 2)])
    quality = {f"tofu/{name}": None for name in FORGET_QUALITY}

    def epochs() -> list[dict[str, float | None]]:
        return [dict(each.metrics) for each in read_epoch_evaluations(paths)]

    # Before the retrained model is there; of epoch 2 the store knows nothing.
    add_retrained_measures(plan)
    assert epochs() == [{**measured, **quality}, measured]
    theirs = evaluated(plan, gold, 2, tasks)
    add_retrained_measures(plan)
    first, second = epochs()
    assert first["tofu/forget_quality"] == pytest.approx(
        stats.ks_2samp(ratios, theirs["tofu_forget/truth_ratio_raw"]).pvalue
    )
    assert second == measured
    # Beside the same retrained model nothing is read again; what was found stays where the store lost its rows.
    remove(join(plan.config.storage, "store"))
    add_retrained_measures(plan)
    assert epochs() == [first, second]
    add_retrained_measures(replace(plan, trials=(trial,)))
    assert epochs() == [first, second]
