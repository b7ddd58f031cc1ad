"""The encoders of BERTScore and of the pairing: everything that is refused of a folder, when and in which words.

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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from icu_ray.data.embedding import Embedder
from icu_ray.data.encoder import load_bert
from icu_ray.errors import UserError
from icu_ray.models import encoders
from icu_ray.models.checking import check_models
from icu_ray.models.loading import check_folder
from tests.models.test_loading import save_model
from tests.support.payload import Payload

KEYS = ("filter.encoder", "pairs.encoder")
POOLING = "sentence_transformers.models.Pooling"
TRANSFORMER = "sentence_transformers.models.Transformer"


def save_tokenizer(folder: Path, words: int = 30, pad: str | None = "[PAD]") -> None:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
    vocabulary.update({f"w{number}": number for number in range(4, words)})
    of_words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    of_words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=of_words, pad_token=pad, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that is a folder of sentence-transformers too."""
    folder = tmp_path_factory.mktemp("encoders") / "good"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=30, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    save_tokenizer(folder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": POOLING}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16}')
    return folder


def check(key: str, source: Path, layer: int | None = None) -> None:
    check_models([], [(key, str(source), layer)])


def load(key: str, source: Path) -> None:
    if key == "filter.encoder":
        load_bert(str(source), None)
    else:
        Embedder(str(source))


def refusal_of_load(key: str, source: Path) -> str:
    try:
        load(key, source)
    except UserError as error:
        return str(error)
    return ""


def test_a_good_one_is_taken(good: Path) -> None:
    for key in KEYS:
        check(key, good)
        load(key, good)
    check("filter.encoder", good, 2)
    assert len(load_bert(str(good), 1)[0].encoder.layer) == 1


@pytest.mark.parametrize("name", ["spm.model", "sentencepiece.bpe.model"])
def test_every_tokenizer_of_sentencepiece_is_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    check_folder(tmp_path, "filter.encoder", weights=False)


@pytest.mark.parametrize("key", KEYS)
def test_a_hub_s_encoder_of_which_a_part_is_in_the_cache_is_not_judged(
    key: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "part"
    shutil.copytree(good, part)
    monkeypatch.setattr(encoders, "cached_folder", lambda *told, **others: part)
    assert encoders.encoder_files(key, "org/encoder", None) == part
    (part / "tokenizer.json").unlink()
    assert encoders.encoder_files(key, "org/encoder", None) is None


def config(**keys: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**found, **keys}))

    return write


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lacks_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def modules(*named: Any) -> Callable[[Path], object]:
    return written("modules.json", json.dumps(list(named)))


def causal(folder: Path) -> None:
    shutil.rmtree(folder)
    save_model(folder, "llama")


