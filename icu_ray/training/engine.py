"""The one place that knows DeepSpeed: a training engine for a model and a method on one worker of a group.

    with distributed(rank=0, world_size=1): engine = make_engine(module, settings)

DeepSpeed averages gradients over ranks and accumulation steps while our losses add up, so `Engine.step` scales each
micro batch's total by ranks x accumulation. Imports of DeepSpeed stay inside functions: it costs seconds, and whoever
only reads results should not pay.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from icu_ray.training.checkpoint_files import (
    frozen_names,
    leave_out_frozen,
    load_trained,
    load_without_code,
    pickle_stages_by_value,
)
from icu_ray.training.engine_settings import EngineSettings, deepspeed_config
from icu_ray.training.partitioned import divide_frozen, gathered, leave_whole
from icu_ray.training.step_rules import PartGradients, rule_of
from icu_ray.training.weight_decay import decay_groups

if TYPE_CHECKING:
    from icu_ray.methods.base import Batch
    from icu_ray.methods.objective import Objective

_TAG = "state"
"""DeepSpeed's folder in a checkpoint."""
WEIGHTS_FILE = "weights.safetensors"
"""Beside it at stage 3: the trained weights, whole, for another number of ranks."""


class Engine:
    """A DeepSpeed engine whose step takes all micro batches of this rank at once."""

    def __init__(self, module: nn.Module, settings: EngineSettings, rank: int, world_size: int) -> None:
        if settings.step is not None and settings.zero_stage == 3:
            raise ValueError("a step rule reads all gradients on each rank, which ZeRO stage 3 divides")
        device = next(module.parameters()).device
        # A model may come with gradients of whatever was done with it before; they are not the first step's.
        module.zero_grad(set_to_none=True)
        trained = [p for p in module.parameters() if p.requires_grad]
        with _quiet():
            import deepspeed

            _without_compiled_communication()
            self.inner, *_ = deepspeed.initialize(
                model=module,
                model_parameters=decay_groups(module, settings.weight_decay),
                config=deepspeed_config(settings, world_size, device, sum(p.numel() for p in trained)),
                dist_init_required=False,
            )
        # In bf16 without ZeRO, DeepSpeed's wrapper has made Adam's moments by a step on zero gradients. The weights
        # stay as they are, but Adam has counted the step, and every bias correction would be one step late.
        self.inner.basic_optimizer.state.clear()
        if world_size == 1 and settings.zero_stage == 0:
            # Alone it would still copy all gradients into one buffer, average that with nobody, and copy them back.
            self.inner.enable_backward_allreduce = False
        if not callable(getattr(self.inner.checkpoint_engine, "load", None)):
            raise RuntimeError("this DeepSpeed reads its checkpoints elsewhere, where pickled code would be run")
        self.inner.checkpoint_engine.load = load_without_code
        # Of a model with an adapter: its own weights stay what they are, and are in no checkpoint.
        self.frozen = frozen_names(module)
        if self.frozen:
            module.register_state_dict_post_hook(leave_out_frozen)  # type: ignore[no-untyped-call]
        self.settings = settings
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.skipped_in_a_row = 0
        self.divided = settings.zero_stage == 3
        """Whether each rank holds a part of the weights alone."""
        self.rule = None if settings.step is None else rule_of(settings.step)

    @property
    def skipped_steps(self) -> int:
        """Steps since the trial's start that changed nothing, because a gradient was not finite; alike on all ranks.

        DeepSpeed skips them in bf16 and, with ZeRO, in fp32. In fp32 without ZeRO they are taken.
        """
        return int(self.inner.skipped_steps)

    def set_learning_rate(self, lr: float) -> None:
        """Of the steps from now on."""
        for group in self.inner.optimizer.param_groups:
            group["lr"] = lr

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step on this rank's micro batches; returns this rank's share of each loss term.

        There may be fewer micro batches than `accumulation`, as many on every rank.
        """
        self.inner.train()
        skipped = self.skipped_steps
        parts = self._descend(batches) if self.rule is None else self._step_by_rule(batches)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if self.skipped_steps > skipped else 0
        return parts

    def _descend(self, batches: Sequence[Batch]) -> dict[str, float]:
        parts: dict[str, float] = {}
        scale = self.world_size * self.settings.accumulation
        for i, batch in enumerate(batches):
            self.inner.set_gradient_accumulation_boundary(i == len(batches) - 1)
            terms = self.inner(batch)
            self.inner.backward(terms.total * scale)
            self.inner.step()
            for name, value in terms.parts.items():
                parts[name] = parts.get(name, 0.0) + float(value)
        return parts

    def _step_by_rule(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One backward pass through DeepSpeed, whose gradient is the rule's: the rest of a step is as always.

        The gradient is the same on all ranks, so that their mean is it too.
        """
        assert self.rule is not None
        parts = PartGradients(self.inner.module, batches, self.world_size)
        found = self.rule.gradient(parts)
        surrogate = torch.stack([(p.float() * g).sum() for p, g in parts.pairs(found)]).sum()
        self.inner.set_gradient_accumulation_boundary(True)
        self.inner.backward(surrogate * self.settings.accumulation)
        self.inner.step()
        # Shares add up over ranks.
        own = self.rule.told if self.rank == 0 else dict.fromkeys(self.rule.told, 0.0)
        return {**parts.values, **own}

    @torch.no_grad()
    def measure(self, batches: Sequence[Batch], part: Objective) -> dict[str, float]:
        """This rank's share of each term of a part of the loss, without a step. All ranks call it with as many."""
        self.inner.eval()
        parts: dict[str, float] = {}
        for batch in batches:
            for name, value in self.inner(batch, part).parts.items():
                parts[name] = parts.get(name, 0.0) + float(value)
        return parts

    def save(self, folder: Path) -> None:
        """Every rank writes its part of weights and optimizer state; at stage 3 rank 0 the whole weights too."""
        with _quiet():
            pickle_stages_by_value()
            counts = {"skipped_in_a_row": self.skipped_in_a_row}
            alone = bool(self.frozen)
            self.inner.save_checkpoint(str(folder), tag=_TAG, client_state=counts, exclude_frozen_parameters=alone)
        if self.rule is not None and self.rank == 0:
            self.rule.save(folder)
        if self.divided:
            from safetensors.torch import save_file

            with self.whole_model():
                if self.rank == 0:
                    save_file({name: p.detach().contiguous() for name, p in self._trained()}, folder / WEIGHTS_FILE)

    def load(self, folder: Path, weights_only: bool) -> None:
        """Weights, and unless `weights_only` the optimizer's state. UserError for a file that would run code.

        weights_only: of any number of ranks, at any stage.
        """
        if weights_only:
            counts = self._load_weights(folder)
        else:
            with _quiet():
                load = load_trained if self.frozen else None
                loaded, counts = self.inner.load_checkpoint(str(folder), tag=_TAG, custom_load_fn=load)
            if loaded is None:
                raise FileNotFoundError(f"{folder}: holds no DeepSpeed checkpoint")
        if self.rule is not None:
            self.rule.load(folder, self.device)
        self.skipped_in_a_row = int(counts.get("skipped_in_a_row", 0))

    def _load_weights(self, folder: Path) -> dict[str, Any]:
        """Returns what else the checkpoint tells."""
        from safetensors.torch import load_file

        # Stage 3 writes one for each rank, which say the same but for the weights.
        files = sorted((folder / _TAG).glob("*model_states.pt"))
        if not files:
            raise FileNotFoundError(f"{folder}: holds no DeepSpeed checkpoint")
        kept: dict[str, Any] = load_without_code(str(files[0]), "cpu")
        whole = folder / WEIGHTS_FILE
        weights = load_file(whole) if whole.is_file() else kept["module"]
        with self.whole_model(changed=True), torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(weights[name])
        # The fp32 copies that Adam works on.
        refresh = getattr(self.inner.optimizer, "refresh_fp32_params", None)
        if refresh is not None:
            refresh()
        return kept

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.inner.module.named_parameters() if p.requires_grad]

    @contextlib.contextmanager
    def whole_model(self, changed: bool = False) -> Iterator[None]:
        """Inside, every rank can run, read and save the module alone. All ranks must enter and leave.

        At stage 3 the weights are gathered: a whole model on each device. changed: they are written to, alike on all
        ranks.
        """
        if self.divided:
            with gathered(self.inner, changed):
                yield
        else:
            yield

    def close(self) -> None:
        """Release hooks and buffers. The model is left whole on every rank, with plain parameters."""
        with _quiet():
            if self.divided:
                leave_whole(self.inner)
                self.divided = False
            self.inner.destroy()


