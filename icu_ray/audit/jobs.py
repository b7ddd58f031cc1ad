"""What is attacked, as it travels to the actors: rows that no model's tokenizer has seen, and models by where they lie.

job = AuditJob(subject, attack, RowsAsked(...), {"original": original})
job.key()                                    # of its result in the store
with material_of(job, tokenizer) as material: ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from icu_ray.audit.attack import Attack
from icu_ray.audit.registry import ASKS_PARAPHRASES, USES, identity_of
from icu_ray.audit.rows import AuditRow, Material, audit_rows
from icu_ray.config import Columns, TokensConfig
from icu_ray.data.examples import Examples
from icu_ray.data.long_texts import LongTexts
from icu_ray.models.loading import local_folder
from icu_ray.models.subjects import Subject, check_recorded
from icu_ray.storage.store import JsonValue, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1


@dataclass(frozen=True)
class RowsAsked:
    """forget, control, kin: as in `Material`. columns, tokens, own_columns, long: how they become rows of a model's
    tokens. paraphrases: of the forget rows' prompts, by id, as data/paraphrases.py writes them. left_out: how many
    further texts audit.rows leaves out."""

    forget: Examples
    control: Examples | None
    kin: Examples | None
    columns: Columns
    tokens: TokensConfig
    own_columns: bool
    long: LongTexts
    paraphrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not attacked, a sentence each."""
        asked, every = len(self.forget), len(self.forget) + self.left_out
        return (f"{self.left_out} of {every} texts: audit.rows is {asked}",) if self.left_out else ()

    def identity(self, paraphrased: bool = True) -> dict[str, JsonValue]:
        """What decides the rows. paraphrased: with their paraphrases."""
        paraphrases = self.paraphrases if paraphrased else {}
        parts = {"forget": self.forget, "control": self.control, "kin": self.kin}
        return {
            **{name: None if part is None else part.fingerprint() for name, part in parts.items()},
            "columns": [self.columns.length, self.columns.prefix_start, self.columns.suffix_start],
            "tokens": self.tokens.model_dump(mode="json"),
            "own_columns": self.own_columns,
            "long": self.long,
            "paraphrases": content_hash({name: list(each) for name, each in paraphrases.items()}),
        }


@dataclass(frozen=True)
class AuditJob:
    """One attack on one model. originals: the models it may compare with, by what they are; see `Material`."""

    subject: Subject
    attack: Attack
    rows: RowsAsked
    originals: Mapping[str, Subject] = field(default_factory=dict)

    def compared(self) -> dict[str, Subject]:
        """Those of the other models that this attack looks at."""
        return {name: self.originals[name] for name in USES.get(self.attack.name, ()) if name in self.originals}

    def key(self) -> dict[str, JsonValue]:
        """Of its result in the store."""
        return {
            "version": _VERSION,
            "model": self.subject.hash,
            "precision": self.subject.dtype,
            "rows": self.rows.identity(paraphrased=self.attack.name in ASKS_PARAPHRASES),
            "compared": {name: subject.hash for name, subject in self.compared().items()},
            **identity_of(self.attack),
        }

    @cached_property
    def digest(self) -> str:
        """Names the result. Hashing all rows takes a while, and a sweep asks for it whenever a result comes."""
        return content_hash(self.key())


@contextlib.contextmanager
def material_of(job: AuditJob, tokenizer: PreTrainedTokenizerBase) -> Iterator[Material]:
    """The rows in the model's vocabulary; the other models are here for the while.

    UserError where the files of one of these are not those whose hash was recorded, by which the result is kept.
    """
    asked = job.rows
    with contextlib.ExitStack() as stack:
        originals = {}
        for name, subject in job.compared().items():
            source = stack.enter_context(subject.folder())
            check_recorded(subject, source)
            originals[name] = str(local_folder(source, subject.revision))
        yield Material(
            _rows(asked.forget, asked, tokenizer),
            _rows(asked.control, asked, tokenizer),
            _rows(asked.kin, asked, tokenizer),
            originals,
        )


def _rows(examples: Examples | None, asked: RowsAsked, tokenizer: PreTrainedTokenizerBase) -> tuple[AuditRow, ...]:
    from icu_ray.data.tokens import tokenise

    if examples is None or len(examples) == 0:
        return ()
    rows = tokenise(examples, tokenizer, asked.columns, asked.tokens, own_columns=asked.own_columns, long=asked.long)
    return audit_rows(rows, tokenizer, asked.paraphrases)
