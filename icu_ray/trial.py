"""One trial on the cluster: Tune's trainable, the Ray Train worker group in it, and what both leave in storage.

The trainable writes spec.json, runs a gang of workers and survives whatever happens to them: a lost worker or node is
replaced and goes on from the last checkpoint (`resources.retries` times), everything else becomes result.json with
status 'failed' and the reason. On the workers the epochs run; rank 0 writes events.jsonl whole at every epoch, and at
the end the model, the generations and, last of all, result.json.

A run is found again by its folder, trials/<trial id>/checkpoint: the same trial started by another driver, on another
cluster, continues there.

    tuner = Tuner(trainable(tasks), ...)        # config: {"trial_id": ...}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.folders import arrow_file_system, fetched, put, remove
from icu_ray.ingredients import Ingredients, get, load, load_rows
from icu_ray.memory import (
    check_room,
    halve_micro_batch,
    out_of_memory,
    read_micro_batch,
    scratch_folder,
    sign_of_progress,
)
from icu_ray.objective import OBJECTIVE, objective_of
from icu_ray.patience import patiently
from icu_ray.plan import Trial, folder_fingerprint
from icu_ray.results import (
    EpochRecord,
    Generations,
    Provenance,
    Scores,
    TrialPaths,
    TrialResult,
    TrialSpec,
    add_generations,
    read_events,
    read_result,
    start_trial,
    write_events,
    write_result,
    write_samples,
)
from icu_ray.runtime import seed_everything, training_environment
from icu_ray.store import Store, join, list_dir, local_path, read_bytes, write_atomic
from icu_ray.training.refinement import below_thresholds
from icu_ray.watchdog import Watchdog

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel
    from icu_ray.training.loop import EpochReport, TrialData, TrialOutcome

log = logging.getLogger(__name__)

_SNAPSHOT = "checkpoint_manager_snapshot.json"
_LOOK_SECONDS = 0.5
_CHECKPOINTS_KEPT = 2
"""One to continue from, and the one before it should that be damaged."""


@dataclass(frozen=True)
class TrialTask:
    """All that a trial is told. storage and store are absolute: workers have another working directory."""

    trial: Trial
    ingredients: Ingredients
    storage: str
    sweep: str
    store: str
    retries: int
    keep_model: bool
    epoch_minutes: float | None
    provenance: Provenance
    tell_epochs: bool = False
    """Whether Tune is told of every epoch, for schedulers that compare trials."""

    @property
    def paths(self) -> TrialPaths:
        """Where the trial's files lie."""
        return TrialPaths.of(self.storage, self.sweep, self.trial.trial_id)


class HandedTask:
    """A task in a trial's config, whose values Tune writes into names: short to read."""

    def __init__(self, task: TrialTask) -> None:
        self.task = task

    def __repr__(self) -> str:
        return self.task.trial.name


def trainable(tasks: Mapping[str, TrialTask], environment: Mapping[str, str]) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs for each trial; it reports where its workers stand whenever they (re)start.

    A trial that was not known when the function was made brings its task along (HandedTask).
    """

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        # Ray Train takes its settings from the process that runs its controller, which is this one.
        os.environ.update(environment)
        task = config["task"].task if "task" in config else tasks[config["trial_id"]]
        gang: dict[str, Any] = {}

        def on_gang(nodes: Any, group: str) -> None:
            gang.update(nodes=list(nodes), group=group)
            tune.report(dict(gang))

        def on_epoch(record: EpochRecord, before: Scores) -> None:
            value = objective_of(record.scores, before, task.trial.job.stop)
            if value is not None:
                tune.report({**gang, "epoch": record.epoch, OBJECTIVE: value})

        def ends(record: EpochRecord) -> bool:
            job = task.trial.job
            return record.epoch >= job.max_epochs or below_thresholds(record.scores, job.stop)

        with _telling(task.paths, on_epoch, ends) if task.tell_epochs else contextlib.nullcontext():
            run(task, on_gang, config["node"])

    return trial


def run(task: TrialTask, on_gang: Callable[[Any, str], None], node: str | None = None) -> None:
    """A trial from its worker group, which starts on `node`, to its result, failed or not."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from icu_ray.trainer import GangTrainer, reason_of, remove_gang

    model, paths = task.trial.model, task.paths
    if read_bytes(paths.result) is not None:  # it has failed before: whatever it ran short of may be there now
        remove(paths.micro_batch)
    for stale in (paths.result, paths.evaluation, paths.documents):
        remove(stale)
    start_trial(paths, spec_of(task.trial, task.provenance))
    _drop_broken_snapshot(paths)
    filesystem, folder = arrow_file_system(paths.root)
    watchdog = Watchdog(lambda: sign_of_progress(paths), task.epoch_minutes, remove_gang)

    def started(nodes: Any, group: str) -> None:
        watchdog.gang(group)
        on_gang(nodes, group)

    trainer = GangTrainer(
        train_worker,
        train_loop_config={"task": task, "started": time.time()},
        torch_config=TorchConfig(backend=None if model.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=model.workers,
            use_gpu=model.gpus > 0,
            resources_per_worker={"CPU": model.cpus_per_worker, **({"GPU": model.gpus} if model.gpus else {})},
            placement_strategy="PACK",
        ),
        run_config=RunConfig(
            storage_path=folder,
            storage_filesystem=filesystem,
            name="checkpoint",
            failure_config=FailureConfig(max_failures=task.retries),
            checkpoint_config=CheckpointConfig(num_to_keep=_CHECKPOINTS_KEPT),
            worker_runtime_env=training_environment(),
        ),
        on_gang=started,
        node=node,
    )
    try:
        with watchdog:
            trainer.fit()
    except Exception as error:
        log.exception("trial %s", task.trial.name)
        write_atomic(join(paths.root, "error.txt"), traceback.format_exc().encode())
        reason = reason_of(error)
        if watchdog.hung:
            times = f"{watchdog.ended} times " if watchdog.ended > 1 else ""
            reason = f"hung: {times}no epoch ended within resources.epoch_minutes={task.epoch_minutes:g} ({reason})"
        if read_result(paths) is None:  # whoever ended it from outside has said why
            write_failure(task.trial, paths, reason, task.provenance)
    else:
        remove(paths.checkpoint)


