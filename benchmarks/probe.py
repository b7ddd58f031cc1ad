"""How much faster is the exact probe than the definition, one generate() per prefix?

    python benchmarks/probe.py [--json] [--quick]

Models of 4 layers, width 128, vocabulary 512 (GPT-Neo with local attention, and Llama), 64 sequences of 200 tokens,
taught for fewer or more steps so that they stand at different memorisation. MA and every sequence's EL must be equal.
`limit` is the gain counted in forward tokens, 29,850 / (200 + 1,189 (1 - MA')), MA' being MA on columns 150 to 190.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from table import machine
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icu_ray.data.examples import Columns, TokenRows
from icu_ray.metrics.probe import probe

VOCABULARY, LENGTH, START, NGRAM = 512, 200, 150, 10


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt_neo":
        return GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=VOCABULARY,
                hidden_size=128,
                num_layers=4,
                num_heads=4,
                attention_types=[[["global", "local"], 2]],
                window_size=64,
                max_position_embeddings=LENGTH,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def plain(model: PreTrainedModel, ids: np.ndarray, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The definitions, written down: MA by one generated token per prefix, EL by one generation per prefix."""
    ma, el = np.zeros(len(ids)), np.zeros(len(ids))
    for begin in range(0, len(ids), batch):
        rows = torch.from_numpy(ids[begin : begin + batch])
        right = np.zeros(len(rows))
        for i in range(1, LENGTH):
            said = _generate(model, rows[:, :i], 1)
            right += (said[:, i] == rows[:, i].numpy()).astype(float)
        ma[begin : begin + batch] = right / (LENGTH - 1)
        totals = np.zeros(len(rows))
        for i in range(LENGTH - 1, START - 1, -1):
            said = _generate(model, rows[:, :i], LENGTH - i)
            for k, row in enumerate(rows.tolist()):
                label = _grams(row[i:])
                if label:
                    known = set(label)
                    totals[k] += sum(gram in known for gram in _grams(said[k, i:].tolist())) / len(label)
        el[begin : begin + batch] = totals / (LENGTH - START - (NGRAM - 1))
    return ma, el


def _generate(model: PreTrainedModel, prefix: torch.Tensor, new: int) -> np.ndarray:
    with torch.inference_mode():
        return model.generate(
            prefix, attention_mask=torch.ones_like(prefix), max_new_tokens=new, do_sample=False, pad_token_id=0
        ).numpy()


def _grams(tokens: list[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]


def token_rows(ids: np.ndarray) -> TokenRows:
    mask = np.ones_like(ids, dtype=bool)
    columns = Columns(LENGTH, 100, START)
    names = tuple(map(str, range(len(ids))))
    return TokenRows(names, ids, mask, ids, ids[:, 100:150], mask[:, 100:150], ("",) * len(ids), columns, 0, 0)


def teach(model: PreTrainedModel, ids: np.ndarray, until: float) -> None:
    """Train on the rows until MA reaches `until`."""
    tensor = torch.from_numpy(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(2000):
        for begin in range(0, len(ids), 16):
            rows = tensor[begin : begin + 16]
            optimizer.zero_grad()
            out = model(input_ids=rows, labels=rows)
            out.loss.backward()
            optimizer.step()
            if float((out.logits[:, :-1].argmax(-1) == rows[:, 1:]).float().mean()) >= until:
                model.eval()
                return
    raise RuntimeError(f"MA {until} was not reached")


def measure(family: str, until: float, count: int) -> dict[str, Any]:
    model = model_of(family).eval()
    ids = np.random.default_rng(0).integers(1, VOCABULARY, size=(count, LENGTH))
    if until > 0:
        teach(model, ids, until)
    rows = token_rows(ids)
    probe(model, rows.select(range(2)))  # first-call costs of libraries belong to neither side
    started = time.perf_counter()
    fast = probe(model, rows)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    ma, el = plain(model, ids)
    other = time.perf_counter() - started
    assert fast.el is not None
    if not (np.allclose(ma, fast.ma, atol=1e-12) and np.allclose(el, fast.el, atol=1e-12)):
        raise AssertionError(f"values differ: MA {ma - fast.ma}, EL {el - fast.el}")
    with torch.inference_mode():
        said = model(input_ids=torch.from_numpy(ids)).logits[:, :-1].argmax(-1).numpy()
    inner = float((said[:, START - 1 : 190] == ids[:, START:191]).mean())
    limit = 29850 / (200 + 1189 * (1 - inner))
    return {
        "case": f"{family} MA {fast.ma_mean:.3f}",
        "ma": fast.ma_mean,
        "el10": fast.el_mean,
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
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    levels = (0.0, 0.95) if arguments.quick else (0.0, 0.5, 0.75, 0.95, 0.99)
    families = ("gpt_neo",) if arguments.quick else ("gpt_neo", "llama")
    rows = [measure(f, level, 16 if arguments.quick else 64) for f in families for level in levels]
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    print(f"{'case':<20} {'EL10':>6} {'plain s':>9} {'ours s':>8} {'ratio':>7} {'limit':>7} {'share':>6}")
    for row in rows:
        print(
            f"{row['case']:<20} {row['el10']:>6.3f} {row['other']:>9.1f} {row['ours']:>8.2f} {row['ratio']:>7.1f} "
            f"{row['limit']:>7.1f} {row['share']:>6.2f}"
        )


if __name__ == "__main__":
    main()
