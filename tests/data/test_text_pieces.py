"""Long texts in pieces: nothing is lost, pieces have the length asked for, and files of them are data.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.cli.main import main
from icu_ray.config.file import resolve_config
from icu_ray.data.sources import load_corpus
from icu_ray.data.text_pieces import text_pieces
from icu_ray.errors import UserError
from tests.support.benchmark_case import write_lines
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

MADE = tokenizer()
# w1 is the end of text, as which w10 would begin.
WORDS = [f"w{number}" for number in (*range(2, 10), *range(20, 40))]


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1), min_size=1, max_size=5), st.integers(1, 20))
def test_nothing_is_lost_and_pieces_are_full(texts: list[list[str]], tokens: int) -> None:
    joined = [" ".join(words) for words in texts]
    words = [word for each in texts for word in each]
    pieces = text_pieces(joined, MADE, tokens)
    assert " ".join(pieces).split() == words
    assert all(len(piece.split()) == tokens for piece in pieces[:-1]) and 0 < len(pieces[-1].split()) <= tokens
    theirs = text_pieces(joined, MADE, tokens, "open_unlearning")
    assert len(theirs) == len(words) // tokens + 1
    assert theirs == pieces + [""] * (len(words) % tokens == 0)


def test_files_of_pieces_are_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, model = tmp_path / "news" / "raw", tmp_path / "model"
    MADE.save_pretrained(model)
    tiny_model("gpt_neo").config.save_pretrained(model)
    for name, first in (("forget", 0), ("retain1", 10)):
        words = WORDS[first : first + 10]
        write_lines(
            raw / f"{name}.jsonl", [{"text": " ".join(words[:7])}, {"text": " ".join(words[7:])}, {"text": " "}]
        )
    data = {"source": "muse", "split": "news", "folder": str(tmp_path), "pieces": 4}
    tree = {"name": "t", "models": [{"name": "m", "source": "org/model"}], "data": data}
    with pytest.raises(UserError, match=r"it lacks news/raw/forget-4\.jsonl, .*'icu-ray data pieces' cuts them"):
        load_corpus(resolve_config(tree, "t"))
    for name in ("forget", "retain1"):
        typed = ["data", "pieces", str(raw / f"{name}.jsonl"), "--tokenizer", str(model), "--tokens", "4"]
        assert main([*typed, "--out", str(raw / f"{name}-4.jsonl")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{raw}/forget-4.jsonl: 3 pieces of 4 tokens, of 2 texts"
    corpus = load_corpus(resolve_config(tree, "t"))
    assert corpus.to_forget(0).texts == ("w2 w3 w4 w5", "w6 w7 w8 w9", "w20 w21")
    assert len(corpus.pools[0]) == 3
    with pytest.raises(UserError, match=r"pieces=4 are files that 'icu-ray data pieces' writes; give 'folder'"):
        resolve_config({**tree, "data": {"source": "muse", "split": "news", "pieces": 4}}, "t")
    # RMU leaves short texts out.
    out = tmp_path / "long.jsonl"
    typed = ["data", "pieces", str(raw / "forget.jsonl"), "--tokenizer", str(model), "--out", str(out)]
    assert main([*typed, "--min-characters", "12"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"text": "w2 w3 w4 w5 w6 w7 w8"}]
    assert main([*typed, "--min-characters", "99"]) == 2
    assert "column 'text' holds no text of at least 99 characters" in capsys.readouterr().err
    assert main([*typed[:-1], str(tmp_path / "long.txt")]) == 2
    assert "expected a file ending in .jsonl" in capsys.readouterr().err
