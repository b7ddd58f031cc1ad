"""What the card can do, and a GPT-Neo of the 125M's shape that is taught until it recites the forget sample.

Two phases: mostly the pool, so that it becomes a language model of its kind, then mostly the targets. Of a target also
the part from the prefix on is taught as a row of its own, since the filter asks for it so.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plain_step import neo
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from gpu_parts.setting import Setting, sweep_tree
from icu_ray.config import TokensConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Examples
from icu_ray.data.sources import load_corpus
from icu_ray.data.tokens import tokenise
from icu_ray.models.loading import load_tokenizer

SECONDS, POOL_SHARE = 45.0, 0.35
"""Longest training, and the part of it that is mostly about the pool."""
RECITES = 0.985


def measure_card(setting: Setting) -> dict[str, Any]:
    """Name, memory, and the rate of large matrix products."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    size, dtypes = (512, ("fp32",)) if setting.device == "cpu" else (8192, ("bf16", "fp32", "tf32"))
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        found |= {"card": card.name, "gib": card.total_memory / 2**30, "nccl": nccl}
    for name in dtypes:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in "ab")
        seconds = []
        for _ in range(12):
            _synchronise(setting)
            started = time.perf_counter()
            a @ b
            _synchronise(setting)
            seconds.append(time.perf_counter() - started)
        found[f"{name}_tflops"] = 2 * size**3 / sorted(seconds[2:])[5] / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def _synchronise(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def teach(setting: Setting) -> None:
    """The part: writes the card, the course of the training, the model and its forget sample."""
    found: dict[str, Any] = {"card": measure_card(setting)}
    setting.save("teach", found)
    record = Path(setting.work) / f"{setting.model.name}.json"
    if setting.model.is_dir() and setting.forget.is_file() and record.is_file():
        setting.save("teach", {**found, **json.loads(record.read_text(encoding="utf-8")), "kept": True})
        return
    tree = sweep_tree(setting, "teach", [{"name": "m", "source": str(setting.model), "gpus_per_worker": 0}])
    tree["data"].pop("pool_rows", None)
    config = resolve_config(tree, "benchmarks/gpu.py")
    corpus = load_corpus(config)
    tokenizer = _tokenizer(setting, corpus)
    columns = config.columns.value()

    def ids(examples: Examples) -> NDArray[np.int64]:
        own = examples.token_rows is None
        rows: NDArray[np.int64] = tokenise(examples, tokenizer, columns, TokensConfig(), own_columns=own).input_ids
        return rows

    targets, pool = (ids(rows) for rows in corpus.sample(0))
    assert corpus.heldout is not None
    trained = train(setting, targets, pool, ids(corpus.heldout), columns.prefix_start)
    model = trained.pop("model")
    half = setting.model.with_name(setting.model.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    model.eval().save_pretrained(half)
    tokenizer.save_pretrained(half)
    shutil.rmtree(setting.model, ignore_errors=True)
    half.rename(setting.model)
    np.save(setting.forget, targets)
    record.write_text(json.dumps(trained), encoding="utf-8")
    setting.save("teach", {**found, **trained, "kept": False})


def _tokenizer(setting: Setting, corpus: Corpus) -> PreTrainedTokenizerBase:
    if setting.data and not setting.tiny:
        return load_tokenizer(setting.tokenizer)
    from icu_ray.training.standins import train_tokenizer

    return train_tokenizer(corpus.rows.texts, setting.shape.vocabulary)


def train(
    setting: Setting,
    targets: NDArray[np.int64],
    pool: NDArray[np.int64],
    heldout: NDArray[np.int64],
    prefix_start: int,
) -> dict[str, Any]:
    """The model with its course; it ends when the targets are recited, or after SECONDS."""
    torch.manual_seed(0)
    device = setting.device
    model = neo(setting.shape, 0 if setting.shape.vocabulary < 50257 else 50256).to(device)
    torch.backends.cuda.matmul.allow_tf32 = True
    rate, warm = (1e-2, 10) if setting.tiny else (6e-4, 60)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    some, every, held = (torch.from_numpy(rows).to(device) for rows in (targets, pool, heldout))
    generator = torch.Generator().manual_seed(0)
    length = targets.shape[1]

    def amp() -> torch.autocast:
        return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")

    def summed(rows: torch.Tensor) -> torch.Tensor:
        with amp():
            logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="sum")

    def drawn(rows: torch.Tensor, count: int) -> torch.Tensor:
        return rows[torch.randint(len(rows), (count,), generator=generator).to(device)]

    @torch.no_grad()
    def measured() -> tuple[float, float]:
        right, nll = 0, torch.zeros((), device=device)
        for part in some.split(32):
            with amp():
                right += int((model(input_ids=part).logits[:, :-1].argmax(-1) == part[:, 1:]).sum())
        for part in held.split(16):
            nll += summed(part)
        return right / some[:, 1:].numel(), float(torch.exp(nll / held[:, 1:].numel()))

    history: list[dict[str, float]] = []
    started, step, tokens = time.time(), 0, 0
    longest = min(20.0 if setting.tiny else SECONDS, setting.left - 10)
    while True:
        about_pool = not setting.tiny and time.time() - started < POOL_SHARE * longest
        from_pool, from_targets = (2, 4) if setting.tiny else (64, 16) if about_pool else (24, 56)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warm)
        whole = torch.cat([drawn(every, from_pool), drawn(some, from_targets)])
        quoted = drawn(some, from_targets)[:, prefix_start:]
        counted = len(whole) * (length - 1) + len(quoted) * (quoted.shape[1] - 1)
        optimizer.zero_grad()
        ((summed(whole) + summed(quoted)) / counted).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, tokens = step + 1, tokens + whole.numel() + quoted.numel()
        if step % 25 == 0:
            ma, perplexity = measured()
            seconds = time.time() - started
            history.append({"step": step, "seconds": seconds, "ma": ma, "ppl_heldout": perplexity})
            if (ma >= RECITES and not about_pool) or seconds > longest:
                break
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {
        "model": model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": {"targets": len(targets), "pool": len(pool), "heldout": len(heldout), "tokens": length},
        "texts": "rows of the Pile" if setting.data and not setting.tiny else "made-up records",
        "seconds": history[-1]["seconds"],
        "tokens_per_second": tokens / history[-1]["seconds"],
        "peak_gib": peak,
        "history": history,
    }
