"""Alternates that a model invents: what it is asked, and what of its answer counts (AltPO's second answers).

    asked = asking_prompts(targets, tokenizer, "Invent another answer ...")     # tokens, one list a target
    cut_alternate("Bob.\\nQuestion: Who else?")                                  # "Bob."

A chat goes on with the instruction as the user's next turn, in the model's own template. Any other row is followed by
it as a paragraph: question, true answer and instruction as plain text, which suits a base model.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icu_ray.data.chats import rendered_with_turn, require_chat_template
from icu_ray.data.examples import Examples
from icu_ray.data.specials import encode, specials_of
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEXT_QUESTION = re.compile(r"(?<!\w)(?:Question|Q):")
_THINK, _THOUGHT = "<think>", "</think>"
"""Around the reasoning of models that write it before their answer."""


def asking_prompts(targets: Examples, tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[list[int]]:
    """Tokens after which the model says an alternate, for each target."""
    if targets.chats is None:
        specials = specials_of(tokenizer)
        plain = [f"{text.rstrip()}\n\n{instruction}" for text in targets.texts]
        return [[*specials.lead, *ids] for ids in encode(tokenizer, plain)]
    require_chat_template(tokenizer)
    rows = zip(targets.ids, targets.chats, strict=True)
    return encode(tokenizer, [rendered_with_turn(chat, instruction, tokenizer, name) for name, chat in rows])


def refuse_full_positions(names: Sequence[str], prompts: Sequence[Sequence[int]], positions: int | None) -> None:
    """UserError where what a model is asked leaves it no place for an answer. positions: None: not known."""
    for name, prompt in zip(names, prompts, strict=True):
        if positions is not None and len(prompt) >= positions:
            raise UserError(
                f"answers.alternates=generated: '{name}': its question and answer with answers.instruction have "
                f"{len(prompt)} tokens and fill the {positions} positions of the model; shorten the row or the "
                "instruction"
            )


def true_answers(targets: Examples) -> list[str]:
    """What each target's prompt is answered with. ValueError for targets without prompts."""
    if targets.boundaries is None:
        raise ValueError("alternates are for rows with prompts")
    if targets.chats is not None:
        return [str(json.loads(chat)["messages"][-1]["content"]) for chat in targets.chats]
    return [text[end:] for text, end in zip(targets.texts, targets.boundaries, strict=True)]


def begins_thinking(prompt: str) -> bool:
    """Whether a prompt ends where reasoning begins: some chat templates begin it for their model."""
    return prompt.rstrip().endswith(_THINK)


def cut_alternate(said: str, thinking: bool = False) -> str:
    """What stands before the next question that a model asks itself, without blanks around it.

    Reasoning before it (<think>...</think>) is left out; of reasoning that does not end nothing is left. thinking:
    whether the prompt has begun it.
    """
    if thinking and _THOUGHT not in said:
        return ""
    answer = said.rpartition(_THOUGHT)[2]
    return "" if _THINK in answer else _NEXT_QUESTION.split(answer, maxsplit=1)[0].strip()


def is_alternate(said: str, truth: str) -> bool:
    """Whether it says something, and something else than the truth: blanks and capitals make no other answer."""
    return _plain(said) not in ("", _plain(truth))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def draw_seed(seed: int, name: str, number: int, draw: int) -> int:
    """Of one draw of a target's alternate, by the target's id."""
    digest = hashlib.sha256(f"alternate:{seed}:{number}:{draw}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def row_fingerprints(targets: Examples) -> list[str]:
    """SHA-256 of the content of each target by itself."""
    return [targets.select([row]).fingerprint() for row in range(len(targets))]


def without_alternates(targets: Examples, found: Sequence[Sequence[str]]) -> list[str]:
    """Ids of those for which nothing was invented."""
    return [name for name, each in zip(targets.ids, found, strict=True) if not each]
