"""The field's methods against ../shared/oracles/C, which OpenUnlearning's own loss functions computed.

Where this project's default is another choice than OpenUnlearning's, the option that repeats its value is given here;
what the default computes is compared with variants.json, which has own plain code in float64.

Needs: ../shared.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedModel

from icu_ray import methods
from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import TokenRows
from icu_ray.methods import losses
from icu_ray.methods.base import Batch, LossTerms, Method
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import build_reference

PADDED_KL = LossConfig(kl_positions="padded", chunk=300)
ANSWERS_KL = LossConfig(kl_positions="span", chunk=300)
ALL_KL = LossConfig(kl_positions="all", chunk=300)
STATES = {"step": ("unlearned", "target"), "start": ("target", "target")}
CASES = 24


@dataclass(frozen=True)
class Known:
    """One setting of the set in this project's words."""

    name: str
    settings: dict[str, float | int | str | bool]
    alpha: float
    trained: Any = None


def known(case: dict[str, Any]) -> Known:
    """OpenUnlearning's hyper-parameters as ours, with the options that repeat its choices."""
    name, hyper = case["method"], dict(case["hyper_parameters"])
    alpha = hyper.pop("alpha", 0.0)
    settings: dict[str, Any] = {}
    if name == "GradAscent":
        return Known("kumpr", {}, 0.0)
    if name == "CEU":
        return Known("ceu", {"skip_first": hyper["ignore_first_n_answer_tokens"]}, 0.0)
    if name == "PDU":
        eps, step = hyper["retain_loss_eps"], hyper["dual_step_size"]
        return Known("pdu", {"eps": eps, "dual_step": step, "warmup": 0, "positions": "labels"}, alpha)
    settings["gamma"] = hyper["gamma"]
    settings["retain"] = hyper["retain_loss_type"].lower()
    if name in ("NPO", "SimNPO", "WGA", "UNDIAL"):
        settings[f"beta_{name.lower()}"] = hyper["beta"]
    if name in ("IdkDPO", "AltPO"):
        settings["beta_dpo"] = hyper["beta"]
    if name == "UNDIAL":
        settings["positions"] = "all"
    settings |= {key: hyper[key] for key in ("delta", "beta1", "beta2") if key in hyper}
    if name == "RMU":
        settings |= {"layer": int(hyper["module_regex"][-1]), "steering": float(hyper["steering_coeff"])}
        settings["length"] = "broadcast"
        if hyper["trainable_params_regex"] != [".*"]:
            settings |= {"train_layers": "0,1,2", "train_parameters": "down_proj"}
    return Known(name.lower(), settings, alpha)


class Oracle:
    """Set C: models, batches and expected numbers."""

    def __init__(self, folder: Path) -> None:
        self.losses, self.variants, self.batches = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("losses", "variants", "batches")
        )
        self.models = {
            name: LlamaForCausalLM.from_pretrained(folder / "models" / name).eval() for name in ("target", "unlearned")
        }
        self.control = torch.tensor(self.losses["rmu_control_vector_unit"])

    def rows(self, batch: str, part: str) -> tuple[TokenRows, NDArray[np.int64]]:
        """As they lie there, padded at the right, where a model counts columns."""
        told = {key: np.array(value, dtype=np.int64) for key, value in self.batches[batch][part].items()}
        ids, labels, mask = told["input_ids"], told["labels"], told["attention_mask"].astype(bool)
        columns = Columns(ids.shape[1], 0, 1)
        names = tuple(map(str, range(len(ids))))
        empty = np.zeros((len(ids), 1), dtype=np.int64)
        rows = TokenRows(names, ids, mask, labels, empty, empty == 1, ("",) * len(ids), columns, 2, 1, "padded")
        return rows, (labels >= 0).argmax(axis=1)

    def batch(self, method: Method, batch: str, reference: str, loss: LossConfig, cache: str = "hidden") -> Batch:
        targets, _ = self.rows(batch, "forget")
        pairs, _ = self.rows(batch, "retain")
        second, _ = self.rows(batch, "idk" if method.name.startswith("idk") else "alternate")
        made = build_reference(
            self.models[reference],
            pairs,
            cache,  # type: ignore[arg-type]
            targets=targets,
            compared=targets if method.needs_target_reference else None,
            answers={"second": second},
            layers=method.reference_layers,
        )
        chosen = np.arange(len(targets))
        weights = batch_weights(
            targets.labels,
            pairs.labels,
            np.ones(len(targets), dtype=bool),
            targets.columns,
            loss,
            pairs.mask,
            target_rule=method.target_rule,
            pair_rule=method.pair_rule,
            alternates=(second.labels, None),
        )
        kept = made.with_answers("second").batch(chosen, answers=chosen)
        return Batch.gather(targets, pairs, chosen, weights, kept, alternates=(second, chosen))


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    torch.set_num_threads(1)
    return Oracle(set_c)


def run(model: PreTrainedModel, method: Method, batch: Batch) -> tuple[LossTerms, dict[str, float]]:
    model.zero_grad()
    terms = method.loss(model, batch)
    terms.total.backward()
    named = model.named_parameters()
    norms = {n: float(p.grad.double().norm()) for n, p in named if p.grad is not None and method.trains_parameter(n)}
    return terms, norms


