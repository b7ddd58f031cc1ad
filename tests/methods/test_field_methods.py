"""The field's methods: each against its formula in plain float64 code, and what must not change a loss.

Needs: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.errors import UserError
from icu_ray.methods.base import Batch, Method
from icu_ray.methods.losses import control_vector
from icu_ray.methods.vocabulary_loss import Segment, vocabulary_loss
from icu_ray.methods.vocabulary_terms import SoftenedTerm
from icu_ray.methods.weights import BatchWeights, batch_weights
from icu_ray.models.reference import Reference, build_reference
from icu_ray.models.reference_batch import ReferenceBatch
from tests.support.tiny_models import COLUMNS, FAMILIES, PAD, tiny_model_of, tiny_rows

SPAN = LossConfig(kl_positions="span", chunk=7)
ACTIVE = np.array([True, False, True, True, True])
Settings = dict[str, float | int | str | bool]
FIELD: dict[str, Settings] = {
    "graddiff": {},
    "wga": {"beta_wga": 0.7},
    "satimp": {"beta1": 2.0, "beta2": 0.5},
    "simnpo": {"delta": 0.3, "beta_simnpo": 2.0},
    "npo": {"retain": "nll"},
    "ceu": {},
    "undial": {"beta_undial": 3.0},
    "pdu": {"warmup": 0},
    "idkdpo": {},
    "idknll": {},
    "altpo": {"beta_dpo": 0.05},
    "rmu": {"layer": 0},
}
"""Methods by their own settings, as they are without OpenUnlearning's departures."""
AS_OTHERS: list[tuple[str, Settings]] = [
    ("npo", {"npo_style": "muse_logits"}),
    ("undial", {"positions": "all"}),
    ("pdu", {"positions": "labels", "warmup": 0}),
    ("rmu", {"layer": 0, "length": "broadcast"}),
    ("rmu", {"layer": 0, "positions": "all"}),
    ("rmu", {"layer": 0, "retain": "kl"}),
    ("graddiff", {"retain": "kl"}),
]


class Case:
    """An original model, one that has moved away from it, and five rows of each side."""

    def __init__(self, family: str, seed: int = 1) -> None:
        self.original, self.model = tiny_model_of(family, 1), tiny_model_of(family, 1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        self.targets, self.pairs, self.answers = (tiny_rows(5, seed + k) for k in range(3))

    def padded(self, more: int) -> Case:
        """The same with so many more pads before each row."""
        found = object.__new__(Case)
        found.original, found.model = self.original, self.model
        for side in ("targets", "pairs", "answers"):
            setattr(found, side, with_pads(getattr(self, side), more))
        return found

    def reference(self, method: Method, original: PreTrainedModel | None = None) -> Reference:
        made = build_reference(
            original or self.original,
            self.pairs,
            targets=self.targets,
            compared=self.targets if method.needs_target_reference else None,
            answers={"any": self.answers},
            layers=method.reference_layers,
        )
        return made.with_answers("any")

    def weights(self, method: Method, rows: Sequence[int], active: np.ndarray = ACTIVE) -> BatchWeights:
        chosen = list(rows)
        return batch_weights(
            self.targets.labels[chosen],
            self.pairs.labels[chosen],
            active[chosen],
            self.targets.columns,
            method.options,
            self.pairs.mask[chosen],
            target_rule=method.target_rule,
            pair_rule=method.pair_rule,
            alternates=(self.answers.labels[chosen], None),
        )

    def batch(self, method: Method, rows: Sequence[int], weights: BatchWeights, reference: Reference) -> Batch:
        chosen = np.array(rows)
        kept = reference.batch(chosen, answers=chosen)
        return Batch.gather(self.targets, self.pairs, chosen, weights, kept, alternates=(self.answers, chosen))

    def whole(self, method: Method, active: np.ndarray = ACTIVE, original: PreTrainedModel | None = None) -> Batch:
        return self.batch(method, range(5), self.weights(method, range(5), active), self.reference(method, original))


def with_pads(rows: TokenRows, more: int) -> TokenRows:
    def wider(array: np.ndarray, value: int) -> np.ndarray:
        return np.pad(array, ((0, 0), (more, 0)), constant_values=value)

    columns = Columns(COLUMNS.length + more, COLUMNS.prefix_start + more, COLUMNS.suffix_start + more)
    ids, mask = wider(rows.input_ids, PAD), wider(rows.mask, False)
    return replace(rows, input_ids=ids, mask=mask, labels=wider(rows.labels, IGNORED_LABEL), columns=columns)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 5e-5) -> None:
    scale = max(float(g.abs().max()) for g in other.values())
    for name, gradient in other.items():
        assert float((one[name] - gradient).abs().max()) <= tolerance * scale + 1e-12, name


