"""Rating sheets are blind and complete, what comes back is checked, and its statistics are those of plain code.

Needs: chromium for one of its tests.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from icu_ray.cli.main import main
from icu_ray.evaluation.ratings.candidates import Candidate
from icu_ray.evaluation.ratings.human import rescale
from icu_ray.evaluation.ratings.human_sheets import RUBRIC, SheetRow, export_sheets, read_key_file
from icu_ray.evaluation.ratings.judge import Verdict
from icu_ray.metrics.agreement import krippendorff_alpha, mean_ranks, pearson, spearman
from icu_ray.storage.results import to_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Table II of the paper: cell means of humans (1..8) and of the judge (0..10); columns NEO, OPT, KUMPR, ICU.
HUMAN = (3.1, 3.7, 1.1, 5.7, 1.8, 3.1, 1.4, 4.8, 1.5, 3.2, 1.1, 4.7)
JUDGE = (3.75, 3.08, 1.05, 3.92, 2.72, 3.63, 1.26, 4.33, 2.11, 3.65, 1.00, 4.40)

HOSTILE = "</script><script>document.title='forged'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"


def candidates(cells: int = 3, each: int = 5) -> list[Candidate]:
    return [
        Candidate(f"c{cell}/{n}", f"cell-{cell}", str(n), f"prefix {n}", f"reference {n}", f"text {cell} {n}")
        for cell in range(cells)
        for n in range(each)
    ]


def read_sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_ratings(path: Path, ratings: dict[str, Any], header: str = "row_id,rating", comma: str = ",") -> Path:
    path.write_text("\n".join([header, *(f"{row}{comma}{rating}" for row, rating in ratings.items()), ""]))
    return path


def rows_of(folder: Path, rater: int) -> list[SheetRow]:
    return [row for row in read_key_file(folder).values() if row.rater == f"rater-{rater}"]


# ---- the sheets


def test_every_rater_sees_every_row_in_an_order_of_its_own(tmp_path: Path) -> None:
    rows = candidates()
    export_sheets(rows, tmp_path, raters=3, seed=1, per_cell=None)
    key = read_key_file(tmp_path)
    orders = []
    for rater in (1, 2, 3):
        sheet = read_sheet(tmp_path / "sheets" / f"rater-{rater}.csv")
        assert [line["rating"] for line in sheet] == [""] * len(rows)
        by_id = {row.id: row for row in rows}
        for line in sheet:
            row = by_id[key[line["row_id"]].id]
            assert (line["prefix"], line["reference"], line["output"]) == (row.prompt, row.reference, row.text)
        orders.append([key[line["row_id"]].id for line in sheet])
        assert sorted(orders[-1]) == sorted(by_id)
    assert len({tuple(order) for order in orders}) == 3
    assert len(key) == 3 * len(rows)


def test_sheets_say_nothing_of_what_is_rated(tmp_path: Path) -> None:
    rows = [Candidate(f"secret-method/{n}", "secret-cell", f"doc{n}xyz", "p", "r", f"t{n}") for n in range(5)]
    export_sheets(rows, tmp_path, raters=1, seed=0, per_cell=None)
    for path in (tmp_path / "sheets").iterdir():
        text = path.read_text()
        for secret in ("secret-method", "secret-cell", "xyz", *(row.fingerprint for row in rows)):
            assert secret not in text, path


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path: Path) -> None:
    def files(name: str, seed: int) -> dict[str, bytes]:
        export_sheets(candidates(), tmp_path / name, raters=2, seed=seed, per_cell=2)
        return {
            str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()
        }

    assert files("a", 1) == files("b", 1)
    assert files("c", 2)["key.jsonl"] != files("a", 1)["key.jsonl"]


def test_cells_are_asked_about_the_same_targets(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = [row for row in candidates(3, 40) if row.cell != "cell-2" or int(row.sample_id) < 3]
    export_sheets(rows, tmp_path, raters=1, seed=4, per_cell=7, note=notes.append)
    drawn: dict[str, set[str]] = {}
    for row in rows_of(tmp_path, 1):
        drawn.setdefault(row.cell, set()).add(row.id.split("/")[1])
    assert drawn["cell-0"] == drawn["cell-1"]
    assert [len(drawn[f"cell-{n}"]) for n in range(3)] == [7, 7, 3]
    assert notes == ["cell cell-2 has 3 candidates, fewer than 7: all are taken"]


def test_a_spreadsheet_runs_nothing(tmp_path: Path) -> None:
    export_sheets([Candidate("a", "c", "1", "+1", "@x", "=HYPERLINK(1)")], tmp_path, 1, 0, None)
    [line] = read_sheet(tmp_path / "sheets" / "rater-1.csv")
    assert [line[name] for name in ("prefix", "reference", "output")] == ["'+1", "'@x", "'=HYPERLINK(1)"]


def test_the_page_asks_for_nothing_outside_and_no_text_leaves_its_place(tmp_path: Path) -> None:
    export_sheets([Candidate("a", "c", "1", HOSTILE, "r", HOSTILE)], tmp_path, 1, 0, None)
    page = (tmp_path / "sheets" / "rater-1.html").read_text()
    carried = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert carried is not None
    assert json.loads(carried[1])["rows"][0]["output"] == HOSTILE
    assert "<img" not in page
    rest = page.replace(carried[0], "")
    assert not re.search(r"https?://|@import|url\(|<link|src=", rest)
    assert "default-src 'none'" in rest


def test_another_export_is_not_written_over_one_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_sheets(candidates(), tmp_path, raters=1, seed=0, per_cell=None)
    export_sheets(candidates(), tmp_path, raters=1, seed=0, per_cell=None)
    source = tmp_path / "other.csv"
    source.write_text("id,prompt,reference,candidate\n1,p,r,c\n")
    assert main(["human", "export", str(source), "--out", str(tmp_path)]) == 2
    assert "holds another export" in capsys.readouterr().err


def test_export_from_files_of_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = []
    for name in ("first", "second"):
        sources.append(tmp_path / f"{name}.jsonl")
        lines = [{"id": n, "prompt": "p", "reference": "r", "candidate": f"{name} {n}<|endoftext|>"} for n in range(9)]
        sources[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["human", "export", *map(str, sources), "--out", str(tmp_path / "human"), "--per-cell", "4"]
    assert main([*command, "--raters", "2"]) == 0
    assert "8 rows of 2 cells for each of 2 raters" in capsys.readouterr().out
    outputs = {line["output"] for line in read_sheet(tmp_path / "human" / "sheets" / "rater-1.csv")}
    numbers = {output.split()[1] for output in outputs}
    assert len(numbers) == 4
    assert outputs == {f"{name} {number}" for name in ("first", "second") for number in numbers}
    assert main(["human", "import", str(tmp_path / "human")]) == 0
    assert "rater-1: 0 of 8 rows rated" in capsys.readouterr().out


# ---- what comes back


@pytest.fixture
def export(tmp_path: Path) -> Path:
    export_sheets(candidates(), tmp_path / "human", raters=2, seed=0, per_cell=None)
    return tmp_path / "human"


def good_ratings(folder: Path, rater: int) -> dict[str, int]:
    return {row.row_id: 1 + number % 8 for number, row in enumerate(rows_of(folder, rater))}


def test_ratings_are_kept_and_may_come_in_parts(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = good_ratings(export, 1)
    part = dict(itertools.islice(given.items(), 4))
    first = write_ratings(export / "first.csv", {**part, **dict.fromkeys(list(given)[4:], "")})
    # As a spreadsheet of another country saves it, and with the rows of the first part again.
    second = write_ratings(export / "second.csv", given, "\ufeffrow_id;rating", ";")
    for file, new, rated in ((first, 4, 4), (first, 0, 4), (second, 11, 15)):
        assert main(["human", "import", str(export), str(file), "--json"]) == 0
        said = capsys.readouterr()
        assert f"{new} new ratings" in said.err
        assert json.loads(said.out)["raters"][0] == {"rater": "rater-1", "rated": rated, "of": 15}
    assert main(["human", "import", str(export), str(second), "--json", "--quiet"]) == 0
    assert capsys.readouterr() == (said.out, "")
    kept = [json.loads(line) for line in (export / "ratings.jsonl").read_text().splitlines()]
    assert {line["row_id"]: line["rating"] for line in kept} == given


def test_a_filled_in_sheet_comes_back_as_it_is(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export / "sheets" / "rater-2.csv"
    lines = read_sheet(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({**line, "output": line["output"] + "\nline two", "rating": " 8 "} for line in lines)
    assert main(["human", "import", str(export), str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [(cell["rating"], cell["rescaled"], cell["n"]) for cell in summary["cells"]] == [(8.0, 10.0, 5)] * 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: {**rows, list(rows)[2]: 9}, "line 4: row '{2}': rating '9', expected a whole number from 1 to 8"),
        (lambda rows: {**rows, list(rows)[2]: 0}, "rating '0', expected"),
        (lambda rows: {**rows, list(rows)[2]: "4.5"}, "rating '4.5', expected"),
        (lambda rows: {**rows, list(rows)[2]: "five"}, "rating 'five', expected"),
        (lambda rows: {**rows, list(rows)[2]: "٤"}, "rating '٤', expected"),
        (lambda rows: {**rows, "abc-1-0001": 3}, "row 'abc-1-0001' is not in the export"),
        (lambda rows: {**rows, f"{min(rows)} ": 3}, "row '{0}' appears twice, first in"),
        (lambda rows: dict.fromkeys(rows, ""), "holds no ratings"),
        (lambda rows: {**rows, list(rows)[1]: "3,4"}, "line 3: expected 2 cells, found 3"),
    ],
)
def test_wrong_ratings_are_refused_and_what_was_there_stays(
    export: Path, change: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["human", "import", str(export), str(write_ratings(export / "a.csv", good_ratings(export, 2)))]) == 0
    before = (export / "ratings.jsonl").read_bytes()
    capsys.readouterr()
    rows = good_ratings(export, 1)
    wrong = write_ratings(export / "wrong.csv", change(rows))
    good = write_ratings(export / "good.csv", good_ratings(export, 2))
    assert main(["human", "import", str(export), str(good), str(wrong)]) == 2
    error_text = capsys.readouterr().err
    assert f"{wrong}" in error_text
    assert said.format(*rows) in error_text
    assert (export / "ratings.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "columns none; expected row_id and rating once each"),
        (b"row,rating\n1,2\n", "columns row, rating; expected"),
        (b"row_id,rating,rating\n1,2,3\n", "columns row_id, rating, rating; expected row_id and rating once each"),
        (b"row_id,rating,mood\n1,2,3\n", "columns row_id, rating, mood; expected"),
        (b"row_id,rating\n", "holds no ratings"),
        (b'row_id,rating\n"1,2\n', "cannot be read as CSV"),
        (b"row_id,rating\n\xff,2\n", "cannot be read as CSV"),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_ratings(
    export: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export / "x.csv"
    if content is not None:
        path.write_bytes(content)
    assert main(["human", "import", str(export), str(path)]) == 2
    assert f"{path}: {said}" in capsys.readouterr().err
    assert not (export / "ratings.jsonl").exists()


def test_a_changed_rating_is_not_taken_silently(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = good_ratings(export, 1)
    assert main(["human", "import", str(export), str(write_ratings(export / "a.csv", given))]) == 0
    row = list(given)[3]
    assert main(["human", "import", str(export), str(write_ratings(export / "b.csv", {**given, row: 8}))]) == 2
    assert f"row '{row}': rating 8, but {given[row]} was imported before" in capsys.readouterr().err


def test_ratings_of_another_export(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_sheets(candidates(), tmp_path / "later", raters=2, seed=1, per_cell=None)
    other = write_ratings(tmp_path / "other.csv", good_ratings(tmp_path / "later", 1))
    assert main(["human", "import", str(export), str(other)]) == 2
    assert "is not in the export" in capsys.readouterr().err
    assert main(["human", "import", str(tmp_path), str(other)]) == 2
    assert "holds no key.jsonl" in capsys.readouterr().err


# ---- against the judge


def write_verdicts(path: Path, rows: list[Candidate], scores: list[int | None], **changes: Any) -> Path:
    verdicts = [
        {
            **vars(
                Verdict(row.id, row.cell, row.sample_id, row.fingerprint, score, None if score is not None else "no")
            ),
            **changes,
        }
        for row, score in zip(rows, scores, strict=True)
    ]
    path.write_bytes(b"".join(to_json(verdict) for verdict in verdicts))
    return path


def spread(mean: float, count: int, low: int, high: int) -> list[int]:
    """Whole numbers of [low, high] with exactly this mean."""
    total = round(mean * count)
    assert math.isclose(total / count, mean)
    values = [low + (total - low * count) // count] * count
    for n in range(total - sum(values)):
        values[n] += 1
    assert min(values) >= low and max(values) <= high
    return values


def test_table_ii(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ratings whose twelve cell means are those of Table II give the paper's 0.89, by way of all the files."""
    rows = candidates(12, 100)
    folder = tmp_path / "human"
    export_sheets(rows, folder, raters=1, seed=0, per_cell=None)
    rating = dict(zip((row.id for row in rows), (s for mean in HUMAN for s in spread(mean, 100, 1, 8)), strict=True))
    scores = [s for mean in JUDGE for s in spread(mean, 100, 0, 10)]
    back = write_ratings(tmp_path / "back.csv", {row.row_id: rating[row.id] for row in rows_of(folder, 1)})
    judge = write_verdicts(tmp_path / "judge.jsonl", rows, list(scores))
    assert main(["human", "import", str(folder), str(back), "--judge", str(judge), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    means = {cell["cell"]: (cell["rating"], cell["judge"]) for cell in summary["judge"]["cell_means"]}
    assert [means[f"cell-{n}"][0] for n in range(12)] == pytest.approx(HUMAN)
    assert [means[f"cell-{n}"][1] for n in range(12)] == pytest.approx(JUDGE)
    cells, samples = summary["judge"]["cells"], summary["judge"]["samples"]
    assert round(cells["pearson"]["r"], 4) == 0.8877
    assert cells["pearson"]["n"] == 12
    assert samples["pearson"]["n"] == 1200
    assert samples["pearson"]["r"] == pytest.approx(stats.pearsonr([rating[r.id] for r in rows], scores).statistic)
    assert main(["human", "import", str(folder), "--judge", str(judge)]) == 0
    assert "pearson with the judge over 12 cells: 0.8877 [0.640, 0.968]" in capsys.readouterr().out


def test_only_rows_that_both_have_rated_are_compared(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = candidates()
    scores: list[int | None] = [n % 11 for n in range(15)]
    scores[3] = None
    first, second = good_ratings(export, 1), good_ratings(export, 2)
    del first[min(first)]
    files = [str(write_ratings(export / f"{n}.csv", given)) for n, given in enumerate((first, second))]
    judge = write_verdicts(export / "judge.jsonl", rows, scores)
    assert main(["human", "import", str(export), *files, "--judge", str(judge), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    key = read_key_file(export)
    by_item: dict[str, list[int]] = {}
    for row_id, rating in {**first, **second}.items():
        by_item.setdefault(key[row_id].id, []).append(rating)
    x = [
        rescale(sum(by_item[row.id]) / len(by_item[row.id]))
        for row, score in zip(rows, scores, strict=True)
        if score is not None
    ]
    y = [score for score in scores if score is not None]
    assert summary["judge"]["samples"]["pearson"]["n"] == 14
    assert summary["judge"]["samples"]["pearson"]["r"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert summary["judge"]["samples"]["spearman"]["r"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert summary["alpha_ordinal"] == pytest.approx(plain_alpha(list(by_item.values()), "ordinal"))
    assert summary["ratings"] == 29


def test_a_judge_of_other_texts(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["human", "import", str(export), str(write_ratings(export / "a.csv", good_ratings(export, 1)))]) == 0
    for changes, said in (
        ({"fingerprint": "0" * 16}, "was judged with other texts than the raters saw"),
        ({"id": "unknown"}, "has a score for none of the rated candidates"),
        ({"score": "7"}, "line 1: is not a verdict of icu-ray judge (score: Input should be a valid integer"),
    ):
        judge = write_verdicts(export / "judge.jsonl", candidates(), [5] * 15, **changes)
        assert main(["human", "import", str(export), "--judge", str(judge)]) == 2
        assert said in capsys.readouterr().err
    assert main(["human", "import", str(export), "--judge", str(export / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_scale() -> None:
    assert [rescale(s) for s in (1, 4.5, 8)] == [0.0, 5.0, 10.0]
    assert len(RUBRIC) == 8


# ---- statistics against plain code


def test_the_published_example_of_alpha() -> None:
    """Krippendorff 2011: four observers, twelve units; ordinal 0.815, interval 0.849."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    items = [{str(n): int(line[unit]) for n, line in enumerate(observers) if line[unit] != "."} for unit in range(12)]
    assert krippendorff_alpha(items, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(items, "interval") == pytest.approx(0.849, abs=5e-4)


def plain_alpha(items: list[list[int]], level: str) -> float | None:
    """Alpha by going over all pairs of ratings, as its definition reads."""
    items = [ratings for ratings in items if len(ratings) > 1]
    everything = [rating for ratings in items for rating in ratings]

    def difference(a: int, b: int) -> float:
        if level == "interval":
            return float((a - b) ** 2)
        low, high = min(a, b), max(a, b)
        between = sum(low <= rating <= high for rating in everything)
        return (between - (everything.count(a) + everything.count(b)) / 2) ** 2

    if len(set(everything)) < 2:
        return None
    n = len(everything)
    observed = sum(
        difference(a, b) / (len(ratings) - 1) for ratings in items for a, b in itertools.permutations(ratings, 2)
    )
    expected = sum(difference(a, b) for a, b in itertools.permutations(everything, 2)) / (n - 1)
    return 1 - observed / expected


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.lists(st.integers(1, 8), max_size=4), max_size=8), level=st.sampled_from(["ordinal", "interval"])
)
def test_alpha_is_its_definition(items: list[list[int]], level: Any) -> None:
    rated = [{f"rater-{n}": rating for n, rating in enumerate(ratings)} for ratings in items]
    expected = plain_alpha(items, level)
    found = krippendorff_alpha(rated, level)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 10)), min_size=2, max_size=40))
def test_correlations_are_those_of_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = map(list, zip(*pairs, strict=True))
    assert list(mean_ranks(x)) == list(stats.rankdata(x))
    found, ranked = pearson(x, y), spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found.r is None and ranked.r is None and found.low is None
        return
    expected = stats.pearsonr(x, y)
    assert found.r == pytest.approx(expected.statistic, abs=1e-9)
    assert ranked.r == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    if len(pairs) >= 4 and abs(expected.statistic) < 0.999:
        low, high = expected.confidence_interval()
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
        assert ranked.low is not None and ranked.r is not None
        assert ranked.low <= ranked.r


def test_intervals_hold_what_they_promise() -> None:
    """Over 2000 draws of 30 pairs with a true correlation of 0.6, 95 % of the intervals hold it (to 1.5 points)."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        x = random.normal(size=30)
        y = 0.6 * x + 0.8 * random.normal(size=30)
        found = pearson(list(x), list(y))
        assert found.low is not None and found.high is not None
        held += found.low <= 0.6 <= found.high
    assert abs(held / 2000 - 0.95) < 0.015


# ---- the page, in a real browser


@pytest.mark.slow
def test_a_rater_works_through_the_page(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*candidates(1, 3), Candidate("c0/h", "cell-0", "h", HOSTILE, "  two\n\n  lines", HOSTILE)]
    folder = tmp_path / "human"
    export_sheets(rows, folder, raters=1, seed=0, per_cell=None)
    sheet = (folder / "sheets" / "rater-1.html").as_uri()
    shown = {row.row_id: next(c for c in rows if c.id == row.id) for row in rows_of(folder, 1)}
    order = list(shown)
    page = browser.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))

    def text(element: str) -> str:
        return page.locator(f"#{element}").text_content() or ""

    page.goto(sheet)
    for number, row_id in enumerate(order):
        row = shown[row_id]
        for element, wanted in (("prefix", row.prompt), ("reference", row.reference), ("output", row.text)):
            assert text(element) == wanted
        assert text("place") == f"Row {number + 1} of 4"
        assert text("count") == f"{number} of 4 rated"
        if number == 2:
            # Nobody opens it again within the milliseconds that Chromium takes to hand a page's storage on.
            page.wait_for_timeout(500)
            page.goto(sheet)  # closed and opened again: it goes on where it stopped
            assert text("place") == "Row 3 of 4"
            assert text("count") == "2 of 4 rated"
        page.keyboard.press("90x-"[number])
        page.keyboard.press(str(number + 2))
    assert "save the CSV" in text("said")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert text("place") == "Row 2 of 4"
    page.locator("#scale button").nth(7).click()
    with page.expect_download() as download:
        page.keyboard.press("s")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.match("ratings-*.csv")
    assert "saved" in text("said")
    looks: tuple[tuple[int, Literal["light", "dark"], str], ...] = (
        (1280, "light", "rgb(244, 245, 247)"),
        (390, "dark", "rgb(20, 23, 29)"),
    )
    for width, scheme, ground in looks:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out sideways
    assert page.title() == "Rating sheet"
    # Loaded twice from its file, and its own CSV saved: nothing else was asked for.
    assert [url for url in requests if not url.startswith("blob:")] == [sheet] * 2
    assert errors == []
    page.close()
    assert main(["human", "import", str(folder), str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ratings"] == 4
    kept = [json.loads(line) for line in (folder / "ratings.jsonl").read_text().splitlines()]
    assert {line["row_id"]: line["rating"] for line in kept} == dict(zip(order, (2, 8, 4, 5), strict=True))
