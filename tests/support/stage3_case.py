"""Trials at ZeRO stage 3 beside the same at stage 0, runnable as a process of a gloo group.

python tests/support/stage3_case.py RANK WORLD_SIZE RENDEZVOUS_FILE OUT_FILE FOLDER

FOLDER gets checkpoints after epoch 1, by stage, and the saved model of rank 0; OUT_FILE.RANK what each trial came to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from icu_ray.config import EvalConfig, ModelConfig, StopConfig
from icu_ray.models.loading import LoadedModel
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.training import engine, partitioned
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialData
from icu_ray.trial.saved_models import save_epoch_model, save_model
from tests.support.training_case import LEAK, case, drawn_case, tokenizer, trial_settings

EPOCHS = 3
KEEP_BEST = {
    "stop": StopConfig(ma=0.0, el=0.0, on_empty=False, keep="best", max_ppl_ratio=5.0),
    "eval": EvalConfig(heldout="epochs"),
    "lr": 2e-2,
    "beta": 0.0,
}
"""The second epoch keeps the limit, the third is far beyond it, by the kernels of whatever processor."""


def divide_everything() -> None:
    """DeepSpeed leaves weights of less than 100,000 numbers whole on every rank: all that a tiny model has."""
    configured, frozen = engine.deepspeed_config, partitioned.frozen_config

    def without(config: dict[str, Any]) -> dict[str, Any]:
        if config["zero_optimization"]["stage"] == 3:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    engine.deepspeed_config = lambda *given: without(configured(*given))  # type: ignore[assignment]
    partitioned.frozen_config = lambda *given: without(frozen(*given))  # type: ignore[assignment]


def trial(
    rank: int,
    world_size: int,
    drawn: tuple[PreTrainedModel, TrialData] | None = None,
    save_to: Path | None = None,
    resume_from: Path | None = None,
    model_to: str | None = None,
    best_to: Path | None = None,
    **changes: object,
) -> dict[str, Any]:
    """What a trial came to. save_to: where epoch 1 is saved. model_to: where the models after epoch 1 and in
    the end are. best_to: where the best epoch's weights are kept."""
    model, data = case(count=7) if drawn is None else drawn
    loaded, described = LoadedModel(model, tokenizer(), Path()), ModelConfig(name="m", source="m")
    paths = TrialPaths.of(model_to or "", "s", "t")

    def on_epoch(report: EpochReport) -> None:
        if save_to is not None and report.record.epoch == 1:
            report.save(save_to)
        if model_to is not None and report.record.epoch == 1:
            with report.as_left():
                if rank == 0:
                    save_epoch_model(loaded, paths, described, 1)
        if best_to is not None and report.best == report.record.epoch:
            report.save_weights(best_to)
            torch.distributed.barrier()

    @contextmanager
    def best_weights(epoch: int) -> Iterator[Path | None]:
        yield best_to

    outcome = run_trial(
        trial_settings(**{"micro_batch": 1, "max_epochs": EPOCHS, "leak": LEAK, **changes}),
        data,
        model,
        tokenizer(),
        rank=rank,
        world_size=world_size,
        resume_from=resume_from,
        on_epoch=on_epoch,
        best_weights=best_weights,
    )
    if model_to is not None and rank == 0:
        save_model(loaded, paths, described)
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "losses": [dict(record.loss) for record in outcome.history],
        "came_back": [r.came_back for r in outcome.history],
        "scores": [[r.scores.ma, r.scores.el, r.scores.ppl_heldout or 0.0, r.scores.bleu] for r in outcome.history],
        "said": [sample.after for sample in outcome.samples],
        "notes": [list(record.notes) for record in outcome.history],
        "kept": outcome.kept_epoch,
    }


def recomputed() -> tuple[PreTrainedModel, TrialData]:
    """A case whose frozen original model is run again at every step."""
    return drawn_case("epoch", epochs=EPOCHS, cache="recompute")


def main() -> None:
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[5])
    torch.set_num_threads(1)
    engine.set_device_environment(torch.device("cpu"))
    divide_everything()
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    found = {}
    for stage in (0, 3):
        saved, how = folder / f"stage-{stage}", {"zero_stage": stage}
        found[f"{stage} whole"] = trial(rank, world_size, save_to=saved, model_to=str(folder / f"{stage}"), **how)
        found[f"{stage} continued"] = trial(rank, world_size, resume_from=saved, **how)
        found[f"{stage} best"] = trial(rank, world_size, best_to=folder / f"best-{stage}", **KEEP_BEST, **how)
        found[f"{stage} recomputed"] = trial(rank, world_size, recomputed(), **how)
        found[f"{stage} checkpointing"] = trial(rank, world_size, activation_checkpointing=True, **how)
    torch.save(found, f"{sys.argv[4]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
