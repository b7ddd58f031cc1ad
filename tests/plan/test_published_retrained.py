"""A published retrained model in a plan: checked as the target is, known by its content, measured and not trained.

Needs: nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoForCausalLM

from icu_ray.config.file import load_config, resolve_config
from icu_ray.config.shipped import find_config
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.published import check_published, published_retrained, without_retrained_said
from icu_ray.models import checking
from icu_ray.models.retrained import pinned_name
from icu_ray.models.retrained import published_retrained as published_of
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.trial import Trial
from icu_ray.report.terminal.plan_table import plan_json, trained_said
from tests.support.benchmark_case import row, write_lines
from tests.support.evaluation_case import save_model
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

TOFU = BENCHMARKS["tofu"].splits["forget10"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and a model of its kind, each with its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("target", 0), ("published", 1)):
        save_model(folder / name, seed)
    return folder


def plan(folders: Path, retrained: object = False, dry_run: bool = True, **change: Any) -> Plan:
    model = {"name": "m", "source": str(folders / "target"), "gpus_per_worker": 0, "retrained": retrained}
    tree: dict[str, Any] = {
        "name": "t",
        "data": {"source": "synthetic", "records": 40, "sample_size": 8, "heldout": 4},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
        "models": [{**model, **change.pop("model", {})}],
        "methods": [{"name": "kumpr"}],
        "pairs": {"encoder": "bundled"},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        **change,
    }
    return plan_sweep(resolve_config(tree, "t"), dry_run=dry_run)


def gold_of(made: Plan) -> Trial:
    return next(trial for trial in made.trials if trial.settings.method == "retrained")


def test_it_is_a_trial_that_is_not_trained(folders: Path) -> None:
    made = plan(folders, str(folders / "published"))
    gold = gold_of(made)
    assert (gold.name, gold.settings.max_epochs, gold.sample) == ("retrained-m-s0", 0, 0) and gold.minutes > 0.1
    (said,) = trained_said(made)
    assert said.startswith(f"m: its retrained model is {folders / 'published'}, as it was published: not trained, but ")
    assert re.search(r"; about 1 minute\.$", said)
    assert json.loads(plan_json(made))["trained"] == [said]
    # The other trials are those that they are without it.
    others = {trial.trial_id for trial in made.trials if trial is not gold}
    assert others == {trial.trial_id for trial in plan(folders).trials}


def test_its_content_is_what_it_is_known_by(folders: Path, tmp_path: Path) -> None:
    known = gold_of(plan(folders, str(folders / "published"))).trial_id
    shutil.copytree(folders / "published", tmp_path / "elsewhere")
    assert gold_of(plan(folders, str(tmp_path / "elsewhere"))).trial_id == known
    save_model(tmp_path / "elsewhere", 7)
    assert gold_of(plan(folders, str(tmp_path / "elsewhere"))).trial_id != known
    # Of a hub it is known by its name and revision, as far as nothing here tells a commit.
    named, at = (gold_of(plan(folders, f"org/any{revision}")) for revision in ("", "@v1"))
    assert named.identity["retrained"] == {"hub": "org/any", "revision": None}
    assert at.identity["retrained"] == {"hub": "org/any", "revision": "v1"} and at.trial_id != named.trial_id


def test_how_it_is_named() -> None:
    def parts(retrained: object) -> tuple[str | None, str | None, bool] | None:
        config = resolve_config(
            {
                "name": "t",
                "data": {"source": "synthetic"},
                "methods": [{"name": "kumpr"}],
                "models": [{**MODEL, "retrained": retrained}],
            },
            "t",
        )
        found = published_of(config.models[0])
        return None if found is None else (found.source, found.revision, found.trust_remote_code)

    assert parts(False) is None
    assert parts("org/a") == ("org/a", None, False) and parts("org/a@refs/pr/1") == ("org/a", "refs/pr/1", False)
    assert parts("./a@b") == ("./a@b", None, False) and parts("/x/a@b") == ("/x/a@b", None, False)
    assert pinned_name("./a@b") == "./a@b" and pinned_name("org/a@v1") == "org/a@v1"


MODEL = {"name": "m", "source": "org/target", "trust_remote_code": True}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"source": None, "standin": {}, "retrained": "org/a"}, "no published model has the vocabulary of a stand-in"),
        ({"retrained": True}, "or name a model that was published without the texts to forget, by hub id or folder"),
        ({"retrained": " "}, "expected true, false, a hub id or a folder, found an empty text"),
        ({"retrained": 3}, "retrained"),
    ],
)
def test_what_it_cannot_be_is_refused(folders: Path, model: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        plan(folders, model=model)


def other_vocabulary(folder: Path) -> str:
    read = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = read["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary["never"] = vocabulary[last]
    read["model"]["merges"] = [m for m in read["model"]["merges"] if "".join(m) != last]
    del vocabulary[last]
    (folder / "tokenizer.json").write_text(json.dumps(read))
    return "has a tokenizer of"


def other_family(folder: Path) -> str:
    shutil.rmtree(folder)
    tiny_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return "is a LlamaForCausalLM (llama), expected GPTNeoForCausalLM (gpt_neo) as "


def other_size(folder: Path) -> str:
    save_model(folder, 1, positions=512)
    return "has transformer.wpe.weight of shape [512, 32], expected [1024, 32] as "


def other_ends(folder: Path) -> str:
    read = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**read, "eos_token": "a", "pad_token": "a"}))
    return "ends texts with a, expected <|endoftext|> as "


def only_pickles(folder: Path) -> str:
    model = GPTNeoForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return "its weights are pickles (pytorch_model.bin); expected safetensors"


def no_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "the retrained model of m: model "


def own_code(folder: Path) -> str:
    read = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.MyModel"}
    (folder / "config.json").write_text(json.dumps({**read, "model_type": "mine", "auto_map": code}))
    (folder / "mine.py").write_text("raise SystemExit(7)\n")
    return "trust_remote_code"


@pytest.mark.parametrize(
    "spoil", [other_vocabulary, other_family, other_size, other_ends, only_pickles, no_weights, own_code]
)
def test_a_model_of_another_kind_is_refused(folders: Path, tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(folders / "published", folder)
    said = spoil(folder)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        plan(folders, str(folder), model={"trust_remote_code": True})
    assert str(folder) in str(refused.value)


@pytest.mark.slow
def test_a_process_of_its_own_refuses_it_too(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch is not imported yet."""
    monkeypatch.setattr(checking, "sys", type("Sys", (), {"modules": {}, "executable": sys.executable}))
    assert gold_of(plan(folders, str(folders / "published")))
    said = other_size(tmp_path / "other")
    with pytest.raises(UserError, match=re.escape(said)):
        plan(folders, str(tmp_path / "other"))


