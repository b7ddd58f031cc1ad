"""Memorisation of a forget sample: forget loss, memorisation accuracy (MA) and extraction likelihood (EL), exactly.

The definition asks for one greedy generation per prefix; this probe needs one teacher-forced forward, which gives
loss, MA and the key/value rows of the truth, and then decodes only from the positions where the model errs, all of
them together column by column: at column c every open continuation has exactly c cached tokens, so there is no
padding, no mask and no position arithmetic, and any causal LM with a cache will do. Exact in exact arithmetic.

    result = probe(model, rows)                # result.ma_mean, result.el_mean, result.forget_loss_mean

Definitions: MA and EL of section IV-D3 (after Jang et al.), with the options where paper and code differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.console.progress import teller_of_share
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.metrics.columns import TOKENS_AT_ONCE_ON_CPU, ColumnCache, TailCache, sequences_at_once
from icu_ray.metrics.ngrams import (
    Continuations,
    Denominator,
    copied_until,
    extraction_likelihood,
    extraction_likelihood_in_batches,
    needed_tails,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
CACHE_BYTES = 2 * 1024**3
"""Key/value bytes of open continuations that may exist at one time."""


@dataclass(frozen=True)
class ProbeResult:
    """ids: N names. ma, forget_loss: (N,) float64. el: (N,) float64, or None where it was not decoded."""

    ids: tuple[str, ...]
    ma: Floats
    el: Floats | None
    forget_loss: Floats

    @property
    def ma_mean(self) -> float:
        """Memorisation accuracy, a fraction."""
        return float(self.ma.mean())

    @property
    def el_mean(self) -> float | None:
        """Extraction likelihood, a fraction; None where it was not decoded."""
        return None if self.el is None else float(self.el.mean())

    @property
    def forget_loss_mean(self) -> float:
        """Mean over samples of the mean negative log-likelihood (nats) of a sample's scored tokens."""
        return float(self.forget_loss.mean())


@dataclass(frozen=True)
class _Part:
    """Rows of one length that are measured together: columns from `offset` on of the rows `members`."""

    offset: int
    members: NDArray[np.int64]


def probe(
    model: PreTrainedModel,
    rows: TokenRows,
    *,
    el_start: int | None = None,
    ngram: int = 10,
    denominator: Denominator = "label",
    batch_cut: int | None = None,
    use_mask: bool = True,
    span: str = "all",
    chunk: int = 64,
    should_decode: Callable[[Floats], bool] | None = None,
) -> ProbeResult:
    """Measure every row; the model is put into eval mode for it and back.

    el_start: first prefix length of EL; None: the suffix's start. span='prefix_suffix' leaves the pre-prefix out.
    use_mask: rows with left pads are measured as if the pads were not there (the loss apart: it is the training
    loss, pads masked, positions counted from the first pad); False: pads are tokens like any other (the authors).
    batch_cut: reproduce generate()'s padding within batches of this size.
    should_decode: asked once with the (N,) MA values before EL is decoded; False leaves EL out (decision-only mode:
    under the 'and' rule EL says nothing new while MA is above its threshold).
    """
    start = rows.columns.suffix_start if el_start is None else el_start
    first = rows.columns.prefix_start if span == "prefix_suffix" else 0
    ma, loss, el = (np.zeros(len(rows)) for _ in range(3))
    parts = _parts(rows, first, use_mask, max(chunk, batch_cut or 1))
    decode = True
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            if should_decode is not None and len(parts) != 1:
                # The caches of all parts together may not fit, so the question costs a second forward. Without any row
                # it is asked too: other workers may wait for the answer.
                for part in parts:
                    _teacher_forced(model, rows, part, None, ma, loss)
                decode, should_decode = should_decode(ma), None
                parts = parts if decode else []
            done = 0
            for part in parts:
                tell = teller_of_share("MA and EL", done, len(part.members), len(rows))
                tell(0.0)
                done += len(part.members)
                truth = ColumnCache(model.config, len(part.members), rows.columns.length - part.offset)
                predicted = _teacher_forced(model, rows, part, truth, ma, loss)
                decode = decode if should_decode is None else should_decode(ma)
                if decode:
                    open_part = _Open(rows.input_ids[part.members, part.offset :], predicted, rows.eos_id)
                    begin = max(start - part.offset, 1)
                    tails = _decode(model, open_part, truth, begin, ngram, tell)
                    el[part.members] = _score(open_part, tails, begin, ngram, denominator, batch_cut, rows.pad_id)
            _loss_of_padded_rows(model, rows, first, loss)
    finally:
        model.train(was_training)
    return ProbeResult(rows.ids, ma, el if decode else None, loss)


