"""Asking the texts of requests again: what a new model still knows of them, against what they were accepted with.

    found = ask("ledger/versions/3/model", [Question("r1", file, form, measure), ...])
    found["r1"].ma, came_back(found["r1"], accepted)

The texts are read, laid out and measured as in the run that made them done, so that numbers of different versions can
be compared. A purged request's texts are gone: it cannot be asked. The model is loaded once, in this process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icu_ray.config import Columns, ElConfig, EvalConfig, SweepConfig, TokensConfig
from icu_ray.data.records import examples_of
from icu_ray.data.sources import counts_own_tokens
from icu_ray.requests.ledger_texts import records_of
from icu_ray.storage.results import finite
from icu_ray.storage.thresholds import Limit, Thresholds

ASKED_IN = "fp32"
"""Precision in which a version is asked, whatever its trial trained and measured in."""
_ROUNDING = 0.01
"""By how much a mean that is measured again may lie above its threshold, if it did so when it was accepted."""


@dataclass(frozen=True)
class Question:
    """The texts of one request. form: how they are written. measure: how they are laid out (`measure_told`)."""

    request: str
    file: Path
    form: Mapping[str, Any]
    measure: Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """What a model knows of a request's texts: means of MA, EL (fractions) and forget loss (nats), and of each text.

    None: could not be measured.
    """

    ma: float | None
    el: float | None
    forget_loss: float | None
    each: tuple[tuple[float | None, float | None, float | None], ...]


def measure_told(config: SweepConfig) -> dict[str, Any]:
    """What decides how a run measures, as plain values for the ledger."""
    return {
        "columns": asdict(config.columns.value()),
        "long": config.rows.long,
        "tokens": config.tokens.model_dump(mode="json"),
        "el": config.el.model_dump(mode="json"),
        "eval": config.eval.model_dump(mode="json"),
        "mask": config.generate.mask,
        "own_columns": counts_own_tokens(config, False),
    }


def ask(model: str, questions: Sequence[Question], trust_remote_code: bool = False) -> dict[str, Answers]:
    """Measure a model on the texts of each request."""
    if not questions:
        return {}
    import torch

    from icu_ray.data.tokens import tokenise
    from icu_ray.metrics.probe import probe
    from icu_ray.models.loading import load_model

    loaded = load_model(model, trust_remote_code=trust_remote_code)
    if torch.cuda.is_available():
        loaded.model.to("cuda")  # type: ignore[arg-type]
    found = {}
    for question in questions:
        told = question.measure
        el, evaluated = ElConfig(**told["el"]), EvalConfig(**told["eval"])
        rows = tokenise(
            examples_of(records_of(question.file, question.form, "the ledger's texts")),
            loaded.tokenizer,
            Columns(**told["columns"]),
            TokensConfig(**told["tokens"]),
            own_columns=told["own_columns"],
            long="windows" if told["long"] == "windows" else "cut",
        )
        result = probe(
            loaded.model,
            rows,
            el_start=el.start,
            ngram=el.ngram,
            denominator=el.denominator,
            batch_cut=el.batch_cut,
            use_mask=told["mask"],
            span=evaluated.span,
            chunk=evaluated.chunk,
        ).of_texts(rows)
        assert result.el is not None
        columns = (result.ma, result.el, result.forget_loss)
        each = tuple(tuple(finite(float(value)) for value in row) for row in zip(*columns, strict=True))
        ma, el_mean, loss = (finite(mean) for mean in (result.ma_mean, result.el_mean, result.forget_loss_mean))
        found[question.request] = Answers(ma, el_mean, loss, each)
    return found


def thresholds_of_entry(told: Mapping[str, Any]) -> Thresholds:
    """Thresholds as the ledger tells them (`asdict`); one that could not be measured is there as null."""
    ma, el = (
        Limit(**{**told[name], "value": math.nan if told[name]["value"] is None else told[name]["value"]})
        for name in ("ma", "el")
    )
    return Thresholds(ma, el, told["rule"], told["max_ppl_ratio"], told["ngram"], told["heldout_above"])


def still_forgotten(answers: Answers, limits: Thresholds, accepted: tuple[float | None, float | None]) -> bool | None:
    """Whether a request's means lie below the thresholds that it was accepted with; None: cannot be told.

    accepted: its means of MA and EL on the model that made it done, measured in the same way; where one was a rounding
    above its threshold (at most 0.01), as high will do.
    """
    return _raised(limits, accepted).judge(answers.ma, answers.el)


def came_back(
    answers: Answers, limits: Thresholds, before: Sequence[Sequence[float | None]], names: Sequence[str]
) -> list[str]:
    """Names of the texts that were below the thresholds when their request was accepted, and are not any more."""
    return [
        name
        for name, now, then in zip(names, answers.each, before, strict=True)
        if limits.judge(then[0], then[1]) is True and limits.judge(now[0], now[1]) is False
    ]


def _raised(limits: Thresholds, accepted: tuple[float | None, float | None]) -> Thresholds:
    raised = [
        Limit(
            max(limit.value, min(value, limit.value + _ROUNDING)),
            "heldout" if value >= limit.value else limit.source,
            limit.spread,
            limit.texts,
        )
        if value is not None and math.isfinite(limit.value)
        else limit
        for limit, value in zip((limits.ma, limits.el), accepted, strict=True)
    ]
    return Thresholds(raised[0], raised[1], limits.rule, limits.max_ppl_ratio, limits.ngram, limits.heldout_above)
