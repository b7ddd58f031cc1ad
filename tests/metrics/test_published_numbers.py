"""The aggregates of published evaluation logs from their per-row numbers: TOFU's Llama-2-7B and MUSE's eight methods.

Needs: ../shared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.metrics.answers import mean_of, normalised_probabilities, probabilities, truth_ratio_scores, truth_ratios
from icu_ray.metrics.forget_quality import forget_quality, model_utility
from icu_ray.metrics.membership import auc, privleak

TOFU = ("full", "retain90", "retain95", "retain99")
MUSE = ("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "whp", "tv")


def read(shared: Path, name: str) -> dict[str, Any]:
    file = shared / "published" / name
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def tofu(shared: Path) -> dict[str, Any]:
    return read(shared, "tofu_llama2_7b.json")


@pytest.fixture(scope="module")
def muse(shared: Path) -> dict[str, Any]:
    return read(shared, "muse_failure_logs.json")


def ratios(rows: dict[str, Any]) -> tuple[list[float], list[list[float]]]:
    return rows["avg_paraphrased_loss"], rows["avg_perturbed_loss"]


@pytest.mark.parametrize("model", TOFU)
def test_aggregates_of_tofu(tofu: dict[str, Any], model: str) -> None:
    told, parts = tofu["results"][model]["aggregates"], {}
    for name, prefix in (("retain", "retain"), ("real_authors", "ra"), ("world_facts", "wf"), ("forget", "forget")):
        rows = tofu["models"][model][name]
        normal = prefix in ("ra", "wf")
        losses = rows["avg_gt_loss"]
        probs = normalised_probabilities(losses, rows["avg_perturbed_loss"]) if normal else probabilities(losses)
        kind = "forget" if name == "forget" else "retain"
        found = {
            "prob": mean_of(probs).value,
            "rougeL_recall": mean_of(rows["rougeL_recall"]).value,
            "truth_ratio": mean_of(truth_ratio_scores(*ratios(rows), kind)).value,
        }
        assert found == pytest.approx(told[name], rel=1e-6)
        keys = (f"{prefix}_Q_A_Prob" + "_normalised" * normal, f"{prefix}_Q_A_ROUGE", f"{prefix}_Truth_Ratio")
        parts.update(zip(keys, found.values(), strict=True))
    assert model_utility(parts) == pytest.approx(told["model_utility"], rel=1e-6)


def test_the_printed_numbers_of_tofu(tofu: dict[str, Any]) -> None:
    forget = {model: tofu["models"][model]["forget"] for model in TOFU}
    for model, ratio in (("full", 0.515985), ("retain90", 0.674019)):
        assert mean_of(truth_ratio_scores(*ratios(forget[model]), "forget")).value == pytest.approx(ratio, abs=1e-6)
    own = {model: truth_ratios(*ratios(forget[model])) for model in TOFU}
    told = tofu["forget_quality"]["full_vs_retain90_first300"]
    quality = forget_quality(own["full"], own["retain90"])
    assert quality.p == pytest.approx(told["p_value"], rel=1e-9) == pytest.approx(1.834066e-21, rel=1e-6)
    assert quality.log10 == pytest.approx(told["log10_p"], rel=1e-9)
    assert quality.statistic == pytest.approx(told["ks_statistic"]) and quality.counted == 300
    for model in ("retain90", "retain95", "retain99"):
        assert forget_quality(own[model], own[model]).p == 1
    # TOFU's own code compares 1 / R: the order is turned round, the p-value is the same.
    assert forget_quality(1 / own["full"], 1 / own["retain90"]).p == pytest.approx(told["p_value"], rel=1e-9)


@pytest.mark.parametrize("method", MUSE)
def test_aucs_and_means_of_muse(muse: dict[str, Any], method: str) -> None:
    told = muse["methods"][method]
    scores = told["privleak"]
    assert len(told["auc_stored"]) == 15
    for name, area in told["auc_stored"].items():
        first, second, measure = name.split("_", 2)
        # MUSE asks how often the first is larger; the larger one is a non-member here.
        found = auc(scores[second][measure], scores[first][measure])
        assert found.value == pytest.approx(area, abs=1e-12), name
        assert (found.members, found.others) == (100, 100)
    leak = told["privleak_value"]
    own = auc(scores["forget"]["Min-40%"], scores["holdout"]["Min-40%"])
    assert privleak(own.value, 1 - leak["auc_retrain"]) == pytest.approx(leak["value"], rel=1e-8)
    for name in ("knowmem_f", "knowmem_r", "verbmem_f"):
        if name in told:
            mean = mean_of(told[name]["rougeL_f1"])
            assert mean.value == pytest.approx(told[name]["mean_rougeL_stored"], abs=1e-9)  # of values with 9 digits


def test_all_logs_are_read(muse: dict[str, Any], tofu: dict[str, Any]) -> None:
    assert set(MUSE) == set(muse["methods"]) and set(TOFU) == set(tofu["models"])
    assert sum(name in muse["methods"][m] for m in MUSE for name in ("knowmem_f", "knowmem_r", "verbmem_f")) >= 23
