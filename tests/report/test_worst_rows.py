"""The rows that models still know best, of a benchmark's evaluation and of a sweep's own targets, in the report's page.

Needs: nothing.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.evaluation.task import DocumentScore
from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.formats.page import cut_words, to_html
from icu_ray.report.numbers.worst_rows import WORST, Measured
from tests.support.documents_case import Rows, evaluate_by_hand
from tests.support.report_case import REFERENCE, Cell, write_sweep

QUESTION = "Who is <b>row {}</b>?"
CELLS = [Cell(), Cell("kl", "kl", 0.0, 1.0), Cell("retrained", "retrained", 0.0, 0.0)]
ICU = CELLS[0].trial_id


def rows(values: list[tuple[float, float, float]], said: str = "nothing", prompt: bool = True) -> Rows:
    """A model's documents of TOFU's forget set. values: probability, extraction strength and ROUGE of each row."""
    asked = [QUESTION.format(number) if prompt else "" for number in range(len(values))]
    known = [
        DocumentScore(i, REFERENCE, "", (-1.0,), {"prob": p, "extraction_strength": e, "avg_loss": 1.0}, asked[i])
        for i, (p, e, _) in enumerate(values)
    ]
    spoken = [DocumentScore(i, REFERENCE, said, (), {"rouge": rouge}, asked[i]) for i, (*_, rouge) in enumerate(values)]
    return {"tofu_forget": known, "tofu_forget_said": spoken, "tofu_retain": known}


AFTER = [(0.1, 0.0, 0.1), (0.2, 0.9, 0.1), (0.1, 0.1, 0.3), *[(0.01, 0.0, 0.02)] * 12]
BEFORE, RETRAINED = [(0.9, 0.8, 0.7)] * 15, [(0.05, 0.04, 0.03)] * 15


def report_of(folder: Path) -> Report:
    return make_report(collect([(str(folder.parent), folder.name)]))


def page_of(report: Report) -> str:
    return to_html(report, [], {}, {})


def evaluated(tmp_path: Path, said: str = "nothing", prompt: bool = True) -> Path:
    folder = write_sweep(tmp_path, "s", CELLS)
    for cell, values in zip(CELLS, (AFTER, AFTER[::-1], RETRAINED), strict=True):
        evaluate_by_hand(
            folder,
            cell.trial_id,
            rows(BEFORE, REFERENCE, prompt),
            rows(values, said if values is AFTER else "", prompt),
        )
    return folder


def test_a_row_is_as_known_as_the_measure_that_knows_it_best(tmp_path: Path) -> None:
    found = report_of(evaluated(tmp_path, said="Alice Smith lives at 12 Elm Street"))
    assert [(each.row, each.benchmark, each.of, len(each.rows)) for each in found.worst] == [
        ("kl (–, 1)", "TOFU", 15, WORST),
        ("icu (0.5, 1)", "TOFU", 15, WORST),
    ]
    (icu,) = found.worst_of("125m", "icu (0.5, 1)")
    assert icu.headings == ("probability", "extraction strength", "ROUGE")
    assert [row.name for row in icu.rows[:4]] == ["2", "3", "1", "4"]
    first = icu.rows[0]
    assert first.prompt == QUESTION.format(1) and first.answer == REFERENCE
    assert first.said == (("before", REFERENCE), ("after", "Alice Smith lives at 12 Elm Street"), ("retrained", ""))
    assert first.measured == (
        Measured("0.90", "0.20", "0.05"),
        Measured("0.80", "0.90", "0.04"),
        Measured("0.70", "0.10", "0.03"),
    )
    assert found.worst_of("125m", "retrained") == found.worst_of("125m", "before unlearning") == ()


def test_the_page_links_to_them_and_escapes_every_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> " + "and so on " * 30 + "ends here"
    page = page_of(report_of(evaluated(tmp_path, said=evil)))
    assert "<script" not in page and "<b>row" not in page
    assert page.count(html.escape(evil)) == WORST  # the whole of a long text, to be opened
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; and so on") == 2 * WORST  # and its beginning
    links = re.findall(r'<a class="rows" href="#(worst-\d+)">worst rows</a>', page)
    assert links == ["worst-1", "worst-2"] and all(f'id="{link}"' in page for link in links)
    assert page.count("(nothing)") == 3 * WORST  # what the retrained model said of both, and the model of kl


def test_what_earlier_versions_wrote_has_the_question_of_the_target_with_the_same_answer(tmp_path: Path) -> None:
    found = report_of(evaluated(tmp_path, prompt=False))
    assert {row.prompt for each in found.worst for row in each.rows} == {"The record says that"}


def test_of_other_data_the_targets_are_shown(tmp_path: Path) -> None:
    found = report_of(write_sweep(tmp_path, "s", CELLS, said="Alice Smith"))
    icu = found.worst_of("125m", "icu (0.5, 1)")[0]
    assert icu.benchmark == "" and icu.headings == ("MA (%)", "EL10 (%)")
    assert [row.name for row in icu.rows] == ["r3", "r2", "r1", "r0"]
    assert icu.rows[0].measured[0] == Measured("95.0", "58.0", "58.0")
    assert icu.rows[0].said == (("before", REFERENCE), ("after", "Alice Smith"), ("retrained", "Alice Smith"))
    assert "<mark>Alice Smith</mark>" in page_of(found)


def test_damaged_documents_cost_their_rows_alone_and_are_named(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    (folder / "trials" / ICU / "documents.parquet").write_bytes(b"PAR1 no more")
    found = report_of(folder)
    assert [each.benchmark for each in found.worst] == ["TOFU", ""]  # of icu its targets
    (said,) = [finding.text for finding in found.findings if finding.kind == "broken"]
    assert "documents.parquet: is not what its evaluation wrote" in said
    page_of(found)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=200), st.booleans()), max_size=60))
def test_a_cut_text_is_the_beginning_of_the_text(words: list[tuple[str, bool]]) -> None:
    text = " ".join(word for word, _ in words)
    shown = cut_words(text, words)
    if len(text) <= 160:
        assert shown is None
        return
    assert shown and sum(len(word) for word, _ in shown) <= 160
    assert text.startswith(" ".join(word for word, _ in shown))
    assert [leaked for _, leaked in shown] == [leaked for _, leaked in words[: len(shown)]]
    assert cut_words(text, []) == [(word, False) for word, _ in shown]


@pytest.mark.parametrize("trials", [1, 2])
def test_of_one_trial_they_are_open(tmp_path: Path, trials: int) -> None:
    page = page_of(report_of(write_sweep(tmp_path, "s", CELLS[:trials])))
    section = page[page.index('aria-labelledby="worst"') :]
    assert ("<details open>" in section[: section.index("</section>")]) is (trials == 1)