class Plain:
    """What formulas are made of, row by row without pads, in float64."""

    def __init__(self, case: Case) -> None:
        self.case, self.rows = case, [int(row) for row in np.flatnonzero(ACTIVE)]
        self.now = {side: self.scores(case.model, rows) for side, rows in self.sides().items()}
        with torch.no_grad():
            self.then = {side: self.scores(case.original, rows) for side, rows in self.sides().items()}

    def sides(self) -> dict[str, TokenRows]:
        return {"target": self.case.targets, "pair": self.case.pairs, "alternate": self.case.answers}

    def tokens(self, side: str, row: int) -> list[int]:
        rows = self.sides()[side]
        return rows.input_ids[row][rows.mask[row]].tolist()

    def scores(self, model: PreTrainedModel, rows: TokenRows) -> list[Tensor]:
        ids = (torch.tensor(each[real])[None] for each, real in zip(rows.input_ids, rows.mask, strict=True))
        return [model(input_ids=row).logits[0].double() for row in ids]

    def states(self, model: PreTrainedModel, side: str, layer: int) -> list[Tensor]:
        found = []
        for row in range(5):
            output = model(input_ids=torch.tensor(self.tokens(side, row))[None], output_hidden_states=True)
            found.append(output.hidden_states[layer + 1][0].double())
        return found

    def log_p(self, side: str, row: int, when: str = "now") -> Tensor:
        """Of each token but the first."""
        scores = (self.now if when == "now" else self.then)[side][row]
        labels = torch.tensor(self.tokens(side, row)[1:])
        return scores.log_softmax(-1)[:-1].gather(1, labels[:, None])[:, 0]

    def token_mean(self, value: Callable[[int], Tensor]) -> Tensor:
        return torch.cat([value(row) for row in self.rows]).mean()

    def row_mean(self, value: Callable[[int], Tensor]) -> Tensor:
        return torch.stack([value(row) for row in self.rows]).mean()

    def ratio(self, side: str, row: int) -> Tensor:
        return self.log_p(side, row).sum() - self.log_p(side, row, "then").sum()

    def nll(self, side: str = "pair") -> Tensor:
        return self.token_mean(lambda row: -self.log_p(side, row))

    def kl(self) -> Tensor:
        def of_row(row: int) -> Tensor:
            p, q = (table["pair"][row].log_softmax(-1)[:-1] for table in (self.then, self.now))
            return (p.exp() * (p - q)).sum(-1)

        return self.token_mean(of_row)

    def cross_entropy(self, goal: Callable[[int, Tensor], Tensor], skip: int = 0) -> Tensor:
        """goal(row, labels (T, 1)): scores of the distribution that is learnt."""

        def of_row(row: int) -> Tensor:
            labels = torch.tensor(self.tokens("target", row)[1:])[:, None]
            q = goal(row, labels).softmax(-1).detach()
            return -(q * self.now["target"][row][:-1].log_softmax(-1)).sum(-1)[skip:]

        return self.token_mean(of_row)

    def forget(self, name: str, own: Method) -> Tensor:
        number = {key: float(value) for key, value in own.settings.items() if not isinstance(value, str)}

        def weighted(a: float, b: float) -> Tensor:
            def of_row(row: int) -> Tensor:
                log_p = self.log_p("target", row)
                p = log_p.detach().exp()
                return p**a * (1 - p) ** b * log_p

            return self.token_mean(of_row)

        if name == "graddiff":
            return weighted(0, 0)
        if name == "wga":
            return weighted(number["beta_wga"], 0)
        if name == "satimp":
            return weighted(number["beta1"], number["beta2"])
        if name == "simnpo":
            beta, delta = number["beta_simnpo"], number["delta"]
            inside = self.row_mean(lambda row: softplus(beta * (self.log_p("target", row).mean() + delta)))
            return 2 / beta * inside
        if name == "npo":
            beta = number["beta_npo"]
            return 2 / beta * self.row_mean(lambda row: softplus(beta * self.ratio("target", row)))
        if name in ("idkdpo", "altpo"):
            beta = number["beta_dpo"]
            apart = self.row_mean(
                lambda row: (
                    -torch.nn.functional.logsigmoid(beta * (self.ratio("alternate", row) - self.ratio("target", row)))
                )
            )
            return 2 / beta * apart
        if name == "idknll":
            return self.nll("alternate")
        if name == "ceu":
            return self.cross_entropy(
                lambda row, labels: self.now["target"][row][:-1].scatter(1, labels, -torch.inf), skip=1
            )
        if name == "undial":
            lower = -number["beta_undial"]

            def softened(row: int, labels: Tensor) -> Tensor:
                scores = self.then["target"][row][:-1]
                return scores.scatter_add(1, labels, torch.full(labels.shape, lower, dtype=torch.float64))

            return self.cross_entropy(softened)
        if name == "pdu":
            rows = self.now["target"]
            return self.token_mean(lambda row: (rows[row][:-1].amax(-1) - rows[row][:-1].mean(-1)) ** 2)
        states = self.states(self.case.model, "target", 0)
        goal = number["steering"] * control_vector(0, states[0].shape[-1]).double()
        return self.row_mean(lambda row: ((states[row][1:] - goal) ** 2).mean())

    def embed_diff(self) -> Tensor:
        now = self.states(self.case.model, "pair", 0)
        with torch.no_grad():
            then = self.states(self.case.original, "pair", 0)
        return self.row_mean(lambda row: ((now[row][1:] - then[row][1:]) ** 2).mean())

    def total(self, name: str, own: Method, alpha: float) -> Tensor:
        if name == "ceu":
            return self.forget(name, own)
        retain = {"nll": self.nll, "kl": self.kl, "embed_diff": self.embed_diff}[str(own.settings.get("retain", "nll"))]
        shift = alpha * float(own.settings["eps"]) if name == "pdu" else 0.0
        return float(own.settings["gamma"]) * self.forget(name, own) + alpha * retain() - shift


