"""Epochs on one and two workers: the same numbers, however rows are shared out and whoever has been forgotten.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icu_ray.training.batches import epoch_batches
from tests.support import training_case
from tests.support.training_case import case, trial_settings
from tests.support.worker_processes import worker_processes
from tests.training.test_drawn_pairs import near, plain_epoch

ROOT = Path(__file__).parents[2]


FLAGS = "1001100"


def group(world_size: int, stage: int, folder: Path) -> list[dict[str, Any]]:
    """What tests/support/training_case.py came to on each worker of a group of processes."""
    out = folder / f"{world_size}.pt"
    given = [str(world_size), str(stage), str(folder / f"meet_{world_size}"), str(out), FLAGS]
    return worker_processes("tests/support/training_case.py", world_size, *given, out=out)


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """One worker, which takes its rows at once, and two that take them one by one, with ZeRO-2."""
    folder = tmp_path_factory.mktemp("groups")
    return {1: group(1, 0, folder), 2: group(2, 2, folder)}


def masked_epoch(active: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, float], list[int]]:
    """An epoch as the authors write it: forgotten rows run with the others, and the means leave them out."""
    model, data = case()
    assert data.pairs is not None
    settings = trial_settings(optim=training_case.SMOOTH)
    original, _ = case()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=settings.optim.betas, eps=settings.optim.eps)
    sums: dict[str, float] = {"forget": 0.0, "learn": 0.0, "kl": 0.0}
    counts = []
    for batch in epoch_batches(active, seed=settings.seed, epoch=1, batch_size=4, settings=settings.train):
        live = torch.from_numpy(active[batch])
        counts.append(int(live.sum()))

        def scores(model: Any, rows: Any, batch: np.ndarray = batch) -> torch.Tensor:
            ids, mask = torch.from_numpy(rows.input_ids[batch]), torch.from_numpy(rows.mask[batch].astype(np.int64))
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
            return logits.log_softmax(-1)  # type: ignore[no-any-return]

        def mean_nll(log_q: torch.Tensor, rows: Any, batch: np.ndarray = batch, live: Any = live) -> torch.Tensor:
            labels = torch.from_numpy(rows.labels[batch])[:, 1:]
            nll = -log_q[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
            return nll[live][labels[live] >= 0].mean()

        real = torch.from_numpy(data.pairs.mask[batch])
        log_q = {"target": scores(model, data.targets), "pair": scores(model, data.pairs)}
        with torch.no_grad():
            log_p = scores(original, data.pairs)
        terms = {
            "forget": mean_nll(log_q["target"], data.targets),
            "learn": mean_nll(log_q["pair"], data.pairs),
            "kl": (log_p.exp() * (log_p - log_q["pair"])).sum(-1)[live][real[live]].mean(),
        }
        optimizer.zero_grad()
        (-terms["forget"] + 0.5 * terms["learn"] + terms["kl"]).backward()
        optimizer.step()
        sums = {name: value + float(terms[name].detach()) for name, value in sums.items()}
    return dict(model.named_parameters()), {k: v / len(counts) for k, v in sums.items()}, counts


@pytest.mark.parametrize("workers", [1, 2])
def test_forgotten_rows_are_left_out_and_nothing_else_changes(
    workers: int, groups: dict[int, list[dict[str, Any]]]
) -> None:
    active = np.array([flag == "1" for flag in FLAGS])
    parameters, losses, counts = masked_epoch(active)
    found = groups[workers][0]
    assert found["losses"] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found["parameters"][name], parameter.detach(), rtol=1e-4, atol=1e-5)
    if workers == 1:
        # Targets and pairs of the active rows, in one forward a batch.
        assert found["forwards"] == [2 * count for count in counts]
        return
    first, second = (np.array(each["forwards"]) for each in groups[2])
    steps = [math.ceil(count / 2) for count in counts]
    # A row alone, or in its want a weightless one: as many forwards on both, whatever was forgotten.
    assert first.tolist() == second.tolist() == [2] * sum(steps)


def test_two_workers_with_zero_2_equal_one(groups: dict[int, list[dict[str, Any]]]) -> None:
    """Also with a single target: the worker without one must be asked all that the other is, or that one waits."""
    ones, twos = groups[1][0]["trials"], groups[2][0]["trials"]
    for one, two in zip(ones, twos, strict=True):
        for mine, theirs in zip(one["losses"], two["losses"], strict=True):
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert two["ma"] == pytest.approx(one["ma"], abs=1e-9)
        assert two["el"] == pytest.approx(one["el"], abs=1e-9)
        assert two["came_back"] == pytest.approx(one["came_back"])
        assert two["perplexity"] == pytest.approx(one["perplexity"], rel=1e-4)
        for name, parameter in one["parameters"].items():
            torch.testing.assert_close(two["parameters"][name], parameter, rtol=1e-4, atol=1e-5)
    start, *attacked = ones[0]["came_back"]
    assert start is None and all(0 < share < 1 for share in attacked)  # attacked after each epoch, some rows are back
    assert ones[1]["el"][1] is None and ones[1]["el"][2] is not None  # left out while it decided nothing


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_is_shared_out(workers: int, groups: dict[int, list[dict[str, Any]]]) -> None:
    """Eleven rows of the pool in batches of four: the last has three, of which the second of two workers gets one."""
    parameters, losses, steps = plain_epoch("retain")
    found = groups[workers][0]["drawn"]
    near(found, parameters, losses)
    assert found["steps"] == steps
