"""Fine-tuning: epochs in which a model learns texts, until it knows those that are to be forgotten.

    history = finetune(how, settings, rows, samples, model, tokenizer, rank=0, world_size=1, on_epoch=report)

The engine, the batches and the loss are those of unlearning (training/epoch.py), with the learning rate's schedule and
without pairs. Like a trial it is deterministic for a seed, a number of threads and a world size, also where it was
interrupted. Knows neither Ray nor storage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import LossConfig, ModelConfig, ModelTrainingConfig, OptimConfig, SweepConfig, TrainConfig
from icu_ray.data.examples import TokenRows
from icu_ray.errors import UserError
from icu_ray.methods.learn import Learn
from icu_ray.metrics.probe import probe
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.training.checkpoints import TrialState, load_checkpoint, save_checkpoint
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.records import TrialData
from icu_ray.training.refinement import SKIPS_IN_A_ROW
from icu_ray.training.schedules import Schedule
from icu_ray.training.validation import gathered

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BETAS = (0.9, 0.999)
"""AdamW's usual ones; those of `optim` are the paper's, for unlearning."""


@dataclass(frozen=True)
class FinetuneReport:
    """What the caller is told after an epoch; every rank must call save(folder), or none."""

    history: tuple[EpochRecord, ...]
    over: bool
    save: Callable[[Path], None]


def finetune_settings(model: ModelConfig, config: SweepConfig) -> TrialSettings:
    """A model's `train` section as what an EpochTrainer is told."""
    how = model.train
    assert how is not None
    return TrialSettings(
        method=Learn.name,
        alpha=0.0,
        beta=0.0,
        lr=how.lr,
        batch_size=how.batch_size,
        max_epochs=how.epochs,
        seed=how.seed,
        micro_batch=how.micro_batch,
        precision=model.precision,
        zero_stage=model.zero_stage,
        offload_optimizer=model.offload_optimizer,
        activation_checkpointing=model.activation_checkpointing,
        loss=LossConfig(on=config.loss.on, chunk=config.loss.chunk),
        optim=OptimConfig(betas=BETAS, weight_decay=how.weight_decay),
        train=TrainConfig(),
        eval=config.eval,
    )


def finetune(
    how: ModelTrainingConfig,
    settings: TrialSettings,
    rows: TokenRows,
    samples: Mapping[int, NDArray[np.int64]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    epochs: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    resume_from: Path | None = None,
    notes: tuple[str, ...] = (),
    on_epoch: Callable[[FinetuneReport], None] = lambda report: None,
    on_step: Callable[[int, float], None] = lambda epoch, part: None,
) -> tuple[EpochRecord, ...]:
    """Train `model` on all rows; the history, whose last record says what was reached.

    Needs a torch.distributed group, as `run_trial`. samples: the rows of each forget sample, of which MA is measured
    after every epoch; none are measured where there are none. epochs: after how many to end, whatever MA is then, of a
    schedule that still counts with `how.epochs`. notes: what happened before, for the next epoch's record. on_step:
    told the epoch and its part that is done. UserError where the model does not learn what `how.min_memorization` asks
    for, or diverges.
    """
    data = TrialData(rows)
    trainer = EpochTrainer(settings, data, model, tokenizer, rank, world_size, method=Learn())
    of_epoch = -(-len(rows) // settings.batch_size)
    steps_of_all = how.epochs * of_epoch
    schedule = Schedule(how.lr, how.schedule, round(how.warmup * steps_of_all), steps_of_all)
    known = np.unique(np.concatenate(list(samples.values()))) if samples else np.zeros(0, np.int64)
    history: tuple[EpochRecord, ...] = ()
    if resume_from is not None:
        state, loaded = load_checkpoint(resume_from, trainer.engine)
        history, notes = state.history, (*notes, *loaded)
    every = np.ones(len(rows.first_rows), dtype=bool)
    over = _is_over(how, history, epochs)
    while not over:
        epoch, started = len(history) + 1, time.perf_counter()

        def before_step(number: int, epoch: int = epoch) -> None:
            step = (epoch - 1) * of_epoch + number
            trainer.engine.set_learning_rate(schedule.rate(step))
            on_step(epoch, number / of_epoch)

        loss, steps = trainer.train(epoch, every, before_step)
        trained = time.perf_counter()
        if trainer.engine.skipped_in_a_row >= SKIPS_IN_A_ROW or any(
            value is None or not math.isfinite(value) for value in loss.values()
        ):
            raise UserError(
                f"train: diverged in epoch {epoch} (its loss is not finite); take a smaller lr than {how.lr:g}"
            )
        ma, forget_loss = _known(trainer, rows, known, samples)
        seconds = {"train": trained - started, "validate": time.perf_counter() - trained}
        scores = Scores(ma, None, forget_loss, None, None, None)
        history = (*history, EpochRecord(epoch, len(every), scores, loss, seconds, steps, notes))
        notes = ()
        over = _is_over(how, history, epochs)
        save = partial(_save, trainer, TrialState(epoch, every, history))
        on_epoch(FinetuneReport(history, over, save))
    trainer.close()  # from here on the model is whole on every rank, whatever divided it
    model.eval()  # type: ignore[no-untyped-call]
    return history


def _save(trainer: EpochTrainer, state: TrialState, folder: Path) -> None:
    save_checkpoint(folder, trainer.engine, state)


def _known(
    trainer: EpochTrainer, rows: TokenRows, known: NDArray[np.int64], samples: Mapping[int, NDArray[np.int64]]
) -> tuple[float | None, float | None]:
    """MA of the forget sample that is known least, and the mean loss of all; None where none is measured."""
    if not len(known):
        return None, None
    mine = rows.select(known).share(trainer.rank, trainer.world_size)
    with trainer.engine.whole_model():
        found = probe(trainer.model, mine, should_decode=lambda ma: False, chunk=trainer.settings.eval.chunk)
    parts = gathered((found.ma, found.forget_loss), trainer.world_size)
    ma, losses = (np.concatenate([part[place] for part in parts]) for place in range(2))
    means = [np.nanmean(of_sample) for own in samples.values() if (of_sample := ma[np.isin(known, own)]).size]
    lowest, loss = float(np.min(means)), float(np.nanmean(losses))
    return lowest if math.isfinite(lowest) else None, loss if math.isfinite(loss) else None


def _is_over(how: ModelTrainingConfig, history: tuple[EpochRecord, ...], epochs: int | None) -> bool:
    """Whether the last epoch of `history` was the last one; UserError where it was, and too little was learnt."""
    if epochs is not None:
        return len(history) >= epochs
    ma = history[-1].scores.ma if history else None
    if how.min_memorization is not None and ma is not None and ma >= how.min_memorization:
        return True
    if len(history) < how.epochs:
        return False
    if how.min_memorization is not None:
        raise UserError(
            f"train: not memorised after epochs={how.epochs}: MA {'not measured' if ma is None else format(ma, '.3f')} "
            f"(min_memorization={how.min_memorization:g}) on the forget sample that is known least; raise epochs or lr"
        )
    return True
