"""What Ray Train runs on every worker of a trial: the epochs, and what is left in storage.

Rank 0 writes events.jsonl whole at every epoch, and at the end the model, the generations and, last of all,
result.json.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.models.retrained import published_retrained
from icu_ray.plan.past_trials import remember
from icu_ray.plan.trial import DONE
from icu_ray.storage.files import read_bytes
from icu_ray.storage.folders import remove
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.results import Generations, TrialResult
from icu_ray.storage.retry import with_retries
from icu_ray.storage.store import Store
from icu_ray.storage.trial_files import TrialPaths, add_generations, write_events, write_result, write_samples
from icu_ray.trial.artefacts import get_artefact, load_original, load_rows
from icu_ray.trial.best_weights import drop_weights, keep_weights, kept_weights
from icu_ray.trial.checkpoints import TRIAL_FILE, check_room, newest_checkpoint
from icu_ray.trial.out_of_memory import halve_micro_batch, is_out_of_memory, read_micro_batch
from icu_ray.trial.saved_models import save_epoch_model, save_model
from icu_ray.trial.task import TrialTask, result_of

if TYPE_CHECKING:
    from icu_ray.config import ModelConfig
    from icu_ray.models.loading import LoadedModel
    from icu_ray.plan.trial_settings import TrialSettings
    from icu_ray.training.records import EpochReport, TrialData, TrialOutcome


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker of the group."""
    import ray.train

    from icu_ray.training.loop import run_trial

    task: TrialTask = config["task"]
    began = time.time()
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    model, settings, paths = task.trial.model, task.trial.settings, task.paths
    set_up_process(model, settings)
    loaded, data = _load(task)
    settings, notes = with_smaller_micro_batch(paths, settings)

    def on_epoch(report: EpochReport) -> None:
        if rank == 0:
            # Before the checkpoint: whoever continues from it finds every epoch up to it already told.
            said = dict(zip(data.targets.text_ids, report.said, strict=True))
            with_retries(lambda: write_events(paths, report.history), paths.events)
            with_retries(lambda: add_generations(paths, Generations(report.record.epoch, said)), paths.generations)
        if report.record.epoch == 0:
            if rank == 0:  # of an earlier attempt that did not leave a checkpoint
                with_retries(lambda: remove(paths.epochs), paths.epochs)
            return  # the start is cheap to have again
        if task.keep_epochs and not report.leaves_this_model:
            # Before the checkpoint: a trial that goes on from that has the models of all epochs up to it.
            with report.as_left():
                if rank == 0:
                    save_epoch_model(loaded, paths, task.trial.model, report.record.epoch)
        if not report.decision.stop:  # after the end comes the result
            # Before the checkpoint, and those of earlier epochs only after it: whoever continues finds the best one.
            if report.best == report.record.epoch:
                keep_weights(paths, report.best, report.save_weights, rank)
            leave_checkpoint(paths, report.record.epoch, report.save)
            if rank == 0 and report.best == report.record.epoch:
                drop_weights(paths, report.best)
        leave_if_preempted(report.record.epoch, over=report.decision.stop)

    first_attempt = rank == 0 and _is_first_attempt(paths)
    with newest_checkpoint(paths) as checkpoint:
        loading = time.time() - began
        with started_anew_out_of_memory(paths, settings, world_size):
            outcome = run_trial(
                settings,
                data,
                loaded.model,
                loaded.tokenizer,
                rank=rank,
                world_size=world_size,
                resume_from=checkpoint,
                on_epoch=on_epoch,
                best_weights=lambda epoch: kept_weights(paths, epoch),
                notes=notes,
            )
    if rank == 0:
        seconds = {"start": began - config["started"], "load": loading}
        result = _leave(task, loaded, outcome, seconds)
        # The seconds before the epochs of a trial that was begun anew hold those of the attempts that were lost.
        if first_attempt and checkpoint is None and result.status in DONE and task.trial.work is not None:
            taken = result.seconds
            parts = {"train": taken["train"], "measure": taken["validate"], "save": taken["checkpoint"]}
            remember(task.trial.work, result.epochs, {**parts, "start": taken["total"] - sum(parts.values())})


def leave_checkpoint(paths: TrialPaths, epoch: int, save: Callable[[Path], None]) -> None:
    """Have every rank's part of a checkpoint in storage; called on all of them. save: writes it into a folder."""
    import ray.train
    from ray.train import Checkpoint

    with scratch_folder() as folder:
        save(folder)
        (folder / TRIAL_FILE).write_text(paths.trial_id)
        with_retries(lambda: check_room(paths, folder), paths.checkpoint)
        ray.train.report({"epoch": epoch}, checkpoint=Checkpoint.from_directory(str(folder)))


def leave_if_preempted(epoch: int, *, over: bool) -> None:
    """StartAnew where a node of the group is about to be taken away, unless all is `over` anyway; called on all ranks.

    A barrier, so that all ranks leave together; its actor ends with the group. So a worker that was given up for lost
    and is not, on a node without its raylet, say, fails here, and leaves the result to its successor.
    """
    import ray.train

    from icu_ray.trial.trainer import StartAnew

    if ray.train.get_preemption_info() is not None and not over:
        raise StartAnew(f"a node is about to be taken away; epoch {epoch} is saved")