@contextlib.contextmanager
def _telling(
    paths: TrialPaths, tell: Callable[[EpochRecord, Scores], None], ends: Callable[[EpochRecord], bool]
) -> Iterator[None]:
    """Call `tell` with each epoch after the first as it is written, from a thread of its own.

    ends: whether the trial ends with an epoch. That one is not told: nobody is to stop what is leaving its result.
    """
    over = threading.Event()

    def watch() -> None:
        told = 0
        while not over.wait(_LOOK_SECONDS):
            try:
                history = read_events(paths)
            except (UserError, OSError):
                continue  # storage is away for a moment
            for record in history[1:]:
                if record.epoch > told and not ends(record):
                    told = record.epoch
                    tell(record, history[0].scores)

    thread = threading.Thread(target=watch, name="epochs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def spec_of(trial: Trial, provenance: Provenance | None = None) -> TrialSpec:
    """The trial's own description in storage."""
    return TrialSpec(
        trial_id=trial.trial_id,
        name=trial.name,
        model=trial.model.name,
        method=trial.label,
        sample=trial.sample,
        hyperparameters=trial.hyperparameters,
        max_epochs=trial.job.max_epochs,
        settings=trial.identity,
        provenance=provenance,
    )


def write_failure(trial: Trial, paths: TrialPaths, reason: str, provenance: Provenance, status: str = "failed") -> None:
    """result.json of a trial that was not brought to its end, with whatever it had measured."""
    history = read_events(paths)
    seconds = sum(sum(record.seconds.values()) for record in history)
    last = history[-1] if history else None
    result = _result(
        trial,
        status=status,
        reason=reason,
        epochs=0 if last is None else last.epoch,
        before=history[0].scores if history else None,
        after=None if last is None or last.epoch == 0 else last.scores,
        seconds={"total": seconds},
        provenance=provenance,
    )
    write_result(paths, result)


def _result(trial: Trial, **values: Any) -> TrialResult:
    return TrialResult(
        trial_id=trial.trial_id,
        name=trial.name,
        model=trial.model.name,
        method=trial.label,
        sample=trial.sample,
        hyperparameters=trial.hyperparameters,
        ended=time.time(),
        **values,
    )


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker of the gang."""
    import ray.train
    import torch
    from ray.train import Checkpoint

    from icu_ray.trainer import StartAnew
    from icu_ray.training.engine import set_device_environment
    from icu_ray.training.loop import run_trial

    task: TrialTask = config["task"]
    began = time.time()
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    model, job, paths = task.trial.model, task.trial.job, task.paths
    torch.set_num_threads(model.cpus_per_worker)
    set_device_environment(torch.device("cuda" if model.gpus and torch.cuda.is_available() else "cpu"))
    seed_everything(job.seed)
    loaded, data = _load(task)
    smaller = read_micro_batch(paths)
    notes: tuple[str, ...] = ()
    if smaller is not None:
        smaller = min(smaller, job.micro_batch or smaller)  # the user may have set it lower since
        job = replace(job, micro_batch=smaller)
        notes = (f"out of memory: goes on with micro_batch={smaller}",)

    def on_epoch(report: EpochReport) -> None:
        if rank == 0:
            # Before the checkpoint: whoever continues from it finds every epoch up to it already told.
            said = dict(zip(data.targets.ids, report.said, strict=True))
            patiently(lambda: write_events(paths, report.history), paths.events)
            patiently(lambda: add_generations(paths, Generations(report.record.epoch, said)), paths.generations)
        if report.record.epoch == 0:
            return  # the start is cheap to have again
        if not report.decision.stop:  # after the end comes the result
            with scratch_folder() as folder:
                report.save(folder)
                patiently(lambda: check_room(paths, folder), paths.checkpoint)
                ray.train.report({"epoch": report.record.epoch}, checkpoint=Checkpoint.from_directory(str(folder)))
        # A barrier, so that all ranks leave together; its actor ends with the group. So a worker that was given up for
        # lost and is not, on a node without its raylet, say, fails here, and leaves the result to its successor.
        leave = ray.train.get_preemption_info() is not None
        if leave and not report.decision.stop:
            raise StartAnew(f"a node is about to be taken away; epoch {report.record.epoch} is saved")

    with newest_checkpoint(paths) as checkpoint:
        loading = time.time() - began
        try:
            outcome = run_trial(
                job,
                data,
                loaded.model,
                loaded.tokenizer,
                rank=rank,
                world_size=world_size,
                resume_from=checkpoint,
                on_epoch=on_epoch,
                notes=notes,
            )
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                halve_micro_batch(paths, job, world_size, error)
                raise StartAnew(f"out of memory: {error}") from error
            raise
    if rank == 0:
        _leave(task, loaded, outcome, {"start": began - config["started"], "load": loading})


def _load(task: TrialTask) -> tuple[LoadedModel, TrialData]:
    from icu_ray.models.reference import Reference
    from icu_ray.training.loop import TrialData
    from icu_ray.training.validation import Validation

    store, ingredients = Store(task.store), task.ingredients
    loaded = load(task.trial.model, ingredients.model, store)
    rows = {part: load_rows(get(store, "rows", key)) for part, key in ingredients.rows.items()}
    parts = {"references": ingredients.reference, "heads": ingredients.head}
    folders = {kind: None if key is None else get(store, kind, key) for kind, key in parts.items()}
    reference = folders["references"]
    return loaded, TrialData(
        targets=rows["targets"],
        pairs=rows.get("pairs"),
        heldout=rows.get("heldout"),
        reference=None if reference is None else Reference.load(reference, folders["heads"], loaded.model),
        pair_overlap=ingredients.pair_overlap,
        before=Validation.load(get(store, "before", ingredients.before)),
    )


def _leave(task: TrialTask, loaded: LoadedModel, outcome: TrialOutcome, seconds: dict[str, float]) -> None:
    paths = task.paths
    started = time.time()
    model_hash = ""
    if task.trial.job.max_epochs == 0:
        model_hash = task.provenance.model  # nothing was changed, so nothing is saved
    elif task.keep_model:
        model_hash = patiently(lambda: _save_model(loaded, paths.model), paths.model)
    patiently(lambda: write_events(paths, outcome.history), paths.events)
    patiently(lambda: write_samples(paths, outcome.samples), paths.samples)
    seconds = {**seconds, **outcome.seconds, "save": time.time() - started}
    result = _result(
        task.trial,
        status=outcome.status,
        reason=outcome.reason,
        epochs=outcome.epochs,
        before=outcome.before,
        after=outcome.after,
        seconds={**seconds, "total": sum(seconds.values())},
        provenance=task.provenance,
        model_hash=model_hash,
    )
    patiently(lambda: write_result(paths, result), paths.result)


def _save_model(loaded: LoadedModel, url: str) -> str:
    """The unlearned model and its tokenizer, whole or not at all; the hash of their files."""
    target = local_path(url)
    with tempfile.TemporaryDirectory(prefix=".model-", dir=None if target is None else target.parent) as folder:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        model_hash = folder_fingerprint(Path(folder))
        remove(url)
        if target is not None:
            os.chmod(folder, 0o755)  # mkdtemp's folders are for their owner alone; results are for whoever may read
            os.rename(folder, target)
            os.mkdir(folder)  # for the context manager to remove
        else:
            put(folder, url)
    return model_hash


@contextlib.contextmanager
def newest_checkpoint(paths: TrialPaths) -> Iterator[Path | None]:
    """A local folder with the newest checkpoint that is whole, None where there is none.

    Looked for among the folders themselves: a driver killed between upload and bookkeeping leaves a good one that Ray
    does not know, and a machine that lost power may leave a bad one that it does.
    """
    from icu_ray.training.checkpoints import DamagedCheckpoint, read_state

    with contextlib.ExitStack() as stack:
        for name in sorted((n for n in list_dir(paths.checkpoint) if n.startswith("checkpoint_2")), reverse=True):
            folder = stack.enter_context(fetched(join(paths.checkpoint, name)))
            try:
                read_state(folder)
            except DamagedCheckpoint as error:
                log.warning("not continued from a damaged checkpoint: %s", error)
                continue
            yield folder
            return
        yield None


def _drop_broken_snapshot(paths: TrialPaths) -> None:
    """Ray's list of checkpoints is not written atomically; a torn one would keep the trial from ever starting again."""
    url = join(paths.checkpoint, _SNAPSHOT)
    content = read_bytes(url)
    if content is None:
        return
    try:
        known = {entry["checkpoint_dir_name"] for entry in json.loads(content)["checkpoint_results"]}
        broken = not known <= set(list_dir(paths.checkpoint))
    except (ValueError, KeyError, TypeError):
        broken = True
    if broken:
        log.warning("%s is damaged; the trial's checkpoints are looked for without it", url)
        remove(url)
