"""The training package: batches, refinement, engine, checkpoints and whole trials, without Ray.

Needs: a C++ compiler (DeepSpeed); ../shared for some of its tests.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import ElConfig, EvalConfig, FilterConfig, StopConfig, TrainConfig
from icu_ray.errors import UserError
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.storage.results import Scores
from icu_ray.training.batches import epoch_batches, micro_batches
from icu_ray.training.checkpoints import DamagedCheckpoint, read_state
from icu_ray.training.engine import set_device_environment
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from icu_ray.training.refinement import decide, el_decides, forgotten, refine
from icu_ray.training.validation import Measure, Validation, validate
from tests.support.payload import Payload
from tests.support.training_case import FILTER, case, in_windows, one_epoch, tokenizer, trial_settings


def test_training_on_a_gpu_overrules_what_was_imported_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator import real_accelerator

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert real_accelerator.get_accelerator() is not None
    try:
        set_device_environment(torch.device("cuda"))
        assert os.environ["DS_ACCELERATOR"] == "cuda"
        assert real_accelerator.ds_accelerator is None  # to be chosen anew
    finally:
        set_device_environment(torch.device("cpu"))


def run(resume: Path | None = None, save_at: dict[int, Path] | None = None, family: str = "gpt_neo", **changes: Any):  # type: ignore[no-untyped-def]
    model, data = case(family)

    def on_epoch(report: EpochReport) -> None:
        if save_at and report.record.epoch in save_at:
            report.save(save_at[report.record.epoch])

    outcome = run_trial(trial_settings(**changes), data, model, tokenizer(), resume_from=resume, on_epoch=on_epoch)
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
        if el is not None and not el_decides(ma, thresholds_of(settings)):
            # Where EL is said not to decide, no value of EL may change the verdict.
            other = decide(epoch, Scores(ma, 0.9, 2.0, 0.5, 0.5, 3.0), np.asarray([left]), settings, 9)
            assert other.status == decision.status

    def test_what_was_not_measured_is_said_and_decides_nothing(self) -> None:
        active = np.asarray([True] * 4)
        said = "EL10 of {} of 4 texts cannot be measured: shorter than 10 tokens after the boundary"
        none = Scores(0.1, None, 2.0, 0.5, 0.5, 3.0, el_unmeasured=4)
        assert decide(8, none, active, StopConfig(), 9).stop is False
        at_limit = decide(9, none, active, StopConfig(), 9)
        assert at_limit.status == "not_forgotten" and said.format(4) in at_limit.reason
        assert decide(1, none, active, StopConfig(rule="or"), 9).status == "finished"
        no_ma = Scores(None, 0.0, 2.0, 0.5, 0.5, 3.0)
        assert decide(1, no_ma, active, StopConfig(), 9).stop is False
        some = decide(1, Scores(0.1, 0.0, 2.0, 0.5, 0.5, 3.0, el_unmeasured=1), active, StopConfig(), 9)
        assert some.status == "finished" and said.format(1) in some.reason

    def test_thresholds_of_heldout_texts_are_their_means_and_may_be_touched(self) -> None:
        stop = StopConfig(ma="heldout", el="heldout")
        before = Scores(0.9, 0.5, 2.0, 0.5, 0.5, 3.0, ma_heldout=0.25, el_heldout=0.0, heldout_texts=3)
        limits = thresholds_of(stop, before, ngram=5)
        assert (limits.ma.value, limits.el.value, limits.ma.texts, limits.ngram) == (0.25, 0.0, 3, 5)
        active = np.asarray([True])
        for ma, el, status in ((0.25, 0.0, "finished"), (0.26, 0.0, None), (0.2, 0.01, None)):
            scores = Scores(ma, el, 2.0, 0.5, 0.5, 3.0)
            assert decide(1, scores, active, stop, 9, thresholds=limits).status == status
        unknown = thresholds_of(stop, replace(before, el_heldout=None))
        assert not unknown.known and not unknown.below(0.0, 0.0)

    def test_divergence(self) -> None:
        decision = decide(1, Scores(0.1, 0.0, None, 0.5, 0.5, 3.0), np.asarray([True]), StopConfig(), 9)
        assert decision.status == "failed"
        assert "diverged" in decision.reason

    @pytest.mark.parametrize("rule", ["or", "and"])
    def test_what_a_score_cannot_judge_is_not_forgotten(self, rule: str) -> None:
        nan = math.nan
        found = forgotten(np.asarray([nan, 0.1, nan]), np.asarray([0.0, nan, nan]), FilterConfig(rule=rule))  # type: ignore[arg-type]
        assert found.tolist() == [False, False, False]


class TestTrial:
    @pytest.mark.parametrize("family", ["gpt_neo", "opt", "llama"])
    def test_forgets(self, family: str) -> None:
        # Processors round differently, and so tiny a model takes 18 epochs on one and more on another.
        outcome, _ = run(family=family, beta=0.5, max_epochs=60)
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

    @pytest.mark.parametrize("heldout", ["ends", "epochs"])
    def test_heldout_texts_are_measured_as_targets_before_and_after(self, heldout: str) -> None:
        model, data = case()
        assert data.heldout is not None
        alone = validate(model, tokenizer(), data.heldout, Measure(FILTER, el=ElConfig(ngram=2)))
        stop = StopConfig(ma="heldout", el="heldout", on_empty=False)
        outcome, _ = run(max_epochs=3, stop=stop, eval=EvalConfig(heldout=heldout))  # type: ignore[arg-type]
        before, after, limits = outcome.before, outcome.after, outcome.thresholds
        told = (before.ma_heldout, before.el_heldout, before.loss_heldout, before.distinct_heldout)
        assert told == pytest.approx(
            (alone.scores.ma, alone.scores.el, alone.scores.forget_loss, alone.scores.distinct)
        )
        assert before.ma_heldout_spread == pytest.approx(alone.ma.std(ddof=1))
        assert (before.heldout_texts, after.heldout_texts) == (3, 3)
        assert after.ma_heldout is not None and after.loss_heldout != before.loss_heldout
        assert limits is not None and (limits.ma.value, limits.el.value) == (before.ma_heldout, before.el_heldout)
        assert limits.ma.source == "heldout" and limits.heldout_above is not None and 0 < limits.heldout_above <= 3
        assert (outcome.status == "finished") == limits.below(after.ma, after.el)
        assert all(record.scores.ma_heldout is None for record in outcome.history[1:-1])

    def test_thresholds_that_cannot_be_made_fail_before_the_first_epoch(self) -> None:
        model, data = case()
        settings = trial_settings(stop=StopConfig(el="heldout"))
        outcome = run_trial(settings, replace(data, heldout=None), model, tokenizer())
        assert (outcome.status, outcome.epochs, outcome.thresholds) == ("failed", 0, None)
        assert outcome.reason.startswith("stop.el=heldout: EL2 cannot be measured on the held-out texts")

    def test_decision_only_mode_ends_alike(self) -> None:
        whole, _ = run(max_epochs=30)
        lean, _ = run(max_epochs=30, eval=EvalConfig(el="decision"))
        assert lean.after == whole.after
        assert lean.epochs == whole.epochs
        assert any(record.scores.el is None for record in lean.history)

    def test_slots_and_repack_agree_while_all_are_active(self) -> None:
        slots, _ = run(max_epochs=1)
        repack, _ = run(max_epochs=1, train=TrainConfig(batch_size=4, batching="repack"))
        assert slots.after == repack.after

    def test_nothing_left_ends_it(self) -> None:
        outcome, _ = run(filter=FilterConfig(encoder="bundled", encoder_layer=1, bleu=1.0), stop=StopConfig(ma=0.0))
        assert outcome.status == "not_forgotten"
        assert "no target is left" in outcome.reason
        assert outcome.epochs == 1
        assert outcome.history[1].steps == 0

    def test_divergence_is_measured_and_named(self) -> None:
        outcome, _ = run(lr=math.inf)
        assert outcome.status == "failed"
        assert "diverged" in outcome.reason

    @pytest.mark.parametrize("changes", [{}, {"method": "original", "max_epochs": 0}])
    def test_a_model_of_nan_is_called_failed_and_nothing_forgotten(self, changes: dict[str, Any]) -> None:
        model, data = case()
        with torch.no_grad():
            model.transformer.ln_f.weight[0] = math.nan
        settings = trial_settings(stop=StopConfig(ma=1.0, el=1.0), **changes)
        before = validate(model, tokenizer(), data.targets, Measure(settings.filter, el=settings.el))
        outcome = run_trial(settings, replace(data, before=before), model, tokenizer())
        assert (outcome.status, outcome.epochs) == ("failed", 0)
        assert "scores are not finite" in outcome.reason
        told = asdict(outcome.after)
        assert [told[name] for name in ("ma", "el", "forget_loss", "bertscore_f1", "bleu", "entropy")] == [None] * 6
        assert len(outcome.samples) == 7 and not any(sample.forgotten for sample in outcome.samples)

    @pytest.mark.parametrize("el", ["always", "decision"])
    def test_an_el_that_cannot_be_measured_ends_no_trial_as_forgotten(self, el: str) -> None:
        outcome, _ = run(el=ElConfig(ngram=5), eval=EvalConfig(el=el), stop=StopConfig(ma=1.0, el=1.0), max_epochs=1)  # type: ignore[arg-type]
        assert outcome.status == "not_forgotten"
        assert "EL5 of 7 of 7 texts cannot be measured" in outcome.reason
        assert (outcome.after.el, outcome.after.el_unmeasured) == (None, 7)
        assert outcome.after.ma is not None
        assert all(sample.el_after is None and sample.ma_after is not None for sample in outcome.samples)

    def test_a_short_text_without_four_words_is_not_called_forgotten(self) -> None:
        model, data = case()
        targets = replace(data.targets, references=("word",) * 7)
        for ngram, judged in ((5, False), (2, True)):
            found = validate(model, tokenizer(), targets, Measure(FILTER, el=ElConfig(ngram=ngram)))
            assert np.isnan(found.bleu).tolist() == [not judged] * 7
            gone = forgotten(found.bertscore_f1, found.bleu, FilterConfig(bertscore=1.0))
            assert gone.tolist() == [judged] * 7

    def test_a_text_of_windows_is_judged_by_its_worst_one(self) -> None:
        model, data = case()
        measure = Measure(FILTER, el=ElConfig(ngram=2))
        texts = (0, 0, 1, 2, 2, 2, 3)
        windows = [[0, 1], [2], [3, 4, 5], [6]]
        apart = validate(model, tokenizer(), data.targets, measure, heldout=data.targets)
        rows = in_windows(data.targets, texts)
        whole = validate(model, tokenizer(), rows, measure, heldout=rows)
        assert apart.el is not None and whole.el is not None
        for name, worst in (("ma", max), ("el", max), ("bertscore_f1", max), ("bleu", max), ("forget_loss", min)):
            each = getattr(apart, name)
            assert getattr(whole, name).tolist() == [worst(each[rows].tolist()) for rows in windows], name
        assert whole.candidates == tuple(" […] ".join(apart.candidates[row] for row in rows) for rows in windows)
        assert whole.scores.ma == pytest.approx(whole.ma.mean())
        assert whole.heldout_ma is not None and whole.heldout_ma.tolist() == whole.ma.tolist()
        assert (whole.scores.heldout_texts, whole.scores.ppl_heldout) == (4, apart.scores.ppl_heldout)
        for rule in ("and", "or"):
            settings = FilterConfig(rule=rule, bertscore=float(np.median(apart.bertscore_f1)), bleu=0.3)
            gone = forgotten(apart.bertscore_f1, apart.bleu, settings)
            together = forgotten(whole.bertscore_f1, whole.bleu, settings)
            every = np.array([gone[rows].all() for rows in windows])
            # Where either score will do, all windows must do by the same one.
            assert (together == every if rule == "and" else together <= every).all()

    def test_the_mean_that_decides_on_el_is_that_of_texts(self) -> None:
        model, data = case()
        rows, asked = in_windows(data.targets, (0, 0, 1, 2, 2, 2, 3)), []

        def no(ma: float) -> bool:
            asked.append(ma)
            return False

        found = validate(model, tokenizer(), rows, Measure(FILTER, el=ElConfig(ngram=2)), el_decides=no)
        assert found.el is None and asked == [pytest.approx(found.ma.mean())]

    def test_the_windows_of_a_text_leave_training_together(self) -> None:
        texts, left = (0, 0, 1, 2, 2, 2, 3), np.array([True, False, False, True])
        whole = one_epoch(left, texts=texts)
        rows = one_epoch(left[list(texts)])
        assert whole["forwards"] == rows["forwards"] and whole["losses"] == rows["losses"]
        assert all(torch.equal(each, rows["parameters"][name]) for name, each in whole["parameters"].items())

    def test_a_trial_on_windows_tells_of_texts(self, tmp_path: Path) -> None:
        texts = (0, 0, 1, 2, 2, 2, 3)
        model, data = case(texts=texts)
        reports: list[EpochReport] = []

        def on_epoch(report: EpochReport) -> None:
            reports.append(report)
            if report.record.epoch == 1:
                report.save(tmp_path / "c")

        settings = trial_settings(max_epochs=3)
        outcome = run_trial(settings, data, model, tokenizer(), on_epoch=on_epoch)
        assert outcome.history[0].active == 4 and all(record.active <= 4 for record in outcome.history)
        assert [len(report.said) for report in reports] == [4] * len(outcome.history)
        told = [(sample.id, sample.windows) for sample in outcome.samples]
        assert told == [("t0", 2), ("t1", 1), ("t2", 3), ("t3", 1)]
        assert data.pairs is not None
        assert [sample.pair_id for sample in outcome.samples] == [data.pairs.ids[row] for row in (0, 2, 3, 6)]
        first = outcome.samples[0]
        assert first.reference == " […] ".join(data.targets.references[:2]) and first.prompt.count("[…]") == 1
        assert outcome.after.ma == pytest.approx(np.mean([sample.ma_after for sample in outcome.samples]))
        assert outcome.after.ma is not None and outcome.before.ma is not None and outcome.after.ma < outcome.before.ma
        model, data = case(texts=texts)
        again = run_trial(settings, data, model, tokenizer(), resume_from=tmp_path / "c")
        assert again.after == outcome.after and again.samples == outcome.samples

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

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_a_stage_is_saved_as_its_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Early Python 3.11 writes a call of getattr in its place, which is not loaded."""
        from deepspeed.runtime.zero.config import ZeroStageEnum

        from icu_ray.training.checkpoint_files import pickle_stages_by_value

        def early(stage: ZeroStageEnum, protocol: int) -> object:
            return getattr, (ZeroStageEnum, stage.name)

        monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", early)
        assert b"getattr" in pickle.dumps(ZeroStageEnum.gradients, protocol=2)
        pickle_stages_by_value()
        data = pickle.dumps(ZeroStageEnum.gradients, protocol=2)
        assert b"getattr" not in data and pickle.loads(data) is ZeroStageEnum.gradients

    def test_a_checkpoint_that_would_run_code_is_not_loaded(self, mark: Path, tmp_path: Path) -> None:
        """Each file that DeepSpeed would unpickle, replaced by a pickle and by one of torch's archives with code."""
        whole = tmp_path / "whole"
        run(save_at={1: whole}, max_epochs=2, zero_stage=2)
        resumed, _ = run(resume=whole, max_epochs=2, zero_stage=2)
        assert resumed.epochs == 2
        files = sorted(path.relative_to(whole) for path in whole.rglob("*.pt"))
        assert len(files) == 2  # model and optimizer
        for number, file in enumerate(files * 2):
            folder = Path(shutil.copytree(whole, tmp_path / f"bad-{number}"))
            if number < len(files):
                (folder / file).write_bytes(pickle.dumps(Payload(mark)))
            else:
                content = torch.load(whole / file, weights_only=False)
                torch.save({**content, "extra": Payload(mark)}, folder / file)
            with pytest.raises(DamagedCheckpoint, match="changed since it was written"):
                run(resume=folder, max_epochs=2, zero_stage=2)
            # Whoever can write the one file can write the manifest too.
            names = json.loads((folder / "manifest.json").read_text())
            contents = {name: (folder / name).read_bytes() for name in names}
            sums = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in contents.items()}
            (folder / "manifest.json").write_text(json.dumps(sums))
            read_state(folder)
            with pytest.raises(UserError, match="holds more than tensors"):
                run(resume=folder, max_epochs=2, zero_stage=2)

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


@pytest.mark.parametrize("lr", ["5e-06", "0.001"])
def test_adam_through_the_engine_follows_the_authors(shared: Path, lr: str) -> None:
    from transformers import AutoModelForCausalLM

    from icu_ray import methods
    from icu_ray.config import Columns, LossConfig
    from icu_ray.data.examples import TokenRows
    from icu_ray.methods.base import Batch
    from icu_ray.methods.module import UnlearningModule
    from icu_ray.methods.weights import batch_weights
    from icu_ray.models.reference import build_reference
    from icu_ray.training.engine import Engine
    from icu_ray.training.engine_settings import EngineSettings

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
    assert set(outcome.seconds) == {"engine", "train", "validate", "checkpoint"}
