"""Steps of SAM and GRU beside plain torch code, in any split of a batch and at ZeRO 0 to 2, and beside the oracles.

Needs: a C++ compiler (DeepSpeed); ../shared for some of its tests.
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icu_ray import methods
from icu_ray.config import LossConfig, StepConfig
from icu_ray.methods.base import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import batch_weights
from icu_ray.training.engine import Engine
from icu_ray.training.engine_settings import EngineSettings
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport
from icu_ray.training.step_rules import Gru, PartGradients, Sam, product, rule_of
from tests.methods.test_field_oracles import ANSWERS_KL, Oracle
from tests.support.lora_case import base, lora_case
from tests.support.recipe_case import mean_nll, plain_epochs
from tests.support.steps_case import CASES, epochs_of, settings_of
from tests.support.tiny_models import tiny_model, tiny_rows
from tests.support.training_case import case, tokenizer
from tests.support.worker_processes import worker_processes


def flat(gradients: Any) -> Tensor:
    return torch.cat([each.flatten() for each in gradients]).double()


class Plain:
    """The cases' gradients, written the plain way."""

    def __init__(self, name: str) -> None:
        self.told = CASES[name]
        self.mean: Tensor | None = None
        self.cosines: list[float] = []
        self.uphill: list[float] = []

    def __call__(self, model: Any, data: Any, batch: np.ndarray) -> list[Tensor]:
        weights, step = list(model.parameters()), self.told.get("step")

        def forget() -> Tensor:
            return flat(torch.autograd.grad(-mean_nll(model, data.targets, batch), weights))

        def retain() -> Tensor:
            return flat(torch.autograd.grad(mean_nll(model, data.pairs, batch), weights))

        found = forget()
        has_retain = self.told["method"] == "graddiff"
        if step is None:
            pass
        elif step.rule == "sam":
            kept = [w.detach().clone() for w in weights]
            kept_gradient = self.told["alpha"] * retain() if has_retain else 0
            self.change(weights, step.rho * found / found.norm())
            self.uphill.append(mean_nll(model, data.targets, batch).item())
            found = forget()
            for w, before in zip(weights, kept, strict=True):
                w.data = before
            found = found + kept_gradient
        else:
            now = (self.told["alpha"] if has_retain else 1.0) * retain()
            average = step.settings["average"]
            self.mean = (
                now
                if self.mean is None and average == 1
                else average * now
                + (1 - average) * (torch.zeros_like(now) if self.mean is None or average == 1 else self.mean)
            )
            cosine = float(found @ self.mean / (found.norm() * self.mean.norm()))
            self.cosines.append(cosine)
            if cosine < 0:
                cosine = max(cosine, -step.settings.get("max_opposition", 1.0))
                found = found - cosine * found.norm() * self.mean / self.mean.norm()
        parts = found.float().split([w.numel() for w in weights])
        return [part.view_as(w) for w, part in zip(weights, parts, strict=True)]

    @staticmethod
    def change(weights: list[Tensor], by: Tensor) -> None:
        for w, part in zip(weights, by.float().split([w.numel() for w in weights]), strict=True):
            w.data = w.data + part.view_as(w)


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[dict[str, Tensor], Plain]]:
    plain = {name: Plain(name) for name in CASES}
    return {name: (plain_epochs(plain[name], settings_of(name), 2), plain[name]) for name in CASES}


