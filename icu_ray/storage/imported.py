"""What another framework measured, as a value: aggregates and per-row numbers under the names that it gave them.

    Imported("tofu_npo", "llama-1b", "TOFU_EVAL.json", "3f0a...", 1.8e9, {"forget_quality": ImportedMetric(0.4)})

icu_ray/storage/imported_files.py says where it lies. No text of a row is kept, and no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import ConfigDict

from icu_ray.storage.results import UnixSeconds

RowValue: TypeAlias = "float | tuple[float | None, ...] | None"
"""One quantity of a row; several where a row has several texts, such as wrong answers."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class ImportedMetric:
    """A metric in its framework's own unit. aggregate: None where there is none, or it is not finite.

    rows: by the row's index in the file, its quantities by name ('prob', 'avg_loss').
    """

    __pydantic_config__ = _STRICT

    aggregate: float | None
    rows: Mapping[str, Mapping[str, RowValue]] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """imported/<label>.json: one evaluation of one model. read: when (Unix seconds).

    model: the model of ours beside which it stands, '' where nobody said. source, sha256: name and hash of the file
    that was read. metrics: by name; a part of a metric stands under 'metric/part'.
    """

    __pydantic_config__ = _STRICT

    label: str
    model: str
    source: str
    sha256: str
    read: UnixSeconds
    metrics: Mapping[str, ImportedMetric]

    @property
    def shown(self) -> dict[str, float]:
        """The aggregates that tables show: of whole metrics, not of their parts."""
        whole = (name for name in self.metrics if name.rpartition("/")[0] not in self.metrics)
        return {name: value for name in whole if (value := self.metrics[name].aggregate) is not None}
