"""EL is called by its n wherever a sweep's numbers are written: results of n = 5, of an earlier version, of two n.

Needs: nothing.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from icu_ray.api import _epochs_frame, _texts_frame
from icu_ray.cli.main import main as cli
from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.curves import forgetting
from icu_ray.report.figures.theme import LIGHT
from icu_ray.report.figures.tradeoff import tradeoff
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.latex import to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.report.numbers.summary import summarise, write_tables
from icu_ray.report.terminal.summary_tables import print_tables
from icu_ray.report.tracking.metrics import epoch_metrics, result_batches
from icu_ray.report.tracking.views import experiment_tags, sweep_note, tag_ngrams, trial_note
from icu_ray.storage.results import Sweep
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result, read_samples, read_spec, read_sweep
from tests.support.report_case import Cell, config, write_sweep

FIVE = Cell(ngram=5)


def contents(storage: Path, name: str) -> Report:
    return make_report(collect([(str(storage), name)]))


def five(folder: Path) -> TrialPaths:
    write_sweep(folder, "five", [FIVE], config("five", ngram=5))
    return TrialPaths.of(str(folder), "five", FIVE.trial_id)


def csv_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def sweep_of(storage: Path, name: str) -> Sweep:
    found = read_sweep(str(storage), name)
    assert found is not None
    return found


def test_files_say_el5_and_are_read_back(tmp_path: Path) -> None:
    paths = five(tmp_path)
    raw = [Path(file).read_text() for file in (paths.result, paths.events, paths.samples)]
    assert not any("el10" in text or '"ngram": 10' in text for text in raw)
    assert json.loads(raw[0])["after"]["el5"] == 0.04
    assert json.loads(raw[1].splitlines()[-1])["scores"]["el5_unmeasured"] == 0
    assert json.loads(raw[2].splitlines()[0])["el5_after"] == 0.04
    result, samples = read_result(paths), read_samples(paths)
    assert result is not None and result.after is not None and (result.after.el, result.after.ngram) == (0.04, 5)
    assert (samples[0].el_after, samples[0].ngram) == (0.04, 5)
    assert {(record.scores.ngram, record.scores.el is None) for record in read_events(paths)} == {(5, False)}


def test_a_folder_of_an_earlier_version_called_el5_el10(tmp_path: Path) -> None:
    paths = five(tmp_path)
    result, history, samples = read_result(paths), read_events(paths), read_samples(paths)
    for file in (paths.result, paths.events, paths.samples):
        Path(file).write_text(Path(file).read_text().replace('"el5', '"el10'))
    spec = read_spec(paths)
    assert read_result(paths) == result
    assert (read_events(paths, spec), read_samples(paths, spec)) == (history, samples)
    (trial,) = collect([(str(tmp_path), "five")]).trials
    assert (trial.ngram, trial.result, trial.history, trial.samples) == (5, result, history, samples)


def test_every_table_says_el5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = five(tmp_path)
    summary = summarise(str(tmp_path), "five")
    write_tables(summary)
    print_tables(summary, Console(width=200))
    shown = capsys.readouterr().out
    assert "EL5 %" in shown and "80.0 -> 4.0" in shown and "EL10" not in shown
    for name in ("trials.csv", "cells.csv", "summary.json"):
        text = (tmp_path / "five" / name).read_text()
        assert "el5" in text and "el10" not in text, name
    report = contents(tmp_path, "five")
    files = csv_tables(report)
    assert csv_rows(files["targets.csv"])[0]["el5_after_pct"] == "4.0"
    assert float(csv_rows(files["table.csv"])[1]["el5_pct_mean"]) == pytest.approx(4.0)
    assert "EL5 80.0 % to 4.0 %" in report.summary and "EL₅ < 4.99 %" in dict(report.facts[0][1])["forgotten when"]
    for text in (to_markdown(report, ()), to_html(report, (), {}, {})):
        assert "EL5 (%)" in text and "EL5 after (%)" in text
    assert "EL$_{5}$" in to_latex(report)
    # The page still has the column of what the paper prints there, which is EL10; nothing of ours stands in it.
    assert all(row["el10_pct_mean"] == "" for row in csv_rows(files["table.csv"]) if "el10_pct_mean" in row)
    assert cli(["status", str(tmp_path / "five")]) == 0
    assert "EL5 %" in capsys.readouterr().out
    assert cli(["status", str(tmp_path / "five"), "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert trial["el5"] == pytest.approx(0.04) and "el10" not in trial
    assert {"el5", "el5_heldout"} <= set(_epochs_frame({"a": paths})) and "el10" not in _epochs_frame({"a": paths})
    assert {"el5_before", "el5_after"} <= set(_texts_frame(paths)) and "ngram" not in _texts_frame(paths)


def test_figures_say_el5(tmp_path: Path) -> None:
    five(tmp_path)
    report = contents(tmp_path, "five")
    drawn = [axis.get_ylabel() for axis in forgetting(report, LIGHT).axes]
    assert drawn == ["MA (%)", "EL5 (%)"]
    assert [axis.get_xlabel() for axis in tradeoff(report, LIGHT).axes] == ["MA (%) after ↓", "EL5 (%) after ↓"]
    assert all(any(line.get_label() == "threshold" for line in axis.lines) for axis in forgetting(report, LIGHT).axes)


def test_mlflow_says_el5(tmp_path: Path) -> None:
    paths = five(tmp_path)
    result = read_result(paths)
    spec = read_spec(paths)
    assert result is not None and spec is not None
    names = {name for batch in result_batches(result, None) for name in batch.values}
    names |= set(epoch_metrics(read_events(paths)[0]))
    assert {"el5", "before/el5", "after/el5"} <= names and not any("el10" in name or "ngram" in name for name in names)
    assert "`el5`" in trial_note(spec, result)
    write_tables(summarise(str(tmp_path), "five"))
    note = sweep_note("x", "y", sweep_of(tmp_path, "five"), (tmp_path / "five" / "cells.csv").read_bytes())
    assert "EL5 < 4.99 %" in note and "| EL5 % |" in note and "4.0" in note and "EL10" not in note
    tags = experiment_tags("1", 0, (10, 5))
    assert {key: tag_ngrams(tag) for key, tag in tags.items()} == {key: {5, 10} for key in tags}
    assert "extraction likelihood of 5-grams and 10-grams" in tags["mlflow.note.content"]


def test_the_saved_views_follow_the_n_that_occur(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from icu_ray.report.tracking.runs import describe_experiment

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("e")
    five(tmp_path)
    write_sweep(tmp_path, "ten", [Cell()])
    created = client.get_experiment(experiment).creation_time
    for name, ngrams in (("ten", (10,)), ("five", (5, 10)), ("ten", (5, 10))):
        describe_experiment(client, experiment, sweep_of(tmp_path, name))
        wanted = experiment_tags(experiment, created, ngrams)
        assert {key: client.get_experiment(experiment).tags[key] for key in wanted} == wanted
    client.set_experiment_tag(experiment, "mlflow.note.content", "mine: el10")
    describe_experiment(client, experiment, sweep_of(tmp_path, "five"))
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "mine: el10"


def test_two_n_stand_in_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [Cell(), FIVE, Cell("kl", "kl", 0.0, 1.0)]
    write_sweep(tmp_path, "both", cells)
    summary = summarise(str(tmp_path), "both")
    write_tables(summary)
    found = {row["trial_id"]: row for row in csv_rows((tmp_path / "both" / "trials.csv").read_bytes())}
    assert (found[FIVE.trial_id]["el5_after_pct"], found[FIVE.trial_id]["el10_after_pct"]) == ("4.0", "")
    assert (found[Cell().trial_id]["el5_after_pct"], found[Cell().trial_id]["el10_after_pct"]) == ("", "4.0")
    report = contents(tmp_path, "both")
    assert [column.key for column in report.columns][:3] == ["el5", "el10", "ma"]
    before, *methods = report.blocks[0].rows
    for row in methods:
        assert (row.values["el5"] is None) is ("ngram=5" not in row.name)
        assert (row.values["el10"] is None) is ("ngram=5" in row.name)
    assert before.values["el5"] is not None and before.values["el10"] is not None and before.values["ma"] is not None
    assert before.values["ma"].n == 1  # the same texts, whatever n is
    (scores,) = report.scores
    assert len(scores.population) == 2 and len(scores.left_out) == 1 and "EL10" in scores.title
    assert not any(test.column.startswith("EL5") for test in report.tests)
    assert [axis.get_ylabel() for axis in forgetting(report, LIGHT).axes] == ["MA (%)", "EL5 (%)", "EL10 (%)"]
    assert cli(["status", str(tmp_path / "both"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["trials"]
    keys = [[key for key in trial if key.startswith("el")] for trial in told]
    assert keys == [["el10"], ["el5"], ["el10"]]
