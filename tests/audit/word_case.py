"""Small models with a tokenizer of 67 words, and rows for them; the rows and models of ../shared/oracles/C."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from icu_ray.audit.rows import AuditRow
from icu_ray.models.loading import LoadedModel
from tests.support.measures_case import Oracle
from tests.support.tiny_models import PAD, VOCABULARY, tiny_model_of


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Token n is the word 'wn'; PAD is padding and end of text."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    del words[f"w{PAD}"]
    tokenizer = Tokenizer(models.WordLevel({**words, "<end>": PAD}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made: Any = PreTrainedTokenizerFast
    whole: PreTrainedTokenizerFast = made(tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>")
    return whole


def tiny_loaded(family: str = "llama", seed: int = 0) -> LoadedModel:
    return LoadedModel(tiny_model_of(family, seed), word_tokenizer(), Path())


def tiny_row(name: str, tokens: list[int], given: int) -> AuditRow:
    prompt, secret = (" ".join(f"w{token}" for token in part) for part in (tokens[:given], tokens[given:]))
    return AuditRow(name, tuple(tokens), given, prompt, secret)


def tiny_audit_rows(count: int, seed: int = 0, kind: str = "row") -> tuple[AuditRow, ...]:
    """Of 4 to 12 tokens each, at least 2 of them the secret."""
    generator = random.Random(seed)
    found = []
    for number in range(count):
        tokens = [generator.randrange(2, VOCABULARY) for _ in range(generator.randrange(4, 13))]
        found.append(tiny_row(f"{kind}{number}", tokens, generator.randrange(1, len(tokens) - 1)))
    return tuple(found)


def oracle_loaded(oracle: Oracle, model: str) -> LoadedModel:
    """A fresh copy, which an attack may change."""
    tokenizer = oracle.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(oracle._model(model), tokenizer, oracle.folder / "models" / model)


def oracle_rows(oracle: Oracle, name: str = "forget") -> tuple[AuditRow, ...]:
    found = []
    for number, each in enumerate(oracle.rows["sets"][name]):
        ids, given = tuple(each["answer_enc"]["ids"]), each["answer_enc"]["n_masked"]
        found.append(AuditRow(f"{name}{number}", ids, given, each["question"], each["answer"]))
    return tuple(found)


def state_of(model: PreTrainedModel) -> dict[str, bytes]:
    """Every parameter's bytes."""
    return {name: weight.detach().numpy().tobytes() for name, weight in model.named_parameters()}
