"""A file of its own that a model is fine-tuned on: what is read, what is refused before anything starts.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config import SweepConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.sources import load_corpus
from icu_ray.data.training_texts import check_training_texts, training_texts
from icu_ray.errors import UserError
from icu_ray.models.fingerprints import model_fingerprint

FORGET, POOL, HELDOUT = ["f 0", "f 1"], ["p 0", "p 1", "p 2"], ["h 0"]


def lines(path: Path, texts: list[str], **more: Any) -> str:
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return str(path)


def config(folder: Path, learnt: list[str] | None, **data: Any) -> SweepConfig:
    parts = {"forget": FORGET, "pool": POOL, "heldout": HELDOUT}
    files = {part: lines(folder / f"{part}.jsonl", texts) for part, texts in parts.items()}
    file = None if learnt is None else lines(folder / "learnt.jsonl", learnt)
    models = [{"name": "m", "source": "org/model", "train": {"data": file}}]
    return resolve_config({"name": "t", "models": models, "data": {"source": "records", **files, **data}}, "test")


def test_a_model_learns_its_own_file_or_the_sweeps_texts(tmp_path: Path) -> None:
    own = config(tmp_path, [*FORGET, "other"])
    corpus = load_corpus(own)
    assert training_texts(own, own.models[0], corpus.rows).texts == (*FORGET, "other")
    check_training_texts(own, corpus)
    without = config(tmp_path, None)
    assert training_texts(without, without.models[0], corpus.rows) is corpus.rows


@pytest.mark.parametrize(
    ("learnt", "said"),
    [
        (
            ["f 0", "p 0"],
            r"models\.0\.train\.data: .*learnt\.jsonl: lacks 1 of the 2 texts to forget of sample 0",
        ),
        ([*FORGET, *HELDOUT], r"learnt\.jsonl: holds 1 held-out texts, the first is 'heldout-1'; they are to show"),
        ([], "holds no rows"),
        (None, "no such file"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path, learnt: list[str] | None, said: str) -> None:
    asked = config(tmp_path, learnt if learnt is not None else FORGET)
    if learnt is None:
        (tmp_path / "learnt.jsonl").unlink()
    with pytest.raises(UserError, match=said):
        check_training_texts(asked, load_corpus(asked))


def test_a_model_is_known_by_what_its_file_holds_not_by_its_name(tmp_path: Path) -> None:
    one = model_fingerprint(config(tmp_path, [*FORGET, "other"]).models[0])
    (tmp_path / "b").mkdir()
    assert model_fingerprint(config(tmp_path / "b", [*FORGET, "other"]).models[0]) == one
    assert model_fingerprint(config(tmp_path / "b", [*FORGET, "another"]).models[0]) != one
