"""What a worker really holds of a model in training, counted in bytes of tensors: for each precision and ZeRO stage.

python tests/support/memory_case.py RANK WORLD_SIZE RENDEZVOUS_FILE OUT_FILE

Steps of a small Llama, of two micro batches each, are made by the project's engine. At some moments of the second one
every tensor that Python's collector knows is looked at: its storage counts once, under the first of these that holds
it: weights, moments, master (float32 weights that Adam steps), bucket (ZeRO's buffer), gradients (all else).
OUT_FILE.RANK gets for "bf16 2", say, these parts by moment: start (the engine is there), accumulated (after the
backward pass of the first micro batch), step (Adam is about to step) and between (the step is done).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from icu_ray import methods
from icu_ray.config import LossConfig
from icu_ray.methods.batch import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.training import engine as engine_module
from icu_ray.training.engine import Engine, set_device_environment
from icu_ray.training.engine_settings import EngineSettings
from tests.support.tiny_models import PAD

PRECISIONS, STAGES = ("fp32", "bf16"), (0, 1, 2, 3)
made_config = engine_module.deepspeed_config
# ZeRO's bucket as large as for the largest models, so that it is told from all else.
engine_module.deepspeed_config = lambda settings, workers, device, parameters: made_config(settings, workers, device)
LARGE = 500e6
"""Bytes: nothing of so small a model but ZeRO's bucket has as many. On a CPU no page of it is ever touched."""
WIDE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
"""Wide enough that padding and counters weigh next to nothing."""


def model_of(precision: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**WIDE, pad_token_id=PAD))
    return model.to(torch.bfloat16 if precision == "bf16" else torch.float32)


def batch_of_one(rows: int = 1, length: int = 12) -> Batch:
    """Rows whose tokens are all scored."""
    ids = torch.arange(rows * length).reshape(rows, length) % 500 + 2
    ones = torch.ones_like(ids)
    return Batch(ids, ones, ids, torch.full(ids.shape, 1 / ids.numel()), torch.full((rows,), 1 / rows))


class Counter:
    """Storages by address, so that views of one buffer count once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def bytes_of(self, tensors: Iterable[torch.Tensor]) -> int:
        found = 0
        for tensor in tensors:
            if not tensor.numel() or tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.seen:
                self.seen.add(storage.data_ptr())
                found += storage.nbytes()
        return found


def tensors_of_python() -> list[torch.Tensor]:
    gc.collect()
    found: list[torch.Tensor] = []
    for each in gc.get_objects():
        try:
            if isinstance(each, torch.Tensor):
                found.append(each)
                if each.grad is not None:
                    found.append(each.grad)
        except Exception:  # a proxy whose object is gone
            continue
    return found


def held(engine: Engine, before: set[int]) -> dict[str, int]:
    """Bytes by part; `before`: storages that were there without the engine, which do not count."""
    counter = Counter()
    counter.seen |= before
    adam = engine.inner.basic_optimizer
    parts: dict[str, int] = {}
    lp = [getattr(p, "ds_tensor", p) for p in engine.inner.module.parameters()]
    parts["weights"] = counter.bytes_of([*lp, *engine.inner.module.parameters()])
    masters = [p for group in adam.param_groups for p in group["params"]]
    masters += getattr(engine.inner.optimizer, "fp32_partitioned_groups_flat", [])  # stage 3 lends Adam one at a time
    parts["master"] = counter.bytes_of(masters)
    states = [t for state in adam.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    parts["moments"] = counter.bytes_of([t for t in states if t.numel() > 1])
    counter.bytes_of(states)
    rest = tensors_of_python()
    parts["bucket"] = counter.bytes_of([t for t in rest if t.numel() and t.untyped_storage().nbytes() > LARGE])
    parts["gradients"] = counter.bytes_of(rest)
    return parts


def measure(precision: str, stage: int, rank: int, world_size: int) -> dict[str, Any]:
    model = model_of(precision)
    before = {t.untyped_storage().data_ptr() for t in tensors_of_python() if t.numel()}
    before -= {p.untyped_storage().data_ptr() for p in model.parameters()}
    module = UnlearningModule(model, methods.get("kumpr", alpha=0, beta=0, settings={}, loss=LossConfig()))
    engine = Engine(
        module, EngineSettings(1e-4, (0.9, 0.98), 1e-8, 1, 2, precision, stage), rank=rank, world_size=world_size
    )
    batch = batch_of_one()
    before |= {t.untyped_storage().data_ptr() for t in vars(batch).values() if t is not None}
    found: dict[str, Any] = {"parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())}
    found["start"] = held(engine, before)
    engine.step([batch, batch])  # Adam's moments are there from now on
    adam, zero = engine.inner.basic_optimizer, engine.inner.optimizer
    own_step, own_backward = adam.step, engine.inner.backward
    own_setup = getattr(zero, "setup_buckets", None)

    def step(*given: Any, **named: Any) -> Any:
        found["step"] = held(engine, before)
        return own_step(*given, **named)

    def backward(*given: Any, **named: Any) -> Any:
        result = own_backward(*given, **named)
        found.setdefault("accumulated", held(engine, before))
        return result

    def setup() -> None:
        own_setup()
        buffers = [buffer for bucket in zero.ipg_buckets.values() for buffer in bucket.buffer]
        found["bucket"] = max(found.get("bucket", 0), Counter().bytes_of(buffers))

    adam.step, engine.inner.backward = step, backward
    if own_setup is not None:
        zero.setup_buckets = setup
    engine.step([batch, batch])
    del adam.step, engine.inner.backward
    if own_setup is not None:
        del zero.setup_buckets
    found["between"] = held(engine, before)
    engine.close()
    return found


def main() -> None:
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    rendezvous, out = sys.argv[3:5]
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    set_device_environment(torch.device("cpu"))
    found = {f"{p} {s}": measure(p, s, rank, world_size) for p in PRECISIONS for s in STAGES}
    torch.save(found, f"{out}.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