def _parts(rows: TokenRows, first: int, use_mask: bool, chunk: int) -> list[_Part]:
    """Rows grouped by their number of pads (none, for almost all rows), at most `chunk` at a time."""
    pads = np.where(rows.mask.any(axis=1), rows.mask.argmax(axis=1), rows.columns.length - 1)
    offsets = np.maximum(pads, first) if use_mask else np.full(len(rows), first)
    return [
        _Part(int(offset), members[i : i + chunk])
        for offset in np.unique(offsets)
        for members in [np.flatnonzero(offsets == offset)]
        for i in range(0, len(members), chunk)
    ]


def _teacher_forced(
    model: PreTrainedModel, rows: TokenRows, part: _Part, cache: ColumnCache | None, ma: Floats, loss: Floats
) -> NDArray[np.int64]:
    """Predicted tokens of positions 1.. as (n, length - 1) int64; writes MA and loss of the part's rows.

    With a cache, its rows then hold the keys and values of the truth.
    """
    ids = rows.input_ids[part.members, part.offset :]
    labels = rows.labels[part.members, part.offset :]
    n, length = ids.shape
    predicted = np.zeros((n, length - 1), dtype=np.int64)
    at_once = sequences_at_once(model, length)
    for begin in range(0, n, at_once):
        block = slice(begin, min(begin + at_once, n))
        tokens = torch.from_numpy(ids[block]).to(model.device)
        if cache is not None:
            cache.open(block, 0)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None).logits[:, :-1]
        predicted[block] = logits.argmax(-1).cpu().numpy()
        loss[part.members[block]] = _row_losses(logits, labels[block])
    if length > 1:
        ma[part.members] = (predicted == ids[:, 1:]).mean(axis=1)
    return predicted


def _row_losses(logits: torch.Tensor, labels: NDArray[np.int64]) -> Floats:
    """Mean NLL of each row's scored labels; logits (n, L-1, V) predict labels[:, 1:]; no label: 0."""
    wanted = torch.from_numpy(labels[:, 1:]).to(logits.device)
    scored = wanted != IGNORED_LABEL
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    ).view(wanted.shape)
    total = torch.where(scored, nll, torch.zeros_like(nll)).double().sum(1)
    mean: Floats = (total / scored.sum(1).clamp(min=1)).cpu().numpy()
    return mean


def _loss_of_padded_rows(model: PreTrainedModel, rows: TokenRows, first: int, loss: Floats) -> None:
    """The training loss of rows with pads: masked, and positions counted from the first pad (no position ids)."""
    members = np.flatnonzero(~rows.mask[:, first:].all(axis=1))
    at_once = sequences_at_once(model, rows.columns.length - first)
    for begin in range(0, len(members), at_once):
        block = members[begin : begin + at_once]
        ids = torch.from_numpy(rows.input_ids[block, first:]).to(model.device)
        mask = torch.from_numpy(rows.mask[block, first:].astype(np.int64)).to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        loss[block] = _row_losses(logits, rows.labels[block, first:])


class _Open:
    """The sequences of a part with what the model says at each position of the truth."""

    def __init__(self, ids: NDArray[np.int64], predicted: NDArray[np.int64], eos_id: int | None) -> None:
        self.ids = ids
        self.predicted = predicted
        self.eos_id = eos_id
        right = np.concatenate([np.ones((len(ids), 1), dtype=bool), predicted == ids[:, 1:]], axis=1)
        self.ends = [copied_until(right[i], ids[i], eos_id) for i in range(len(ids))]

    def said_at(self, row: int, position: int) -> int:
        """The greedy token at `position` given the truth before it."""
        return int(self.predicted[row, position - 1])


Tails = list[dict[int, NDArray[np.int64]]]


