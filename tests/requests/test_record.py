"""The record of a request: what it names, what it never holds, and what it says of earlier requests.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config import SweepConfig
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.report.formats.record_page import record_html
from icu_ray.requests.recheck import make_record
from icu_ray.requests.record import (
    Asked,
    earlier_record,
    leave_record,
    plain_verdict,
    said_of_earlier,
    thresholds_told,
)
from icu_ray.requests.request_config import unlearn_config
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import Provenance, SampleRecord, Scores, TrialResult, TrialSpec
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_samples, start_trial, write_result, write_samples
from icu_ray.storage.verdict import verdict_of
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

TEXTS = [" ".join(f"w{20 + (7 * n + k) % 40}" for k in range(12)) for n in range(6)]
BEFORE = Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0, ppl_heldout=20.0)
AFTER = replace(BEFORE, ma=0.4, el=0.01, ppl_heldout=25.0)
LIMITS = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=1.5, ngram=2)


def saved(folder: Path, seed: int) -> Path:
    tiny_model("gpt_neo", seed=seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"id": f"{path.stem}-{n}", "text": t}) + "\n" for n, t in enumerate(texts)))
    return str(path)


def request(tmp_path: Path, model: Path, out: Path, trial: str, texts: list[str]) -> tuple[SweepConfig, TrialPaths]:
    """A request whose trial has ended, written by hand; its unlearned model is another random one."""
    forget = write(tmp_path / f"forget-{trial}.jsonl", texts)
    config = unlearn_config(
        str(model),
        forget=forget,
        retain=write(tmp_path / "retain.jsonl", TEXTS[4:]),
        heldout=write(tmp_path / "heldout.jsonl", TEXTS[3:4]),
        id_column="id",
        out=str(out),
        overrides=["el.ngram=2"],
    )
    paths = TrialPaths.of(str(out), "run-1", trial)
    made = Provenance(
        "0.1.0", "c0ffee", False, "d" * 64, folder_fingerprint(model), {"torch": "2"}, config.model_dump()
    )
    start_trial(paths, TrialSpec(trial, "n", "m", "icu", 0, {}))
    after = saved(Path(paths.model), seed=len(trial))
    samples = [
        SampleRecord(f"forget-{trial}-{n}", "p", "r", "b", "a", 0.9, 0.4, 0.1, 0.1, True, cut_tokens=0)
        for n in range(len(texts))
    ]
    write_samples(paths, samples)
    values = (trial, "n", "m", "icu", 0, {"beta": 1.0}, "finished", "after epoch 2", 2, BEFORE, AFTER, {"total": 3.0})
    ended = {"thresholds": LIMITS, "model_hash": folder_fingerprint(after)}
    write_result(paths, TrialResult(*values, made, 1_700_000_000.0, **ended))  # type: ignore[arg-type]
    return config, paths


def record_of(asked: Asked, config: SweepConfig, paths: TrialPaths) -> dict[str, Any]:
    from icu_ray.storage.trial_files import read_result

    result = read_result(paths)
    assert result is not None and result.before is not None and result.after is not None
    scores = {"before": plain(result.before), "after": {**plain(result.after), "cls/avg": 0.5}}
    verdict = plain_verdict(result, verdict_of(result))
    record = make_record(asked, config, paths, scores, verdict)
    run = Path(paths.root).parents[1]
    leave_record(record, run, run.parent)
    return record


def test_a_record_names_everything_and_holds_no_text(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", 0)
    config, paths = request(tmp_path, model, tmp_path / "out", "a", TEXTS[:2])
    asked = Asked("icu-ray unlearn --model model", "ticket <17>", "Anna B.")
    record = record_of(asked, config, paths)
    files = [(tmp_path / "out" / name).read_text() for name in ("record.json", "record.html")]
    assert json.loads(files[0]) == json.loads(json.dumps(record))
    assert not any(text[:30] in file for text in TEXTS for file in files)
    page = files[1]
    assert "Record of deletion request ticket &lt;17&gt;" in page and "Anna B." in page and ">Forgotten.<" in page
    assert "20.00 → 25.00 (× 1.25)" in page and "EL2" in page and "EL10" not in page and "the paper" in page
    # Of the held-out texts the perplexity alone was measured.
    assert "<dt>held-out texts</dt><dd>not measured</dd>" in page
    assert "cls/avg" in page and "not measured → 50.0 %" in page
    assert record["ended"] == "2023-11-14T22:13:20Z" and record["started"].endswith("Z")
    assert record["texts"]["each"][1]["sha256"] == hashlib.sha256(TEXTS[1].encode()).hexdigest()
    assert (record["texts"]["count"], record["texts"]["row_tokens"], record["texts"]["cut"]) == (2, 12, 0)
    assert record["texts"]["in_windows"] == 0 and "windows" not in page
    assert record["texts"]["each"][0]["el2_after"] is None and record["scores"]["after"]["el2"] == 0.01
    assert record["model"]["sha256_before"] == folder_fingerprint(model)
    assert record["model"]["sha256_after"] == folder_fingerprint(Path(paths.model)) == record_hash(tmp_path / "out")
    source = "MA: the paper (section V-D); EL2: the paper (section V-D)"
    known = {"ma": 0.5994, "el2": 0.0499, "rule": "and", "from": source, "at_most": [], "max_ppl_ratio": 1.5}
    assert record["thresholds"] == known
    ended = {"forgotten": True, "success": True, "status": "finished", "reason": "after epoch 2", "epochs": 2}
    assert {key: record["verdict"][key] for key in ended} == ended and record["verdict"]["left"] == []
    assert record["earlier_requests"] == [] and record["cost"]["first_original"]["perplexity"] is None


def test_a_record_tells_of_texts_forgotten_in_windows(tmp_path: Path) -> None:
    config, paths = request(tmp_path, saved(tmp_path / "model", 0), tmp_path / "out", "a", TEXTS[:2])
    first, second = read_samples(paths)
    write_samples(paths, [replace(first, windows=3), second])
    texts = record_of(Asked(), config, paths)["texts"]
    assert (texts["in_windows"], texts["cut"], [each["windows"] for each in texts["each"]]) == (1, 0, [3, 1])
    page = (tmp_path / "out" / "record.html").read_text()
    assert "; 1 of them are longer than 12 tokens, and were forgotten whole, in overlapping windows" in page


def record_hash(out: Path) -> str:
    return str(json.loads((out / "record.json").read_text())["model"]["sha256_after"])


def test_a_second_request_knows_the_first_and_its_texts(tmp_path: Path) -> None:
    first = saved(tmp_path / "model", 0)
    config, paths = request(tmp_path, first, tmp_path / "one", "a", TEXTS[:2])
    record_of(Asked(request_id="r1"), config, paths)
    (tmp_path / "one" / "model").symlink_to(Path(paths.model))
    second = tmp_path / "one" / "model"
    assert earlier_record(str(second), folder_fingerprint(second)) is not None
    assert earlier_record(str(second), "of another model") is None
    earlier = write(tmp_path / "forget-a.jsonl", TEXTS[:2])
    config, paths = request(tmp_path, second, tmp_path / "two", "bb", TEXTS[2:3])
    record = record_of(Asked(also_check=(earlier,)), config, paths)
    assert record["earlier_requests"] == [{"id": "r1", "ended": "2023-11-14T22:13:20Z", "texts": 2, "forgotten": True}]
    assert record["first_original"]["sha256"] == folder_fingerprint(first)
    against = record["cost"]["first_original"]
    assert against["perplexity"] > 1 and against["ratio"] == pytest.approx(25.0 / against["perplexity"])
    (found,) = record["also_checked"]
    assert found["count"] == 2 and [each["id"] for each in found["each"]] == ["forget-a-0", "forget-a-1"]
    assert all(0 <= found["ma"][side] <= 1 for side in ("before", "after"))
    assert found["forgotten"] is True and found["cut"] == 0  # a random model has never known them
    assert said_of_earlier(record)[0][0].startswith(f"still forgotten: {earlier} (MA ")
    # Made again without asking, what was measured on the same model stays.
    assert record_of(Asked(), config, paths)["also_checked"] == record["also_checked"]
    assert "Texts of earlier requests" in (tmp_path / "two" / "record.html").read_text()


@pytest.mark.parametrize(
    ("ma", "el", "rule", "said"),
    [
        (0.4, 0.01, "and", True),
        (0.4, 0.2, "and", False),
        (0.4, None, "and", None),
        (0.9, None, "and", False),
        (0.4, None, "or", True),
        (0.9, None, "or", None),
        (0.9, 0.9, "or", False),
    ],
)
def test_what_was_not_measured_is_not_forgotten(ma: float, el: float | None, rule: str, said: bool | None) -> None:
    limits = Thresholds(Limit(0.6), Limit(0.05), rule)  # type: ignore[arg-type]
    assert limits.judge(ma, el) is said and limits.below(ma, el) is (said is True)


def test_the_page_says_the_cost_and_whose_texts_are_forgotten(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", 0)
    config, paths = request(tmp_path, model, tmp_path / "out", "a", TEXTS[:2])
    record = record_of(Asked(), config, paths)
    record["verdict"]["subjects"] = [
        {"subject": "<17>", "texts": 2, "forgotten": 2, "not_measured": 0, "all_forgotten": True},
        {"subject": "9", "texts": 3, "forgotten": 1, "not_measured": 1, "all_forgotten": False},
    ]
    record["texts"]["each"][0]["subject"] = "<17>"
    page = record_html(record)
    assert "<dt>at what cost?</dt><dd>" in page and "limit" in page.partition("at what cost?")[2].partition("</dd>")[0]
    assert "<dt>&lt;17&gt;</dt><dd>all 2 texts forgotten</dd>" in page
    assert "<dt>9</dt><dd>1 of 3 texts forgotten, 1 not measured</dd>" in page
    assert "<td>&lt;17&gt;</td>" in page and "<td>not said</td>" in page


def test_thresholds_of_held_out_texts_may_be_reached_but_not_passed() -> None:
    limits = Thresholds(Limit(0.3, "heldout", 0.1, 20), Limit(0.0, "heldout", 0.0, 20))
    told = thresholds_told(limits)
    assert told["at_most"] == ["ma", "el10"]
    assert told["from"] == "MA and EL10: the mean of 20 held-out texts before unlearning"
    five = thresholds_told(Thresholds(Limit(0.5994), Limit(0.3), ngram=5))
    assert five["from"] == "MA: the paper (section V-D); EL5: this request (stop.el)" and five["el5"] == 0.3
    for ma, el in ((0.3, 0.0), (0.2, 0.0), (0.3, 0.01), (0.31, 0.0)):
        assert limits.judge(ma, el) is (ma <= 0.3 and el <= 0.0)
    # A threshold that could not be measured judges nothing; the other one still may.
    unknown = replace(limits, ma=Limit(float("nan"), "heldout"))
    assert unknown.judge(0.1, 0.0) is None and unknown.judge(0.1, 0.5) is False
    assert thresholds_told(unknown)["ma"] is None
