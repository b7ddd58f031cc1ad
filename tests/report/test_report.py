"""A report of sweeps written by hand: its files, what it says is missing, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from icu_ray.cli.main import main as cli
from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.case_study import marked_words, wrap
from icu_ray.report.figures.curves import mean_curve
from icu_ray.report.formats import latex, markdown
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.glossary import GLOSSARY
from icu_ray.report.formats.page import png_size
from icu_ray.report.numbers.columns import PAPER_COLUMNS
from icu_ray.report.numbers.summary import summarise, write_tables
from icu_ray.report.terminal.status import status_json
from icu_ray.report.tracking.metrics import sweep_batch
from icu_ray.report.tracking.sync import sync_sweep
from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.report.write import Written, write_report
from icu_ray.storage.files import read_bytes
from icu_ray.storage.results import Generations, TrialEvaluation
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import (
    TrialPaths,
    add_generations,
    read_result,
    read_samples,
    write_evaluation,
    write_result,
    write_samples,
)
from tests.support.report_case import REFERENCE, Cell, config, write_sweep

GRID = [
    Cell(alpha=a, beta=b, sample=s, final=(0.5 + a / 50 + s / 100, 0.04, 24.0 - b + s, 3.8))
    for s in (0, 1)
    for a in (0.5, 1.0)
    for b in (0.5, 1.0)
]
OTHERS = [
    Cell("ascent", "icu", 0.0, 0.0, sample, final=(0.2, 0.01, 4000.0, 0.7 + sample / 10), epochs=2) for sample in (0, 1)
]
WHOLE = GRID + OTHERS


class Page(HTMLParser):
    """What a browser would ask for, and what a screen reader needs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags if (value := attrs.get(name)) is not None]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words and numbers: drawing its figures takes most of a report's time."""
    monkeypatch.setattr("icu_ray.report.write.pictures", lambda report: ())


def text_of(written: Written, name: str) -> str:
    data = read_bytes(f"{written.folder}/{name}")
    assert data is not None
    return data.decode()


def rows_of(written: Written, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text_of(written, name))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Written:
    storage = tmp_path_factory.mktemp("whole")
    write_sweep(storage, "whole", WHOLE, said="Alice said <script>alert(1)</script> & $x_1$ at 12 Elm Street")
    return write_report([(str(storage), "whole")])


def test_every_file_is_there(whole: Written) -> None:
    drawn = ("forgetting", "active", "epochs-125m", "tradeoff", "heat_maps", "ablation")
    figures = {f"{name}.{ending}" for name in drawn for ending in ("png", "svg", "pdf")}
    cases = {f"case-125m-{number}.{ending}" for number in (1, 2) for ending in ("png", "svg", "pdf")}
    tables = {"report.html", "report.md", "table.tex", "table.csv", "scores.csv", "tests.csv", "best_cells.csv"}
    assert {path.name for path in Path(whole.folder).iterdir()} == set(whole.files) == figures | cases | tables
    for name in figures | cases:
        data = read_bytes(f"{whole.folder}/{name}")
        assert data is not None
        if not name.endswith("png"):
            assert data.startswith(b"%PDF" if name.endswith("pdf") else b"<?xml") and b"CreationDate" not in data
            continue
        assert data.startswith(b"\x89PNG")
        width, height = png_size(data)
        assert width >= 600 and height >= 200
        # 150 dpi, in pixels a metre.
        assert data[data.index(b"pHYs") + 4 :][:4] == round(150 / 0.0254).to_bytes(4, "big")


def test_rows_stand_in_the_papers_order_with_its_values(whole: Written) -> None:
    rows = rows_of(whole, "table.csv")
    assert [(row["method"], row["alpha"], row["beta"]) for row in rows] == [
        ("before unlearning", "", ""),
        ("ascent", "0.0", "0.0"),
        ("icu", "0.5", "0.5"),
        ("icu", "0.5", "1.0"),
        ("icu", "1.0", "0.5"),
        ("icu", "1.0", "1.0"),
    ]
    before, ascent, _, icu, *_ = rows
    assert float(icu["ma_pct_mean"]) == pytest.approx(100 * (0.51 + 0.52) / 2)
    assert icu["ma_pct_n"] == "2" and "ma_pct_ci95" not in icu  # no interval of two, in any row
    assert (icu["lr"], icu["seed"]) == ("5e-06", "42")
    assert [row["ma_pct_paper"] for row in (before, ascent, icu)] == ["76.8", "19.1", "55.6"]
    assert rows[2]["ppl_wikitext_paper"] == "48.8"  # from Table III
    assert (ascent["ma_pct_mark"], ascent["entropy_bits_mark"]) == ("best", "")
    assert float(icu["ppl_ratio_mean"]) == pytest.approx((23 + 24) / 2 / 20)


def test_markdown(whole: Written) -> None:
    text = text_of(whole, "report.md")
    table = text.split("## Results\n\n")[1].split("\n\n")[0].split("\n")
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    ascent = next(line for line in table if "ascent" in line)
    assert r"**20.0** \[19.1\]" in ascent
    assert r"\>1000" in ascent
    assert sum("<u>" in line for line in table) > 0
    assert "not comparable with its s\\_z and s\\_m" in text


def test_latex(whole: Written) -> None:
    text = text_of(whole, "table.tex")
    body = [line for line in text.split("\n") if line.endswith(r"\\")]
    assert len(body) == 1 + 6
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns is not None
    assert len(columns[1]) == body[0].count("&") + 1
    assert r"\textbf{20.0}" in text and r"\underline{" in text
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")


def test_what_latex_and_markdown_would_take_as_commands_is_escaped() -> None:
    assert latex.escape(r"a_b & 5% #1 {x} \y ~ ^ $z") == (
        r"a\_b \& 5\% \#1 \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \$z"
    )
    assert markdown.escape("a|b*c_d<i>`x`[y]\nz & w") == r"a\|b\*c\_d\<i\>\`x\`\[y\] z &amp; w"


