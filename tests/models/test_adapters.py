"""Adapters: put into a model, switched off, merged, saved, and read from folders of this project's and of peft's.

Needs: nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from icu_ray.config import LoraConfig, ModelConfig
from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.models.adapters import adapters_off, attach, has_adapter, merge_adapter, save_adapter
from icu_ray.models.checking import check_models
from icu_ray.models.fingerprints import folder_fingerprint, model_fingerprint
from icu_ray.models.loading import check_model_source, load_model, load_tokenizer
from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.planning import plan_sweep
from tests.models.test_loading import save_model, save_tokenizer
from tests.support.tiny_models import tiny_model_of

FAMILIES = ("gpt_neo", "gpt2", "llama", "opt", "mixtral")
IDS = torch.arange(2, 12)[None]


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """Every matrix of the adapter changed."""
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=generator).to(p.dtype)
    return model


def with_adapter(family: str = "gpt_neo", **lora: Any) -> PreTrainedModel:
    model = tiny_model_of(family)
    attach(model, LoraConfig(**lora), 1, "tiny")
    return moved(model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter beside its base: tmp_path/adapter, tmp_path/base."""
    save_model(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    save_adapter(with_adapter(), tmp_path / "adapter", str(tmp_path / "base"), None)
    return tmp_path / "adapter"


def changed(folder: Path, **settings: Any) -> Path:
    """The same adapter with other settings; None takes one away."""
    told = json.loads((folder / "adapter_config.json").read_text()) | settings
    told = {key: value for key, value in told.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_off_and_merged(family: str, dtype: torch.dtype) -> None:
    model = tiny_model_of(family).to(dtype)
    own = {name: p.clone() for name, p in model.named_parameters()}
    before = model(IDS).logits
    attach(model, LoraConfig(), 1, "tiny")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(model(IDS).logits, before)  # a new adapter changes nothing
    with_it = moved(model)(IDS).logits.detach()
    assert (with_it - before).abs().max() > 0.5
    with torch.no_grad(), adapters_off(model):
        assert torch.equal(model(IDS).logits, before)
    assert torch.equal(model(IDS).logits, with_it)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    wanted = {}
    for name, layer in layers.items():
        layer.lora_A.float(), layer.lora_B.float()
        delta = layer.get_delta_weight("default")  # float32
        wanted[f"{name}.weight"] = (layer.weight.float() + delta).to(dtype).detach()
    merge_adapter(model)
    assert not has_adapter(model) and all(p.requires_grad for p in model.parameters())
    assert {name for name, _ in model.named_parameters()} == own.keys()
    for name, p in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(p.detach(), wanted[name], rtol=1e-6 if dtype == torch.float32 else 0, atol=1e-7)
        else:
            assert torch.equal(p, own[name]), name
    torch.testing.assert_close(
        model(IDS).logits.detach(), with_it, rtol=0, atol=2e-5 if dtype == torch.float32 else 0.3
    )


def test_a_new_adapter_follows_from_the_seed_alone() -> None:
    def made(seed: int, disturb: int) -> list[torch.Tensor]:
        torch.manual_seed(disturb)
        state = torch.random.get_rng_state()
        model = tiny_model_of("llama")
        torch.random.set_rng_state(state)
        attach(model, LoraConfig(), seed, "tiny")
        assert torch.equal(torch.random.get_rng_state(), state)  # nor does it draw from what others draw from
        return [p.detach() for p in model.parameters() if p.requires_grad]

    assert all(map(torch.equal, made(3, 1), made(3, 2)))
    assert not all(map(torch.equal, made(3, 1), made(4, 1)))


@given(
    st.integers(1, 9),
    st.floats(0.5, 64),
    st.sets(st.sampled_from(["q_proj", "v_proj", "c_fc", "h.0.mlp.c_proj", "out_proj"]), min_size=1),
)
@settings(max_examples=10, deadline=None)
def test_any_adapter_is_read_as_it_was(tmp_path_factory: Any, rank: int, alpha: float, targets: set[str]) -> None:
    place = tmp_path_factory.mktemp("any")
    save_model(place / "base")
    model = with_adapter(rank=rank, alpha=alpha, targets=tuple(targets))
    (place / "a").mkdir()
    save_adapter(model, place / "a", str(place / "base"), None)
    wanted = model(IDS).logits
    torch.testing.assert_close(load_model(str(place / "a")).model(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    found = peft.PeftModel.from_pretrained(tiny_model_of("gpt_neo"), place / "a")
    torch.testing.assert_close(found(IDS).logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_a_folder_of_peft_s_is_read(how: dict[str, Any], tmp_path: Path) -> None:
    save_model(tmp_path / "base", "llama")
    asked = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **how)
    model = peft.get_peft_model(tiny_model_of("llama"), asked)
    moved(model)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(loaded.model(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
    assert loaded.tokenizer.get_vocab() == load_tokenizer(str(tmp_path / "base")).get_vocab()
    assert all(p.requires_grad for p in loaded.model.parameters())  # a model as any other


def test_the_tokenizer_is_the_adapter_s_where_it_has_one(folder: Path) -> None:
    save_tokenizer(folder, size=40)
    assert len(load_model(str(folder)).tokenizer) == 40


def test_a_relative_base_is_sought_from_here_and_then_beside_the_adapter(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = load_model(str(folder)).model(IDS).logits
    monkeypatch.chdir(tmp_path)
    for base in ("base", "./base", "../base"):  # the last from the adapter's folder
        assert torch.equal(load_model(str(changed(folder, base_model_name_or_path=base))).model(IDS).logits, wanted)
    os.mkdir(tmp_path / "adapter" / "base")
    changed(folder, base_model_name_or_path="base")
    assert torch.equal(load_model(str(folder)).model(IDS).logits, wanted)  # from here first


def test_it_is_known_by_its_content_and_its_base(folder: Path, tmp_path: Path) -> None:
    def known(adapter: Path) -> tuple[str, Any]:
        return folder_fingerprint(adapter), model_fingerprint(ModelConfig(name="m", source=str(adapter)))

    first = known(folder)
    again = tmp_path / "again"
    again.mkdir()
    save_adapter(with_adapter(), again, str(tmp_path / "base"), None)
    assert known(again) == first  # made anew, of another place
    other = with_adapter()
    other.transformer.h[0].mlp.c_fc.lora_B.default.weight.data[0, 0] += 1
    save_adapter(other, again, str(tmp_path / "base"), None)
    assert known(again)[0] != first[0] and known(again)[1] != first[1]
    shutil.copytree(tmp_path / "base", tmp_path / "base2")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["transformer.ln_f.bias"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    assert known(folder)[0] != first[0] and known(folder)[1] != first[1]


def test_an_estimate_counts_the_base(folder: Path, tmp_path: Path) -> None:
    models = [ModelConfig(name="m", source=str(each)) for each in (folder, tmp_path / "base")]
    assert parameters_of(models[0]) == parameters_of(models[1])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def of_another_kind(folder: Path) -> None:
    shutil.rmtree(folder.parent / "base")
    save_model(folder.parent / "base", "llama")


def wider(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_A" in name)
    weights[name] = torch.ones(8, 30)
    save_file(weights, folder / "adapter_model.safetensors")


def with_more(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({**weights, "base_model.model.lm_head.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def told(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: void(changed(folder, **settings))


def void(_: object) -> None:
    return None


def of_itself(folder: Path) -> None:
    changed(folder, base_model_name_or_path=str(folder))


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def of_nonsense(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[")


REFUSED = {
    "another type": (told(peft_type="IA3"), "says peft_type 'IA3'; expected 'LORA'"),
    "no base named": (told(base_model_name_or_path=None), "names no base"),
    "no base there": (
        lambda folder: shutil.rmtree(folder.parent / "base"),
        "the base that its adapter_config.json names: .*no such folder",
    ),
    "a base without weights": (
        lambda folder: (folder.parent / "base" / "model.safetensors").unlink(),
        "the base that its adapter_config.json names: .*no weights here",
    ),
    "an adapter as base": (of_itself, "is an adapter itself"),
    "whole modules": (told(modules_to_save=["lm_head"]), r"trains whole modules .*modules_to_save \['lm_head'\]"),
    "trained biases": (told(bias="all"), "asks for bias='all', which is not applied"),
    "what is not known": (told(use_tomorrow=True), "asks for use_tomorrow=True"),
    "PiSSA": (told(init_lora_weights="pissa"), "init_lora_weights='pissa', which changes the base"),
    "a pickle": (pickled, r"no adapter_model\.safetensors .*is a pickle"),
    "cut": (cut, "copy it again"),
    "no JSON": (of_nonsense, "cannot be read as JSON"),
    "a number for a revision": (told(revision=3), "revision 3"),
}
WITH_TORCH = {
    "another shape": (wider, r"does not fit its base .*lora_A\.weight is 8 x 30, expected 8 x 24"),
    "another rank": (told(r=5), r"is 8 x 24, expected 5 x 24"),
    "no rank": (told(r="many"), "cannot be loaded"),
    "another model": (of_another_kind, "does not fit its base"),
    "weights beside it": (with_more, r"lm_head\.weight is 2 x 2, expected not there"),
    "the tied embedding": (told(target_modules=["wte"]), "embeddings and the output matrix, which are one"),
}


@pytest.mark.parametrize("case", [*REFUSED, *WITH_TORCH])
def test_what_cannot_be_applied_is_refused_before_anything_starts(case: str, folder: Path) -> None:
    damage, message = {**REFUSED, **WITH_TORCH}[case]
    damage(folder)
    refusing: list[Callable[[], object]] = [
        lambda: check_models([ModelConfig(name="m", source=str(folder))]),
        lambda: load_model(str(folder)),
    ]
    if case in REFUSED:
        refusing.append(lambda: check_model_source(str(folder)))
    for refuse in refusing:
        with pytest.raises(UserError, match=message) as caught:
            refuse()
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_plan_looks_at_adapter_and_targets_without_torch(folder: Path) -> None:
    def planned(lora: dict[str, Any] | None) -> subprocess.CompletedProcess[str]:
        model = {"name": "m", "source": str(folder), "lora": lora}
        code = (
            "import sys; from icu_ray.models.checking import check_models; from icu_ray.config import ModelConfig; "
            f"check_models([ModelConfig.model_validate_json({json.dumps(model)!r})]); "
            "sys.exit(9 if 'torch' in sys.modules or 'peft' in sys.modules else 0)"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    found = planned({"targets": ["q_proj"]})
    assert found.returncode == 0, found.stderr
    found = planned({"targets": ["q_prj"]})
    assert "UserError" in found.stderr and "(did you mean 'q_proj'?)" in found.stderr


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("q_prj",),
            r"no linear layer is called 'q_prj' \(did you mean 'q_proj'\?\); expected of c_fc, c_proj, k_proj",
        ),
        (("q_proj", "lm_head"), "'lm_head' is the output matrix"),
        (("wte",), "no linear layer is called 'wte'"),
    ],
)
def test_targets_that_cannot_be(targets: tuple[str, ...], message: str, tmp_path: Path) -> None:
    lora = LoraConfig(targets=targets)
    with pytest.raises(UserError, match=message):
        attach(tiny_model_of("gpt_neo"), lora, 1, "tiny")
    with pytest.raises(UserError, match=message):
        check_models([ModelConfig(name="m", source=str(save_model(tmp_path)), lora=lora)])
    config = resolve_config(
        {"name": "t", "models": [{"name": "m", "standin": {}, "lora": {"targets": list(targets)}}],
         "data": {"source": "synthetic", "records": 16, "sample_size": 4}},
        "t",
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        plan_sweep(config, dry_run=True)


def test_an_adapter_on_an_adapter_is_saved_merged_alone(folder: Path) -> None:
    for save in ("adapter", "both"):
        with pytest.raises(UserError, match=f"is an adapter itself; .*lora.save={save}"):
            check_models([ModelConfig(name="m", source=str(folder), lora=LoraConfig(save=save))])
    check_models([ModelConfig(name="m", source=str(folder), lora=LoraConfig())])


def test_the_identity_of_a_trial_has_what_decides_its_result() -> None:
    def trial_id(lora: dict[str, Any] | None) -> str:
        model = {"name": "m", "standin": {}, **({} if lora is None else {"lora": lora})}
        tree = {"name": "t", "models": [model], "samples": [0]}
        tree |= {"data": {"source": "synthetic", "records": 16, "sample_size": 4}}
        (trial,) = plan_sweep(resolve_config(tree, "t"), dry_run=True).trials
        assert ("lora" in trial.identity) == (lora is not None)
        return trial.trial_id

    ids = [trial_id(lora) for lora in (None, {}, {"rank": 4}, {"alpha": 8}, {"dropout": 0.1}, {"targets": ["q_proj"]})]
    assert len(set(ids)) == len(ids)
    assert trial_id({"rank": 8, "save": "merged"}) == trial_id({})
    two = [trial_id({"targets": targets}) for targets in (["q_proj", "v_proj"], ["v_proj", "q_proj", "v_proj"])]
    assert two[0] == two[1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"standin": {}, "lora": {"save": "adapter"}}, "lora.save=adapter: .*stand-in .*expected save: merged"),
        ({"standin": {}, "lora": {"save": "both"}}, "lora.save=both"),
        ({"source": "m", "lora": {"rank": 0}}, "lora.rank"),
        ({"source": "m", "lora": {"dropout": 1.0}}, "lora.dropout"),
        ({"source": "m", "lora": {"targets": []}}, "lora.targets"),
        ({"source": "m", "lora": {}, "zero_stage": 3}, "zero_stage"),
    ],
)
def test_what_a_config_refuses(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_config({"name": "t", "models": [{"name": "m", **model}]}, "t")
