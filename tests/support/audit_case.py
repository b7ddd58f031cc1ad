"""Rows and models for the attacks: set C of ../shared/oracles as an audit is given them, and a model without any."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from icu_ray.audit.rows import AuditRow
from icu_ray.models.loading import LoadedModel, load_model
from tests.support.measures_case import Oracle
from tests.support.tiny_models import VOCABULARY, save_byte_tokenizer, tiny_model_of


def oracle_rows(oracle: Oracle, name: str) -> tuple[AuditRow, ...]:
    """The questions of a set with their chat prompts; those of the forget set have a paraphrase each."""
    found = []
    for place, each in enumerate(oracle.rows["sets"][name]):
        encoded = each["answer_enc"]
        paraphrases = (each["paraphrased_question"],) if "paraphrased_question" in each else ()
        found.append(
            AuditRow(
                f"{name}-{place}",
                tuple(encoded["ids"]),
                encoded["n_masked"],
                each["prompt"],
                each["answer"],
                paraphrases,
            )
        )
    return tuple(found)


def oracle_folder(oracle: Oracle, name: str, place: Path) -> Path:
    """A model of set C with its tokenizer in one folder below `place`."""
    folder = place / name
    shutil.copytree(oracle.folder / "models" / name, folder)
    for file in (oracle.folder / "tokenizer").iterdir():
        shutil.copy(file, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def oracle_loaded(oracle: Oracle, name: str, place: Path) -> LoadedModel:
    return load_model(str(oracle_folder(oracle, name, place)))


LETTERS = 300
"""Tokens of the tokenizer below: all bytes, and some pairs."""


def small_tokenizer(place: Path) -> PreTrainedTokenizerFast:
    """Of bytes, with an end of text and no chat template."""
    place.mkdir(parents=True, exist_ok=True)
    save_byte_tokenizer(place, LETTERS)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(place / "tokenizer.json"), eos_token="<|end|>", pad_token="<|end|>"
    )


def small_loaded(place: Path, family: str = "llama", seed: int = 0) -> LoadedModel:
    """A random model of bytes."""
    tokenizer = small_tokenizer(place)
    model = tiny_model_of(family, seed)
    torch.manual_seed(seed)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert len(tokenizer) > VOCABULARY
    model.config.max_position_embeddings = 32
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return load_model(str(place))


def text_rows(loaded: LoadedModel, texts: list[str], share: float = 0.5) -> tuple[AuditRow, ...]:
    """Texts as rows whose first tokens are the prompt."""
    found = []
    for place, text in enumerate(texts):
        ids = tuple(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        given = max(1, int(len(ids) * share))
        prompt, secret = (loaded.tokenizer.decode(list(part)) for part in (ids[:given], ids[given:]))
        found.append(AuditRow(f"text-{place}", ids, given, prompt, secret.strip()))
    return tuple(found)
