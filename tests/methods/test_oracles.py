"""Values, gradient norms and Adam trajectories against ../shared/oracles/A, computed by the authors' code.

Needs: ../shared.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.methods.base import Batch, LossTerms
from icu_ray.methods.weights import batch_weights
from icu_ray.models.loading import load_model
from icu_ray.models.reference import Reference, build_reference

AS_CODED = LossConfig(kl="reference_ce", kl_positions="padded", chunk=300)
LINEAR = {
    "icu": {"forget": "unlearn_loss", "learn": "learn_loss", "kl": "kl_loss"},
    "kumpr": {"forget": "unlearn_loss"},
    "kl": {"forget": "unlearn_loss", "kl": "kl_loss"},
    "po": {"mismatch": "unlearn_loss", "learn": "learn_loss"},
    "llmu": {"forget": "unlearn_loss", "mismatch": "random_loss", "kl": "kl_loss"},
}
CASES = [(theta, batch) for theta in ("theta0", "theta1") for batch in ("batch0", "batch1", "batch0_masked", "padded")]


class Oracle:
    """Set A: rows, models, references and expected numbers."""

    def __init__(self, folder: Path) -> None:
        self.expected = json.loads((folder / "expected.json").read_text())
        inputs = json.loads((folder / "inputs.json").read_text())
        self.folder = folder
        self.eos = inputs["eos_token_id"]
        self.rows = {kind: self._rows(inputs, kind) for kind in ("target", "pair")}
        self.padded = {kind: self._rows(inputs["padded"], kind) for kind in ("target", "pair")}
        loaded = load_model(str(folder / "model"))
        self.models = {"theta0": loaded.model, "theta1": self._updated(loaded.model)}
        self.references = [
            build_reference(loaded.model, rows["pair"], targets=rows["target"]) for rows in (self.rows, self.padded)
        ]

    def _rows(self, inputs: dict[str, Any], kind: str) -> TokenRows:
        ids = np.array(inputs[f"{kind}_ids"], dtype=np.int64)
        mask = np.array(inputs[f"{kind}_mask"], dtype=bool)
        labels = np.where(ids == self.eos, IGNORED_LABEL, ids)
        names = tuple(str(k) for k in range(len(ids)))
        prompt = slice(100, 150)
        return TokenRows(
            names,
            ids,
            mask,
            labels,
            ids[:, prompt],
            mask[:, prompt],
            ("",) * len(ids),
            Columns(),
            self.eos,
            self.eos,
            "padded",
        )

    def _updated(self, original: PreTrainedModel) -> PreTrainedModel:
        found: PreTrainedModel = type(original).from_pretrained(self.folder / "model_updated")
        return found

    def batch(self, name: str, loss: LossConfig) -> Batch:
        rows, reference = (self.padded, self.references[1]) if name == "padded" else (self.rows, self.references[0])
        indices = range(4) if name == "padded" else range(8, 16) if name == "batch1" else range(8)
        flags = self.expected["theta0"]["batch0_masked"]["flags"] if name == "batch0_masked" else [1] * len(indices)
        return gather(rows, reference, list(indices), np.array(flags, dtype=bool), loss)


def gather(
    rows: dict[str, TokenRows], reference: Reference, indices: list[int], active: np.ndarray, loss: LossConfig
) -> Batch:
    targets, pairs = rows["target"], rows["pair"]
    weights = batch_weights(targets.labels[indices], pairs.labels[indices], active, targets.columns, loss)
    return Batch.gather(targets, pairs, indices, weights, reference.batch(indices))


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Oracle:
    torch.set_num_threads(1)
    return Oracle(shared / "oracles" / "A")


def run(oracle: Oracle, theta: str, batch: str, name: str, loss: LossConfig) -> tuple[LossTerms, dict[str, float]]:
    model = oracle.models[theta]
    model.zero_grad()
    terms = methods.get(name, alpha=0.5, beta=1.0, loss=loss).loss(model, oracle.batch(batch, loss))
    terms.total.backward()
    return terms, {n: float(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None}


def norm(norms: dict[str, float]) -> float:
    return math.sqrt(sum(n * n for n in norms.values()))


@pytest.mark.parametrize(("theta", "batch"), CASES)
@pytest.mark.parametrize("name", list(LINEAR))
def test_values_and_gradient_norms(oracle: Oracle, theta: str, batch: str, name: str) -> None:
    expected = oracle.expected[theta][batch]
    terms, norms = run(oracle, theta, batch, name, AS_CODED)
    found = {LINEAR[name][part]: value.item() for part, value in terms.parts.items()}
    assert found == pytest.approx({key: expected[name][key] for key in LINEAR[name].values()}, abs=1e-5)
    assert terms.total.item() == pytest.approx(expected[name]["loss"], abs=1e-5)
    assert norm(norms) == pytest.approx(expected[name]["grad_norm"], rel=5e-5)
    if name == "icu":
        assert norms == pytest.approx(expected["icu_grad_norms"], rel=5e-5)


@pytest.mark.parametrize(("theta", "batch"), CASES)
def test_the_true_divergence_has_the_same_gradient(oracle: Oracle, theta: str, batch: str) -> None:
    expected = oracle.expected[theta][batch]
    terms, norms = run(oracle, theta, batch, "icu", LossConfig(kl_positions="padded"))
    assert terms.parts["kl"].item() == pytest.approx(expected["kl_true"], abs=1e-5)
    assert terms.total.item() == pytest.approx(expected["icu_total_with_true_kl"], abs=1e-5)
    assert norms == pytest.approx(expected["icu_grad_norms"], rel=5e-5)


@pytest.mark.parametrize(("theta", "batch"), CASES)
@pytest.mark.parametrize("name", ["dpo", "npo"])
def test_preference_methods(oracle: Oracle, theta: str, batch: str, name: str) -> None:
    expected = oracle.expected[theta][batch].get("preference")
    if expected is None:
        pytest.skip("not in the set")
    terms, norms = run(oracle, theta, batch, name, LossConfig())
    assert terms.total.item() == pytest.approx(expected[name], rel=5e-5)
    assert norm(norms) == pytest.approx(expected[f"{name}_grad_norm"], rel=5e-5)


@pytest.mark.parametrize("key", ["5e-06", "0.001"])
def test_adam_trajectory_and_the_step_of_an_empty_batch(oracle: Oracle, key: str) -> None:
    expected = oracle.expected["adam"][key]
    tolerance = 1e-5 if expected["lr"] < 1e-4 else 5e-5
    model = load_model(str(oracle.folder / "model")).model
    original = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=expected["lr"], betas=(0.9, 0.98), eps=1e-8)
    method = methods.get("icu", loss=AS_CODED)

    def step(batch: Batch) -> LossTerms:
        optimizer.zero_grad()
        terms = method.loss(model, batch)
        terms.total.backward()
        optimizer.step()
        return terms

    def check_weights(wanted: dict[str, float], since: list[torch.Tensor]) -> None:
        total = sum(float(p.detach().double().sum()) for p in model.parameters())
        moved = [(p.detach().double() - q.double()) for p, q in zip(model.parameters(), since, strict=True)]
        assert total == pytest.approx(wanted["sum"], abs=1e-3)
        assert math.sqrt(sum(float((d * d).sum()) for d in moved)) == pytest.approx(wanted["delta_l2"], abs=1e-5)
        assert max(float(d.abs().max()) for d in moved) == pytest.approx(wanted["delta_max_abs"], rel=1e-3)

    for number, wanted in enumerate(expected["steps"]):
        terms = step(oracle.batch(f"batch{wanted['batch']}", AS_CODED))
        found = {LINEAR["icu"][part]: value.item() for part, value in terms.parts.items()}
        assert found == pytest.approx({k: wanted[k] for k in found}, abs=tolerance), number
        check_weights(wanted["after"], original)
    # A batch whose samples are all forgotten: their loss is NaN, its gradients are 0, momentum goes on.
    before = [p.detach().clone() for p in model.parameters()]
    none_left = gather(oracle.rows, oracle.references[0], list(range(8)), np.zeros(8, dtype=bool), AS_CODED)
    assert step(none_left).total.item() == 0.0
    check_weights(expected["empty_batch_step"]["after"], before)
