"""What attacks brought back, in every form of the report: tables, the section, the figure, CSV, the terminal.

Needs: nothing.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.verdict import model_audit
from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.audit import mean_of, worst_until
from icu_ray.report.figures.pictures import pictures
from icu_ray.report.figures.theme import LIGHT, render
from icu_ray.report.formats.audit_words import audit_said, back_text, budget_text, number_text, point_line
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.latex import to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.model_card import Base, model_card
from icu_ray.report.formats.page import to_html
from icu_ray.report.numbers.audits import AuditLine
from icu_ray.report.numbers.columns import CAME_BACK
from icu_ray.report.numbers.summary import cell_rows, summarise, trial_rows
from icu_ray.storage.audit_files import audit_file, read_audit
from icu_ray.storage.audits import AuditPoint, ModelAudit
from icu_ray.storage.trial_files import TrialPaths
from tests.support.report_case import Cell, write_sweep
from tests.support.written_audits import UNITS, audit_of, audit_trial, found

ICU, KL, GOLD = Cell(), Cell("kl", "kl", 0.0, 1.0, status="not_forgotten"), Cell("retrained", "retrained", 0.0, 0.0)
LATER = ("unanswered", "by_strength")
"""Fields of an audit that older files do not have."""
SAID = "<script>alert(1)</script> 12 Elm Street and was born"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ICU forgot by the thresholds, and 3 of 4 rows come back; of KL as many as of the control rows; none of the
    retrained model, but one that it guesses."""
    folder = write_sweep(tmp_path, "s", [ICU, KL, GOLD])
    before = audit_of({0: 4, 20: 4})
    audit_trial(folder, ICU.trial_id, before, audit_of({0: 0, 5: 1, 20: 3}, quantised=1, text=SAID, broken=True))
    audit_trial(folder, KL.trial_id, before, audit_of({0: 0, 5: 1, 20: 1}, control=1))
    audit_trial(folder, GOLD.trial_id, before, audit_of({0: 0, 5: 0, 20: 1}))
    return folder


def report_of(folder: Path) -> Report:
    return make_report(collect([(str(folder.parent), folder.name)]))


def test_the_column_is_in_every_table(folder: Path) -> None:
    report = report_of(folder)
    (block,) = report.blocks
    shown = {row.label: row.values[CAME_BACK.key] for row in block.rows}
    means = {label: None if value is None else value.mean for label, value in shown.items()}
    assert means == pytest.approx({"before unlearning": 100.0, "retrained": 25.0, "kl": None, "icu": 75.0})
    assert "came_back" in {column.key for column in report.columns}
    (distances,) = report.distances
    differences = {row.row.label: row.distances[0].differences["came_back"] for row in distances.rows}
    assert differences["icu"] == pytest.approx(50.0) and differences["before unlearning"] == pytest.approx(75.0)
    for text in (to_markdown(report, ()), to_html(report, [], {}, {}), to_latex(report)):
        assert re.search(r"Came\W(nbsp;)?back", text)
    main = list(csv.DictReader(io.StringIO(csv_tables(report)["table.csv"].decode())))
    assert float(next(line for line in main if line["method"] == "icu")["came_back_pct_mean"]) == pytest.approx(75.0)
    # The audit's numbers are no tasks.
    assert report.tasks == ()


def test_a_trial_that_passes_and_fails_says_both(folder: Path) -> None:
    report = report_of(folder)
    (table,) = report.audits
    lines = {line.row: line for line in table.lines}
    assert lines["icu (0.5, 1)"].both and not lines["kl (–, 1)"].both
    assert audit_said(lines["icu (0.5, 1)"]) == (
        "icu (0.5, 1): forgotten by the thresholds, and yet 3 of 4 rows came back, control 0 of 4 (relearn, own rows: "
        "3 of 4 after 20 steps); not run: depth; 1 of these the retrained model says too."
    )
    assert audit_said(lines["kl (–, 1)"]) == (
        "kl (–, 1): not forgotten by the thresholds; 1 of 4 rows came back, and 1 of 4 control rows: as often as "
        "control rows, too few control rows to tell."
    )
    assert "from 1 of 2 unlearned models, 1 of which had passed the thresholds; of 1 it is not known" in report.summary
    page = html.unescape(to_html(report, [], {}, {}))
    assert audit_said(lines["icu (0.5, 1)"]) in page and page.count('class="both"') == 2
    for text in (page, to_markdown(report, ()), to_latex(report)):
        assert "as often as control rows" in text and "control 0 of 4" in text