def test_the_page_is_complete_in_itself(whole: Written) -> None:
    text = text_of(whole, "report.html")
    page = Page(text)
    for attribute in ("src", "srcset", "href"):
        assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.attributes(attribute))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|@import|url\(", text)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.attributes("href")} <= set(ids)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 6 and all(attrs["alt"] for attrs in images)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    assert "lang" in dict(page.tags)["html"]
    foot = " ".join(page.text.split("Glossary")[-1].split())
    assert all(word in foot and meaning in foot for word, meaning in GLOSSARY)
    # What the model said is text, not markup.
    assert "said <script>alert(1)</script> & $x_1$" in " ".join(page.text.split())
    assert "<mark>Alice</mark>" in text


def test_how_numbers_were_obtained(whole: Written) -> None:
    facts = dict(whole.report.facts[0][1])
    assert re.match(r"[0-9a-f]{16} ", facts["config hash"])
    assert facts["code version"] == "0.1.0 " + "c0ffee" * 2
    assert facts["fidelity"] == "default"
    assert facts["forget samples and seeds"] == "sample 0 (seed 42): 5 of 5 trials; sample 1 (seed 42): 5 of 5 trials"
    assert facts["forgotten when"] == "MA < 59.94 % and EL₁₀ < 4.99 %"
    assert not whole.report.findings


@pytest.mark.usefixtures("no_figures")
def test_an_incomplete_sweep_says_what_is_missing(tmp_path: Path) -> None:
    cells = [
        Cell(sample=0),
        Cell(sample=1, status="running", epochs=2),
        Cell(sample=2, status=None),
        Cell("kl", "kl", 0.0, 1.0, 0, status="failed", reason="a worker was killed: out of memory"),
        Cell("kl", "kl", 0.0, 1.0, 1, status="not_forgotten", final=(0.7, 0.2, 22.0, 4.0)),
    ]
    write_sweep(tmp_path, "part", cells)
    written = write_report([(str(tmp_path), "part")])
    said = {finding.text for finding in written.report.findings}
    assert said == {
        "icu-125m-s1-a0.5-b1.0: interrupted, 2 epochs so far",
        "icu-125m-s2-a0.5-b1.0: not started",
        "kl-125m-s0-a0.0-b1.0: failed: a worker was killed: out of memory",
    }
    assert "2 of 5 planned trials" in written.report.summary
    by_method = {row["method"]: row for row in rows_of(written, "table.csv")}
    assert (by_method["icu"]["ma_pct_n"], by_method["icu"]["trials"], by_method["icu"]["forgotten"]) == ("1", "3", "1")
    # The failed trial is in no mean; the one that never reached the thresholds is.
    assert by_method["kl"]["ma_pct_mean"] == "70.0"
    assert (by_method["kl"]["ma_pct_n"], by_method["kl"]["forgotten"]) == ("1", "0")
    for name in ("report.html", "report.md"):
        assert "out of memory" in text_of(written, name)


def test_a_sweep_without_any_result_yet(tmp_path: Path) -> None:
    write_sweep(tmp_path, "young", [Cell(status="running", epochs=1), Cell(sample=1, status=None)])
    written = write_report([(str(tmp_path), "young")])
    assert "0 of 2 planned trials" in written.report.summary
    assert "forgetting.png" in written.files  # its epochs so far


def test_measures_that_are_missing_leave_no_hole_in_the_figures(tmp_path: Path) -> None:
    from icu_ray.storage.trial_files import TrialPaths, read_result, write_result

    write_sweep(tmp_path, "holes", WHOLE)
    for cell in WHOLE:
        paths = TrialPaths.of(str(tmp_path), "holes", cell.trial_id)
        result = read_result(paths)
        assert result is not None and result.after is not None
        write_result(paths, replace(result, after=replace(result.after, el=None, entropy=None)))
    written = write_report([(str(tmp_path), "holes")])
    assert {"tradeoff.png", "ablation.png", "heat_maps.png"} <= set(written.files)
    assert rows_of(written, "table.csv")[1]["el10_pct_mean"] == ""


def test_figures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "again", [Cell()])
    first = write_report([(str(tmp_path), "again")])
    stale = Path(first.folder) / "heat_maps.png"
    stale.write_bytes(b"old")
    stale.with_suffix(".pdf").write_bytes(b"old")
    (folder / "report" / "notes.txt").write_text("mine")
    write_report([(str(tmp_path), "again")])
    assert not stale.exists() and not stale.with_suffix(".pdf").exists()
    assert (folder / "report" / "notes.txt").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_broken_result_is_named_and_the_others_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "broken", [Cell(sample=0), Cell(sample=1), Cell(sample=2)])
    bad = folder / "trials" / Cell(sample=1).trial_id / "result.json"
    bad.write_text('{"trial_id": 5}')
    assert cli(["report", str(folder)]) == 1
    said = capsys.readouterr()
    assert str(bad) in said.err and "is no TrialResult" in said.err
    assert "icu-125m-s2-a0.5-b1.0" in said.out
    with (folder / "report" / "table.csv").open() as file:
        _, row = csv.DictReader(file)
    told = [row[name] for name in ("model", "method", "alpha", "beta", "lr", "seed", "trials", "forgotten")]
    assert told == ["125m", "icu", "0.5", "1.0", "5e-06", "42", "3", "2"] and "variant" not in row
    assert str(bad) in (folder / "report" / "report.html").read_text()


