"""`icu-ray compare`: two sweeps written by hand, by what differs.

Needs: nothing.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from icu_ray.cli.main import main
from icu_ray.evaluation.task import DocumentScore
from icu_ray.report.collect import collect
from icu_ray.report.numbers.statistics import paired_tests
from icu_ray.report.numbers.sweep_difference import NumberPair, SweepDifference, sweep_difference
from icu_ray.report.terminal.difference_tables import print_difference
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, write_evaluation, write_result
from tests.support.documents_case import Rows, evaluate_by_hand
from tests.support.report_case import Cell, config, write_sweep

SAMPLES = [Cell(sample=sample, final=(0.5 + sample / 100, 0.04, 24.0, 3.8)) for sample in range(3)]


def difference(storage: Path, first: str = "a", second: str = "b") -> SweepDifference:
    return sweep_difference(*(collect([(str(storage), name)], unstarted=True) for name in (first, second)))


def number(found: SweepDifference, key: str, row: str = "icu (0.5, 1)") -> NumberPair:
    (pair,) = [pair for pair in found.numbers if pair.key == key and pair.row == row]
    return pair


def shown(found: SweepDifference, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    print_difference(found, ("runs/a", "runs/b"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_copy_is_equal_whatever_it_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_sweep(tmp_path / "x", "a", SAMPLES)
    second = write_sweep(tmp_path / "y", "b", SAMPLES)
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"A: {first}\nB: {second}\n\nEqual: the same settings, data, versions, trials and numbers (")
    assert len(said.strip().splitlines()) == 4
    assert main(["compare", str(first), str(second), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is True and told["config"] == told["data"] == told["versions"] == told["running"] == []
    assert len(told["numbers"]) > 5 and all(each["equal"] and each["difference"] == 0 for each in told["numbers"])
    shutil.copytree(first, tmp_path / "copy" / "a")
    assert main(["compare", f"{first}/", str(tmp_path / "copy" / "a")]) == 0
    assert "Equal: " in capsys.readouterr().out


def test_what_decides_results_and_what_does_not(tmp_path: Path) -> None:
    mine = {**config("a"), "resources": {"micro_batch": 4}, "methods": [{"name": "icu"}, {"name": "kl", "beta": [1.0]}]}
    theirs = {**config("b", lr=1e-4), "resources": {"micro_batch": 8}, "methods": [{"name": "icu"}], "seeds": [1, 2]}
    write_sweep(tmp_path, "a", SAMPLES, mine)
    write_sweep(tmp_path, "b", SAMPLES, theirs)
    found = difference(tmp_path)
    assert [(each.key, each.first, each.second, each.only) for each in found.config] == [
        ("methods.kl", {"name": "kl", "beta": [1.0]}, None, "first"),
        ("optim.lr", 5e-6, 1e-4, None),
        ("seeds", None, [1, 2], "second"),
    ]
    assert [(each.key, each.first, each.second) for each in found.running] == [("resources.micro_batch", 4, 8)]
    assert not found.equal and not found.differing
    said = shown(found)
    assert all(len(line) <= 80 for line in said.splitlines())
    lines = [line.split() for line in said.splitlines()]
    assert ["optim.lr", "5e-06", "0.0001"] in lines and ["methods.kl", "there", "–"] in lines
    assert ["seeds", "–", "[1,", "2]"] in lines and ["resources.micro_batch", "4", "8"] in lines
    assert "The numbers of the trials that both have are equal (" in said and "Equal:" not in said


def test_only_where_it_ran_differs(tmp_path: Path) -> None:
    for name, batch in (("a", 4), ("b", 8)):
        write_sweep(tmp_path, name, SAMPLES, {**config(name), "resources": {"micro_batch": batch}})
    found = difference(tmp_path)
    assert found.equal and "Equal: " in shown(found) and "resources.micro_batch" in shown(found)


def test_data_and_versions_are_told_by_what_made_the_results(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", SAMPLES)
    write_sweep(tmp_path, "b", SAMPLES)
    for cell in SAMPLES:
        paths = TrialPaths.of(str(tmp_path), "b", cell.trial_id)
        result = read_result(paths)
        assert result is not None and result.provenance is not None
        made = replace(result.provenance, data="e" * 64, dirty=True, packages={"torch": "2.13.0"})
        write_result(paths, replace(result, provenance=made))
    found = difference(tmp_path)
    assert [(each.key, each.first, each.second) for each in found.data] == [("texts", "d" * 64, "e" * 64)]
    assert [(each.key, each.first, each.second, each.only) for each in found.versions] == [
        ("icu_ray", "0.1.0 c0ffeec0ffee", "0.1.0 c0ffeec0ffee with local changes", None),
        ("torch", None, "2.13.0", "second"),
    ]
    said = shown(found)
    assert "Data, by fingerprint" in said and "Versions" in said


def test_numbers_are_paired_by_sample_with_an_interval(tmp_path: Path) -> None:
    gains = (0.02, 0.05, 0.03)
    better = [replace(c, final=(c.final[0] - gain, *c.final[1:])) for c, gain in zip(SAMPLES, gains, strict=True)]
    write_sweep(tmp_path, "a", SAMPLES)
    write_sweep(tmp_path, "b", [*better, Cell(sample=7, final=(0.9, 0.5, 99.0, 3.0))])
    found = difference(tmp_path)
    pair = number(found, "ma_pct")
    assert pair.first is not None and pair.second is not None and not pair.equal and pair.over == "forget samples"
    assert pair.first.mean == pytest.approx(51.0) and pair.second.mean == pytest.approx(51.0 - 100 * sum(gains) / 3)
    known = paired_tests([100 * (c.final[0]) for c in better], [100 * c.final[0] for c in SAMPLES])
    assert pair.test.n == 3 and pair.test.difference == pytest.approx(-100 * sum(gains) / 3)
    assert pair.test.half == pytest.approx(known.half) and pair.test.p_t == pytest.approx(known.p_t)
    assert number(found, "ppl_heldout").equal and number(found, "el10_pct").equal
    assert found.trials_second == ("icu-125m-s7-a0.5-b1.0",) and found.trials_first == ()
    said = shown(found)
    assert all(len(line) <= 80 for line in said.splitlines())
    (line,) = [line for line in said.splitlines() if " MA (%)" in line and "held-out" not in line]
    assert line.split()[-1] == "3" and "-3.3 ± 3.8" in line and "51.0 ± 2.5" in line
    assert "Only B has: icu-125m-s7-a0.5-b1.0." in said and "numbers are equal." in said


def test_two_samples_have_no_interval(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", SAMPLES[:2])
    write_sweep(tmp_path, "b", [replace(cell, final=(0.4, 0.04, 24.0, 3.8)) for cell in SAMPLES])
    found = difference(tmp_path)
    pair = number(found, "ma_pct")
    assert pair.test.n == 2 and pair.test.half is None and pair.test.difference == pytest.approx(-10.5)
    assert pair.first is not None and pair.first.half is None


def documents(values: Sequence[float | None]) -> Rows:
    """Of TOFU's set to forget, with probabilities of each row."""
    known = [{} if each is None else {"prob": each} for each in values]
    return {"tofu_forget": [DocumentScore(n, "Oslo", "", (), each, "Where?") for n, each in enumerate(known)]}


