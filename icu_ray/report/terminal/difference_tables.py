"""What `icu-ray compare` prints: two sweeps, A and B, by what differs, as tables and as JSON.

print_difference(sweep_difference(first, second), ("runs/a", "runs/b"), Console())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from icu_ray.config.keys import written
from icu_ray.console.terminal import print_words
from icu_ray.report.numbers.settings_difference import KeyDifference
from icu_ray.report.numbers.statistics import FEWEST, Estimate
from icu_ray.report.numbers.sweep_difference import NumberPair, SweepDifference
from icu_ray.report.terminal.fitting import Heading, print_fitting
from icu_ray.storage.results import finite

_NOTHING = "–"
_LONGEST = 120
"""Characters of a setting's value; its whole is in --json."""
_MOST_NAMES = 10


def print_difference(
    difference: SweepDifference, names: tuple[str, str], console: Console, said: Sequence[str] = ()
) -> None:
    """Tables of what differs, each only where something does; what is equal is one sentence.

    names: of the two. said: where their numbers come from, where that is not plain.
    """
    for letter, name in zip("AB", names, strict=True):
        print_words(console, f"{letter}: {name}")
    for sentence in said:
        print_words(console, sentence + ".", "dim")
    console.print()
    pairs = len(difference.numbers)
    if difference.equal:
        said = f"Equal: the same settings, data, versions, trials and numbers ({pairs} compared)."
        print_words(console, said, "green")
    _print_keys("Settings", difference.config, console)
    _print_keys("Data, by fingerprint", difference.data, console)
    _print_keys("Versions", difference.versions, console)
    _print_trials(difference, console)
    _print_numbers(difference, console)
    _print_keys("Settings that decide no result", difference.running, console)
    if not difference.equal and not difference.differing and pairs:
        print_words(console, f"The numbers of the trials that both have are equal ({pairs} compared).")
    if not pairs:
        print_words(console, "No trial of the same model, method, weights and sample has a result in both.")


def _print_keys(title: str, keys: Sequence[KeyDifference], console: Console) -> None:
    if not keys:
        return
    rows = [[escape(each.key), *(escape(_shown(each, side)) for side in ("first", "second"))] for each in keys]
    print_fitting(console, [Heading("key"), Heading("A"), Heading("B")], rows, title=title)
    console.print()


