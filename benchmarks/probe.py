"""How much faster is the exact probe than the definition, one generate() per prefix?

    python benchmarks/probe.py [--json] [--quick | --mixed]

Models of 4 layers, width 128, vocabulary 512 (GPT-Neo with local attention, and Llama), 64 sequences of 200 tokens,
taught for fewer or more steps so that they stand at different memorisation; then one of 8 layers on 8 sequences of 400
tokens, and of 4 layers on 16 rows of prompt and completion, each of its own length (8 to 400 tokens) and with its own
boundary in its second half. MA and every sequence's EL must be equal. `limit` is the gain counted in forward tokens,
pads left out: for 200 tokens 29,850 / (200 + 820 (1 - MA')), MA' being MA on columns 150 to 190; `share` is what was
reached of it. Our time is the best of three (`forward` is the part that MA and the loss alone need). The definition
runs once, of more than 16 sequences of one length on the first 16: it takes batches of 8 one after the other, so its
time for all of them is reckoned from these.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from table import machine, print_table
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icu_ray.config import Columns
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.padding import left_pad
from icu_ray.metrics.probe import probe

VOCABULARY, NGRAM = 512, 10
PLAIN_ROWS = 16
"""Sequences of one length that the definition is run on at most: two of its batches."""


@dataclass(frozen=True)
class Shape:
    """A model family and its data; EL from prefixes of `start` tokens on."""

    family: str
    layers: int = 4
    length: int = 200
    start: int = 150
    count: int = 64
    mixed: bool = False
    """Rows of prompt and completion of 8 to `length` tokens."""


def model_of(shape: Shape) -> PreTrainedModel:
    torch.manual_seed(0)
    if shape.family == "gpt_neo":
        return GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=VOCABULARY,
                hidden_size=128,
                num_layers=shape.layers,
                num_heads=4,
                attention_types=[[["global", "local"], shape.layers // 2]],
                window_size=64,
                max_position_embeddings=shape.length,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=shape.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=shape.length,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def plain(model: PreTrainedModel, ids: np.ndarray, start: int, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The definitions, written down: MA by one generated token per prefix, EL by one generation per prefix."""
    count, length = ids.shape
    ma, el = np.zeros(count), np.zeros(count)
    for begin in range(0, count, batch):
        rows = torch.from_numpy(ids[begin : begin + batch])
        right = np.zeros(len(rows))
        for i in range(1, length):
            said = _generate(model, rows[:, :i], 1)
            right += (said[:, i] == rows[:, i].numpy()).astype(float)
        ma[begin : begin + batch] = right / (length - 1)
        totals = np.zeros(len(rows))
        for i in range(length - 1, start - 1, -1):
            said = _generate(model, rows[:, :i], length - i)
            for k, row in enumerate(rows.tolist()):
                label = _grams(row[i:])
                if label:
                    known = set(label)
                    totals[k] += sum(gram in known for gram in _grams(said[k, i:].tolist())) / len(label)
        el[begin : begin + batch] = totals / (length - start - (NGRAM - 1))
    return ma, el


