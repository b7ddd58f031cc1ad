"""The GPT judge: every candidate rated 0 to 10, each answer paid for once and kept, never a guessed score.

Candidates with the same texts are asked about once. An answer without a valid score is asked for again, up to `reasks`
times; a row that still has none, or that the endpoint refuses, is left unjudged and says why. The mean is over the
judged rows, as in the paper.

    estimate = estimate_cost(candidates, config, read_answers(path))
    with AnswerStore(path) as store: judgement = judge_candidates(candidates, config, key, store)
    write_judgement(folder, judgement, config)           # judge.jsonl, summary.json
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, SecretStr, TypeAdapter, ValidationError

from icu_ray.config import JudgeConfig
from icu_ray.errors import UserError
from icu_ray.evaluation.ratings.candidates import Candidate
from icu_ray.evaluation.ratings.judge_answers import Answer, AnswerStore
from icu_ray.evaluation.ratings.judge_client import JudgeClient, NoAnswer, Refused, estimate_tokens
from icu_ray.evaluation.ratings.judge_prompt import NoScore, conversation, parse_score, prompt_version, read_prompt
from icu_ray.storage.files import join, read_bytes, write_atomic
from icu_ray.storage.results import to_json
from icu_ray.storage.store import content_hash

GIVE_UP_AFTER = 5
"""Rows in a row that get no answer at all: then the trouble is the endpoint's, and the run ends."""


@dataclass(frozen=True)
class Cost:
    """What requests took. usd: None where the config names no prices, or the endpoint counted no tokens."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None


@dataclass(frozen=True)
class Verdict:
    """One line of judge.jsonl. score: 0..10, or None and the reason. answers: all that were given, the last decides.

    fingerprint: of the texts that were judged. model: as the endpoint named itself.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    id: str
    cell: str
    sample_id: str
    fingerprint: str
    score: int | None
    reason: str | None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    answers: tuple[Answer, ...] = ()


@dataclass
class Judgement:
    """What a run came to. paid: this run alone; total: all answers that stand in it, whenever they were paid for.

    stopped: why the endpoint was asked no further, None when every row had its turn.
    """

    verdicts: tuple[Verdict, ...]
    paid: Cost
    total: Cost
    prompt: str
    stopped: UserError | None = None


def answer_key(config: JudgeConfig, prompt: str, candidate: Candidate, attempt: int) -> str:
    """Hash of all that decides an answer: endpoint, model, settings, instruction and messages."""
    # The version and the attempt stand for the system message.
    _, user = conversation(prompt, candidate, attempt)
    return content_hash(
        [config.base_url, config.model, config.temperature, prompt_version(prompt), attempt, user["content"]]
    )


def estimate_cost(candidates: Sequence[Candidate], config: JudgeConfig, known: Mapping[str, Answer]) -> Cost:
    """What the answers that are not `known` will take, if each is valid at once: 4 bytes a token, reply_tokens out."""
    prompt = read_prompt(config.prompt_file)
    rows = {answer_key(config, prompt, row, 0): row for row in candidates}
    new = [row for key, row in rows.items() if key not in known]
    tokens = sum(estimate_tokens(conversation(prompt, row, 0)) for row in new)
    return _cost(config, len(new), tokens, len(new) * config.reply_tokens)


def _cost(config: JudgeConfig, requests: int, input_tokens: int, output_tokens: int) -> Cost:
    price_in, price_out = config.usd_per_million_input, config.usd_per_million_output
    known = price_in is not None and price_out is not None
    usd = (input_tokens * (price_in or 0.0) + output_tokens * (price_out or 0.0)) / 1e6 if known else None
    return Cost(requests, input_tokens, output_tokens, usd)


def _plus(cost: Cost, answer: Answer, config: JudgeConfig) -> Cost:
    one = _cost(config, 1, answer.input_tokens or 0, answer.output_tokens or 0)
    counted = answer.input_tokens is not None and answer.output_tokens is not None
    usd = None if cost.usd is None or one.usd is None or not counted else cost.usd + one.usd
    tokens_in, tokens_out = cost.input_tokens + one.input_tokens, cost.output_tokens + one.output_tokens
    return Cost(cost.requests + 1, tokens_in, tokens_out, usd)


def judge_candidates(
    candidates: Sequence[Candidate],
    config: JudgeConfig,
    key: SecretStr | None,
    store: AnswerStore,
    progress: Callable[[int, int, Cost], None] = lambda done, total, paid: None,
    pause_s: float = 1.0,
) -> Judgement:
    """Judge all; what the store knows is not asked again. progress: rows done, all rows, paid so far.

    An endpoint that refuses the key, knows no such model or stops answering ends the run: `stopped` says why, and the
    rows judged by then have their scores. pause_s: seconds before the first retry, doubled each time.
    """
    prompt = read_prompt(config.prompt_file)
    run = _Run(config, prompt, store, progress, len(candidates), paid=_cost(config, 0, 0, 0))
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(answer_key(config, prompt, candidate, 0), []).append(candidate)
    stopped = asyncio.run(run.all(list(groups.values()), key, pause_s))
    verdicts = tuple(
        run.verdicts.get(row.id) or _verdict(row, None, "no answer: the run ended before", ()) for row in candidates
    )
    total = _cost(config, 0, 0, 0)
    for answer in {id(answer): answer for verdict in verdicts for answer in verdict.answers}.values():
        total = _plus(total, answer, config)
    return Judgement(verdicts, run.paid, total, prompt, stopped)


