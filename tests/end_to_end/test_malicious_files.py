"""Files that would run code or reach outside their folders: refused, and what they would have done is not done.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icu_ray.cli.main import main as cli
from icu_ray.errors import UserError
from icu_ray.models.loading import load_model, load_tokenizer
from icu_ray.storage.folders import fetched, remove
from icu_ray.storage.store import MANIFEST, Store, verify
from icu_ray.training.checkpoints import DamagedCheckpoint, read_state
from icu_ray.trial.artefacts import load_rows
from tests.support.payload import Payload
from tests.support.tiny_models import tiny_model


def test_npy_of_objects(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data" / "train_dataset.npy"
    path.parent.mkdir()
    np.save(path, np.array([[Payload(mark)] * 2], dtype=object), allow_pickle=True)
    data = f"data={{source: extraction, folder: {path.parent}}}"
    assert cli(["data", "check", "quickstart", "evaluation.suites=[]", data]) == 2
    assert "holds pickled Python objects" in capsys.readouterr().err
    assert cli(["probe", "--model", str(tmp_path), "--forget", str(path)]) == 2
    assert "is a pickle, which is never loaded" in capsys.readouterr().err
    path.write_bytes(pickle.dumps(Payload(mark)))  # numpy takes such a file for a pickle, whatever it is called
    assert cli(["data", "check", "quickstart", "evaluation.suites=[]", data]) == 2
    assert "a pickle is never loaded" in capsys.readouterr().err
    assert cli(["probe", "--model", str(tmp_path), "--forget", str(path)]) == 2
    assert capsys.readouterr().err.count("pickle, which is never loaded") == 1


def test_yaml_tags(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    for name in ("config.yaml", "prices.yaml"):
        (tmp_path / name).write_text(f"name: {code}\ngpu_hour: {code}\n")
    for arguments in (
        ["plan", str(tmp_path / "config.yaml")],
        ["plan", "quickstart", f"name={code}"],
        ["plan", "quickstart", f"resources.prices={tmp_path / 'prices.yaml'}"],
        ["judge", "nothing", "--config", str(tmp_path / "config.yaml")],
    ):
        assert cli(arguments) == 2
        assert "could not determine a constructor for the tag" in capsys.readouterr().err


def _save_model(folder: Path) -> Path:
    tiny_model("gpt_neo").save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return folder


def _with_code(folder: Path, file: str, mark: Path, classes: dict[str, Any]) -> None:
    """Let a model's folder bring a module that touches the mark when it is imported."""
    (folder / "brought.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, "auto_map": classes}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_model_folders(mark: Path, tmp_path: Path) -> None:
    good = _save_model(tmp_path / "good")
    folder = Path(shutil.copytree(good, tmp_path / "pickle"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(folder))
    torch.save({"weight": Payload(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(folder))

    # Code of its own for the model's config, for its class, for its tokenizer.
    brought = {"AutoConfig": "brought.Config", "AutoModelForCausalLM": "brought.Model"}
    for kind, classes in (("brought", brought), ("gpt_neo", {"AutoModelForCausalLM": "brought.Model"})):
        folder = Path(shutil.copytree(good, tmp_path / f"model-{kind}"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        _with_code(folder, "config.json", mark, classes)
        if kind == "brought":
            with pytest.raises(UserError, match="comes with its own code, which was not run"):
                load_model(str(folder))
        else:  # a family that transformers knows itself: its own class is taken
            assert type(load_model(str(folder)).model).__module__.startswith("transformers.")
    folder = Path(shutil.copytree(good, tmp_path / "tokenizer"))
    _with_code(folder, "tokenizer_config.json", mark, {"AutoTokenizer": [None, "brought.Tokenizer"]})
    assert load_tokenizer(str(folder)).vocab_size == 3  # the family's own
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "brought"}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "Brought"}))
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError, match="comes with its own code, which was not run"):
            load(str(folder))


def test_checkpoint_manifest_that_names_other_files(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("{}")
    entry = [2, hashlib.sha256(b"{}").hexdigest()]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for manifest in ({"../outside": entry}, {str(outside): entry}, {"state": 3}, [], None):
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DamagedCheckpoint):
            read_state(folder)


def _into_store(store: Store, mark: Path, write: Callable[[Path], object]) -> Path:
    """An artefact that is as its manifest says: whoever can write one can write the other."""
    folder = store.get_or_make("rows", {"n": 1}, lambda folder: void(write(folder)))
    assert verify(folder) is None
    return folder


def void(_: object) -> None:
    return None


@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_artefact_of_the_store(form: str, mark: Path, tmp_path: Path) -> None:
    rest = {"ids": ["a"], "references": ["a"], "columns": [4, 1, 2], "pad_id": 0, "eos_id": 0, "positions": "real"}

    def write(folder: Path) -> None:
        (folder / "rows.json").write_text(json.dumps(rest))
        if form == "pickle":
            (folder / "rows.npz").write_bytes(pickle.dumps(Payload(mark)))
        else:
            np.savez(folder / "rows.npz", input_ids=np.array([Payload(mark)], dtype=object))

    folder = _into_store(Store(str(tmp_path / "store")), mark, write)
    with pytest.raises(ValueError, match=r"allow_pickle|pickled"):
        load_rows(folder)


NAMES = ("../../escaped", "ABSOLUTE", "a/../../../escaped", "..", "nul\0byte", "")


@pytest.mark.parametrize("name", NAMES)
def test_manifest_of_the_store_that_leads_out_of_it(name: str, tmp_path: Path) -> None:
    bucket = f"memory://bucket-{tmp_path.name}"
    name = name.replace("ABSOLUTE", f"{tmp_path}/escaped")
    first = Store(bucket, cache=str(tmp_path / "one"))
    folder = first.get_or_make("kind", {"n": 1}, lambda folder: void((folder / "x").write_text("x")))
    files = fsspec.filesystem("memory")
    where = f"{bucket.removeprefix('memory:/')}/kind/{folder.name}"
    manifest = json.loads(files.cat_file(f"{where}/{MANIFEST}"))
    manifest["files"][name] = manifest["files"]["x"]
    files.pipe_file(f"{where}/{MANIFEST}", json.dumps(manifest).encode())
    files.store[f"{where}/{name}"] = files.store[f"{where}/x"]
    made = []
    second = Store(bucket, cache=str(tmp_path / "two"))
    again = second.get_or_make("kind", {"n": 1}, lambda folder: made.append((folder / "x").write_text("y")))
    assert made and (again / "x").read_text() == "y"
    assert {path.name for path in (tmp_path / "two").rglob("*") if path.is_file()} <= {
        "x",
        MANIFEST,
        f".{again.name}.lock",
    }
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("name", ["../../escaped", "a/../../../escaped"])
def test_folder_of_a_bucket_that_leads_out_of_its_copy(name: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}-{abs(hash(name))}/checkpoint"
    files.pipe_file(f"{root}/a/weights", b"1")
    files.pipe_file(f"{root}/config.json", b"2")
    with fetched(f"memory:/{root}") as folder:
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/weights": b"1", "config.json": b"2"}
    files.store[f"{root}/{name}"] = files.store[f"{root}/config.json"]
    with pytest.raises(UserError, match="leads out of the folder"), fetched(f"memory:/{root}"):
        pass


def test_names_of_a_config_stay_in_the_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sweep, models, methods and samples become names of folders and files: none leads out."""
    storage = tmp_path / "runs"
    tried = ["../out", "/out", "..", "a/b", ".hidden", "a\\b", "nul\\0byte", "a" * 65, "~", "a b", "x\\n"]
    for key in ("name", "models.0.name", "methods.0.label", "methods.0.name"):
        for name in tried:
            assert cli(["plan", "quickstart", f"storage={storage}", f'{key}="{name}"']) == 2, (key, name)
            assert f"{key}: " in capsys.readouterr().err
    for key, value in (("samples", "['../out']"), ("samples", "[-1]"), ("samples", "[1.5]")):
        assert cli(["plan", "quickstart", f"storage={storage}", f"{key}={value}"]) == 2
    for value in (f"{'a' * 300}", "a/" * 3000, '"nul\\0byte"'):
        assert cli(["plan", "quickstart", f"storage={value}"]) == 2
        assert "storage: holds a zero byte, or is longer" in capsys.readouterr().err
    assert not storage.exists() and list(tmp_path.iterdir()) == []


def test_a_trial_folder_that_is_a_link_is_unlinked_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / "model").symlink_to(outside, target_is_directory=True)
    remove(str(tmp_path / "model"))
    assert not (tmp_path / "model").is_symlink() and (outside / "kept").read_text() == "kept"
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "inner").symlink_to(outside, target_is_directory=True)
    remove(str(folder))
    assert not folder.exists() and (outside / "kept").read_text() == "kept"


def test_yaml_alias_bomb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 2000)
    (tmp_path / "itself.yaml").write_text("a: &a [*a]")
    for name, said in (("c", "aliases make"), ("deep", "more than 64 levels"), ("itself", "recursive node")):
        assert cli(["plan", str(tmp_path / f"{name}.yaml")]) == 2
        assert said in capsys.readouterr().err
