"""What is attacked, and what an attack may use for it.

rows = audit_rows(token_rows, tokenizer)          # of TokenRows of any kind: texts, prompts and completions, chats
material = Material(forget=rows, control=heldout_rows, kin=pool_rows)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icu_ray.data.examples import TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AuditRow:
    """A row in the model's vocabulary, without pads.

    tokens: the whole row, special tokens included. given: how many of the first ones are the prompt, at least 1 and
    less than all. prompt, secret: both parts as text. paraphrases: the prompt in other words, where the data has some.
    """

    id: str
    tokens: tuple[int, ...]
    given: int
    prompt: str
    secret: str
    paraphrases: tuple[str, ...] = ()

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens of the prompt."""
        return self.tokens[: self.given]

    @property
    def secret_ids(self) -> tuple[int, ...]:
        """The tokens of the secret, with what ends it."""
        return self.tokens[self.given :]


@dataclass(frozen=True)
class Material:
    """forget: rows that were to be forgotten. control: rows of the same kind that no model here has read (held-out
    ones). kin: rows of the same kind that the model has read and was to keep (the pool). originals: folders or hub ids
    of the model before unlearning ('original') and of one that never read the forget rows ('retrained'), as far as
    there are any."""

    forget: tuple[AuditRow, ...]
    control: tuple[AuditRow, ...] = ()
    kin: tuple[AuditRow, ...] = ()
    originals: Mapping[str, str] = field(default_factory=dict)


def audit_rows(
    rows: TokenRows, tokenizer: PreTrainedTokenizerBase, paraphrases: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[AuditRow, ...]:
    """The rows without their pads; one without a secret, for it ends in its prompt, is left out.

    paraphrases: of prompts, by a row's id. Windows of a long text are rows of their own.
    """
    found = []
    for place, name in enumerate(rows.ids):
        mask = rows.mask[place]
        first = int(mask.argmax())
        tokens = tuple(int(token) for token in rows.input_ids[place][mask])
        given = max(1, int(rows.suffix_starts[place]) - first)
        if given >= len(tokens):
            continue
        prompt, secret = (_text(tokenizer, part) for part in (tokens[:given], tokens[given:]))
        found.append(AuditRow(name, tokens, given, prompt, secret.strip(), (paraphrases or {}).get(name, ())))
    return tuple(found)


def _text(tokenizer: PreTrainedTokenizerBase, tokens: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
