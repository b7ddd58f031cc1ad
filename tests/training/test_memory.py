"""What a plan says that a worker holds (icu_ray/plan/memory.py), against what DeepSpeed and torch really hold.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from icu_ray import methods
from icu_ray.config import LossConfig
from icu_ray.methods.batch import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.models.architecture import without_dropout
from icu_ray.models.loading import fuse_activations
from icu_ray.models.reference_batch import ReferenceBatch
from icu_ray.plan.memory import BUCKET, KEPT, Use, activations_of, memory_of
from icu_ray.plan.model_shapes import shape_of
from icu_ray.plan.models_here import STANDINS
from icu_ray.training.engine_settings import EngineSettings, deepspeed_config
from tests.support.memory_case import PRECISIONS, STAGES, WIDE, Counter
from tests.support.worker_processes import worker_processes

Precision = Literal["fp32", "bf16"]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict[str, Any]]]:
    workers, folder = request.param, tmp_path_factory.mktemp("held")
    given = [str(workers), str(folder / "meeting"), str(folder / "out")]
    return workers, worker_processes("tests/support/memory_case.py", workers, *given, out=folder / "out")


def test_zeros_bucket_is_no_larger_than_the_model() -> None:
    how = EngineSettings(1e-4, (0.9, 0.98), 1e-8, 1, 2, "fp32", 1)
    small, large = (deepspeed_config(how, 1, torch.device("cpu"), count) for count in (1000, 7_000_000_000))
    assert small["zero_optimization"]["reduce_bucket_size"] == 1000
    assert large["zero_optimization"]["reduce_bucket_size"] == BUCKET


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_gradients_and_adams_state_at_each_stage(
    precision: Precision, stage: int, held: tuple[int, list[dict[str, Any]]]
) -> None:
    workers, ranks = held
    shape = shape_of({"model_type": "llama", **WIDE})
    assert shape is not None
    need = memory_of(shape, Use(workers=workers, stage=stage, precision=precision, batch=2 * workers))
    for rank in ranks:
        real = rank[f"{precision} {stage}"]
        assert real["parameters"] == shape.parameters
        # Some buffers of a few kB, and the padding that makes shares alike, are not counted.
        near = pytest.approx
        assert real["start"]["weights"] == near(need.weights, rel=0.01)
        for moment in ("accumulated", "step"):
            assert real[moment]["master"] == near(need.master, rel=0.01)
            assert real[moment]["moments"] == near(need.moments, rel=0.01)
        # ZeRO keeps the gradient of a matrix whole that lies in two shares.
        split = 4 * WIDE["hidden_size"] * WIDE["intermediate_size"] if workers > 1 and stage in (1, 2) else 0
        assert real["accumulated"]["gradients"] == near(need.gradients, rel=0.03, abs=split)
        kept = BUCKET * (2 if precision == "bf16" else 4)
        assert real.get("bucket", real["start"]["bucket"]) == (kept if stage else 0)
        # Adam's step: never more than the plan says, which counts what is copied into the flat share too.
        bucket = shape.parameters * (2 if precision == "bf16" else 4)  # of so small a model
        at_step = real["step"]["gradients"] + (bucket if stage == 3 else 0)
        assert 0.45 * need.step <= at_step <= 1.03 * need.step
        left = need.gradients if stage == 3 else 0
        assert real["between"]["gradients"] == near(left, rel=0.03, abs=10_000)


SIZES: dict[str, int] = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
LAYERS = 4


def random_model(family: str, hidden: int, mlp: int, heads: int, keys: int) -> PreTrainedModel:
    """With 4 layers, as it would be loaded; the keys of its config.json are in model.config."""
    own: dict[str, Any] = {"hidden_size": hidden, "num_hidden_layers": LAYERS, "num_attention_heads": heads}
    own |= {"intermediate_size": mlp, "max_position_embeddings": 256}
    if family in ("gpt2", "gptj"):
        own = {"n_embd": hidden, "n_layer": LAYERS, "n_head": heads, "n_inner": mlp, "n_positions": 256}
        own |= {"rotary_dim": 4} if family == "gptj" else {}
    elif family == "gpt_neo":
        kinds = [[["global", "local"], LAYERS // 2]]
        own = {"hidden_size": hidden, "num_layers": LAYERS, "num_heads": heads, "attention_types": kinds}
        own |= {"window_size": 64, "intermediate_size": mlp, "max_position_embeddings": 256}
    elif family == "opt":
        own |= {"ffn_dim": mlp, "word_embed_proj_dim": hidden}
    elif family == "bloom":
        own = {"hidden_size": hidden, "n_layer": LAYERS, "n_head": heads}
    elif family == "falcon":
        own |= {"ffn_hidden_size": mlp, "multi_query": True}
    elif family not in ("gpt_neox",):
        own |= {"num_key_value_heads": keys}
    if family == "mixtral":
        own |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if family in ("qwen3", "gemma", "gemma2", "gemma3_text"):
        own |= {"head_dim": 2 * hidden // heads}
    if family == "gemma2":
        own |= {"final_logit_softcapping": None, "sliding_window": 64}
    if family == "gemma3_text":
        own |= {"layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2), "sliding_window": 64}
    config = AutoConfig.for_model(family, **SIZES, **own)
    without_dropout(config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    fuse_activations(model)
    return model


def batch_of(rows: int, length: int, hidden: int, dtype: torch.dtype, model: PreTrainedModel) -> Batch:
    """Targets and pairs whose tokens are all scored, one row with pads, and the original model's states."""
    ids = torch.arange(rows * length).reshape(rows, length) % 60 + 2
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    weights, row = torch.full(ids.shape, 1 / ids.numel()), torch.full((rows,), 1 / rows)
    head = model.get_output_embeddings().weight.detach().clone()
    reference = ReferenceBatch(hidden=torch.randn(rows, length, hidden).to(dtype), weight=head)
    return Batch(ids, mask, ids, weights, row, ids + 1, mask, ids, weights, weights, reference)


def saved_bytes(model: PreTrainedModel, batch: Batch) -> int:
    """Bytes of the storages that autograd keeps of one forward of ICU's loss, weights and batch left out."""
    counter, kept = Counter(), []
    counter.bytes_of([*model.parameters(), *model.buffers()])
    counter.bytes_of([value for value in vars(batch).values() if isinstance(value, torch.Tensor)])
    found = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal found
        found += counter.bytes_of([tensor])
        kept.append(tensor)  # or its address is given to another
        return tensor

    module = UnlearningModule(model, methods.get("icu", alpha=0.5, beta=1.0, settings={}, loss=LossConfig()))
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(batch)
    return found


CASES = {"narrow": (64, 192, 4, 2, 2, 48), "wide": (128, 320, 8, 4, 3, 96), "as many keys": (64, 256, 4, 4, 2, 64)}
"""hidden, mlp, heads, heads of keys, targets, length."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", KEPT)
def test_activations_of_a_family(family: str, precision: Precision, case: str) -> None:
    hidden, mlp, heads, keys, rows, length = CASES[case]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = random_model(family, hidden, mlp, heads, keys)
    shape = shape_of(model.config.to_dict())
    assert shape is not None
    real = saved_bytes(model.to(dtype), batch_of(rows, length, hidden, dtype, model))
    use = Use(micro_batch=rows, length=length, precision=precision)
    assert activations_of(shape, use) == pytest.approx(real, rel=0.02)


def test_stand_ins_are_counted_as_they_are_made() -> None:
    from icu_ray.training.standin_models import ARCHITECTURES

    assert {name: (a.hidden, a.layers, a.heads) for name, a in ARCHITECTURES.items()} == STANDINS
