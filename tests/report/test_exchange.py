"""Evaluations of another framework read into a sweep and its report, and trials written in that framework's form.

Needs: nothing; one test reads numbers of ../shared/oracles where they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.cli.main import main
from icu_ray.errors import UserError
from icu_ray.report.collect import collect
from icu_ray.report.contents import make_report
from icu_ray.report.exchange import import_files, label_of, write_open_unlearning
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.open_unlearning import from_open_unlearning
from icu_ray.report.formats.page import to_html
from icu_ray.report.numbers.field_names import SOURCES
from icu_ray.storage.imported_files import imported_labels, is_label, read_imported
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_samples, write_evaluation, write_samples
from tests.support.fuzz_case import JUNK, damaged, damaged_bytes, fuzz, value_or_refusal
from tests.support.report_case import Cell, config, write_sweep

LOSSES = (0.5, 1.25, 2.0, 3.5)
TOFU: dict[str, Any] = {
    "forget_Q_A_Prob": {
        "agg_value": 0.25,
        "value_by_index": {"0": {"prob": 0.3, "avg_loss": 1.2}, "1": {"prob": 0.2, "avg_loss": None}},
    },
    "forget_Q_A_PERT_Prob": {"agg_value": 0.1, "value_by_index": {"0": {"prob": [0.1, float("nan"), 0.3]}}},
    "forget_Q_A_ROUGE": {
        "agg_value": 0.5,
        "value_by_index": {"0": {"rougeL_recall": 0.5, "input": "Who wrote it?", "generation": "nan of them"}},
    },
    "forget_quality": {"agg_value": 4.35e-25},
    "mia_loss": {
        "forget": {"agg_value": 1.5, "value_by_index": {"0": {"score": 1.5}}},
        "holdout": {"agg_value": 2.5, "value_by_index": {"0": {"score": 2.5}}},
        "auc": 1.0,
        "agg_value": 1.0,
    },
    "privleak": {"agg_value": "nan"},
    "model_utility": {"agg_value": float("nan")},
}


def prompted(name: str) -> dict[str, Any]:
    """A config whose targets are answers to prompts."""
    return {**config(name), "data": {"source": "records", "prompt_column": "question", "completion_column": "answer"}}


def sweep(storage: Path, cells: list[Cell] | None = None, settings: dict[str, Any] | None = None) -> Path:
    cells = cells or [Cell(losses=LOSSES), Cell("kl", "kl", 0.0, 1.0, losses=LOSSES[::-1])]
    return write_sweep(storage, "s", cells, settings or prompted("s"))


def file(folder: Path, content: Any, name: str = "TOFU_EVAL.json") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def test_what_is_exported_and_read_again_has_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path)
    assert main(["report", str(folder), "--format", "open-unlearning"]) == 0
    out = folder / "report" / "open-unlearning"
    assert f"{out}/icu-125m-s0-a0.5-b1.0_EVAL.json and 1 more\n" in capsys.readouterr().out
    assert not (folder / "report" / "report.html").exists()  # it writes nothing else
    made = sorted(out.iterdir())
    assert [path.name for path in made] == ["icu-125m-s0-a0.5-b1.0_EVAL.json", "kl-125m-s0-a0.0-b1.0_EVAL.json"]
    written = json.loads(made[0].read_text())
    assert list(written) == ["exact_memorization", "forget_Q_A_Prob"]
    rows = written["forget_Q_A_Prob"]["value_by_index"]
    assert list(rows) == ["0", "1", "2", "3"]
    assert rows["2"] == {"prob": pytest.approx(math.exp(-2.0)), "avg_loss": 2.0}
    assert written["forget_Q_A_Prob"]["agg_value"] == pytest.approx(fmean(math.exp(-loss) for loss in LOSSES))
    assert [row["score"] for row in written["exact_memorization"]["value_by_index"].values()] == pytest.approx(
        [0.55, 0.56, 0.57, 0.58]
    )

    assert main(["import", *map(str, made), "--out", str(folder), "--model", "125m"]) == 0
    said = capsys.readouterr().out
    assert "kl-125m-s0-a0.0-b1.0: 2 metrics, 4 rows, from kl-125m-s0-a0.0-b1.0_EVAL.json\n" in said
    for path in made:
        label = path.name.removesuffix("_EVAL.json")
        again = read_imported(str(tmp_path), "s", label)
        assert again is not None and again.model == "125m" and again.source == path.name and len(again.sha256) == 64
        for name, entry in json.loads(path.read_text()).items():
            assert again.metrics[name].aggregate == entry["agg_value"]
            assert again.metrics[name].rows == entry["value_by_index"]
    # The same numbers, here and from there, stand in one line of the report.
    (table,) = make_report(collect([(str(tmp_path), "s")])).elsewhere
    lines = dict(table.lines)
    before, kl, icu, *theirs = lines["forget_Q_A_Prob"]
    assert theirs == [icu, kl] and icu is not None and kl is not None and before is not None
    assert before == pytest.approx(fmean(math.exp(-(place + 1) / 10) for place in range(4)))


def test_a_measure_of_the_evaluation_is_found_by_its_name_and_goes_before_ours(tmp_path: Path) -> None:
    cell = Cell(losses=LOSSES)
    sweep(tmp_path, [cell])
    measured = {"tofu/forget_quality": 0.04, "exact_memorization": 0.125, "cls/x_acc": 0.5, "privleak": None}
    asked = TrialEvaluation({"tofu": "h"}, ("m" * 64, "a" * 64), dict.fromkeys(measured, 0.5), measured)
    write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), asked)
    made = write_open_unlearning([(str(tmp_path), "s")])
    written = json.loads((Path(made.folder) / made.files[0]).read_text())
    assert {name: entry["agg_value"] for name, entry in written.items()} == {
        "exact_memorization": 0.125,
        "forget_Q_A_Prob": pytest.approx(fmean(math.exp(-loss) for loss in LOSSES)),
        "forget_quality": 0.04,
    }
    assert set(written) <= set(SOURCES)


def test_plain_texts_have_no_probability_of_an_answer_and_windows_no_rows(tmp_path: Path) -> None:
    cell = Cell(losses=LOSSES)
    sweep(tmp_path, [cell], settings=config("s"))
    made = write_open_unlearning([(str(tmp_path), "s")])
    assert list(json.loads((Path(made.folder) / made.files[0]).read_text())) == ["exact_memorization"]
    paths = TrialPaths.of(str(tmp_path), "s", cell.trial_id)
    write_samples(paths, [replace(sample, windows=2) for sample in read_samples(paths)])
    with pytest.raises(UserError, match="1 trials have a result, and none has a metric that OpenUnlearning has a name"):
        write_open_unlearning([(str(tmp_path), "s")])


def test_trials_of_one_name_have_a_file_each_and_old_files_go(tmp_path: Path) -> None:
    cells = [Cell(seed=1), Cell(seed=2), Cell(seed=3, status="failed", reason="no memory"), Cell(seed=4, status=None)]
    folder = sweep(tmp_path, cells)
    old = folder / "report" / "open-unlearning"
    file(old, {}, "gone_EVAL.json")
    file(old, {}, "notes.json")
    made = write_open_unlearning([(str(tmp_path), "s")])
    names = [f"icu-125m-s0-a0.5-b1.0-{cell.trial_id}_EVAL.json" for cell in cells[:2]]
    assert list(made.files) == names and sorted(path.name for path in old.iterdir()) == sorted([*names, "notes.json"])


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    folder = sweep(tmp_path)
    npo = file(tmp_path / "saves" / "eval" / "tofu_npo", TOFU)
    other = file(tmp_path / "other", {"forget_quality": 0.5, "privleak": 12.0}, "TOFU_SUMMARY.json")
    assert main(["import", npo, other, "--out", str(folder)]) == 0
    return folder


def test_a_file_is_kept_whole_but_for_its_texts(imported: Path) -> None:
    assert imported_labels(str(imported.parent), "s") == ("other", "tofu_npo")
    kept = read_imported(str(imported.parent), "s", "tofu_npo")
    assert kept is not None and kept.source == "TOFU_EVAL.json" and kept.model == ""
    assert kept.metrics["forget_Q_A_Prob"].rows == {
        "0": {"prob": 0.3, "avg_loss": 1.2},
        "1": {"prob": 0.2, "avg_loss": None},
    }
    assert kept.metrics["forget_Q_A_PERT_Prob"].rows == {"0": {"prob": (0.1, None, 0.3)}}
    assert kept.metrics["forget_Q_A_ROUGE"].rows == {"0": {"rougeL_recall": 0.5}}
    assert kept.metrics["mia_loss/holdout"].rows == {"0": {"score": 2.5}}
    assert kept.metrics["privleak"].aggregate is None and kept.metrics["model_utility"].aggregate is None
    assert kept.shown == {
        "forget_Q_A_Prob": 0.25,
        "forget_Q_A_PERT_Prob": 0.1,
        "forget_Q_A_ROUGE": 0.5,
        "forget_quality": 4.35e-25,
        "mia_loss": 1.0,
    }
    content = (imported / "imported" / "tofu_npo.json").read_text()
    assert "Who wrote it" not in content and "NaN" not in content


def test_the_report_shows_it_beside_ours_and_ranks_it_nowhere(imported: Path) -> None:
    folder = (str(imported.parent), "s")
    report = make_report(collect([folder]))
    (table,) = report.elsewhere
    assert table.model == "125m" and table.theirs == ("other", "tofu_npo")
    assert table.ours == ("before unlearning", "kl (–, 1)", "icu (0.5, 1)")
    lines = dict(table.lines)
    assert list(lines) == sorted(lines, key=str.casefold)
    assert lines["forget_quality"] == (None, None, None, 0.5, 4.35e-25)  # not measured here: a line of its own
    assert lines["privleak"] == (None, None, None, 12.0, None)
    assert lines["forget_Q_A_Prob"][-1] == 0.25 and None not in lines["forget_Q_A_Prob"][:3]
    page, text = to_html(report, (), {}, {}), to_markdown(report, ())
    assert page.count("Measured elsewhere") >= 2 and "<td>4.35e-25</td>" in page
    assert "## Measured elsewhere" in text and r"| forget\_quality | – | – | – | 0.5 | 4.35e-25 |" in text
    assert "TOFU\\_EVAL.json, SHA-256 " in text
    rows = list(csv.DictReader(io.StringIO(csv_tables(report)["elsewhere.csv"].decode("utf-8-sig"))))
    (quality,) = [row for row in rows if row["metric"] == "forget_quality" and row["row"] == "tofu_npo"]
    assert quality["imported"] == "True" and float(quality["value"]) == 4.35e-25
    # All else is what it is without the imports.
    for path in (imported / "imported").iterdir():
        path.unlink()
    without = make_report(collect([folder]))
    assert not without.elsewhere and "Measured elsewhere" not in to_html(without, (), {}, {})
    for name in ("blocks", "scores", "tests", "orders", "best", "distances", "tasks", "targets", "columns"):
        assert getattr(report, name) == getattr(without, name), name


def test_an_import_of_another_model_has_a_table_of_its_own(tmp_path: Path) -> None:
    cells = [Cell(model=model, losses=LOSSES) for model in ("125m", "1.3b")]
    folder = sweep(tmp_path, cells, settings={**prompted("s"), "models": config("s", ("125m", "1.3b"))["models"]})
    source = file(tmp_path / "x", TOFU)
    for label, model in (("a", "1.3b"), ("b", "llama"), ("c", "")):
        told = ["--model", model] if model else []
        assert main(["import", source, "--out", str(folder), "--label", label, *told]) == 0
    tables = make_report(collect([(str(tmp_path), "s")])).elsewhere
    assert [(table.model, table.theirs) for table in tables] == [("1.3b", ("a",)), ("llama", ("b",)), ("", ("c",))]
    assert tables[0].ours and not tables[1].ours and not tables[2].ours
    assert tables[2].heading == "model not named"


def test_the_same_label_again_takes_the_place(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    again = file(imported.parent / "again", {"forget_quality": 0.75}, "tofu_npo_EVAL.json")
    assert main(["import", again, "--out", str(imported)]) == 0
    assert "1 metrics, no rows, from tofu_npo_EVAL.json, in place of what had this label" in capsys.readouterr().out
    kept = read_imported(str(imported.parent), "s", "tofu_npo")
    assert kept is not None and kept.shown == {"forget_quality": 0.75}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not JSON", r"is no JSON \(Expecting value"),
        ("", r"is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ([1, 2], "found a list of 2; expected for each metric a number, or an object with"),
        ({}, "holds no metric"),
        ({"batch_size": 8, "models": {"target": {}}}, "'models': found an object with 'target'; expected for"),
        ({"eval_log.json": {"avg_gt_loss": {"0": 1.0}}}, "'eval_log.json': found an object with 'avg_gt"),
        ({"forget_quality": "high"}, "'forget_quality': found the text 'high'"),
        ({"forget_quality": {"agg_value": [1]}}, "'forget_quality.agg_value': found a list of 1; expected a number"),
        ({"x": {"agg_value": True}}, "'x.agg_value': found true; expected a number"),
        ({"x": {"agg_value": 1, "value_by_index": [1]}}, "'x.value_by_index': found a list of 1; expected an"),
        ({"x": {"agg_value": 1, "value_by_index": {"0": 3}}}, "'x.value_by_index.0': found the number 3; expected"),
        ({"x": {"value_by_index": {"0": {"score": {"a": 1}}}}}, "'x.value_by_index.0.score': found an object with 'a'"),
        ({"x": 10**400}, "'x': found a whole number of more than 300 digits"),
    ],
)
def test_what_is_no_evaluation_is_refused_and_leaves_nothing(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path)
    good, bad = file(tmp_path / "x", TOFU, "good_EVAL.json"), file(tmp_path / "x", content, "bad_EVAL.json")
    with pytest.raises(UserError, match=said) as refused:
        import_files([good, bad], str(tmp_path), "s")
    assert str(refused.value).startswith(f"{bad}: ") and "\n" not in str(refused.value)
    assert main(["import", good, bad, "--out", str(folder)]) == 2
    assert bad in capsys.readouterr().err and not (folder / "imported").exists()


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path)
    one, two = (file(tmp_path / "same" / part, TOFU, "npo_EVAL.json") for part in ("a", "b"))

    def refused(*typed: str) -> str:
        assert main(["import", *typed]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "no such file" in refused(str(tmp_path / "none.json"), "--out", str(folder))
    assert "is for one file, found 2" in refused(one, two, "--out", str(folder), "--label", "x")
    assert "would be called 'npo', as" in refused(one, two, "--out", str(folder))
    assert "expected up to 100 ASCII letters" in refused(one, "--out", str(folder), "--label", "../../x")
    assert "found no label in its name" in refused(file(tmp_path / "x", TOFU, "_EVAL.json"), "--out", str(folder))
    assert "no such folder" in refused(one, "--out", str(tmp_path / "nosuch"))
    assert not (folder / "imported").exists() and not (tmp_path / "nosuch").exists()


def test_a_damaged_import_is_named_and_costs_itself_alone(
    imported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icu_ray.report.write.pictures", lambda report: ())
    bad = imported / "imported" / "other.json"
    bad.write_text('{"label": "other"}')
    (imported / "imported" / "moved.json").write_text((imported / "imported" / "tofu_npo.json").read_text())
    assert main(["report", str(imported)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{bad}: is no Imported: " in said and "moved.json: is labelled 'tofu_npo', expected 'moved'" in said
    assert "tofu_npo" in (imported / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("npo-s0_EVAL.json", "npo-s0"),
        ("saves/eval/tofu_npo/TOFU_EVAL.json", "tofu_npo"),
        ("saves/unlearn/muse_x/evals/MUSE_SUMMARY.json", "muse_x"),
        ("TOFU_EVAL.json", "TOFU"),
        ("s3://bucket/TOFU_EVAL.json", "bucket"),
        ("a b/my run.json", "my-run"),
    ],
)
def test_a_file_is_called_by_its_name_or_its_folders(name: str, label: str) -> None:
    assert label_of(name) == label and is_label(label)


def test_a_url_is_read_and_a_sweep_behind_one_is_written_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    local = sweep(tmp_path)
    memory.put(str(local) + "/", "/exchange/s", recursive=True)
    memory.pipe("/evals/npo_EVAL.json", json.dumps(TOFU).encode())
    assert main(["import", "memory://evals/npo_EVAL.json", "--out", "memory://exchange/s"]) == 0
    assert imported_labels("memory://exchange", "s") == ("npo",)
    assert main(["report", "memory://exchange/s", "--format", "open-unlearning"]) == 0
    assert "memory://exchange/s/report/open-unlearning/icu-125m" in capsys.readouterr().out
    memory.rm("/exchange", recursive=True)
    memory.rm("/evals", recursive=True)


TREES = st.one_of(damaged(TOFU), JUNK).map(lambda tree: json.dumps(tree).encode())


@fuzz(150)
@given(content=TREES)
def test_any_tree_is_read_or_refused(content: bytes) -> None:
    value_or_refusal(lambda: from_open_unlearning(content, "file"))


@fuzz(150)
@given(content=damaged_bytes(json.dumps(TOFU).encode()))
def test_damaged_bytes_are_read_or_refused(content: bytes) -> None:
    value_or_refusal(lambda: from_open_unlearning(content, "file"))


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@fuzz(60)
@given(
    metrics=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name not in ("agg_value", "value_by_index")),
        st.tuples(NUMBERS, st.lists(st.dictionaries(st.sampled_from("abc"), NUMBERS, max_size=3), max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_every_number_is_read_as_it_was_written(metrics: dict[str, Any]) -> None:
    tree = {
        name: {"agg_value": aggregate, "value_by_index": {str(place): row for place, row in enumerate(rows)}}
        for name, (aggregate, rows) in metrics.items()
    }
    found = from_open_unlearning(json.dumps(tree).encode(), "file")
    assert set(found) == set(metrics)
    for name, (aggregate, rows) in metrics.items():
        assert found[name].aggregate == aggregate and list(found[name].rows.values()) == rows


def test_the_oracles_numbers_come_through(shared: Path, tmp_path: Path) -> None:
    """Real values of OpenUnlearning's own functions, in the form in which it writes them."""
    source = shared / "oracles" / "C" / "metrics.json"
    if not source.is_file():
        pytest.skip("needs ../shared/oracles/C")
    compact = json.loads(source.read_text())["models"]["unlearned"]
    rows = {name: entry for name, entry in compact.items() if isinstance(entry, dict) and "agg_value" in entry}
    assert len(rows) > 20
    sweep(tmp_path)
    given_file = file(tmp_path / "x", {name: _spread(entry) for name, entry in rows.items()}, "unlearned_EVAL.json")
    (done,) = import_files([given_file], str(tmp_path), "s")
    kept = read_imported(str(tmp_path), "s", "unlearned")
    assert kept == done.imported
    for name, entry in rows.items():
        assert kept is not None and kept.metrics[name].aggregate == entry["agg_value"]
    losses = rows["forget_Q_A_Prob"]["by_index"]["avg_loss"]
    assert kept is not None
    assert [row["avg_loss"] for row in kept.metrics["forget_Q_A_Prob"].rows.values()] == losses


def _spread(entry: dict[str, Any]) -> dict[str, Any]:
    """Lists by quantity as rows by index."""
    told = {k: _spread(v) if isinstance(v, dict) and k != "by_index" else v for k, v in entry.items()}
    if "by_index" in told:
        columns = told.pop("by_index")
        length = max(map(len, columns.values()), default=0)
        told["value_by_index"] = {
            str(index): {name: values[index] for name, values in columns.items()} for index in range(length)
        }
    return told


def test_a_file_is_no_sweep_and_how_it_is_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path, "run", [Cell()])
    (tmp_path / "TOFU_EVAL.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert main(["compare", "run", "TOFU_EVAL.json"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "./TOFU_EVAL.json: is a file; expected the folder of a sweep, <storage>/<name>; 'icu-ray import " in said
    assert "TOFU_EVAL.json --out SWEEP' reads OpenUnlearning's numbers into one" in said and "did you mean" not in said
    assert main(["compare", "run", "empty"]) == 2
    assert "did you mean" not in capsys.readouterr().err
    assert main(["compare", "run", "rnu"]) == 2
    assert "(did you mean 'run'?)" in capsys.readouterr().err