def evaluated(storage: Path, name: str, cells: list[Cell], rows: Sequence[Rows]) -> Path:
    folder = write_sweep(storage, name, cells)
    for cell, own in zip(cells, rows, strict=True):
        evaluate_by_hand(folder, cell.trial_id, own, own, {"tofu/model_utility": len(name) / 10})
    return folder


MANY = st.lists(st.floats(0, 1), min_size=3, max_size=30)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=MANY, data=st.data())
def test_of_one_sample_a_benchmarks_measure_has_an_interval_over_its_rows(
    tmp_path: Path, first: list[float], data: st.DataObject
) -> None:
    second = data.draw(st.lists(st.floats(0, 1), min_size=len(first), max_size=len(first)))
    # Whatever the documents' order, and a row that one side could not be measured on does not count.
    mine, theirs = documents([*first, None]), documents([*second, 0.5])
    theirs = {task: tuple(reversed(rows)) for task, rows in theirs.items()}
    evaluated(tmp_path, "a", [Cell()], [mine])
    evaluated(tmp_path, "bb", [Cell()], [theirs])
    found = difference(tmp_path, "a", "bb")
    pair, known = number(found, "tofu/forget_Q_A_Prob"), paired_tests(second, first)
    assert pair.test.n == 1 and pair.test.half is None and pair.rows is not None
    assert (pair.rows.n, pair.rows.p_t) == (known.n, pytest.approx(known.p_t))
    assert (pair.rows.difference, pair.rows.half) == (pytest.approx(known.difference), pytest.approx(known.half))
    assert number(found, "tofu/model_utility").rows is None and found.broken == ()


