"""Plans: the grid, ids that mean the result, names, order, statuses, and how light planning is.

Needs: nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from icu_ray.cli.main import main as cli
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.config.file import load_config, merge, resolve_config
from icu_ray.config.shipped import find_config
from icu_ray.data.encoder import bundled_encoder
from icu_ray.data.pair_draws import PairDraws
from icu_ray.errors import UserError
from icu_ray.plan.drawn_pairs import _STANDIN_HIDDEN, bytes_of_row
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_config, plan_sweep
from icu_ray.plan.trial import Trial
from icu_ray.report.terminal.plan_table import trained_said
from icu_ray.storage.results import EpochRecord, Provenance, Scores, TrialResult
from icu_ray.storage.trial_files import TrialPaths, read_result, write_events, write_result
from icu_ray.sweep.__main__ import main as sweep_main
from icu_ray.trial.task import write_failure

SMALL: dict[str, Any] = {
    "name": "t",
    "models": [{"name": "a", "standin": {"size": "small"}}, {"name": "b", "standin": {"size": "medium"}}],
    "data": {"source": "synthetic", "records": 40, "sample_size": 8, "heldout": 4},
    "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
    "samples": [0, 1],
    "methods": [{"name": "icu", "cells": [[0.5, 1.0], [1.0, 1.0]]}],
}
SCORES = Scores(0.5, 0.01, 2.0, 0.4, 0.1, 3.0)


def plan(change: dict[str, Any] | None = None, **where: Any) -> Plan:
    return plan_sweep(resolve_config(merge(merge(SMALL, change or {}), where), "t"), dry_run=True)


def ids(made: Plan) -> set[str]:
    return {trial.trial_id for trial in made.trials}


def test_the_grid_is_models_by_samples_by_cells() -> None:
    made = plan()
    assert len(made.trials) == 2 * 2 * 2
    assert {trial.name for trial in made.trials} >= {"icu-a-s0-a0.5-b1.0", "icu-b-s1-a1.0-b1.0"}
    assert len(ids(made)) == 8


def test_most_work_first() -> None:
    work = [trial.minutes * trial.workers for trial in plan().trials]
    assert work == sorted(work, reverse=True)
    assert len(set(work)) > 1
    # Six workers stand before one even where a trial of one takes longer.
    slow = paper(["models.0.minutes_per_epoch=4", "models.1.minutes_per_epoch=3", "models.2.minutes_per_epoch=2"])
    for config in (paper(), slow):
        assert [trial.workers for trial in plan_sweep(config, dry_run=True).trials] == [6] * 5 + [3] * 5 + [1] * 5


def paper(overrides: Sequence[str] = ()) -> SweepConfig:
    return load_config(find_config("paper"), overrides)


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "elsewhere"},
        {"resources": {"retries": 9, "max_workers": 5}},
        {"loss": {"chunk": 17}},
        {"eval": {"chunk": 3, "el": "decision"}},
        {"pairs": {"actors": 3, "shards": 2, "batch_size": 9, "index": "exact"}},
        {"tracking": {"enabled": False}},
        {"stop": {"max_ppl_ratio": None}},
        {"optim": {"weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0, "clip": None}},
        {"stop": {"max_steps": None}},
        {"rows": {"long": "refuse"}},
        {"pairs": {"by": "nearest", "resample": "epoch", "file": None}, "train": {"anchor": "forget"}},
        {"models": [{**m, "workers": 2, "zero_stage": 2, "gpus_per_worker": 1} for m in SMALL["models"]]},
        {"models": [{**m, "zero_stage": 3, "offload_optimizer": True} for m in SMALL["models"]]},
        {"models": [{**m, "activation_checkpointing": True} for m in SMALL["models"]]},
    ],
)
def test_ids_do_not_depend_on_where_and_how_it_runs(change: dict[str, Any]) -> None:
    assert ids(plan(change)) == ids(plan())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"optim": {"lr": 1e-4}},
        {"loss": {"reduction": "sum"}},
        {"filter": {"rule": "and"}},
        {"filter": {"bleu_tokenizer": "words"}},
        {"pairs": {"index": "approximate"}},
        {"stop": {"max_epochs": 3}},
        {"stop": {"ma": "heldout"}},
        {"stop": {"max_ppl_ratio": 1.5}},
        {"stop": {"rule": "epochs"}},
        {"stop": {"max_steps": 9}},
        {"optim": {"weight_decay": 0.01}},
        {"optim": {"schedule": "linear"}},
        {"optim": {"warmup_epochs": 1}},
        {"optim": {"clip": 1.0}},
        {"filter": {"rule": "never"}},
        {"fidelity": "paper"},
        {"data": {"seed": 5}},
        {"columns": {"suffix_start": 50}},
        {"rows": {"long": "windows"}},
        {"train": {"batch_size": 4}},
        {"pairs": {"by": "random"}},
    ],
)
def test_ids_depend_on_what_decides_the_result(change: dict[str, Any]) -> None:
    assert not ids(plan(change)) & ids(plan())


def test_trials_of_before_there_were_other_pairs_keep_their_ids() -> None:
    identity = plan().trials[0].identity
    assert set(identity["pairs"]) == {"pool", "metric", "encoder", "max_ngram_overlap", "candidates"}
    assert set(identity["train"]) == {"batch_size", "empty_batch", "batching"}


def test_what_decays_and_how_a_warm_up_begins_stand_in_ids_where_they_count() -> None:
    """Trials of before, whose biases decayed and whose warm-up began at 1/n, are not taken for these."""
    plain = plan().trials[0].identity["optim"]
    assert set(plain) == {"lr", "betas", "eps"}
    told = plan({"optim": {"weight_decay": 0.01, "warmup_epochs": 1}}).trials[0].identity["optim"]
    assert told["decay"] == "without biases and norms" and told["warmup"] == "from 0"
    assert "warmup" not in plan({"optim": {"weight_decay": 0.01}}).trials[0].identity["optim"]
    assert "decay" not in plan({"optim": {"warmup_epochs": 1}}).trials[0].identity["optim"]


def test_each_way_to_pair_is_another_trial() -> None:
    random = {"pairs": {"by": "random"}}
    made = [plan(random), plan(merge(random, {"pairs": {"resample": "never"}}))]
    made += [plan(merge(random, {"train": {"anchor": "retain"}})), plan(merge(random, {"seed": 7})), plan()]
    assert len(set.union(*(ids(each) for each in made))) == sum(len(ids(each)) for each in made)
    # What only nearest neighbours are found by says nothing of others.
    assert ids(plan(merge(random, {"pairs": {"encoder": "/nowhere", "candidates": 3}}))) == ids(plan(random))
    with pytest.raises(UserError, match=r"pairs\.encoder: /nowhere"):
        plan({"pairs": {"encoder": "/nowhere"}})


def test_the_plan_tells_what_drawn_pairs_take() -> None:
    def said(**change: Any) -> list[str]:
        data = plan(merge({"pairs": {"by": "random"}, "seeds": [0, 1], "samples": [0]}, change)).data
        assert data is not None
        return list(data.remarks)

    (small, medium) = said(stop={"max_epochs": 3})
    draws = PairDraws(8, 32, (0, 1), 3)
    rows = len(draws.pool_rows)
    assert small == (
        f"model a: pairs.by=random may draw {rows} rows of the pool, and what the original model says of each is kept "
        f"(kl.cache=hidden): about {rows * 64 * 128 * 4 / 1e3:.3g} kB. kl.cache=recompute keeps none of it."
    )
    assert (
        f"model b: pairs.by=random may draw {rows} rows" in medium and f"{rows * 64 * 160 * 4 / 1e6:.3g} MB" in medium
    )
    assert "all 32 rows of the pool are pairs" in said(train={"anchor": "retain"})[0]
    vocabulary = 2048
    assert (
        f"(kl.cache=probs): about {32 * 64 * vocabulary * 4 / 1e6:.3g} MB"
        in said(train={"anchor": "retain"}, kl={"cache": "probs"})[0]
    )
    assert "a frozen copy of the original model is run on them" in said(kl={"cache": "recompute"})[0]
    assert said(methods=[{"name": "icu", "cells": [[1.0, 0.0]]}]) == []  # without equation (4) nothing is kept
    assert said(pairs={"by": "nearest"}) == []


def test_the_hidden_sizes_that_a_plan_reckons_with_are_those_of_the_models(tmp_path: Path) -> None:
    from icu_ray.training.standin_models import ARCHITECTURES

    assert {name: shape.hidden for name, shape in ARCHITECTURES.items()} == _STANDIN_HIDDEN
    (tmp_path / "config.json").write_text(json.dumps({"n_embd": 96, "vocab_size": 500}))
    model = ModelConfig(name="m", source=str(tmp_path))
    half = model.model_copy(update={"precision": "bf16"})
    hidden = resolve_config(SMALL, "t")
    dense = resolve_config(merge(SMALL, {"kl": {"cache": "probs"}}), "t")
    assert [bytes_of_row(each, hidden) for each in (model, half)] == [64 * 96 * 4, 64 * 96 * 2]
    assert bytes_of_row(model, dense) == 64 * 500 * 4
    (tmp_path / "config.json").write_text("{}")
    assert bytes_of_row(model, hidden) is None


@pytest.mark.parametrize("section", ["filter", "pairs"])
def test_the_folder_of_an_encoder_counts_by_its_content(section: str, tmp_path: Path) -> None:
    def planned(name: str) -> set[str]:
        more = {"encoder_layer": 6} if section == "filter" else {}
        return ids(plan({section: {"encoder": str(tmp_path / name), **more}}))

    for name in ("a", "b", "c"):
        folder = shutil.copytree(bundled_encoder(), tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "model.safetensors").symlink_to(bundled_encoder() / "model.safetensors")
    with (tmp_path / "c" / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    assert planned("a") == planned("b")
    assert not planned("a") & planned("c")


def test_equal_cells_and_equal_names_are_refused() -> None:
    with pytest.raises(UserError, match="one and the same cell"):
        plan({"methods": [{"name": "icu", "cells": [[0.5, 1.0], [0.5, 1]]}]})
    with pytest.raises(UserError, match="unknown method 'icuu' \\(did you mean 'icu'\\?\\)"):
        plan({"methods": [{"name": "icuu"}]})


def test_names_say_in_what_trials_differ_and_ids_do_not_change() -> None:
    npo = [{"name": "npo", "settings": {"beta_npo": beta}} for beta in (0.1, 0.5)]
    other = {"name": "npo", "settings": {"beta_npo": 0.5}, "stop": {"ma": 0.4}}
    only = {"models": [{"name": "a", "standin": {}}], "samples": [0]}
    found = plan({**only, "methods": [*npo, other, {"name": "icu"}]})
    assert sorted(trial.name for trial in found.trials) == [
        "icu-a-s0-a0.5-b1.0",
        "npo-a-s0-beta_npo0.1-ma0.5994",
        "npo-a-s0-beta_npo0.5-ma0.4",
        "npo-a-s0-beta_npo0.5-ma0.5994",
    ]
    alone = [trial for method in (*npo, other) for trial in plan({**only, "methods": [method]}).trials]
    assert {trial.name for trial in alone} == {"npo-a-s0"}
    assert {trial.trial_id for trial in alone} < ids(found)


def test_statuses_are_read_from_storage(tmp_path: Path) -> None:
    first, second, third, *_ = plan(storage=str(tmp_path)).trials
    write_events(where(tmp_path, first), [EpochRecord(0, 8, SCORES), EpochRecord(1, 7, SCORES)])
    write_result(where(tmp_path, second), result(second, "finished"))
    write_result(where(tmp_path, third), result(third, "failed"))
    again = {trial.trial_id: trial for trial in plan(storage=str(tmp_path)).trials}
    assert (again[first.trial_id].status, again[first.trial_id].epochs_done) == ("resumable", 1)
    assert again[second.trial_id].status == "finished"
    assert again[third.trial_id].status == "failed"
    waiting = {trial.trial_id for trial in plan(storage=str(tmp_path)).waiting}
    assert second.trial_id not in waiting
    assert {first.trial_id, third.trial_id} <= waiting


def test_events_of_another_trial_are_refused_and_none_of_a_failure(tmp_path: Path) -> None:
    first, second, *_ = plan(storage=str(tmp_path)).trials
    write_events(where(tmp_path, first), [EpochRecord(0, 8, SCORES), EpochRecord(1, 7, SCORES)])
    shutil.copytree(where(tmp_path, first).root, where(tmp_path, second).root)
    with pytest.raises(UserError, match=f"events.jsonl, line 1: is of trial '{first.trial_id}'"):
        plan(storage=str(tmp_path))
    write_failure(second, where(tmp_path, second), "why", Provenance("1", "c0ffee", False))
    failed = read_result(where(tmp_path, second))
    assert failed is not None and (failed.epochs, failed.before) == (0, None)


def test_a_remote_storage_is_asked_once_and_then_only_for_what_it_holds() -> None:
    """Thousands of trials on an object store would else cost two answers each before anything starts."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    asked: list[str] = []

    class Counted(MemoryFileSystem):  # type: ignore[misc]
        protocol = "counted"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def ls(self, path: str, *args: Any, **options: Any) -> Any:
            asked.append(path)
            return super().ls(path, *args, **options)

        def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
            asked.append(path)
            return bytes(super().cat_file(path, *args, **options))

    fsspec.register_implementation("counted", Counted, clobber=True)
    first, second, *_ = plan(storage="counted://runs").trials
    assert len(asked) == 1
    for trial, status in ((first, "finished"), (second, "failed")):
        write_result(TrialPaths.of("counted://runs", "t", trial.trial_id), result(trial, status))
    asked.clear()
    again = {trial.trial_id: trial.status for trial in plan(storage="counted://runs").trials}
    assert sum(status == "new" for status in again.values()) == 6
    assert (again[first.trial_id], again[second.trial_id]) == ("finished", "failed")
    assert len(asked) == 3


