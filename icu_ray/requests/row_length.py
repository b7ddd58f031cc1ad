"""How long the rows of a request are: as its texts ask for, so that none is cut.

columns, whole = columns_for(tree)          # {"length": 84, "prefix_start": 42, "suffix_start": 63}, True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from icu_ray.config import Columns, ElConfig
from icu_ray.config.file import load_data
from icu_ray.data.long_texts import MOST
from icu_ray.data.records import examples_of, read_records
from icu_ray.plan.text_lengths import Lengths, lengths_in, longest_prompts


def columns_for(tree: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
    """Layout of the rows for the texts that a request's config names, in tokens of its model, and whether all fit.

    A row is at most as long as the model can read; where longer texts may be cut (rows.long=cut), as the paper's
    are.
    """
    model = tree["models"][0]
    data = load_data(tree["data"], "icu-ray unlearn")
    told = model["source"], model.get("revision"), bool(model.get("trust_remote_code", False))

    def measured(file: str, key: str) -> Lengths:
        rows = examples_of(read_records(Path(file), data.form, data.id_column, f"data.{key}", key))
        if key != "forget" and data.prompted:
            rows = rows.select(longest_prompts(rows))
        return lengths_in(told[0], rows, *told[1:])

    found = measured(data.forget, "forget")
    lengths, positions = found.whole, found.positions
    ngram = (tree.get("el") or {}).get("ngram", ElConfig().ngram)
    if not isinstance(ngram, int):
        ngram = ElConfig().ngram  # the config's own check refuses what was given
    rows = tree.get("rows")
    cut = isinstance(rows, Mapping) and rows.get("long") == "cut"
    most = positions or MOST
    columns = layout(lengths, min(Columns().length, most) if cut else most, ngram)
    if data.prompted:
        # A pair or a held-out row may be cut, but not before its completion begins.
        others = [measured(file, key) for file, key in ((data.pool, "pool"), (data.heldout, "heldout")) if file]
        needed = min(max((max(each.given or (0,)) for each in others), default=0) + ngram, most)
        columns = {name: place + max(needed - columns["length"], 0) for name, place in columns.items()}
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