def _decode(
    model: PreTrainedModel, part: _Open, truth: ColumnCache, start: int, ngram: int, tell: Callable[[float], None]
) -> Tails:
    """For every sequence, what is said from each needed error on, up to the row's length or an end-of-text.

    tell: hears the part of all tokens that are said.
    """
    tails: Tails = [{} for _ in part.ids]
    jobs: list[tuple[int, int]] = []
    for row, ends in enumerate(part.ends):
        for position in needed_tails(ends, start, ngram):
            said = part.said_at(row, position)
            tails[row][position] = np.asarray([said], dtype=np.int64)
            if said != part.eos_id and position < part.ids.shape[1] - 1:
                jobs.append((position, row))
    # Neighbouring columns go together: rows then share the longest prefix, join and end within few steps.
    jobs.sort()
    tokens = np.cumsum([0, *(part.ids.shape[1] - 1 - position for position, _ in jobs)])
    begin = 0
    while begin < len(jobs):
        own_columns = part.ids.shape[1] - jobs[begin][0]
        at_once = max(1, CACHE_BYTES // (truth.bytes_per_column() * own_columns))
        if model.device.type == "cpu":
            at_once = min(at_once, TOKENS_AT_ONCE_ON_CPU)
        some, before = jobs[begin : begin + at_once], int(tokens[begin])
        for said in _decode_columns(model, part, truth, some, tails):
            tell((before + said) / int(tokens[-1]))
        begin += at_once
    return tails


def _decode_columns(
    model: PreTrainedModel, part: _Open, truth: ColumnCache, jobs: list[tuple[int, int]], tails: Tails
) -> Iterator[int]:
    """Decode the jobs (position, row), sorted, one column a step; a row joins at its position with KV[:position].

    Yields how many tokens are said, after each column; the tails are there when nothing more comes.
    """
    length = part.ids.shape[1]
    device = model.device
    columns = np.asarray([position for position, _ in jobs], dtype=np.int64)
    continued, indices = np.unique([row for _, row in jobs], return_inverse=True)
    sources = torch.from_numpy(indices).to(device)
    said = torch.tensor([part.said_at(row, position) for position, row in jobs], device=device)
    written = torch.zeros((len(jobs), length), dtype=torch.int64, device=device)
    cache = TailCache(truth, torch.from_numpy(continued).to(device), len(jobs), int(columns[0]), length)
    joined = count = 0
    alive = torch.zeros(0, dtype=torch.int64, device=device)  # job of each open cache row
    tokens = torch.zeros(0, dtype=torch.int64, device=device)
    for column in range(int(columns[0]), length - 1):
        more = int(np.searchsorted(columns, column, side="right"))
        if more > joined:
            cache.join(sources[joined:more], column)
            alive = torch.cat([alive, torch.arange(joined, more, device=device)])
            tokens = torch.cat([tokens, said[joined:more]])
            joined = more
        if len(alive) == 0:
            continue
        cache.open(slice(0, len(alive)), column)
        logits = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits
        tokens = logits[:, -1].argmax(-1)
        written[alive, column + 1] = tokens
        count += len(alive)
        yield count
        if part.eos_id is not None:
            going = tokens != part.eos_id
            if not bool(going.all()):
                kept = going.nonzero().squeeze(1)
                cache.keep(kept, column + 1)
                alive, tokens = alive[kept], tokens[kept]
    grown = written.cpu().numpy()
    for job, (position, row) in enumerate(jobs):
        rest = grown[job, position + 1 :]
        if part.eos_id is not None and (stops := np.flatnonzero(rest == part.eos_id)).size:
            rest = rest[: stops[0] + 1]
        tails[row][position] = np.concatenate([tails[row][position], rest])


def _score(
    part: _Open, tails: Tails, start: int, ngram: int, denominator: Denominator, batch_cut: int | None, pad_id: int
) -> Floats:
    sequences = []
    for row, ends in enumerate(part.ends):
        # A truth that is itself end-of-text ends its continuation there, with that token said.
        stops = {int(d): part.ids[row, d : d + 1] for d in np.unique(ends) if d < len(ends) - 1}
        sequences.append(Continuations(part.ids[row], ends, {**stops, **tails[row]}))
    if batch_cut is None or part.eos_id is None:
        values = [extraction_likelihood(sequence, start, ngram, denominator) for sequence in sequences]
    else:
        values = extraction_likelihood_in_batches(sequences, start, ngram, pad_id, batch_cut, denominator)
    return np.asarray(values, dtype=np.float64)
