"""The report's numbers: intervals, tests, marks, scores and the transcription, against plain code and the paper.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.metrics.scores import COLUMNS
from icu_ray.report.figures.tradeoff import pareto
from icu_ray.report.numbers.columns import ALL_COLUMNS, PAPER_COLUMNS
from icu_ray.report.numbers.comparison import block_orders, block_scores, block_tests
from icu_ray.report.numbers.paper_tables import paper_row, paper_rows, paper_size
from icu_ray.report.numbers.rows import BEFORE, Block, Row, rank
from icu_ray.report.numbers.statistics import Estimate, holm, mean_interval, paired_tests, repeated_over, repetitions
from icu_ray.report.numbers.variants import differing_keys, flatten

PRINTED = json.loads((Path(__file__).parents[1] / "support" / "printed_scores.json").read_text())
METHOD = {"OPT": "opt", "KUMPR": "kumpr", "DPO": "po", "KL": "kl", "LLMU": "llmu", "ICU (ours)": "icu"}
NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


def density(t: float, df: int) -> float:
    constant = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    return constant * (1 + t * t / df) ** (-(df + 1) / 2)


def two_sided_p(t: float, df: int) -> float:
    """1 minus Simpson's integral of Student's density over [-t, t]."""
    steps = 20_000
    width = 2 * t / steps
    total = sum((4 if i % 2 else 2) * density(-t + i * width, df) for i in range(1, steps))
    return 1 - (total + density(-t, df) + density(t, df)) * width / 3


@pytest.mark.parametrize(("n", "quantile"), [(3, 4.303), (5, 2.776), (10, 2.262)])
def test_intervals_are_students(n: int, quantile: float) -> None:
    values = [float(i * i) for i in range(n)]
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    found = mean_interval([*values, None])
    assert found is not None
    assert (found.n, found.mean) == (n, pytest.approx(mean))
    assert found.half == pytest.approx(quantile * deviation / math.sqrt(n), rel=2e-4)


def test_few_values_have_no_interval_and_none_no_mean() -> None:
    assert mean_interval([3.0, None]) == Estimate(1, 3.0, None)
    assert mean_interval([3.0, 5.0]) == Estimate(2, 4.0, None)
    assert mean_interval([None]) is None


def test_repetitions_are_samples_or_the_seeds_of_a_single_one() -> None:
    assert repeated_over([(0, 1), (0, 2)]) == "seeds"
    assert repeated_over([(0, 1)]) == repeated_over([(0, 1), (1, 1)]) == repeated_over([]) == "forget samples"
    values = [(0, 1.0), (0, 3.0), (1, 4.0), (1, None)]
    assert repetitions(values, "forget samples") == [2.0, 4.0]
    assert repetitions(values[:2], "seeds") == [1.0, 3.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=8))
def test_paired_tests_against_plain_code(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = paired_tests(first, second)
    differences = [a - b for a, b in pairs]
    n = len(pairs)
    mean = sum(differences) / n
    assert found.n == n
    assert found.difference == pytest.approx(mean, abs=1e-9)
    if found.p_t is None:
        assert max(differences) - min(differences) < 1e-6
        return
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    t = abs(mean) / (deviation / math.sqrt(n))
    if t < 50:
        assert found.p_t == pytest.approx(two_sided_p(t, n - 1), abs=1e-6)
    sizes = [round(abs(d), 9) for d in differences]
    if len(set(sizes)) == n and 0.0 not in sizes:
        assert found.p_wilcoxon == pytest.approx(signed_rank_p(differences), abs=1e-9)


def signed_rank_p(differences: list[float]) -> float:
    """Wilcoxon's exact two-sided p by trying all signs."""
    n = len(differences)
    order = sorted(range(n), key=lambda i: abs(differences[i]))
    ranks = {place: rank for rank, place in enumerate(order, start=1)}
    seen = sum(ranks[i] for i in range(n) if differences[i] > 0)
    sums = [
        sum(r for r, s in zip(range(1, n + 1), signs, strict=True) if s)
        for signs in itertools.product([0, 1], repeat=n)
    ]
    low, high = sum(s <= seen for s in sums), sum(s >= seen for s in sums)
    return min(1.0, 2 * min(low, high) / 2**n)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([], [], "no sample"),
        ([1.0], [2.0], "one pair"),
        ([1.0, 2.0], [2.0, 4.0], "two pairs: no test"),
        ([1.0, 2.0, 4.0], [2.0, 3.0, 5.0], "same difference"),
        ([1.0, 2.0, 4.0, 3.0], [2.0, 4.0, 3.0, 3.5], "0.125"),
    ],
)
def test_few_pairs_are_said_to_be_few(first: list[float], second: list[float], said: str) -> None:
    found = paired_tests(first, second)
    assert said in found.note and (found.p_t is None) == (len(first) < 4) == (found.half is None or found.half < 1e-9)