def test_an_interval_over_rows_is_told_from_one_over_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated(tmp_path, "a", [Cell()], [documents([0.9, 0.8, 0.9, 0.7])])
    second = evaluated(tmp_path, "bb", [Cell()], [documents([0.3, 0.1, 0.4, 0.0])])
    said = " ".join(shown(difference(tmp_path, "a", "bb"), 160).split())
    assert "-0.625 ± 0.1523 of 4 rows" in said and "n = 1: one forget sample does not show" in said
    assert "how far other rows of the kind might differ, not another forget sample." in said
    assert main(["compare", str(first), str(second), "--json"]) == 0
    numbers = {each["metric"]: each for each in json.loads(capsys.readouterr().out)["numbers"]}
    assert numbers["tofu/forget_Q_A_Prob"]["ci95"] is None and numbers["tofu/forget_Q_A_Prob"]["rows"]["n"] == 4
    assert numbers["tofu/model_utility"]["rows"] is None
    # Of three samples the samples count.
    for name in ("c", "d"):
        evaluated(tmp_path, name, SAMPLES, [documents([0.1 * n, 0.2, 0.3 if name == "c" else 0.4]) for n in range(3)])
    assert number(difference(tmp_path, "c", "d"), "tofu/forget_Q_A_Prob").rows is None
    # Rows that were asked otherwise are other rows.
    paths = TrialPaths.of(str(tmp_path), "bb", Cell().trial_id)
    evaluation = read_evaluation(paths)
    assert evaluation is not None
    write_evaluation(paths, replace(evaluation, tasks={"tofu_forget": "another"}))
    found = difference(tmp_path, "a", "bb")
    assert number(found, "tofu/forget_Q_A_Prob").rows is None
    assert "n = 1: one forget sample" in shown(found) and "of 4 rows" not in shown(found)
    # Documents that were changed are named, and nothing is made of them.
    Path(paths.documents).write_bytes(b"no table")
    assert main(["compare", str(first), str(second)]) == 1
    assert "documents.parquet: is not what its evaluation wrote" in capsys.readouterr().err


def test_trials_of_other_seeds_meet_by_their_sample(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", [replace(cell, seed=seed) for cell in SAMPLES for seed in (1, 2)])
    other = [replace(c, seed=s, final=(0.4 + s / 100, 0.04, 24.0, 3.8)) for c in SAMPLES for s in (8, 9)]
    write_sweep(tmp_path, "b", other)
    found = difference(tmp_path)
    pair = number(found, "ma_pct")
    assert pair.test.n == 3 and pair.test.difference == pytest.approx(48.5 - 51.0)
    assert not found.trials_first and not found.trials_second
    # Seeds that both have are paired, and the others do not count.
    write_sweep(tmp_path, "c", [*other, *(replace(c, seed=1, final=(0.3, 0.04, 24.0, 3.8)) for c in SAMPLES)])
    pair = number(difference(tmp_path, "a", "c"), "ma_pct")
    assert pair.test.n == 3 and pair.test.difference == pytest.approx(30.0 - 51.0)


def test_seeds_of_a_single_sample_are_the_pairs(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.1)):
        cells = [Cell(seed=seed, final=(0.5 + seed / 100 + shift, 0.04, 24.0, 3.8)) for seed in (1, 2, 3)]
        write_sweep(tmp_path, name, cells)
    pair = number(difference(tmp_path), "ma_pct")
    assert pair.over == "seeds" and pair.test.n == 3 and pair.test.difference == pytest.approx(10.0)


def test_a_setting_that_one_sweep_varies_tells_its_rows_apart_in_both(tmp_path: Path) -> None:
    grid = [replace(cell, lr=lr) for cell in SAMPLES for lr in (5e-6, 1e-4)]
    write_sweep(tmp_path, "a", grid)
    write_sweep(tmp_path, "b", [replace(cell, lr=1e-4, final=(0.4, 0.04, 24.0, 3.8)) for cell in SAMPLES])
    found = difference(tmp_path)
    assert {pair.row for pair in found.numbers} == {"icu (0.5, 1) [optim.lr=0.0001]"}
    assert len(found.trials_first) == 3 and not found.trials_second
    # Where neither varies it, it is a difference of the settings, and the rows are compared.
    write_sweep(tmp_path, "c", SAMPLES)
    assert {pair.row for pair in difference(tmp_path, "c", "b").numbers} == {"icu (0.5, 1)"}


