"""Rows that begin alike, read as one tree: a token that several of them have in common is read once.

    trees, alone = row_trees(rows, limit=512)      # a question has up to seven answers, which begin alike themselves
    ids, positions, mask = tree_batch(trees, dtype, device)
    model(input_ids=ids, position_ids=positions, attention_mask=mask)

A tree's tokens stand in one sequence, each with the position that it has in its row, and attention sees of it those
before it in its row alone. So a row's numbers are those of the row by itself, but for rounding. Models that cannot be
asked so (`tree_limit` says 0) read their rows one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icu_ray.metrics.answers import AnswerRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TREE_TOKENS = 512
"""Tokens of a tree. Attention reads every pair of them, so that much larger trees cost more than they save."""
PACKED_TOKENS = 256
"""Tokens up to which rows of several prompts share a tree, for what their prompts have in common."""
LEAST_SAVED = 0.15
"""The share of their tokens that the rows of a tree must save; below it a forward of whole rows is as fast."""
_LIKE_ALONE, _LIKE_ALONE_ROUNDED = 1e-3, 0.1
"""How far a model's scores of a tree may be from those of its rows, in standard deviations of the scores: far more than
rounding to single precision, or to less, does; far less than a mask that is not heeded."""
_LIMITS: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class RowTree:
    """tokens, depths: (T,) int64, of each token its id and its position in its rows. rows: those of the tree. paths: of
    each row the places in the tree of its tokens up to the one before its last scored one, int64."""

    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    rows: tuple[AnswerRow, ...]
    paths: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ancestors(self) -> NDArray[np.bool_]:
        """(T, T): whether the second token is the first one or stands before it in a row."""
        found = np.zeros((len(self), len(self)), dtype=np.bool_)
        made = 0
        for path in self.paths:
            own = path[path >= made]
            if len(own):
                found[np.ix_(own, path[: len(path) - len(own)])] = True
                found[np.ix_(own, own)] = np.tri(len(own), dtype=np.bool_)
                made = int(own[-1]) + 1
        return found


def row_trees(rows: Sequence[AnswerRow], limit: int) -> tuple[list[RowTree], list[AnswerRow]]:
    """Trees of at most `limit` tokens, of rows for which it pays, and the other rows: all that have no scored token.

    The rows of one prompt stay together where they fit. limit=0: no trees.
    """
    questions: dict[tuple[int, ...], list[AnswerRow]] = {}
    alone = []
    for row in rows:
        if row.scored:
            questions.setdefault(row.ids[: row.scored[0]], []).append(row)
        else:
            alone.append(row)
    trees: list[RowTree] = []
    together: list[AnswerRow] = []

    def close() -> None:
        if together:
            tree = _tree(together)
            saved = sum(len(path) for path in tree.paths) - len(tree)
            if saved >= LEAST_SAVED * (saved + len(tree)):
                trees.append(tree)
            else:
                alone.extend(together)
            together.clear()

    used = 0
    for prompt in sorted(questions):
        own = sorted(questions[prompt], key=_ids)
        size = len(_tree(own))
        if used + size > min(limit, PACKED_TOKENS):
            close()
            used = 0
        if size > limit:  # as many of its rows at a time as fit
            for row in own:
                if together and len(_tree([*together, row])) > limit:
                    close()
                together.append(row)
            close()
            continue
        together.extend(own)
        used += size
    close()
    return trees, alone


def _tree(rows: Sequence[AnswerRow]) -> RowTree:
    """The tree of rows."""
    tokens: list[int] = []
    depths: list[int] = []
    paths: list[NDArray[np.int64]] = []
    before: tuple[int, ...] = ()
    path = np.zeros(0, dtype=np.int64)
    ordered = sorted(rows, key=_ids)
    for row in ordered:  # so that of all rows before it, the last one has the most in common with it
        read = row.ids[: row.scored[-1]]
        most = min(len(read), len(before))
        common = next((place for place in range(most) if read[place] != before[place]), most)
        new = np.arange(len(tokens), len(tokens) + len(read) - common)
        tokens += read[common:]
        depths += range(common, len(read))
        path = np.concatenate([path[:common], new])
        before = read
        paths.append(path)
    return RowTree(np.asarray(tokens, dtype=np.int64), np.asarray(depths, dtype=np.int64), tuple(ordered), tuple(paths))


def _ids(row: AnswerRow) -> tuple[int, ...]:
    return row.ids


def tree_batch(trees: Sequence[RowTree], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and positions (B, T) int64, and what is added to attention's scores (B, 1, T, T); pads see themselves."""
    width = max(map(len, trees))
    ids, positions = np.zeros((2, len(trees), width), dtype=np.int64)
    seen = np.broadcast_to(np.eye(width, dtype=np.bool_), (len(trees), width, width)).copy()
    for place, tree in enumerate(trees):
        ids[place, : len(tree)] = tree.tokens
        positions[place, : len(tree)] = tree.depths
        seen[place, : len(tree), : len(tree)] = tree.ancestors
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask.masked_fill_(torch.from_numpy(~seen).to(device), torch.finfo(dtype).min)
    return torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), mask[:, None]


def tree_limit(model: PreTrainedModel) -> int:
    """Tokens of the largest tree that the model can be asked; 0 where it reads trees in another way than rows.

    A tree is no wider than its layers that attend to the last tokens alone. That positions and mask are heeded is
    tried once a model, on a small tree. Needs inference mode and a model in eval mode.
    """
    if model not in _LIMITS:
        _LIMITS[model] = _limit(model)
    return _LIMITS[model]


def _limit(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    plain = getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
    if not plain or "position_ids" not in inspect.signature(model.forward).parameters:
        return 0
    names = ("max_position_embeddings", "sliding_window", "window_size", "attention_chunk_size")
    bounds = [getattr(config, name, None) for name in names]
    limit = min([TREE_TOKENS, *(bound for bound in bounds if isinstance(bound, int))])
    rows = [AnswerRow.after([token % config.vocab_size for token in ids], 2) for ids in _TRIED]
    if limit < sum(len(row.ids) for row in rows):
        return 0
    tree = _tree(rows)
    ids, positions, mask = tree_batch([tree], model.dtype, model.device)
    try:
        together = model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits[0].float()
    except (ValueError, RuntimeError, TypeError, IndexError):  # a mask of rows and columns alone
        return 0
    most = _LIKE_ALONE if model.dtype in (torch.float32, torch.float64) else _LIKE_ALONE_ROUNDED
    for row, path in zip(tree.rows, tree.paths, strict=True):
        own = torch.tensor([row.ids[: len(path)]], device=model.device)
        apart = model(input_ids=own, use_cache=False).logits[0].float()
        if not bool((together[path] - apart).abs().max() <= most * apart.std()):
            return 0
    return limit


_TRIED = [
    [17, 29, 41, 53, 67, 79, 97],
    [17, 29, 41, 61, 71, 83, 89, 101],
    [17, 29, 43, 59, 73, 103],
    [19, 31, 47, 37, 107],
]
"""Rows of a tree with which a model is tried."""
