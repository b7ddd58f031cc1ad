"""One deletion request as a practitioner makes it: files in, a model out, and a page that says what it cost.

Needs: a Ray of its own.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main, make_parser
from icu_ray.cli.unlearn import answer, next_command
from icu_ray.config import FilterConfig, RecordsData, RowForm, StopConfig
from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.data import records
from icu_ray.data.synthetic import make_records
from icu_ray.errors import UserError
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.requests.next_try import next_tries
from icu_ray.requests.request_config import RUN, unlearn_config
from icu_ray.requests.unlearn import Unlearned, _collect, request_json, unlearn
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import EpochRecord, Scores, TrialEvaluation, TrialResult
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, write_evaluation, write_result
from icu_ray.storage.verdict import verdict_of
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

NO_FILTER = ("filter.encoder=bundled", "filter.encoder_layer=6", "filter.rule=never")
QUICK = ["columns={length: 48, prefix_start: 16, suffix_start: 32}", "el.ngram=5", "train.batch_size=4"]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text(
        "".join(
            json.dumps({"id": f"{path.stem}-{n}", "text": text, "who": f"person {n % 2}"}) + "\n"
            for n, text in enumerate(texts)
        )
    )
    return path


@pytest.mark.slow
def test_a_request_from_files_to_a_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = make_records(3, 0, 60, 48)
    forget, retain = write(tmp_path / "forget.jsonl", texts[:6]), write(tmp_path / "retain.jsonl", texts[6:])
    out = tmp_path / "out"
    command = ["unlearn", "--forget", str(forget), "--retain", str(retain), "--out", str(out), "--id-column", "id"]
    command += ["--subject-column", "who"]
    command += [*QUICK, "models.0.standin.vocabulary=600", "models.0.standin.target_repeats=8", "stop.max_epochs=25"]
    code = main(command)
    said = capfd.readouterr().out
    assert code == 0, said
    assert (
        "\nForgotten" in said
        and "what is left?" in said
        and "memorisation accuracy (MA)" in said
        and "perplexity on held-out texts" in said
    )
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert model.config.vocab_size >= len(tokenizer) > 300
    page = (out / "report.html").read_text()
    assert "Every text, best remembered first" in page
    with (out / "targets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["text"] for row in rows} == {f"forget-{n}" for n in range(6)}
    assert all(row["pair"].startswith("retain-") for row in rows)
    assert {row["text"]: row["subject"] for row in rows} == {f"forget-{n}": f"person {n % 2}" for n in range(6)}
    assert "by subject" in said and "subject person 1" in said and "person 1" in page
    record = json.loads((out / "record.json").read_text())
    assert record["texts"]["count"] == 6 and record["texts"]["row_tokens"] == 48 and record["verdict"]["forgotten"]
    assert (
        f"--out {out}" in record["command"] and record["model"]["sha256_after"] and record["scores"]["after"]["el5"] < 1
    )
    assert not any(
        text[:40] in (out / name).read_text() for text in texts[:6] for name in ("record.json", "record.html")
    )
    # The same request again finds it done; asked to be quiet it says the outcome alone.
    assert main(command) == 0
    assert "0 trials to run, 1 already done" in capfd.readouterr().out
    assert main([*command, "--quiet"]) == 0
    quietly = capfd.readouterr().out
    assert "to run" not in quietly and "Tables:" not in quietly and "Forgotten" in quietly
    assert (out / "model" / "config.json").is_file()
    # For scripts it is one object on standard output, and what goes on stands beside it.
    assert main([*command, "--json"]) == 0
    asked = capfd.readouterr()
    told = json.loads(asked.out)
    assert "0 trials to run, 1 already done" in asked.err
    assert {key: told[key] for key in ("forgotten", "status")} == {"forgotten": True, "status": "finished"}
    assert told["epochs"] > 0 and told["reason"]
    verdict = told["verdict"]
    assert verdict["success"] and verdict["headline"] in said
    assert verdict["cost"]["within"] and verdict["cost"]["limit"] == 1.5
    assert f"<b>{verdict['headline']}</b>" in page
    assert told["before"]["ma"] > told["after"]["ma"] and told["after"]["ppl_heldout"] > 1
    places = [str(out / name) for name in ("model", "report.html", "targets.csv")]
    assert [told[key] for key in ("model", "report", "targets")] == places
    # Another request into the same folder takes the top, and going back finds the first one's model again.
    first, written = (out / "model").resolve(), (out / "targets.csv").read_bytes()
    other = [*command, "--alpha", "0.25"]
    capfd.readouterr()
    assert main([*other, "--verbose"]) == 0
    assert "icu_ray.sweep.trials prepared:" in " ".join(capfd.readouterr().out.split())
    assert (out / "model").resolve() != first and (first / "model.safetensors").is_file()
    assert (out / "targets.csv").read_bytes() != written and "1 of 1 planned trials" in (
        out / "report.html"
    ).read_text()
    assert main(command) == 0
    assert (out / "model").resolve() == first and (out / "targets.csv").read_bytes() == written


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("overlap", "rows to forget"),
        ("twice", "twice"),
        ("same text", "the same text appears twice: 'forget-0' (line 1) and 'other' (line 3)"),
        ("url", "expected a folder of this machine"),
        ("foreign model", "holds a 'model' that is not of an earlier request"),
        ("none", "no such file"),
        ("nothing to forget", "--forget: give a file"),
        ("few", "leave none to pair with"),
        ("no earlier file", "--also-check: "),
    ],
)
def test_a_request_that_cannot_be(tmp_path: Path, what: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    forget = write(tmp_path / "forget.jsonl", ["one text", "another text"])
    retain = write(tmp_path / "retain.jsonl", ["a third text", "one text" if what == "overlap" else "a fourth text"])
    extra = []
    if what == "twice":
        forget.write_text(forget.read_text() * 2)
    if what == "same text":
        forget.write_text(forget.read_text() + json.dumps({"id": "other", "text": "one text"}) + "\n")
    out = "s3://bucket/out" if what == "url" else str(tmp_path / "out")
    if what == "foreign model":
        out = str(tmp_path / "taken")
        (tmp_path / "taken" / "model").mkdir(parents=True)
    if what == "none":
        retain.unlink()
    if what == "no earlier file":
        extra = ["--also-check", str(tmp_path / "gone.jsonl")]
    if what == "few":
        extra = ["data.heldout_rows=2"]
    given = [] if what == "nothing to forget" else ["--forget", str(forget), "--retain", str(retain)]
    model = ["--model", str(tmp_path)] if what == "nothing to forget" else []
    code = main(["unlearn", *model, *given, "--id-column", "id", "--out", out, *extra])
    error = capsys.readouterr().err
    assert code == 2 and said in error, error
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_outcome_for_scripts_is_json_whatever_was_measured(tmp_path: Path) -> None:
    ended = ("status", "epochs", "kept_epoch", "before", "after", "model", "report", "targets", "record")
    assert request_json(Unlearned(tmp_path, RUN, 130, None)) == {
        "forgotten": False,
        "success": False,
        "reason": "",
        "verdict": None,
        "next": [],
        "kept_model": None,
        **dict.fromkeys(ended),
    }
    scores = Scores(0.9, 0.5, 1.0, None, 0.2, 3.0)
    result = TrialResult(
        "i", "n", "m", "icu", 0, {}, "not_forgotten", "why", 2, scores, replace(scores, ppl_heldout=math.inf), {}
    )
    write_evaluation(
        TrialPaths.of(str(tmp_path), RUN, "i"),
        TrialEvaluation({}, ("a", "b"), {"cls/avg": 0.5}, {"cls/avg": 0.25}),
    )
    told = json.loads(json.dumps(request_json(Unlearned(tmp_path, RUN, 0, result)), allow_nan=False))
    assert (told["forgotten"], told["reason"], told["epochs"]) == (False, "why", 2)
    assert told["before"] == {**plain(scores), "cls/avg": 0.5}
    assert told["before"]["el10"] == 0.5
    assert told["after"]["cls/avg"] == 0.25 and told["after"]["ppl_heldout"] is None


@pytest.mark.parametrize(
    ("heldout", "overrides", "expected"),
    [
        (16, [], ("heldout", "heldout")),
        (15, [], (0.5994, 0.0499)),
        (16, ["stop.el=0.1"], ("heldout", 0.1)),
        (16, ["data.heldout_rows=0"], (0.5994, 0.0499)),
        (0, ["data.heldout_rows=20"], ("heldout", "heldout")),
    ],
)
def test_enough_heldout_texts_give_the_thresholds(
    tmp_path: Path, heldout: int, overrides: list[str], expected: tuple[object, object]
) -> None:
    forget = write(tmp_path / "forget.jsonl", ["one text", "another text"])
    retain = write(tmp_path / "retain.jsonl", [f"text number {n}" for n in range(10 * heldout or 30)])
    for given in (None, str(write(tmp_path / "heldout.jsonl", [f"other text {n}" for n in range(heldout)]))):
        if given is not None and (not heldout or any("heldout_rows" in text for text in overrides)):
            continue
        config = unlearn_config(
            "gpt2", forget=str(forget), retain=str(retain), heldout=given, out="o", length=48, overrides=overrides
        )
        # What was set aside from the retain file may have been read: it sets no threshold of a real model.
        numbers = tuple(0.5994 if key == "ma" else 0.0499 for key in ("ma", "el"))
        unread = (
            expected
            if given is not None
            else tuple(number if value == "heldout" else value for value, number in zip(expected, numbers, strict=True))
        )
        assert (config.stop.ma, config.stop.el) == unread
        standin = unlearn_config(
            "standin", forget=str(forget), retain=str(retain), heldout=given, out="o", overrides=overrides
        )
        assert (standin.stop.ma, standin.stop.el) == expected
    stop = unlearn_config("standin", forget=None, out="o").stop
    assert (stop.ma, stop.el) == ("heldout", "heldout")


def test_pairs_of_a_request_do_not_repeat_their_target_unless_asked(tmp_path: Path) -> None:
    files = {
        "forget": str(write(tmp_path / "forget.jsonl", ["one text", "another text"])),
        "retain": str(write(tmp_path / "retain.jsonl", [f"text number {n}" for n in range(30)])),
    }

    def pairs(*overrides: str) -> tuple[float | None, int, str, int | None]:
        config = unlearn_config("gpt2", **files, out="o", length=48, overrides=overrides)
        assert isinstance(config.data, RecordsData)
        found = config.pairs
        return found.max_ngram_overlap, found.candidates, found.overlap_fallback, config.data.heldout_rows

    assert pairs() == (0.1, 50, "least", 3)
    assert pairs("pairs.max_ngram_overlap=null") == (None, 10, "refuse", 3)
    assert pairs("pairs.max_ngram_overlap=0.3") == (0.3, 10, "refuse", 3)
    assert pairs("pairs.candidates=20") == (0.1, 20, "least", 3)
    assert pairs("pairs.by=random") == (None, 10, "refuse", 3)
    # Row i of --retain belongs to text i: none of them may be set aside.
    assert pairs("pairs.by=given") == (None, 10, "refuse", 0)
    assert unlearn_config("standin", forget=None, out="o").pairs.max_ngram_overlap is None


def test_a_request_reads_its_pool_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = records._read
    monkeypatch.setattr(records, "_read", lambda path, *rest: read.append(path.name) or real(path, *rest))
    files = ["--forget", str(write(tmp_path / "forget.jsonl", [words(12), words(10, 5)]))]
    files += ["--retain", str(write(tmp_path / "retain.jsonl", [words(12, n) for n in range(20, 40)]))]
    asked = ["unlearn", "--model", str(a_model(tmp_path / "model")), *files, "--out", str(tmp_path / "out")]
    assert main([*asked, "el.ngram=2", "filter.encoder=bundled", "filter.encoder_layer=1", "--dry-run"]) == 0
    assert read.count("retain.jsonl") == 1 and read.count("forget.jsonl") == 1
    file = tmp_path / "forget.jsonl"
    with records.reading_once():
        first = records.read_records(file, RowForm(), None, "data.forget")
        assert records.read_records(file, RowForm(), None, "data.forget") is first
        assert records.read_records(file, RowForm(), "id", "data.forget")[0].id == "forget-0"
        write(file, [words(12)])
        assert len(records.read_records(file, RowForm(), None, "data.forget")) == 1
    assert records.read_records(file, RowForm(), None, "data.forget") is not first


def test_the_cost_limit_is_that_of_unlearn_alone() -> None:
    config = unlearn_config("standin", forget=None, out="o")
    assert (config.stop.max_ppl_ratio, config.eval.heldout) == (1.5, "epochs")
    free = unlearn_config("standin", forget=None, out="o", overrides=["stop.max_ppl_ratio=null"])
    assert free.stop.max_ppl_ratio is None
    assert load_config(find_config("table1")).stop.max_ppl_ratio is None


def ended(out: Path, run: str, status: str, ppl: float = 20.0) -> Unlearned:
    """A request as its trial leaves it; status: of the result."""
    before = Scores(0.95, 0.8, 0.1, 0.9, 0.8, 4.0, 0.8, 20.0)
    ma = 0.4 if status == "finished" else 0.9
    after = replace(before, ma=ma, el=0.01, ppl_heldout=ppl)
    limits = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=1.5)
    result = TrialResult("i", "n", "m", "icu", 0, {}, status, "why", 2, before, after, {}, thresholds=limits)  # type: ignore[arg-type]
    paths = TrialPaths.of(str(out), run, "i")
    Path(paths.model).mkdir(parents=True)
    write_result(paths, result)
    return Unlearned(out, run, 0, result)


def test_a_model_that_forgot_keeps_its_place_from_one_that_did_not(tmp_path: Path) -> None:
    top = tmp_path / "model"
    first = ended(tmp_path, "run-1", "not_forgotten")
    _collect(first)
    assert first.model == top and first.kept is None
    good = ended(tmp_path, "run-2", "finished")
    _collect(good)
    assert good.model == top and top.resolve() == tmp_path / "run-2" / "trials" / "i" / "model"
    for number, (status, ppl) in enumerate((("not_forgotten", 20.0), ("finished", 31.0), ("failed", 20.0))):
        worse = ended(tmp_path, f"run-worse-{number}", status, ppl)
        _collect(worse)
        assert top.resolve() == tmp_path / "run-2" / "trials" / "i" / "model"
        assert not worse.success and worse.kept == top
        told = request_json(worse)
        assert (told["kept_model"], told["model"]) == (str(top), str(tmp_path / worse.run / "trials" / "i" / "model"))
    better = ended(tmp_path, "run-3", "finished")
    _collect(better)
    assert better.model == top and top.resolve().parent.parent.parent.name == "run-3"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_answer_is_as_wide_as_the_terminal_and_cuts_no_path(columns: int, tmp_path: Path) -> None:
    out = tmp_path / ("a folder of some length " * 5)
    done = ended(out, "run-1", "finished", 496.6)
    assert done.result is not None and done.result.before is not None and done.result.after is not None
    heldout = {"ma_heldout": 0.54, "el_heldout": 0.2345, "heldout_texts": 16, "distinct_heldout": 0.8}
    limits = Thresholds(Limit(0.54, "heldout", 0.1, 16), Limit(0.2345, "heldout", 0.1, 16), "and", 1.5, 10, 7)
    before, after = replace(done.result.before, **heldout), replace(done.result.after, **heldout, distinct=0.1)
    done = replace(done, result=replace(done.result, before=before, after=after, thresholds=limits))
    text = answer(done, ["still forgotten: an-earlier-file.jsonl (MA 12.0 % -> 13.0 %), as was asked"], columns)
    lines = text.split("\n")
    assert [line for line in lines if len(line) > columns and str(out) not in line] == []
    assert str(done.model) in text and not any(line.endswith(" ") for line in lines)
    said = " ".join(text.split())
    assert "16 texts: mean MA 54.00 % -> 54.00 %, mean EL10 23.45 % -> 23.45 % the thresholds of MA and EL10" in said
    assert "NOT acceptable: the texts are forgotten, but held-out perplexity is 24.83 times what it was" in said


@pytest.mark.slow
def test_a_model_that_is_destroyed_is_no_success_and_the_best_epoch_may_be_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    texts = make_records(3, 0, 60, 48)
    forget, retain = write(tmp_path / "forget.jsonl", texts[:6]), write(tmp_path / "retain.jsonl", texts[6:])
    out = tmp_path / "out"
    command = ["unlearn", "--forget", str(forget), "--retain", str(retain), "--out", str(out), "--method", "kumpr"]
    command += [*QUICK, "models.0.standin.vocabulary=600", "models.0.standin.target_repeats=8", "stop.max_epochs=25"]

    assert main([*command, "optim.lr=3e-3"]) == 1
    said = capfd.readouterr().out
    assert "\nNOT acceptable: the texts are forgotten, but held-out perplexity is " in said
    assert "Next: it cost too much: try smaller steps" in said
    destroyed = json.loads((out / "record.json").read_text())
    assert not destroyed["verdict"]["success"] and destroyed["model"]["sha256_after"]
    assert "forgotten, too costly" in said and "forgot in 1 of 1 trials" not in (out / "report.html").read_text()

    assert main([*command, "optim.lr=2e-4", "stop.keep=best"]) == 1
    assert "is kept as the best, with MA " in capfd.readouterr().out
    results = [json.loads(file.read_text()) for file in out.glob("run-*/trials/*/result.json")]
    best = next(result for result in results if result["kept_epoch"] is not None)
    assert len(results) == 2 and 0 < best["kept_epoch"] < best["epochs"]
    lines = (
        (out / f"run-{best['trial_id'][:8]}" / "trials" / best["trial_id"] / "events.jsonl").read_text().splitlines()
    )
    ppl = json.loads(lines[best["kept_epoch"]])["scores"]["ppl_heldout"]
    assert best["after"]["ppl_heldout"] == pytest.approx(ppl, rel=1e-6)
    assert best["after"]["ppl_heldout"] <= 1.5 * best["before"]["ppl_heldout"]
    assert not list(out.rglob("best-*"))
    loaded = AutoModelForCausalLM.from_pretrained(out / "model")
    assert all(bool(weight.isfinite().all()) for weight in loaded.parameters())


@pytest.mark.parametrize(
    ("ma", "active", "ppl", "changes", "expected"),
    [
        ([0.9, 0.8, 0.7], 3, 22.0, {}, [{"stop.max_epochs": 100}]),
        ([0.9, 0.9, 0.9], 3, 22.0, {}, [{"optim.lr": 2e-5}]),
        ([0.9, 0.8, 0.7], 0, 22.0, {}, [{"filter.rule": "and"}]),
        ([0.9, 0.8, 0.7], 0, 22.0, {"filter": FilterConfig(rule="and")}, [{"filter.bertscore": 0.0}]),
        ([0.9, 0.8, 0.7], 3, 40.0, {}, [{"beta": 2.0, "optim.lr": 5e-6}, {"stop.max_epochs": 1}]),
        ([0.9, 0.6, 0.3], 3, 40.0, {"method": "kumpr"}, [{"optim.lr": 5e-6}, {"stop.max_epochs": 1}]),
        ([0.9, 0.8, 0.7], 3, 40.0, {"stop": StopConfig(keep="best")}, [{"beta": 2.0, "optim.lr": 5e-6}]),
        ([0.9, 0.6, 0.3], 3, 22.0, {}, []),
    ],
)
def test_what_to_try_next_follows_from_what_was_seen(
    ma: list[float], active: int, ppl: float, changes: dict[str, Any], expected: list[dict[str, object]]
) -> None:
    before = Scores(0.95, 0.8, 0.1, 0.9, 0.8, 4.0, 0.8, 20.0)
    scores = [replace(before, ma=value, el=0.01, ppl_heldout=20.0) for value in ma]
    scores[-1] = replace(scores[-1], ppl_heldout=ppl)
    history = [EpochRecord(epoch, 3, each) for epoch, each in enumerate(scores)]
    history[-1] = replace(history[-1], active=active)
    limits = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=1.5)
    status = "finished" if ma[-1] < 0.5994 else "not_forgotten"
    result = TrialResult("i", "n", "m", "icu", 0, {}, status, "why", 2, scores[0], scores[-1], {}, thresholds=limits)  # type: ignore[arg-type]
    verdict = verdict_of(result)
    assert verdict is not None
    usual = {"method": "icu", "alpha": 0.5, "beta": 1.0, "lr": 1e-5, "batch_size": 8, "max_epochs": 50}
    settings = TrialSettings(**(usual | changes))  # type: ignore[arg-type]
    assert [dict(each.changes) for each in next_tries(verdict, history, settings)] == expected


def test_a_kept_earlier_epoch_does_not_hide_that_the_last_was_too_costly() -> None:
    before = Scores(0.95, 0.8, 0.1, 0.9, 0.8, 4.0, 0.8, 20.0)
    kept, last = replace(before, ma=0.8, ppl_heldout=22.0), replace(before, ma=0.4, el=0.01, ppl_heldout=40.0)
    history = [EpochRecord(epoch, 3, each) for epoch, each in enumerate((before, kept, last))]
    limits = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=1.5)
    result = TrialResult("i", "n", "m", "icu", 0, {}, "not_forgotten", "why", 2, before, kept, {}, thresholds=limits)
    verdict = verdict_of(replace(result, kept_epoch=1))
    assert verdict is not None and verdict.cost.within
    settings = TrialSettings("icu", 0.5, 1.0, 1e-5, 8, 50, stop=StopConfig(keep="best"))
    assert [each.changes for each in next_tries(verdict, history, settings)] == [{"beta": 2.0, "optim.lr": 5e-6}]


@pytest.mark.parametrize(
    ("ppl", "limit", "said"),
    [
        (22.0, 1.5, "it only repeats itself, though the cost limit was kept: try a larger beta"),
        (22.0, None, "it only repeats itself: try a larger beta"),
        (None, None, "its perplexity is not a finite number: try a larger beta"),
        (40.0, 1.5, "it cost too much: try a larger beta"),
    ],
)
def test_a_model_that_collapsed_is_not_said_to_have_cost_too_much(
    ppl: float | None, limit: float | None, said: str
) -> None:
    before = Scores(0.95, 0.8, 0.1, 0.9, 0.8, 4.0, 0.8, 20.0)
    after = replace(before, ma=0.3, el=0.01, distinct=0.1, ppl_heldout=ppl)
    history = [EpochRecord(epoch, 3, each) for epoch, each in enumerate((before, replace(before, ma=0.8), after))]
    limits = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=limit)
    result = TrialResult("i", "n", "m", "icu", 0, {}, "finished", "why", 2, before, after, {}, thresholds=limits)
    verdict = verdict_of(result)
    assert verdict is not None and not verdict.success
    first, *others = next_tries(verdict, history, TrialSettings("icu", 0.5, 1.0, 1e-5, 8, 50))
    assert first.why.startswith(said) and first.changes == {"beta": 2.0, "optim.lr": 5e-6}
    assert bool(others) is (verdict.outcome == "too_costly")  # an earlier epoch, where it was the cost


def test_the_next_command_is_the_given_one_with_its_changes() -> None:
    given = ["unlearn", "--model", "my model", "--forget", "f.jsonl", "--out", "o", "--suite", "quick", "--beta", "1"]
    given += ["optim.lr=1e-5", "el.ngram=5"]
    arguments = make_parser().parse_args(given)
    said = next_command(arguments, {"beta": 2.0, "optim.lr": 5e-6})
    assert said == (
        "icu-ray unlearn --suite quick --model 'my model' --forget f.jsonl --out o --beta 2 el.ngram=5 optim.lr=5e-06"
    )
    again = make_parser().parse_args(shlex.split(said)[1:])
    assert (again.suite, again.beta, again.overrides) == (["quick"], 2.0, ["el.ngram=5", "optim.lr=5e-06"])


def test_without_retain_texts_only_ascent_is_left(tmp_path: Path) -> None:
    forget = write(tmp_path / "forget.jsonl", ["one text", "another text"])
    config = unlearn_config("standin", forget=str(forget), out=str(tmp_path))
    assert [method.name for method in config.methods] == ["kumpr"]
    assert unlearn_config("standin", forget=None, out=str(tmp_path)).methods[0].name == "icu"
    with pytest.raises(UserError, match=r"--forget"):
        unlearn_config("gpt2", forget=None, out=str(tmp_path))


def a_model(folder: Path) -> Path:
    """Untrained, with 32 positions; each word of a text is a token."""
    tiny_model("gpt_neo").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_request_that_goes_on_from_the_model_in_its_own_folder(tmp_path: Path) -> None:
    def request(model: Path, name: str, first: int) -> dict[str, Any]:
        forget = write(tmp_path / f"{name}.jsonl", [words(24, first + n) for n in range(3)])
        options = {
            "length": 24,
            "gpus": 0,
            "overrides": ["el.ngram=4", "stop.max_epochs=1", "optim.lr=0.001", *NO_FILTER],
        }
        done = unlearn(str(model), forget=str(forget), out=tmp_path / "out", **options)
        assert done.exit_code == 0 and done.record is not None
        return done.record

    base, link = a_model(tmp_path / "base"), tmp_path / "out" / "model"
    one = request(base, "one", 0)
    made = link.resolve()
    two = request(link, "two", 17)
    assert link.resolve() != made and two["model"]["source"] == str(made)
    assert two["model"]["sha256_before"] == one["model"]["sha256_after"] != two["model"]["sha256_after"]
    # What the first request measured of the first original is still told against it.
    assert two["first_original"] == one["first_original"] and two["first_original"]["source"] == str(base)


def words(count: int, first: int = 2) -> str:
    return " ".join(f"w{20 + (first + n) % 40}" for n in range(count))


def test_texts_longer_than_the_model_can_read_are_forgotten_in_windows(tmp_path: Path) -> None:
    model = str(a_model(tmp_path / "model"))
    forget = str(write(tmp_path / "forget.jsonl", [words(12), words(40, 9)]))

    def asked(*overrides: str) -> tuple[str, int]:
        config = unlearn_config(model, forget=forget, out=str(tmp_path), overrides=["el.ngram=2", *overrides])
        return config.rows.long, config.columns.length

    assert asked() == asked("rows.long=windows") == ("windows", 32)
    assert asked("rows.long=cut") == ("cut", 32)
    assert asked("rows.long=refuse") == ("refuse", 32)
    write(tmp_path / "forget.jsonl", [words(12), words(32, 9)])
    assert asked() == ("refuse", 32)


def test_rows_are_as_long_as_the_texts_and_none_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(a_model(tmp_path / "model"))
    forget = str(write(tmp_path / "forget.jsonl", [words(12), words(10, 5), words(20, 9)]))

    def columns(*overrides: str, length: int | None = None) -> tuple[int, int, int]:
        asked = unlearn_config(
            model, forget=forget, out=str(tmp_path), length=length, overrides=["el.ngram=2", *overrides]
        )
        assert asked.rows.long == ("cut" if "rows.long=cut" in overrides else "refuse")
        return asked.columns.length, asked.columns.prefix_start, asked.columns.suffix_start

    # The longest has 20 tokens; a quarter of the median's 12 is asked for after as many.
    assert columns() == columns("rows.long=cut") == (20, 14, 17)
    assert columns(length=16) == (16, 8, 12)
    assert columns("columns={length: 12, prefix_start: 4, suffix_start: 8}") == (12, 4, 8)

    def refused(*more: str) -> str:
        command = ["unlearn", "--model", model, "--forget", forget, "--id-column", "id", "--gpus", "0", "el.ngram=2"]
        assert main([*command, "--out", str(tmp_path / "out"), *more]) == 2
        return capsys.readouterr().err

    assert "2 of 3 texts are longer than 11 tokens: forget-2 (20), forget-0 (12)" in (said := refused("--length", "11"))
    assert f"{forget} in tokens of model: " in said and "--length) to 20, or give rows.long=cut" in said
    assert "or rows.long=windows, which forgets them whole" in said
    write(tmp_path / "forget.jsonl", [words(12), words(40, 9)])
    assert "rows of this model have at most 32; split these texts" in refused("rows.long=refuse")
    assert "rows of this model have at most 32; split these texts" in refused("--length", "20")
    assert not (tmp_path / "out").exists()
