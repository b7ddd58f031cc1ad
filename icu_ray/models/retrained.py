"""A published gold standard: a model that was trained elsewhere without the texts to forget (models.N.retrained: ID).

    published = published_retrained(config.models[0])      # as a model of its own; None: there is none, or trained here
    check_same_kind(Kind(own, its_tokenizer), Kind(other, other_tokenizer), "org/a", "org/b")

Its numbers stand beside those of the model's trials row by row, so both must read the same tokens. Importing this
module imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.config import ModelConfig
from icu_ray.errors import UserError
from icu_ray.models.gguf_files import is_gguf
from icu_ray.models.hub import commit_of, looks_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = "Who wrote 'The Émigré'?  Basil Al-Kuwaiti, 1956: 12,345 copies.\n\nThe end"
"""What both tokenizers are asked to write: words, accents, figures, runs of spaces, an end of a paragraph."""


def published_retrained(model: ModelConfig) -> ModelConfig | None:
    """The retrained model that a model of the grid names, as one to measure: without training and without its code."""
    if not isinstance(model.retrained, str):
        return None
    source, revision = _parts(model.retrained)
    alone = {"train": None, "standin": None, "lora": None, "retrained": False, "trust_remote_code": False}
    return model.model_copy(update={"source": source, "revision": revision, **alone})


def pinned_name(named: str) -> str:
    """The same model, one of a hub by its commit where that is known."""
    source, revision = _parts(named)
    commit = commit_of(source, revision)
    return source if commit is None else f"{source}@{commit}"


def _parts(named: str) -> tuple[str, str | None]:
    """Source and revision of ID@REVISION; a folder may have an @ in its name."""
    source, _, revision = named.partition("@")
    if not revision or looks_local(source) or Path(named).exists():
        return named, None
    return source, revision


@dataclass(frozen=True)
class Kind:
    """What two models must share. model: its weights may be on the device "meta"."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def check_same_kind(target: Kind, retrained: Kind, source: str, named: str, chats: bool) -> None:
    """UserError, with what was found and what was expected, unless both are of one architecture and read the same
    tokens. source, named: how the target and the retrained model are called. chats: whether they read chats."""
    found = _model_difference(target.model, retrained.model) or _tokenizer_difference(
        target.tokenizer, retrained.tokenizer, chats
    )
    if found is not None:
        what, expected, other = found
        raise UserError(
            f"retrained model {named}: {what} {other}, expected {expected} as {source} has it: numbers of other "
            "models could not be compared row by row"
        )


def _model_difference(target: PreTrainedModel, retrained: PreTrainedModel) -> tuple[str, str, str] | None:
    """What differs, with the target's and the retrained model's."""
    own, other = (f"{type(each).__name__} ({each.config.model_type})" for each in (target, retrained))
    if own != other:
        return "is a", own, other
    shapes, others = (
        {name: list(tensor.shape) for name, tensor in each.named_parameters(remove_duplicate=False)}
        for each in (target, retrained)
    )
    for name in dict.fromkeys((*shapes, *others)):
        if shapes.get(name) != others.get(name):
            return f"has {name} of shape", str(shapes.get(name)), str(others.get(name))
    return None


def _tokenizer_difference(
    target: PreTrainedTokenizerBase, retrained: PreTrainedTokenizerBase, chats: bool
) -> tuple[str, str, str] | None:
    own, other = target.get_vocab(), retrained.get_vocab()
    if own != other:
        odd = min(own.items() ^ other.items(), key=lambda item: (item[1], item[0]))[0]
        said = [f"{len(each)} tokens ({odd!r}: {each.get(odd, 'none')})" for each in (own, other)]
        return "has a tokenizer of", said[0], said[1]
    if target.eos_token != retrained.eos_token:
        return "ends texts with", str(target.eos_token), str(retrained.eos_token)
    ids, others = target(_SAMPLE).input_ids, retrained(_SAMPLE).input_ids
    if ids != others:
        return f"writes {_SAMPLE[:20]!r} as the tokens", f"{ids[:12]}", f"{others[:12]}"
    if chats and target.chat_template != retrained.chat_template:
        said = ["none" if each is None else f"{each!s:.60}" for each in (target.chat_template, retrained.chat_template)]
        return "has the chat template", said[0], said[1]
    return None


def check_no_pickles(folder: Path, named: str) -> None:
    """Refuse a published model whose weights are here as pickles alone."""
    if is_gguf(named) or any(folder.glob("*.safetensors")):
        return
    if pickles := sorted(folder.glob("*.bin")):
        raise UserError(pickles_said(named, pickles[0].name))


def pickles_said(named: str, file: str) -> str:
    """What to say of weights that are pickles alone."""
    return f"retrained model {named}: its weights are pickles ({file}); expected safetensors"