BOTH: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "a file": (a_file, "is a file"),
    "config is no JSON": (written("config.json", "{"), "config.json cannot be read as JSON"),
    "config is deep": (written("config.json", "[" * 100_000), "config.json cannot be read as JSON"),
    "config is a list": (written("config.json", "[]"), "config.json holds a list"),
    "config of nothing": (written("config.json", "{}"), "no 'model_type'; expected that of an encoder"),
    "an unknown family": (config(model_type="a_model_of_tomorrow"), "a_model_of_tomorrow"),
    "code of its own": (
        config(model_type="brought", auto_map={"AutoConfig": "brought.Config", "AutoModel": "brought.Model"}),
        "comes with its own code, which was not run; an encoder's is never run",
    ),
    "wrong type": (config(num_hidden_layers="two"), "num_hidden_layers"),
    "no activation": (config(hidden_act="a_function_of_tomorrow"), "a_function_of_tomorrow"),
    "heads do not fit": (config(num_attention_heads=3), "3"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "asks for bitsandbytes 8-bit weights",
    ),
    "no weights": (without("model.safetensors"), "no weights here"),
    "cut weights": (cut, "copy it again"),
    "weights of text": (written("model.safetensors", "weights"), "is no safetensors file"),
    "a shard is missing": (lacks_a_shard, "lacks model-00002.safetensors"),
    "an index of numbers": (written("model.safetensors.index.json", '{"weight_map": [1]}'), "expected a 'weight_map'"),
    "an adapter": (written("adapter_config.json", "{}"), "holds an adapter"),
    "no tokenizer": (without("tokenizer.json"), "no tokenizer in this folder"),
    "tokenizer is no JSON": (written("tokenizer.json", "{"), "tokenizer.json cannot be read as JSON"),
    "tokenizer is another object": (written("tokenizer.json", "{}"), "cannot be loaded"),
    "no padding token": (lambda folder: save_tokenizer(folder, pad=None), "no padding token"),
    "tokens beyond the encoder": (
        lambda folder: save_tokenizer(folder, words=35),
        "its tokenizer knows token 34, but the encoder has only 30 embeddings",
    ),
}
OF_THE_FILTER = {
    "no config": (without("config.json"), "no config.json in this folder; expected that of an encoder"),
    "a causal LM": (causal, "is no encoder that BERTScore can use"),
    "another shape": (config(model_type="distilbert", dim=16, n_heads=2), "is no encoder that BERTScore can use"),
    "a decoder": (config(is_decoder=True), "is no encoder that BERTScore can use"),
}
OF_PAIRS = {
    "no config": (without("config.json", "modules.json"), r"holds no sentence encoder \(no modules.json"),
    "modules are no JSON": (written("modules.json", "["), "modules.json cannot be read as JSON"),
    "modules are an object": (written("modules.json", "{}"), "modules.json: expected a list of modules"),
    "no modules": (modules(), "modules.json: expected a list of modules"),
    "modules of text": (modules("a"), "modules.json: expected a list of modules"),
    "a module of its own": (modules({"path": "", "type": "brought.Model"}), "'brought.Model', its own code"),
    "a module of the system": (modules({"path": "", "type": "os.system"}), "'os.system', its own code"),
    "a module outside": (
        modules({"path": "", "type": TRANSFORMER}, {"path": "../other", "type": POOLING}),
        "names '../other'; expected only folders of this folder",
    ),
    "pooling is no JSON": (written("1_Pooling/config.json", "{"), "1_Pooling/config.json cannot be read as JSON"),
}
HARMLESS = ("an adapter", "an index of numbers", "a module outside")
"""What may be loaded all the same, where it is not what is read."""
CASES = [(key, what, *case) for key in KEYS for what, case in BOTH.items()]
CASES += [("filter.encoder", what, *case) for what, case in OF_THE_FILTER.items()]
CASES += [("pairs.encoder", what, *case) for what, case in OF_PAIRS.items()]


@pytest.mark.parametrize(("key", "what", "damage", "said"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_wrong_folder_is_refused_in_one_line_before_anything_starts(
    key: str, what: str, damage: Callable[[Path], object], said: str, good: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(good, folder)
    mark = tmp_path / "ran"
    (folder / "brought.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    damage(folder)
    with pytest.raises(UserError, match=said) as refused:
        check(key, folder)
    assert str(refused.value).startswith(f"{key}: {folder}")
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 700
    said_later = refusal_of_load(key, folder)  # as where the plan was made on another machine
    assert (said_later.startswith(f"{key}: {folder}") and len(said_later.splitlines()) == 1) or what in HARMLESS
    assert not mark.exists()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["two words", "", "org/", "nul\0byte"])
def test_a_name_that_no_hub_has_is_refused(key: str, name: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: ") as refused:
        check_models([], [(key, name, None)])
    assert len(str(refused.value).splitlines()) == 1


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def a_layer_short(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if ".layer.1." not in k}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(content: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content(folder.parent / "ran"))

    return write


WEIGHTS = {
    "not finite": (not_finite, "its weights are not finite"),
    "a layer short": (a_layer_short, r"its weights hold no encoder\.layer\.1\..* and \d+ more"),
    "a pickle that runs code": (
        pickled(lambda mark: pickle.dumps(Payload(mark))),
        "its weights are a pickle that is damaged or holds more than tensors, and nothing in it was run",
    ),
    "a damaged pickle": (pickled(lambda mark: b"PK\x03\x04 and then nothing"), "cannot be loaded"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("what", list(WEIGHTS))
def test_wrong_weights_are_refused_when_they_are_read(key: str, what: str, good: Path, tmp_path: Path) -> None:
    damage, said = WEIGHTS[what]
    folder = tmp_path / "encoder"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(UserError, match=said) as refused:
        load(key, folder)
    assert str(refused.value).startswith(f"{key}: {folder}") and len(str(refused.value).splitlines()) == 1
    assert not any(word in str(refused.value) for word in ("weights_only", "trust", "can still be loaded"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", KEYS)
def test_a_plan_refuses_it_with_2_and_does_not_import_torch(key: str, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(good, folder)
    config(hidden_act="a_function_of_tomorrow")(folder)
    code = (
        "import sys; from icu_ray.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    overrides = ["filter.encoder_layer=2", "evaluation.suites=[]", f"storage={tmp_path / 'runs'}", f"{key}={folder}"]
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "quickstart", *overrides], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"{key}: {folder}: cannot be loaded" in done.stderr and len(done.stderr.splitlines()) == 1
