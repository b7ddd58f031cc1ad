"""Ray Train with little around it: a TorchTrainer whose controller runs in the process that calls `fit`.

A plain `TorchTrainer.fit()` inside a Tune trial starts six processes beside the workers (controller, placement group
cleaner, dataset manager, queue for Tune, preemption watcher, barrier), each with seconds of imports. Here the Tune
trainable, which Tune reuses from trial to trial, is the controller itself; of the others only those that do something
remain: the barrier, and on clusters the preemption watcher, which the controller starts with every worker group.
Worker groups, placement, reports, checkpoints, restarts after failures and preemption are Ray Train's own and
unchanged. Two protected methods of ray 2.60 are overridden; the pinned version and the tests of sweeps watch over them.

    fit(train_worker, {"task": task}, model, root, retries=3, on_workers_started=report_nodes)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import AcceleratorSetupCallback, BackendSetupCallback
from ray.train.v2._internal.exceptions import (
    RayTrainError,
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from icu_ray.cluster.nodes import draining_nodes
from icu_ray.config import ModelConfig
from icu_ray.errors import UserError
from icu_ray.storage.folders import arrow_file_system

_CHECKPOINTS_KEPT = 2
"""One to continue from, and the one before it should that be damaged."""
OnWorkersStarted = Callable[[Sequence[str], str], None]
"""Gets the node of each worker, and the name of their placement group."""
_TRANSIENT = (RuntimeError, OSError, EOFError, MemoryError, RayError, RayTrainError)
"""What may go well another time: lost workers, peers, sockets, disks. A TypeError will not."""


class StartAnew(Exception):
    """Raised by training code that is to be started anew from its checkpoint, by no fault of its own: its node is about
    to be taken away, or it goes on with a smaller micro batch. Uses up none of the retries."""


class InProcessTrainer(TorchTrainer):
    """A TorchTrainer that starts no process but its workers and their barrier.

    on_workers_started: called whenever a group of workers has started, the first time and after failures, with the node
    of each worker and the name of their placement group. Ray does not remove that when this process is killed; whoever
    sees it die must (`free_placement_group`). node: where the first group is to stand, as the schedule has decided; Ray
    by itself puts it where most is left, and spreads it when several groups start at once and take each other's room.
    After a failure a group goes wherever there is room, for the node may be gone.
    """

    def __init__(
        self,
        train_loop_per_worker: Callable[..., Any],
        *,
        on_workers_started: OnWorkersStarted = lambda nodes, group: None,
        node: str | None = None,
        **options: Any,
    ) -> None:
        self._on_workers_started, self._node = on_workers_started, node
        super().__init__(train_loop_per_worker, **options)

    def _create_default_callbacks(self) -> list[Any]:
        return [
            AcceleratorSetupCallback(self.backend_config, self.scaling_config),
            BackendSetupCallback(self.backend_config),
            _FirstNode(self._node),
            _WorkersStarted(self._on_workers_started),
        ]

    def _initialize_and_run_controller(self, failure_policy: FailurePolicy, **options: Any) -> Result:
        controller = TrainController(failure_policy=_NoSecondTryForBugs(failure_policy), **options)
        asyncio.run(controller.run())
        return controller.get_result()


class _FirstNode(ControllerCallback):
    def __init__(self, node: str | None) -> None:
        self._node = node

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        node, self._node = self._node, None
        alive = {each["NodeID"] for each in ray.nodes() if each["Alive"]} - draining_nodes()
        return {"ray.io/node-id": node} if node is not None and node in alive else None


class _WorkersStarted(WorkerGroupCallback):
    def __init__(self, on_started: OnWorkersStarted) -> None:
        self._on_started = on_started

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._on_started([worker.metadata.node_id for worker in worker_group.get_workers()], group.id.hex())


def fit(
    work: Callable[[dict[str, Any]], None],
    told: dict[str, Any],
    model: ModelConfig,
    root: str,
    *,
    retries: int,
    on_workers_started: OnWorkersStarted,
    node: str | None = None,
) -> None:
    """Run `work(told)` on a model's workers until it ends; lost ones are replaced `retries` times.

    root: folder or URL; reported checkpoints lie in its folder `checkpoint`, from where a later run goes on.
    """
    filesystem, folder = arrow_file_system(root)
    trainer = InProcessTrainer(
        work,
        train_loop_config=told,
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
            failure_config=FailureConfig(max_failures=retries),
            checkpoint_config=CheckpointConfig(num_to_keep=_CHECKPOINTS_KEPT),
        ),
        on_workers_started=on_workers_started,
        node=node,
    )
    trainer.fit()


def free_placement_group(group: str) -> None:
    """Free the resources of a placement group whose trial died."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


class _NoSecondTryForBugs(FailurePolicy):
    """Ray's policy, but an error in the training code that will come again fails the trial at once, and `StartAnew` is
    none."""

    def __init__(self, inner: FailurePolicy) -> None:
        super().__init__(inner.failure_config)
        self._inner = inner

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if isinstance(training_failed_error, WorkerGroupError):
            causes = [_original(error) for error in training_failed_error.worker_failures.values()]
            # One rank's bug makes its peers fail with lost connections: the bug is what counts.
            if any(isinstance(cause, UserError) or not isinstance(cause, (*_TRANSIENT, StartAnew)) for cause in causes):
                return FailureDecision.RAISE
            if any(isinstance(cause, StartAnew) for cause in causes):
                return FailureDecision.RETRY
        return self._inner.make_decision(training_failed_error)


def _original(error: BaseException) -> BaseException:
    """The exception that the training function raised, or what became of a worker that died."""
    cause = error
    if isinstance(error, WorkerHealthCheckFailedError):
        cause = error.health_check_failure
    elif isinstance(error, UserExceptionWithTraceback):
        cause = error._base_exc
    return cause


def reason_of(error: BaseException) -> str:
    """One line that says why a trial failed: the training function's own error where there is one."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        ranked = sorted(error.worker_failures.items())
        causes = [(rank, _original(failure)) for rank, failure in ranked]
        # The rank that had the first error is not known; one that is no mere lost connection tells more.
        rank, cause = next(((r, c) for r, c in causes if not isinstance(c, _TRANSIENT)), causes[0])
        where = f"worker {rank}: " if len(causes) > 1 or rank else ""
        return where + _line(cause)
    if isinstance(error, ControllerError):
        return _line(error.controller_failure)
    return _line(error)


def _line(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}".rstrip(": ")
