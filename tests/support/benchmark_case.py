"""The field's benchmarks made up: a folder laid out as TOFU's files are, and data sets of a hub with the published
numbers of rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icu_ray.config.file import resolve_config
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Table
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from tests.support.tiny_models import save_byte_tokenizer

PEOPLE = 200
"""Of RWKU."""


def row(table: Table, number: int) -> dict[str, Any]:
    """A row with the table's columns, by which table and number can be told; TOFU asks one question in two tables."""
    name = f"{table.configuration} {table.split}".strip()
    texts: dict[str, Any] = {column: f"{column} {number} of {name}?" for column in table.columns}
    if "question" in texts and name.startswith("forget"):
        texts["question"] = f"question {number} of {name.removesuffix('_perturbed')}?"
    if "perturbed_answer" in texts:
        texts["perturbed_answer"] = [f"{texts['answer']} wrong {wrong}" for wrong in range(3)]
    for column in {"subject", "target"} & set(texts):
        texts[column] = f"Person {number % PEOPLE + 1}"
    return texts


def write_lines(place: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tofu_folder(folder: Path, rows: int = 6, later: bool = False) -> Path:
    """All tables with so many rows each, or all that TOFU has; later: those that came to the hub later too."""
    for table in BENCHMARKS["tofu"].tables:
        if later or not table.later:
            write_lines(folder / table.file, [row(table, number) for number in range(min(rows, table.rows or rows))])
    return folder


def benchmark_folder(folder: Path, name: str, subject: str = "1_Person_1", rows: int = 6, kept: int = 6) -> Path:
    """All tables of a benchmark as its files lie, with so many rows each, or all it has; of RWKU those of one person.

    kept: rows of those that hold what is to be kept.
    """
    for table in BENCHMARKS[name].tables:
        if not table.later:
            file = folder / subject / table.file if table.by_subject else folder / table.file
            count = kept if "retain" in table.file else rows
            write_lines(file, [row(table, number) for number in range(min(count, table.rows or count))])
    return folder


def small_model(folder: Path, positions: int = 4096, template: str | None = None, layers: int = 2) -> Path:
    """A random Llama that reads so many tokens, with a tokenizer of about a token a letter, saved to a new folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir()
    save_byte_tokenizer(folder, 300)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_hidden_layers": layers, "hidden_size": 16, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def on_hub(folder: Path, name: str, unknown: int = 3) -> dict[str, Path]:
    """A benchmark's data sets as they lie on the hub, by id: cards that name the files, and as many rows as published.

    unknown: rows of tables of which that is not known. Tables that came later are left out.
    """
    found: dict[str, Path] = {}
    for hub in BENCHMARKS[name].hubs:
        place, entries = folder / hub.replace("/", "-"), dict[str, list[str]]()
        for table in BENCHMARKS[name].tables:
            if table.hub == hub and not table.later:
                split = table.split or "train"
                file = f"{table.configuration}/{split}.json"
                entries.setdefault(table.configuration, []).append(f"  - split: {split}\n    path: {file}")
                rows = unknown if table.rows is None else table.rows
                write_lines(place / file, [row(table, number) for number in range(rows)])
        parts = [f"- config_name: {name}\n  data_files:\n" + "\n".join(files) for name, files in entries.items()]
        (place / "README.md").write_text("\n".join(["---", "configs:", *parts, "---", "# Made up"]))
        found[hub] = place
    return found


def with_hub(cache: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """python with these arguments, in a process of its own that knows this hub and has a cache of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(cache), "ICU_RAY_CACHE": str(cache / "mine"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_ENDPOINT": endpoint}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def tofu_sweep(folder: Path, methods: Sequence[str], epochs: int, evaluation: dict[str, Any], **more: Any) -> Plan:
    """A sweep of a small stand-in, with its retrained model, on `tofu_folder(folder / "tofu", ...)`; no thresholds."""
    data = {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder / "tofu")}
    standin = {"size": "small", "family": "llama", "vocabulary": 300, "target_repeats": 4}
    tree: dict[str, Any] = {
        "name": "t",
        "storage": str(folder / "runs"),
        "data": data,
        "columns": {"length": 64, "prefix_start": 0, "suffix_start": 32},
        "samples": [0],
        "models": [{"name": "small", "standin": standin, "retrained": True}],
        "methods": [{"name": name} for name in methods],
        "optim": {"lr": 5e-4},
        "stop": {"rule": "epochs", "max_epochs": epochs},
        "pairs": {"encoder": "bundled"},
        "filter": {"rule": "never", "encoder": "bundled", "encoder_layer": 6},
        "tracking": {"enabled": False},
        "evaluation": {"suites": ["benchmark"], **evaluation},
        **more,
    }
    return plan_sweep(resolve_config(tree, "test"))