@settings(max_examples=36, deadline=None)
@given(
    st.sampled_from(sorted(FIELD)),
    st.sampled_from([*FAMILIES, "gpt2"]),
    st.integers(0, 99),
    st.sampled_from(["nll", "kl"]),
    st.floats(0.1, 2.0),
    st.floats(0.1, 2.0),
)
def test_losses_and_gradients_equal_plain_code(
    name: str, family: str, seed: int, retain: str, gamma: float, alpha: float
) -> None:
    case = Case(family, seed)
    own: Settings = {**FIELD[name], **({} if name == "ceu" else {"gamma": gamma})}
    if retain == "kl" and name not in ("ceu", "pdu", "rmu"):
        own["retain"] = retain
    method = methods.get(name, alpha=alpha, settings=own, loss=SPAN)
    terms = method.loss(case.model, case.whole(method))
    terms.total.backward()
    ours = gradients(case.model)
    case.model.zero_grad()
    expected = Plain(case).total(name, method, alpha)
    expected.backward()
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert_same_gradients(ours, gradients(case.model), 1e-4)


SPLITS = {
    "one row each": [[0], [1], [2], [3], [4]],
    "two micro batches": [[0, 1, 2], [3, 4]],
    "two workers, one with nothing to do": [[0, 2, 3, 4], [1]],
}


