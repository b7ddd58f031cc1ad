"""Records go to storage and come back as they were; what is no record is refused with the file's name.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.storage.files import join, write_atomic
from icu_ray.storage.results import (
    SILENT_SECONDS,
    Beat,
    EpochRecord,
    Generations,
    Provenance,
    SampleRecord,
    Scores,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
    finite,
    to_json,
)
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import (
    TrialPaths,
    add_generations,
    open_sweep,
    read_beat,
    read_documents,
    read_evaluation,
    read_events,
    read_generations,
    read_result,
    read_samples,
    read_spec,
    read_sweep,
    start_trial,
    trial_ids,
    write_beat,
    write_evaluation,
    write_events,
    write_result,
    write_samples,
)

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WHOLE = {"el_unmeasured": st.integers(0, 99), "heldout_texts": st.none() | st.integers(0, 99)}
NGRAM = st.integers(1, 99)
SCORES = st.builds(Scores, **({item.name: NUMBER for item in fields(Scores)} | WHOLE | {"ngram": NGRAM}))
LIMITS = st.builds(Limit, st.floats(0, 1), st.sampled_from(["number", "heldout"]), NUMBER, st.integers(0, 99))
RECORDS = st.builds(
    EpochRecord,
    epoch=st.integers(0, 99),
    active=st.integers(0, 128),
    scores=SCORES,
    loss=st.dictionaries(TEXT, NUMBER, max_size=3),
    seconds=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=3),
    steps=st.integers(0, 1000),
    notes=st.lists(TEXT, max_size=2).map(tuple),
)
SAMPLES = st.builds(
    SampleRecord,
    **dict.fromkeys(("id", "prompt", "reference", "before", "after"), TEXT),
    **dict.fromkeys(("ma_before", "ma_after", "bertscore_after", "bleu_after", "el_before", "pair_overlap"), NUMBER),
    forgotten=st.booleans(),
    pair_id=st.none() | TEXT,
)
SETTINGS = st.dictionaries(
    TEXT, st.booleans() | st.integers(-5, 5) | TEXT | st.floats(allow_nan=False, allow_infinity=False), max_size=4
)
PROVENANCE = st.builds(
    Provenance,
    version=TEXT,
    commit=TEXT,
    dirty=st.booleans(),
    data=TEXT,
    model=TEXT,
    packages=st.dictionaries(TEXT, TEXT, max_size=2),
    config=st.dictionaries(TEXT, SETTINGS, max_size=2),
)
RESULTS = st.builds(
    TrialResult,
    trial_id=TEXT,
    name=TEXT,
    model=TEXT,
    method=TEXT,
    sample=st.integers(0, 9),
    hyperparameters=SETTINGS,
    status=st.sampled_from(["finished", "failed", "not_forgotten"]),
    reason=TEXT,
    epochs=st.integers(0, 50),
    before=st.none() | SCORES,
    after=st.none() | SCORES,
    seconds=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=3),
    provenance=st.none() | PROVENANCE,
    ended=st.none() | st.floats(0, 1e10),
    thresholds=st.none() | st.builds(Thresholds, LIMITS, LIMITS),
)


def paths(folder: Path | str) -> TrialPaths:
    return TrialPaths.of(str(folder), "sweep", "abc")


def spec(**changes: Any) -> TrialSpec:
    known: dict[str, Any] = {
        "trial_id": "abc",
        "name": "icu-m-s0-a0.5-b1.0",
        "model": "m",
        "method": "icu",
        "sample": 0,
        "hyperparameters": {"alpha": 0.5, "beta": 1.0, "batch_size": 8, "seed": 42},
    }
    return TrialSpec(**{**known, **changes})


def result(**changes: Any) -> TrialResult:
    return TrialResult(
        **{
            **{key: getattr(spec(), key) for key in ("trial_id", "name", "model", "method", "sample")},
            "hyperparameters": {"alpha": 0.5, "beta": 1.0},
            "status": "finished",
            "reason": "",
            "epochs": 3,
            "before": None,
            "after": None,
            "seconds": {"total": 3.0},
            **changes,
        }
    )


ROUND_TRIPS = settings(max_examples=60, deadline=None)


@ROUND_TRIPS
@given(history=st.lists(RECORDS, max_size=4))
def test_history_comes_back(tmp_path_factory: pytest.TempPathFactory, history: list[EpochRecord]) -> None:
    where = paths(tmp_path_factory.mktemp("r"))
    write_events(where, history)
    assert read_events(where) == tuple(history)


@ROUND_TRIPS
@given(samples=st.lists(SAMPLES, max_size=3))
def test_samples_come_back(tmp_path_factory: pytest.TempPathFactory, samples: list[SampleRecord]) -> None:
    where = paths(tmp_path_factory.mktemp("r"))
    write_samples(where, samples)
    assert read_samples(where) == tuple(samples)


@ROUND_TRIPS
@given(written=RESULTS)
def test_result_comes_back_with_its_types(tmp_path_factory: pytest.TempPathFactory, written: TrialResult) -> None:
    written = replace(written, trial_id="abc")
    where = paths(tmp_path_factory.mktemp("r"))
    write_result(where, written)
    back = read_result(where)
    assert back == written
    assert back is not None
    assert [type(v) for v in back.hyperparameters.values()] == [type(v) for v in written.hyperparameters.values()]


def test_numbers_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    where = paths(tmp_path)
    bad = Scores(math.nan, math.inf, -math.inf, 0.5, None, 0.0)
    write_events(where, [EpochRecord(1, 2, bad, {"total": math.nan}, {"train": 0.5})])
    line = Path(where.events).read_text()
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    [record] = read_events(where)
    assert record.scores == Scores(None, None, None, 0.5, None, 0.0)
    assert record.loss == {"total": None}
    assert finite({"a": [math.nan, (1, math.inf)]}) == {"a": [None, [1, None]]}


def test_an_epoch_of_an_older_version_skipped_no_step(tmp_path: Path) -> None:
    where = paths(tmp_path)
    Path(where.events).parent.mkdir(parents=True, exist_ok=True)
    scores = '{"ma": 0.9, "el10": 0.5, "forget_loss": 1.0, "bertscore_f1": 0.8, "bleu": 0.2, "entropy": 3.0}'
    Path(where.events).write_text(f'{{"epoch": 1, "active": 4, "scores": {scores}, "steps": 2, "notes": []}}\n')
    [record] = read_events(where)
    assert record == EpochRecord(1, 4, Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0), steps=2, skipped_steps=0)


def test_half_a_character_is_kept_as_a_question_mark() -> None:
    assert json.loads(to_json({"text": "a\ud800b"})) == {"text": "a?b"}


def test_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    where = paths(tmp_path)
    records = [EpochRecord(n, 4, Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0), notes=("é",)) for n in range(3)]
    write_events(where, records)
    whole = Path(where.events).read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(second, len(whole)):
        Path(where.events).write_bytes(whole[:cut])
        expected = 3 if cut == len(whole) - 1 else 2
        assert read_events(where) == tuple(records[:expected]), cut


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"epoch": 1}', "active"),
        ('{"epoch": 1.5, "active": 1, "scores": {}}', "epoch"),
        ('{"epoch": true, "active": 1, "scores": {}}', "epoch"),
        ("not json", "Invalid JSON"),
        ('{"epoch": 1, "active": 1, "scores": {"ma": "0.5"}}', "scores.ma"),
        ('{"epoch": 1, "active": 1, "scores": {"ma": NaN}}', "scores.ma"),
        ("[]", "EpochRecord"),
        ('{"epoch": 1, "active": 1, "scores": null, "colour": 3}', "colour"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, line: str, said: str) -> None:
    where = paths(tmp_path)
    good = EpochRecord(0, 4, Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0))
    write_events(where, [good])
    with Path(where.events).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError) as refused:
        read_events(where)
    assert f"{where.events}, line 2" in str(refused.value)
    assert said in str(refused.value) or "more" in str(refused.value)


def test_wrong_result_names_its_file(tmp_path: Path) -> None:
    where = paths(tmp_path)
    write_result(where, result())
    raw = json.loads(Path(where.result).read_text())
    for key, value in (("status", "done"), ("epochs", None), ("surprise", 1)):
        Path(where.result).write_text(json.dumps({**raw, key: value}))
        with pytest.raises(UserError, match=rf"result\.json: is no TrialResult: {key}"):
            read_result(where)
    Path(where.result).write_text(json.dumps(raw)[:40])
    with pytest.raises(UserError, match="remove the file to run the trial again"):
        read_result(where)


def test_thresholds_that_come_from_heldout_texts_are_read_again(tmp_path: Path) -> None:
    made_by = Provenance("0.1.0", "c0ffee", False)
    for limit in ("heldout", 0.4):
        config = resolve_config(
            {
                "name": "s",
                "models": [{"name": "m", "standin": {}}],
                "data": {"source": "synthetic"},
                "stop": {"ma": limit, "el": "heldout"},
            },
            "test",
        ).model_dump(mode="json")
        open_sweep(str(tmp_path), "s", config, [spec()], made_by)
        found = read_sweep(str(tmp_path), "s")
        assert found is not None and found.config["stop"]["ma"] == limit
    written = json.loads((tmp_path / "s" / "sweep.json").read_text())
    written["config"]["stop"]["ma"] = "often"
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"config\.stop: is not as a config has it"):
        read_sweep(str(tmp_path), "s")


def test_what_is_of_another_trial_is_refused(tmp_path: Path) -> None:
    where, other = paths(tmp_path), TrialPaths.of(str(tmp_path), "sweep", "def")
    start_trial(other, spec(trial_id="def"))
    write_result(other, result(trial_id="def", model_hash="weights"))
    write_evaluation(other, TrialEvaluation({"piqa": "h"}, ("b", "weights"), {}, {}))
    assert read_evaluation(other) is not None
    shutil.copytree(other.root, where.root)
    for read, name in ((read_result, "result"), (read_spec, "spec"), (read_evaluation, "result")):
        with pytest.raises(UserError, match=rf"abc/{name}\.json: is of trial 'def', expected abc; .*remove the file"):
            read(where)
    write_result(where, result(model_hash="other weights"))
    with pytest.raises(UserError, match=r"abc/evaluation\.json: is of another model than .*abc/result\.json; remove"):
        read_evaluation(where)


def test_lines_of_another_trial_are_refused_and_those_of_earlier_versions_read(tmp_path: Path) -> None:
    where, other = paths(tmp_path), TrialPaths.of(str(tmp_path), "sweep", "def")
    history = (EpochRecord(0, 4, Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0)),)
    samples = (SampleRecord("r1", "to", "be", "be", "or", 0.9, 0.5, 0.2, 0.0, True),)
    write_events(other, history)
    write_samples(other, samples)
    add_generations(other, Generations(0, {"r1": "be"}))
    written = ((read_events, "events"), (read_samples, "samples"), (read_generations, "generations"))
    for _, name in written:
        assert json.loads(Path(join(other.root, f"{name}.jsonl")).read_text())["trial_id"] == "def"
    shutil.copytree(other.root, where.root)
    for read, name in written:
        with pytest.raises(UserError, match=rf"abc/{name}\.jsonl, line 1: is of trial 'def', expected abc; remove the"):
            read(where)
    with pytest.raises(UserError, match="is of trial 'def'"):
        add_generations(where, Generations(1, {"r1": "or"}))
    add_generations(where, Generations(0, {"r1": "or"}))  # the start is written anew, whatever is there
    assert read_generations(where) == (Generations(0, {"r1": "or"}),)
    for _, name in written:
        file = Path(join(other.root, f"{name}.jsonl"))
        file.write_text(json.dumps({key: v for key, v in json.loads(file.read_text()).items() if key != "trial_id"}))
    assert (read_events(other), read_samples(other)) == (history, samples)
    assert read_generations(other) == (Generations(0, {"r1": "be"}),)


def test_a_copy_under_another_name_is_another_sweep(tmp_path: Path) -> None:
    made_by = Provenance("0.1.0", "c0ffee", False)
    first = open_sweep(str(tmp_path), "s", {}, [spec()], made_by)
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    copy = open_sweep(str(tmp_path), "t", {}, [spec()], made_by)
    assert (copy.name, copy.id != first.id) == ("t", True)
    assert read_sweep(str(tmp_path), "s") == first


def test_an_address_is_named_without_its_password() -> None:
    where = TrialPaths.of("memory://user:CANARY@named/runs", "s", "t")
    write_atomic(where.result, b"{}")
    write_atomic(where.events, b"{}\n")
    for read, name in ((read_result, "result.json"), (read_events, "events.jsonl, line 1")):
        with pytest.raises(UserError, match=f"^memory://named/runs/s/trials/t/{name}: is no ") as refused:
            read(where)
        assert "CANARY" not in str(refused.value)


def test_result_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    where = paths(tmp_path)
    scores = Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0, ppl_heldout=12.0)
    write_result(where, result(before=scores, after=scores))
    raw = json.loads(Path(where.result).read_text())
    promised = {"trial_id", "name", "model", "method", "sample", "hyperparameters", "status", "reason", "epochs"}
    promised |= {"before", "after", "seconds"}
    assert promised <= set(raw)
    assert {"ma", "el10", "forget_loss", "bertscore_f1", "bleu", "entropy", "ppl_heldout"} <= set(raw["before"])


def test_nothing_is_there_before_a_trial_starts(tmp_path: Path) -> None:
    where = paths(tmp_path)
    assert read_spec(where) is None
    assert read_result(where) is None
    assert read_events(where) == ()
    assert read_samples(where) == ()
    assert trial_ids(str(tmp_path), "sweep") == ()
    assert read_sweep(str(tmp_path), "sweep") is None
    assert read_beat(str(tmp_path), "sweep") is None


def test_a_continued_trial_keeps_the_time_of_its_start(tmp_path: Path) -> None:
    first = start_trial(paths(tmp_path), spec())
    again = start_trial(paths(tmp_path), spec(max_epochs=9))
    assert first.started is not None
    assert again.started == first.started
    assert read_spec(paths(tmp_path)) == again
    assert trial_ids(str(tmp_path), "sweep") == ("abc",)


@pytest.mark.parametrize("storage", ["local", "memory://results-test"])
def test_a_continued_sweep_keeps_its_id(tmp_path: Path, storage: str) -> None:
    root = str(tmp_path) if storage == "local" else f"{storage}/{tmp_path.name}"
    made_by = Provenance("0.1.0", "c0ffee", False, packages={"torch": "2"})
    first = open_sweep(root, "s", {"seed": 1}, [spec()], made_by)
    again = open_sweep(root, "s", {"seed": 2}, [spec(), spec(trial_id="def", name="other")], made_by)
    other = open_sweep(root, "t", {"seed": 1}, [], made_by)
    assert (again.id, again.started) == (first.id, first.started)
    assert other.id != first.id
    assert read_sweep(root, "s") == again


def test_a_silent_driver_was_killed(tmp_path: Path) -> None:
    write_beat(str(tmp_path), "s", "running")
    beat = read_beat(str(tmp_path), "s")
    assert beat is not None
    assert abs(beat.time - time.time()) < 5
    assert beat.state_at(beat.time + SILENT_SECONDS - 1) == "running"
    assert beat.state_at(beat.time + SILENT_SECONDS + 1) == "interrupted"
    assert Beat(0.0, "finished").state_at(1e9) == "finished"


def test_reading_results_loads_nothing_heavy() -> None:
    names = "('torch', 'ray', 'mlflow', 'pandas')"
    code = f"import icu_ray.storage.results, sys; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.lists(st.integers(0, 6), max_size=12))
@settings(max_examples=25, deadline=None)
def test_generations_of_an_epoch_replace_what_an_interrupted_run_left(epochs: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = paths(folder)
        kept: dict[int, str] = {}
        for number, epoch in enumerate(epochs):
            add_generations(where, Generations(epoch, {"a": f"run {number}"}))
            kept = {known: said for known, said in kept.items() if known < epoch} | {epoch: f"run {number}"}
        assert {each.epoch: each.said["a"] for each in read_generations(where)} == kept


def test_documents_are_what_their_evaluation_wrote(tmp_path: Path) -> None:
    url, sha256 = paths(tmp_path).documents, hashlib.sha256(b"answers").hexdigest()
    told, untold = (TrialEvaluation({}, ("b", "a"), {}, {}, documents=known) for known in (sha256, ""))
    assert read_documents(url, told) is None
    write_atomic(url, b"answers")
    assert read_documents(url, told) == read_documents(url, untold) == b"answers"
    write_atomic(url, b"others")
    with pytest.raises(UserError, match=r"documents\.parquet: is not what its evaluation wrote"):
        read_documents(url, told)
    assert read_documents(url, untold) == b"others"  # an earlier version says nothing of it


def test_an_evaluation_comes_back_as_it_was(tmp_path: Path) -> None:
    evaluation = TrialEvaluation(
        {"piqa": "h"}, ("b", "a"), {"cls/piqa_acc": 0.5}, {"cls/piqa_acc": math.inf}, {"x": "y"}
    )
    write_evaluation(paths(tmp_path), evaluation)
    found = read_evaluation(paths(tmp_path))
    assert found is not None and found.before == {"cls/piqa_acc": 0.5} and found.errors == {"x": "y"}
    assert found.after == {"cls/piqa_acc": None}  # JSON has no infinity
    Path(paths(tmp_path).evaluation).write_text("{}")
    with pytest.raises(UserError, match=r"evaluation\.json: is no TrialEvaluation"):
        read_evaluation(paths(tmp_path))