def _shown(difference: KeyDifference, side: str) -> str:
    if difference.only is not None and difference.only != side:
        return _NOTHING
    value = getattr(difference, side)
    if isinstance(value, Mapping) and difference.only is not None:
        return "there"  # a whole model or method, whose keys would fill the screen
    text = written(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _print_trials(difference: SweepDifference, console: Console) -> None:
    lists = (
        ("Only A has", difference.trials_first),
        ("Only B has", difference.trials_second),
        ("Only A has a result of", difference.results_first),
        ("Only B has a result of", difference.results_second),
    )
    told = [(said, names) for said, names in lists if names]
    for said, names in told:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        print_words(console, f"{said}: {', '.join(names[:_MOST_NAMES])}{more}.")
    if told:
        console.print()


def _print_numbers(difference: SweepDifference, console: Console) -> None:
    for model in dict.fromkeys(pair.model for pair in difference.differing):
        pairs = [pair for pair in difference.differing if pair.model == model]
        equal = sum(pair.model == model for pair in difference.numbers) - len(pairs)
        rows = [
            [escape(pair.row), escape(pair.heading), *_numbers(pair), "" if not pair.test.n else str(pair.test.n)]
            for pair in pairs
        ]
        headings = [Heading("row"), Heading("metric"), *(Heading(name, True) for name in ("A", "B", "B - A", "n"))]
        print_fitting(console, headings, rows, title=f"Numbers of {model}")
        over = " or ".join(dict.fromkeys(pair.over for pair in pairs))
        said = f"n: {over} that both have. Intervals are of 95 %, over {FEWEST} or more."
        print_words(console, said + (f" {equal} numbers are equal." if equal else ""), "dim")
        for sentence in _single_said(pairs):
            print_words(console, sentence, "dim")
        console.print()


def _single_said(pairs: Sequence[NumberPair]) -> list[str]:
    """Why a difference of one pair has no interval, and what one over its rows says."""
    single = [pair for pair in pairs if pair.test.n == 1]
    if not single:
        return []
    one = " or ".join(dict.fromkeys("forget sample" if p.over == "forget samples" else "seed" for p in single))
    said = [f"n = 1: one {one} does not show how far another would differ, so there is no interval over them."]
    if any(pair.rows is not None and pair.rows.half is not None for pair in single):
        said.append(
            "'of N rows': the 95 % interval of the mean difference over the rows that both were asked: how far other "
            f"rows of the kind might differ, not another {one}."
        )
    return said


def _numbers(pair: NumberPair) -> list[str]:
    sides = [_estimate(pair, side) for side in (pair.first, pair.second)]
    if not pair.test.n:
        return [*sides, _NOTHING]
    half = "" if pair.test.half is None else f" ± {_number(pair, pair.test.half)}"
    if pair.rows is not None and pair.rows.half is not None:
        half = f" ± {_number(pair, pair.rows.half)} of {pair.rows.n} rows"
    return [*sides, ("+" if pair.test.difference >= 0 else "") + _number(pair, pair.test.difference) + half]


def _estimate(pair: NumberPair, value: Estimate | None) -> str:
    if value is None:
        return _NOTHING
    return _number(pair, value.mean) + ("" if value.half is None else f" ± {_number(pair, value.half)}")


def _number(pair: NumberPair, value: float) -> str:
    # A small difference must not read as none: it has two figures, however many decimals its column has.
    small = pair.decimals is None or 0 < abs(value) < 0.5 * 10**-pair.decimals
    if small or abs(value) >= 1e5:
        return f"{value:.4g}" if pair.decimals is None else f"{value:.2g}"
    return f"{value:.{pair.decimals}f}"


def difference_json(difference: SweepDifference, names: tuple[str, str], broken: Sequence[str]) -> dict[str, Any]:
    """All of it as one plain object: numbers whole, equal ones too. A side without a key lacks it."""
    found: dict[str, Any] = finite(
        {
            "first": names[0],
            "second": names[1],
            "equal": difference.equal,
            "config": [_key_json(each) for each in difference.config],
            "data": [_key_json(each) for each in difference.data],
            "versions": [_key_json(each) for each in difference.versions],
            "running": [_key_json(each) for each in difference.running],
            "trials": {
                "only_first": difference.trials_first,
                "only_second": difference.trials_second,
                "result_only_first": difference.results_first,
                "result_only_second": difference.results_second,
            },
            "numbers": [_pair_json(each) for each in difference.numbers],
            "broken": list(broken),
        }
    )
    return found


def _key_json(each: KeyDifference) -> dict[str, Any]:
    values = {"first": each.first, "second": each.second}
    return {"key": each.key, **{side: value for side, value in values.items() if each.only in (None, side)}}


def _pair_json(pair: NumberPair) -> dict[str, Any]:
    def side(value: Estimate | None) -> dict[str, Any] | None:
        return None if value is None else {"mean": value.mean, "ci95": value.half, "n": value.n}

    test, rows = pair.test, pair.rows
    return {
        "model": pair.model,
        "row": pair.row,
        "metric": pair.key,
        "unit": pair.unit,
        "first": side(pair.first),
        "second": side(pair.second),
        "difference": test.difference if test.n else None,
        "ci95": test.half,
        "p": test.p_t,
        "n": test.n,
        "over": pair.over,
        "equal": pair.equal,
        "rows": rows and {"n": rows.n, "difference": rows.difference, "ci95": rows.half, "p": rows.p_t},
    }
