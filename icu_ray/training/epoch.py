"""One epoch of a trial: train on the active targets, measure the model. The loop over epochs is in loop.py.

    trainer = EpochTrainer(settings, data, model, tokenizer, rank=0, world_size=1)
    loss, steps = trainer.train(epoch, active)
    validation = trainer.validate(heldout="perplexity")

Deterministic for a seed, an epoch, a number of threads and a world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.audit.quick import quick_audit
from icu_ray.audit.rows import audit_rows
from icu_ray.data.examples import TokenRows
from icu_ray.errors import UserError
from icu_ray.methods.base import Batch, Method
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import batch_weights
from icu_ray.models.architecture import check_checkpointing
from icu_ray.models.loading import LoadedModel
from icu_ray.plan.trial_settings import TrialSettings, method_of
from icu_ray.storage.thresholds import Thresholds
from icu_ray.training.batches import EpochRows, Indices, epoch_batches, micro_batches
from icu_ray.training.engine import Engine, divide_reference
from icu_ray.training.engine_settings import EngineSettings
from icu_ray.training.records import TrialData
from icu_ray.training.refinement import SKIPS_IN_A_ROW, Flags, el_decides
from icu_ray.training.schedules import schedule_of
from icu_ray.training.validation import Heldout, Measure, Validation, gathered, validate, with_heldout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EpochTrainer:
    """A model on its engine, with the rows it is trained and measured on."""

    def __init__(
        self,
        settings: TrialSettings,
        data: TrialData,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rank: int,
        world_size: int,
        *,
        method: Method | None = None,
    ) -> None:
        """method: None: the one that `settings` names."""
        self.settings, self.tokenizer = settings, tokenizer
        self.rank, self.world_size = rank, world_size
        per_rank = -(-settings.batch_size // world_size)
        micro = min(settings.micro_batch or per_rank, per_rank)
        self.micro, self.accumulation = micro, -(-per_rank // micro)
        method = method or method_of(settings)
        self.method = method
        # A term that scores one side's words at the other's columns may ask what a model makes of pads, which in some
        # families depends on how many there are.
        self.narrow = all(term.inputs == term.labels for _, term in method.objective().terms)
        self.model = model
        if settings.activation_checkpointing:
            check_checkpointing(model, str(model.name_or_path))
            # It works in training mode alone, and leaves the key/value caches of measurements as they are.
            model.activation_checkpointing_enable({"use_reentrant": False})
            # A hook on the embeddings that only the reentrant way needs.
            model.disable_input_require_grads()  # type: ignore[no-untyped-call]
        self._held = _freeze(model, method)
        # A method that fine-tunes leaves other weights than those that are trained, and needs where these began.
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._began = [(p, p.detach().clone()) for p in trained] if method.fine_tunes else []
        self.data, self._frozen = _divided(data) if settings.zero_stage == 3 else (data, None)
        self.engine = Engine(
            UnlearningModule(model, method),
            EngineSettings(
                settings.lr,
                settings.optim.betas,
                settings.optim.eps,
                micro,
                self.accumulation,
                settings.precision,
                settings.zero_stage,
                settings.offload_optimizer,
                settings.optim.weight_decay,
                settings.optim.clip,
                settings.step,
            ),
            rank,
            world_size,
        )
        self.places = len(data.pairs) if data.pairs is not None and data.over_pool else len(data.targets)
        self.schedule = schedule_of(settings, self.places)
        self.measure = Measure(settings.filter, settings.generate, settings.el, settings.eval)

    def close(self) -> None:
        """End training: the model is whole on every rank and can be measured and saved by any of them."""
        self.engine.close()
        self._leave()
        self._began = []
        self._frozen = None
        if self.settings.activation_checkpointing:
            self.model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
        for parameter in self._held:
            parameter.requires_grad_(True)

    def train(
        self,
        epoch: int,
        active: Flags,
        before_step: Callable[[int], None] = lambda number: None,
        steps_before: int = 0,
    ) -> tuple[dict[str, float | None], int]:
        """One epoch; the mean of each loss term over its steps, and their number.

        active: of each text; all windows of a text take part, or none. before_step: told each step's number, from 0.
        steps_before: of earlier epochs. It ends early at the last of `stop.max_steps`, and where the engine has skipped
        SKIPS_IN_A_ROW steps: `decide` then ends the trial.
        """
        most = self.settings.stop.max_steps
        torch.manual_seed(self.settings.seed + epoch)
        rows, batches, answers = self._epoch(epoch, active)
        sums: dict[str, float] = {}
        done = 0
        for batch in batches:
            if self.engine.skipped_in_a_row >= SKIPS_IN_A_ROW or (most is not None and steps_before + done >= most):
                break
            if self.schedule.changes:
                # Batches that are left out count as steps, unless steps are what is counted.
                past = (epoch - 1) * -(-self.places // self.settings.batch_size) if most is None else steps_before
                self.engine.set_learning_rate(self.schedule.rate(past + done))
            before_step(done)
            done += 1
            parts = self.engine.step(self._micro_batches(batch, rows, answers))
            if self.method.follows_steps:
                self.method.after_step(self._over_workers(parts), epoch)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
        self._measure_after(epoch, active)
        steps = max(done, 1)
        return {name: total / steps for name, total in self._over_workers(sums).items()}, done

    def _epoch(self, epoch: int, active: Flags) -> tuple[EpochRows, list[Indices], Indices | None]:
        """What an epoch runs over, its batches, and which second answer belongs to each row of targets."""
        rows = self.data.epoch_rows(self.settings.seed, epoch, active[self.data.targets.text_of_row])
        batches = epoch_batches(
            rows.live,
            seed=self.settings.seed,
            epoch=epoch,
            batch_size=self.settings.batch_size,
            settings=self.settings.train,
        )
        return rows, batches, self.data.answers_beside(self.settings.seed, epoch)

    def _measure_after(self, epoch: int, active: Flags) -> None:
        """Tell the method what it asks for once an epoch is over. After the last one nothing would come of it."""
        part = self.method.measured_after_epoch(epoch)
        if part is None or epoch >= self.settings.max_epochs:
            return
        rows, batches, answers = self._epoch(epoch + 1, active)
        counted = [batch for batch in batches if rows.live[batch].any()]
        sums: dict[str, float] = {}
        for batch in counted:
            for name, value in self.engine.measure(self._micro_batches(batch, rows, answers), part).items():
                sums[name] = sums.get(name, 0.0) + value
        if counted:
            means = {name: total / len(counted) for name, total in self._over_workers(sums).items()}
            self.method.after_epoch(means, epoch)

    def _over_workers(self, parts: dict[str, float]) -> dict[str, float]:
        """Sums over all workers; every one must ask, with the same names."""
        names = sorted(parts)
        totals = torch.tensor([parts[name] for name in names], dtype=torch.float64, device=self.engine.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(totals)
        return dict(zip(names, totals.tolist(), strict=True))

    def _micro_batches(self, batch: Indices, epoch_rows: EpochRows, answers: Indices | None) -> list[Batch]:
        """This rank's part of a step: the active rows alone, weighted as rows of the whole batch."""
        targets, pairs, reference = self.data.targets, self.data.pairs, self.data.reference
        own = epoch_rows.targets[batch]
        # Without pairs the reference may still hold those of other trials, and fewer than there are targets.
        beside = np.zeros_like(own) if epoch_rows.pairs is None else epoch_rows.pairs[batch]
        seconds = None if answers is None else self.data.alternates
        replies = np.zeros_like(own) if answers is None else answers[own]
        weights = batch_weights(
            targets.labels[own],
            None if pairs is None else pairs.labels[beside],
            epoch_rows.live[batch],
            targets.columns,
            self.settings.loss,
            None if pairs is None else pairs.mask[beside],
            (_starts(targets, own), _starts(pairs, beside)),
            target_rule=self.method.target_rule,
            pair_rule=self.method.pair_rule,
            alternates=None if seconds is None else (seconds.labels[replies], _starts(seconds, replies)),
        )
        live = np.flatnonzero(epoch_rows.live[batch])
        shares = micro_batches(len(live), rank=self.rank, world_size=self.world_size, micro_batch=self.micro)
        found = []
        for share in shares:
            chosen = live[share]
            share_weights = weights.rows(chosen)
            if len(chosen) == 0:
                # The engine's collectives need a step of every rank: one row that weighs nothing.
                chosen, share_weights = np.arange(1), weights.rows(slice(0, 1)).nothing()
            device, rows, others = self.engine.device, own[chosen], beside[chosen]
            second = None if seconds is None else (seconds, replies[chosen])
            cached = None
            if reference is not None:
                cached = reference.batch(rows, device, others, None if second is None else second[1])
            found.append(
                Batch.gather(
                    targets, pairs, rows, share_weights, cached, device, others, narrow=self.narrow, alternates=second
                )
            )
        return found

    @contextmanager
    def model_as_left(self) -> Iterator[None]:
        """Inside, the model is whole, and what the trial would leave if it ended here. All ranks enter and leave."""
        with self.engine.whole_model():
            trained = [parameter.detach().clone() for parameter, _ in self._began]
            self._leave()
            try:
                yield
            finally:
                with torch.no_grad():
                    for (parameter, _), value in zip(self._began, trained, strict=True):
                        parameter.copy_(value)

    @torch.no_grad()
    def _leave(self) -> None:
        for parameter, before in self._began:
            parameter.copy_(self.method.left(before.float(), parameter.float()))

    def complete(self, validation: Validation) -> Validation:
        """The last epoch always gets all of its numbers: EL, and what it does on held-out rows."""
        if validation.el is None:
            return self.validate()
        if self.data.heldout is None:
            return validation
        with self.model_as_left():
            return with_heldout(validation, self.model, self.data.heldout, self.measure, self.rank, self.world_size)

    def validate(self, heldout: Heldout | None = "whole", decision: Thresholds | None = None) -> Validation:
        """Measure the model as it is now. decision: leave EL out where it cannot change whether these are met."""
        with self.model_as_left():
            return validate(
                self.model,
                self.tokenizer,
                self.data.targets,
                self.measure,
                heldout=None if heldout is None else self.data.heldout,
                heldout_measure=heldout or "whole",
                rank=self.rank,
                world_size=self.world_size,
                el_decides=None if decision is None else (lambda ma: el_decides(ma, decision)),
            )

    def came_back(self, leak: float) -> float | None:
        """The part of the targets that a cheap attack brings back from the model as it is now (audit/quick.py).

        Every rank attacks its share of them, and has the whole result. The weights stay as they are, bit for bit.
        """
        loaded = LoadedModel(self.model, self.tokenizer, Path())
        own = audit_rows(self.data.targets.share(self.rank, self.world_size), self.tokenizer)
        with self.model_as_left():
            shares = gathered(quick_audit(loaded, own, leak), self.world_size)
        every = [back for share in shares for back in share.values()]
        return sum(every) / len(every) if every else None


def _divided(data: TrialData) -> tuple[TrialData, object]:
    """The same with the weights of a frozen model that is run again divided among the ranks, and their keeper."""
    if data.reference is None or data.reference.model is None:
        return data, None
    reference = data.reference.with_own_head()
    assert reference.model is not None
    return replace(data, reference=reference), divide_reference(reference.model.base_model)


def _freeze(model: PreTrainedModel, method: Method) -> list[torch.nn.Parameter]:
    """Leave the parameters that a method names alone to be trained; those that were so before and are not now."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    held = [parameter for name, parameter in named if not method.trains_parameter(name)]
    if held and len(held) == len(named):
        raise UserError(
            f"method {method.name}: none of the model's parameters is one that its settings say to train, such as "
            f"{named[-1][0]}"
        )
    for parameter in held:
        parameter.requires_grad_(False)
    return held


def _starts(rows: TokenRows | None, batch: Indices) -> NDArray[np.int64] | None:
    return None if rows is None or rows.starts is None else rows.suffix_starts[batch]
