"""The folder of the model after an epoch: what a trial would leave if it ended there, while it goes on.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from icu_ray.config import EvalConfig, ModelConfig, StopConfig
from icu_ray.models.adapters import has_adapter
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import LoadedModel, load_model
from icu_ray.storage.epoch_files import epoch_model, kept_epochs
from icu_ray.storage.files import list_dir
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from icu_ray.trial import saved_models
from icu_ray.trial.saved_models import save_epoch_model, save_model
from tests.support.lora_case import lora_case
from tests.support.tiny_models import tiny_model
from tests.support.training_case import case, tokenizer, trial_settings

PLACES = ["{}/runs", "local://{}/runs"]


def run(
    paths: TrialPaths, described: ModelConfig, model: Any, data: Any, epochs: int, keeping: bool, **how: Any
) -> tuple[TrialOutcome, LoadedModel]:
    """A trial of so many epochs as the worker runs one."""
    loaded = LoadedModel(model, tokenizer(), Path())

    def on_epoch(report: EpochReport) -> None:
        if keeping and report.record.epoch and not report.leaves_this_model:
            with report.as_left():
                save_epoch_model(loaded, paths, described, report.record.epoch)

    stop = {"ma": 0.0, "el": 0.0, "on_empty": False, "max_epochs": epochs, **how.pop("stop", {})}
    settings = trial_settings(**{"lr": 1e-2, "max_epochs": epochs, "stop": StopConfig(**stop), **how})
    return run_trial(settings, data, loaded.model, loaded.tokenizer, on_epoch=on_epoch), loaded


@pytest.mark.parametrize("place", PLACES)
def test_it_is_what_a_shorter_trial_leaves_and_training_goes_on_alike(tmp_path: Path, place: str) -> None:
    described = ModelConfig(name="m", source="m")
    roots = [TrialPaths.of(place.format(tmp_path), "s", name) for name in ("three", "two", "plain")]
    three, two, plain = roots
    model, data = case()
    outcome, loaded = run(three, described, model, data, 3, True)
    assert outcome.epochs == 3
    # The last one is the trial's own.
    kept = kept_epochs(three)
    assert list(kept) == [1, 2]
    model, data = case()
    _, shorter = run(two, described, model, data, 2, False)
    assert save_model(shorter, two, described) == kept[2] != kept[1]
    model, data = case()
    _, without = run(plain, described, model, data, 3, False)
    assert save_model(without, plain, described) == save_model(loaded, three, described)
    folder = tmp_path / "runs" / "s" / "trials" / "three" / "epochs" / "1"
    assert folder_fingerprint(folder) == kept[1] and load_model(str(folder)).tokenizer is not None


@pytest.mark.parametrize("made_here", [False, True])
def test_of_an_adapter_it_is_that_alone_unless_its_base_has_no_name(tmp_path: Path, made_here: bool) -> None:
    base, _ = lora_case()
    for name, parameter in base.named_parameters():
        assert "lora_B" not in name or not parameter.any()
    plain, _ = case()
    source = tmp_path / "base"
    plain.save_pretrained(source)
    tokenizer().save_pretrained(source)
    train: dict[str, Any] = {"train": {"epochs": 1}} if made_here else {}
    described = ModelConfig(name="m", source=str(source), lora={"rank": 2}, **train)  # type: ignore[arg-type]
    two, three = (TrialPaths.of(str(tmp_path / "runs"), "s", name) for name in ("two", "three"))
    model, data = lora_case()
    _, loaded = run(three, described, model, data, 3, True)
    assert has_adapter(loaded.model)
    folder = Path(epoch_model(three, 2))
    names = {path.name for path in folder.iterdir()}
    assert ("adapter_model.safetensors" in names) != made_here and ("model.safetensors" in names) == made_here
    model, data = lora_case()
    _, shorter = run(two, described, model, data, 2, False)
    own = save_model(shorter, two, described)  # merged, as by default
    assert (own == kept_epochs(three)[2]) == made_here
    found = dict(load_model(str(folder)).model.named_parameters())
    for name, parameter in load_model(two.model).model.named_parameters():
        assert torch.equal(parameter, found[name]), name


@pytest.mark.parametrize("place", PLACES)
def test_what_is_there_already_stays_and_another_model_takes_its_place(tmp_path: Path, place: str) -> None:
    paths, described = TrialPaths.of(place.format(tmp_path), "s", "t"), ModelConfig(name="m", source="m")
    folder = tmp_path / "runs" / "s" / "trials" / "t" / "epochs" / "1"
    loaded = LoadedModel(tiny_model("gpt_neo"), tokenizer(), tmp_path)
    save_epoch_model(loaded, paths, described, 1)
    first, inode = kept_epochs(paths)[1], folder.stat().st_ino
    save_epoch_model(loaded, paths, described, 1)
    assert kept_epochs(paths) == {1: first} and folder.stat().st_ino == inode
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    save_epoch_model(loaded, paths, described, 1)
    assert kept_epochs(paths) == {1: folder_fingerprint(folder)} and kept_epochs(paths)[1] != first


def _raise(error: Exception) -> None:
    raise error


def test_a_full_disk_costs_the_epoch_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths, described = TrialPaths.of(str(tmp_path), "s", "t"), ModelConfig(name="m", source="m")
    loaded = LoadedModel(tiny_model("gpt_neo"), tokenizer(), tmp_path)

    def full(folder: Path) -> str:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(saved_models, "folder_fingerprint", full)
    save_epoch_model(loaded, paths, described, 1)
    assert kept_epochs(paths) == {} and list_dir(paths.epochs) == []
    assert "no room for this model" in caplog.text
    monkeypatch.undo()
    # What writes the weights tells a full disk in words alone; anything else it says is a failure.
    said = "I/O error: No space left on device (os error 28)"
    monkeypatch.setattr(loaded.model, "save_pretrained", lambda folder: _raise(SafetensorError(said)))
    save_epoch_model(loaded, paths, described, 1)
    assert kept_epochs(paths) == {} and caplog.text.count("no room for this model") == 2
    monkeypatch.setattr(loaded.model, "save_pretrained", lambda folder: _raise(SafetensorError("bad header")))
    with pytest.raises(SafetensorError, match="bad header"):
        save_epoch_model(loaded, paths, described, 1)
    monkeypatch.undo()
    save_epoch_model(loaded, paths, described, 2)
    assert list(kept_epochs(paths)) == [2]


def test_the_last_epoch_s_model_is_kept_where_the_trial_leaves_another_one(tmp_path: Path) -> None:
    described, epochs = ModelConfig(name="m", source="m"), 3
    how: dict[str, Any] = {"eval": EvalConfig(heldout="epochs"), "beta": 0.0, "lr": 2e-2}
    for keep, expected in (("last", [1, 2]), ("best", [1, 2, 3])):
        paths = TrialPaths.of(str(tmp_path), "s", keep)
        model, data = case()
        # The second epoch keeps this limit (1 to 2 times the original's), the last does not (7 to 40), whatever the
        # processor's kernels.
        stop = {"keep": keep, "max_ppl_ratio": 5.0}
        outcome, _ = run(paths, described, model, data, epochs, True, stop=stop, **how)
        assert outcome.epochs == epochs
        assert list(kept_epochs(paths)) == expected