def divide_reference(module: nn.Module) -> Any:
    """Divide the frozen original model among the ranks, as stage 3 does; see training/partitioned.py."""
    with _quiet():
        _without_compiled_communication()
        return divide_frozen(module)


def set_device_environment(device: torch.device) -> None:
    """Tell DeepSpeed which accelerator to use, also where it was imported for the CPU (training/preloading.py)."""
    os.environ["DS_ACCELERATOR"] = device.type
    chosen = sys.modules.get("deepspeed.accelerator.real_accelerator")
    if chosen is not None:
        chosen.ds_accelerator = None  # type: ignore[attr-defined]
    # Its bundled launcher looks for MPI where these are missing.
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def deepspeed_version() -> str:
    """The version of DeepSpeed, which is imported for it: whatever keeps it from training here is raised."""
    set_device_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    import deepspeed

    return str(deepspeed.__version__)


def _without_compiled_communication() -> None:
    """Leave collectives on CPU to gloo.

    DeepSpeed would compile a shared-memory kernel for them at first use: a minute, a C++ compiler, and a lock file on
    which every later process waits for ever if this one is killed meanwhile.
    """
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False


@contextlib.contextmanager
def distributed(rank: int, world_size: int, backend: str = "gloo") -> Iterator[None]:
    """A process group: the one there is (Ray Train made it), or one of this process alone."""
    if torch.distributed.is_initialized():
        yield
        return
    if world_size != 1:
        raise RuntimeError(f"{world_size} workers need a torch.distributed process group, and there is none")
    handle, rendezvous = tempfile.mkstemp(prefix="icu_ray_group_")
    os.close(handle)
    os.unlink(rendezvous)
    torch.distributed.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rendezvous)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed reports every step of its start on stdout and in warnings of its own logger."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(max(level, logging.ERROR))