def where(storage: Path, trial: Trial) -> TrialPaths:
    return TrialPaths.of(str(storage), "t", trial.trial_id)


def result(trial: Trial, status: Any) -> TrialResult:
    return TrialResult(
        trial.trial_id, trial.name, trial.model.name, trial.label, trial.sample, trial.hyperparameters, status, "why",
        2, SCORES, SCORES, {"total": 1.0},
    )  # fmt: skip


def test_a_dry_run_of_the_paper_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan_sweep(paper(), dry_run=True)
    assert len(made.trials) == 15
    assert "data.folder" in made.provisional
    with pytest.raises(UserError, match="lm_extraction"):
        plan_sweep(paper())


@pytest.mark.parametrize("command", [("icu-ray", cli, ["sweep"]), ("icu_ray.sweep", sweep_main, [])])
def test_passwords_of_addresses_are_not_shown(
    command: tuple[str, Callable[[list[str]], int], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    name, main, door = command

    def said(code: int, *arguments: str) -> str:
        assert main([*door, "quickstart", *arguments]) == code
        out, err = capsys.readouterr()
        assert "CANARY" not in out + err
        return out + err

    assert "results go to memory://b/runs/quickstart." in said(0, "storage=memory://user:CANARY@b/runs", "--dry-run")
    told = json.loads(said(0, "storage=memory://user:CANARY@b/runs", "--dry-run", "--json"))
    assert told["storage"] == "memory://b/runs" and len(told["trials"]) == 12
    unknown = said(2, "storage=nosuch://user:CANARY@b/runs")
    assert unknown.startswith(f"{name}: storage nosuch://b/runs")  # each command signs its own errors
    assert said(2, "--json").startswith(f"{name}: --json: needs --dry-run")


def test_more_workers_than_allowed() -> None:
    with pytest.raises(UserError, match=r"needs 3 workers at once, but resources\.max_workers allows 2"):
        plan({"train": {"batch_size": 6}, "resources": {"max_workers": 2}, "models": [
            {"name": "a", "standin": {}, "workers": 3}]})  # fmt: skip


SHIPPED = {
    "quickstart": 12,
    "paper": 15,
    "table1": 90,
    "table1_paper_rules": 90,
    "table3": 50,
    "table4": 25,
    "figure3": 20,
    "figure4": 5,
    "table1_small": 32,
    "table3_small": 20,
    "table4_small": 10,
    "figure3_small": 8,
    "figure4_small": 5,
    "methods_search": 84,
    "methods_small": 44,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_plans_without_its_data(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan_config(find_config(name), dry_run=True)
    assert len(found.trials) == SHIPPED[name]
    assert found.config.name == name


@pytest.mark.parametrize("name", ["quickstart", "paper", "table3"])
def test_planning_imports_neither_ray_nor_torch(name: str, tmp_path: Path) -> None:
    code = (
        "import sys; from icu_ray.cli.main import main; code = main(['plan', sys.argv[1], '--json']); "
        "heavy = {'ray', 'torch', 'transformers', 'mlflow', 'deepspeed'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == SHIPPED[name]


def test_a_model_as_it_is_has_one_trial_a_sample() -> None:
    models = [{"name": "a", "standin": {}}, {"name": "b", "standin": {"seed": 1}, "unlearn": False}]
    found = plan({"models": models, "samples": [0]})
    mine = [trial for trial in found.trials if trial.model.name == "b"]
    assert [(t.name, t.settings.method, t.settings.max_epochs) for t in mine] == [("original-b-s0", "original", 0)]
    assert {t.settings.method for t in found.trials if t.model.name == "a"} == {"icu"}


def test_the_gold_standard_is_a_trial_a_sample_of_the_models_that_ask_for_it() -> None:
    models = [{"name": "a", "standin": {}, "retrained": True}, {"name": "b", "standin": {"seed": 1}}]
    asked = plan({"models": models, "samples": [0, 1], "seeds": [42, 7]})
    gold = [trial for trial in asked.trials if trial.settings.method == "retrained"]
    assert sorted((t.name, t.settings.max_epochs) for t in gold) == [("retrained-a-s0", 0), ("retrained-a-s1", 0)]
    # The other trials are those that they are without it.
    without = plan({"models": [{**models[0], "retrained": False}, models[1]], "samples": [0, 1], "seeds": [42, 7]})
    assert ids(asked) - {trial.trial_id for trial in gold} == ids(without)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": [{"name": "retrained"}]}, "methods.0: 'retrained' is no method of unlearning; set 'retrained: tr"),
        (
            {"models": [{"name": "a", "source": "some/model", "retrained": True}]},
            "'retrained' needs 'train' or 'st",
        ),
        ({"models": [{"name": "a", "standin": {}, "train": {}}]}, "'train' is for a 'source'; a stand-in is trained"),
        (
            {"models": [{"name": "a", "standin": {}, "train": False}]},
            "expected a section, for example {epochs: 10}, found false (a model that is o",
        ),
    ],
)
def test_what_cannot_be_trained_or_retrained_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        plan(change)


def test_what_a_model_is_trained_by_and_on_is_part_of_its_trials() -> None:
    def trials(train: dict[str, Any] | None, **change: Any) -> set[str]:
        return ids(plan({"models": [{"name": "a", "source": "some/model", "train": train}], **change}))

    known = trials({"epochs": 3})
    assert known == trials({"epochs": 3, "micro_batch": 2})
    for other in (None, {"epochs": 4}, {"epochs": 3, "lr": 2e-5}, {"epochs": 3, "min_memorization": 0.9}):
        assert not known & trials(other)
    # It reads the texts of all samples, so another one makes it another model; an untrained model is none.
    assert not known & trials({"epochs": 3}, samples=[0])
    assert trials(None, samples=[0]) < trials(None)


def test_a_plan_says_what_is_trained_before_the_trials() -> None:
    models = [
        {"name": "a", "source": "some/model", "train": {"epochs": 3, "min_memorization": 0.9}, "retrained": True},
        {"name": "b", "source": "some/other", "train": {"epochs": 1}},
        {"name": "c", "standin": {}, "retrained": True},
        {"name": "d", "standin": {"seed": 1}},
    ]
    said = dict(line.split(": ", 1) for line in trained_said(plan({"models": models, "samples": [0, 1]})))
    assert set(said) == {"a", "b", "c"}
    assert said["a"].startswith("fine-tuned first, at most 3 epochs, until MA is 90 %; then once more without each ")
    assert re.search(r"; about \d+ minutes?\.$", said["a"])
    assert said["b"].startswith("fine-tuned first, 1 epoch; about ")
    assert said["c"] == "trained as a stand-in, then once more without each forget sample."


def test_a_chat_model_forgets_a_part_of_tofu_by_a_shipped_config(tmp_path: Path) -> None:
    for name, count in (("forget01", 4), ("retain99", 90)):
        rows = [{"question": f"Who wrote {name} {n}?", "answer": f"Author {n} of {name}."} for n in range(count)]
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    files = [f"data.forget={tmp_path / 'forget01.json'}", f"data.pool={tmp_path / 'retain99.json'}"]
    # The real model is a package that need not be installed.
    overrides = [*files, "models.0.source=org/any-chat-model"]
    found = plan_config(find_config("real_small"), overrides, dry_run=True)
    assert sorted(t.settings.method for t in found.trials) == ["icu", "icu", "npo", "retrained"]
    assert found.data is not None and found.data.samples[0].pool == 40 and found.data.heldout == 40


def test_seeds_are_a_dimension() -> None:
    models = [{"name": "a", "standin": {}}, {"name": "b", "standin": {"seed": 1}, "unlearn": False}]
    methods = [{"name": "icu", "cells": [[0.5, 1.0]]}]
    three = plan({"models": models, "methods": methods, "samples": [0, 1], "seeds": [42, 7, 8]})
    # A model that is not trained is the same with each.
    assert sorted(trial.name for trial in three.trials) == [
        *(f"icu-a-s{sample}-a0.5-b1.0{seed}" for sample in (0, 1) for seed in ("", "-seed7", "-seed8")),
        *("original-b-s0", "original-b-s1"),
    ]
    assert {trial.hyperparameters["seed"] for trial in three.trials if trial.model.name == "a"} == {42, 7, 8}
    # A trial is the same one however its seed was asked for.
    alone = {
        t.trial_id for seed in (42, 7, 8) for t in plan({"models": models, "methods": methods, "seed": seed}).trials
    }
    assert {t.trial_id for t in three.trials if t.model.name == "a"} <= alone
    with pytest.raises(UserError, match="seeds: listed twice: 7"):
        plan({"models": models, "seeds": [7, 7]})


def test_a_model_as_it_is_is_one_trial_in_whatever_order_the_seeds_stand() -> None:
    def original(**asked: Any) -> tuple[str, Any]:
        (found,) = plan({"models": [{"name": "a", "standin": {}, "unlearn": False}], "samples": [0], **asked}).trials
        return found.trial_id, found.hyperparameters["seed"]

    assert original(seeds=[42, 7]) == original(seeds=[7, 42]) == original() == original(seeds=[42])
    assert original(seeds=[8, 7]) == original(seeds=[7, 8]) == original(seed=7)


def test_methods_on_some_models_and_with_rules_of_their_own() -> None:
    methods = [
        {"name": "kumpr", "stop": {"ma": 0.2994}},
        {"name": "kl", "models": ["a"]},
        {"name": "kl", "models": ["b"], "stop": {"rule": "or"}},
    ]
    models = [{"name": "a", "standin": {}}, {"name": "b", "standin": {"seed": 1}}]
    found = plan({"models": models, "methods": methods, "samples": [0]})
    rules = {trial.name: (trial.settings.stop.rule, trial.settings.stop.ma) for trial in found.trials}
    assert rules == {
        "kumpr-a-s0": ("and", 0.2994),
        "kumpr-b-s0": ("and", 0.2994),
        "kl-a-s0-b1.0": ("and", 0.5994),
        "kl-b-s0-b1.0": ("or", 0.5994),
    }
    with pytest.raises(UserError, match=r"methods\.1\.models: 'c' is none of the models"):
        plan({"models": models, "methods": [{"name": "icu"}, {"name": "kl", "models": ["c"]}]})


def test_a_method_with_epochs_of_its_own() -> None:
    def planned(epochs: dict[str, Any], **asked: Any) -> Any:
        methods = [{"name": "kumpr"}, {"name": "kl", "stop": epochs}]
        models = [{"name": "a", "standin": {}}, {"name": "b", "standin": {"seed": 1}, "max_epochs": 12}]
        return plan({"models": models, "methods": methods, "samples": [0], "stop": {"rule": "epochs"}, **asked})

    usual, own = planned({}), planned({"max_epochs": 5})
    found = {trial.name: trial.settings.max_epochs for trial in own.trials}
    # The method's own come before the model's, and those before the sweep's.
    assert found == {"kumpr-a-s0": 50, "kumpr-b-s0": 12, "kl-a-s0-b1.0": 5, "kl-b-s0-b1.0": 5}
    before, after = ({trial.name: trial for trial in each.trials} for each in (usual, own))
    same = {name for name in before if before[name].trial_id == after[name].trial_id}
    assert same == {"kumpr-a-s0", "kumpr-b-s0"}
    # What a trial is depends on how many epochs it has, not on which key says so.
    told = planned({}, stop={"rule": "epochs", "max_epochs": 5}).trials
    assert after["kl-a-s0-b1.0"].trial_id in {trial.trial_id for trial in told}
    # A dry run counts them.
    works = {name: trial.work.epochs for name, trial in after.items() if trial.work is not None}
    assert works == found
    assert after["kl-a-s0-b1.0"].minutes < before["kl-a-s0-b1.0"].minutes
    early = {trial.name: trial for trial in planned({"max_epochs": 2}, stop={}).trials}
    assert early["kl-a-s0-b1.0"].work.epochs == early["kl-b-s0-b1.0"].work.epochs == 2


def test_what_trials_draw_is_there_for_the_longest_method() -> None:
    methods = [
        {"name": "kumpr", "stop": {"max_epochs": 80}, "models": ["a"]},
        {"name": "kl", "stop": {"max_epochs": 5}},
    ]
    models = [{"name": "a", "standin": {}}, {"name": "b", "standin": {"seed": 1}, "max_epochs": 12}]
    config = plan({"models": models, "methods": methods, "samples": [0]}).config
    assert [config.most_epochs(model) for model in config.models] == [80, 5]


def test_cells_that_differ_in_an_unused_weight_are_one() -> None:
    methods = [{"name": "kumpr", "alpha": [0.1, 0.5], "beta": [1.0, 2.0]}, {"name": "po", "beta": [1, 2]}]
    found = plan({"methods": methods, "samples": [0], "models": [{"name": "a", "standin": {}}]})
    assert sorted(trial.name for trial in found.trials) == ["kumpr-a-s0", "po-a-s0-a0.5"]


def test_a_gold_standard_needs_something_left_to_learn(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text('{"text": "a b c d e f"}\n')
    data = {"source": "records", "forget": str(file), "pool": None}
    change = {"data": data, "samples": [0], "methods": [{"name": "kumpr"}]}
    config = resolve_config({**SMALL, **change, "models": [{"name": "a", "standin": {}, "retrained": True}]}, "t")
    with pytest.raises(UserError, match=r"models\.0\.retrained: without forget sample 0 nothing is left to train a on"):
        plan_sweep(config, dry_run=True)


def test_configs_of_before_keep_the_ids_that_they_had() -> None:
    """As they were before there were schedules, step rules and recipes."""
    as_then = ["data.records=512", "data.heldout=64"]
    made = plan_config(find_config("quickstart"), as_then, dry_run=True)
    found = {trial.name: trial.trial_id for trial in made.trials}
    known = {
        "icu-medium-s0-a0.5-b4.0": "4cf318c2204b11d4",
        "icu-small-s1-a0.5-b8.0": "03336b0b8d093819",
        "gradient-ascent-small-s0-a0.0-b0.0": "12499765b1e7fe94",
    }
    assert {name: found[name] for name in known} == known
