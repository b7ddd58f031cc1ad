"""Every answer of a judge that was paid for, kept under the hash of what was asked.

One JSON line an answer, appended and synced before the row counts as judged. A killed process can leave half a last
line: it is left out when reading and cut off before the next answer is added. One process at a time adds to a file.

    with AnswerStore(Path("runs/store/judge/answers.jsonl")) as store: store.get(key); store.put(key, answer)
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError

from icu_ray.errors import UserError
from icu_ray.storage.results import to_json


@dataclass(frozen=True)
class Answer:
    """One reply of the endpoint. finish: its own word for why it ended; tokens as it counted them, None if it did not.

    model: what the endpoint says it was, which may be more exact than what was asked for.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    text: str
    finish: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True)
class _Line:
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    key: str
    answer: Answer


_LINES = TypeAdapter(_Line)


def read_answers(path: Path) -> dict[str, Answer]:
    """The answers of a file by key, {} where there is none; UserError on a line that is no answer."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"answers {path}: cannot be read: {error}") from error
    whole, _, _ = data.rpartition(b"\n")
    answers: dict[str, Answer] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = _LINES.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise UserError(
                f"answers {path}, line {number}: is no answer of a judge ({first['msg']}); remove the line"
            ) from error
        answers[record.key] = record.answer
    return answers


class AnswerStore:
    """The answers of a file, and the right to add to it."""

    def __init__(self, path: Path) -> None:
        """UserError when another process adds to the file, or it cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(f"{path}.lock")
            # The kernel frees this lock when its holder dies, so a killed run blocks nobody.
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"answers {path}: another judge run adds to this file; wait for it to end") from None
        except OSError as error:
            raise UserError(f"answers {path}: cannot be written: {error}") from error
        try:
            self._answers = read_answers(path)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except BaseException:
            self._lock.release()
            raise
        self._cut_half_line()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self._lock.release()

    def get(self, key: str) -> Answer | None:
        """The answer to what `key` is the hash of."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer: on disk when this returns."""
        line = to_json(asdict(_Line(key, answer)))
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)
        self._answers[key] = answer

    def _cut_half_line(self) -> None:
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return
        try:
            json.loads(data[end:])
        except (ValueError, RecursionError):
            os.ftruncate(self._descriptor, end)
            return
        # Only the line's end is missing: a paid answer, to be kept.
        os.write(self._descriptor, b"\n")
        self._answers = read_answers(self.path)
