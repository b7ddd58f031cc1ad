"""What methods say that they take, beside what they really read and score.

Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from icu_ray import methods
from icu_ray.config import LossConfig, StepConfig
from icu_ray.methods import vocabulary_loss
from icu_ray.methods.base import Method
from icu_ray.methods.batch import Batch
from icu_ray.methods.cost import Cost
from icu_ray.methods.module import UnlearningModule
from icu_ray.models.reference_batch import ReferenceBatch
from icu_ray.training.step_rules import PartGradients, rule_of
from tests.methods.test_field_methods import ACTIVE, FIELD, SPAN, Case

OTHERS: dict[str, dict[str, Any]] = {"icu": {}, "kumpr": {}, "kl": {}, "dpo": {}, "po": {}}
TOLD: dict[str, dict[str, Any]] = {**{name: dict(own) for name, own in FIELD.items()}, **OTHERS}
PAIRED = {"target": 1, "pair": 1}


def made(name: str, step: dict[str, Any] | None = None) -> Method:
    rule = None if step is None else StepConfig.model_validate(step)
    return methods.get(name, settings=TOLD[name], loss=SPAN, step=rule)


def test_what_methods_take() -> None:
    costs = {name: made(name).cost for name in TOLD}
    assert costs["kumpr"] == Cost() == Cost({"target": 1})
    assert costs["graddiff"] == costs["wga"] == costs["po"] == Cost(PAIRED)
    original = frozenset({"pair"})
    assert costs["icu"] == costs["kl"] == Cost(PAIRED, original=original, beside=1)
    assert costs["npo"] == Cost(PAIRED, rescored=frozenset({"target"}), matrices=2)
    both = frozenset({"target", "alternate"})
    answers = {"target": 1, "alternate": 1, "pair": 1}
    assert costs["idkdpo"] == costs["altpo"] == Cost(answers, rescored=both, matrices=3)
    # Whoever learns other answers does not read the true ones.
    assert costs["idknll"].passes == {"alternate": 1, "pair": 1}
    assert costs["dpo"].rescored == {"target", "pair"}
    assert costs["rmu"] == Cost(PAIRED, states=original)
    assert costs["undial"].original == {"target"} and costs["undial"].passes == {"target": 1}
    assert costs["ceu"].beside == 1 and not costs["ceu"].live
    assert costs["pdu"].after_epoch == set()
    assert methods.get("pdu", settings={"dual_update": "epoch"}).cost.after_epoch == {"pair"}
    assert methods.get("npo").cost == Cost(rescored=frozenset({"target"}))


@pytest.mark.parametrize(
    ("name", "step", "passes", "copies"),
    [
        ("graddiff", {"rule": "sam"}, {"target": 2, "pair": 1}, 4),
        ("idkdpo", {"rule": "sam"}, {"target": 2, "alternate": 2, "pair": 1}, 4),
        ("graddiff", {"rule": "gru"}, {"target": 1, "pair": 1}, 3),
        ("kumpr", {"rule": "gru", "average": 0.8}, {"target": 1, "pair": 1}, 4),
        ("kumpr", {"rule": "sam"}, {"target": 2}, 4),
    ],
)
def test_a_step_rule_goes_through_rows_as_often_as_it_says(
    name: str, step: dict[str, Any], passes: dict[str, int], copies: int
) -> None:
    method, case = made(name, step), Case("gpt_neo")
    assert method.cost.passes == passes and method.cost.copies == copies
    assert method.step is not None
    rule, parts = rule_of(method.step), PartGradients(UnlearningModule(case.model, method), [case.whole(method)], 1)
    rows = forwarded(case, lambda: rule.gradient(parts))
    assert rows() == int(ACTIVE.sum()) * sum(passes.values())


def forwarded(case: Case, run: Callable[[], Any]) -> Callable[[], int]:
    """Counts the rows that the model reads in a run."""

    def count() -> int:
        found: list[int] = []
        body = case.model.base_model
        hook = body.register_forward_hook(lambda module, args, output: found.append(len(output.last_hidden_state)))
        try:
            run()
        finally:
            hook.remove()
        return sum(found)

    return count


@pytest.mark.parametrize("name", list(TOLD))
def test_what_is_read_and_scored_again_is_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, case = made(name), Case("gpt_neo")
    batch, again = case.whole(method), [0]
    linear = functional.linear

    def counted(hidden: Any, weight: Any, bias: Any = None) -> Any:
        again[0] += len(hidden)
        return linear(hidden, weight, bias)

    total: list[torch.Tensor] = []
    rows = forwarded(case, lambda: total.append(method.loss(case.model, batch).total))()
    assert rows == int(ACTIVE.sum()) * sum(method.cost.passes.values())
    monkeypatch.setattr(vocabulary_loss.functional, "linear", counted)
    total[0].backward()
    labels = {"target": batch.target_labels, "alternate": batch.alternate_labels, "pair": batch.pair_labels}
    assert all(each is not None for each in labels.values())
    live = torch.from_numpy(np.flatnonzero(ACTIVE))
    scored = {side: int((each[live][:, 1:] >= 0).sum()) for side, each in labels.items() if each is not None}
    # Going back, losses of whole rows alone compute scores.
    assert again[0] == sum(scored[side] for side in method.cost.rescored)


def peak_bytes(method: Method, model: LlamaForCausalLM, batch: Batch) -> float:
    """The most that is allocated at one time in a loss and its backward pass, above what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        method.loss(model, batch).total.backward()  # type: ignore[arg-type]
    events = [each for each in told.profiler.kineto_results.events() if each.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0.0
    for each in sorted(events, key=lambda event: event.start_ns()):
        now += each.nbytes()
        most = max(most, now)
    return most


def test_gradients_of_the_output_matrix_are_as_many_as_it_says() -> None:
    """With a large vocabulary they outweigh all else; a chunk of 4 tokens keeps the scores small."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20_000, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, pad_token_id=1))
    head = 4 * 20_000 * 64
    # Only the output matrix gets a gradient: the embeddings' own would be as large.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "lm_head.weight")
    ids, ones = torch.arange(24).reshape(2, 12) % 20 + 2, torch.ones(2, 12, dtype=torch.int64)
    weights, row = torch.full((2, 12), 1 / 24), torch.full((2,), 0.5)
    nll = torch.ones(2, 12)
    kept = ReferenceBatch(target_nll=nll, pair_nll=nll, alternate_nll=nll)
    batch = Batch(ids, ones, ids, weights, row, ids + 1, ones, ids, weights, weights, kept)
    sides = {f"alternate_{part}": getattr(batch, f"target_{part}") for part in ("ids", "mask", "labels", "weights")}
    batch = Batch(**{**vars(batch), **sides})
    for name, settings in (("graddiff", {}), ("npo", {}), ("npo", {"retain": "nll"}), ("dpo", {}), ("idkdpo", {})):
        method = methods.get(name, settings=settings, loss=LossConfig(chunk=4))
        model.zero_grad(set_to_none=True)
        found = peak_bytes(method, model, batch) / head
        assert found == pytest.approx(method.cost.matrices, abs=0.4), name
