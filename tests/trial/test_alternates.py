"""Alternates by a loaded model, and what of them the store keeps; without Ray.

Needs: nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icu_ray.config import AnswersConfig
from icu_ray.data.alternates import draw_seed
from icu_ray.data.examples import Examples
from icu_ray.data.sources import load_corpus
from icu_ray.errors import UserError
from icu_ray.models.loading import LoadedModel, load_model
from icu_ray.trial.alternates import AlternatesRequest, Inventor, invent, make_alternates
from icu_ray.trial.artefacts import model_key
from tests.plan.test_field_methods import FORGET, planned
from tests.support.tiny_models import VOCABULARY, tiny_model
from tests.support.training_case import tokenizer

SETTINGS = AnswersConfig(alternates="generated", instruction="w5 w6", max_new_tokens=6, repeats=3)


def rows(*truths: str) -> Examples:
    texts = [f"w20 w21 {truth}" for truth in truths]
    return Examples([f"r{n}" for n in range(len(texts))], texts, boundaries=[7] * len(texts))


def saying(folder: Path, **words: float) -> LoadedModel:
    """A model that says these words with these probabilities, whatever stands before."""
    model = tiny_model("llama")
    bias = torch.full((VOCABULARY,), -torch.inf)
    for word, probability in words.items():
        bias[int(word[1:])] = torch.tensor(probability).log()
    model.lm_head = torch.nn.Linear(model.config.hidden_size, VOCABULARY)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = torch.nn.Parameter(bias.clamp(min=-1e4))
    return LoadedModel(model, tokenizer(), folder)


def test_what_is_invented_is_what_is_sampled_after_row_and_instruction(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    tiny_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    loaded, targets = load_model(str(folder)), rows("w30 w31", "w40")
    found = invent(loaded, targets, SETTINGS)
    for row, name in enumerate(targets.ids):
        prompt = tokenizer()(f"{targets.texts[row]} w5 w6")["input_ids"]
        for number, alternate in enumerate(found[row]):
            generator, ids = torch.Generator().manual_seed(draw_seed(42, name, number, 0)), list(prompt)
            for _ in range(6):
                with torch.inference_mode():
                    logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1]
                token = int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
                if token == 1:
                    break
                ids.append(token)
            assert alternate == " ".join(f"w{token}" for token in ids[len(prompt) :])
    assert [len(each) for each in found] == [3, 3]
    # One row by itself says the same.
    assert invent(loaded, targets.select([1]), SETTINGS) == [found[1]]


def test_the_truth_and_nothing_are_drawn_again(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"repeats": 40, "max_new_tokens": 1})
    # w1 ends a text: an empty one.
    loaded = saying(tmp_path, w30=0.4, w1=0.4, w31=0.1, w32=0.1)
    truth, other = invent(loaded, rows("w30", "w50"), settings)
    assert set(truth) == {"w31", "w32"}
    assert set(other) == {"w30", "w31", "w32"} and len(other) > len(truth)
    # Of 40 that fail four times with 0.8 each about 16 are left over.
    assert 12 < len(truth) < 36
    assert invent(saying(tmp_path, w30=1.0), rows("w30", "w50"), settings) == [(), ("w30",) * 40]


def request_of(tmp_path: Path, answers: dict[str, object]) -> AlternatesRequest:
    folder = tmp_path / "model"
    if not folder.exists():
        tiny_model("llama").save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    plan = planned(folder, [{"name": "altpo"}], answers={"alternates": "generated", "instruction": "w5", **answers})
    config = plan.config
    targets = load_corpus(config).to_forget(0)
    model = config.models[0]
    return AlternatesRequest(str(tmp_path / "store"), config, model, None, model_key(model, config, "c"), targets)


class Asked:
    """The actor's own class in this process; which rows were asked. dies: after so many."""

    def __init__(self, dies: int | None = None) -> None:
        self.rows: list[int] = []
        self.dies = dies

    def __call__(self, request: AlternatesRequest, rows: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
        import pyarrow as pa

        actor = Inventor(request.root, request.model, request.made, request.config.answers)
        for row in rows:
            if len(self.rows) == self.dies:
                raise KeyboardInterrupt
            item = {"rows": [row], "targets": pickle.dumps(request.targets.select([row]))}
            (answer,) = actor(pa.Table.from_pylist([item])).to_pylist()
            if answer["error"]:
                raise UserError(answer["error"])
            self.rows.append(row)
            yield row, tuple(answer["alternates"][0])


def test_each_target_is_asked_once_whatever_interrupts(tmp_path: Path) -> None:
    request, first, second = request_of(tmp_path, {"max_new_tokens": 5}), Asked(dies=2), Asked()
    with pytest.raises(KeyboardInterrupt):
        make_alternates(request, first)
    made, record = make_alternates(request, second)
    assert first.rows == [0, 1] and second.rows == [2, 3] and record.made
    assert [len(each) for each in made] == [5] * len(FORGET)
    again, record = make_alternates(request, Asked(dies=0))
    assert again == made and not record.made
    # Other rows beside it, and their order, change no target's own.
    fewer, record = make_alternates(replace(request, targets=request.targets.select([3, 1])), Asked(dies=0))
    assert fewer == (made[3], made[1]) and not record.made
    for change in ({"repeats": 2}, {"temperature": 2.0}, {"max_new_tokens": 4}, {"seed": 7}, {"instruction": "w9"}):
        other = Asked()
        found, _ = make_alternates(request_of(tmp_path, {"max_new_tokens": 5, **change}), other)
        assert other.rows == [0, 1, 2, 3] and found != made
    model = replace(request, model_key={**request.model_key, "other": 1})
    assert make_alternates(model, both := Asked())[0] == made and both.rows == [0, 1, 2, 3]


def test_a_target_without_any_is_refused_and_kept_so(tmp_path: Path) -> None:
    request = request_of(tmp_path, {"repeats": 2, "max_new_tokens": 1})
    loaded = saying(tmp_path, w1=1.0)

    def ask(request: AlternatesRequest, rows: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
        yield from zip(rows, invent(loaded, request.targets.select(rows), request.config.answers), strict=True)

    message = (
        r"model m invented none for target 'forget-1' and 3 more: .* 4 times for each of answers.repeats=2; change"
    )
    with pytest.raises(UserError, match=message):
        make_alternates(request, ask)
    with pytest.raises(UserError, match=message):
        make_alternates(request, Asked(dies=0))