@pytest.mark.parametrize("split", list(SPLITS))
@pytest.mark.parametrize(("name", "own"), [*FIELD.items(), *AS_OTHERS])
def test_micro_batches_and_workers_add_up(name: str, own: Settings, split: str) -> None:
    case = Case("llama")
    method = methods.get(name, alpha=0.7, settings=own, loss=SPAN)
    reference, weights = case.reference(method), case.weights(method, range(5))
    whole = method.loss(case.model, case.batch(method, range(5), weights, reference))
    whole.total.backward()
    expected = gradients(case.model)
    case.model.zero_grad()
    total, parts = 0.0, dict.fromkeys(whole.parts, 0.0)
    for rows in SPLITS[split]:
        terms = method.loss(case.model, case.batch(method, rows, weights.rows(rows), reference))
        terms.total.backward()
        total += terms.total.item()
        for key, value in terms.parts.items():
            parts[key] += value.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-5, abs=1e-5)
    assert parts == pytest.approx({key: value.item() for key, value in whole.parts.items()}, rel=1e-5, abs=1e-5)
    assert_same_gradients(gradients(case.model), expected)
    if name == "pdu":
        once = methods.get(name, alpha=0.7, settings=own)
        once.after_step({key: value.item() for key, value in whole.parts.items()}, epoch=1)
        method.after_step(parts, epoch=1)
        assert method.state()["dual"] == pytest.approx(once.state()["dual"], rel=1e-6)
        assert method.state()["dual"] != 0.7


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
@pytest.mark.parametrize("name", list(FIELD))
def test_ten_more_pads_change_nothing(name: str, family: str) -> None:
    case = Case(family)
    method = methods.get(name, alpha=0.7, settings=FIELD[name], loss=SPAN)
    found = []
    for each in (case, case.padded(10)):
        case.model.zero_grad()
        terms = method.loss(case.model, each.whole(method))
        terms.total.backward()
        found.append((terms.total.item(), gradients(case.model)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5, abs=1e-6)
    assert_same_gradients(found[1][1], found[0][1])


@pytest.mark.parametrize("name", ["npo", "simnpo", "idkdpo", "altpo", "rmu"])
def test_losses_of_rows_are_means_of_rows_alone(name: str) -> None:
    case = Case("llama")
    method = methods.get(name, alpha=0.0, settings=FIELD[name], loss=SPAN)
    reference, everyone = case.reference(method), np.ones(5, dtype=bool)
    whole = method.loss(case.model, case.whole(method, everyone)).total.item()
    alone = []
    for row in range(5):
        batch = case.batch(method, [row], case.weights(method, [row], everyone), reference)
        alone.append(method.loss(case.model, batch).total.item())
    assert whole == pytest.approx(float(np.mean(alone)), rel=1e-5)


@pytest.mark.parametrize(("name", "own"), [*FIELD.items(), *AS_OTHERS])
def test_a_batch_without_active_rows_is_exactly_nothing(name: str, own: Settings) -> None:
    case = Case("llama")
    method = methods.get(name, alpha=0.7, settings=own, loss=SPAN)
    terms = method.loss(case.model, case.whole(method, np.zeros(5, dtype=bool)))
    terms.total.backward()
    assert terms.total.item() == 0.0
    assert not any(gradient.any() for gradient in gradients(case.model).values())
    before = method.state()
    method.after_step({key: value.item() for key, value in terms.parts.items()}, epoch=9)
    assert method.state() == before


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize(("name", "key"), [("npo", "beta_npo"), ("idkdpo", "beta_dpo"), ("altpo", "beta_dpo")])
def test_preferences_start_at_two_ln_two_over_beta(name: str, key: str, beta: float) -> None:
    case = Case("llama")
    method = methods.get(name, alpha=0.0, settings={key: beta}, loss=SPAN)
    terms = method.loss(case.original, case.whole(method))
    assert terms.total.item() == pytest.approx(2 / beta * math.log(2), rel=1e-5)
    assert terms.parts["forget_margin"].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "own", "part"), [("graddiff", {"retain": "kl"}, "kl"), ("rmu", {"layer": 1}, "retain")]
)
def test_nothing_to_keep_is_lost_at_the_start(name: str, own: Settings, part: str) -> None:
    case = Case("llama")
    method = methods.get(name, alpha=1.0, settings=own, loss=SPAN)
    assert method.loss(case.original, case.whole(method)).parts[part].item() == pytest.approx(0.0, abs=1e-6)


def test_undial_starts_by_lowering_the_labels_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 13, generator=generator, requires_grad=True)
    labels = torch.randint(0, 13, (6,), generator=generator)
    # With the identity as output matrix, hidden states are scores.
    same = ReferenceBatch(weight=torch.eye(13), target_hidden=scores.detach()[None])
    term = SoftenedTerm(1.0, labels, torch.ones(6), same, torch.arange(6), 10.0)
    total, _ = vocabulary_loss(scores, torch.eye(13), None, [Segment(6, [term])], chunk=4)
    (slope,) = torch.autograd.grad(total, scores)
    own = slope.gather(1, labels[:, None])[:, 0]
    assert (own > 0).all()
    others = slope.scatter(1, labels[:, None], -1.0)
    assert (others < 0).all()


@pytest.mark.parametrize("kept", [0, 1])
def test_ceu_with_nothing_left_is_no_number_that_spreads(kept: int) -> None:
    case = Case("llama")
    labels = np.full_like(case.targets.labels, IGNORED_LABEL)
    labels[:, -1:] = case.targets.labels[:, -1:]
    case.targets = replace(case.targets, labels=labels)
    method = methods.get("ceu", settings={"skip_first": 1 - kept}, loss=SPAN)
    terms = method.loss(case.model, case.whole(method))
    terms.total.backward()
    assert math.isfinite(terms.total.item()) and (terms.total.item() > 0) == bool(kept)
    assert all(gradient.isfinite().all() for gradient in gradients(case.model).values())