def _generate(model: PreTrainedModel, prefix: torch.Tensor, new: int, mask: torch.Tensor | None = None) -> np.ndarray:
    with torch.inference_mode():
        prefix = prefix.to(model.device)
        mask = torch.ones_like(prefix) if mask is None else mask.to(model.device)
        said = model.generate(prefix, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return said.cpu().numpy()


def _grams(tokens: list[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]


def token_rows(ids: np.ndarray, start: int) -> TokenRows:
    mask = np.ones_like(ids, dtype=bool)
    columns = Columns(ids.shape[1], start - 50, start)
    names = tuple(map(str, range(len(ids))))
    prompt = slice(columns.prefix_start, start)
    return TokenRows(names, ids, mask, ids, ids[:, prompt], mask[:, prompt], ("",) * len(ids), columns, 0, 0)


def mixed_rows(count: int, length: int) -> TokenRows:
    """Prompts with completions of random tokens, padded on the left as data/tokens.py does."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(8, length + 1, size=count)
    ids = generator.integers(1, VOCABULARY, size=(count, length))
    offsets = length - lengths
    mask = np.arange(length) >= offsets[:, None]
    starts = offsets + (lengths * generator.uniform(0.5, 1.0, size=count)).astype(np.int64)
    ids[~mask] = 0
    labels = np.where(mask, ids, IGNORED_LABEL)
    prompt = np.zeros((count, 0), dtype=np.int64)
    names = tuple(map(str, range(count)))
    columns = Columns(length, length - 100, length - 50)
    known = {"starts": tuple(starts.tolist())}
    return TokenRows(names, ids, mask, labels, prompt, prompt > 0, ("",) * count, columns, 0, 0, **known)


def plain_mixed(model: PreTrainedModel, rows: TokenRows, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """`plain` of rows of prompt and completion: of like length in batches, prefixes padded on the left and masked."""
    texts = [ids[mask].tolist() for ids, mask in zip(rows.input_ids, rows.mask, strict=True)]
    answers = rows.columns.length - rows.suffix_starts
    right, totals = np.zeros(len(rows)), np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda row: len(texts[row]))
    for begin in range(0, len(rows), batch):
        group = order[begin : begin + batch]
        for new in range(1, max(answers[group]) + 1):
            members = [row for row in group if new <= answers[row]]
            prefixes = [texts[row][:-new] for row in members]
            ids, mask = left_pad(prefixes, max(map(len, prefixes)), 0)
            given = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
            for row, next_token in zip(members, _generate(model, given[0], 1, given[1])[:, -1], strict=True):
                right[row] += next_token == texts[row][-new]
            said = _generate(model, given[0], new, given[1])[:, ids.shape[1] :]
            for row, generated in zip(members, said.tolist(), strict=True):
                if label := _grams(texts[row][-new:]):
                    known = set(label)
                    totals[row] += sum(gram in known for gram in _grams(generated)) / len(label)
    prefixes_with_gram = answers - (NGRAM - 1)
    return right / answers, np.where(prefixes_with_gram > 0, totals / np.maximum(prefixes_with_gram, 1), np.nan)


def teach(model: PreTrainedModel, rows: TokenRows, until: float) -> None:
    """Train on the rows until MA reaches `until`."""
    # As the probe reads them, each from its first token on.
    offsets = rows.mask.argmax(axis=1)
    places = (np.arange(rows.columns.length) + offsets[:, None]) % rows.columns.length
    ids, mask = (torch.from_numpy(np.take_along_axis(x, places, axis=1)) for x in (rows.input_ids, rows.mask))
    labels = ids.where(mask, torch.tensor(IGNORED_LABEL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(2000):
        for begin in range(0, len(ids), 16):
            block = slice(begin, begin + 16)
            optimizer.zero_grad()
            out = model(input_ids=ids[block], labels=labels[block])
            out.loss.backward()
            optimizer.step()
            right = out.logits[:, :-1].argmax(-1) == labels[block, 1:]
            if float(right[mask[block, 1:]].float().mean()) >= until:
                model.eval()
                return
    raise RuntimeError(f"MA {until} was not reached")


def limit_of(model: PreTrainedModel, rows: TokenRows) -> float:
    """Forward tokens of the definition over those of the exact algorithm.

    Nothing that an untaught continuation says counts from the start of the last n-gram on; the few that go on, because
    what they say occurs in the truth, are left out here.
    """
    definition = ours = 0.0
    for row, mask, column in zip(rows.input_ids, rows.mask, rows.suffix_starts, strict=True):
        ids = torch.from_numpy(row[mask])
        length = len(ids)
        start = int(column) - (rows.columns.length - length)
        first = 1 if rows.starts is None else start
        definition += sum(range(first, length)) + (length - start) * (length - 1)
        ours += length
        if (last := length - NGRAM) >= start:
            with torch.inference_mode():
                said = model(input_ids=ids[None]).logits[0, :-1].argmax(-1)
            wrong = float((said[start - 1 : last] != ids[start : last + 1]).double().mean())
            ours += wrong * sum(last - t for t in range(start, last + 1))
    return definition / ours


def timed(run: Callable[[], Any], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def measure(shape: Shape, until: float) -> dict[str, Any]:
    model = model_of(shape).eval()
    if shape.mixed:
        rows = mixed_rows(shape.count, shape.length)
    else:
        ids = np.random.default_rng(0).integers(1, VOCABULARY, size=(shape.count, shape.length))
        rows = token_rows(ids, shape.start)
    if until > 0:
        teach(model, rows, until)
    fast = probe(model, rows)
    ours = timed(lambda: probe(model, rows), 3)
    forward = timed(lambda: probe(model, rows, should_decode=lambda ma: False), 3)
    started = time.perf_counter()
    ma, el = plain_mixed(model, rows) if shape.mixed else plain(model, ids[:PLAIN_ROWS], shape.start)
    other = (time.perf_counter() - started) * shape.count / len(ma)
    assert fast.el is not None
    fast_ma, fast_el = fast.ma[: len(ma)], fast.el[: len(ma)]
    if not (np.allclose(ma, fast_ma, atol=1e-12) and np.allclose(el, fast_el, atol=1e-12, equal_nan=True)):
        raise AssertionError(f"values differ: MA {ma - fast_ma}, EL {el - fast_el}")
    limit = limit_of(model, rows)
    size = f"8 to {shape.length}" if shape.mixed else str(shape.length)
    return {
        "case": f"{shape.family}, {shape.layers} layers, {shape.count} x {size}",
        "ma": fast.ma_mean,
        "el10": fast.el_mean,
        "forward": forward,
        "ours": ours,
        "other": other,
        "ratio": other / ours,
        "limit": limit,
        "share": other / ours / limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="16 sequences and two points of one family")
    parser.add_argument("--mixed", action="store_true", help="the rows of 8 to 400 tokens alone")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    mixed = [(Shape("gpt_neo", length=400, count=16, mixed=True), level) for level in (0.0, 0.5, 0.95)]
    if arguments.quick:
        cases = [(Shape("gpt_neo", count=16), level) for level in (0.0, 0.95)]
    elif arguments.mixed:
        cases = mixed
    else:
        cases = [(Shape(family), level) for family in ("gpt_neo", "llama") for level in (0.0, 0.5, 0.75, 0.95, 0.99)]
        cases += [(Shape("gpt_neo", layers=8, length=400, start=300, count=8), level) for level in (0.0, 0.95)]
        cases += mixed
    rows = []
    for shape, level in cases:
        rows.append(measure(shape, level))
        print(f"measured: {rows[-1]['case']}, MA {rows[-1]['ma']:.3f}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    forms = {"ma": ".3f", "el10": ".3f", "forward": ".2f", "ours": ".2f", "other": ".1f", "ratio": ".1f"}
    print_table(rows, {"case": "", **forms, "limit": ".1f", "share": ".2f"})


if __name__ == "__main__":
    main()