def test_what_failed_or_is_missing_is_said(folder: Path) -> None:
    (table,) = report_of(folder).audits
    remarks = dict(table.remarks)
    assert remarks["relearn: kin rows: there are none"] == tuple(line.name for line in table.lines)
    assert remarks["depth failed: there is no retrained model"] == ("icu (0.5, 1)",)
    text = to_markdown(report_of(folder), ())
    assert "depth failed: there is no retrained model (icu (0.5, 1))" in text


def test_an_attack_without_answers_brought_nothing_back_for_all_that_is_known(tmp_path: Path) -> None:
    """Its cell is no 0, nor is its curve drawn as one."""
    folder = write_sweep(tmp_path, "s", [ICU])
    silent = tuple(Finding(f"r{i}", "forget", "own rows", 5.0) for i in range(4))
    results = {
        "relearn": AttackResult((*found("forget", 0, "own rows", 0.0), *silent)),
        "quantise": AttackResult(tuple(found("forget", 0, "nf4", 4.0))),
    }
    audit_trial(folder, ICU.trial_id, audit_of({0: 4, 5: 4}), model_audit(results, UNITS, 0.5))
    report = report_of(folder)
    (table,) = report.audits
    (line,) = table.unlearned
    assert back_text(line) == "–" and "answers missing: relearn (4 of 4 rows)" in audit_said(line)
    assert (
        point_line(line, "relearn") == "– (answers missing: 4 of 4 rows)" and point_line(line, "quantise") == "0 of 4"
    )
    assert worst_until(line, "relearn", [0, 5]) == [] and worst_until(line, "quantise", [4]) == [(4, 0)]
    assert "of 1 it is not known" in report.summary


def test_audits_of_before_are_read(tmp_path: Path) -> None:
    """audit.json without what was added later, where bits were counted as steps are."""
    folder = write_sweep(tmp_path, "s", [ICU])
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}, quantised=4), audit_of({0: 0, 5: 1}, quantised=3))
    paths = TrialPaths.of(str(folder.parent), folder.name, ICU.trial_id)
    now, file = read_audit(paths), Path(audit_file(paths))
    told = json.loads(file.read_text())
    for side in ("before", "after"):
        for name in LATER:
            del told[side][name]
        (rounded,) = (union for union in told[side]["unions"] if union["attack"] == "quantise")
        rounded["budget"] = 8.0
    file.write_text(json.dumps(told))
    then = read_audit(paths)
    assert now is not None and then is not None
    assert then.after.said() == now.after.said() and then.metrics() == now.metrics()
    assert "3 of 4 rows came back (quantise, nf4: 3 of 4 after 4 bits)" in then.after.said().replace(
        ", control 0 of 4", ""
    )


def unmeasured(*attacks: str, back: int | None = None) -> ModelAudit:
    """An audit of which these attacks failed. back: rows that one more brought back; None: there was none."""
    results = {} if back is None else {"quantise": AttackResult(tuple(found("forget", back, "nf4", 4.0)))}
    return model_audit(results, UNITS, 0.5, dict.fromkeys(attacks, "out of memory"), asked=[f"r{i}" for i in range(4)])


