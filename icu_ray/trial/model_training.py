"""Trains a model of the grid on the sweep's texts, once for all trials, and leaves it in the store.

    train_model(TrainingRequest(...), store, tell)          # in a Ray task, by sweep/prepare_tasks.py

The worker group, its checkpoints, its restarts after failures and its precision are those of the model's trials
(trial/trainer.py). Until the model is in the store, <sweep>/training/<name>/ holds what a later run goes on from: the
last checkpoints, and an EpochRecord of each epoch. In the model's folder, training.json says what was reached.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.console.progress import Step
from icu_ray.data.examples import Examples
from icu_ray.data.long_texts import LongTexts
from icu_ray.data.sources import counts_own_tokens
from icu_ray.errors import UserError
from icu_ray.storage.files import join, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.results import EpochRecord, to_json
from icu_ray.storage.retry import with_retries
from icu_ray.storage.store import Store, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_events, write_events
from icu_ray.training.trained_epochs import trained_epochs, write_training
from icu_ray.trial.artefacts import (
    VERSION,
    ArtefactKey,
    ArtefactRecord,
    RecordingStore,
    columns_key,
    get_artefact,
    load_original,
    load_rows,
    save_rows,
)
from icu_ray.trial.checkpoints import drop_broken_snapshot, newest_checkpoint, sign_of_progress
from icu_ray.trial.watchdog import Watchdog, looking
from icu_ray.trial.worker import (
    leave_checkpoint,
    leave_if_preempted,
    set_up_process,
    started_anew_out_of_memory,
    with_smaller_micro_batch,
)

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel

log = logging.getLogger(__name__)
_GROUP_FILE, _PROGRESS_FILE = "placement_group", "progress.json"
_TELL_SECONDS = 2.0


@dataclass(frozen=True)
class TrainingRequest:
    """One model that is to be trained. root: the store's place. key: what decides it; the store has it by that.

    folder: <sweep>/training/<name>. model: as its trials get it, its source at a commit. texts: all that it reads.
    samples: which of them each forget sample holds; none where it is trained without one (the gold standard).
    like: key of the model as many of whose epochs it trains.
    """

    root: str
    folder: str
    config: SweepConfig
    model: ModelConfig
    key: ArtefactKey
    texts: Examples
    samples: Mapping[int, NDArray[np.int64]]
    like: ArtefactKey | None = None

    @property
    def paths(self) -> TrialPaths:
        """Where its checkpoints and epochs lie."""
        return TrialPaths(self.folder)


@dataclass(frozen=True)
class _Task:
    """What every worker is told: the request without its texts, the key of their rows, and when to end."""

    request: TrainingRequest
    rows: ArtefactKey
    epochs: int | None


def training_folder(config: SweepConfig, key: ArtefactKey) -> str:
    """Where the training of the model with this key leaves what a later run goes on from."""
    return join(config.storage, config.name, "training", content_hash(["models", key]))


def train_model(request: TrainingRequest, store: RecordingStore, tell: Callable[[Step], None]) -> None:
    """Have the model in the store: found there, or trained. UserError with the reason where it cannot be trained."""
    name = content_hash(["models", request.key])
    home = store.folder / "models"
    home.mkdir(parents=True, exist_ok=True)
    # Another sweep of this machine may be at it; on another machine both work, and the later one takes the earlier's.
    tell(Step("", None, "waiting, if another sweep trains it"))
    with FileLock(home / f".{name}.training.lock"):
        if store.contains("models", request.key):
            with contextlib.suppress(RuntimeError):  # damaged: the store has removed it
                get_artefact(store, "models", request.key)
                remove(request.folder)  # of a run that was killed before it could
                return
        remove(request.paths.micro_batch)  # whatever an earlier run was short of may be there now
        started = time.perf_counter()
        tell(Step("", 0.0, "its texts become tokens"))
        rows = _rows(request, store)
        epochs = None if request.like is None else trained_epochs(get_artefact(store, "models", request.like))
        _train(_Task(replace(request, texts=Examples((), ())), rows, epochs), tell)
        store.records.append(ArtefactRecord("models", name, True, time.perf_counter() - started))
        remove(request.folder)


def _rows(request: TrainingRequest, store: Store) -> ArtefactKey:
    """Key of the texts' rows in the model's tokens, which are made where the store lacks them."""
    from icu_ray.data.tokens import tokenise
    from icu_ray.models.fingerprints import model_fingerprint
    from icu_ray.models.loading import load_tokenizer

    config, model = request.config, request.model
    long: LongTexts = "windows" if config.rows.long == "windows" else "cut"
    own = counts_own_tokens(config, standin=False)
    key: ArtefactKey = {
        "version": VERSION,
        "of": "training",
        "model": model_fingerprint(model.model_copy(update={"train": None}), config.chats),
        "content": request.texts.fingerprint(),
        "columns": columns_key(config.columns.value()),
        "own_columns": own,
        "tokens": config.tokens.model_dump(mode="json", exclude={"columns_of"}),
        "long": long,
        "loss_on": config.loss.on,
    }

    def make(folder: Path) -> None:
        assert model.source is not None
        tokenizer = load_tokenizer(model.source, revision=model.revision, trust_remote_code=model.trust_remote_code)
        how: dict[str, Any] = {"own_columns": own, "long": long, "loss_on": config.loss.on}
        save_rows(tokenise(request.texts, tokenizer, config.columns.value(), config.tokens, **how), folder)

    store.get_or_make("rows", key, make)
    return key


def free_left_group(request: TrainingRequest) -> None:
    """Free what the workers of a controller that died had claimed: they died with it, their claim did not."""
    from icu_ray.trial.trainer import free_placement_group

    left = read_bytes(join(request.folder, _GROUP_FILE))
    if left is not None:
        with contextlib.suppress(Exception):  # it may be gone, with the cluster that it was of
            free_placement_group(left.decode())


def _train(task: _Task, tell: Callable[[Step], None]) -> None:
    """The worker group, from its start until the model is in the store."""
    from icu_ray.trial.trainer import fit, free_placement_group, reason_of

    request = task.request
    paths, group = request.paths, join(request.folder, _GROUP_FILE)
    free_left_group(request)
    drop_broken_snapshot(paths)
    minutes = request.config.resources.epoch_minutes
    progress = join(request.folder, _PROGRESS_FILE)
    # Steps count too: an epoch here runs over all texts, a trial's over those to forget.
    watchdog = Watchdog(lambda: (sign_of_progress(paths), read_bytes(progress)), minutes, free_placement_group)

    def started(nodes: object, placement_group: str) -> None:
        watchdog.started(placement_group)
        write_atomic(group, placement_group.encode())

    tell(Step("", 0.0, "waiting for its workers"))
    retries = request.config.resources.retries
    try:
        with watchdog, _telling(task, tell):
            fit(train_worker, {"task": task}, request.model, paths.root, retries=retries, on_workers_started=started)
    except Exception as error:
        log.exception("training %s", request.model.name)
        why = f"hung: no epoch ended within resources.epoch_minutes={minutes:g}" if watchdog.hung else reason_of(error)
        raise UserError(f"{request.model.name}: {why}") from error


@contextlib.contextmanager
def _telling(task: _Task, tell: Callable[[Step], None]) -> Iterator[None]:
    """Tell what rank 0 leaves of its progress, from a thread of its own."""
    last, url = None, join(task.request.folder, _PROGRESS_FILE)

    def look() -> None:
        nonlocal last
        with contextlib.suppress(OSError, ValueError, KeyError, UserError):
            content = read_bytes(url)
            if content is not None and content != last:
                last = content
                said = json.loads(content)
                tell(_step(task, int(said["epoch"]), float(said["part"]), read_events(task.request.paths)))

    with looking(look, "training"):
        yield


def _step(task: _Task, epoch: int, part: float, history: tuple[EpochRecord, ...]) -> Step:
    how = task.request.model.train
    assert how is not None
    most = task.epochs or how.epochs
    done = (epoch - 1 + part) / most
    text = f"epoch {epoch} of {most if task.epochs or how.min_memorization is None else f'at most {most}'}"
    ma = history[-1].scores.ma if history else None
    if ma is not None:
        text += f", MA {ma:.2f}"
    return Step("", min(done, 0.99), text)


def train_worker(told: dict[str, Any]) -> None:
    """What Ray Train runs on every worker of the group."""
    import ray.train

    from icu_ray.training.finetuning import FinetuneReport, finetune, finetune_settings

    task: _Task = told["task"]
    request, paths = task.request, task.request.paths
    model, how = request.model, request.model.train
    assert how is not None
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings = finetune_settings(model, request.config)
    set_up_process(model, settings)
    store = Store(request.root)
    loaded = load_original(model, None, store)
    rows = load_rows(get_artefact(store, "rows", task.rows))
    samples = {number: np.flatnonzero(np.isin(rows.text_of_row, texts)) for number, texts in request.samples.items()}
    settings, notes = with_smaller_micro_batch(paths, settings)
    last = 0.0

    def on_step(epoch: int, part: float) -> None:
        nonlocal last
        if rank == 0 and time.monotonic() - last > _TELL_SECONDS:
            last = time.monotonic()
            with contextlib.suppress(OSError):  # storage is away for a moment: nothing that training should end for
                write_atomic(join(request.folder, _PROGRESS_FILE), to_json({"epoch": epoch, "part": part}))

    def on_epoch(report: FinetuneReport) -> None:
        epoch = report.history[-1].epoch
        if rank == 0:
            with_retries(lambda: write_events(paths, report.history), paths.events)
        if not report.over:
            leave_checkpoint(paths, epoch, report.save)
        leave_if_preempted(epoch, over=report.over)

    with newest_checkpoint(paths) as checkpoint:
        how_run: dict[str, Any] = {"rank": rank, "world_size": world_size, "resume_from": checkpoint}
        how_run |= {"epochs": task.epochs, "on_epoch": on_epoch, "on_step": on_step, "notes": notes}
        with started_anew_out_of_memory(paths, settings, world_size):
            history = finetune(how, settings, rows, samples, loaded.model, loaded.tokenizer, **how_run)
    if rank == 0:
        with_retries(
            lambda: store.get_or_make("models", request.key, lambda to: _save(loaded, history, to)), "the model"
        )


def _save(loaded: LoadedModel, history: tuple[EpochRecord, ...], folder: Path) -> None:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    told = [{"epoch": r.epoch, **r.loss, "ma": r.scores.ma, "steps": r.steps, "notes": r.notes} for r in history]
    write_training(folder, [{k: v for k, v in epoch.items() if k != "notes" or v} for epoch in told])
