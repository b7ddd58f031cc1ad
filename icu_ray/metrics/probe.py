"""Memorisation of a forget sample: forget loss, memorisation accuracy (MA) and extraction likelihood (EL), exactly.

One teacher-forced forward gives loss, MA and the key/value rows of the truth. For EL the definition asks for one greedy
generation per prefix; here greedy_decoding.py decodes only where the model errs, and extraction_likelihood.py counts.

    result = probe(model, rows)                # result.ma_mean, result.el_mean, result.forget_loss_mean

Definitions: MA and EL of section IV-D3 (after Jang et al.), with the options where paper and code differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.console.progress import teller_of_share
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.positions import position_options, real_positions
from icu_ray.metrics.extraction_likelihood import (
    NO_TOKEN,
    Continuations,
    Denominator,
    extraction_likelihood,
    extraction_likelihood_in_batches,
)
from icu_ray.metrics.greedy_decoding import Predictions, greedy_continuations, greedy_tokens
from icu_ray.metrics.kv_cache import ColumnCache, sequences_at_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ProbeResult:
    """What was measured of N rows; NaN where it cannot be, and the means leave such a row out. Prompts do not count.

    ids: N names. ma, forget_loss: (N,) float64, NaN for a single token, before which nothing stands. el: (N,) float64,
    or None where it was not decoded. short: (N,) bool, True where no n-gram fits behind the boundary, so that there is
    no EL. broken: (N,) bool, True where the model's scores are not finite. With one such row the means are None: argmax
    of NaN would count as perfectly forgotten.
    """

    ids: tuple[str, ...]
    ma: Floats
    el: Floats | None
    forget_loss: Floats
    short: Flags
    broken: Flags
    cut_tokens: tuple[int, ...] | None = None
    """N tokens at each text's end that its row has no place for, so that they were not measured; None: not known."""

    def of_texts(self, rows: TokenRows) -> ProbeResult:
        """The same of T texts, where `rows`, which were measured, are windows: a text counts as its worst window does.

        That is the highest MA and EL and the lowest loss. What is not measured, or broken, of one window is so of all.
        """
        if rows.texts is None:
            return self
        return ProbeResult(
            rows.text_ids,
            rows.by_text(self.ma),
            None if self.el is None else rows.by_text(self.el),
            rows.by_text(self.forget_loss, np.minimum),
            rows.by_text(self.short),
            rows.by_text(self.broken),
            None if self.cut_tokens is None else tuple(self.cut_tokens[row] for row in rows.first_rows),
        )

    @property
    def ma_mean(self) -> float | None:
        """Memorisation accuracy, a fraction."""
        return mean_of_measured(self.ma, self.broken)

    @property
    def el_mean(self) -> float | None:
        """Extraction likelihood, a fraction; None too where it was not decoded."""
        return None if self.el is None else mean_of_measured(self.el, self.broken)

    @property
    def forget_loss_mean(self) -> float | None:
        """Mean over rows of the mean negative log-likelihood (nats) of a row's scored tokens."""
        return mean_of_measured(self.forget_loss, self.broken)


def mean_of_measured(values: Floats, broken: Flags) -> float | None:
    """Mean of the values that are no NaN; None without any, and where a row is broken."""
    measured = values[~np.isnan(values)]
    return None if broken.any() or len(measured) == 0 else float(measured.mean())


