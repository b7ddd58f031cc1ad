"""Dialogue tasks: what the model says next, and how many words it shares with what was said (spec section 3).

Prompt: the turns but the last, "User 1: ..." and "User 2: ..." in turn, and the cue of who speaks next. The model adds
at most 32 tokens greedily, left padded and with a mask; the text up to "\\nUser " is compared with the last turn by
token F1. Prompts of one batch are about equally long and padded to the longest, not to 512.

A prompt of more than 512 tokens loses its end in the authors' code, and with it the cue (25 of 516 dialogues of Wizard
of Internet): `keep="start"`. The default keeps its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.evaluation.rows.read_mirror import read_dialogues
from icu_ray.evaluation.task import DocumentScore, Scores, Task, TaskSource
from icu_ray.evaluation.texts import normalize_turn, token_f1
from icu_ray.storage.store import JsonValue, file_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_TOKENS, NEW_TOKENS = 512, 32
CUT = "\nUser "
BATCH_TOKENS = 16384
"""Tokens of a batch of prompts and what is added to them, padding included."""
_VERSION = 1

Keep = Literal["end", "start"]


def dialogue_task(name: str, path: Path, limit: int | None, keep: Keep) -> TaskSource:
    """One of the authors' dialogue files; its metric is dialogue/<name>_f1."""
    identity: dict[str, JsonValue] = {"dialogue": name, "version": _VERSION, "keep": keep, "limit": limit}
    return TaskSource(
        name, {**identity, "rows": file_hash(path)}, lambda: task_of(name, read_dialogues(path)[:limit], keep)
    )


def task_of(name: str, dialogues: Sequence[Sequence[str]], keep: Keep) -> Task:
    """The task of dialogues given as turns."""
    targets = [normalize_turn(turns[-1]) for turns in dialogues]
    requests = tuple(Request(number, prompt_of(turns[:-1])) for number, turns in enumerate(dialogues))
    measure = Measure("generation", "separate", PROMPT_TOKENS, keep=keep, max_new_tokens=NEW_TOKENS)

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        rows = []
        for request, answer in zip(requests, answers, strict=True):
            said, target = answer.text.split(CUT)[0], targets[request.document]
            rows.append(DocumentScore(request.document, target, said, metrics={"f1": token_f1(said, target)}))
        return Scores({f"dialogue/{name}_f1": sum(row.metrics["f1"] for row in rows) / len(rows)}, tuple(rows))

    return Task(name, len(requests), measure, lambda tokenizer: requests, score)


def prompt_of(turns: Sequence[str]) -> str:
    """The turns so far, each on its line with its speaker, and the next speaker's cue."""
    lines = [f"User {1 + at % 2}: {normalize_turn(turn)}" for at, turn in enumerate(turns)]
    return "\n".join([*lines, f"User {1 + len(turns) % 2}:"])


def answer_generations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    measure: Measure,
    positions: int,
) -> list[Answer]:
    """Greedy continuations, one a request, without special tokens; `positions`: what the model can read at one time.

    Where the model's scores are NaN, so are log-likelihoods, which are 0 else.
    """
    import numpy as np

    from icu_ray.data.specials import specials_of
    from icu_ray.metrics.generation import decode_candidates, generate_candidates

    assert measure.max_length is not None
    specials = specials_of(tokenizer)
    longest = max(1, min(measure.max_length, positions - measure.max_new_tokens))
    encoded = tokenizer([request.context for request in requests], verbose=False)["input_ids"]
    prompts: list[list[int]] = [ids[-longest:] if measure.keep == "end" else ids[:longest] for ids in encoded]
    order = sorted(range(len(prompts)), key=lambda at: (-len(prompts[at]), at))
    answers: list[Answer | None] = [None] * len(prompts)
    begin, broken = 0, [0.0]
    while begin < len(order):
        width = len(prompts[order[begin]])
        batch = order[begin : begin + max(1, BATCH_TOKENS // (width + measure.max_new_tokens))]
        ids = np.full((len(batch), width), specials.pad_id, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=bool)
        for row, at in enumerate(batch):
            ids[row, width - len(prompts[at]) :] = prompts[at]
            mask[row, width - len(prompts[at]) :] = True
        said = generate_candidates(
            model,
            ids,
            mask,
            max_new_tokens=measure.max_new_tokens,
            pad_id=specials.pad_id,
            eos_id=specials.eos_id,
            beams=1,
            batch_size=len(batch),
            on_nan=lambda: broken.append(math.nan),
        )
        for at, text in zip(batch, decode_candidates(tokenizer, said, strip_special=True), strict=True):
            answers[at] = Answer(sum(broken), measure.max_new_tokens, text=text)
        begin += len(batch)
    return [each for each in answers if each is not None]
