"""The epochs of one trial on one worker of its group: train the active samples, measure, refine, maybe stop.

    outcome = run_trial(job, data, model, tokenizer, rank=0, world_size=1, on_epoch=report)

Knows DeepSpeed through training/engine.py, and neither Ray nor storage: whoever calls it is handed each epoch's record
with a way to save a checkpoint. Deterministic for a seed, a number of threads and a world size: an interrupted trial
that is continued from its last checkpoint ends with the numbers of one that never was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from icu_ray import methods
from icu_ray.data.examples import TokenRows
from icu_ray.methods.base import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import BatchWeights, batch_weights
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.results import NOT_TRAINED, EpochRecord, SampleRecord, Scores, Status
from icu_ray.training.batches import Indices, epoch_batches, micro_batches
from icu_ray.training.checkpoints import TrialState, load_checkpoint, save_checkpoint
from icu_ray.training.engine import Engine, EngineSettings
from icu_ray.training.refinement import Decision, Flags, below_thresholds, decide, el_decides, forgotten, refine
from icu_ray.training.validation import Measure, Validation, validate, with_heldout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icu_ray.models.reference import Reference


@dataclass(frozen=True)
class TrialData:
    """Rows of one forget sample in the model's vocabulary; pairs[i] belongs to targets[i]."""

    targets: TokenRows
    pairs: TokenRows | None = None
    heldout: TokenRows | None = None
    reference: Reference | None = None
    before: Validation | None = None
    """The original model's measurement, where it was made beforehand."""
    pair_overlap: tuple[float, ...] | None = None
    """Share of each target's 10-grams that its pair holds too, for the record."""


@dataclass(frozen=True)
class EpochReport:
    """What the caller is told after an epoch. save(folder) writes a checkpoint; every rank must call it or none.

    said: what the model said after each target's prompt, in the targets' order.
    """

    record: EpochRecord
    history: tuple[EpochRecord, ...]
    decision: Decision
    save: Callable[[Path], None]
    said: tuple[str, ...]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended; the model given to `run_trial` now holds the unlearned weights."""

    status: Status
    reason: str
    epochs: int
    before: Scores
    after: Scores
    history: tuple[EpochRecord, ...]
    samples: tuple[SampleRecord, ...]
    seconds: dict[str, float]


class _Trial:
    """The pieces of a running trial, so that its steps can be read one by one."""

    def __init__(
        self,
        job: TrialSettings,
        data: TrialData,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rank: int,
        world_size: int,
    ) -> None:
        self.job, self.data, self.tokenizer = job, data, tokenizer
        self.rank, self.world_size = rank, world_size
        per_rank = -(-job.batch_size // world_size)
        micro = min(job.micro_batch or per_rank, per_rank)
        self.micro, self.accumulation = micro, -(-per_rank // micro)
        method = methods.get(job.method, alpha=job.alpha, beta=job.beta, settings=job.method_settings, loss=job.loss)
        self.model = model
        self.engine = Engine(
            UnlearningModule(model, method),
            EngineSettings(
                job.lr,
                job.optim.betas,
                job.optim.eps,
                micro,
                self.accumulation,
                job.precision,
                job.zero_stage,
                job.offload_optimizer,
            ),
            rank,
            world_size,
        )
        self.measure = Measure(job.filter, job.generate, job.el, job.eval)

    def train(self, epoch: int, active: Flags) -> tuple[dict[str, float | None], int]:
        """One epoch; the mean of each loss term over its steps, and their number."""
        torch.manual_seed(self.job.seed + epoch)
        batches = epoch_batches(
            active, seed=self.job.seed, epoch=epoch, batch_size=self.job.batch_size, settings=self.job.train
        )
        sums: dict[str, float] = {}
        for batch in batches:
            for name, value in self.engine.step(self._micro_batches(batch, active)).items():
                sums[name] = sums.get(name, 0.0) + value
        names = sorted(sums)
        totals = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=self.engine.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(totals)
        steps = max(len(batches), 1)
        return {name: float(total) / steps for name, total in zip(names, totals, strict=True)}, len(batches)

    def _micro_batches(self, batch: Indices, active: Flags) -> list[Batch]:
        """This rank's part of a step: the active rows alone, weighted as rows of the whole batch."""
        targets, pairs, reference = self.data.targets, self.data.pairs, self.data.reference
        weights = batch_weights(
            targets.labels[batch],
            None if pairs is None else pairs.labels[batch],
            active[batch],
            targets.columns,
            self.job.loss,
        )
        live = np.flatnonzero(active[batch])
        shares = micro_batches(len(live), rank=self.rank, world_size=self.world_size, micro_batch=self.micro)
        found = []
        for share in shares:
            rows, share_weights = batch[live[share]], weights.rows(live[share])
            if len(rows) == 0:
                # The engine's collectives need a step of every rank: one sample that weighs nothing.
                rows, share_weights = batch[:1], _weightless(weights.rows(slice(0, 1)))
            cached = None if reference is None else reference.batch(rows, self.engine.device)
            found.append(Batch.gather(targets, pairs, rows, share_weights, cached, self.engine.device))
        return found

    def complete(self, validation: Validation) -> Validation:
        """The last epoch always gets all of its numbers: EL, and perplexity on held-out rows."""
        if validation.el is None:
            return self.validate(heldout=True, decision_only=False)
        if self.data.heldout is None or self.job.eval.heldout == "epochs":
            return validation
        with self.engine.whole_model():
            return with_heldout(validation, self.model, self.data.heldout, self.rank, self.world_size)

    def validate(self, heldout: bool, decision_only: bool) -> Validation:
        """Measure the model as it is now."""
        stop = self.job.stop
        with self.engine.whole_model():
            return validate(
                self.model,
                self.tokenizer,
                self.data.targets,
                self.measure,
                heldout=self.data.heldout if heldout else None,
                rank=self.rank,
                world_size=self.world_size,
                el_decides=(lambda ma: el_decides(ma, stop)) if decision_only else None,
            )


