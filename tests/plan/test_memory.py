"""What a plan says of memory: known figures, what was measured on a GPU, what fits, and the plan of a 7B model.

What DeepSpeed and torch really hold on a CPU is compared in tests/training/test_memory.py.

Needs: nothing.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from icu_ray.cli.main import main as cli
from icu_ray.config.file import merge, resolve_config
from icu_ray.plan.known_models import known_config
from icu_ray.plan.memory import KEPT, Use, activations_of, fitting, memory_of
from icu_ray.plan.model_memory import ModelMemory, memories, use_of
from icu_ray.plan.model_shapes import DEFAULTS, ModelShape, shape_of
from icu_ray.plan.planning import plan_sweep
from icu_ray.report.terminal.memory_table import memory_json, print_memory
from tests.plan.test_plan import SMALL

PUBLISHED = {
    "EleutherAI/gpt-neo-125m": 125_198_592,
    "EleutherAI/gpt-neo-1.3B": 1_315_575_808,
    "EleutherAI/gpt-neo-2.7B": 2_651_307_520,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-1.3b": 1_315_758_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-160m-deduped": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "locuslab/tofu_ft_llama2-7b": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "open-unlearning/tofu_Llama-3.2-1B-Instruct_full": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "google/gemma-2-2b": 2_614_341_888,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}
"""Parameters as the hub's pages of these models, or of their weights, tell them."""
ROOT = Path(__file__).parents[2]


def shape(source: str) -> ModelShape:
    config = known_config(source)
    assert config is not None
    found = shape_of(config)
    assert found is not None
    return found


LLAMA_7B = shape("meta-llama/Llama-2-7b-hf")


@pytest.mark.parametrize("source", PUBLISHED)
def test_known_models_have_as_many_parameters_as_their_pages_say(source: str) -> None:
    assert shape(source).parameters == PUBLISHED[source]


@pytest.mark.parametrize(
    ("size", "precision", "above", "gib"),
    [
        ("125m", "fp32", 2619, 4.1),
        ("125m", "bf16", 2044, 3.3),
        ("1.3B", "fp32", 11920, 26.4),
        ("2.7B", "fp32", 19497, 48.6),
    ],
)
def test_a_step_on_a_gpu(size: str, precision: Any, above: float, gib: float) -> None:
    """torch.cuda.max_memory_allocated of one step of 8 pairs x 200 tokens on one H100 (benchmarks/README.md)."""
    need = memory_of(shape(f"EleutherAI/gpt-neo-{size}"), Use(micro_batch=8, precision=precision))
    assert need.backward / 1e6 == pytest.approx(above, rel=0.02)
    # The benchmark counts Adam's moments alone, without the float32 copies that DeepSpeed keeps of bf16 weights.
    assert (need.training - need.master) / 2**30 == pytest.approx(gib, rel=0.05)


def test_each_stage_divides_more() -> None:
    use = Use(workers=8, precision="bf16", batch=8)
    none, one, two, three = (memory_of(LLAMA_7B, replace(use, stage=stage)) for stage in range(4))
    everything = LLAMA_7B.parameters
    assert none.weights == one.weights == two.weights == 2 * everything and three.weights == 2 * everything / 8
    assert none.gradients == one.gradients == 2 * everything and two.gradients == three.gradients == 2 * everything / 8
    assert none.moments + none.master == 12 * everything
    assert one.moments + one.master == two.moments + two.master == three.moments + three.master == 12 * everything / 8
    # To measure, stage 3 gathers the whole model.
    assert three.measured - two.measured == pytest.approx(2 * everything + three.gradients + 2 * 5e8)
    assert memory_of(LLAMA_7B, replace(use, precision="fp32")).master == 0  # Adam steps the weights themselves


