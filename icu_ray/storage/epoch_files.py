"""The models after a trial's epochs, and what was evaluated of them (evaluation.when=epochs), in its folder `epochs`.

    <trial>/epochs/3/, 3.sha256         the model after epoch 3, from its training to its evaluation
                  /evaluations.jsonl    one EpochEvaluation a line, in the order of the epochs

    for epoch, model_hash in kept_epochs(paths).items(): ...
    add_epoch_evaluation(paths, found); drop_epoch_model(paths, found.epoch)

A model is whole where its hash stands beside it, which is written last and removed first. Epoch 0 is the original, and
the model that a trial leaves has an evaluation of its own: neither is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.files import join, list_dir, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.results import to_json
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.storage.values import OF_TRIAL, read_lines

_SUM = ".sha256"


def epoch_model(paths: TrialPaths, epoch: int) -> str:
    """Folder of the model after an epoch."""
    return join(paths.epochs, str(epoch))


def epoch_evaluations(paths: TrialPaths) -> str:
    """The file with what was evaluated."""
    return join(paths.epochs, "evaluations.jsonl")


def mark_whole(paths: TrialPaths, epoch: int, model_hash: str) -> None:
    """Say that the model after an epoch is there."""
    write_atomic(epoch_model(paths, epoch) + _SUM, model_hash.encode())


def kept_hash(paths: TrialPaths, epoch: int) -> str | None:
    """Hash of the model after an epoch; None where there is none."""
    content = read_bytes(epoch_model(paths, epoch) + _SUM)
    return None if content is None else content.decode()


def kept_epochs(paths: TrialPaths) -> dict[int, str]:
    """The whole models that are there, by epoch: their hashes."""
    epochs = sorted(int(name.removesuffix(_SUM)) for name in list_dir(paths.epochs) if _names_model(name, _SUM))
    return {epoch: known for epoch in epochs if (known := kept_hash(paths, epoch)) is not None}


def drop_epoch_model(paths: TrialPaths, epoch: int) -> None:
    """Remove the model after an epoch."""
    remove(epoch_model(paths, epoch) + _SUM)
    remove(epoch_model(paths, epoch))


def drop_epoch_models(paths: TrialPaths, *, whole: bool) -> None:
    """Remove models of epochs that are not whole; whole: also those that are."""
    names = list_dir(paths.epochs)
    for name in names:
        if _names_model(name) and (whole or f"{name}{_SUM}" not in names):
            drop_epoch_model(paths, int(name))


def _names_model(name: str, ending: str = "") -> bool:
    return name.endswith(ending) and name.removesuffix(ending).isdecimal()


def read_epoch_evaluations(paths: TrialPaths) -> tuple[EpochEvaluation, ...]:
    """What was evaluated so far, in the order of the epochs."""
    return read_lines(EpochEvaluation, epoch_evaluations(paths), paths.trial_id)


def write_epoch_evaluations(paths: TrialPaths, evaluations: Sequence[EpochEvaluation]) -> None:
    """All of them."""
    lines = [to_json({OF_TRIAL: paths.trial_id, **asdict(each)}) for each in evaluations]
    write_atomic(epoch_evaluations(paths), b"".join(lines))


def add_epoch_evaluation(paths: TrialPaths, evaluation: EpochEvaluation) -> None:
    """One more, in the place of what there was of this epoch."""
    others = [each for each in read_epoch_evaluations(paths) if each.epoch != evaluation.epoch]
    write_epoch_evaluations(paths, sorted([*others, evaluation], key=lambda each: each.epoch))
