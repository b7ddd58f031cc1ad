"""Log-likelihoods of continuations: what multiple choice, cloze and perplexity tasks ask of a model.

    answers = answer_loglikelihoods(model, tokenizer, requests, Measure("loglikelihood"))

Same numbers as lm-eval's HFLM (float32: to 1e-6 of the value, greedy matches exactly) at less work: requests are sorted
by length and padded to the longest of their batch; candidates that differ in their last token share one forward; the
output matrix is applied to the scored positions alone, not to the context. Softmax is taken in float32 whatever the
model's precision (lm-eval: `softmax_dtype=float32`).

Authors' form (`encoding="separate"`, spec section 3): context and candidate are tokenised by themselves, the context
is cut to max_length from its end, then both together from their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.models.hidden import check_seam, last_hidden, output_head

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 32768
"""Tokens of a batch, padding included."""
SCORED_CHUNK = 256
"""Positions whose vocabulary-wide scores exist at one time."""
DEFAULT_POSITIONS = 2048


@dataclass(frozen=True)
class Pair:
    """Token ids: what is read before, and what is scored. `context` is never empty, nor is `target`."""

    context: list[int]
    target: list[int]


@dataclass(frozen=True)
class _Scored:
    """greedy: whether every token of the target is the most likely one. greedy_ids: those, where asked for."""

    loglikelihood: float
    greedy: bool
    greedy_ids: tuple[int, ...]


def positions_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens a model can read at one time, found where lm-eval looks."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            return value
    limit = tokenizer.model_max_length
    return int(limit) if limit < 10**9 else DEFAULT_POSITIONS


def answer_loglikelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], measure: Measure
) -> list[Answer]:
    """One answer a request, in order. UserError when a target has no token or more than the model can read."""
    positions = positions_of(model, tokenizer)
    if measure.encoding == "joint":
        pairs = encode_joint(tokenizer, requests)
        length = min(measure.max_length or positions, positions)
    else:
        # (context + target)[-max_length:] without its last token is what the authors' model reads.
        assert measure.max_length is not None
        pairs = encode_separate(tokenizer, requests, measure.max_length)
        length = min(measure.max_length - 1, positions)
    for request, pair in zip(requests, pairs, strict=True):
        if not 0 < len(pair.target) <= length:
            raise UserError(
                f"document {request.document}: its continuation {request.target[:60]!r} has {len(pair.target)} tokens; "
                f"expected 1 to {length}, what this model reads at one time"
            )
    scored = score_pairs(model, pairs, length, greedy_ids=measure.greedy_text)
    texts = [""] * len(pairs)
    if measure.greedy_text:
        texts = tokenizer.batch_decode([list(each.greedy_ids) for each in scored], skip_special_tokens=True)
    return [
        Answer(each.loglikelihood, len(pair.target), each.greedy, text)
        for each, pair, text in zip(scored, pairs, texts, strict=True)
    ]


def encode_joint(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> list[Pair]:
    """The harness's way: context + target tokenised together, the context's number of tokens cut off.

    Spaces at the end of a context go to the target; an empty context is the model's prefix token.
    """
    moved: list[tuple[str, str]] = []
    for request in requests:
        context = request.context.rstrip()
        moved.append((context, request.context[len(context) :] + request.target))
    plain = Encoder(tokenizer)
    whole = plain.encode([context + target for context, target in moved])
    contexts = plain.encode([context for context, _ in moved])
    alone = plain.encode([target if not context else "" for context, target in moved], special=False)
    prefix = prefix_token(tokenizer)
    pairs = []
    for (context, _), all_ids, context_ids, target_ids in zip(moved, whole, contexts, alone, strict=True):
        if context:
            pairs.append(Pair(context_ids, all_ids[len(context_ids) :]))
        elif target_ids and target_ids[0] == prefix:
            pairs.append(Pair(target_ids[:1], target_ids[1:]))
        else:
            pairs.append(Pair([prefix], target_ids))
    return pairs


def encode_separate(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], length: int) -> list[Pair]:
    """The authors' way: each tokenised by itself and cut to `length` tokens from its end."""
    encoder = Encoder(tokenizer)
    contexts = encoder.encode([request.context for request in requests])
    targets = encoder.encode([request.target for request in requests], special=False)
    prefix = prefix_token(tokenizer)
    return [
        Pair(context[:length] or [prefix], target[:length]) for context, target in zip(contexts, targets, strict=True)
    ]


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before a text that has nothing before it: beginning-of-text, else end-of-text."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(found, int):
        raise UserError("the tokenizer has neither a beginning- nor an end-of-text token to score a first token after")
    return found