def run_trial(
    job: TrialSettings,
    data: TrialData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rank: int = 0,
    world_size: int = 1,
    resume_from: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    notes: tuple[str, ...] = (),
) -> TrialOutcome:
    """Unlearn `data.targets` in `model` until the paper's rule says stop.

    Needs a torch.distributed group (training.engine.distributed makes one for a single process). on_epoch is called on
    every rank after every epoch, epoch 0 included. resume_from: a folder that EpochReport.save wrote. notes: what
    happened before, for the record of the next epoch.
    """
    if job.max_epochs == 0:
        return _as_it_is(job, data, tokenizer, on_epoch)
    trial = _Trial(job, data, model, tokenizer, rank, world_size)
    clock = {"train": 0.0, "validate": 0.0}
    decision = Decision(False)
    last: Validation | None = None
    before = data.before
    if before is None:
        # A continued trial's model already holds other weights only after the checkpoint is loaded.
        before = trial.validate(heldout=True, decision_only=False)
    if resume_from is not None:
        state, loaded = load_checkpoint(resume_from, trial.engine)
        notes = (*notes, *loaded)
        history, active, epoch = state.history, state.active, state.epoch
        if epoch > 0:
            decision = decide(epoch, history[-1].scores, active, job.stop, job.max_epochs)
    else:
        epoch, active = 0, np.ones(len(data.targets), dtype=bool)
        if job.filter.at_start:
            active = refine(active, before.bertscore_f1, before.bleu, job.filter)
        history = (EpochRecord(0, int(active.sum()), before.scores),)
        on_epoch(_report(trial, history, decision, epoch, active, before))
    while not decision.stop:
        epoch += 1
        started = time.perf_counter()
        loss, steps = trial.train(epoch, active)
        trained = time.perf_counter()
        last = trial.validate(heldout=job.eval.heldout == "epochs", decision_only=job.eval.el == "decision")
        active = refine(active, last.bertscore_f1, last.bleu, job.filter)
        decision = decide(epoch, last.scores, active, job.stop, job.max_epochs)
        if decision.stop:
            last = trial.complete(last)
            decision = decide(epoch, last.scores, active, job.stop, job.max_epochs)
        seconds = {"train": trained - started, "validate": time.perf_counter() - trained}
        clock = {name: clock[name] + value for name, value in seconds.items()}
        record = EpochRecord(epoch, int(active.sum()), last.scores, loss, seconds, steps, notes)
        notes = ()
        history = (*history, record)
        on_epoch(_report(trial, history, decision, epoch, active, last))
    if last is None:
        # Continued after its last epoch: everything is known but the generations.
        last = trial.validate(heldout=True, decision_only=False)
    seconds = {name: sum(record.seconds.get(name, 0.0) for record in history) for name in clock}
    after = replace(last.scores)
    status = "finished" if decision.status == "finished" and below_thresholds(after, job.stop) else decision.status
    assert status is not None
    samples = _samples(tokenizer, data, before, last, job)
    trial.engine.close()
    return TrialOutcome(status, decision.reason, epoch, before.scores, after, history, samples, seconds)


