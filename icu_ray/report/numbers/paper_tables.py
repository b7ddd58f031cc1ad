"""Tables I, III and IV of the paper, cell by cell as printed, and which of their rows a trial can be set beside.

    row = paper_row("125M", "icu", 0.5, 1.0)
    row.printed["el10"], row.value("ppl_pile")        # "4.4", 21.6

The paper's "DPO" is what is called `po` here (docs of methods/po.py); its KUMPR is gradient ascent. A sweep's model
stands for one of the paper's when it is that model (hub id or folder name), or, for a stand-in, when its name says so
("125m", "gpt-neo-1.3b", "tinyllama-standin"); the report then says that it is a stand-in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from icu_ray.metrics.scores import COLUMNS, PRINTED_CAP

PRINTED_COLUMNS = (*COLUMNS, "s_z", "s_m")
"""What a table's row holds, in the printed order."""

# table, parameters, row as printed, method, alpha, beta, cells as printed ('-' where the paper has none)
_ROWS: tuple[tuple[str, str, str, str, float | None, float | None, str], ...] = (
    ("I", "125M", "NEO (before unlearning)", "before", None, None, "51.9 76.8 70.3 4.139 43.5 10.0 20.1 38.0 - - -"),
    ("I", "125M", "OPT", "opt", None, None, "7.5 52.9 49.2 3.014 42.7 10.8 29.1 38.0 3.08 2.23 1.31"),
    ("I", "125M", "NEO + KUMPR", "kumpr", None, None, "0.7 19.1 29.7 0.712 35.1 3.7 >1000 >1000 1.05 -5.72 -1.79"),
    ("I", "125M", "NEO + DPO", "po", None, None, "17.4 49.4 42.2 1.643 39.0 1.8 61.2 158.5 1.99 -5.01 -1.34"),
    ("I", "125M", "NEO + KL", "kl", None, None, "4.9 56.2 54.3 3.670 42.6 9.9 27.0 54.0 3.64 2.69 1.45"),
    ("I", "125M", "NEO + LLMU", "llmu", None, None, "3.3 58.7 43.1 1.825 42.7 10.3 23.6 47.4 2.98 2.03 1.19"),
    ("I", "125M", "NEO + ICU (ours)", "icu", 0.5, 1.0, "4.4 55.6 53.3 3.833 43.3 10.3 21.6 40.1 3.92 3.78 1.84"),
    ("I", "1.3B", "NEO (before unlearning)", "before", None, None, "98.2 92.3 86.3 4.640 49.7 12.3 13.2 18.7 - - -"),
    ("I", "1.3B", "OPT", "opt", None, None, "31.0 67.8 65.8 3.856 51.7 13.3 18.0 19.2 3.63 0.87 0.75"),
    ("I", "1.3B", "NEO + KUMPR", "kumpr", None, None, "0.8 8.1 26.6 0.817 34.0 0.1 >1000 >1000 1.26 -6.61 -2.00"),
    ("I", "1.3B", "NEO + DPO", "po", None, None, "20.0 58.4 55.1 2.564 44.8 4.8 26.6 44.6 2.56 -2.09 -0.29"),
    ("I", "1.3B", "NEO + KL", "kl", None, None, "3.7 61.5 38.7 1.627 47.4 11.8 17.5 26.0 2.18 1.31 0.90"),
    ("I", "1.3B", "NEO + LLMU", "llmu", None, None, "4.4 63.3 41.4 1.805 47.4 11.9 17.5 25.7 2.43 1.38 0.92"),
    ("I", "1.3B", "NEO + ICU (ours)", "icu", 0.5, 1.0, "4.7 51.3 52.7 3.900 49.0 12.1 14.1 19.3 4.33 5.15 2.24"),
    ("I", "2.7B", "NEO (before unlearning)", "before", None, None, "96.7 93.7 90.2 4.719 52.4 12.3 12.0 16.2 - - -"),
    ("I", "2.7B", "OPT", "opt", None, None, "34.4 70.1 66.8 3.921 53.9 13.7 16.3 16.7 3.65 0.51 0.78"),
    ("I", "2.7B", "NEO + KUMPR", "kumpr", None, None, "1.4 18.7 26.5 0.519 34.0 5.4 >1000 >1000 1.00 -7.01 -2.00"),
    ("I", "2.7B", "NEO + DPO", "po", None, None, "20.4 58.6 57.5 2.772 49.0 7.6 24.1 36.5 2.66 -1.63 0.02"),
    ("I", "2.7B", "NEO + KL", "kl", None, None, "3.4 62.5 41.3 1.730 51.3 12.5 14.7 20.9 2.39 1.72 1.20"),
    ("I", "2.7B", "NEO + LLMU", "llmu", None, None, "4.9 63.2 40.7 1.639 50.9 12.4 16.0 22.4 2.26 1.30 1.06"),
    ("I", "2.7B", "NEO + ICU (ours)", "icu", 0.5, 1.0, "4.5 48.3 52.7 3.725 52.1 12.1 13.1 17.0 4.40 5.11 2.34"),
    ("IV", "TinyLlama", "TINYLLAMA", "before", None, None, "56.2 76.8 71.2 4.742 46.2 12.4 12.8 10.7 - - -"),
    (
        "IV",
        "TinyLlama",
        "TINYLLAMA + KUMPR",
        "kumpr",
        None,
        None,
        "0.0 0.3 21.4 2.015 34.9 0.0 >1000 >1000 1.99 -3.69 -1.55",
    ),
    (
        "IV",
        "TinyLlama",
        "TINYLLAMA + DPO",
        "po",
        None,
        None,
        "3.1 52.6 38.3 1.392 40.8 11.7 13.9 11.5 1.82 -3.33 -1.13",
    ),
    ("IV", "TinyLlama", "TINYLLAMA + KL", "kl", None, None, "1.8 52.2 31.9 2.753 42.8 12.3 36.7 14.0 1.63 0.37 0.20"),
    (
        "IV",
        "TinyLlama",
        "TINYLLAMA + LLMU",
        "llmu",
        None,
        None,
        "2.5 46.0 41.9 3.683 45.6 12.4 14.9 11.2 2.82 2.38 1.02",
    ),
    (
        "IV",
        "TinyLlama",
        "TINYLLAMA + ICU (ours)",
        "icu",
        0.5,
        1.0,
        "1.4 44.0 44.8 3.932 45.8 12.3 14.3 11.0 3.35 4.28 1.70",
    ),
    ("III", "125M", "ICU α=0.1 β=0.5", "icu", 0.1, 0.5, "3.6 54.7 47.0 3.009 39.5 5.6 95.2 212.7 - - -"),
    ("III", "125M", "ICU α=0.1 β=1.0", "icu", 0.1, 1.0, "4.2 56.4 52.5 3.758 42.9 10.0 23.3 44.8 - - -"),
    ("III", "125M", "ICU α=0.5 β=0.1", "icu", 0.5, 0.1, "3.3 56.5 49.9 3.423 40.0 8.7 35.4 85.5 - - -"),
    ("III", "125M", "ICU α=0.5 β=0.5", "icu", 0.5, 0.5, "4.2 57.5 52.6 3.755 42.4 9.7 24.5 48.8 - - -"),
    ("III", "125M", "ICU α=0.5 β=1.0", "icu", 0.5, 1.0, "4.4 55.6 53.3 3.833 43.3 10.3 21.6 40.1 - - -"),
    ("III", "125M", "ICU α=1.0 β=0.5", "icu", 1.0, 0.5, "4.5 55.1 52.1 3.700 43.1 10.1 21.6 40.1 - - -"),
    ("III", "125M", "ICU α=1.0 β=1.0", "icu", 1.0, 1.0, "4.6 53.5 52.7 3.846 43.2 10.0 21.6 40.0 - - -"),
    ("III", "125M", "ICU α=1.0 β=2.0", "icu", 1.0, 2.0, "4.5 47.7 50.6 3.686 43.1 10.0 21.6 39.7 - - -"),
    ("III", "125M", "ICU α=2.0 β=1.0", "icu", 2.0, 1.0, "4.6 47.2 50.6 3.809 42.7 9.8 22.1 40.5 - - -"),
    ("III", "125M", "ICU α=2.0 β=2.0", "icu", 2.0, 2.0, "4.5 45.8 51.2 3.843 42.9 10.0 22.1 40.1 - - -"),
)


