"""Rows that begin alike: their common tokens are read once, and what follows reads their keys and values.

    groups, rest = prompt_groups(rows)                       # a benchmark's question has up to seven answers
    for group in groups:
        cache = read_prompts(model, group)
        model(input_ids=tails, past_key_values=cache.of([0, 0, 1]))     # tails (3, T) of rows of questions 0, 0 and 1

The prompts of a group are cut to one width, that of its shortest, and what is left of a longer one is read with each of
its rows. So nothing is padded on the left, and a row's tokens stand in the columns in which they stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from icu_ray.metrics.answers import AnswerRow
from icu_ray.metrics.kv_cache import ColumnCache, sequences_at_once
from icu_ray.metrics.prefixed import Grouping, PrefixedStates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST_SAVED = 0.15
"""The share of their tokens that rows of a group must save; below it a forward of whole rows is as fast."""
MOST_CUT = 0.2
"""The share of a group's tokens that may be read more than once for the sake of one width."""
PROMPT_TOKENS = 4096
"""Tokens of a group's prompts: 2 GB of keys and values of Llama-2-7B in bfloat16."""


@dataclass(frozen=True)
class PromptGroup:
    """width: tokens that are read once of each prompt, at least 1. prompts: those, one a question. rows: of each
    question, all of which begin so and score later tokens alone."""

    width: int
    prompts: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[AnswerRow, ...], ...]


def prompt_groups(rows: Sequence[AnswerRow]) -> tuple[list[PromptGroup], list[AnswerRow]]:
    """Groups of the rows for which it pays, and the others. A row without a scored token is among the others."""
    questions: dict[tuple[int, ...], list[AnswerRow]] = {}
    rest = []
    for row in rows:
        scored = row.scored
        # The last token before the answer is read with the answer, whose first token it predicts.
        if scored and scored[0] > 1:
            questions.setdefault(row.ids[: scored[0] - 1], []).append(row)
        else:
            rest.append(row)
    groups, group = [], list[tuple[tuple[int, ...], list[AnswerRow]]]()
    cut = tokens = 0
    for prompt, own in sorted(questions.items(), key=lambda question: len(question[0])):
        width = len(group[0][0]) if group else len(prompt)
        more = (len(prompt) - width) * (len(own) - 1)
        read = len(prompt) + sum(len(row.ids) - len(prompt) for row in own)
        if group and (cut + more > MOST_CUT * (tokens + read) or width * (len(group) + 1) > PROMPT_TOKENS):
            groups.append(group)
            group, cut, tokens, more = [], 0, 0, 0
        group.append((prompt, own))
        cut, tokens = cut + more, tokens + read
    groups += [group] if group else []
    found = []
    for each in groups:
        width, alone = len(each[0][0]), sum(len(row.ids) for _, own in each for row in own)
        if width * sum(len(own) - 1 for _, own in each) >= LEAST_SAVED * alone:
            found.append(
                PromptGroup(width, tuple(prompt[:width] for prompt, _ in each), tuple(tuple(own) for _, own in each))
            )
        else:
            rest += [row for _, own in each for row in own]
    return found, rest


class _PromptLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of prompts, which rows read and nothing is added to."""

    is_compileable = False

    def __init__(self, owner: PromptCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner, self.keys, self.values = owner, keys, values
        self.prompt_keys, self.prompt_values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to allocate."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Those of each row's prompt, then its own."""
        grouping = self.owner.grouping
        keys = PrefixedStates(self.prompt_keys, key_states, grouping)
        return keys, PrefixedStates(self.prompt_values, value_states, grouping)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length of keys, offset) for the attention mask."""
        return self.owner.width + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens of a prompt."""
        return self.owner.width

    def get_max_length(self) -> int:
        """Columns that fit: those of the prompts, as nothing else is kept."""
        return self.owner.width


class PromptCache(Cache):
    """Keys and values of the prompts of a group, for one forward of rows that continue them at a time."""

    def __init__(self, prompts: ColumnCache, width: int) -> None:
        self.width = width
        self.grouping = Grouping.of(torch.zeros(1, dtype=torch.int64))
        layers = [_PromptLayer(self, each.keys, each.values) for each in prompts.column_layers]
        super().__init__(layers=cast("list[Any]", layers))

    def of(self, sources: Sequence[int]) -> PromptCache:
        """The same for rows that continue the prompts with these places in the group."""
        device = cast("_PromptLayer", self.layers[0]).prompt_keys.device
        self.grouping = Grouping.of(torch.tensor(sources, device=device))
        return self


def read_prompts(model: PreTrainedModel, group: PromptGroup, masked: int | None = None) -> PromptCache:
    """The cache of a group's prompts; needs inference mode. masked: id of tokens that attention does not see."""
    ids = torch.tensor(group.prompts, device=model.device)
    cache = ColumnCache(model.config, len(ids), group.width)
    for begin in range(0, len(ids), at_once := sequences_at_once(model, group.width)):
        block = slice(begin, min(begin + at_once, len(ids)))
        cache.open(block, 0)
        seen = {} if masked is None else {"attention_mask": (ids[block] != masked).long()}
        model.base_model(input_ids=ids[block], past_key_values=cache, use_cache=True, **seen)
    return PromptCache(cache, group.width)