def _as_it_is(
    job: TrialSettings,
    data: TrialData,
    tokenizer: PreTrainedTokenizerBase,
    on_epoch: Callable[[EpochReport], None],
) -> TrialOutcome:
    """The outcome of a trial without an epoch: the original model's measurement, which was made beforehand."""
    before = data.before
    if before is None:
        raise ValueError("a trial without epochs needs the original model's measurement")
    history = (EpochRecord(0, len(data.targets), before.scores),)
    on_epoch(EpochReport(history[0], history, Decision(True), lambda folder: None, before.candidates))
    status: Status = "finished" if below_thresholds(before.scores, job.stop) else "not_forgotten"
    samples = _samples(tokenizer, data, before, before, job)
    return TrialOutcome(status, NOT_TRAINED, 0, before.scores, before.scores, history, samples, {})


def _report(
    trial: _Trial, history: tuple[EpochRecord, ...], decision: Decision, epoch: int, active: Flags, measured: Validation
) -> EpochReport:
    state = TrialState(epoch, active.copy(), history)
    return EpochReport(
        history[-1], history, decision, lambda folder: save_checkpoint(folder, trial.engine, state), measured.candidates
    )


def _weightless(weights: BatchWeights) -> BatchWeights:
    return replace(
        weights,
        target=np.zeros_like(weights.target),
        row=np.zeros_like(weights.row),
        pair=None if weights.pair is None else np.zeros_like(weights.pair),
        kl=None if weights.kl is None else np.zeros_like(weights.kl),
    )


def _samples(
    tokenizer: PreTrainedTokenizerBase, data: TrialData, before: Validation, after: Validation, job: TrialSettings
) -> tuple[SampleRecord, ...]:
    targets, pairs = data.targets, data.pairs
    gone = forgotten(after.bertscore_f1, after.bleu, job.filter)
    prompts = tokenizer.batch_decode(
        [targets.prompt_ids[i][targets.prompt_mask[i]].tolist() for i in range(len(targets))]
    )
    return tuple(
        SampleRecord(
            id=targets.ids[i],
            prompt=prompts[i],
            reference=targets.references[i],
            before=before.candidates[i],
            after=after.candidates[i],
            ma_before=float(before.ma[i]),
            ma_after=float(after.ma[i]),
            bertscore_after=float(after.bertscore_f1[i]),
            bleu_after=float(after.bleu[i]),
            forgotten=bool(gone[i]),
            el10_before=None if before.el is None else float(before.el[i]),
            el10_after=None if after.el is None else float(after.el[i]),
            bertscore_before=float(before.bertscore_f1[i]),
            bleu_before=float(before.bleu[i]),
            pair_id=None if pairs is None else pairs.ids[i],
            pair_overlap=None if data.pair_overlap is None else data.pair_overlap[i],
        )
        for i in range(len(targets))
    )