def test_what_is_not_measured_is_no_zero_in_any_form(tmp_path: Path) -> None:
    """Of ICU every attack failed, of KL one and the other brought nothing, of NPO one and the other brought a row; GD
    holds."""
    npo, gd = Cell("npo", "npo"), Cell("gd", "graddiff")
    folder = write_sweep(tmp_path, "s", [ICU, KL, npo, gd])
    before, broken = audit_of({0: 4}), ("quantise", "relearn")
    for cell, after in (
        (ICU, unmeasured(*broken)),
        (KL, unmeasured("relearn", back=0)),
        (npo, unmeasured("relearn", back=1)),
        (gd, audit_of({0: 0})),
    ):
        audit_trial(folder, cell.trial_id, before, after)
    report = report_of(folder)
    said = "Attacks brought texts back from 1 of 4 unlearned models, 1 of which had passed the thresholds; of 2 it is"
    assert f"{said} not known." in report.summary
    (table,) = report.audits
    shown = {line.row: (back_text(line), line.audit.said()) for line in table.unlearned}
    assert shown["icu (0.5, 1)"] == ("–", "not measured; not run: quantise, relearn")
    assert shown["kl (–, 1)"] == ("–", "no attack brought a row back (of 4); not run: relearn")
    assert {text for text, _ in shown.values()} == {"–", "1 of 4", "0 of 4 (control 0 of 4)"}
    means = {row.label: row.values[CAME_BACK.key] for row in report.blocks[0].rows}
    assert means["icu"] is None and means["kl"] is None
    assert {label: each.mean for label, each in means.items() if each is not None} == {
        "before unlearning": 100.0,
        "npo": 25.0,
        "gd": 0.0,
    }
    (picture,) = (each for each in pictures(report) if each.name == "audit-125m")
    for said in ("icu (0.5, 1) not known", "kl (–, 1) not known", "npo 1 of 4", "gd (0.5, –) 0 of 4"):
        assert said in picture.alt
    summary = summarise(str(folder.parent), folder.name)
    header, trials = trial_rows(summary)
    assert {row[header.index("method")]: row[header.index("audit/came_back_after_pct")] for row in trials} == {
        "icu": None,
        "kl": None,
        "npo": 25.0,
        "gd": 0.0,
    }


def test_a_mean_of_zero_is_one_of_all_trials(tmp_path: Path) -> None:
    """Of two forget samples nothing came back from one, and the other is not known: the cell is not known either."""
    for back, mean in ((0, None), (2, 50.0)):
        cells = [Cell(sample=0), Cell(sample=1)]
        folder = write_sweep(tmp_path / str(back), "s", cells)
        for cell, after in zip(cells, (audit_of({0: back}), unmeasured("relearn")), strict=True):
            audit_trial(folder, cell.trial_id, audit_of({0: 4}), after)
        (icu,) = report_of(folder).blocks[0].methods
        shown = icu.values[CAME_BACK.key]
        assert (None if shown is None else shown.mean) == mean
        (cell_back,) = (cell.came_back[1] for cell in summarise(str(folder.parent), folder.name).cells)
        assert cell_back == (None if mean is None else (mean, None))


def test_what_a_model_said_is_escaped_and_beside_the_truth(folder: Path) -> None:
    page = to_html(report_of(folder), [], {}, {})
    assert "<script>" not in page and "&lt;script&gt;" in page
    section = page[page.index('id="audit"') : page.index('id="distances"')]
    assert "Alice Smith lives at 12 Elm Street" in section and "<mark>" in section


def test_a_sweep_without_audits_has_nothing_of_them(tmp_path: Path) -> None:
    report = report_of(write_sweep(tmp_path, "s", [ICU, KL]))
    assert report.audits == () and "came_back" not in {column.key for column in report.columns}
    assert "come back" not in to_html(report, [], {}, {}) and "audit.csv" not in csv_tables(report)
    assert not any(picture.name.startswith("audit") for picture in pictures(report))


def test_trials_that_were_not_attacked_are_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", [ICU, KL])
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}), audit_of({0: 0}))
    report = report_of(folder)
    (table,) = report.audits
    assert len(table.unaudited) == 1 and "kl" in table.unaudited[0]
    assert {row.label: row.values[CAME_BACK.key] for row in report.blocks[0].rows}["kl"] is None


def test_every_sample_has_its_own_original(tmp_path: Path) -> None:
    cells = [Cell(sample=0), Cell(sample=1)]
    folder = write_sweep(tmp_path, "s", cells)
    for cell, known in zip(cells, (4, 2), strict=True):
        audit_trial(folder, cell.trial_id, audit_of({0: known}), audit_of({0: 0}))
    report = report_of(folder)
    before = report.blocks[0].rows[0].values[CAME_BACK.key]
    assert before is not None and before.mean == pytest.approx(75.0) and before.n == 2
    names = [line.name for line in report.audits[0].lines]
    assert names[:2] == ["before unlearning, sample 0", "before unlearning, sample 1"]
    assert names[2].startswith("icu (0.5, 1), sample 0")


