"""The schema and reading of configs: what is taken, what is refused, and in which words.

Needs: nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.config import SweepConfig
from icu_ray.config.file import FIDELITY_PRESETS, apply_override, load_config, merge, resolve_config
from icu_ray.config.shipped import config_folder, find_config
from icu_ray.errors import UserError

SMALL: dict[str, Any] = {
    "name": "t",
    "models": [{"name": "a", "standin": {"size": "small"}}],
    "data": {"source": "synthetic"},
}


def test_a_gpu_can_be_shared() -> None:
    for gpus, sharing in ((0, None), (0.5, 2), (0.33, 3), (0.3333333, 3), (0.16, 6), (0.01, 100), (2, None)):
        change = {"models": [{"name": "a", "source": "x/y", "gpus_per_worker": gpus}]}
        model = resolve_config(merge(SMALL, change), "t").models[0]
        assert model.gpus == gpus
        assert type(model.gpus) is type(gpus)
        assert model.gpus_placed == (gpus if sharing is None else 1 / sharing)


@pytest.mark.parametrize("gpus", [-1, 1001, 1.5, 1.0, 0.6, 0.34, 0.166667, 0.99, 1e-9, float("nan"), True, "1"])
def test_no_other_share_of_a_gpu(gpus: object) -> None:
    """Of 0.6 two GPUs hold two trials, not three; and Ray rounds 0.166667 to 0.1667, of which five are in a GPU."""
    with pytest.raises(UserError) as refused:
        resolve_config(merge(SMALL, {"models": [{"name": "a", "source": "x/y", "gpus_per_worker": gpus}]}), "t")
    assert str(refused.value) == (
        "t: models.0.gpus_per_worker: expected a whole number of GPUs from 0 to 1000, or 1/n where n trials are to "
        f"share a GPU (0.5, 0.33, 0.25: rounded down), found {gpus}"
    )


def test_shares_of_a_gpu_that_cannot_be_placed_are_refused() -> None:
    def models(*told: dict[str, Any]) -> dict[str, Any]:
        return merge(SMALL, {"models": [{"name": f"m{n}", "source": "x/y", **each} for n, each in enumerate(told)]})

    half: dict[str, Any] = {"gpus_per_worker": 0.5}
    resolve_config(models(half, half, {"gpus_per_worker": 0}), "t")
    resolve_config(models({"gpus_per_worker": 2}, {}), "t")
    with pytest.raises(UserError, match=r"m1 with 0\.5 and m0 with 1$"):
        resolve_config(models({}, half), "t")
    with pytest.raises(UserError, match=r"m1 with 0\.25 and m0 with 0\.5$"):
        resolve_config(models(half, {"gpus_per_worker": 0.25}), "t")
    with pytest.raises(UserError, match=r"models\.0: gpus_per_worker=0\.5 is for .* found workers=2"):
        resolve_config(models({**half, "workers": 2}), "t")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optim": {"lrr": 1}}, "optim.lrr: unknown key (did you mean 'lr'?)"),
        ({"nmae": "x"}, "nmae: unknown key (did you mean 'name'?)"),
        ({"data": {"source": "synthetic", "recods": 3}}, "data.recods: unknown key (did you mean 'records'?)"),
        ({"models": [{"name": "a", "standin": {"siz": "x"}}]}, "models.0.standin.siz: unknown key"),
        ({"optim": {"lr": "fast"}}, 'optim.lr: expected a valid number, found "fast"'),
        ({"optim": {"lr": "1e-5"}}, 'optim.lr: expected a valid number, found "1e-5"'),
        ({"optim": {"lr": 0}}, "optim.lr: expected greater than 0, found 0"),
        ({"methods": [{"alpha": -1}]}, "methods.0.alpha: expected greater than or equal to 0, found -1"),
        ({"methods": [{"alpha": [0.1, -2]}]}, "methods.0.alpha.1: expected greater than or equal to 0, found -2"),
        ({"methods": [{"cells": [[0.5, -1]]}]}, "methods.0.cells.0.1: expected greater than or equal to 0, found -1"),
        ({"methods": [{"cells": []}]}, "methods.0.cells: Tuple should have at least 1 item after validation"),
        ({"methods": [{"alpha": []}]}, "methods.0.alpha: Tuple should have at least 1 item after validation"),
        ({"evaluation": {"when": "epochs"}}, "evaluation: when=epochs: there is nothing to evaluate; give suites or"),
        ({"samples": [0, "1"]}, 'samples.1: expected a valid integer, found "1"'),
        ({"samples": [0, 0]}, "samples: listed twice: 0"),
        ({"pairs": {"by": "neerest"}}, "pairs.by: expected 'nearest', 'random', 'given' or 'file', found \"neerest\""),
        ({"pairs": {"resample": "never"}}, "pairs: resample=never is for by=random; with by=nearest pairs are never"),
        ({"pairs": {"by": "random", "max_ngram_overlap": 0.5}}, "pairs: max_ngram_overlap chooses among nearest"),
        ({"pairs": {"by": "random", "file": "p.csv"}}, "pairs: 'file' names the pairs with by=file, found by=random"),
        ({"pairs": {"by": "file"}}, "pairs: by=file needs 'file', a file with columns target and pair"),
        ({"pairs": {"by": "given"}}, "pairs.by=given: needs data.source=records, found synthetic; use pairs.by=file"),
        ({"train": {"anchor": "retain"}}, "needs pairs.by=random with pairs.resample=epoch, found pairs.by=nearest"),
        (
            {"train": {"anchor": "retain"}, "pairs": {"by": "random", "resample": "never"}},
            "needs pairs.by=random with pairs.resample=epoch, found pairs.resample=never",
        ),
        (
            {"data": {"source": "records", "forget": "f.jsonl", "pair_column": "pair"}},
            "data.pair_column: is for pairs.by=given, found pairs.by=nearest",
        ),
        (
            {"data": {"source": "records", "forget": "f.jsonl"}, "pairs": {"by": "given"}},
            "pairs.by=given: give data.pair_column, or data.pool with a row for each to forget",
        ),
        (
            {
                "data": {"source": "records", "forget": "f.jsonl", "pool": "p.jsonl", "heldout_rows": 2},
                "pairs": {"by": "given"},
            },
            "data.heldout_rows=2 would take the pairs of the last targets away (pairs.by=given); set it to 0",
        ),
        ({"samples": []}, "samples"),
        ({"models": [{"name": "a"}]}, "models.0: give exactly one of 'source' (hub id or folder) and 'standin'"),
        ({"models": [{"name": "a b", "source": "x/y"}]}, "models.0.name"),
        ({"data": {"source": "pile"}}, "data: source: expected 'synthetic', 'extraction', 'records', 'tofu', "),
        ({"loss": {"span": "some"}}, "loss.span: expected 'all', 'prefix_suffix' or 'suffix', found \"some\""),
        ({"stop": {"ma": 60}}, "stop.ma: expected less than or equal to 1, found 60"),
        ({"stop": {"ma": "held-out"}}, "stop.ma: expected 'heldout', found \"held-out\""),
        (
            {"data": {"source": "extraction"}, "stop": {"el": "heldout"}},
            "stop.el=heldout: there are no held-out texts; give data.heldout, or a number from 0 to 1",
        ),
        ({"columns": {"suffix_start": 50}}, "columns: must satisfy prefix_start < suffix_start < length"),
        ({"seed": 5, "seeds": [42, 7]}, "seed: 5 would have no effect with seeds; give only one of the two"),
        ({"seed": 42, "seeds": [7]}, "seed: 42 would have no effect with seeds; give only one of the two"),
        ({"el": {"start": 195}}, "el.start=195 leaves no 10-gram before column 200"),
        ({"models": [{"name": "a", "source": "x/y", "workers": 3}]}, "global batch 8 is not a multiple of 3 workers"),
        ({"models": [{"name": "a", "source": "x/y", "gpus_per_worker": 1.5}]}, "rounded down), found 1.5"),
        ({"models": [{"name": "a", "source": "x/y", "zero_stage": 4}]}, "less than or equal to 3"),
        (
            {"models": [{"name": "a", "source": "x/y", "offload_optimizer": True}]},
            "offload_optimizer: true needs zero_stage 1, 2 or 3, found zero_stage=0",
        ),
        ({"fidelity": "exact"}, "fidelity: expected 'default', 'reference' or 'paper', found \"exact\""),
        ({"train": {"batch_size": True}}, "train.batch_size: expected a valid integer, found true"),
    ],
)
def test_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_config(merge(SMALL, change), "config t.yaml")
    lines = str(refused.value).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("config t.yaml: ")
    assert said in lines[0]


def test_the_home_folder_is_one_place_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("name: t\nstorage: ~/runs\nmodels: [{name: a, source: ~/m}]\n")
    mine = tmp_path / "far" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text(
        "base: ~/base.yaml\ndata: {source: records, forget: ~/f.jsonl, pool: ~/p.jsonl, heldout: 'hub:~/h#a'}\n"
        "pairs: {encoder: ~/e}\nfilter: {encoder: ~/e}\nevaluation: {mirror: ~/mirror, tasks: [~/task.yaml]}\n"
    )
    config = load_config(mine, ["resources.prices=~/prices.yaml"])
    assert "~" not in config.model_dump_json()
    assert config.models[0].source == f"{tmp_path}/m"
    assert config.evaluation.tasks == (f"{tmp_path}/task.yaml",)
    assert config.data.heldout == f"hub:{tmp_path}/h#a"
    # A hub id and an address are left as they are.
    other = load_config(mine, ["models.0.source=org/m", "storage=s3://b/~/runs"])
    assert (other.models[0].source, other.storage) == ("org/m", "s3://b/~/runs")


def test_several_problems_are_said_together() -> None:
    with pytest.raises(UserError) as refused:
        resolve_config(merge(SMALL, {"optim": {"lrr": 1}, "stop": {"ma": 2}}), "x")
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("name", sorted(path.name for path in config_folder().glob("*.yaml")))
def test_shipped_configs_are_valid(name: str) -> None:
    config = load_config(find_config(name))
    assert config.name == name.removesuffix(".yaml")
    # What MLflow and sweep.json keep of it can be run again.
    assert resolve_config(config.model_dump(mode="json"), "sweep.json") == config
    several = load_config(find_config(name), ["seeds=[7]"])
    assert resolve_config(several.model_dump(mode="json"), "sweep.json") == several


def test_paper_grid() -> None:
    config = load_config(find_config("paper"))
    assert [(m.name, m.workers) for m in config.models] == [("125m", 1), ("1.3b", 3), ("2.7b", 6)]
    assert config.samples == (0, 1, 2, 3, 4)
    assert config.methods[0].grid() == ((0.5, 1.0),)
    assert (config.optim.lr, config.optim.betas) == (5e-6, (0.9, 0.98))
    assert len(load_config(find_config("table3")).methods[0].grid()) == 10


def test_a_config_that_is_not_there_may_be_one_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=r"mine\.yml: no such file \(did you mean '.*mine\.yaml'\?\); expected a YAML"):
        find_config(str(tmp_path / "mine.yml"))
    with pytest.raises(UserError, match=r"quikstart: no such file \(did you mean 'quickstart'\?\)"):
        find_config("quikstart")


@pytest.mark.parametrize("fidelity", ["default", "reference", "paper"])
def test_presets_fill_what_is_not_set(fidelity: str) -> None:
    preset = FIDELITY_PRESETS[fidelity]
    config = resolve_config({**SMALL, "fidelity": fidelity}, "x")
    for section, choices in preset.items():
        for key, value in choices.items():
            assert getattr(getattr(config, section), key) == value
    own = resolve_config({**SMALL, "fidelity": fidelity, "filter": {"rule": "and"}}, "x")
    assert own.filter.rule == "and"
    assert own.filter.sticky == preset.get("filter", {}).get("sticky", False)


def test_reference_preset_is_what_the_code_does() -> None:
    config = resolve_config({**SMALL, "fidelity": "reference"}, "x")
    assert (config.loss.span, config.loss.reduction, config.loss.kl) == ("all", "token_mean", "reference_ce")
    assert (config.filter.rule, config.filter.sticky, config.filter.strip_special) == ("or", False, False)
    assert config.filter.bleu_tokenizer == "words"
    assert (config.generate.mask, config.el.batch_cut, config.train.empty_batch) == (False, 8, "momentum")
    assert (config.tokens.retokenize, config.tokens.alignment) == ("always", "reference")
    assert (config.tokens.positions, config.loss.kl_positions) == ("padded", "padded")


def test_paper_preset_is_what_the_paper_says() -> None:
    config = resolve_config({**SMALL, "fidelity": "paper"}, "x")
    assert (config.filter.rule, config.filter.bleu_tokenizer) == ("and", "words")
    assert (config.tokens.positions, config.loss.kl_positions) == ("real", "span")


def test_base_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: b\nmodels: [{name: a, standin: {size: small}}]\ndata: {source: synthetic}\noptim: {lr: 5e-6}\n"
    )
    (tmp_path / "top.yaml").write_text("base: base.yaml\nname: t\noptim: {betas: [0.9, 0.99]}\n")
    config = load_config(tmp_path / "top.yaml", ["stop.max_epochs=3", "models.0.standin.size=large", "samples=[1, 2]"])
    assert (config.name, config.optim.lr, config.optim.betas) == ("t", 5e-6, (0.9, 0.99))
    assert (config.stop.max_epochs, config.samples) == (3, (1, 2))
    assert config.models[0].standin is not None
    assert config.models[0].standin.size == "large"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n", "expected a mapping of keys, found list"),
        ("name: a\nname: b\n", "key 'name' is given twice"),
        ("base: none.yaml\n", "no such file"),
        ("base: self.yaml\n", "leads back"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "self.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_config(path)


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim.lr.x=1", "models.7.name=x", "models.x=1"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].split(".")[0] or "override"):
        resolve_config(apply_override(dict(SMALL, optim={"lr": 1e-5}), override), "x")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SweepConfig.model_fields)), VALUES)
def test_no_value_escapes_as_a_traceback(key: str, value: Any) -> None:
    with contextlib.suppress(UserError):
        resolve_config({**SMALL, key: value}, "x")