@dataclass(frozen=True)
class _Spans:
    """What is read of each of N rows, all (N,) int64: `lengths` columns from `offsets` on.

    Counted from there: starts, the first prefix length of EL; firsts, the first token that MA counts.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def select(self, members: NDArray[np.int64]) -> _Spans:
        """Those of the rows `members`."""
        return _Spans(self.offsets[members], self.lengths[members], self.starts[members], self.firsts[members])

    @property
    def inside(self) -> Flags:
        """(N, W) True in the columns of each row, W being the length of the longest."""
        found: Flags = np.arange(self.lengths.max()) < self.lengths[:, None]
        return found

    def cut_out(self, array: NDArray[np.int64], fill: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, W) of (N, L), each row from its first column on; behind a row's end stands its `fill` (N, 1)."""
        columns = np.minimum(self.offsets[:, None] + np.arange(self.lengths.max()), array.shape[1] - 1)
        return np.where(self.inside, np.take_along_axis(array, columns, axis=1), fill)


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

    el_start: first prefix length of EL; None: the suffix's start. span='prefix_suffix' leaves the pre-prefix out. Both
    are of a layout: rows with a prompt are read whole, EL begins where the completion does, and MA counts that alone.
    use_mask: rows with left pads are measured as if the pads were not there; False: pads are tokens like any other (the
    authors). The loss is the training loss either way: pads masked, positions as the rows say.
    batch_cut: reproduce generate()'s padding within batches of this size.
    should_decode: asked once with the (N,) MA values before EL is decoded; False leaves EL out (decision-only mode:
    under the 'and' rule EL says nothing new while MA is above its threshold).
    """
    first = rows.columns.prefix_start if span == "prefix_suffix" and rows.starts is None else 0
    ma, loss, el = (np.full(len(rows), np.nan) for _ in range(3))
    broken = np.zeros(len(rows), dtype=np.bool_)
    spans = _spans(rows, first, el_start, use_mask)
    short, single = spans.lengths - spans.starts < ngram, spans.lengths == 1
    cut = None if rows.eos_id is None else batch_cut  # without an end-of-text no row of a batch is shorter
    parts = _parts(spans, max(chunk, batch_cut or 1), of_one_layout=cut is not None)
    decode = True
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            if should_decode is not None and len(parts) != 1:
                # The caches of all parts together may not fit, so the question costs a second forward. Without any row
                # it is asked too: other workers may wait for the answer.
                for part in parts:
                    _teacher_forced(model, rows, part, spans.select(part), None, ma, loss)
                decode, should_decode = should_decode(ma), None
                parts = parts if decode else []
            done = 0
            for part in parts:
                tell = teller_of_share("MA and EL", done, len(part), len(rows))
                tell(0.0)
                done += len(part)
                read = spans.select(part)
                truth = ColumnCache(model.config, len(part), int(read.lengths.max()))
                ids, predicted = _teacher_forced(model, rows, part, read, truth, ma, loss)
                decode = decode if should_decode is None else should_decode(ma)
                if decode:
                    predictions = Predictions(ids, predicted, read.lengths, rows.eos_id)
                    # How long a continuation is counts in these two alone.
                    whole = cut is not None or denominator == "generation"
                    sequences = greedy_continuations(model, predictions, truth, read.starts, ngram, tell, whole)
                    el[part] = _extraction_likelihoods(sequences, read.starts, ngram, denominator, cut, rows.pad_id)
                    broken[part] = [sequence.broken for sequence in sequences]
            if not use_mask or rows.positions == "padded":
                _loss_of_padded_rows(model, rows, first, loss)
    finally:
        model.train(was_training)
    broken |= np.isnan(ma) & ~single
    el[broken] = loss[single] = np.nan
    return ProbeResult(rows.ids, ma, el if decode else None, loss, short, broken, rows.cut_tokens)


def _spans(rows: TokenRows, first: int, el_start: int | None, use_mask: bool) -> _Spans:
    """Rows without their pads, from column `first` on at the earliest; with use_mask=False from there on."""
    pads = np.where(rows.mask.any(axis=1), rows.mask.argmax(axis=1), rows.columns.length - 1)
    offsets = np.maximum(pads, first) if use_mask else np.full(len(rows), first)
    laid_out = rows.starts is None
    starts = np.full(len(rows), el_start) if el_start is not None and laid_out else rows.suffix_starts
    firsts = np.full(len(rows), first) if laid_out else rows.suffix_starts
    # Before the first token nothing stands that it could be predicted from.
    starts, firsts = (np.maximum(columns - offsets, 1) for columns in (starts, firsts))
    return _Spans(offsets, rows.columns.length - offsets, starts, firsts)


def _parts(spans: _Spans, chunk: int, of_one_layout: bool) -> list[NDArray[np.int64]]:
    """Rows that are measured together, at most `chunk` at a time, the longest first."""
    groups = [np.argsort(-spans.lengths, kind="stable")]
    if of_one_layout:
        layouts = np.stack([spans.offsets, spans.starts, spans.firsts], axis=1)
        groups = [np.flatnonzero((layouts == one).all(axis=1)) for one in np.unique(layouts, axis=0)]
    return [group[i : i + chunk] for group in groups for i in range(0, len(group), chunk)]


def _teacher_forced(
    model: PreTrainedModel,
    rows: TokenRows,
    members: NDArray[np.int64],
    span: _Spans,
    cache: ColumnCache | None,
    ma: Floats,
    loss: Floats,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (n, W) and predicted tokens of positions 1.. (n, W - 1) of the rows `members`; writes their MA and loss.

    MA is NaN where the model's scores are not finite. With a cache, its rows then hold the keys and values of the
    truth. Each row begins in the first column, so that nothing it reads is a pad: what follows its end is a token that
    it has, which a causal model does not see before.
    """
    whole = rows.input_ids[members]
    ids = span.cut_out(whole, np.take_along_axis(whole, span.offsets[:, None], axis=1))
    labels = span.cut_out(rows.measured_labels[members], np.full((len(members), 1), IGNORED_LABEL))
    n, width = ids.shape
    predicted = ids[:, 1:].copy()
    begin = 0
    while begin < n:
        # The longest row of a batch is its first.
        length = int(span.lengths[begin])
        block = slice(begin, min(begin + sequences_at_once(model, length), n))
        tokens = torch.from_numpy(ids[block, :length]).to(model.device)
        if cache is not None:
            cache.open(block, 0)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None).logits[:, :-1]
        predicted[block, : length - 1] = greedy_tokens(logits).cpu().numpy()
        loss[members[block]] = _row_losses(logits, labels[block, :length])
        begin = block.stop
    if width > 1:
        own = span.inside[:, 1:]
        counted = own & (np.arange(1, width) >= span.firsts[:, None])
        unknown = (own & (predicted == NO_TOKEN)).any(axis=1) | ~counted.any(axis=1)
        right = (counted & (predicted == ids[:, 1:])).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        ma[members] = np.where(unknown, np.nan, right)
    return ids, predicted


