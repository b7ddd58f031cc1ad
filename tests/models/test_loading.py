"""Loading: three families with real files on disk, and everything that is refused.

Needs: nothing.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icu_ray.errors import UserError
from icu_ray.models.loading import check_model_source, load_model, load_tokenizer
from tests.support.tiny_models import FAMILIES, VOCABULARY, tiny_model


def save_tokenizer(folder: Path, size: int = VOCABULARY, end: str | None = "</s>") -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"w{k}": k for k in range(2, size)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, unk_token="<unk>").save_pretrained(folder)


def save_model(folder: Path, family: str = "gpt_neo", dropout: float = 0.0) -> Path:
    tiny_model(family, dropout=dropout).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_families_load_without_dropout_and_pad_on_the_left(family: str, tmp_path: Path) -> None:
    check_model_source(str(save_model(tmp_path, family, dropout=0.3)))
    loaded = load_model(str(tmp_path))
    model = loaded.model.train()
    torch.manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (2, 9))
    torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=0, rtol=0)
    assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    for (name, found), wanted in zip(model.named_parameters(), tiny_model(family).parameters(), strict=True):
        torch.testing.assert_close(found, wanted, msg=name)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "</s>"
    assert loaded.tokenizer(["w3", "w4 w5"], padding=True)["input_ids"] == [[1, 3], [4, 5]]
    assert loaded.folder == tmp_path


def test_the_fused_activation_is_the_same_function(tmp_path: Path) -> None:
    loaded = load_model(str(save_model(tmp_path))).model
    kinds = {type(m).__name__ for m in loaded.modules()}
    assert "GELU" in kinds and "NewGELUActivation" not in kinds
    ids = torch.arange(2, 12)[None]
    torch.testing.assert_close(loaded(ids).logits, tiny_model("gpt_neo")(ids).logits, atol=2e-5, rtol=1e-5)
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["activation_function"] == "gelu_new"


def test_precision_and_pickled_weights(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_model("gpt_neo").state_dict(), tmp_path / "pytorch_model.bin")
    model = load_model(str(tmp_path), dtype="bfloat16").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lacks_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def names_another_folder(folder: Path) -> None:
    save_model(folder.parent / "other")
    (folder / "model.safetensors").unlink()
    shards = {"a": "../other/model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(text))


def void(_: object) -> None:
    return None


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


SEEN_BEFORE_LOADING = {
    "no config": (without("config.json"), "no config.json"),
    "config is no JSON": (written("config.json", "{"), "cannot be read as JSON"),
    "config is a list": (written("config.json", "[]"), "holds a list"),
    "config of nothing": (written("config.json", "{}"), "no 'model_type'"),
    "no weights": (without("model.safetensors"), "no weights here"),
    "truncated weights": (truncated, "copy it again"),
    "weights of text": (written("model.safetensors", "weights"), "no safetensors file"),
    "empty weights": (written("model.safetensors", ""), "no safetensors file"),
    "a shard is missing": (lacks_a_shard, "model-00002-of-00002"),
    "a shard of another folder": (names_another_folder, "names '../other/model.safetensors'"),
    "no tokenizer": (without_tokenizer, "no tokenizer in this folder"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "good")


@pytest.mark.parametrize("case", list(SEEN_BEFORE_LOADING))
def test_bad_folders_are_refused_before_anything_is_loaded(case: str, good: Path, tmp_path: Path) -> None:
    damage, message = SEEN_BEFORE_LOADING[case]
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    damage(folder)
    for refuse in (check_model_source, load_model):
        with pytest.raises(UserError, match=message) as caught:
            refuse(str(folder))
        assert str(folder) in str(caught.value)


def test_weights_that_fit_only_in_part_are_refused(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    config = json.loads((folder / "config.json").read_text())
    config["num_layers"], config["attention_types"] = 3, [[["global"], 3]]
    config.pop("attention_layers", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"hold no transformer\.h\.2"):
        load_model(str(folder))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_runs_code_is_not_run(good: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="cannot be loaded: its weights are a pickle") as refused:
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()
    # torch's own words are an advice to load it all the same.
    assert not any(word in str(refused.value) for word in ("weights_only", "trust", "can still be loaded"))


def test_an_unknown_architecture_is_named(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "a_model_of_tomorrow"}))
    with pytest.raises(UserError, match="a_model_of_tomorrow"):
        load_model(str(folder))


def test_a_tokenizer_with_tokens_beyond_the_model_is_refused(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    save_tokenizer(folder, size=VOCABULARY + 5)
    with pytest.raises(UserError, match=f"knows token {VOCABULARY + 4}, but the model has only {VOCABULARY}"):
        load_model(str(folder))


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == 1
    save_tokenizer(tmp_path, end=None)
    with pytest.raises(UserError, match="neither a pad nor an end-of-text token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("source", ["./nothing-here", "/nowhere/at/all", "a/b/c"])
def test_missing_folders(source: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        check_model_source(source)


def test_forms_of_hub_ids() -> None:
    check_model_source("EleutherAI/gpt-neo-125m")
    for bad in ("two words", "org/", ""):
        with pytest.raises(UserError, match="hub id"):
            check_model_source(bad)


def test_a_hub_id_without_a_network_says_what_to_give_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from icu_ray.models.loading import load_model\n"
        "from icu_ray.errors import UserError\n"
        "try:\n    load_model('nobody/no-such-model')\nexcept UserError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "give the path of a local folder" in done.stdout


def test_checking_a_source_imports_neither_torch_nor_transformers(good: Path) -> None:
    code = (
        "import sys; from icu_ray.models.loading import check_model_source; "
        f"check_model_source({str(good)!r}); sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