def norm(norms: dict[str, float]) -> float:
    return math.sqrt(sum(n * n for n in norms.values()))


@pytest.mark.parametrize("batch", ["A", "B"])
@pytest.mark.parametrize("state", list(STATES))
@pytest.mark.parametrize("number", range(CASES))
def test_losses_and_gradients_are_open_unlearnings(
    oracle: Oracle, number: int, state: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "control_vector", lambda seed, size: oracle.control)
    assert len(oracle.losses["cases"]) == CASES
    case = oracle.losses["cases"][number]
    expected, own = case["values"][state][batch], known(case)
    current, reference = STATES[state]
    method = methods.get(own.name, alpha=own.alpha, settings=own.settings, loss=PADDED_KL)
    terms, norms = run(oracle.models[current], method, oracle.batch(method, batch, reference, PADDED_KL))
    assert terms.total.item() == pytest.approx(expected["loss"], rel=1e-4, abs=1e-6)
    sign = -1.0 if own.name in ("kumpr", "graddiff", "wga", "satimp") else 1.0
    assert sign * terms.parts["forget"].item() == pytest.approx(expected["forget_loss"], rel=1e-4, abs=1e-6)
    name = "kl" if own.settings.get("retain") == "kl" else "retain"
    if name in terms.parts:
        assert terms.parts[name].item() == pytest.approx(expected["retain_loss"], rel=1e-4, abs=2e-6)
    wanted = expected.get("grad_norm_of_trainable_params", expected["grad_norm"])
    assert norm(norms) == pytest.approx(wanted, rel=1e-3)
    for parameter, value in expected["param_grad_norms"].items():
        if parameter in norms:
            assert norms[parameter] == pytest.approx(value, rel=1e-3), parameter
    if own.name == "pdu":
        method.after_step({key: value.item() for key, value in terms.parts.items()}, epoch=1)
        assert method.state()["dual"] == pytest.approx(expected["retain_preference_after"], rel=1e-5)


VARIANTS: dict[str, tuple[str, float, dict[str, float | int | str | bool], LossConfig]] = {
    "undial_answer_tokens_only_beta10": ("undial", 0.0, {}, ANSWERS_KL),
    "pdu_forget_loss_predicting_positions": ("pdu", 0.0, {}, ANSWERS_KL),
    "npo_muse_elementwise_logits_beta0.1": ("npo", 0.0, {"npo_style": "muse_logits"}, ANSWERS_KL),
    "rmu_all_positions_steering2_alpha1_layer1": ("rmu", 1.0, {"layer": 1, "positions": "all"}, ANSWERS_KL),
    "rmu_own_length_per_sequence_steering2_alpha1_layer1": ("rmu", 1.0, {"layer": 1}, ANSWERS_KL),
    "simnpo_per_token_mean_over_predicted": ("simnpo", 0.0, {"gamma": 1.0}, ANSWERS_KL),
    "grad_ascent_mean_of_sequence_means": ("kumpr", 0.0, {}, LossConfig(reduction="seq_mean")),
    "idk_nll_alpha1": ("idknll", 1.0, {}, ANSWERS_KL),
    "kl_retain_answer_tokens_only": ("graddiff", 1.0, {"gamma": 0.0, "retain": "kl"}, ANSWERS_KL),
    "kl_current_to_reference_answer_tokens_only": (
        "graddiff",
        1.0,
        {"gamma": 0.0, "retain": "kl"},
        LossConfig(kl="reverse", kl_positions="span", chunk=300),
    ),
    "kl_retain_all_unpadded_positions": ("graddiff", 1.0, {"gamma": 0.0, "retain": "kl"}, ALL_KL),
}


@pytest.mark.parametrize("batch", ["A", "B"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_variants(oracle: Oracle, variant: str, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "control_vector", lambda seed, size: oracle.control)
    expected = oracle.variants["values"][batch][variant]
    name, alpha, settings, loss = VARIANTS[variant]
    method = methods.get(name, alpha=alpha, settings=settings, loss=loss)
    terms, norms = run(oracle.models["unlearned"], method, oracle.batch(method, batch, "target", loss))
    assert terms.total.item() == pytest.approx(expected["loss"], rel=1e-4, abs=1e-6)
    assert norm(norms) == pytest.approx(expected["grad_norm"], rel=1e-3)
    for part in ("forget", "retain"):
        if f"{part}_loss" in expected:
            assert terms.parts[part].item() == pytest.approx(expected[f"{part}_loss"], rel=1e-4)


@pytest.mark.parametrize("cache", ["probs", "recompute"])
@pytest.mark.parametrize("name", ["undial", "rmu", "graddiff"])
def test_caches_of_the_reference_agree(oracle: Oracle, name: str, cache: str) -> None:
    settings: dict[str, Any] = {"rmu": {"layer": 1}, "graddiff": {"retain": "kl"}}.get(name, {})
    method = methods.get(name, alpha=1.0, settings=settings, loss=ANSWERS_KL)
    totals = []
    for kept in ("hidden", cache):
        batch = oracle.batch(method, "A", "target", ANSWERS_KL, kept)
        totals.append(method.loss(oracle.models["unlearned"], batch).total.item())
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
