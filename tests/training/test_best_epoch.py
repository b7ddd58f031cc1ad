"""stop.keep=best: which epoch's model is left, and that it is that epoch's to the last bit.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import EvalConfig, StopConfig
from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.training.best_epoch import best_epoch
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from tests.support import training_case

LIMITS = Thresholds(Limit(0.5), Limit(0.1), max_ppl_ratio=1.5)


def history(*epochs: tuple[float | None, float | None, float | None]) -> tuple[EpochRecord, ...]:
    """MA, EL and held-out perplexity of each epoch; before the first they are 0.9, 0.8 and 10."""
    rows = ((0.9, 0.8, 10.0), *epochs)
    scores = [Scores(ma, el, 1.0, 0.5, 0.5, 1.0, ppl_heldout=ppl) for ma, el, ppl in rows]
    return tuple(EpochRecord(epoch, 1, each) for epoch, each in enumerate(scores))


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([(0.8, 0.3, 11), (0.4, 0.05, 14)], 2),  # forgotten within the limit
        ([(0.8, 0.3, 11), (0.6, 0.2, 14), (0.4, 0.05, 16)], 2),  # forgotten past it: the nearest within it
        ([(0.6, 0.2, 11), (0.7, 0.2, 11), (0.6, 0.3, 11)], 1),  # never forgotten: the nearest
        ([(0.6, 0.05, 13), (0.6, 0.05, 12)], 2),  # equally near: the cheaper
        ([(0.6, 0.05, 12), (0.6, 0.05, 12)], 2),  # equal: the later
        ([(0.4, 0.05, 12), (0.5, 0.05, 11)], 1),  # on a threshold is not below it
        ([(0.6, 0.05, 16), (0.7, 0.05, 17)], 2),  # none within the limit: the last
        ([(0.6, 0.05, 12), (0.4, 0.05, None)], 1),  # a perplexity beyond all numbers keeps no limit
        ([(0.6, None, 12), (0.61, 0.05, 12)], 2),  # EL that was left out counts as before unlearning
    ],
)
def test_the_best_epoch(epochs: list[tuple[float | None, float | None, float | None]], best: int) -> None:
    assert best_epoch(history(*epochs), LIMITS) == best


values = st.floats(0, 1)


@given(st.lists(st.tuples(values, values, st.floats(5, 30)), min_size=1, max_size=6), st.sampled_from(["and", "or"]))
def test_no_epoch_is_better_than_the_best(epochs: list[tuple[float, float, float]], rule: str) -> None:
    limits = replace(LIMITS, rule="and" if rule == "and" else "or")
    best = best_epoch(history(*epochs), limits)
    ma, el, ppl = epochs[best - 1]
    for other_ma, other_el, other_ppl in epochs:
        if other_ppl > 15:
            continue
        assert ppl <= 15
        if limits.below(other_ma, other_el):
            assert limits.below(ma, el) and ppl <= other_ppl
        assert not (other_ma < ma and other_el < el and other_ppl < ppl and not limits.below(ma, el))


def trial(folder: Path, *, gone: bool = False, resume: Path | None = None, **stop: object) -> TrialOutcome:
    """A trial whose epochs' weights lie in `folder`; resume: a checkpoint of it."""
    model, data = training_case.case()
    settings = training_case.trial_settings(
        eval=EvalConfig(heldout="epochs"),
        max_epochs=5,
        lr=1e-2,
        beta=0.0,
        stop=StopConfig(ma=0.2, el=0.05, on_empty=False).model_copy(update=stop),
    )

    def on_epoch(report: EpochReport) -> None:
        if not report.decision.stop and report.record.epoch > 0:
            report.save(folder / f"checkpoint-{report.record.epoch}")
            if report.best == report.record.epoch:
                report.save_weights(folder / f"{report.best}.safetensors")
            torch.save(model.state_dict(), folder / f"{report.record.epoch}.pt")

    folder.mkdir(exist_ok=True)
    outcome = run_trial(
        settings,
        data,
        model,
        training_case.tokenizer(),
        resume_from=resume,
        on_epoch=on_epoch,
        best_weights=lambda epoch: nullcontext(None if gone else folder / f"{epoch}.safetensors"),
    )
    torch.save(model.state_dict(), folder / "left.pt")
    return outcome


def left(folder: Path, name: str = "left") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"{name}.pt", weights_only=True)
    return found


def test_the_model_that_is_left_is_the_best_epoch_s(tmp_path: Path) -> None:
    last = trial(tmp_path / "last")
    assert last.status == "finished" and last.epochs > 1 and last.kept_epoch is None
    ppl = [record.scores.ppl_heldout or 0.0 for record in last.history]
    # The last epoch is past this limit, and the one before it keeps it.
    before, limit = last.epochs - 1, 1.001 * ppl[-2] / ppl[0]
    assert ppl[-1] > limit * ppl[0]
    best = trial(tmp_path / "best", keep="best", max_ppl_ratio=limit)
    assert (best.status, best.epochs, best.kept_epoch) == ("not_forgotten", last.epochs, before)
    assert (
        best.after.ma == best.history[before].scores.ma
        and best.after.ppl_heldout == best.history[before].scores.ppl_heldout
    )
    assert best.reason.startswith(f"epoch {before} is kept as the best, with MA ")
    assert best.reason.endswith(f"but held-out perplexity was more than {limit:g} times what it was")
    for name, weight in left(tmp_path / "last", str(before)).items():
        assert torch.equal(left(tmp_path / "best")[name], weight), name
    word = "transformer.wte.weight"
    assert not torch.equal(left(tmp_path / "best")[word], left(tmp_path / "last")[word])
    # An interrupted trial, continued after the best epoch, leaves the same.
    checkpoint = tmp_path / "best" / f"checkpoint-{before}"
    again = trial(tmp_path / "best", keep="best", max_ppl_ratio=limit, resume=checkpoint)
    assert (again.kept_epoch, again.after.ma, again.reason) == (before, best.after.ma, best.reason)
    assert torch.equal(left(tmp_path / "best")[word], left(tmp_path / "last", str(before))[word])

    gone = trial(tmp_path / "gone", keep="best", max_ppl_ratio=limit, gone=True)
    assert gone.kept_epoch is None and gone.after.ma == last.after.ma
    assert gone.reason.endswith(f"epoch {before} was the best, but its weights are gone, so the last epoch's are kept")

    easy = trial(tmp_path / "easy", keep="best", max_ppl_ratio=1e6)
    assert (easy.status, easy.kept_epoch, easy.after.ma) == ("finished", None, last.after.ma)


def test_best_needs_the_perplexity_of_every_epoch() -> None:
    tree = {
        "name": "x",
        "models": [{"name": "m", "standin": {}}],
        "methods": [{"name": "icu"}],
        "data": {"source": "synthetic"},
    }
    with pytest.raises(UserError, match=r"stop\.keep=best compares what the epochs cost: set eval\.heldout"):
        resolve_config({**tree, "stop": {"keep": "best"}}, "test")
    assert resolve_config({**tree, "stop": {"keep": "best"}, "eval": {"heldout": "epochs"}}, "test").stop.keep == "best"
