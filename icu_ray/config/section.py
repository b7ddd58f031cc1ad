"""What every section of a config has in common: it is frozen and refuses unknown keys; and the bounds of numbers."""

from __future__ import annotations

import os
import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""
Setting = Annotated[float, Field(allow_inf_nan=False)] | Annotated[int, Field(gt=-(2**63), lt=2**63)] | str | bool
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _expanded(name: str) -> str:
    kind = "hub:" if name.startswith("hub:~") else ""  # a data set's folder
    return kind + os.path.expanduser(name.removeprefix(kind))


Place = Annotated[str, AfterValidator(_expanded)]
"""A file or folder (or hub id, or URL). Its ~ is expanded here and nowhere else, so that all mean the same place."""


class Section(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    free_texts: ClassVar[frozenset[str]] = frozenset()
    """Keys that hold words, never the name of a file."""

    @model_validator(mode="after")
    def _nameable(self) -> Section:
        for key, value in self:
            if key in self.free_texts:
                continue
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not _nameable(text):
                    raise ValueError(
                        f"{key}: holds a zero byte, or is longer than a path (4095 bytes) or a name in it (255) can be"
                    )
        return self


def as_name(text: str, default: str) -> str:
    """`text` as a `Name`: what a name cannot hold becomes '-'; `default` where nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or default


def _nameable(text: str) -> bool:
    """Whether a system can look for a file of this name; most texts of a config name files or may do so."""
    data = text.encode("utf-8", "surrogatepass")
    return b"\0" not in data and len(data) <= 4095 and all(len(part) <= 255 for part in data.split(b"/"))
