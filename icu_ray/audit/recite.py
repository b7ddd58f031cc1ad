"""What a model says of a row, and how much of the row's secret that is.

    for said in recite(loaded, rows): ...            # greedily, after each row's prompt
    secret_recall("it was said", "It was said twice.")         # 0.75

Recall is the recall of ROUGE-L over words: the longest common subsequence of both, as a part of the secret's words.
Words are runs of letters and digits of any script, in lower case; scripts that write no spaces count by character.
ROUGE's own words are ASCII alone, and would take what is said in other scripts for forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icu_ray.audit.rows import AuditRow

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel

_WITHOUT_SPACES = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_WORD = re.compile(rf"{_WITHOUT_SPACES}|(?:(?!{_WITHOUT_SPACES})[^\W_])+")
LONGEST_ANSWER = 200
"""Tokens that a model may say, at most; a secret of more is looked for in its first ones."""


@dataclass(frozen=True)
class Recited:
    """text: what the model said, '' too where its scores are not finite, of which `broken` tells."""

    text: str
    recall: float
    exact: bool
    broken: bool = False


def words_of(text: str) -> list[str]:
    """The words that recall counts."""
    return _WORD.findall(text.casefold())


def secret_recall(said: str, secret: str) -> float:
    """0..1; 0 where the secret has no words."""
    from rouge_score.rouge_scorer import RougeScorer

    if not words_of(secret):
        return 0.0
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return float(scorer.score(secret, said)["rougeL"].recall)


class _Words:
    """The words as the package rouge_score asks for them."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


def said_exactly(said: str, secret: str) -> bool:
    """Whether the secret's words stand in what was said, one after the other and all of them."""
    wanted, heard = words_of(secret), words_of(said)
    starts = range(len(heard) - len(wanted) + 1)
    return bool(wanted) and any(heard[start : start + len(wanted)] == wanted for start in starts)


def recited(said: str | None, row: AuditRow) -> Recited:
    """What was said beside a row's secret; None: the model's scores are not finite."""
    if said is None:
        return Recited("", 0.0, False, broken=True)
    return Recited(said, secret_recall(said, row.secret), said_exactly(said, row.secret))


def recite(
    loaded: LoadedModel,
    rows: Sequence[AuditRow],
    prompts: Sequence[Sequence[int]] | None = None,
    openings: Sequence[Sequence[int]] | None = None,
) -> list[Recited]:
    """What the model says greedily after each row's prompt, or after `prompts`, as many tokens as the secret has.

    openings: tokens that each answer is known to begin with (AnswerScores.copied), which only makes it faster.
    """
    from icu_ray.data.prompts import special_ids
    from icu_ray.data.specials import specials_of
    from icu_ray.metrics.rouge import greedy_answers

    specials = specials_of(loaded.tokenizer)
    asked = [row.prompt_ids for row in rows] if prompts is None else prompts
    said = greedy_answers(
        loaded.model,
        loaded.tokenizer,
        asked,
        max_new_tokens=[min(len(row.secret_ids), LONGEST_ANSWER) for row in rows],
        ends={specials.eos_id, loaded.tokenizer.eos_token_id, *special_ids(loaded.tokenizer)} - {None},
        pad_id=specials.pad_id,
        openings=openings,
    )
    return [recited(answer, row) for answer, row in zip(said, rows, strict=True)]