def test_a_result_that_only_one_has(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", SAMPLES)
    write_sweep(tmp_path, "b", [SAMPLES[0], replace(SAMPLES[1], status=None), replace(SAMPLES[2], status="failed")])
    found = difference(tmp_path)
    assert found.results_first == ("icu-125m-s1-a0.5-b1.0", "icu-125m-s2-a0.5-b1.0") and not found.results_second
    assert number(found, "ma_pct").test.n == 1 and not found.equal
    assert "Only A has a result of: icu-125m-s1-a0.5-b1.0, icu-125m-s2-a0.5-b1.0." in shown(found, 200)


def test_sweeps_with_nothing_in_common(tmp_path: Path) -> None:
    write_sweep(tmp_path, "a", SAMPLES)
    write_sweep(tmp_path, "b", [Cell("kl", "kl", 0.0, 1.0, model="1.3b", status=None)])
    found = difference(tmp_path)
    assert not found.numbers and len(found.trials_first) == 3 and len(found.trials_second) == 1
    assert {each.key for each in found.config} >= {"models.125m", "models.1.3b"}
    assert "No trial of the same model, method, weights and sample has a result in both." in shown(found, 200)


def test_an_evaluation_that_only_one_has_and_tiny_numbers(tmp_path: Path) -> None:
    for name, quality in (("a", 1e-21), ("b", 0.5)):
        write_sweep(tmp_path, name, SAMPLES)
        for cell in SAMPLES:
            measured = {"tofu/forget_quality": quality, **({"cls/x_acc": 0.25} if name == "a" else {})}
            asked = TrialEvaluation({"t": "h"}, ("m" * 64, "a" * 64), {}, measured)
            write_evaluation(TrialPaths.of(str(tmp_path), name, cell.trial_id), asked)
    found = difference(tmp_path)
    assert number(found, "tofu/forget_quality").test.difference == pytest.approx(0.5)
    alone = number(found, "cls/x_acc")
    assert alone.second is None and alone.first is not None and alone.test.n == 0 and not alone.equal
    said = shown(found, 120)
    assert "1e-21" in said
    (line,) = [line for line in said.splitlines() if "cls/x_acc" in line]
    assert line.split()[-2:] == ["–", "–"]


def test_markup_and_long_values_of_a_config_are_text(tmp_path: Path) -> None:
    for name, said in (("a", "[red]x[/red]"), ("b", "word " * 100)):
        write_sweep(tmp_path, name, SAMPLES, {**config(name), "data": {"system": said}})
    said = shown(difference(tmp_path))
    assert "[red]x[/red]" in said and "..." in said and all(len(line) <= 80 for line in said.splitlines())


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_sweep_is_refused(tmp_path: Path, place: int, capsys: pytest.CaptureFixture[str]) -> None:
    there = write_sweep(tmp_path, "there", SAMPLES)
    cases = (("thre", "(did you mean 'there'?); expected the folder of a sweep"), ("empty", "no such folder"))
    for name, said in cases:
        typed = [str(there), str(there)]
        typed[place] = str(tmp_path / name)
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["compare", *typed]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert error.startswith(f"icu-ray: {tmp_path / name}: ") and said in error


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_sweep(tmp_path, name, SAMPLES) for name in ("a", "b"))
    bad = second / "trials" / SAMPLES[0].trial_id / "result.json"
    bad.write_text("{")
    assert main(["compare", str(first), str(second), "--json"]) == 1
    printed = capsys.readouterr()
    told: dict[str, Any] = json.loads(printed.out)
    assert str(bad) in printed.err and str(bad) in told["broken"][0]
    assert told["trials"]["result_only_first"] == ["icu-125m-s0-a0.5-b1.0"]


def test_a_sweep_behind_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fsspec

    local = write_sweep(tmp_path, "a", SAMPLES)
    memory = fsspec.filesystem("memory")
    memory.put(str(local) + "/", "/compared/a", recursive=True)
    assert main(["compare", str(local), "memory://compared/a"]) == 0
    assert "B: memory://compared/a\n" in capsys.readouterr().out
    memory.rm("/compared", recursive=True)