def _row_losses(logits: torch.Tensor, labels: NDArray[np.int64]) -> Floats:
    """Mean NLL of each row's scored labels; logits (n, L-1, V) predict labels[:, 1:]; no label: NaN."""
    wanted = torch.from_numpy(labels[:, 1:]).to(logits.device)
    scored = wanted != IGNORED_LABEL
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    ).view(wanted.shape)
    total = torch.where(scored, nll, torch.zeros_like(nll)).double().sum(1)
    mean: Floats = (total / scored.sum(1)).cpu().numpy()
    return mean


def _loss_of_padded_rows(model: PreTrainedModel, rows: TokenRows, first: int, loss: Floats) -> None:
    """The training loss of rows with pads, where they were measured otherwise."""
    labels, members = rows.measured_labels, np.flatnonzero(~rows.mask[:, first:].all(axis=1))
    at_once = sequences_at_once(model, rows.columns.length - first)
    for begin in range(0, len(members), at_once):
        block = members[begin : begin + at_once]
        ids = torch.from_numpy(rows.input_ids[block, first:]).to(model.device)
        real = rows.mask[block, first:]
        mask = torch.from_numpy(real.astype(np.int64)).to(model.device)
        counted = torch.from_numpy(real_positions(real)).to(model.device) if rows.positions == "real" else None
        options = position_options(model, counted)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits[:, :-1]
        loss[block] = _row_losses(logits, labels[block, first:])


def _extraction_likelihoods(
    sequences: Sequence[Continuations],
    starts: NDArray[np.int64],
    ngram: int,
    denominator: Denominator,
    cut: int | None,
    pad_id: int,
) -> Floats:
    """EL of each sequence; cut: as generate() pads batches of this size (then all start alike), None: unpadded."""
    if cut is None:
        pairs = zip(sequences, starts.tolist(), strict=True)
        values = [extraction_likelihood(sequence, start, ngram, denominator) for sequence, start in pairs]
    else:
        values = extraction_likelihood_in_batches(sequences, int(starts[0]), ngram, pad_id, cut, denominator)
    return np.asarray(values, dtype=np.float64)
