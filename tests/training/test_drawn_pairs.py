"""Training beside pairs that are drawn at random: against a plain loop, and whatever else must change no number.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.data.examples import TokenRows
from icu_ray.models.reference import Cache, build_reference
from icu_ray.training.batches import over_pool
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from tests.support.training_case import (
    POOL,
    SMOOTH,
    case,
    drawn_case,
    one_epoch,
    some_rows,
    tokenizer,
    trial_settings,
)

ACTIVE = np.array([flag == "1" for flag in "1001100"])
SEED, BATCH = 42, 4


def sha(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def plain_epoch(by: str) -> tuple[dict[str, torch.Tensor], dict[str, float], int]:
    """The first epoch of ICU, written out: draws, batches, losses and Adam, forgotten rows left out."""
    (model, data), (original, _) = case(), case()
    pool = some_rows(POOL, 5)
    if by == "retain":
        left = np.flatnonzero(ACTIVE)
        places = [(int(left[sha(f"target:{SEED}:1:{row}") % len(left)]), row, True) for row in range(POOL)]
    else:
        epoch = 0 if by == "never" else 1
        places = [(row, sha(f"pair:{SEED}:{epoch}:{row}") % POOL, bool(ACTIVE[row])) for row in range(len(ACTIVE))]
    order = np.random.default_rng([SEED, 1]).permutation(len(places))
    told = trial_settings(optim=SMOOTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=told.lr, betas=told.optim.betas, eps=told.optim.eps)

    def log_softmax(model: Any, rows: Any, which: list[int]) -> torch.Tensor:
        ids, mask = torch.from_numpy(rows.input_ids[which]), torch.from_numpy(rows.mask[which].astype(np.int64))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)  # type: ignore[no-any-return]

    def nll(log_q: torch.Tensor, rows: Any, which: list[int]) -> torch.Tensor:
        labels = torch.from_numpy(rows.labels[which])[:, 1:]
        found = -log_q[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
        return found[labels >= 0].mean()

    sums, steps = {"forget": 0.0, "learn": 0.0, "kl": 0.0}, 0
    for at in range(0, len(order), BATCH):
        batch = [places[place] for place in order[at : at + BATCH] if places[place][2]]
        if not batch:
            continue
        targets, pairs = [int(target) for target, _, _ in batch], [pair for _, pair, _ in batch]
        log_q = log_softmax(model, data.targets, targets), log_softmax(model, pool, pairs)
        with torch.no_grad():
            log_p = log_softmax(original, pool, pairs)
        real = torch.from_numpy(pool.mask[pairs])
        terms = {
            "forget": nll(log_q[0], data.targets, targets),
            "learn": nll(log_q[1], pool, pairs),
            "kl": (log_p.exp() * (log_p - log_q[1])).sum(-1)[real].mean(),
        }
        optimizer.zero_grad()
        (-terms["forget"] + 0.5 * terms["learn"] + terms["kl"]).backward()
        optimizer.step()
        sums = {name: value + float(terms[name].detach()) for name, value in sums.items()}
        steps += 1
    return dict(model.named_parameters()), {name: value / steps for name, value in sums.items()}, steps


def near(found: dict[str, Any], parameters: dict[str, torch.Tensor], losses: dict[str, float]) -> None:
    assert found["losses"] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found["parameters"][name], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["epoch", "never", "retain"])
def test_an_epoch_is_what_a_plain_loop_makes_of_the_draws(by: str) -> None:
    parameters, losses, steps = plain_epoch(by)
    found = one_epoch(ACTIVE, drawn=drawn_case(by))
    assert found["steps"] == steps
    near(found, parameters, losses)
    # Nor do micro batches, other seeds, a longer trial, or a frozen copy in place of a cache change it.
    near(
        one_epoch(ACTIVE, drawn=drawn_case(by, (7, 42, 1), epochs=9, cache="recompute"), micro_batch=1),
        parameters,
        losses,
    )


def trial(by: str, resume: Path | None = None, save: Path | None = None, **case: Any) -> TrialOutcome:
    model, data = drawn_case(by, **case)

    def on_epoch(report: EpochReport) -> None:
        if save is not None and report.record.epoch == 1:
            report.save(save)

    return run_trial(trial_settings(max_epochs=3), data, model, tokenizer(), resume_from=resume, on_epoch=on_epoch)


@pytest.mark.parametrize("by", ["epoch", "retain"])
def test_a_continued_trial_draws_what_it_would_have_drawn(by: str, tmp_path: Path) -> None:
    whole = trial(by, save=tmp_path / "c")
    again = trial(by, resume=tmp_path / "c")
    assert again.after == whole.after and again.samples == whole.samples
    assert [record.loss for record in again.history] == [record.loss for record in whole.history]
    # Another pair in each epoch is nobody's pair.
    assert {(sample.pair_id, sample.pair_overlap) for sample in whole.samples} == {(None, None)}


def test_pairs_that_are_drawn_once_are_told_by_name() -> None:
    texts = (0, 0, 1, 2, 2, 2, 3)
    outcome = trial("never", texts=texts)
    drawn = [sha(f"pair:{SEED}:0:{text}") % POOL for text in range(4)]
    assert [sample.pair_id for sample in outcome.samples] == [f"p{row}" for row in drawn]
    _, data = drawn_case("never", texts=texts)
    beside = data.beside(SEED, 3)
    assert beside is not None and data.pairs is not None
    # Every window of a text has the text's pair beside it.
    assert [data.pairs.ids[row] for row in beside] == [f"p{drawn[text]}" for text in texts]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 30), st.integers(0, 99), st.integers(1, 9))
def test_an_epoch_over_the_pool_takes_each_row_once_beside_an_active_target(
    flags: list[bool], pool: int, seed: int, epoch: int
) -> None:
    active = np.asarray(flags)
    rows = over_pool(active, pool, seed=seed, epoch=epoch)
    if not active.any():
        assert len(rows.live) == len(rows.targets) == 0
        return
    assert rows.pairs is not None and rows.pairs.tolist() == list(range(pool))
    assert len(rows.targets) == pool and active[rows.targets].all() and rows.live.all()


def test_an_epoch_over_the_pool_ends_at_once_when_all_is_forgotten() -> None:
    found = one_epoch(np.zeros(len(ACTIVE), dtype=bool), drawn=drawn_case("retain"))
    assert found["steps"] == 0 and found["losses"] == {} and found["forwards"] == []


def test_a_method_without_pairs_shares_a_reference_that_has_fewer_than_targets() -> None:
    original, data = drawn_case("retain")
    assert data.pairs is not None
    alone = replace(data, pairs=None, draws=None)

    def trained(pairs: TokenRows | None, cache: Cache) -> dict[str, Any]:
        made = build_reference(original, pairs, cache, targets=data.targets)
        model, _ = drawn_case("retain")
        return one_epoch(ACTIVE, drawn=(model, replace(alone, reference=made)), method="npo")

    shared, own = trained(data.pairs.select([3, 5]), "hidden"), trained(None, "none")
    assert own["steps"] > 0 and shared["losses"] == own["losses"]


def test_a_method_without_pairs_runs_over_its_targets() -> None:
    _, data = drawn_case("retain")
    rows = replace(data, pairs=None, draws=None).epoch_rows(SEED, 1, ACTIVE)
    assert rows.targets.tolist() == list(range(len(ACTIVE))) and rows.pairs is None
    assert rows.live.tolist() == ACTIVE.tolist()