@dataclass(frozen=True)
class PaperRow:
    """One printed row; printed: cells by column, without those the paper leaves empty."""

    table: str
    size: str
    name: str
    method: str
    alpha: float | None
    beta: float | None
    printed: dict[str, str]

    def value(self, column: str) -> float | None:
        """A cell as a number; '>1000' as 1000, None where the paper has none."""
        text = self.printed.get(column)
        if text is None:
            return None
        return PRINTED_CAP if text == ">1000" else float(text)


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All printed rows, in the order of the tables."""
    rows = []
    for table, size, name, method, alpha, beta, cells in _ROWS:
        pairs = zip(PRINTED_COLUMNS, cells.split(), strict=True)
        printed = {column: cell for column, cell in pairs if cell != "-"}
        rows.append(PaperRow(table, size, name, method, alpha, beta, printed))
    return tuple(rows)


def paper_row(size: str, method: str, alpha: float | None, beta: float | None) -> PaperRow | None:
    """The printed row of a method ('before' and 'opt' are the models as they are); Table I before Table III."""
    for row in paper_rows():
        if (row.size, row.method) == (size, method) and row.alpha in (None, alpha) and row.beta in (None, beta):
            return row
    return None


def paper_size(model: str, source: str | None) -> tuple[str, str] | None:
    """(size in the paper, 'neo', 'opt' or 'tinyllama') of a sweep's model, None where the paper has no such model."""
    if source is not None and source.lower().endswith(".gguf"):
        return None  # quantised once, it is another model
    text = (model if source is None else source.rstrip("/").rpartition("/")[2]).lower()
    if "tinyllama" in text and (source is None or "1.1b" in text):
        return "TinyLlama", "tinyllama"
    # A stand-in is called after a size alone; a real model must be of the family as well.
    found = re.match(r"(?P<family>(gpt-)?neo-|opt-|)(?P<size>125m|1\.3b|2\.7b)(?![0-9a-z])", text)
    if found is None or (source is not None and not found["family"]):
        return None
    size = {"125m": "125M", "1.3b": "1.3B", "2.7b": "2.7B"}[found["size"]]
    return size, "opt" if found["family"] == "opt-" else "neo"