def test_the_dual_variable_follows_the_limit_after_the_warm_up() -> None:
    method = methods.get("pdu", alpha=1.0, settings={"eps": 0.3, "dual_step": 2.0, "warmup": 2})
    method.after_step({"retain": 0.8, "dual": 1.0}, epoch=2)
    assert method.state() == {"dual": 1.0}
    method.after_step({"retain": 0.8, "dual": 1.0}, epoch=3)
    assert method.state()["dual"] == pytest.approx(2.0)
    method.after_step({"retain": float("nan"), "dual": 2.0}, epoch=3)
    assert method.state()["dual"] == pytest.approx(2.0)
    for _ in range(9):
        method.after_step({"retain": 0.0, "dual": method.state()["dual"]}, epoch=3)
    assert method.state() == {"dual": 0.0}
    # At zero the retain loss is still measured, and can raise it again.
    assert method.needs_pairs
    method.after_step({"retain": 0.8, "dual": 0.0}, epoch=3)
    assert method.state()["dual"] == pytest.approx(1.0)
    other = methods.get("pdu")
    other.load_state(method.state())
    assert other.state() == method.state()


def test_by_epochs_the_dual_variable_follows_what_is_measured_after_one() -> None:
    method = methods.get("pdu", alpha=1.0, settings={"eps": 0.3, "dual_step": 2.0, "warmup": 2, "dual_update": "epoch"})
    assert not method.follows_steps and methods.get("pdu").follows_steps
    # OpenUnlearning changes it first at the end of the last epoch of the warm-up.
    asked = [method.measured_after_epoch(epoch) for epoch in (1, 2, 3)]
    assert asked[0] is None and asked[1] == asked[2] == method.measured_after_epoch()
    assert asked[1] is not None and asked[1].read == ("pair",)
    assert methods.get("pdu").measured_after_epoch(9) is None
    method.after_epoch({"retain": 0.8}, epoch=2)
    assert method.state()["dual"] == pytest.approx(2.0)
    method.after_epoch({"retain": float("nan")}, epoch=3)
    assert method.state()["dual"] == pytest.approx(2.0)
    method.after_epoch({"retain": -9.0}, epoch=3)
    assert method.state() == {"dual": 0.0}


def test_the_control_vector_is_positive_of_length_one_and_follows_from_its_seed() -> None:
    one, same, other = control_vector(3, 50), control_vector(3, 50), control_vector(4, 50)
    assert (one >= 0).all() and float(one.norm()) == pytest.approx(1.0)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_defaults_are_those_of_the_field() -> None:
    def told(name: str, **own: Any) -> tuple[float, Settings]:
        method = methods.get(name, settings=own)
        return method.alpha, method.settings

    assert told("graddiff") == (1.0, {"gamma": 1.0, "retain": "nll"})
    assert told("simnpo") == (1.0, {"beta_simnpo": 4.5, "delta": 0.0, "gamma": 0.125, "retain": "nll"})
    assert told("undial")[0] == 0.0 and not methods.get("undial").needs_pairs
    assert (told("satimp")[0], told("satimp")[1]["gamma"]) == (0.1, 1.0)
    yaml = told("satimp", preset="ou_yaml")
    assert (yaml[0], yaml[1]["gamma"]) == (1.0, 0.1)
    assert told("satimp", preset="ou_yaml", gamma=0.5)[1]["gamma"] == 0.5
    assert methods.get("icu").alpha == 0.5


def test_rmu_trains_what_it_names() -> None:
    paper = methods.get("rmu", settings={"train_layers": "5,6, 7", "train_parameters": "down_proj"})
    names = [f"model.layers.{n}.mlp.{part}.weight" for n in range(9) for part in ("up_proj", "down_proj")]
    trained = [name for name in (*names, "lm_head.weight") if paper.trains_parameter(name)]
    assert trained == [f"model.layers.{n}.mlp.down_proj.weight" for n in (5, 6, 7)]
    # Above the layer that is read nothing has a gradient, unless the retain loss gives it one.
    assert [methods.get("rmu").trains_parameter(f"model.layers.{n}.a.weight") for n in (7, 8)] == [True, False]
    assert methods.get("rmu", settings={"retain": "nll"}).trains_parameter("model.layers.8.a.weight")


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("simnpo", {"beta_simnpo": 0.0}, "must be above 0, found 0.0"),
        ("graddiff", {"retain": "kll"}, "must be one of nll, kl, found 'kll'"),
        ("satimp", {"preset": "ou"}, "must be one of paper, ou_yaml"),
        ("wga", {"beta_wga": -1.0}, "must not be negative, found -1.0"),
        ("rmu", {"train_layers": "5;6"}, "numbers of layers such as '5,6,7', found '5;6'"),
        ("rmu", {"layer": 1.5}, "must be a whole number, found 1.5"),
        ("ceu", {"gamma": 1.0}, "unknown setting 'gamma'"),
        ("npo", {"npo_style": "muse"}, "did you mean 'muse_logits'"),
    ],
)
def test_settings_that_are_refused(name: str, own: Settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.get(name, settings=own)