def near(found: dict[str, Any], parameters: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        torch.testing.assert_close(found["parameters"][name], parameter, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("how", [{}, {"micro_batch": 2}, {"zero_stage": 1, "micro_batch": 1}, {"zero_stage": 2}])
@pytest.mark.parametrize("name", list(CASES))
def test_steps_are_those_of_plain_code(name: str, how: dict[str, Any], expected: Any) -> None:
    parameters, plain = expected[name]
    found = epochs_of(name, **how)
    near(found, parameters)
    if plain.cosines:
        told = [loss["cosine"] for loss in found["losses"]]
        assert np.mean(told) == pytest.approx(np.mean(plain.cosines), abs=1e-3)
        assert min(plain.cosines) < 0  # something was taken out
    if plain.uphill:
        told = [loss["forget_uphill"] for loss in found["losses"]]
        assert np.mean(told) == pytest.approx(np.mean(plain.uphill), rel=1e-3)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("steps")
    given, out = ["2", str(folder / "meet"), str(folder / "out.pt")], folder / "out.pt"
    return worker_processes("tests/support/steps_case.py", 2, *given, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("name", list(CASES))
def test_two_workers_take_the_same_steps(
    name: str, stage: int, two_workers: list[dict[str, Any]], expected: Any
) -> None:
    first, second = (found[f"{name}-{stage}"] for found in two_workers)
    near(first, expected[name][0])
    assert first["losses"] == second["losses"]
    for parameter, value in first["parameters"].items():
        assert torch.equal(second["parameters"][parameter], value), parameter
    alone = epochs_of(name)["losses"]
    for one, two in zip(alone, first["losses"], strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_a_step_that_changes_nothing_leaves_the_weights_bit_for_bit() -> None:
    """Where SAM goes uphill and comes back, with a learning rate of almost nothing."""
    model, _ = case()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = epochs_of("sam", lr=1e-30)
    for name, parameter in before.items():
        torch.testing.assert_close(found["parameters"][name], parameter, rtol=0, atol=1e-12)


def test_the_moving_average_is_in_the_checkpoint(tmp_path: Path) -> None:
    def trial(resume: Path | None = None) -> tuple[Any, Any]:
        def on_epoch(report: EpochReport) -> None:
            if report.record.epoch == 2 and resume is None:
                report.save(tmp_path / "c")

        model, data = case()
        settings = settings_of("gru-average", zero_stage=1)
        return run_trial(settings, data, model, tokenizer(), on_epoch=on_epoch, resume_from=resume), model

    told, model = trial()
    assert (tmp_path / "c" / "step_rule.safetensors").is_file()
    again, other = trial(tmp_path / "c")
    assert again.history[-1].loss == told.history[-1].loss
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_batch_without_a_target_makes_a_gradient_of_zero() -> None:
    """As train.empty_batch=momentum asks for: norms of zero divide nothing."""
    from icu_ray.training.epoch import EpochTrainer

    for name in CASES:
        model, data = case()
        settings = settings_of(name)
        settings = settings_of(name, train=settings.train.model_copy(update={"empty_batch": "momentum"}))
        trainer = EpochTrainer(settings, data, model, tokenizer(), 0, 1)
        losses, steps = trainer.train(1, np.zeros(len(data.targets), dtype=bool))
        assert steps == 2 and all(value == 0 for value in losses.values())
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        trainer.close()


def test_products_are_of_all_weights_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icu_ray.training.step_rules._AT_ONCE", 1000)
    one, two = torch.randn(2, 12345, generator=torch.Generator().manual_seed(0)) * 1e4
    assert product(one, two) == pytest.approx(float(one.double() @ two.double()), rel=1e-12)


def test_stage_3_is_refused_by_the_engine_too() -> None:
    model, _ = case()
    settings = EngineSettings(1e-3, (0.9, 0.99), 1e-8, 1, 1, zero_stage=3, step=StepConfig(rule="sam"))
    with pytest.raises(ValueError, match="stage 3"):
        Engine(UnlearningModule(model, methods.get("kumpr")), settings, 0, 1)


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    return Oracle(set_c)


def parts_of(oracle: Oracle, batch: str, name: str, rule: str, settings: dict[str, Any]) -> PartGradients:
    method = methods.get(name, alpha=1.0, settings=settings, loss=ANSWERS_KL, step=StepConfig(rule=rule))  # type: ignore[arg-type]
    module = UnlearningModule(oracle.models["unlearned"], method)
    return PartGradients(module, [oracle.batch(method, batch, "target", ANSWERS_KL)], 1)


@pytest.mark.parametrize("batch", ["A", "B"])
def test_sam_is_the_oracles(oracle: Oracle, batch: str) -> None:
    known = oracle.variants["values"][batch]["npo_sam_rho0.01_beta0.1_alpha1"]
    parts = parts_of(oracle, batch, "npo", "sam", {"retain": "nll"})
    before = [weight.detach().clone() for weight in parts.weights]
    found = Sam(0.01).gradient(parts)
    assert all(torch.equal(a, b) for a, b in zip(before, parts.weights, strict=True))
    assert parts.values["forget"] == pytest.approx(known["forget_loss"], rel=1e-4)
    assert parts.values["forget_uphill"] == pytest.approx(known["forget_loss_at_perturbed_point"], rel=1e-4)
    assert parts.values["retain"] == pytest.approx(known["retain_loss"], rel=1e-4)
    assert math.sqrt(product(found, found)) == pytest.approx(known["combined_grad_norm"], rel=1e-3)


@pytest.mark.parametrize("batch", ["A", "B"])
@pytest.mark.parametrize(
    ("variant", "name", "settings"),
    [("gru_grad_ascent", "kumpr", {}), ("gru_npo_beta0.1", "npo", {}), ("gru_npo_beta0.1", "npo", {"retain": "nll"})],
)
def test_gru_is_the_oracles(oracle: Oracle, batch: str, variant: str, name: str, settings: dict[str, Any]) -> None:
    known = oracle.variants["values"][batch][variant]
    parts = parts_of(oracle, batch, name, "gru", settings)
    rule = Gru(1.0)
    found, retain = rule.gradient(parts), parts.of("retain")
    sign = -1.0 if name == "kumpr" else 1.0
    assert sign * parts.values["forget"] == pytest.approx(known["unlearning_loss"], rel=1e-4)
    assert rule.told["cosine"] == pytest.approx(known["cosine"], rel=1e-3)
    assert math.sqrt(product(found, found)) == pytest.approx(known["corrected_grad_norm"], rel=1e-3)
    lengths = known["corrected_grad_norm"] * known["retain_grad_norm"]
    assert abs(product(found, retain)) < 1e-5 * lengths


@pytest.mark.parametrize("name", ["sam", "gru"])
def test_an_adapter_is_all_that_a_rule_moves(name: str) -> None:
    made = {}
    for stage in (0, 2):
        model, data = lora_case()
        before = base(model)
        made[stage] = epochs_of(name, given=(model, data), zero_stage=stage, micro_batch=2)
        for weight, value in base(model).items():
            assert torch.equal(value, before[weight]), weight
        assert any(parameter.any() for n, parameter in made[stage]["parameters"].items() if "lora_B" in n)
    for weight, value in made[0]["parameters"].items():
        torch.testing.assert_close(made[2]["parameters"][weight], value, rtol=1e-4, atol=1e-6)


def bf16_apart(name: str, stage: int) -> float:
    """How far bf16 leads away from fp32 that starts from the same weights, as a share of the way.

    The mean of six cases: in one alone rounding moves it by a tenth.
    """
    return float(np.mean([_apart(name, stage, count) for count in range(4, 10)]))


def _apart(name: str, stage: int, count: int) -> float:
    torch.set_num_threads(1)
    ways = []
    for precision in ("fp32", "bf16"):
        model, data = case(count=count)
        model.bfloat16()
        if precision == "fp32":
            model.float()
        start = torch.cat([p.detach().float().flatten() for p in model.parameters()])
        how = {"lr": 1e-2, "precision": precision, "zero_stage": stage, "micro_batch": 2}
        found = epochs_of(name, given=(model, data), **how)
        ways.append(torch.cat([p.float().flatten() for p in found["parameters"].values()]) - start)
    return float((ways[0] - ways[1]).norm() / ways[0].norm())


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_gru_in_bf16_is_as_near_to_fp32_as_plain_descent(stage: int) -> None:
    assert bf16_apart("gru", stage) < 1.1 * bf16_apart("plain", stage) < 0.25


def tensors() -> dict[int, int]:
    """Bytes of each storage that Python's collector knows, by its address."""
    there = [each.untyped_storage() for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return {each.data_ptr(): each.nbytes() for each in there}


@pytest.mark.parametrize("told", [{"rule": "sam"}, {"rule": "gru"}, {"rule": "gru", "average": 0.8}])
def test_a_rule_holds_as_many_copies_as_the_plan_counts(told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at where a part's gradients are there, at the second of two steps."""
    step = StepConfig.model_validate(told)
    method = methods.get("graddiff", step=step)
    model = tiny_model("gpt_neo")
    rows, pairs = tiny_rows(2, 1), tiny_rows(2, 2)
    weights = batch_weights(rows.labels, pairs.labels, np.ones(2, dtype=bool), rows.columns, LossConfig())
    batch = Batch.gather(rows, pairs, np.arange(2), weights)
    parts = PartGradients(UnlearningModule(model, method), [batch, batch], 1)
    size = 4 * sum(weight.numel() for weight in parts.weights)
    rule, before = rule_of(step), tensors()
    rule.gradient(parts)
    held, grad = [], torch.autograd.grad

    def looked_at(*given: Any, **more: Any) -> Any:
        found = grad(*given, **more)
        held.append(sum(bytes_ for place, bytes_ in tensors().items() if place not in before) / size)
        return found

    monkeypatch.setattr(torch.autograd, "grad", looked_at)
    rule.gradient(parts)
    assert max(held) == pytest.approx(method.cost.copies, rel=0.1)