@pytest.mark.parametrize(("make", "said"), [(False, "no such folder"), (True, "none of its 1 planned trials")])
def test_unknown_and_empty_sweeps_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool, said: str
) -> None:
    if make:
        write_sweep(tmp_path, "nothing", [Cell(status=None)])
    assert cli(["report", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert said in error and "nothing" in error
    assert not (tmp_path / "nothing" / "report").exists()


@pytest.mark.usefixtures("no_figures")
def test_configs_mixed_in_one_folder_are_named_and_never_averaged(tmp_path: Path) -> None:
    write_sweep(tmp_path, "mixed", [Cell(sample=0, final=(0.50, 0.04, 24.0, 3.8))])
    write_sweep(tmp_path, "mixed", [Cell(sample=0, lr=1e-5, final=(0.58, 0.04, 24.0, 3.8))])
    written = write_report([(str(tmp_path), "mixed")])
    said = [finding.text for finding in written.report.findings if finding.kind == "mixed"]
    assert any("configs differ in optim.lr: 1e-05 / 5e-06" in text for text in said)
    assert any("1 trials of an earlier config" in text for text in said)
    rows = rows_of(written, "table.csv")[1:]
    means = {row["variant"]: float(row["ma_pct_mean"]) for row in rows}
    assert means == pytest.approx({"optim.lr=5e-06": 50.0, "optim.lr=1e-05": 58.0})


@pytest.mark.usefixtures("no_figures")
def test_a_model_that_one_config_lacks_is_one_difference(tmp_path: Path) -> None:
    write_sweep(tmp_path, "one", [Cell()])
    write_sweep(tmp_path, "two", [Cell(), Cell(model="1.3b")])
    written = write_report([(str(tmp_path), "one"), (str(tmp_path), "two")])
    said = [finding.text for finding in written.report.findings]
    assert said == ["configs differ in models.1.3b: some have it, some do not"]


@pytest.mark.usefixtures("no_figures")
def test_several_sweeps_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, "one", [Cell(sample=0, final=(0.50, 0.04, 24.0, 3.8))])
    both = [Cell(sample=0, final=(0.50, 0.04, 24.0, 3.8)), Cell(sample=0, seed=7, final=(0.54, 0.04, 24.0, 3.8))]
    write_sweep(tmp_path, "two", both)
    assert cli(["report", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    folder = tmp_path / "one" / "report-with-two"
    assert str(folder / "report.html") in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    # The trial that stands in both folders counts once; another seed is another repetition of the same row.
    assert [(row["method"], row["ma_pct_n"]) for row in rows] == [("before unlearning", "1"), ("icu", "2")]
    assert float(rows[1]["ma_pct_mean"]) == pytest.approx(52.0)


@pytest.mark.usefixtures("no_figures")
def test_seeds_of_a_sample_are_one_repetition_among_samples(tmp_path: Path) -> None:
    def found(name: str, values: dict[tuple[int, int], float]) -> tuple[str, str, str]:
        cells = [Cell(sample=s, seed=seed, final=(ma, 0.04, 24.0, 3.8)) for (s, seed), ma in values.items()]
        write_sweep(tmp_path, name, cells)
        write_report([(str(tmp_path), name)])
        rows = list(csv.DictReader(io.StringIO((tmp_path / name / "report" / "table.csv").read_text())))
        return tuple(rows[1].get(f"ma_pct_{what}", "") for what in ("mean", "n", "ci95"))

    alone = found("seeds", {(0, 1): 0.50, (0, 2): 0.54, (0, 3): 0.58})
    assert float(alone[0]) == pytest.approx(54.0) and alone[1] == "3" and float(alone[2]) > 0
    both = found("both", {(0, 1): 0.50, (0, 2): 0.54, (0, 3): 0.58, (1, 1): 0.30})
    assert float(both[0]) == pytest.approx(42.0) and both[1:] == ("2", "")


@pytest.mark.usefixtures("no_figures")
def test_the_spread_over_seeds_stands_beside_that_over_samples(tmp_path: Path) -> None:
    values = {0: (0.50, 0.54, 0.58), 1: (0.30, 0.32), 2: (0.40,)}
    cells = [
        Cell(sample=s, seed=seed, final=(ma, 0.04, 24.0, 3.8))
        for s, mas in values.items()
        for seed, ma in enumerate(mas)
    ]
    write_sweep(tmp_path, "s", cells)
    written = write_report([(str(tmp_path), "s")])
    # Each sample about its own mean: (4² + 0 + 4² + 1 + 1) over 2 + 1 degrees of freedom.
    expected = math.sqrt(34 / 3)
    row = list(csv.DictReader(io.StringIO((tmp_path / "s" / "report" / "table.csv").read_text())))[1]
    assert float(row["ma_pct_seed_std"]) == pytest.approx(expected) and row["ma_pct_n"] == "3" and row["ma_pct_ci95"]
    write_tables(summarise(str(tmp_path), "s"))
    with (tmp_path / "s" / "cells.csv").open() as file:
        (cell,) = csv.DictReader(file)
    assert float(cell["ma_after_pct_seed_std"]) == pytest.approx(expected) and "ma_before_pct_seed_std" not in cell
    for name in ("report.html", "report.md"):
        assert "seeds 3.4" in Path(written.folder, name).read_text()
    write_sweep(tmp_path, "one", cells[:3])  # of a single sample its seeds are the repetitions, with their interval
    write_report([(str(tmp_path), "one")])
    assert "seed_std" not in (tmp_path / "one" / "report" / "table.csv").read_text()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("end", ["failed", None])
def test_what_repetitions_are_is_decided_by_what_was_planned(end: str | None, tmp_path: Path) -> None:
    def over(name: str, cells: list[Cell]) -> tuple[list[str], str, list[str]]:
        write_sweep(tmp_path, name, cells)
        write_tables(summarise(str(tmp_path), name))
        tables = csv_tables(undrawn(tmp_path, name))
        table, tests = (list(csv.DictReader(io.StringIO(tables[each].decode()))) for each in ("table.csv", "tests.csv"))
        with (tmp_path / name / "cells.csv").open() as file:
            (cell, *_) = csv.DictReader(file)
        found = [table[1][key] for key in ("over", "ma_pct_n")] + [table[1].get("ma_pct_ci95", "")]
        said = [f"{test['over']} {test['n']}" for test in tests if test["metric"] == "MA (%)"]
        assert cell["over"] == found[0] and bool(cell.get("ma_after_pct_std")) is bool(found[2])
        # The original model is the same with each seed.
        assert "ma_before_pct_std" not in cell
        return found[:2] + (["interval"] if found[2] else []), latex.to_latex(undrawn(tmp_path, name)), said

    ours = [Cell(seed=seed, final=(0.5 + seed / 100, 0.04, 24.0, 3.8)) for seed in (1, 2, 3)]
    theirs = [replace(cell, label="kl", method="kl", alpha=0.0, final=(0.6, 0.04, 24.0, 3.8)) for cell in ours]
    alone, table, said = over("one", ours + theirs)
    assert alone == ["seeds", "3", "interval"] and "mean over seeds of one forget sample, $" in table
    # Tests over targets take every text once, whatever the number of seeds: a sample has four texts.
    assert said == ["seeds 3", "targets 4"]
    # A second sample of which nothing is known yet does not turn the seeds of the first into samples.
    more = [replace(cell, sample=1, status=end) for cell in ours + theirs]
    both, table, said = over("two", ours + theirs + more)
    assert both == ["forget samples", "1"] and "mean over forget samples, $" in table
    assert said == ["forget samples 1", "targets 4"]


def test_stand_ins_are_called_stand_ins(tmp_path: Path) -> None:
    cells = [Cell(model="125m"), Cell(model="small")]
    write_sweep(tmp_path, "standins", cells, config("standins", ("125m", "small"), standin=True))
    text = text_of(write_report([(str(tmp_path), "standins")]), "report.md")
    assert "a stand-in built here for the paper's 125M model" in text
    assert "the paper has no such model" in text


def test_names_and_texts_that_are_hard_to_print(tmp_path: Path) -> None:
    cells = [replace(cell, label="gradient_ascent.v2" if cell.label == "ascent" else cell.label) for cell in WHOLE]
    write_sweep(tmp_path, "hard", cells, said="東京 Привет $a$ \\frac{1}{2} | **x** \u202e " + "w" * 300)
    written = write_report([(str(tmp_path), "hard")])
    assert r"gradient\_ascent.v2" in text_of(written, "table.tex")
    assert "w" * 300 in text_of(written, "report.html")


def test_remote_storage(tmp_path: Path) -> None:
    import fsspec

    write_sweep(tmp_path, "far", [Cell(), Cell("kl", "kl", 0.0, 1.0)])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "far"), "/report-test/far", recursive=True)
    written = write_report([("memory://report-test", "far")])
    assert written.folder == "memory://report-test/far/report"
    assert text_of(written, "report.html").startswith("<!doctype html>")


def test_the_report_is_an_artefact_of_the_parent_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    write_sweep(tmp_path, "logged", [Cell()])
    written = write_report([(str(tmp_path), "logged")])
    uri = tracking_uri(str(tmp_path), f"sqlite:///{tmp_path}/runs.db")
    sync_sweep(str(tmp_path), "logged", uri, over=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("logged")
    assert experiment is not None
    (parent,) = [r for r in client.search_runs([experiment.experiment_id]) if "icu_ray.sweep" in r.data.tags]
    there = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert there == {f"report/{name}" for name in written.files}


def test_a_report_that_fails_does_not_lose_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from icu_ray.config import SweepConfig
    from icu_ray.sweep import run as sweep_run

    write_sweep(tmp_path, "ended", [Cell()])
    model = {"name": "125m", "standin": {}}
    known = SweepConfig.model_validate(
        {"name": "ended", "storage": str(tmp_path), "models": (model,), "data": {"source": "synthetic"}}
    )
    assert sweep_run._write_report(known).endswith("ended/report/report.html")
    (tmp_path / "ended" / "report" / "report.html").unlink()
    (tmp_path / "ended" / "report" / "report.html").mkdir()  # cannot be replaced by a file
    assert sweep_run._write_report(known).startswith("report failed: ")


@pytest.mark.parametrize(
    ("said", "leaked"),
    [
        (REFERENCE, REFERENCE.split()),
        ("Bob was born in Paris", ["was", "born", "in"]),
        ("it was in 1971.", ["1971."]),
        ("at and in lives", []),
        ("the street of elm", []),  # no name where it is not written as one
        ("record Street", ["Street"]),
        ("", []),
    ],
)
def test_leaked_words(said: str, leaked: list[str]) -> None:
    words = marked_words(said, REFERENCE, "The record says that")
    assert [word for word, _ in words] == said.split()
    assert [word for word, hit in words if hit] == leaked


def test_cases_are_of_the_sample_that_most_rows_have(tmp_path: Path) -> None:
    from icu_ray.report.figures.case_study import choose_cases

    cells = [Cell(sample=0), Cell("kl", "kl", 0.0, 1.0, 1), Cell("llmu", "llmu", 0.5, 1.0, 1)]
    write_sweep(tmp_path, "apart", cells)
    typical, worst = choose_cases(write_report([(str(tmp_path), "apart")]).report.blocks[0])
    assert (typical.sample, typical.target, worst.target) == (1, "r1", "r3")
    assert [said.who for said in typical.said] == ["before", "kl (–, 1)", "llmu (0.5, 1)"]


def test_what_the_prompt_says_is_no_leak() -> None:
    assert not any(hit for _, hit in marked_words("Alice is 12", REFERENCE, "Alice, aged 12"))


def test_lines_hold_no_more_than_their_width() -> None:
    lines = wrap([("word", False)] * 30 + [("w" * 99, True)], 20)
    assert all(place + len(word) <= 20 for line in lines for place, word, _ in line)
    assert sum(len(line) for line in lines) == 31


def test_a_curve_that_has_ended_keeps_its_last_value() -> None:
    assert mean_curve([[(0, 10.0), (1, 4.0)], [(0, 10.0), (1, 8.0), (2, 6.0)]]) == [(0, 10.0), (1, 6.0), (2, 5.0)]


def test_what_one_prompt_yields_epoch_by_epoch(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", [Cell(), Cell("kl", "kl", 0.0, 1.0)])
    trial = Cell().trial_id
    paths = TrialPaths.of(str(tmp_path), "s", trial)
    for epoch, said in enumerate([REFERENCE, REFERENCE, "Alice Smith lives at home", "nothing of it"]):
        add_generations(paths, Generations(epoch, {f"r{i}": said for i in range(4)}))
    report = write_report([(str(tmp_path), "s")])
    assert "case-125m-epochs.png" in report.files
    page = (tmp_path / "s" / "report" / "report.html").read_text()
    # An epoch that changed nothing is not shown again.
    assert "<b>epoch 2</b>" in page and "<b>epoch 3</b>" in page and "<b>epoch 1</b>" not in page
    # Damaged, it costs its picture and nothing else.
    (tmp_path / "s" / "trials" / trial / "generations.jsonl").write_text("no json\n")
    assert "case-125m-epochs.png" not in write_report([(str(tmp_path), "s")]).files


@pytest.mark.usefixtures("no_figures")
def test_evaluations_fill_the_columns_of_the_paper(tmp_path: Path) -> None:
    cells = [Cell(sample=0), Cell(sample=1), Cell("kl", "kl", 0.0, 1.0, 0)]
    write_sweep(tmp_path, "s", cells)
    for cell, cls in zip(cells, (0.40, 0.44, 0.30), strict=True):
        # Of two suites the authors' is shown, as the paper's numbers are theirs.
        after = {"cls/icu_avg": cls, "cls/avg": 0.99, "ppl/pile_icu": 21.5, "dialogue/avg": 0.1}
        before = {"cls/icu_avg": 0.5, "cls/avg": 0.98, "ppl/pile_icu": 20.1, "dialogue/avg": 0.12}
        errors = {"piqa_icu": "no memory"} if cell.label == "kl" else {}
        evaluation = TrialEvaluation({"piqa_icu": "0" * 64}, ("b", "a"), before, after, errors)
        write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), evaluation)
    report = write_report([(str(tmp_path), "s")]).report
    block = report.blocks[0]
    values = {row.label: row.values for row in block.rows}
    assert values["icu"]["cls"].mean == pytest.approx(42.0) and values["icu"]["cls"].n == 2
    assert values["before unlearning"]["cls"].mean == pytest.approx(50.0)
    assert values["kl"]["ppl_pile"].mean == pytest.approx(21.5)
    assert values["icu"]["ppl_wikitext"] is None
    assert any("(cls/icu_avg)" in column.meaning for column in report.columns)
    assert any("not evaluated on piqa_icu: no memory" in finding.text for finding in report.findings)
    text = (tmp_path / "s" / "report" / "report.md").read_text()
    assert "What the models can still do" in text and "| cls/avg | % |" in text
    with (tmp_path / "s" / "report" / "tasks.csv").open() as file:
        rows = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["icu (0.5, 1)", "cls/icu_avg"]["mean_pct"]) == pytest.approx(42.0)
    assert rows["icu (0.5, 1)", "cls/icu_avg"]["perplexity"] == ""
    perplexities = [row for (_, metric), row in rows.items() if metric.startswith("ppl/")]
    assert perplexities and not any(row["mean_pct"] for row in perplexities)


