"""Each row's values of a benchmark's evaluation in the files that are written for OpenUnlearning's tools.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from icu_ray.cli.main import main
from icu_ray.evaluation.task import DocumentScore
from icu_ray.metrics.forget_quality import forget_quality
from icu_ray.storage.imported_files import read_imported
from icu_ray.storage.trial_files import TrialPaths, read_evaluation
from tests.support.documents_case import Rows, evaluate_by_hand
from tests.support.report_case import REFERENCE, Cell, write_sweep

CELLS = [Cell(), Cell("retrained", "retrained", 0.0, 0.0)]
ICU = CELLS[0].trial_id
MORE = {"tofu/mia_min_k": 0.75, "tofu/privleak": -50.0, "tofu/forget_quality": 0.02, "tofu/model_utility": 0.4}
MORE |= {"tofu/forget_Truth_Ratio_prob_mean": 0.6}


def rows(seed: int, count: int = 12) -> Rows:
    """A model's documents of three of TOFU's sets, with numbers drawn."""
    drawn = np.random.default_rng(seed)

    def one(number: int, members: bool) -> DocumentScore:
        p, right, wrong, raw = (float(value) for value in drawn.uniform(0.01, 1, 4))
        known = {"prob": p, "avg_loss": -float(np.log(p)), "prob_right": right, "prob_wrong": wrong}
        known |= {"truth_ratio_raw": raw, "truth_ratio": min(raw, 1 / raw)}
        known |= {"exact_memorisation": p / 2, "extraction_strength": p / 3, "mia_min_k": 3.0 - p} if members else {}
        return DocumentScore(number, REFERENCE, "", (-1.0,), known, "Who lives there?")

    said = [
        DocumentScore(i, REFERENCE, "Bob does", (), {"rouge": float(drawn.uniform())}, "Who lives there?")
        for i in range(count)
    ]
    holdout = [DocumentScore(i, "Oslo", "", (-1.0,), {"mia_min_k": 5.0 + i}) for i in range(3)]
    return {
        "tofu_forget": [one(i, True) for i in range(count)],
        "tofu_forget_said": said,
        "tofu_retain": [one(i, False) for i in range(count)],
        "tofu_holdout": holdout,
    }


def exported(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = write_sweep(tmp_path, "s", CELLS)
    for number, cell in enumerate(CELLS, start=1):
        evaluate_by_hand(folder, cell.trial_id, rows(0), rows(number), MORE)
    assert main(["report", str(folder), "--format", "open-unlearning"]) == 0
    out = folder / "report" / "open-unlearning"
    icu, gold = (json.loads(next(out.glob(f"{name}-*")).read_text()) for name in ("icu", "retrained"))
    return folder, icu, gold


def test_rows_bear_the_names_and_keys_of_the_other_framework(tmp_path: Path) -> None:
    _, icu, _ = exported(tmp_path)
    forget, said = rows(1)["tofu_forget"], rows(1)["tofu_forget_said"]
    second = {name: metric["value_by_index"]["1"] for name, metric in icu.items() if "value_by_index" in metric}
    known = forget[1].metrics
    assert second["forget_Q_A_Prob"] == {"prob": known["prob"], "avg_loss": known["avg_loss"]}
    assert second["forget_Q_A_PARA_Prob"] == {"prob": known["prob_right"]}
    assert second["forget_Q_A_PERT_Prob"] == {"prob": known["prob_wrong"]}
    assert second["forget_Truth_Ratio"] == second["forget_truth_ratio"] == {"score": known["truth_ratio_raw"]}
    wrong = known["truth_ratio_raw"] * known["prob_right"]
    assert second["forget_Truth_Ratio_prob_mean"]["score"] == pytest.approx(
        known["prob_right"] / (known["prob_right"] + wrong)
    )
    assert second["exact_memorization"] == {"score": known["exact_memorisation"]}
    assert second["extraction_strength"] == {"score": known["extraction_strength"]}
    assert second["forget_Q_A_ROUGE"] == {
        "rougeL_recall": said[1].metrics["rouge"],
        "input": "Who lives there?",
        "ground_truth": REFERENCE,
        "generation": "Bob does",
    }
    attack = icu["mia_min_k"]
    assert attack["agg_value"] == 0.75 and "value_by_index" not in attack
    assert attack["holdout"] == {"agg_value": 6.0, "value_by_index": {str(i): {"score": 5.0 + i} for i in range(3)}}
    assert attack["forget"]["value_by_index"]["1"] == {"score": known["mia_min_k"]}
    assert "value_by_index" not in icu["model_utility"]
    for name, key in (("forget_Q_A_Prob", "prob"), ("retain_Q_A_Prob", "prob"), ("extraction_strength", "score")):
        values = [row[key] for row in icu[name]["value_by_index"].values()]
        assert len(values) == 12 and fmean(values) == pytest.approx(icu[name]["agg_value"])


def test_forget_quality_can_be_computed_from_two_files_as_they_do(tmp_path: Path) -> None:
    _, icu, gold = exported(tmp_path)
    own, other = (
        [row["score"] for row in each["forget_truth_ratio"]["value_by_index"].values()] for each in (icu, gold)
    )
    ours = forget_quality(*(np.asarray([d.metrics["truth_ratio_raw"] for d in rows(n)["tofu_forget"]]) for n in (1, 2)))
    assert stats.ks_2samp(own, other).pvalue == pytest.approx(ours.p)


def test_what_is_read_again_has_the_same_aggregates_and_numbers(tmp_path: Path) -> None:
    folder, icu, _ = exported(tmp_path)
    file = next((folder / "report" / "open-unlearning").glob("icu-*"))
    assert main(["import", str(file), "--out", str(folder), "--label", "again"]) == 0
    again = read_imported(str(tmp_path), "s", "again")
    assert again is not None
    for name, metric in icu.items():
        assert again.metrics[name].aggregate == metric["agg_value"]
        texts = ("input", "ground_truth", "generation")
        numbers = {
            number: {key: value for key, value in row.items() if key not in texts}
            for number, row in metric.get("value_by_index", {}).items()
        }
        assert again.metrics[name].rows == numbers
    assert again.metrics["mia_min_k/holdout"].aggregate == 6.0
    evaluation = read_evaluation(TrialPaths.of(str(tmp_path), "s", ICU))
    assert evaluation is not None
    for name, value in evaluation.after.items():
        assert again.metrics[name.removeprefix("tofu/")].aggregate == pytest.approx(value)


def test_without_its_documents_a_trial_keeps_its_aggregates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, *_ = exported(tmp_path)
    (folder / "trials" / ICU / "documents.parquet").write_bytes(b"PAR1")
    assert main(["report", str(folder), "--format", "open-unlearning"]) == 1
    assert "documents.parquet: is not what its evaluation wrote" in capsys.readouterr().err
    out = folder / "report" / "open-unlearning"
    icu, gold = (json.loads(next(out.glob(f"{name}-*")).read_text()) for name in ("icu", "retrained"))
    assert icu["forget_Q_A_PARA_Prob"].keys() == {"agg_value"}
    assert len(gold["forget_Q_A_PARA_Prob"]["value_by_index"]) == 12