def test_it_belongs_to_one_forget_set(folders: Path) -> None:
    published = str(folders / "published")
    assert gold_of(plan(folders, published, samples=[1])).sample == 1
    with pytest.raises(
        UserError, match=r"models\.0\.retrained: .* without one forget set, found samples=\[0, 1\]; exp"
    ):
        plan(folders, published, samples=[0, 1])
    search = {"algorithm": "random", "trials": 2, "space": {"lr": [1e-5, 1e-3]}}
    with pytest.raises(UserError, match="search"):
        plan(folders, published, search=search)


def test_what_is_published_for_a_target() -> None:
    full = "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
    assert published_retrained(TOFU, full) == "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90"
    assert published_retrained(TOFU, "org/mine") == "open-unlearning/tofu_MODEL_retain90"
    news = BENCHMARKS["muse"].splits["news"]
    assert published_retrained(news, None) == "muse-bench/MUSE-News_retrain"
    assert published_retrained(BENCHMARKS["rwku"].splits["phi3"], "a/b") is None


FULL = "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
RETAIN = "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain{}"
NEWS = "muse-bench/MUSE-News_{}"


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        (
            {"source": "tofu", "split": "forget10"},
            {"source": FULL, "retrained": RETAIN.format(99)},
            f"models.0.retrained: {RETAIN.format(99)} is TOFU's retrained model, published for split forget01; "
            f"expected the retrained model of data.split=forget10, {RETAIN.format(90)}",
        ),
        (
            {"source": "tofu", "split": "forget01"},
            {"source": FULL, "retrained": f"{RETAIN.format(95)}@v1"},
            f"is TOFU's retrained model, published for split forget05; expected the retrained model of data.split="
            f"forget01, {RETAIN.format(99)}",
        ),
        (
            {"source": "tofu", "split": "forget10"},
            {"source": "org/mine", "retrained": FULL},
            f"models.0.retrained: {FULL} is TOFU's target, which has read the texts to forget; expected the retrained",
        ),
        (
            {"source": "tofu", "split": "forget10"},
            {"source": RETAIN.format(95)},
            f"models.0.source: {RETAIN.format(95)} is TOFU's retrained model, published for split forget05; expected "
            f"the target of data.split=forget10, {FULL}",
        ),
        (
            {"source": "muse", "split": "books"},
            {"source": NEWS.format("target")},
            f"models.0.source: {NEWS.format('target')} is MUSE's target, published for split news; expected the target "
            "of data.split=books, muse-bench/MUSE-Books_target",
        ),
        (
            {"source": "muse", "split": "books"},
            {"source": "muse-bench/MUSE-Books_target", "retrained": NEWS.format("retrain")},
            "published for split news; expected the retrained model of data.split=books, muse-bench/MUSE-Books_retrain",
        ),
    ],
)
def test_a_model_published_for_another_split_is_refused(
    data: dict[str, Any], model: dict[str, Any], said: str, folders: Path, tmp_path: Path
) -> None:
    """Before anything is read: there is no such folder."""
    with pytest.raises(UserError, match=re.escape(said)):
        plan(folders, data={**data, "folder": str(tmp_path / "none")}, model=model)


