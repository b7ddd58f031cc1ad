"""The files of a request: how their rows are written, and how many texts measure what the model has lost.

data = request_data({"source": "records", "forget": "my.jsonl", "pool": "others.jsonl"}, {"source": "my-model"}, print)
data["heldout_rows"], heldout_texts(data)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icu_ray.config.file import load_data
from icu_ray.data.hub_data import is_hub_data, pinned
from icu_ray.data.records import read_records
from icu_ray.plan.own_files import as_read

WHERE = "icu-ray unlearn"
"""Before what is said of the config that a request becomes."""
HELDOUT_SHARE, HELDOUT_MOST = 10, 64
"""Without texts of its own, one in so many retain texts (at most so many) measures what the model has lost."""


def request_data(data: Mapping[str, Any], model: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The section `data` with what its files say: how rows are written, and how many retain texts are set aside."""
    data = dict(data)
    for key, name in data.items():
        if isinstance(name, str) and is_hub_data(name):
            data[key] = pinned(name, f"data.{key}")
    data = as_read(data, model, WHERE, say)
    known = load_data(data, WHERE)
    if known.pool is not None and known.heldout is None and "heldout_rows" not in data:
        rows = len(read_records(Path(known.pool), known.form, known.id_column, "data.pool", "pool"))
        data["heldout_rows"] = min(HELDOUT_MOST, rows // HELDOUT_SHARE)
    return data


def heldout_texts(data: Any) -> int:
    """How many there are; 0 where this cannot be told, which the check of the config then says."""
    if not isinstance(data, Mapping):
        return 0
    count = data.get("heldout_rows" if data.get("source") == "records" else "heldout")
    if isinstance(data.get("heldout"), str):
        known = load_data(data, WHERE)
        return len(read_records(Path(data["heldout"]), known.form, known.id_column, "data.heldout", "heldout"))
    return count if isinstance(count, int) else 0