def test_checkpointing_adapters_offload_and_what_is_kept_of_the_original() -> None:
    use = Use(workers=8, stage=2, precision="bf16", batch=8)
    whole = memory_of(LLAMA_7B, use)
    assert activations_of(LLAMA_7B, replace(use, checkpointing=True)) < 0.2 * whole.activations
    adapters = memory_of(LLAMA_7B, replace(use, trainable=20_000_000))
    assert adapters.weights == whole.weights
    assert adapters.moments + adapters.master == 12 * 20_000_000 / 8 and adapters.gradients == 2 * 20_000_000 / 8
    assert adapters.vocabulary < whole.vocabulary  # the output matrix has no gradient
    away = memory_of(LLAMA_7B, replace(use, offload=True))
    assert (away.moments, away.master) == (0, 0) and away.main == 16 * LLAMA_7B.parameters / 8
    caches = {
        cache: memory_of(LLAMA_7B, replace(use, cache=cache)).reference for cache in ("none", "hidden", "recompute")
    }
    assert caches["none"] == 0 and caches["recompute"] == 2 * LLAMA_7B.parameters
    assert caches["hidden"] == 2 * (LLAMA_7B.head + use.length * LLAMA_7B.hidden)
    alone = memory_of(LLAMA_7B, replace(use, train=False))
    assert (alone.training, alone.moments, alone.activations) == (alone.weights, 0, 0)


_SHAPES = st.sampled_from([shape(source) for source in PUBLISHED])


