"""A pool of processes that have already imported what training needs, so that a trial starts within seconds.

pool = WorkerPool(); pool.keep(2)            # before the first trial
pool.taken(1); pool.keep(1)                  # when workers have started in one of them
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle


ROLE = "ICU_RAY_ROLE"
"""Set to 'worker' in processes that will train, so that `preload` imports what training needs."""


def preload() -> None:
    """Run by Ray in every new process of a local sweep: those that will train import what training needs.

    That is seconds of imports which a trial then does not wait for. Such a process serves one trial and ends with it.
    """
    if os.environ.get(ROLE) != "worker":
        return
    with contextlib.suppress(ImportError):  # a real want is told by the trial that meets it
        # Left to itself DeepSpeed would look for GPUs, and CUDA then keeps all of them, before Ray has said which are
        # this process's. Training corrects it (training/engine.py).
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import ray.train.torch  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
        from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoForCausalLM  # noqa: F401

        from icu_ray.training import loop  # noqa: F401


PRELOAD = f"{preload.__module__}.{preload.__name__}"
"""What `connected` is told to run in new processes."""


def training_environment() -> dict[str, Any]:
    """runtime_env of processes that train."""
    return {"env_vars": {ROLE: "worker"}}


class WorkerPool:
    """Processes that have imported what training needs and wait for a trial.

    Ray reuses an idle process for an actor only if nothing has run in it yet. An actor that is killed before its
    process is up leaves just that: a fresh process, which the next actor of the same environment takes over. So a
    trial's workers start at once, and still each in a process that no other trial has used.
    """

    def __init__(self) -> None:
        self._waiting = 0

    def keep(self, count: int) -> None:
        """Have at least `count` of them."""
        import ray

        placeholder = ray.remote(num_cpus=0, runtime_env=training_environment())(_Placeholder)
        while self._waiting < count:
            actor: ActorHandle[_Placeholder] = placeholder.remote()
            ray.kill(actor)
            self._waiting += 1

    def taken(self, count: int) -> None:
        """A worker group has started in so many of them."""
        self._waiting = max(0, self._waiting - count)


class _Placeholder:
    """An actor that is killed before it starts."""