def test_models_of_the_own_split_and_other_models_are_not_refused() -> None:
    def said(data: dict[str, Any], **model: Any) -> tuple[str, ...]:
        tree = {"name": "t", "data": data, "models": [{"name": "m", **model}], "methods": [{"name": "kumpr"}]}
        return check_published(resolve_config(tree, "t"))

    tofu = {"source": "tofu", "split": "forget05"}
    for retrained in (RETAIN.format(95), f"{RETAIN.format(95)}@v1", "org/tofu_retain99", False):
        assert said(tofu, source=FULL, retrained=retrained) == ()
    # A retrained model may be measured by itself.
    assert said(tofu, source=RETAIN.format(95), unlearn=False) == ()
    assert said({"source": "records", "forget": "f.jsonl"}, source=RETAIN.format(99)) == ()
    assert (
        said({"source": "muse", "split": "news"}, source=NEWS.format("target"), retrained=NEWS.format("retrain")) == ()
    )
    fold = {"source": "muse", "split": "news", "fold": "sust_2"}
    (other,) = said(fold, source=NEWS.format("target"), retrained=NEWS.format("retrain"))
    assert "without the texts raw/forget, not without only fold sust_2" in other
    assert said(fold, source=NEWS.format("target"), retrained=False) == ()
    assert said(tofu, source="org/base", train={"epochs": 1}) == ()
    (again,) = said(tofu, source=FULL, train={"epochs": 1})
    assert again == (
        f"m: {FULL} is the published target, which has been fine-tuned on these texts, and is fine-tuned on them "
        "again; models.0.train=null takes it as it was published"
    )


def muse_folder(folder: Path) -> Path:
    for table in BENCHMARKS["muse"].tables:
        count = min(12 if "retain1" in table.file else 6, table.rows or 6)
        rows = [{name: f"{text} {table.file}" for name, text in row(table, n).items()} for n in range(count)]
        write_lines(folder / table.file, rows)
    return folder


@pytest.mark.parametrize("split", ["news", "books"])
def test_muses_configs_have_its_published_models(
    split: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = BENCHMARKS["muse"].splits[split].models
    overrides = [f"data.folder={muse_folder(tmp_path / 'muse')}", "data.heldout_rows=1"]
    config = load_config(find_config(f"muse_{split}"), overrides)
    assert known == {"target": config.models[0].source, "retrained": config.models[0].retrained}
    assert without_retrained_said(config) == ()
    made = plan_sweep(config, dry_run=True)
    assert sorted(t.settings.method for t in made.trials) == ["graddiff", "kumpr", "npo", "retrained", "simnpo"]
    assert gold_of(made).gpu_hours > 0
    # Without it the plan says what is missing, and what to name.
    lacking = load_config(find_config(f"muse_{split}"), [*overrides, "models.0.retrained=false"])
    (said,) = without_retrained_said(lacking)
    assert said == (
        "llama-2-7b: without a retrained model there is no privleak; models.0.retrained=muse-bench/MUSE-"
        f"{split.capitalize()}_retrain names the one that is published"
    )
    found = plan_sweep(lacking, dry_run=True)
    assert found.data is not None and said in found.data.remarks


def test_tofus_config_takes_the_published_models_by_one_override_each(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = shared / "data" / "tofu"
    if not files.is_dir():
        pytest.skip(f"{files} is not there")
    monkeypatch.chdir(tmp_path)
    known = {key: name.replace("{}", "Llama-3.2-1B-Instruct") for key, name in (TOFU.models or {}).items()}
    overrides = [
        f"models.0.source={known['target']}",
        f"models.0.retrained={known['retrained']}",
        "models.0.train=null",
    ]
    config = load_config(find_config("tofu"), [f"data.folder={files}", *overrides])
    made = plan_sweep(config, dry_run=True)
    assert len(made.trials) == 17 and gold_of(made).identity["retrained"]["hub"] == known["retrained"]
    assert [line.split(":")[0] for line in trained_said(made)] == ["llama-3.2-1b"]  # measured; nothing is trained
    ways = load_config(find_config("tofu"), [f"data.folder={files}", *overrides, "models.0.retrained=false"])
    assert known["retrained"] in without_retrained_said(ways)[0]