class Encoder:
    """Tokenises many texts at once, equal ones once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.begin = str(tokenizer.decode([prefix_token(tokenizer)]))

    def encode(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Ids of each text, with the tokenizer's special tokens unless the text itself begins with them."""
        found: dict[str, list[int]] = {}
        distinct = list(dict.fromkeys(texts))
        for with_special in (True, False):
            some = [t for t in distinct if (special and not t.startswith(self.begin)) == with_special]
            if some:
                # No length limit: cutting is the caller's, and the tokenizer would warn of long texts.
                ids = self.tokenizer(some, add_special_tokens=with_special, verbose=False)["input_ids"]
                found.update(zip(some, ids, strict=True))
        return [found[text] for text in texts]


def score_pairs(
    model: PreTrainedModel, pairs: Sequence[Pair], length: int, *, greedy_ids: bool = False
) -> list[_Scored]:
    """The log-likelihood of every pair's target, and whether it is what the model would say greedily.

    length: tokens read at one time; a longer pair loses its beginning. greedy_ids: say these tokens too.
    """
    # Equal inputs (candidates that differ in the last token alone) go through the model once.
    by_input: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        by_input.setdefault(tuple((pair.context + pair.target)[-(length + 1) : -1]), []).append(number)
    inputs = sorted(by_input, key=lambda ids: (-len(ids), ids))
    found: list[_Scored | None] = [None] * len(pairs)
    scores = _score_function(model, greedy_ids)
    budget = CPU_BATCH_TOKENS if model.device.type == "cpu" else GPU_BATCH_TOKENS
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            for batch in _batches(inputs, budget):
                rows, columns, targets, owners = _scored_positions(batch, by_input, pairs)
                values, best = scores(_padded(batch, model.device), rows, columns, targets)
                at = 0
                for owner in owners:
                    end = at + len(pairs[owner].target)
                    ids = best[at:end].tolist()
                    said = tuple(ids) if greedy_ids else ()
                    found[owner] = _Scored(float(values[at:end].sum()), ids == pairs[owner].target, said)
                    at = end
    finally:
        model.train(was_training)
    return [each for each in found if each is not None]


def _batches(inputs: Sequence[tuple[int, ...]], budget: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Runs of inputs, longest first, of at most `budget` tokens when padded."""
    begin = 0
    while begin < len(inputs):
        size = max(1, budget // len(inputs[begin]))
        yield inputs[begin : begin + size]
        begin += size


def _padded(batch: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    """(B, L) int64, padded on the right with 0: causal models do not see what comes later."""
    width = len(batch[0])
    return torch.tensor([[*ids, *([0] * (width - len(ids)))] for ids in batch], dtype=torch.long, device=device)


def _scored_positions(
    batch: Sequence[tuple[int, ...]], by_input: dict[tuple[int, ...], list[int]], pairs: Sequence[Pair]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Row, column and expected token of every scored position, owner by owner, and the owners."""
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, ids in enumerate(batch):
        for owner in by_input[ids]:
            target = pairs[owner].target
            rows += [row] * len(target)
            columns += range(len(ids) - len(target), len(ids))
            targets += target
            owners.append(owner)
    return rows, columns, targets, owners


_Scores = Callable[["Tensor", list[int], list[int], list[int]], tuple["Tensor", "Tensor"]]


def _score_function(model: PreTrainedModel, greedy_ids: bool) -> _Scores:
    """(ids, rows, columns, targets) -> float64 log-probabilities and greedy ids of the scored positions, on the CPU.

    Without `greedy_ids` a position whose greedy token is not the target may say -1.
    """
    try:
        check_seam(model)
        seam = True
    except UserError:  # scaled or capped logits: the whole model must say them
        seam = False

    def scores(ids: Tensor, rows: list[int], columns: list[int], targets: list[int]) -> tuple[Tensor, Tensor]:
        states: Tensor = last_hidden(model, ids, None) if seam else model(input_ids=ids, use_cache=False).logits
        chosen = states[rows, columns]
        wanted = torch.tensor(targets, device=ids.device)
        values, best = [], []
        for begin in range(0, len(rows), SCORED_CHUNK):
            part = chosen[begin : begin + SCORED_CHUNK]
            logits = (torch.nn.functional.linear(part, *output_head(model)) if seam else part).float()
            expected = wanted[begin : begin + SCORED_CHUNK, None]
            said, top = logits.gather(1, expected), logits.amax(dim=1, keepdim=True)
            # A search for the best token takes as long as all the rest: only where the target ties with it.
            asked = torch.ones_like(said[:, 0], dtype=torch.bool) if greedy_ids else (said == top)[:, 0]
            ids_here = torch.full_like(expected[:, 0], -1)
            ids_here[asked] = logits[asked].argmax(dim=1)
            best.append(ids_here.cpu())
            # In place, the logits' last use: half the time of logsumexp.
            normalised = (said - top) - logits.sub_(top).exp_().sum(dim=1, keepdim=True).log_()
            values.append(normalised[:, 0].double().cpu())
        return torch.cat(values), torch.cat(best)

    return scores