@pytest.mark.usefixtures("no_figures")
def test_what_was_measured_once_is_counted_once_before_unlearning(tmp_path: Path) -> None:
    """Two samples of one text set are one measurement, and so is the held-out perplexity of any number of samples."""
    write_sweep(tmp_path, "s", [Cell(sample=0), Cell(sample=1), Cell("kl", "kl", 0.0, 1.0, 2)])
    same = TrialPaths.of(str(tmp_path), "s", Cell(sample=1).trial_id).spec
    spec = json.loads(Path(same).read_text())
    spec["settings"]["sample"] = "sample 0"
    Path(same).write_text(json.dumps(spec))
    values = write_report([(str(tmp_path), "s")]).report.blocks[0].rows[0].values
    assert values["ma"].n == 2
    assert (values["ppl_heldout"].n, values["ppl_heldout"].half) == (1, None)


@pytest.mark.usefixtures("no_figures")
def test_the_quick_suite_stands_in_columns_of_its_own(tmp_path: Path) -> None:
    cells = [Cell(), Cell("kl", "kl", 0.0, 1.0)]
    write_sweep(tmp_path, "s", cells)
    for cell in cells:
        metrics = {"cls/quick_avg": 0.4, "dialogue/quick_f1": 0.2}
        evaluation = TrialEvaluation({"quick": "0" * 64}, ("b", "a"), metrics, metrics, {})
        write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), evaluation)
    report = write_report([(str(tmp_path), "s")]).report
    icu = next(row for row in report.blocks[0].rows if row.label == "icu")
    assert (icu.values["cls"], icu.values["dia"]) == (None, None)
    assert icu.values["quick_cls"].mean == pytest.approx(40.0)
    assert icu.values["quick_dia"].mean == pytest.approx(20.0)
    assert {"quick_cls", "quick_dia"} <= {column.key for column in report.columns}
    scored = {column.key for column in report.scores[0].columns}
    assert scored == {"el10", "ma", "bert", "entropy", "ppl_heldout"}
    assert "(4 of the paper's 9 columns, and 1 of ours)" in report.scores[0].title


