"""An object whose unpickling leaves a mark: what a malicious file would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Payload:
    """Whose unpickling touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)
