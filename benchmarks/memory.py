"""How much memory do the original model's cache and a training step take?

    python benchmarks/memory.py [--json] [--quick]

Cache: 128 x 200 positions of a model of GPT-Neo 125M's width and vocabulary, ours (kl.cache=hidden) over dense fp32
probabilities, of which 8 rows are really made, kept and mapped, and scaled by 16. The rows' part grows with the
samples; the output matrix is one per model. "on disk" counts files, "resident" what a fresh process gains by mapping
them and reading every batch; two ranks map the same pages, which is counted as their proportional share.

Step: peak resident memory of forward, loss and backward over what was there before (weights, batch and cache are
there), each form in a process of its own, on 8 targets and 8 pairs of 200 tokens. Gradients are compared. "plan" is
what icu_ray/plan/memory.py reckons for the same step, from the model's config alone.

Adapter: a step of Adam by an adapter (rank 8, all linear layers) with the model without it as the original, over one of
all weights with a frozen copy as the original (kl.cache=recompute on both sides). "held" counts the tensors of weights,
original, gradients and moments; "peak" is what the process grows by from before the model is made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_step import NEO_125M, SHALLOW, STANDIN, EitherForm, Shape, new_model, new_rows
from table import machine, print_table

from icu_ray.config import LoraConfig, LossConfig
from icu_ray.methods.base import Batch
from icu_ray.methods.weights import batch_weights
from icu_ray.models.adapters import attach
from icu_ray.models.reference import HEAD_FILE, ROWS_FILE, Reference, build_reference, save_head
from icu_ray.plan.memory import Use, memory_of
from icu_ray.plan.model_shapes import shape_of

SAMPLES, SLICE, BATCH = 128, 8, 8
PAPER_SAMPLES = 5
"""Forget samples of one model in the paper's grid."""
SHAPES = {shape.name: shape for shape in (STANDIN, SHALLOW, NEO_125M)}


def cache_rows(shape: Shape, folder: Path) -> list[dict[str, Any]]:
    model = new_model(shape)
    ours, dense, head = folder / "ours", folder / "dense", folder / "head"
    for made in (ours, dense, head):
        made.mkdir()
    build_reference(model, new_rows(shape, SAMPLES, 2)).save(ours)
    save_head(model, head)
    build_reference(model, new_rows(shape, SLICE, 2), "probs").save(dense)
    rows_part, matrix = (ours / ROWS_FILE).stat().st_size, (head / HEAD_FILE).stat().st_size
    scale = SAMPLES // SLICE
    whole = (dense / ROWS_FILE).stat().st_size * scale
    grid = PAPER_SAMPLES * rows_part + matrix
    one, two = resident(ours, head, ranks=1), resident(ours, head, ranks=2)
    other, others = (resident(dense, None, ranks=r) * scale for r in (1, 2))
    return [
        row("cache on disk: rows of a sample", rows_part, whole),
        row("cache on disk: rows and matrix, 1 sample of a model", rows_part + matrix, whole),
        row(f"cache on disk: rows and matrix, {PAPER_SAMPLES} samples of a model", grid, PAPER_SAMPLES * whole),
        row("cache resident: rows and matrix, 1 rank", one, other),
        row("cache resident: rows and matrix, 2 ranks of a node", two, others),
    ]


def row(case: str, ours: float, other: float) -> dict[str, Any]:
    return {"case": case, "ours": ours / 1e6, "other": other / 1e6, "ratio": other / ours, "unit": "MB"}


def resident(folder: Path, head: Path | None, ranks: int) -> int:
    """Bytes by which `ranks` processes together grow when they map a reference and read all of it."""
    command = [sys.executable, __file__, "--hold", str(folder), *([] if head is None else [str(head)])]
    pipes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(ranks)]
    total = 0
    for stage in range(2):
        # All ranks have read everything before any is asked, so that shared pages are counted as shared.
        for process in pipes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in pipes:
            total += (1 if stage else -1) * proportional(process.pid)
        for process in pipes:
            assert process.stdin is not None
            print("go", file=process.stdin, flush=True)
    for process in pipes:
        process.communicate()
    return total


