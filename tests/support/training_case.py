"""A small trial for tests of the training package, runnable as a process of a gloo group.

python tests/support/training_case.py RANK WORLD_SIZE ZERO_STAGE RENDEZVOUS_FILE OUT_FILE FLAGS

It trains one epoch with FLAGS (1 active, 0 forgotten, one a sample), one beside a pool whose rows it draws targets for
(see `drawn_case`), then runs a whole trial, and one of a single target whose EL is decoded for the decision alone:
OUT_FILE.RANK gets what came of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from icu_ray.config import ElConfig, EvalConfig, FilterConfig, LossConfig, OptimConfig, StopConfig, TrainConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.pair_draws import PairDraws
from icu_ray.models.reference import Cache, build_reference
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.training.engine import distributed, set_device_environment
from icu_ray.training.records import TrialData
from tests.support.tiny_models import COLUMNS, PAD, VOCABULARY, tiny_model_of

FILTER = FilterConfig(encoder="bundled", encoder_layer=1, bertscore=0.0, bleu=0.0)


POOL = 11
"""Rows of the pool that pairs are drawn from."""
LEAK = 0.25
"""What counts as come back: of the four or so words of a secret, one."""
SMOOTH = OptimConfig(eps=1e-3)
"""Adam's usual 1e-8 turns rounding of gradients that are nearly zero into whole steps."""


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w1", pad_token="w1", unk_token="w0")


def some_rows(count: int, seed: int) -> TokenRows:
    ids = np.random.default_rng(seed).integers(2, 20, size=(count, COLUMNS.length))
    mask = np.ones_like(ids, dtype=bool)
    mask[0, :2] = False
    ids[0, :2] = PAD
    prompt = slice(COLUMNS.prefix_start, COLUMNS.suffix_start)
    texts = tuple(" ".join(f"w{t}" for t in row[COLUMNS.suffix_start :]) for row in ids)
    return TokenRows(
        tuple(f"r{i}" for i in range(count)),
        ids,
        mask,
        np.where(mask, ids, IGNORED_LABEL),
        ids[:, prompt],
        mask[:, prompt],
        texts,
        COLUMNS,
        PAD,
        PAD,
    )


def in_windows(rows: TokenRows, texts: Sequence[int]) -> TokenRows:
    """The same rows as windows of texts, whose numbers are given."""
    return replace(rows, ids=tuple(f"t{text}" for text in texts), texts=tuple(texts))


def case(
    family: str = "gpt_neo", count: int = 7, texts: Sequence[int] | None = None
) -> tuple[PreTrainedModel, TrialData]:
    """A tiny model that knows its targets, with pairs, held-out rows and its own reference.

    texts: the targets are windows of these texts.
    """
    model = tiny_model_of(family, seed=0)
    targets, pairs = some_rows(count, 1), some_rows(count, 2)
    ids = torch.from_numpy(targets.input_ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    targets = targets if texts is None else in_windows(targets, texts)
    return model, TrialData(targets, pairs, some_rows(3, 3), build_reference(model, pairs))


def drawn_case(
    by: str, seeds: Sequence[int] = (42,), epochs: int = 4, cache: Cache = "hidden", texts: Sequence[int] | None = None
) -> tuple[PreTrainedModel, TrialData]:
    """The same case with pairs drawn from a pool of 11 rows. by: epoch, never or retain (the anchor)."""
    model, data = case(texts=texts)
    pool = some_rows(POOL, 5)
    pool = replace(pool, ids=tuple(f"p{row}" for row in range(POOL)))
    many = len(data.targets.first_rows)
    draws = PairDraws(many, POOL, tuple(seeds), 0 if by == "never" else epochs, whole=by == "retain")
    pairs = pool.select(draws.pool_rows)
    return model, replace(data, pairs=pairs, draws=draws, reference=build_reference(model, pairs, cache))


def trial_settings(**changes: object) -> TrialSettings:
    values: dict[str, object] = {
        "method": "icu",
        "alpha": 0.5,
        "beta": 1.0,
        "lr": 3e-3,
        "batch_size": 4,
        "max_epochs": 4,
        "filter": FILTER,
        "el": ElConfig(ngram=2),
        "stop": StopConfig(ma=0.2, el=0.05, on_empty=False),
        "loss": LossConfig(chunk=7),
        "train": TrainConfig(batch_size=4),
    }
    return TrialSettings(**(values | changes))  # type: ignore[arg-type]


def one_epoch(
    active: np.ndarray,
    rank: int = 0,
    world_size: int = 1,
    texts: Sequence[int] | None = None,
    drawn: tuple[PreTrainedModel, TrialData] | None = None,
    **changes: object,
) -> dict[str, Any]:
    """Parameters and losses after an epoch of training, and the rows of every forward of this rank."""
    from icu_ray.training.epoch import EpochTrainer

    model, data = case(texts=texts) if drawn is None else drawn
    trainer = EpochTrainer(trial_settings(optim=SMOOTH, **changes), data, model, tokenizer(), rank, world_size)
    forwards: list[int] = []
    watch = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: forwards.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    losses, steps = trainer.train(1, active)
    watch.remove()
    trainer.engine.close()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {"parameters": parameters, "losses": losses, "steps": steps, "forwards": forwards}


def whole_trial(count: int, rank: int, world_size: int, **changes: object) -> dict[str, Any]:
    """What a trial of two epochs on `count` targets came to."""
    from icu_ray.training.loop import run_trial

    model, data = case(count=count)
    settings = trial_settings(micro_batch=1, max_epochs=2, leak=LEAK, **changes)
    with distributed(rank, world_size):
        outcome = run_trial(settings, data, model, tokenizer(), rank=rank, world_size=world_size)
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "losses": [dict(record.loss) for record in outcome.history],
        "ma": [record.scores.ma for record in outcome.history],
        "el": [record.scores.el for record in outcome.history],
        "came_back": [record.came_back for record in outcome.history],
        "perplexity": outcome.after.ppl_heldout,
    }


def main() -> None:
    rank, world_size, stage = (int(text) for text in sys.argv[1:4])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=world_size)
    active = np.array([flag == "1" for flag in sys.argv[6]])
    how: dict[str, Any] = {"zero_stage": stage, "micro_batch": 1 if world_size > 1 else None}
    found = one_epoch(active, rank, world_size, **how)
    found["drawn"] = one_epoch(active, rank, world_size, drawn=drawn_case("retain"), **how)
    trials = [whole_trial(7, rank, world_size, zero_stage=stage)]
    trials.append(whole_trial(1, rank, world_size, zero_stage=stage, eval=EvalConfig(el="decision"), lr=3e-4))
    torch.save({**found, "trials": trials}, f"{sys.argv[5]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