@pytest.mark.usefixtures("no_figures")
def test_a_model_as_it_is_is_one_row_beside_the_papers_opt(tmp_path: Path) -> None:
    cells = [Cell(), Cell("original", "original", 0.0, 0.0, model="opt-125m", final=(0.52, 0.07, 20.0, 3.0))]
    settings = config("s", ("125m", "opt-125m"), standin=True)
    write_sweep(tmp_path, "s", cells, settings)
    report = write_report([(str(tmp_path), "s")]).report
    opt = next(block for block in report.blocks if block.model == "opt-125m")
    assert [row.label for row in opt.rows] == ["before unlearning"]
    assert opt.rows[0].paper is not None and opt.rows[0].paper.name == "OPT"
    assert report.scores[report.blocks.index(opt)].refused == "no method was run on this model"


@pytest.mark.usefixtures("no_figures")
def test_the_only_cell_of_icu_on_a_stand_in_stands_beside_the_papers(tmp_path: Path) -> None:
    settings = config("s", standin=True)
    write_sweep(tmp_path, "one", [Cell(beta=4.0), Cell("kl", "kl", 0.0, 4.0)], {**settings, "name": "one"})
    write_sweep(tmp_path, "two", [Cell(beta=4.0), Cell(beta=8.0)], {**settings, "name": "two"})
    rows = {
        name: [r.paper for r in write_report([(str(tmp_path), name)]).report.blocks[0].methods if r.method == "icu"]
        for name in ("one", "two")
    }
    assert [paper.name for paper in rows["one"] if paper] == ["NEO + ICU (ours)"]
    assert rows["two"] == [None, None]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("evil", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(1)", "\t=1", " =1", "\x1b[2J", "a\r=1+1"])
def test_no_table_holds_a_cell_that_a_spreadsheet_runs(tmp_path: Path, evil: str) -> None:
    folder = write_sweep(tmp_path, "one", [Cell(reason=evil)])
    paths = TrialPaths.of(str(tmp_path), "one", Cell().trial_id)
    write_samples(paths, [replace(sample, id=evil, pair_id=evil) for sample in read_samples(paths)[:1]])
    write_tables(summarise(str(tmp_path), "one"))
    report = write_report([(str(tmp_path), "one")])
    tables = {path: list(csv.reader(path.open(newline=""))) for path in folder.rglob("*.csv")}
    cells = [cell for rows in tables.values() for row in rows for cell in row]
    for cell in cells:
        assert not cell.lstrip(" ").startswith(("=", "+", "@", "\t", "\r", "\x1b")), cell
        assert not cell.startswith("-") or float(cell) < 0, cell
    assert len(tables) == 2 + sum(name.endswith(".csv") for name in report.files)
    assert all(len({len(row) for row in rows}) == 1 for rows in tables.values())  # "\r" begins no row
    assert sum(cell in (evil, f"'{evil}") for cell in cells) == 3  # reason, id, pair's id


@pytest.mark.usefixtures("no_figures")
def test_every_text_of_a_single_trial_is_told(tmp_path: Path) -> None:
    write_sweep(tmp_path, "one", [Cell()])
    write_report([(str(tmp_path), "one")])
    with (tmp_path / "one" / "report" / "targets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["r3", "r2", "r1", "r0"]  # best remembered first
    assert {row["continuation"] for row in rows} == {"unlike"}
    # In full, empty where nothing was measured, and without the columns of which that holds for all rows.
    assert [float(row["ma_after_pct"]) for row in rows] == pytest.approx([58.0, 57.0, 56.0, 55.0])
    assert not {"pair", "el10_before_pct", "verdict", "subject"} & set(rows[0])
    paths = TrialPaths.of(str(tmp_path), "one", Cell().trial_id)
    first, *others = read_samples(paths)
    write_samples(paths, [replace(first, ma_after=1 / 3, el_after=None, pair_id="p"), *others])
    report = undrawn(tmp_path, "one")
    (*_, last) = csv.DictReader(io.StringIO(csv_tables(report)["targets.csv"].decode()))
    assert float(last["ma_after_pct"]) == pytest.approx(100 / 3, rel=1e-12) and last["el10_after_pct"] == ""
    described = TrialPaths.of(str(tmp_path), "one", "x").root.rpartition("/trials/")[0] + "/sweep.json"
    known = json.loads(Path(described).read_text()) | {"subjects": {"r3": "Ada", "r1": "17"}}
    Path(described).write_text(json.dumps(known))
    rows = list(csv.DictReader(io.StringIO(csv_tables(undrawn(tmp_path, "one"))["targets.csv"].decode())))
    assert {row["text"]: row["subject"] for row in rows} == {"r3": "Ada", "r2": "", "r1": "17", "r0": ""}
    assert "subject" in undrawn(tmp_path, "one").target_headings
    assert "–" in report.targets[-1].cells and "33.3" in report.targets[-1].cells  # on the page
    write_sweep(tmp_path, "two", [Cell(), Cell(sample=1)])
    assert "targets.csv" not in write_report([(str(tmp_path), "two")]).files


def undrawn(storage: Path, name: str) -> Report:
    """A report's contents, without its pictures, which take a second."""
    return make_report(collect([(str(storage), name)]))


@pytest.mark.usefixtures("no_figures")
def test_tables_say_what_varied_in_which_unit_and_nothing_empty(tmp_path: Path) -> None:
    cells = [Cell(), Cell(sample=1), Cell(seed=7), Cell(lr=1e-4)]
    folder = write_sweep(tmp_path, "varied", cells)
    summary = summarise(str(tmp_path), "varied")
    write_tables(summary)
    written = write_report([(str(tmp_path), "varied")])
    headers = {path.name: path.read_text().split("\n")[0].split(",") for path in folder.rglob("*.csv")}
    assert {"trials.csv", "cells.csv", "table.csv", "tests.csv"} <= set(headers)
    assert all(name.isascii() for header in headers.values() for name in header)
    for name in ("trials.csv", "cells.csv", "table.csv"):
        assert {"lr", "seed"} <= set(headers[name]), name
    for path in folder.rglob("*.csv"):
        rows = list(csv.reader(path.open(newline="")))
        empty = [name for place, name in enumerate(rows[0]) if not any(row[place] for row in rows[1:])]
        assert len(rows) == 1 or not empty, (path.name, empty)
    with (folder / "trials.csv").open() as file:
        (first, *_) = csv.DictReader(file)
    assert float(first["ma_after_pct"]) == pytest.approx(55.0) and float(first["entropy_after_bits"]) == 3.8
    with (folder / "cells.csv").open() as file:
        found = [(row["lr"], row["seed"], row["trials"]) for row in csv.DictReader(file)]
    # Another seed is another repetition of a cell, another lr another cell.
    assert sorted(found) == [("0.0001", "42", "1"), ("5e-06", "42 7", "3")]
    assert summary.cells[0].told
    # alpha and beta are in no row of KUMPR, and there is no score of one row: no columns for them.
    write_sweep(tmp_path, "bare", [Cell("kumpr", "kumpr", 0.0, 0.0, model="mine")])
    text = markdown.to_markdown(undrawn(tmp_path, "bare"), ())
    header = text.split("## Results\n\n")[1].split("\n")[0]
    assert "alpha" not in header and "s\\_z" not in header and "MA (%)" in header
    assert "alpha" in text_of(written, "report.md").split("## Results\n\n")[1].split("\n")[0]


def test_what_ended_by_another_rule_is_another_cell(tmp_path: Path) -> None:
    cells = [Cell("npo", "npo", final=(0.59, 0.04, 21.0, 3.8)), Cell("npo", "npo", stop_ma=0.4), Cell()]
    write_sweep(tmp_path, "s", cells)
    write_tables(summarise(str(tmp_path), "s"))
    with (tmp_path / "s" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = sorted((row["method"], row["stop.ma"], row["trials"], float(row["ma_after_pct_mean"])) for row in rows)
    assert [each[:3] for each in found] == [("icu", "", "1"), ("npo", "0.4", "1"), ("npo", "0.5994", "1")]
    assert [each[3] for each in found] == pytest.approx([55.0, 55.0, 59.0])
    assert "stop" not in write_tables_of(tmp_path, [Cell(), Cell(sample=1)])


def write_tables_of(folder: Path, cells: list[Cell]) -> str:
    """The header of cells.csv."""
    write_sweep(folder, "alike", cells)
    write_tables(summarise(str(folder), "alike"))
    return (folder / "alike" / "cells.csv").read_text().split("\n")[0]


@pytest.mark.usefixtures("no_figures")
def test_the_first_sentence_says_what_came_out(tmp_path: Path) -> None:
    dear = Cell("kl", "kl", 0.0, 1.0, final=(0.55, 0.04, 80.0, 3.8))
    cells = [Cell(), Cell(sample=1), dear, replace(dear, sample=1)]
    write_sweep(tmp_path, "s", cells)
    written = write_report([(str(tmp_path), "s")])
    begin = (
        "On 125m, icu (0.5, 1) forgot in 2 of 2 trials at the least cost: MA 95.0 % to 55.0 %, "
        "EL10 80.0 % to 4.0 %, perplexity on held-out texts 1.20 times as high (24.0). 4 of 4 planned trials"
    )
    assert written.report.summary.startswith(begin), written.report.summary
    assert text_of(written, "report.html").count("at the least cost") == 1
    write_sweep(tmp_path, "t", [Cell(status="not_forgotten", final=(0.7, 0.2, 22.0, 4.0)), Cell(sample=1)])
    said = undrawn(tmp_path, "t").summary
    assert "no method forgot in every trial; icu (0.5, 1) came nearest, with 1 of 2: MA" in said


@pytest.mark.usefixtures("no_figures")
def test_a_model_that_collapsed_is_counted_as_forgotten_nowhere(tmp_path: Path) -> None:
    ruined, dear = Cell("kl", "kl", 0.0, 1.0), Cell("npo", "npo", 0.0, 1.0, final=(0.55, 0.04, 80.0, 3.8))
    cells = [Cell(), ruined, dear]
    write_sweep(tmp_path, "s", cells)
    for cell in cells:
        paths = TrialPaths.of(str(tmp_path), "s", cell.trial_id)
        result = read_result(paths)
        assert result is not None and result.after is not None
        after = replace(result.after, distinct=0.1) if cell is ruined else result.after
        limits = Thresholds(Limit(0.5994), Limit(0.0499), "and", 1.5)
        write_result(paths, replace(result, after=after, thresholds=limits))
    write_tables(summarise(str(tmp_path), "s"))
    with (tmp_path / "s" / "cells.csv").open() as file:
        counted = {row["method"]: row["forgotten"] for row in csv.DictReader(file)}
    assert counted == {"icu": "1", "kl": "0", "npo": "0"}
    outcomes = {"icu": "success", "kl": "collapsed", "npo": "too_costly"}
    with (tmp_path / "s" / "trials.csv").open() as file:
        assert {row["method"]: row["outcome"] for row in csv.DictReader(file)} == outcomes
    told = json.loads((tmp_path / "s" / "summary.json").read_text())["trials"]
    assert {trial["method"]: trial["outcome"] for trial in told} == outcomes
    told = status_json(collect([(str(tmp_path), "s")]))["trials"]
    assert [(trial["state"], trial["outcome"]) for trial in told] == [("finished", each) for each in outcomes.values()]
    counts = sweep_batch([read_result(TrialPaths.of(str(tmp_path), "s", cell.trial_id)) for cell in cells]).values
    assert (counts["trials_forgotten"], counts["trials_not_acceptable"], counts["trials_not_forgotten"]) == (1, 2, 0)
    report = undrawn(tmp_path, "s")
    assert {row.label: row.forgotten for row in report.blocks[0].methods} == {"icu": 1, "kl": 0, "npo": 0}
    assert "icu (0.5, 1) forgot in 1 of 1 trials: " in report.summary
    alone = make_report(replace(report.found, trials=tuple(t for t in report.found.trials if t.method == "kl")))
    assert alone.verdict is not None and "collapsed" in alone.verdict.headline
    assert "no method forgot in every trial" in alone.summary


def test_intervals_are_of_three_or_more(tmp_path: Path) -> None:
    for count, shown in ((2, False), (3, True)):
        cells = [Cell(sample=n, final=(0.5 + n / 100, 0.04, 24.0 + n, 3.8)) for n in range(count)]
        write_sweep(tmp_path, f"n{count}", cells)
        write_tables(summarise(str(tmp_path), f"n{count}"))
        text = markdown.main_table(undrawn(tmp_path, f"n{count}"))
        assert ("±" in text) is shown, text
        header = (tmp_path / f"n{count}" / "cells.csv").read_text().split("\n")[0]
        assert ("ma_after_pct_std" in header) is shown


def test_the_latex_table_fits_a_page(tmp_path: Path) -> None:
    cells = [Cell(alpha=a / 10, beta=b / 10, sample=n) for a in range(1, 8) for b in range(1, 8) for n in range(3)]
    write_sweep(tmp_path, "many", cells)
    text = latex.to_latex(undrawn(tmp_path, "many"))
    tables = text.split(r"\begin{table*}")[1:]
    assert len(tables) == 2 and r"125m (continued) & " in tables[1]
    for table in tables:
        assert table.count(r"\resizebox") == 2 and "adjustbox" not in table  # of what every LaTeX has
        assert sum(line.endswith(r"\\") for line in table.split("\n")) <= 1 + latex.ROWS


@pytest.mark.parametrize("form", ["11pt,a4paper", "twocolumn"])
@pytest.mark.parametrize("kind", ["many rows", "many columns", "one row"])
def test_the_latex_table_is_typeset_on_a_page(kind: str, form: str, tmp_path: Path) -> None:
    compiler = shutil.which("tectonic") or shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("needs tectonic or pdflatex to typeset it")
    cells = [Cell()]
    if kind == "many rows":
        cells = [Cell(alpha=a / 10, beta=b / 10, sample=n) for a in range(1, 8) for b in range(1, 8) for n in range(3)]
    elif kind == "many columns":
        cells = [Cell(method, method, 0.5, 1.0, n, ngram=n) for method in ("icu", "kl_<&_%") for n in (5, 10, 12)]
    write_sweep(tmp_path, "s", cells)
    for cell in cells if kind == "many columns" else ():
        measured = dict.fromkeys([name for column in PAPER_COLUMNS for name in column.metrics], 0.5)
        evaluation = TrialEvaluation({}, ("a", "b"), measured, measured)
        write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), evaluation)
    page = rf"\documentclass[{form}]{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}"
    (tmp_path / "page.tex").write_text(page + latex.to_latex(undrawn(tmp_path, "s")) + r"\end{document}")
    command = [compiler] if compiler.endswith("tectonic") else [compiler, "-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([*command, "page.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r"Overfull.*|Float too large.*|Missing character.*", done.stdout + done.stderr)


@pytest.mark.usefixtures("no_figures")
def test_texts_that_are_longer_than_a_row_are_named(tmp_path: Path) -> None:
    for source, said in (("records", True), ("synthetic", False)):
        settings = config(source) | {"data": {"source": source}}
        write_sweep(tmp_path, source, [Cell()], settings)
        paths = TrialPaths.of(str(tmp_path), source, Cell().trial_id)
        cut = [replace(each, cut_tokens=12 * number) for number, each in enumerate(read_samples(paths))]
        write_samples(paths, cut)
        found = write_report([(str(tmp_path), source)]).report.findings
        told = [finding.text for finding in found if "longer than a row" in finding.text]
        assert bool(told) is said
        if said:
            assert (
                "3 of 4 texts are longer than a row; their ends were neither forgotten nor measured: r3 (36" in told[0]
            )


@pytest.mark.usefixtures("no_figures")
def test_what_became_of_held_out_texts_is_one_sentence_a_model(tmp_path: Path) -> None:
    cells = [Cell(sample=0), Cell(sample=1), Cell("kl", "kl", 0.0, 1.0, model="1.3b")]
    folder = write_sweep(tmp_path, "s", cells)
    for place, cell in enumerate(cells[:2]):
        paths = TrialPaths.of(str(tmp_path), folder.name, cell.trial_id)
        result = read_result(paths)
        assert result is not None and result.before is not None and result.after is not None
        before = replace(result.before, ma_heldout=0.54, el_heldout=0.23, heldout_texts=16)
        after = replace(before, ma_heldout=0.5 - place / 100, el_heldout=None if place else 0.2, loss_heldout=3.2)
        limits = Thresholds(Limit(0.54, "heldout", 0.1, 16), Limit(0.0499))
        write_result(paths, replace(result, before=before, after=after, thresholds=limits if place else None))
    write_tables(summarise(str(tmp_path), "s"))
    with (tmp_path / "s" / "trials.csv").open() as file:
        first, second = (row for row in csv.DictReader(file) if row["model"] == "125m")
    kept = ("ma_heldout_before_pct", "ma_heldout_after_pct", "el10_heldout_before_pct", "loss_heldout_after")
    assert [float(first[key]) for key in kept] == pytest.approx([54.0, 50.0, 23.0, 3.2])
    assert second["el10_heldout_after_pct"] == "" and "loss_heldout_before" not in first  # measured in no trial
    written = write_report([(str(tmp_path), "s")])
    said = (
        "125m on 16 held-out texts: mean MA 54.0 % before and 49.0 to 50.0 % after, mean EL10 23.0 % before and "
        "20.0 % after; the threshold of MA comes from them, in 1 of 2 trials."
    )
    for name in ("report.html", "report.md"):
        text = html.unescape(text_of(written, name)).replace("\\>", ">")
        assert said in text, name
        assert "1.3b on held-out texts: MA and EL were not measured." in text


@pytest.mark.usefixtures("no_figures")
def test_nothing_is_said_of_held_out_texts_that_are_not_there(tmp_path: Path) -> None:
    cells = [Cell(), Cell(model="1.3b")]
    write_sweep(tmp_path, "s", cells)
    for cell in cells:
        paths = TrialPaths.of(str(tmp_path), "s", cell.trial_id)
        result = read_result(paths)
        assert result is not None and result.before is not None and result.after is not None
        before, after = (replace(side, ppl_heldout=None) for side in (result.before, result.after))
        if cell.model == "1.3b":
            before = replace(before, ma_heldout=0.5, el_heldout=0.2, heldout_texts=1)
        write_result(paths, replace(result, before=before, after=after))
    (said,) = undrawn(tmp_path, "s").heldout
    assert said.startswith("1.3b on 1 held-out text: mean MA 50.0 % before and not measured after")
