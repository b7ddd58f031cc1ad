"""How long the rows of a request are: as its texts ask for, so that none is cut.

columns, whole = columns_for(tree)          # {"length": 84, "prefix_start": 42, "suffix_start": 63}, True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from icu_ray.config import Columns, ElConfig
from icu_ray.data.long_texts import MOST
from icu_ray.data.records import read_records
from icu_ray.plan.text_lengths import lengths_in


def columns_for(tree: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
    """Layout of the rows for the texts that a request's config names, in tokens of its model, and whether all fit.

    A row is at most as long as the model can read; where longer texts may be cut (rows.long=cut), as the paper's
    are.
    """
    data, model = tree["data"], tree["models"][0]
    records = read_records(Path(data["forget"]), data["text_column"], data["id_column"], "data.forget", "forget")
    texts = [record.text for record in records]
    trusted = bool(model.get("trust_remote_code", False))
    lengths, positions = lengths_in(model["source"], texts, model.get("revision"), trusted)
    ngram = (tree.get("el") or {}).get("ngram", ElConfig().ngram)
    if not isinstance(ngram, int):
        ngram = ElConfig().ngram  # the config's own check refuses what was given
    rows = tree.get("rows")
    cut = isinstance(rows, Mapping) and rows.get("long") == "cut"
    most = positions or MOST
    columns = layout(lengths, min(Columns().length, most) if cut else most, ngram)
    return columns, max(lengths) <= columns["length"]


def layout(lengths: Sequence[int], most: int | None, ngram: int) -> dict[str, int]:
    """Columns for texts of so many tokens, rows of at most `most`.

    A row has room for the longest text. Suffix and prefix are each a quarter of the median text, as 50 of 200 tokens in
    the paper, and hold at least one n-gram of EL: a quarter of a single long text would leave nothing of the short ones
    to prompt with.
    """
    length = max(min(max(lengths), most or MOST, MOST), 4 * ngram)
    quarter = max(ngram, min(median_low(lengths), length) // 4)
    return {"length": length, "prefix_start": length - 2 * quarter, "suffix_start": length - quarter}
