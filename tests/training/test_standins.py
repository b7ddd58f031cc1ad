"""Stand-ins of both families: built, loaded as any model, and the same again.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icu_ray.config import QUESTION_ANSWER, Columns, StandinConfig, TokensConfig
from icu_ray.data.examples import Examples
from icu_ray.data.prompts import joined
from icu_ray.data.synthetic import make_records
from icu_ray.data.tokens import tokenise
from icu_ray.errors import UserError
from icu_ray.metrics.probe import probe
from icu_ray.models.loading import load_model
from icu_ray.training.standins import StandinProgress, build_standin

COLUMNS = Columns(48, 16, 32)
NAMES = ("Ada", "Bob", "Cleo", "Dan")
EASY = {"vocabulary": 600, "target_repeats": 8, "min_memorization": 0.6, "min_extraction": 0.0}


@pytest.mark.parametrize(("family", "architecture"), [("gpt_neo", "GPTNeoForCausalLM"), ("llama", "LlamaForCausalLM")])
def test_a_family_is_built_and_built_the_same_again(family: str, architecture: str, tmp_path: Path) -> None:
    texts = make_records(0, 0, 24, COLUMNS.length)
    config = StandinConfig.model_validate({"family": family, **EASY})
    for name in ("one", "two"):
        told: list[StandinProgress] = []
        build_standin(config, texts, {0: texts[:4]}, COLUMNS, tmp_path / name, told.append)
        assert told[-1].ma >= 0.6 and told[-1].epoch == len(told)
    one, two = (load_model(str(tmp_path / name)).model for name in ("one", "two"))
    assert type(one).__name__ == architecture
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_answers_are_memorised_with_their_end(tmp_path: Path) -> None:
    """Of questions with short answers, of which EL cannot be measured: MA of the answers and their ends is enough."""
    pairs = [joined(f"Who lives in house number {n}?", name, QUESTION_ANSWER) for n, name in enumerate(NAMES)]
    boundaries = dict(pairs)
    texts, columns = tuple(boundaries), Columns(48, 16, 32)
    config = StandinConfig.model_validate({**EASY, "min_memorization": 0.9, "min_extraction": 0.5})
    build_standin(config, texts, {0: texts}, columns, tmp_path / "model", lambda progress: None, "cut", boundaries)
    loaded = load_model(str(tmp_path / "model"))
    examples = Examples(texts, texts, boundaries=tuple(boundaries.values()))
    rows = tokenise(examples, loaded.tokenizer, columns, TokensConfig(), own_columns=True)
    with torch.inference_mode():
        ids = torch.from_numpy(rows.input_ids[0][rows.mask[0]])[None]
        ends = loaded.model(input_ids=ids[:, :-1]).logits[0, -1].argmax()
    assert int(ends) == loaded.tokenizer.eos_token_id
    found = probe(loaded.model, rows, ngram=10)
    assert found.short.all() and found.ma.mean() >= 0.9


@pytest.mark.slow
def test_all_windows_of_a_long_text_are_memorised(tmp_path: Path) -> None:
    texts = make_records(0, 0, 4, COLUMNS.length)
    long = tuple(texts[:2])
    config = StandinConfig.model_validate(EASY)
    build_standin(config, texts, {0: long}, COLUMNS, tmp_path / "model", lambda progress: None, "windows")
    loaded = load_model(str(tmp_path / "model"))
    examples = Examples(("0", "1"), long)
    rows = tokenise(examples, loaded.tokenizer, COLUMNS, TokensConfig(), own_columns=True, long="windows")
    assert rows.windows[0] > 1
    assert probe(loaded.model, rows, ngram=5).ma.mean() >= 0.6  # cut after the first window, it is far from that


def test_what_is_not_memorised_is_refused_with_what_was_reached(tmp_path: Path) -> None:
    texts = make_records(0, 0, 12, COLUMNS.length)
    config = StandinConfig.model_validate({**EASY, "max_epochs": 1, "min_memorization": 0.99})
    with pytest.raises(UserError, match=r"not memorised after standin\.max_epochs=1"):
        build_standin(config, texts, {0: texts[:4]}, COLUMNS, tmp_path / "model", lambda progress: None)
    assert not (tmp_path / "model").exists()
