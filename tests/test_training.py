"""The training room: batches, refinement, engine, checkpoints and whole trials, without Ray."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_case
from hypothesis import given
from hypothesis import strategies as st
from training_case import case, job, tokenizer

from icu_ray.config import FilterConfig, StopConfig, TrainConfig
from icu_ray.results import Scores
from icu_ray.training.batches import epoch_batches, micro_batches
from icu_ray.training.checkpoints import DamagedCheckpoint, read_state
from icu_ray.training.engine import distributed, set_device_environment
from icu_ray.training.loop import EpochReport, TrialOutcome, run_trial
from icu_ray.training.refinement import decide, el_decides, forgotten, refine
from icu_ray.training.validation import Validation

TESTS = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    set_device_environment(torch.device("cpu"))
    with distributed(0, 1):
        yield


def run(resume: Path | None = None, save_at: dict[int, Path] | None = None, family: str = "gpt_neo", **changes: Any):  # type: ignore[no-untyped-def]
    model, data = case(family)

    def on_epoch(report: EpochReport) -> None:
        if save_at and report.record.epoch in save_at:
            report.save(save_at[report.record.epoch])

    outcome = run_trial(job(**changes), data, model, tokenizer(), resume_from=resume, on_epoch=on_epoch)
    return outcome, model


class TestBatches:
    @given(
        st.lists(st.booleans(), min_size=1, max_size=40),
        st.integers(1, 9),
        st.integers(0, 5),
        st.sampled_from(["slots", "repack"]),
        st.sampled_from(["skip", "momentum"]),
    )
    def test_every_active_sample_once(
        self, flags: list[bool], size: int, epoch: int, batching: str, empty: str
    ) -> None:
        active = np.asarray(flags)
        settings = TrainConfig(batching=batching, empty_batch=empty)  # type: ignore[arg-type]
        batches = epoch_batches(active, seed=1, epoch=epoch, batch_size=size, settings=settings)
        seen = np.concatenate([np.zeros(0, dtype=int), *batches])
        assert sorted(seen[active[seen]].tolist()) == np.flatnonzero(active).tolist()
        again = epoch_batches(active, seed=1, epoch=epoch, batch_size=size, settings=settings)
        assert all((a == b).all() for a, b in zip(batches, again, strict=True))
        if batching == "repack":
            assert len(batches) == -(-int(active.sum()) // size)
        elif empty == "momentum":
            assert len(batches) == -(-len(active) // size)
        else:
            assert all(active[batch].any() for batch in batches)

    @given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 5))
    def test_ranks_are_disjoint_cover_and_carry_alike(self, count: int, world: int, micro: int) -> None:
        shares = [micro_batches(count, rank=r, world_size=world, micro_batch=micro) for r in range(world)]
        rows = np.arange(count)
        assert np.concatenate([rows[part] for share in shares for part in share]).tolist() == rows.tolist()
        assert {len(share) for share in shares} == {max(1, math.ceil(count / (world * micro)))}
        assert all(part.stop - part.start <= micro for share in shares for part in share)
        loads = [share[-1].stop - share[0].start for share in shares]
        assert max(loads) - min(loads) <= 1

    def test_epochs_differ(self) -> None:
        active = np.ones(32, dtype=bool)
        first, second = (
            np.concatenate(epoch_batches(active, seed=1, epoch=e, batch_size=8, settings=TrainConfig())) for e in (1, 2)
        )
        assert (first != second).any()


class TestRefinement:
    @given(st.floats(0, 1), st.floats(0, 1))
    def test_rules(self, f1: float, overlap: float) -> None:
        values = np.asarray([f1]), np.asarray([overlap])
        either = forgotten(*values, FilterConfig(rule="or"))[0]
        both = forgotten(*values, FilterConfig(rule="and"))[0]
        assert either == (f1 < 0.3 or overlap < 0.01)
        assert both == (f1 < 0.3 and overlap < 0.01)

    def test_a_forgotten_sample_returns_unless_sticky(self) -> None:
        active = np.asarray([False, True])
        remembered = np.asarray([0.9, 0.9]), np.asarray([0.5, 0.5])
        assert refine(active, *remembered, FilterConfig()).tolist() == [True, True]
        assert refine(active, *remembered, FilterConfig(sticky=True)).tolist() == [False, True]

    @pytest.mark.parametrize(
        ("ma", "el", "left", "epoch", "rule", "status"),
        [
            (0.5, 0.01, True, 1, "and", "finished"),
            (0.5994, 0.01, True, 1, "and", None),
            (0.5, 0.0499, True, 1, "and", None),
            (0.9, 0.01, True, 1, "or", "finished"),
            (0.9, 0.5, False, 1, "and", "not_forgotten"),
            (0.5, 0.01, False, 1, "and", "finished"),
            (0.9, 0.5, True, 9, "and", "not_forgotten"),
            (0.5, None, True, 1, "and", None),
        ],
    )
    def test_stopping(self, ma: float, el: float | None, left: bool, epoch: int, rule: str, status: str | None) -> None:
        scores = Scores(ma, el, 2.0, 0.5, 0.5, 3.0)
        settings = StopConfig(rule=rule)  # type: ignore[arg-type]
        decision = decide(epoch, scores, np.asarray([left]), settings, max_epochs=9)
        assert decision.status == status
        assert decision.stop == (status is not None)
        if el is not None and not el_decides(ma, settings):
            # Where EL is said not to decide, no value of EL may change the verdict.
            other = decide(epoch, Scores(ma, 0.9, 2.0, 0.5, 0.5, 3.0), np.asarray([left]), settings, 9)
            assert other.status == decision.status

    def test_divergence(self) -> None:
        decision = decide(1, Scores(0.1, 0.0, None, 0.5, 0.5, 3.0), np.asarray([True]), StopConfig(), 9)
        assert decision.status == "failed"
        assert "diverged" in decision.reason


class TestTrial:
    @pytest.mark.parametrize("family", ["gpt_neo", "opt", "llama"])
    def test_forgets(self, family: str) -> None:
        outcome, _ = run(family=family, max_epochs=30)
        assert outcome.status == "finished", outcome.reason
        assert outcome.before.ma is not None
        assert outcome.after.ma is not None
        assert outcome.before.ma > 0.8 > 0.2 > outcome.after.ma
        assert [record.epoch for record in outcome.history] == list(range(outcome.epochs + 1))
        assert all(record.active == 7 for record in outcome.history)
        assert outcome.after.ppl_heldout is not None
        assert len(outcome.samples) == 7
        assert outcome.samples[0].reference.startswith("w")

    @pytest.mark.parametrize("epoch", [0, 1, 3, 4])
    def test_resume_is_exact(self, tmp_path: Path, epoch: int) -> None:
        whole, model = run(save_at={epoch: tmp_path / "c"})
        again, resumed = run(resume=tmp_path / "c")
        assert again.after == whole.after
        assert again.status == whole.status
        assert [r.scores for r in again.history] == [r.scores for r in whole.history]
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, resumed.get_parameter(name), rtol=0, atol=0)

    def test_decision_only_mode_ends_alike(self) -> None:
        whole, _ = run(max_epochs=30)
        from icu_ray.config import EvalConfig

        lean, _ = run(max_epochs=30, eval=EvalConfig(el="decision"))
        assert lean.after == whole.after
        assert lean.epochs == whole.epochs
        assert any(record.scores.el10 is None for record in lean.history)

    def test_slots_and_repack_agree_while_all_are_active(self) -> None:
        slots, _ = run(max_epochs=1)
        repack, _ = run(max_epochs=1, train=TrainConfig(batch_size=4, batching="repack"))
        assert slots.after == repack.after

    def test_nothing_left_ends_it(self) -> None:
        outcome, _ = run(filter=FilterConfig(encoder="bundled", encoder_layer=1, bleu=1.0), stop=StopConfig(ma=0.0))
        assert outcome.status == "not_forgotten"
        assert "no sample is left" in outcome.reason
        assert outcome.epochs == 1
        assert outcome.history[1].steps == 0

    def test_divergence_is_measured_and_named(self) -> None:
        outcome, _ = run(lr=math.inf)
        assert outcome.status == "failed"
        assert "diverged" in outcome.reason

    def test_cut_checkpoint_is_refused(self, tmp_path: Path) -> None:
        run(save_at={1: tmp_path / "c"}, max_epochs=1)
        read_state(tmp_path / "c")
        largest = max((p for p in (tmp_path / "c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        content = largest.read_bytes()
        largest.write_bytes(content[: len(content) // 2])
        with pytest.raises(DamagedCheckpoint, match=largest.name):
            read_state(tmp_path / "c")
        largest.write_bytes(content)
        (tmp_path / "c" / "manifest.json").unlink()
        with pytest.raises(DamagedCheckpoint, match="manifest"):
            read_state(tmp_path / "c")

    def test_validation_round_trip(self, tmp_path: Path) -> None:
        value = Validation(
            Scores(0.5, None, 1.0, 0.2, 0.1, 3.0),
            np.asarray([0.5]),
            None,
            np.asarray([math.nan]),
            np.asarray([0.2]),
            np.asarray([0.1]),
            ("text \u2028 here",),
        )
        value.save(tmp_path)
        back = Validation.load(tmp_path)
        assert back.scores == value.scores
        assert back.candidates == value.candidates
        assert back.el is None
        np.testing.assert_array_equal(back.forget_loss, value.forget_loss)


def group(world_size: int, stage: int, folder: Path, *flags: str) -> dict[str, Any]:
    """Run tests/training_case.py as a group of processes."""
    out = folder / f"{world_size}_{stage}.pt"
    meeting = folder / f"meet_{world_size}_{stage}"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "training_case.py",
                str(rank),
                str(world_size),
                str(stage),
                str(meeting),
                str(out),
                *flags,
            ],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(outputs)
    parts = [out] if not flags else [Path(f"{out}.{rank}") for rank in range(world_size)]
    loaded: list[dict[str, Any]] = [torch.load(part, weights_only=True) for part in parts]
    return {**loaded[0], "forwards": [part.get("forwards") for part in loaded]}


FLAGS = "1001100"


def masked_epoch(active: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, float], list[int]]:
    """An epoch as the authors write it: forgotten rows run with the others, and the means leave them out."""
    model, data = case()
    assert data.pairs is not None
    settings = job(optim=training_case.SMOOTH)
    original, _ = case()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=settings.optim.betas, eps=settings.optim.eps)
    sums: dict[str, float] = {"forget": 0.0, "learn": 0.0, "kl": 0.0}
    counts = []
    for batch in epoch_batches(active, seed=settings.seed, epoch=1, batch_size=4, settings=settings.train):
        live = torch.from_numpy(active[batch])
        counts.append(int(live.sum()))

        def scores(model: Any, rows: Any, batch: np.ndarray = batch) -> torch.Tensor:
            ids, mask = torch.from_numpy(rows.input_ids[batch]), torch.from_numpy(rows.mask[batch].astype(np.int64))
            return model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)  # type: ignore[no-any-return]

        def mean_nll(log_q: torch.Tensor, rows: Any, batch: np.ndarray = batch, live: Any = live) -> torch.Tensor:
            labels = torch.from_numpy(rows.labels[batch])[:, 1:]
            nll = -log_q[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
            return nll[live][labels[live] >= 0].mean()

        log_q = {"target": scores(model, data.targets), "pair": scores(model, data.pairs)}
        with torch.no_grad():
            log_p = scores(original, data.pairs)
        terms = {
            "forget": mean_nll(log_q["target"], data.targets),
            "learn": mean_nll(log_q["pair"], data.pairs),
            "kl": (log_p.exp() * (log_p - log_q["pair"])).sum(-1)[live].mean(),
        }
        optimizer.zero_grad()
        (-terms["forget"] + 0.5 * terms["learn"] + terms["kl"]).backward()
        optimizer.step()
        sums = {name: value + float(terms[name].detach()) for name, value in sums.items()}
    return dict(model.named_parameters()), {k: v / len(counts) for k, v in sums.items()}, counts


@pytest.mark.parametrize("workers", [1, 2])
def test_forgotten_rows_are_left_out_and_nothing_else_changes(workers: int, tmp_path: Path) -> None:
    active = np.array([flag == "1" for flag in FLAGS])
    parameters, losses, counts = masked_epoch(active)
    # One worker takes its rows at once; two take them one by one, with ZeRO-2.
    found = training_case.one_epoch(active) if workers == 1 else group(2, 2, tmp_path, FLAGS)
    assert found["losses"] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found["parameters"][name], parameter.detach(), rtol=1e-4, atol=1e-5)
    if workers == 1:
        # Targets and pairs of the active rows, in one forward a batch.
        assert found["forwards"] == [2 * count for count in counts]
        return
    first, second = (np.array(forwards) for forwards in found["forwards"])
    steps = [math.ceil(count / 2) for count in counts]
    # A row alone, or in its want a weightless one: as many forwards on both, whatever was forgotten.
    assert first.tolist() == second.tolist() == [2] * sum(steps)


def test_two_workers_with_zero_2_equal_one(tmp_path: Path) -> None:
    one, two = group(1, 0, tmp_path), group(2, 2, tmp_path)
    for mine, theirs in zip(one["losses"], two["losses"], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert two["ma"] == pytest.approx(one["ma"], abs=1e-9)
    assert two["perplexity"] == pytest.approx(one["perplexity"], rel=1e-4)
    for name, parameter in one["parameters"].items():
        torch.testing.assert_close(two["parameters"][name], parameter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lr", ["5e-06", "0.001"])
def test_adam_through_the_engine_follows_the_authors(shared: Path, lr: str) -> None:
    from transformers import AutoModelForCausalLM

    from icu_ray import methods
    from icu_ray.config import LossConfig
    from icu_ray.data.examples import Columns, TokenRows
    from icu_ray.methods.base import Batch
    from icu_ray.methods.module import UnlearningModule
    from icu_ray.methods.weights import batch_weights
    from icu_ray.models.reference import build_reference
    from icu_ray.training.engine import Engine, EngineSettings

    folder = shared / "oracles" / "A"
    inputs = json.loads((folder / "inputs.json").read_text())
    wanted = json.loads((folder / "expected.json").read_text())["adam"][lr]
    model = AutoModelForCausalLM.from_pretrained(folder / "model")

    def rows(key: str) -> TokenRows:
        ids = np.asarray(inputs[key])
        mask = np.ones_like(ids, dtype=bool)
        return TokenRows(
            tuple(map(str, range(16))),
            ids,
            mask,
            ids,
            ids[:, 100:150],
            mask[:, 100:150],
            ("",) * 16,
            Columns(),
            1999,
            1999,
        )

    targets, pairs = rows("target_ids"), rows("pair_ids")
    reference = build_reference(model, pairs)
    start = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    method = methods.get("icu", alpha=0.5, beta=1.0)
    engine = Engine(UnlearningModule(model, method), EngineSettings(float(lr), (0.9, 0.98), 1e-8, 8, 1), 0, 1)
    for step in wanted["steps"]:
        chosen = np.arange(8) + 8 * step["batch"]
        weights = batch_weights(
            targets.labels[chosen], pairs.labels[chosen], np.ones(8, dtype=bool), targets.columns, LossConfig()
        )
        parts = engine.step([Batch.gather(targets, pairs, chosen, weights, reference.batch(chosen))])
        assert parts["forget"] == pytest.approx(step["unlearn_loss"], abs=5e-5)
        assert parts["learn"] == pytest.approx(step["learn_loss"], abs=5e-5)
        assert parts["kl"] == pytest.approx(step["kl_true"], abs=5e-5)
        now = torch.cat([p.detach().double().flatten() for p in model.parameters()])
        assert float(now.sum()) == pytest.approx(step["after"]["sum"], abs=1e-3)
        assert float((now - start).norm()) == pytest.approx(step["after"]["delta_l2"], abs=1e-5)
    engine.close()


def test_outcome_is_plain(tmp_path: Path) -> None:
    outcome, _ = run(max_epochs=1)
    assert isinstance(outcome, TrialOutcome)
    assert set(outcome.seconds) == {"train", "validate"}