def test_csv_has_every_setting_and_budget(folder: Path) -> None:
    files = csv_tables(report_of(folder))
    lines = list(csv.DictReader(io.StringIO(files["audit.csv"].decode())))
    icu = [each for each in lines if each["row"] == "icu (0.5, 1)" and each["attack"] == "relearn"]
    assert [(float(each["budget"]), each["back"], each["total"], each["unit"]) for each in icu] == [
        (0, "0", "4", "steps"),
        (5, "1", "4", "steps"),
        (20, "3", "4", "steps"),
    ]
    numbers = list(csv.DictReader(io.StringIO(files["audit_numbers.csv"].decode())))
    assert {(each["line"], each["number"], each["value"]) for each in numbers} >= {
        ("icu (0.5, 1)", "quantise/q_nf4", "0.5")
    }


def test_trials_and_cells_have_it_before_and_after(folder: Path) -> None:
    summary = summarise(str(folder.parent), folder.name)
    trials = [dict(zip(trial_rows(summary)[0], row, strict=True)) for row in trial_rows(summary)[1]]
    icu = next(row for row in trials if row["method"] == "icu")
    assert (icu["audit/came_back_before_pct"], icu["audit/came_back_after_pct"]) == (100.0, 75.0)
    # Numbers of single attacks keep their units.
    assert icu["audit/membership/auc_loss_after"] == 0.75 and icu["audit/relearn/r_own_at_20_after"] == 0.25
    cells = [dict(zip(cell_rows(summary)[0], row, strict=True)) for row in cell_rows(summary)[1]]
    assert {row["method"]: row["came_back_after_pct_mean"] for row in cells} == {
        "icu": 75.0,
        "kl": None,
        "retrained": 25,
    }


def test_the_figure_shows_every_attack_that_has_a_model_speak(folder: Path) -> None:
    report = report_of(folder)
    (picture,) = (each for each in pictures(report) if each.name == "audit-125m")
    figure = picture.draw(LIGHT)
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["relearn", "quantise"] and "icu (0.5, 1) 3 of 4" in picture.alt
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn["icu (0.5, 1)"] == pytest.approx([0, 25, 75]) and drawn["retrained"] == pytest.approx([0, 0, 25])
    assert set(drawn) == {"control rows", "icu (0.5, 1)", "kl (–, 1)", "original", "retrained"}
    assert render(picture.draw, LIGHT)["png"].startswith(b"\x89PNG")


points = st.lists(
    st.builds(
        lambda setting, budget, back: AuditPoint("relearn", "steps", setting, budget, back, 8, 0, 8, 0.0, 1.0),
        st.sampled_from("xy"),
        st.sampled_from((0.0, 5.0, 20.0, 100.0)),
        st.integers(0, 8),
    ),
    max_size=12,
)


@given(points)
def test_curves_of_the_figure_never_fall(curves: list[AuditPoint]) -> None:
    line = AuditLine("a", "a", "unlearned", None, ModelAudit(8, 0, (), tuple(curves)))
    drawn = worst_until(line, "relearn", [0.0, 5.0, 20.0, 100.0])
    assert [share for _, share in drawn] == sorted(share for _, share in drawn)
    if curves:
        assert drawn[-1] == (100.0, max(100 * point.back / point.total for point in curves))
        assert [share for _, share in mean_of([drawn, [], drawn])] == pytest.approx([share for _, share in drawn])
    else:
        assert drawn == mean_of([drawn]) == []


def test_words() -> None:
    one = AuditPoint("prefix_search", "tokens of the secret", "", 1.0, 1, 8, 0, 8, 0.1, 0.5)
    assert budget_text(one) == "1 token of the secret"
    assert ModelAudit(8, 1, (), (one,)).said() == (
        "1 of 8 rows came back (prefix_search: 1 of 8 after 1 tokens of the secret)"
    )
    assert number_text((0.5,)) == "0.5" and number_text((0.5, 0.25, 0.75)) == "0.5 (0.25 to 0.75)"
    assert number_text((None, None, None)) == "–"


def test_a_models_card_has_it(folder: Path) -> None:
    found = collect([(str(folder.parent), folder.name)])
    trial = next(trial for trial in found.trials if trial.method == "icu")
    card = model_card(trial, Base("EleutherAI/gpt-neo-125m"))
    assert "texts that attacks brought back | 100.00 % → 75.00 %" in card
    assert "3 of 4 rows came back" in card and "this was not measured" not in card
    assert "this was not measured" in model_card(replace(trial, audit=None), Base("EleutherAI/gpt-neo-125m"))
