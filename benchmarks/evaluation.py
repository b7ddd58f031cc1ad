"""How fast is a model's evaluation beside plain lm-eval, and what does a second one cost?

    python benchmarks/evaluation.py [--json] [--limit 100] [--mirror ../shared/data]

A random GPT-Neo (width 128, 4 layers, GPT-2's vocabulary of 50,257) on real rows, two cores each: lm-eval's own
evaluation of its nine tasks (two threads, batches of 8, no index of other tasks) against the stage with two actors of
one thread, documents read and actors started within the time. Accuracies must be equal and log-likelihoods agree to
1e-6 of their value. Then all of the suites lm_eval and icu, and the same once more from the store.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import machine

from icu_ray.cluster.runtime import connected
from icu_ray.data.actor_pool import Pool
from icu_ray.evaluation.definition import find_definition
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.stage.run import evaluate_models
from icu_ray.evaluation.suites import NINE, Options, open_tasks, tasks_of
from icu_ray.models.subjects import Subject
from icu_ray.storage.store import Store

BATCH, THREADS = 8, 2


def save_model(folder: Path, tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=50257,
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=256,
        max_position_embeddings=1024,
        initializer_range=0.1,
        bos_token_id=50256,
        eos_token_id=50256,
    )
    GPTNeoForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)


def plain(model: Path, mirror: Path, limit: int, device: str = "cpu", batch: int = BATCH) -> dict[str, Any]:
    """lm-eval alone: its model class, its data loading, its evaluator."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks, folders = [], []
    for name in NINE:
        definition = find_definition(name)
        exact = mirror / "lm_eval" / f"{name}_{definition.split}.jsonl"
        path = exact if exact.is_file() else mirror / "lm_eval" / f"{name}.jsonl"
        override = {"task": name, "dataset_path": "json", "dataset_name": None, "training_split": None}
        override |= {"validation_split": None, "test_split": None, definition.split_key: definition.split}
        tasks.append({**override, "dataset_kwargs": {"data_files": {definition.split: str(path)}}})
        folders.append(str(definition.path.parent))
    lm: Any = HFLM(pretrained=str(model), dtype="float32", batch_size=batch, device=device)
    found: Any = lm_eval.simple_evaluate(
        model=lm,
        tasks=[{"group": "nine", "task": tasks}],
        limit=limit,
        task_manager=TaskManager(include_defaults=False, include_path=folders),
        bootstrap_iters=0,
    )
    return dict(found)


def differences(evaluations: list[Evaluation], alone: dict[str, Any]) -> tuple[float, list[str]]:
    """Largest relative difference of log-likelihoods, and the tasks that have another accuracy."""
    import pyarrow.parquet

    worst, others = 0.0, []
    for each in evaluations:
        if each.metrics[f"cls/{each.task}_acc"] != alone["results"][each.task]["acc,none"]:
            others.append(each.task)
        assert each.table is not None
        ours = np.concatenate(pyarrow.parquet.read_table(each.table)["loglikelihoods"].to_pylist())
        expected = np.array([r[0][0] for sample in alone["samples"][each.task] for r in sample["resps"]])
        worst = max(worst, float(np.max(np.abs(ours - expected) / np.abs(expected))))
    return worst, others


def check(evaluations: list[Evaluation], alone: dict[str, Any]) -> float:
    """Largest relative difference of log-likelihoods; AssertionError where it is large, or an accuracy differs."""
    worst, others = differences(evaluations, alone)
    if worst > 1e-6 or others:
        raise AssertionError(f"log-likelihoods differ by {worst:.1e} of their value; other accuracies: {others}")
    return worst


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def measure(mirror: Path, limit: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        save_model(folder / "model", mirror / "gpt2_tokenizer")
        subject = Subject("model", str(folder / "model"), "benchmark")
        options = Options(mirror=mirror, limit=limit)
        whole = tasks_of(["lm_eval", "icu"], [])

        def ours(tasks: tuple[str, ...], store: Store) -> list[Evaluation]:
            return evaluate_models([subject], open_tasks(tasks, options), store, pool=Pool(THREADS))

        # Imports belong to neither side; one document of one task pays for those of lm-eval here.
        open_tasks(("copa",), Options(mirror=mirror, limit=1))[0].load()
        torch.set_num_threads(THREADS)
        with contextlib.redirect_stderr(io.StringIO()):
            alone, plain_seconds = timed(lambda: plain(folder / "model", mirror, limit))
        with connected(cpus=THREADS):
            nine, nine_seconds = timed(lambda: ours(NINE, Store(str(folder / "nine"))))
            worst = check(nine, alone)
            store = Store(str(folder / "whole"))
            first, first_seconds = timed(lambda: ours(whole, store))
        second, second_seconds = timed(lambda: ours(whole, store))
        failed = [each.error for each in (*first, *nine) if each.error]
        if failed or [dict(each.metrics) for each in first] != [dict(each.metrics) for each in second]:
            raise AssertionError(f"the second evaluation differs from the first, or one failed: {failed}")
    return [
        {
            "case": f"nine tasks, {limit} documents each",
            "ours": nine_seconds,
            "other": plain_seconds,
            "ratio": plain_seconds / nine_seconds,
            "loglikelihood_difference": worst,
        },
        {
            "case": f"both suites ({len(whole)} tasks), beside lm-eval's nine alone",
            "ours": first_seconds,
            "other": plain_seconds,
            "ratio": plain_seconds / first_seconds,
        },
        {
            "case": "both suites again, beside the first time",
            "ours": second_seconds,
            "other": first_seconds,
            "ratio": first_seconds / second_seconds,
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limit", type=int, default=100, help="documents of each task")
    parser.add_argument("--mirror", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    if not (arguments.mirror / "gpt2_tokenizer").is_dir():
        parser.error(
            f"{arguments.mirror}: no such mirror with a gpt2_tokenizer in it; see icu-ray data mirror and fetch"
        )
    rows = measure(arguments.mirror, arguments.limit)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    print(f"{'case':<52} {'other s':>9} {'ours s':>8} {'ratio':>7}")
    for row in rows:
        print(f"{row['case']:<52} {row['other']:>9.1f} {row['ours']:>8.2f} {row['ratio']:>7.1f}")
    print(f"largest difference of a log-likelihood: {rows[0]['loglikelihood_difference']:.1e} of its value")


if __name__ == "__main__":
    main()