def with_smaller_micro_batch(paths: TrialPaths, settings: TrialSettings) -> tuple[TrialSettings, tuple[str, ...]]:
    """The settings after an attempt that ran out of memory, and what to note of it; else the settings as they are."""
    smaller = read_micro_batch(paths)
    if smaller is None:
        return settings, ()
    smaller = min(smaller, settings.micro_batch or smaller)  # the user may have set it lower since
    return replace(settings, micro_batch=smaller), (f"out of memory: continues with micro_batch={smaller}",)


@contextlib.contextmanager
def started_anew_out_of_memory(paths: TrialPaths, settings: TrialSettings, world_size: int) -> Iterator[None]:
    """StartAnew, with half the micro batch the next time, where memory does not suffice for what is done inside."""
    from icu_ray.trial.trainer import StartAnew

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            halve_micro_batch(paths, settings, world_size, error)
            raise StartAnew(f"out of memory: {error}") from error
        raise


def set_up_process(model: ModelConfig, settings: TrialSettings) -> None:
    """Threads, accelerator and random generators of a worker, before its model is loaded.

    UserError where an offloaded optimizer is asked for, and this machine cannot compile it.
    """
    import torch

    from icu_ray.training.engine import set_device_environment
    from icu_ray.training.offload import build_cpu_adam

    torch.set_num_threads(model.cpus_per_worker)
    device = torch.device("cuda" if model.gpus and torch.cuda.is_available() else "cpu")
    set_device_environment(device)
    if settings.offload_optimizer and settings.max_epochs and device.type == "cuda":
        build_cpu_adam()  # before the model is loaded: what is missing is told at once
    _seed_everything(settings.seed)


def _seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _is_first_attempt(paths: TrialPaths) -> bool:
    """Whether no earlier one got as far as to tell of an epoch, or ran out of memory."""
    left = with_retries(lambda: [read_bytes(paths.events), read_bytes(paths.micro_batch)], paths.root)
    return left == [None, None]


def _load(task: TrialTask) -> tuple[LoadedModel, TrialData]:
    from icu_ray.models.adapters import attach
    from icu_ray.models.reference import Reference
    from icu_ray.training.records import TrialData
    from icu_ray.training.validation import Validation

    store, keys = Store(task.store), task.artefacts
    own = keys.model if keys.retrained is None else keys.retrained.model
    published = None if keys.retrained is None else published_retrained(task.trial.model)
    loaded = load_original(published or task.trial.model, own, store)
    rows = {part: load_rows(get_artefact(store, "rows", key)) for part, key in keys.rows.items()}
    parts = {"references": keys.reference, "heads": keys.head}
    folders = {kind: None if key is None else get_artefact(store, kind, key) for kind, key in parts.items()}
    reference, draws = folders["references"], keys.draws
    settings, model = task.trial.settings, task.trial.model
    seed, ngram = settings.seed, settings.el.ngram
    if model.lora is not None and settings.max_epochs > 0:
        attach(loaded.model, model.lora, seed, model.source or model.name)
    kept = None if reference is None else Reference.load(reference, folders["heads"], loaded.model)
    kind = next(iter(keys.answers), None)
    if kept is not None and kind is not None:
        kept = kept.with_answers(kind)
    return loaded, TrialData(
        targets=rows["targets"],
        pairs=rows.get("pairs"),
        heldout=rows.get("heldout"),
        reference=kept,
        alternates=None if kind is None else rows[kind],
        answers=None if kind is None else keys.answers[kind],
        pair_overlap=keys.pair_overlap if draws is None else draws.overlap.get(seed),
        draws=draws,
        before=Validation.load(get_artefact(store, "before", keys.before), ngram),
        retrained=None
        if keys.retrained is None
        else Validation.load(get_artefact(store, "before", keys.retrained.scores), ngram),
    )


def _leave(task: TrialTask, loaded: LoadedModel, outcome: TrialOutcome, seconds: dict[str, float]) -> TrialResult:
    paths = task.paths
    started = time.time()
    model_hash, retrained = "", task.artefacts.retrained
    if task.trial.settings.max_epochs == 0 and (retrained is None or retrained.model is None):
        # Nothing was changed, so nothing is saved.
        model_hash = task.provenance.model if retrained is None else retrained.model_hash
    elif task.keep_model:
        model_hash = save_model(loaded, paths, task.trial.model)
    with_retries(lambda: write_events(paths, outcome.history), paths.events)
    with_retries(lambda: write_samples(paths, outcome.samples), paths.samples)
    seconds = {**seconds, **outcome.seconds, "save": time.time() - started}
    result = result_of(
        task.trial,
        status=outcome.status,
        reason=outcome.reason,
        epochs=outcome.epochs,
        before=outcome.before,
        after=outcome.after,
        seconds={**seconds, "total": sum(seconds.values())},
        provenance=task.provenance,
        model_hash=model_hash,
        thresholds=outcome.thresholds,
        kept_epoch=outcome.kept_epoch,
    )
    with_retries(lambda: write_result(paths, result), paths.result)
    with_retries(lambda: drop_weights(paths), paths.root)
    return result