def test_enough_pairs_need_no_note() -> None:
    found = paired_tests([1.0, 2.0, 3.0, 4.0, 5.0, 6.5], [2.0, 3.1, 4.2, 5.3, 6.4, 8.0])
    assert found.note == ""
    assert found.p_wilcoxon == pytest.approx(2 / 2**6)


def test_holm() -> None:
    adjusted = holm([0.01, None, 0.04, 0.03, 0.9])
    assert adjusted[1] is None
    assert [a for a in adjusted if a is not None] == pytest.approx([0.04, 0.09, 0.09, 0.9])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_pareto_front_against_plain_code(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    for place, (x, y) in enumerate(points):
        beaten = any(a <= x and b <= y and (a < x or b < y) for a, b in points)
        assert (place in front) == (not beaten)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_transcription_against_the_printed_scores() -> None:
    for row in PRINTED:
        found = paper_row(row["size"], METHOD[row["row"].split(" + ")[-1]], 0.5, 1.0)
        assert found is not None
        assert [found.value(column) for column in COLUMNS] == row["values"]
        assert (found.value("s_z"), found.value("s_m")) == (row["s_z"], row["s_m"])


def test_transcription_against_the_oracles(shared: Path) -> None:
    names = {"EL": "el10", "MA": "ma", "BERT": "bert", "Ent": "entropy", "Cls": "cls", "Dia": "dia", "Pile": "ppl_pile"}
    names |= {"Wiki": "ppl_wikitext", "GPT": "gpt"}
    oracle = json.loads((shared / "oracles" / "normalised_scores.json").read_text())["rows"]
    ours = {(row.table, row.size, row.name): row for row in paper_rows()}
    assert len(oracle) == sum(row.table in ("I", "IV") for row in paper_rows())
    for row in oracle:
        found = ours[row["table"], row["size"], row["row"]]
        for theirs, column in names.items():
            printed = row["inputs"][theirs]
            assert found.value(column) == (1000.0 if printed == ">1000" else printed)


def test_transcription_against_the_papers_text(shared: Path) -> None:
    (paper,) = (shared / "paper").glob("*.txt")
    lines = {" ".join(line.replace("<u>", "").replace("</u>", "").split()) for line in paper.read_text().split("\n")}
    grid = [row for row in paper_rows() if row.table == "III"]
    assert len(grid) == 10
    for row in grid:
        assert f"{row.alpha} {row.beta} {' '.join(row.printed.values())}" in lines


@pytest.mark.parametrize(
    ("model", "source", "size"),
    [
        ("a", "EleutherAI/gpt-neo-125m", "125M"),
        ("a", "/models/gpt-neo-2.7B/", "2.7B"),
        ("a", "facebook/opt-1.3b", "1.3B"),
        ("a", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "TinyLlama"),
        ("1.3b-standin", None, "1.3B"),
        ("small", None, None),
        ("a", "cerebras/Cerebras-GPT-1.3B", None),
        ("a", "EleutherAI/pythia-2.8b", None),
        ("125m", "EleutherAI/pythia-160m", None),
    ],
)
def test_which_of_the_papers_models(model: str, source: str | None, size: str | None) -> None:
    found = paper_size(model, source)
    assert (found[0] if found else None) == size


def paper_block(size: str) -> Block:
    """The paper's own rows as if they had been measured."""
    rows = []
    for printed in paper_rows():
        if printed.size == size and printed.table != "III":
            values = {
                column.key: None if (v := printed.value(column.key)) is None else Estimate(5, v, 0.1)
                for column in PAPER_COLUMNS
            }
            values |= {column.key: None for column in ALL_COLUMNS if column.key not in values}
            rows.append(Row(printed.name, printed.method, None, None, "", (), {}, values, printed))
    return Block(size, size, False, tuple(rows))


@pytest.mark.parametrize("size", ["125M", "1.3B", "2.7B", "TinyLlama"])
def test_scores_of_the_papers_rows_are_the_printed_ones(size: str) -> None:
    scores = block_scores(paper_block(size))
    assert scores.complete
    rows = [row for row in PRINTED if row["size"] == size]
    assert set(scores.population) == {row["row"] for row in rows}
    for row in rows:
        assert scores.s_z[row["row"]] == pytest.approx(row["s_z"], abs=0.005)
        assert scores.s_m[row["row"]] == pytest.approx(row["s_m"], abs=0.005)


UNDERLINED = {
    "125M": {"el10": "llmu", "ma": "po", "bert": "po", "entropy": "kl", "cls": "opt llmu", "dia": "llmu icu"}
    | {"ppl_pile": "llmu", "ppl_wikitext": "icu"},
    "1.3B": {"el10": "kl", "ma": "icu", "bert": "kl", "entropy": "opt", "cls": "icu", "dia": "icu"}
    | {"ppl_wikitext": "icu", "gpt": "opt"},
    "2.7B": {"el10": "kl", "ma": "icu", "entropy": "icu", "cls": "icu", "dia": "kl", "ppl_pile": "kl"}
    | {"ppl_wikitext": "icu", "gpt": "opt"},
    "TinyLlama": {"el10": "icu", "ma": "icu", "entropy": "llmu", "dia": "kl icu", "ppl_pile": "icu"}
    | {"ppl_wikitext": "llmu", "gpt": "llmu"},
}
"""Second best as the paper underlines it, where it does. Left out: its slips (Table IV underlines DPO's 38.3 in BERT,
the third value; Table I underlines one of two equal 17.5 of 1.3B), and columns without an underline."""


@pytest.mark.parametrize("size", list(UNDERLINED))
def test_second_best_as_the_paper_underlines(size: str) -> None:
    methods = paper_block(size).methods
    for column in PAPER_COLUMNS:
        marks = rank(column, [row.values[column.key] for row in methods])
        second = {row.method for row, mark in zip(methods, marks, strict=True) if mark == "second"}
        if column.key in UNDERLINED[size]:
            assert second == set(UNDERLINED[size][column.key].split()), column.key


def test_marks_read_what_is_printed() -> None:
    ma = next(column for column in PAPER_COLUMNS if column.key == "ma")
    pile = next(column for column in PAPER_COLUMNS if column.key == "ppl_pile")
    assert rank(ma, [Estimate(1, v, None) for v in (50.04, 49.96, 50.1)]) == ["best", "best", None]
    assert rank(ma, [Estimate(1, 50.0, None), None]) == [None, None]
    assert rank(ma, [Estimate(1, 50.0, None)] * 2) == [None, None]
    assert rank(pile, [Estimate(1, v, None) for v in (20.0, 2e3, 9e9)]) == ["best", "second", "second"]


def row(name: str, method: str, cells: dict[int, dict[str, float]]) -> Row:
    whole = {(sample, 42): {c.key: None for c in ALL_COLUMNS} | values for sample, values in cells.items()}
    values = {c.key: mean_interval([cell[c.key] for cell in whole.values()]) for c in ALL_COLUMNS}
    weights = (0.5, 1.0) if method == "icu" else (None, None)
    return Row(name, method, *weights, "", (), whole, values)


def test_partial_scores_are_named_and_rows_without_a_column_left_out() -> None:
    block = Block(
        "m",
        None,
        True,
        (
            row("before", BEFORE, {0: {"ma": 90.0, "ppl_heldout": 20.0}}),
            row("a", "kumpr", {0: {"ma": 20.0, "ppl_heldout": 5000.0}}),
            row("b", "llmu", {0: {"ma": 50.0, "ppl_heldout": 25.0}}),
            row("c", "kl", {0: {"ma": 60.0}}),
        ),
    )
    scores = block_scores(block)
    assert not scores.complete
    assert scores.population == ("a", "b")
    assert scores.left_out == ("c",)
    assert "not comparable" in scores.title and "1 of the paper's 9" in scores.title
    # a: MA lowest (0), perplexity highest (-1); b the other way round: min-max over two rows.
    assert scores.s_m == {"a": -1.0, "b": -1.0}
    alone = block_scores(Block("m", None, True, block.rows[:2]))
    assert alone.s_z == {} and "fewer than two" in alone.refused


def test_tests_pair_the_same_samples() -> None:
    ours = row("icu", "icu", {0: {"ma": 50.0}, 1: {"ma": 52.0}, 2: {"ma": 55.0}})
    other = row("kl", "kl", {1: {"ma": 60.0}, 2: {"ma": 61.0}, 7: {"ma": 99.0}})
    (found,) = block_tests(Block("m", None, True, (other, ours)))
    assert (found.reference, found.other, found.test.n) == ("icu (0.5, 1)", "kl", 2)
    assert found.test.difference == pytest.approx((-8 - 6) / 2)


def test_order_beside_the_papers() -> None:
    measured = {"kumpr": 30.0, "po": 20.0, "kl": 60.0, "icu": 50.0}  # the paper: 19.1, 49.4, 56.2, 55.6
    rows = [
        replace(row(name, name, {0: {"ma": value}}), paper=paper_row("125M", name, 0.5, 1.0))
        for name, value in measured.items()
    ]
    (found,) = block_orders(Block("125m", "125M", False, (*rows, row("npo", "npo", {0: {"ma": 1.0}}))))
    assert found.here == ("po", "kumpr", "icu (0.5, 1)", "kl")
    assert found.paper == ("kumpr", "po", "icu (0.5, 1)", "kl")
    assert (found.agreeing, found.pairs) == (5, 6)


def test_keys_that_differ() -> None:
    first, second = flatten({"a": {"b": 1, "c": [1]}, "d": None}), flatten({"a": {"b": 2, "c": [1]}})
    assert differing_keys([first, second]) == ["a.b", "d"]