def proportional(pid: int) -> int:
    """Resident bytes of a process, shared pages divided by those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def hold(folders: Sequence[str]) -> None:
    """A rank: says so when it is about to map a reference, and when it has read all of it."""
    import safetensors.torch  # noqa: F401 - before the first count

    print("ready", flush=True)
    sys.stdin.readline()
    reference = Reference.load(Path(folders[0]), *(Path(folder) for folder in folders[1:]))
    for tensor in reference.tensors().values():
        for part in tensor.flatten(0, -2).split(1024):
            part.sum()
    print("read", flush=True)
    sys.stdin.readline()


def step_row(shape: Shape, folder: Path, micro_batch: int) -> dict[str, Any]:
    peaks = {}
    for form, size in (("ours", micro_batch), ("plain", BATCH)):
        out = subprocess.run(
            [sys.executable, __file__, "--form", form, shape.name, str(size), str(folder / f"{form}.npy")],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks[form] = int(out.stdout)
    ours, plain = (np.load(folder / f"{form}.npy", mmap_mode="r") for form in ("ours", "plain"))
    largest = float(np.abs(plain).max())
    worst = max(float(np.abs(ours[i : i + 10**6] - plain[i : i + 10**6]).max()) for i in range(0, len(plain), 10**6))
    split = "" if micro_batch == BATCH else f", micro_batch={micro_batch}"
    found = row(f"step {shape.name}{split}", peaks["ours"], peaks["plain"])
    described = shape_of(new_model(shape).config.to_dict())
    assert described is not None
    use = Use(batch=BATCH, micro_batch=micro_batch, length=shape.length, gpu=False)
    return {**found, "gradients": worst / largest, "plan": memory_of(described, use).backward / 1e6}


def step(form: str, shape: Shape, micro_batch: int, out: Path) -> None:
    """Print by how many bytes a step's peak exceeds what was resident before it; save its gradient."""
    model, targets, pairs = new_model(shape), new_rows(shape, BATCH, 1), new_rows(shape, BATCH, 2)
    reference = build_reference(model, pairs, "probs" if form == "plain" else "hidden")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            # As training would, so that the divergence has a gradient.
            parameter += 0.002 * torch.randn(parameter.shape, generator=generator)
    module = EitherForm(model, form)
    weights = batch_weights(targets.labels, pairs.labels, np.ones(BATCH, dtype=bool), targets.columns, LossConfig())
    parts = [range(low, low + micro_batch) for low in range(0, BATCH, micro_batch)]
    batches = [Batch.gather(targets, pairs, part, weights.rows(part), reference.batch(part)) for part in parts]
    # The largest resident size starts again from what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    for batch in batches:
        module(batch).total.backward()
    print(status("VmHWM") - before)
    np.save(out, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).numpy())


def adapter_rows(shape: Shape) -> list[dict[str, Any]]:
    """Held and peak bytes of training by an adapter over training all weights, both with the original run live."""
    found = {}
    for form in ("adapter", "all"):
        command = [sys.executable, __file__, "--train", form, shape.name]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[form] = [int(number) for number in out.split()]
    names = ("trained weights", "held", "peak")
    both = zip(names, found["adapter"], found["all"], strict=True)
    return [row(f"adapter {shape.name}, micro_batch=2: {name}", ours, other) for name, ours, other in both]


def train(form: str, shape: Shape) -> None:
    """Print the bytes of what is trained, of all tensors held after a step of Adam, and the process's growth."""
    targets, pairs, probe = new_rows(shape, BATCH, 1), new_rows(shape, BATCH, 2), new_model(STANDIN)
    attach(probe, LoraConfig(), 0, "warm-up")  # imports what an adapter needs
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    model = new_model(shape)
    if form == "adapter":
        attach(model, LoraConfig(), 0, shape.name)
    reference = build_reference(model, pairs, "recompute")
    trained = [p for p in model.parameters() if p.requires_grad]
    adam, module = torch.optim.Adam(trained), EitherForm(model, "ours")
    weights = batch_weights(targets.labels, pairs.labels, np.ones(BATCH, dtype=bool), targets.columns, LossConfig())
    for low in range(0, BATCH, 2):
        part = range(low, low + 2)
        batch = Batch.gather(targets, pairs, part, weights.rows(part), reference.batch(part))
        module(batch).total.backward()
    adam.step()
    moments = [value for state in adam.state.values() for value in state.values()]
    held = [*model.parameters(), *(p.grad for p in trained if p.grad is not None), *moments]
    print(sum(p.nbytes for p in trained), sum(t.nbytes for t in held) + reference.nbytes, status("VmHWM") - before)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two layers alone")
    parser.add_argument("--hold", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--form", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(arguments.hold)
        return
    if arguments.form:
        form, name, micro_batch, out = arguments.form
        step(form, SHAPES[name], int(micro_batch), Path(out))
        return
    if arguments.train:
        form, name = arguments.train
        train(form, SHAPES[name])
        return
    with tempfile.TemporaryDirectory(prefix="icu_ray_memory_") as place:
        folder = Path(place)
        rows = cache_rows(SHALLOW, folder)
        rows.append(step_row(SHALLOW, folder, BATCH))
        if not arguments.quick:
            rows += [step_row(NEO_125M, folder, size) for size in (BATCH, 2)]
        rows += adapter_rows(SHALLOW if arguments.quick else NEO_125M)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
    else:
        columns = {
            "case": "",
            "ours": ",.0f",
            "other": ",.0f",
            "unit": "",
            "ratio": ".1f",
            "gradients": ".0e",
            "plan": ",.0f",
        }
        print_table(rows, columns)


if __name__ == "__main__":
    main()
