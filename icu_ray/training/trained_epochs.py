"""training.json, in the folder of a model that was trained here: how many epochs it took, and what each came to.

write_training(folder, [{"epoch": 1, "loss": 2.1, "ma": 0.3}])
trained_epochs(folder)          # 1; the gold standard is trained as long (models.N.retrained)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.storage.results import to_json

FILE = "training.json"


def write_training(folder: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """One entry an epoch; no times, so that equal models have equal files."""
    (folder / FILE).write_bytes(to_json({"epochs": len(epochs), "history": list(epochs)}, indent=2))


def trained_epochs(folder: Path) -> int:
    """How many epochs its model took; UserError for a model that an earlier version made, which did not say."""
    try:
        return int(json.loads((folder / FILE).read_text(encoding="utf-8"))["epochs"])
    except FileNotFoundError:
        raise UserError(
            f"models/{folder.name} in the store was trained by an earlier version, which did not keep how many epochs "
            "it took; remove that folder from the store, and the model is trained again"
        ) from None