def _verdict(row: Candidate, score: int | None, reason: str | None, answers: Sequence[Answer]) -> Verdict:
    return Verdict(
        id=row.id,
        cell=row.cell,
        sample_id=row.sample_id,
        fingerprint=row.fingerprint,
        score=score,
        reason=reason,
        model=answers[-1].model if answers else None,
        input_tokens=sum(answer.input_tokens or 0 for answer in answers),
        output_tokens=sum(answer.output_tokens or 0 for answer in answers),
        answers=tuple(answers),
    )


@dataclass
class _Run:
    """The workers of one run and what they have found."""

    config: JudgeConfig
    prompt: str
    store: AnswerStore
    progress: Callable[[int, int, Cost], None]
    total: int
    paid: Cost
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    without_answer: int = 0

    async def all(self, groups: list[list[Candidate]], key: SecretStr | None, pause_s: float) -> UserError | None:
        """Every group of equal candidates; what ended the run early."""
        # First what is known: an endpoint that ends the run takes away no score that was there before.
        waiting = iter([group for group in groups if not await self._group(group, None)])
        stopped: UserError | None = None
        async with JudgeClient(self.config, key, pause_s) as client:

            async def work() -> None:
                for group in waiting:
                    await self._group(group, client)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.config.max_concurrency):
                        workers.create_task(work())
            except* UserError as errors:
                stopped = UserError(str(errors.exceptions[0]))
        return stopped

    async def _group(self, group: list[Candidate], client: JudgeClient | None) -> bool:
        """Settle equal candidates; False when that takes a client and there is none."""
        answers: list[Answer] = []
        try:
            outcome = await self._ask(group[0], client, answers)
            if outcome is None:
                return False
            score, reason = outcome
        except Refused as refused:
            score, reason = None, str(refused)
            self.without_answer = self.without_answer + 1 if isinstance(refused, NoAnswer) else 0
        for row in group:
            self.verdicts[row.id] = _verdict(row, score, reason, answers)
        self.progress(len(self.verdicts), self.total, self.paid)
        if self.without_answer >= GIVE_UP_AFTER:
            raise UserError(
                f"judge: {self.config.base_url} gave no answer for {self.without_answer} rows one after another "
                f"(last: {reason}); what was judged is kept, run again to continue"
            )
        return True

    async def _ask(
        self, row: Candidate, client: JudgeClient | None, answers: list[Answer]
    ) -> tuple[int | None, str | None] | None:
        """(score, None) or (None, why there is none); None when the store does not know and there is no client.

        `answers` receives the answers as they come.
        """
        reason = ""
        for attempt in range(self.config.reasks + 1):
            key = answer_key(self.config, self.prompt, row, attempt)
            answer = self.store.get(key)
            if answer is None:
                if client is None:
                    return None
                answer = await client.ask(conversation(self.prompt, row, attempt))
                self.store.put(key, answer)
                self.paid = _plus(self.paid, answer, self.config)
                self.without_answer = 0
            answers.append(answer)
            try:
                return read_score(answer), None
            except NoScore as error:
                reason = f"{error} (asked {attempt + 1} times)"
        return None, reason


def read_score(answer: Answer) -> int:
    """The score of an answer; NoScore too when it was cut, since '1' may be the beginning of '10'."""
    if answer.finish not in (None, "stop", "eos_token", "end_turn"):
        raise NoScore(f"the answer is not complete (finish_reason '{answer.finish}')")
    return parse_score(answer.text)


def write_judgement(folder: str, judgement: Judgement, config: JudgeConfig) -> dict[str, Any]:
    """judge.jsonl (one Verdict a line), prompt.txt and summary.json in `folder`; returns the summary."""
    summary = summarise(judgement, config)
    write_atomic(join(folder, "judge.jsonl"), b"".join(to_json(asdict(verdict)) for verdict in judgement.verdicts))
    write_atomic(join(folder, "prompt.txt"), (judgement.prompt + "\n").encode())
    write_atomic(join(folder, "summary.json"), to_json(summary, indent=2))
    return summary


def summarise(judgement: Judgement, config: JudgeConfig) -> dict[str, Any]:
    """Mean score and counts, of all rows and of each cell; unjudged rows with their reasons; tokens and cost."""
    cells: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        cells.setdefault(verdict.cell, []).append(verdict)
    return {
        **_mean(judgement.verdicts),
        "cells": [{"cell": cell, **_mean(rows)} for cell, rows in cells.items()],
        "unjudged_rows": [{"id": v.id, "reason": v.reason} for v in judgement.verdicts if v.score is None],
        "paid": asdict(judgement.paid),
        "total": asdict(judgement.total),
        "stopped": None if judgement.stopped is None else str(judgement.stopped),
        "prompt_version": prompt_version(judgement.prompt),
        "judge": config.model_dump(),
    }


def _mean(verdicts: Sequence[Verdict]) -> dict[str, float | int | None]:
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    return {"mean": mean, "n": len(scores), "unjudged": len(verdicts) - len(scores)}


_VERDICTS = TypeAdapter(Verdict)


def read_verdicts(path: str) -> dict[str, Verdict]:
    """The verdicts of a judge.jsonl by id; UserError where it is none."""
    data = read_bytes(path)
    if data is None:
        raise UserError(f"{path}: no such file; expected the judge.jsonl that icu-ray judge writes")
    verdicts: dict[str, Verdict] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            verdict = _VERDICTS.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path}, line {number}: is not a verdict of icu-ray judge ({where}: {first['msg']}); judge again"
            ) from error
        verdicts[verdict.id] = verdict
    return verdicts
