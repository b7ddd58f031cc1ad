"""Trials by an adapter: what is trained, what stays, the original as the model without it, and what is left.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from icu_ray.config import EvalConfig, StopConfig
from icu_ray.errors import UserError
from icu_ray.metrics.probe import probe
from icu_ray.models.adapters import has_adapter
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import load_model
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.sweep.prepared import Prepared
from icu_ray.sweep.trials import _task
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from icu_ray.trial.artefact_making import make_artefacts
from icu_ray.trial.saved_models import save_model
from icu_ray.trial.worker import _load
from tests.support.lora_case import STAGES, base, lora_case, trained
from tests.support.tiny_models import tiny_rows
from tests.support.training_case import case, tokenizer, trial_settings
from tests.support.worker_processes import worker_processes
from tests.trial.test_artefacts import PROVENANCE, planned, requested


def run(
    resume: Path | None = None, save_at: dict[int, Path] | None = None, case: dict[str, Any] | None = None, **how: Any
) -> tuple[TrialOutcome, Any]:
    """A trial of four epochs by an adapter; save_at: where the checkpoints after which epochs go."""
    model, data = lora_case(**(case or {}))

    def on_epoch(report: EpochReport) -> None:
        if save_at and report.record.epoch in save_at:
            report.save(save_at[report.record.epoch])

    settings = trial_settings(**{"lr": 3e-2, "stop": StopConfig(ma=0.01, el=0.0, on_empty=False), **how})
    return run_trial(settings, data, model, tokenizer(), resume_from=resume, on_epoch=on_epoch), model


@pytest.mark.parametrize("family", ["gpt_neo", "gpt2", "llama"])  # of nn.Linear, Conv1D, and without biases
@pytest.mark.parametrize("cache", ["hidden", "recompute"])
def test_it_forgets_and_the_model_s_own_weights_stay(family: str, cache: str) -> None:
    outcome, model = run(case={"family": family, "cache": cache})
    before, after = outcome.before, outcome.after
    assert before.forget_loss is not None and after.forget_loss is not None
    assert after.forget_loss > 2 * before.forget_loss and outcome.epochs == 4
    assert before.ma is not None and after.ma is not None and after.ma < before.ma
    original, _ = case(family)
    own = base(model)
    for name, weight in original.named_parameters():
        assert torch.equal(own[name], weight), name
    new = trained(lora_case(family)[0])
    assert all(not torch.equal(weight, new[name]) for name, weight in trained(model).items())


def test_the_live_original_is_the_model_itself_and_trains_alike() -> None:
    model, data = lora_case(cache="recompute")
    assert data.reference is not None and data.reference.model is model
    held = data.reference.nbytes
    assert held < sum(p.nbytes for p in model.parameters()) / 10  # the rows' numbers alone
    original, plain = case()
    assert plain.pairs is not None
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
        ids = torch.from_numpy(plain.pairs.input_ids)
        mask = torch.from_numpy(plain.pairs.mask).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        wanted = original.base_model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        # A training pass needs the adapter on: it is off for the original alone.
        model.train()
        found = data.reference.batch(range(len(ids))).hidden
    assert found is not None and torch.equal(found, wanted)
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)
    kept, live = (run(case={"cache": cache})[0] for cache in ("hidden", "recompute"))
    for one, other in zip(kept.history[1:], live.history[1:], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_resume_is_exact_and_checkpoints_hold_the_adapter_alone(stage: int, tmp_path: Path) -> None:
    how: dict[str, Any] = {"zero_stage": stage, "case": {"dropout": 0.1}}
    whole, model = run(save_at={2: tmp_path / "c"}, **how)
    again, other = run(resume=tmp_path / "c", **how)
    assert whole.epochs == again.epochs == 4 and again.after == whole.after
    for name, weight in trained(model).items():
        assert torch.equal(weight, trained(other)[name]), name
    for file in (tmp_path / "c").rglob("mp_rank_00_model_states.pt"):
        state = torch.load(file, weights_only=False)
        assert state["module"] and all("lora_" in name for name in state["module"])
    with pytest.raises(UserError, match="is of another model or adapter"):
        run(resume=tmp_path / "c", zero_stage=stage, case={"targets": ("q_proj",)})


def test_the_best_epoch_s_adapter_is_left(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}
    model, data = lora_case()

    def on_epoch(report: EpochReport) -> None:
        if report.record.epoch and not report.decision.stop:
            seen[report.record.epoch] = trained(model)
            if report.best == report.record.epoch:
                report.save_weights(tmp_path / f"{report.best}.safetensors")

    settings = trial_settings(
        lr=3e-2,
        beta=0.0,
        eval=EvalConfig(heldout="epochs"),
        stop=StopConfig(ma=0.01, el=0.0, on_empty=False, keep="best", max_ppl_ratio=1.2),
    )
    outcome = run_trial(
        settings,
        data,
        model,
        tokenizer(),
        on_epoch=on_epoch,
        best_weights=lambda epoch: nullcontext(tmp_path / f"{epoch}.safetensors"),
    )
    assert outcome.kept_epoch is not None and outcome.kept_epoch < outcome.epochs
    for name, weight in trained(model).items():
        assert torch.equal(weight, seen[outcome.kept_epoch][name]), name
    whole = sum(p.nbytes for p in case()[0].parameters())
    file = tmp_path / f"{outcome.kept_epoch}.safetensors"
    assert file.stat().st_size < whole / 2


@pytest.mark.parametrize("stage", STAGES)
def test_an_adapter_has_the_precision_of_its_model(stage: int) -> None:
    outcome, model = run(case={"bf16": True}, zero_stage=stage, precision="bf16")
    assert outcome.after.forget_loss is not None and outcome.before.forget_loss is not None
    assert outcome.after.forget_loss > 1.5 * outcome.before.forget_loss
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    original = case()[0].bfloat16()
    assert all(torch.equal(base(model)[name], weight) for name, weight in original.named_parameters())


@pytest.mark.slow
def test_two_workers_equal_one_at_every_stage(tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2):
        out = tmp_path / f"{workers}.pt"
        given = [str(workers), str(tmp_path / f"meet_{workers}"), str(out)]
        found[workers] = worker_processes("tests/support/lora_case.py", workers, *given, out=out)
    plain = found[1][0]["0 hidden"]
    for each in (*found[1], *found[2]):
        for name, made in each.items():
            assert made["losses"] == pytest.approx(plain["losses"], rel=1e-4, abs=1e-6), name
            for parameter, wanted in plain["parameters"].items():
                torch.testing.assert_close(made["parameters"][parameter], wanted, rtol=1e-3, atol=1e-5, msg=parameter)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_trial_leaves_loads_as_a_model(precision: str, tmp_path: Path) -> None:
    """The folder as an adapter, as a merged model, and as both: the same numbers of the probe."""
    lora, rows = {"rank": 4, "targets": ["q_proj", "c_fc"]}, tiny_rows(4, 9)
    found, hashes = {}, {}
    for save in ("adapter", "merged", "both"):
        described = {"name": "m", "source": str(tmp_path / "model"), "gpus_per_worker": 0, "precision": precision}
        models = [{**described, "lora": {**lora, "save": save}}]
        plan = planned(tmp_path / "model", models=models, samples=[0], optim={"lr": 1e-2}, stop={"max_epochs": 2})
        (trial,) = plan.trials
        root = str(tmp_path / "store")
        keys, _ = make_artefacts(requested(plan, root, 0, plan.trials))
        task = _task(plan.config, Prepared({("m", 0): keys}, {}, ()), PROVENANCE, root, trial)
        loaded, data = _load(task)
        assert has_adapter(loaded.model)
        run_trial(trial.settings, data, loaded.model, loaded.tokenizer)
        live = probe(loaded.model, rows, ngram=2)
        paths = TrialPaths.of(str(tmp_path / save), "t", trial.trial_id)
        Path(paths.root).mkdir(parents=True)
        hashes[save] = save_model(loaded, paths, task.trial.model)
        folder = Path(paths.model)
        assert hashes[save] == folder_fingerprint(folder)
        again = load_model(str(folder), dtype="float32" if precision == "fp32" else "bfloat16")
        found[save] = probe(again.model, rows, ngram=2)
        # Merging rounds once: by a bit of float32, or by one of bf16.
        tolerance = 1e-4 if precision == "fp32" else 0.1
        assert found[save].forget_loss == pytest.approx(live.forget_loss, rel=tolerance)
        names = {path.name for path in folder.iterdir()}
        assert ("model.safetensors" in names) == (save != "adapter")
        assert ("adapter_model.safetensors" in names) == (save == "adapter")
        assert ("adapter" in names) == (save == "both")
    for other in ("merged", "both"):
        assert found["adapter"].forget_loss.tolist() == found[other].forget_loss.tolist()
        assert found["adapter"].ma.tolist() == found[other].ma.tolist()
        assert found["adapter"].el is not None and found[other].el is not None
        assert found["adapter"].el.tolist() == found[other].el.tolist()
    assert hashes["merged"] == hashes["both"] != hashes["adapter"]
    inner = load_model(str(folder / "adapter"), dtype="float32" if precision == "fp32" else "bfloat16")
    assert probe(inner.model, rows, ngram=2).forget_loss.tolist() == found["both"].forget_loss.tolist()
    told = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == (str(tmp_path / "model"), None)
