"""The epochs of one trial on one worker of its group: train on the active targets, measure, refine, maybe stop.

    outcome = run_trial(settings, data, model, tokenizer, rank=0, world_size=1, on_epoch=report)

Knows DeepSpeed through training/engine.py, and neither Ray nor storage: whoever calls it is handed each epoch's record
with a way to save a checkpoint. Deterministic for a seed, a number of threads and a world size: an interrupted trial
that is continued from its last checkpoint ends with the numbers of one that never was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icu_ray.plan.thresholds import thresholds_of
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.results import NOT_TRAINED, RETRAINED_WITHOUT, EpochRecord, Scores, Status
from icu_ray.training.best_epoch import best_epoch, load_weights, save_weights
from icu_ray.training.checkpoints import TrialState, load_checkpoint, save_checkpoint
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.records import EpochReport, TrialData, TrialOutcome, sample_records, with_heldout_above
from icu_ray.training.refinement import Decision, Flags, at_start, below_thresholds, decide, refine, with_best
from icu_ray.training.validation import Validation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_trial(
    settings: TrialSettings,
    data: TrialData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rank: int = 0,
    world_size: int = 1,
    resume_from: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    best_weights: Callable[[int], AbstractContextManager[Path | None]] = lambda epoch: nullcontext(),
    notes: tuple[str, ...] = (),
) -> TrialOutcome:
    """Unlearn `data.targets` in `model` until the paper's rule says stop.

    Needs a torch.distributed group (training.engine.distributed makes one for a single process). on_epoch is called on
    every rank after every epoch, epoch 0 included. resume_from: a folder that EpochReport.save wrote. best_weights: the
    file that EpochReport.save_weights wrote after an epoch, None where it is gone; asked with stop.keep=best alone.
    notes: what happened before, for the record of the next epoch.
    """
    if settings.max_epochs == 0:
        return _untrained(settings, data, tokenizer, on_epoch)
    began = time.perf_counter()
    trainer = EpochTrainer(settings, data, model, tokenizer, rank, world_size)

    last: Validation | None = None
    before = data.before
    if before is None:
        # A continued trial's model already holds other weights only after the checkpoint is loaded.
        before = trainer.validate()
    thresholds = thresholds_of(settings.stop, before.scores, settings.el.ngram)

    def judged(epoch: int, scores: Scores, active: Flags, steps: int, came_back: float | None) -> Decision:
        return decide(
            epoch,
            scores,
            active,
            settings.stop,
            settings.max_epochs,
            thresholds=thresholds,
            skipped_in_a_row=trainer.engine.skipped_in_a_row,
            steps=steps,
            came_back=came_back,
        )

    def best_so_far(history: tuple[EpochRecord, ...]) -> int | None:
        return best_epoch(history, thresholds) if settings.stop.keep == "best" and len(history) > 1 else None

    decision = at_start(before.scores, thresholds)
    if resume_from is not None:
        state, loaded = load_checkpoint(resume_from, trainer.engine)
        trainer.method.load_state(state.method)
        notes = (*notes, *loaded)
        history, active, epoch = state.history, state.active, state.epoch
        if epoch > 0:
            decision = judged(epoch, history[-1].scores, active, _steps(history), history[-1].came_back)
    else:
        epoch, active = 0, np.ones(len(data.targets.first_rows), dtype=bool)
        if settings.filter.at_start:
            active = refine(active, before.bertscore_f1, before.bleu, settings.filter)
        history = (EpochRecord(0, int(active.sum()), before.scores),)
        on_epoch(_report(trainer, history, decision, active, before))
    prepared, told = time.perf_counter() - began, 0.0
    while not decision.stop:
        epoch += 1
        started = time.perf_counter()
        skipped_before = trainer.engine.skipped_steps
        before_it = _steps(history)
        loss, steps = trainer.train(epoch, active, steps_before=before_it)
        trained = time.perf_counter()
        last = trainer.validate(
            heldout="perplexity" if settings.eval.heldout == "epochs" else None,
            decision=thresholds if settings.eval.el == "decision" else None,
        )
        came_back = None if settings.leak is None else trainer.came_back(settings.leak)
        active = refine(active, last.bertscore_f1, last.bleu, settings.filter)
        decision = judged(epoch, last.scores, active, before_it + steps, came_back)
        if decision.stop:
            last = trainer.complete(last)
            decision = judged(epoch, last.scores, active, before_it + steps, came_back)
        seconds = {"train": trained - started, "validate": time.perf_counter() - trained}
        record = EpochRecord(
            epoch,
            int(active.sum()),
            last.scores,
            loss,
            seconds,
            steps,
            notes,
            trainer.engine.skipped_steps - skipped_before,
            came_back,
        )
        notes = ()
        history = (*history, record)
        measured = time.perf_counter()
        on_epoch(_report(trainer, history, decision, active, last, best_so_far(history)))
        told += time.perf_counter() - measured
    trainer.close()  # from here on the model is whole on every rank, whatever divided it
    best = best_so_far(history)
    kept, scores = None, None
    if best is not None and best != epoch and decision.status != "failed":
        with best_weights(best) as file:
            if file is not None:
                load_weights(model, file)
                kept, last = best, trainer.validate()
                scores = last.scores
        decision = with_best(decision, best, scores, thresholds, len(data.targets.first_rows))
    if last is None:
        # Continued after its last epoch: everything is known but the generations. Without an epoch all is known.
        last = trainer.validate() if epoch > 0 else before
    seconds = {name: sum(record.seconds.get(name, 0.0) for record in history) for name in ("train", "validate")}
    seconds |= {"engine": prepared, "checkpoint": told}
    assert decision.status is not None
    samples = sample_records(tokenizer, data, before, last, settings.filter, settings.seed)
    judge = with_heldout_above(thresholds, before)
    return TrialOutcome(
        decision.status,
        decision.reason,
        epoch,
        before.scores,
        last.scores,
        history,
        samples,
        seconds,
        judge,
        kept_epoch=kept,
    )


def _steps(history: tuple[EpochRecord, ...]) -> int:
    return sum(record.steps for record in history)


def _untrained(
    settings: TrialSettings,
    data: TrialData,
    tokenizer: PreTrainedTokenizerBase,
    on_epoch: Callable[[EpochReport], None],
) -> TrialOutcome:
    """The outcome of a trial without an epoch, of what was measured beforehand: the original, or the gold standard."""
    before = data.before
    if before is None:
        raise ValueError("a trial without epochs needs the original model's measurement")
    history = (EpochRecord(0, len(data.targets.first_rows), before.scores),)
    on_epoch(EpochReport(history[0], history, Decision(True), before.candidates))
    thresholds = thresholds_of(settings.stop, before.scores, settings.el.ngram)
    failed, after = at_start(before.scores, thresholds), data.retrained or before
    reached = data.retrained is not None or below_thresholds(after.scores, thresholds)
    status: Status = "finished" if reached else "not_forgotten"
    samples = sample_records(tokenizer, data, before, after, settings.filter, settings.seed)
    return TrialOutcome(
        failed.status or status,
        failed.reason or (NOT_TRAINED if data.retrained is None else RETRAINED_WITHOUT),
        0,
        before.scores,
        after.scores,
        history,
        samples,
        {},
        with_heldout_above(thresholds, before),
    )


def _report(
    trainer: EpochTrainer,
    history: tuple[EpochRecord, ...],
    decision: Decision,
    active: Flags,
    measured: Validation,
    best: int | None = None,
) -> EpochReport:
    state = TrialState(history[-1].epoch, active.copy(), history, trainer.method.state())

    def save_model(file: Path) -> None:
        with trainer.model_as_left():
            if trainer.rank == 0:
                save_weights(trainer.model, file)

    return EpochReport(
        history[-1],
        history,
        decision,
        measured.candidates,
        best,
        lambda folder: save_checkpoint(folder, trainer.engine, state),
        save_model,
        trainer.model_as_left,
    )
