"""What is still outstanding of a sweep is said in its report, and its end has a line on audit and benchmarks a trial.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from icu_ray.report.collect import collect
from icu_ray.report.contents import make_report
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.report.numbers.summary import summarise
from icu_ray.report.numbers.unfinished import unfinished
from icu_ray.report.terminal.closing_lines import MOST, closing_lines
from icu_ray.report.terminal.summary_tables import print_tables
from icu_ray.storage.results import ENDED_EARLY, TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, write_evaluation
from tests.support.report_case import Cell, config, write_sweep
from tests.support.written_audits import audit_of, audit_trial

ICU, KL, GD = Cell(), Cell("kl", "kl", 0.0, 1.0), Cell("gd", "gd")
BOTH = {"evaluation": {"suites": ["quick"], "tasks": []}, "audit": {"attacks": ["relearn", "quantise"]}}


def sweep(place: Path, cells: list[Cell], **asked: Any) -> Path:
    return write_sweep(place, "s", cells, {**config("s"), **asked})


def evaluate(folder: Path, cell: Cell, **metrics: float | None) -> None:
    found = {name.replace("__", "/"): value for name, value in metrics.items()}
    paths = TrialPaths.of(str(folder.parent), folder.name, cell.trial_id)
    write_evaluation(paths, TrialEvaluation({}, ("a", "b"), found, found))


def said(folder: Path) -> list[str]:
    return unfinished(collect([(str(folder.parent), folder.name)]))


def test_what_is_outstanding_is_said_in_every_form(tmp_path: Path) -> None:
    failed = Cell("early", status="not_forgotten", reason=ENDED_EARLY)
    folder = sweep(tmp_path, [ICU, KL, GD, failed, Cell("lost", status="failed"), Cell("none", status=None)], **BOTH)
    evaluate(folder, ICU, ppl__quick=3.0)
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}), audit_of({0: 0}))
    evaluated, audited = said(folder)
    assert evaluated.startswith(
        "2 of 3 trials with a result are not wholly evaluated yet, though the config asks for it: "
    )
    assert audited.startswith("2 of 3 trials with a result are not wholly audited yet") and "kl" in audited
    report = make_report(collect([(str(tmp_path), "s")]))
    for text in (to_markdown(report, ()), to_html(report, [], {}, {})):
        assert "not wholly evaluated yet" in text and "not wholly audited yet" in text


def test_an_audit_that_lacks_an_attack_is_outstanding(tmp_path: Path) -> None:
    folder = sweep(tmp_path, [ICU], audit={"attacks": ["all"]})
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}), audit_of({0: 0}))  # of relearn and quantise
    assert [line.partition(":")[0] for line in said(folder)] == [
        "1 of 1 trials with a result is not wholly audited yet, though the config asks for it"
    ]


def test_an_audit_or_evaluation_with_errors_is_outstanding(tmp_path: Path) -> None:
    folder = sweep(tmp_path, [ICU, KL], **BOTH)
    for cell in (ICU, KL):
        audit_trial(folder, cell.trial_id, audit_of({0: 4}), audit_of({0: 0}, broken=cell is KL))
        paths = TrialPaths.of(str(folder.parent), folder.name, cell.trial_id)
        write_evaluation(paths, TrialEvaluation({}, ("a", "b"), {}, {}, {"wow": "no memory"} if cell is ICU else {}))
    evaluated, audited = said(folder)
    assert evaluated.startswith("1 of 2") and "icu" in evaluated and audited.startswith("1 of 2") and "kl" in audited


def test_nothing_is_said_of_what_is_complete_or_was_not_asked_for(tmp_path: Path) -> None:
    assert said(sweep(tmp_path / "a", [ICU, KL])) == []
    folder = sweep(tmp_path / "b", [ICU], **BOTH)
    evaluate(folder, ICU)
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}), audit_of({0: 0}))
    assert said(folder) == []


def test_a_sweep_ends_with_the_audits_sentence_and_the_benchmarks_numbers(tmp_path: Path) -> None:
    gold = Cell("retrained", "retrained", 0.0, 0.0, reason="the gold standard: trained without the texts to forget")
    folder = sweep(tmp_path, [ICU, KL, gold])
    audit_trial(folder, ICU.trial_id, audit_of({0: 4}), audit_of({0: 0, 20: 1}))
    audit_trial(folder, KL.trial_id, audit_of({0: 4}), audit_of({0: 0, 5: 1, 20: 3}))
    audit_trial(folder, gold.trial_id, audit_of({0: 4}), audit_of({0: 4}))
    evaluate(folder, ICU, tofu__forget_quality=0.125, tofu__model_utility=None, cls__avg=0.5)
    summary = summarise(str(tmp_path), "s")
    names = {result.method: result.name for result in summary.results}
    lines = closing_lines(summary)
    assert lines[0] == (
        f"Audit, {names['kl']}: 3 of 4 rows came back, control 0 of 4 (relearn, own rows: 3 of 4 after 20 steps)."
    )
    assert lines[1].startswith(f"Audit, {names['icu']}: 1 of 4 rows came back")
    (benchmark,) = lines[2:]
    assert names["icu"] in benchmark and benchmark.startswith("TOFU")
    assert "forget_quality 0.125" in benchmark and "model_utility not measured" in benchmark
    console = Console(width=300, record=True, file=(tmp_path / "printed").open("w"))
    print_tables(summary, console)
    printed = console.export_text()
    assert all(line in printed for line in lines)


def test_of_many_trials_the_worst_are_told(tmp_path: Path) -> None:
    cells = [Cell(seed=seed) for seed in range(MOST + 3)]
    folder = sweep(tmp_path, cells)
    for place, cell in enumerate(cells):
        audit_trial(folder, cell.trial_id, audit_of({0: 4}), audit_of({0: 0, 20: min(place, 4)}))
    lines = closing_lines(summarise(str(tmp_path), "s"))
    assert len(lines) == MOST + 1 and all(": 4 of 4" in line for line in lines[:4])
    assert lines[-1] == "Audit of 3 more trials, in 2 of which rows came back: see the report."
    unknown = replace(audit_of({0: 4}), back=0, unmeasured=4)
    for cell in cells[:-1]:
        audit_trial(folder, cell.trial_id, audit_of({0: 4}), unknown)
    lines = closing_lines(summarise(str(tmp_path), "s"))
    assert lines[:MOST] == [f"{line.partition(':')[0]}: not measured." for line in lines[:MOST]]
    assert "in 1 of which rows came back, and in 2 of which it is not known: see" in lines[-1]
    assert closing_lines(summarise(str(tmp_path), "s")) and not closing_lines(
        summarise(str(tmp_path / "other"), "t", [])
    )