@settings(max_examples=100, deadline=None)
@given(
    _SHAPES,
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 3),
    st.sampled_from(["fp32", "bf16"]),
    st.sampled_from([1, 2, 8]),
    st.floats(2e9, 2e11),
)
def test_what_is_suggested_fits(
    model: ModelShape, workers: int, stage: int, precision: Any, micro: int, room: float
) -> None:
    use = Use(workers=workers, stage=stage, precision=precision, micro_batch=min(micro, 8 // workers))
    found = fitting(model, use, room)
    if found is None:
        smallest = replace(use, micro_batch=1, stage=3, chunk_measured=1, prompts=1)
        assert memory_of(model, smallest).total > room or workers == 1
        return
    assert memory_of(model, found).total <= room
    assert found.micro_batch <= use.micro_batch and found.workers >= workers
    if found.workers == workers and found.stage > 0 and workers > 1:
        assume(found.chunk_measured == use.chunk_measured)
        assert memory_of(model, replace(found, stage=found.stage - 1, micro_batch=1)).total > room


def test_every_family_that_is_counted_has_its_activations() -> None:
    assert set(KEPT) == set(DEFAULTS)


def planned(model: dict[str, Any], **change: Any) -> ModelMemory:
    config = resolve_config(merge(SMALL, {"models": [{"name": "m", **model}], **change}), "t")
    (found,) = memories(plan_sweep(config, dry_run=True))
    return found


def printed(*found: ModelMemory) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, no_color=True, highlight=False)
    print_memory(console, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_stand_in_needs_little_and_nothing_is_said() -> None:
    found = planned({"standin": {"size": "large", "family": "llama"}})
    assert found.need is not None and 10e6 < found.need.total < 1e9
    assert printed(found) == ""
    told = memory_json([found])["m"]
    assert told["of"] == "main memory" and told["total"] == pytest.approx(found.need.total / 1e9, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_a_stand_ins_parameters_are_those_of_the_model_that_is_made(size: Any, family: Any) -> None:
    from icu_ray.config import StandinConfig
    from icu_ray.training.standin_models import new_model

    found = planned({"standin": {"size": size, "family": family}})
    made = new_model(StandinConfig(size=size, family=family), 2048, 64)
    assert found.need is not None
    masks = sum(b.numel() for name, b in made.named_buffers() if name.endswith("attention.bias"))
    assert found.need.weights == 4 * sum(p.numel() for p in made.parameters()) + masks


def test_what_does_not_fit_is_said_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = {"source": "EleutherAI/gpt-neo-1.3B", "workers": 4}
    large = {"resources": {"gpu_memory": 80}}
    assert planned(model, **large).fits is True
    assert planned(model).fits is None
    found = planned(model, resources={"gpu_memory": 24})
    assert found.fits is False and found.better is not None and found.better_need is not None
    assert found.better_need.total <= 0.9 * 24e9
    keys = f"zero_stage={found.better.stage} micro_batch={found.better.micro_batch}"
    assert f"m does not fit 24 GB, a tenth of it left free: {keys} would (" in printed(found)
    again = planned({**model, "zero_stage": found.better.stage, "micro_batch": found.better.micro_batch},
                    resources={"gpu_memory": 24})  # fmt: skip
    assert again.fits is True and again.need == found.better_need
    hopeless = planned(model, resources={"gpu_memory": 2})
    assert (
        "m does not fit 2.0 GB, a tenth of it left free: no ZeRO stage, micro batch and number of workers would."
        in printed(hopeless)
    )
    half = {"source": "EleutherAI/gpt-neo-125m", "gpus_per_worker": 0.5}
    assert planned(half, resources={"gpu_memory": 24}).room == 12e9


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = planned({"source": "org/some-model"})
    assert printed(found) == "m: memory not known: no config.json here.\n"
    assert memory_json([found]) == {"m": {"unknown": "no config.json here"}}


def test_the_largest_trial_of_a_model_counts() -> None:
    methods = [{"name": "kumpr"}, {"name": "icu", "cells": [[0.5, 1.0]]}]
    config = resolve_config(merge(SMALL, {"methods": methods, "samples": [0]}), "t")
    plan = plan_sweep(config, dry_run=True)
    found = memories(plan)[0]
    assert found.use is not None and found.use.sides == 2 and found.use.cache == "hidden"
    alone = next(trial for trial in plan.trials if trial.label == "kumpr")
    shape = shape_of(known_config("EleutherAI/gpt-neo-125m") or {})
    assert shape is not None
    use = use_of(alone, config, 8, shape)
    assert use.sides == 1 and use.cache == "none" and use.rows == 8


def test_a_plan_for_seven_billion_parameters_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tofu").mkdir()
    for name, count in (("forget01", 4), ("retain99", 12)):
        rows = [{"question": f"Who wrote {name} {n}?", "answer": f"Author {n} of {name}."} for n in range(count)]
        (tmp_path / "tofu" / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    assert cli(["sweep", "llama2_7b", "--dry-run", "data.heldout_rows=4"]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("llama2-7b  GPU"))
    assert row.split()[4:7] == ["1.7", "1.7", "10"]  # weights, gradients, Adam's state: 2, 2 and 12 bytes / 8 workers
    assert "its tokenizer is not here" in said and "on this machine a run would be refused" in said
    assert cli(["plan", "llama2_7b", "--json", "data.heldout_rows=4", "resources.gpu_memory=40"]) == 0
    told = json.loads(capsys.readouterr().out)["memory"]["llama2-7b"]
    assert told["weights"] == pytest.approx(2 * LLAMA_7B.parameters / 8e9, abs=1e-4)
    assert told["training"] < told["measuring"] == told["total"] < 32 and told["fits"] is True
    assert cli(["plan", "llama2_7b", "data.heldout_rows=4", "resources.gpu_memory=40", "models.0.zero_stage=0"]) == 0
    assert (
        "llama2-7b does not fit 40 GB, a tenth of it left free: zero_stage=2 micro_batch=1 would"
        in capsys.readouterr().out
    )


def test_fine_tuning_all_weights_counts_where_trials_train_an_adapter_or_nothing() -> None:
    whole = {"source": "EleutherAI/gpt-neo-1.3B", "precision": "bf16"}
    plain, tuned = planned(whole), planned({**whole, "lora": {}, "train": {"batch_size": 8}})
    adapter, measured = planned({**whole, "lora": {}}), planned({**whole, "unlearn": False, "train": {}})
    assert plain.need is not None and tuned.need is not None
    assert adapter.need is not None and measured.need is not None
    # Adam's state of all weights is there, though no trial has it.
    assert tuned.need.moments == measured.need.moments == plain.need.moments > 50 * adapter.need.moments
    assert adapter.need.total < tuned.need.total
