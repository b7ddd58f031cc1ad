"""What goes into a trial's epochs and what comes out of them: plain values.

data = TrialData(targets, pairs, heldout)       # given to `run_trial`
samples = sample_records(tokenizer, data, before, after, settings.filter)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import FilterConfig
from icu_ray.data.examples import TokenRows
from icu_ray.data.pair_draws import PairDraws
from icu_ray.data.second_answers import AnswerDraws
from icu_ray.storage.results import EpochRecord, SampleRecord, Scores, Status
from icu_ray.storage.thresholds import Thresholds
from icu_ray.training.batches import EpochRows, over_pool, over_targets
from icu_ray.training.refinement import Decision, Flags, forgotten
from icu_ray.training.validation import Floats, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icu_ray.models.reference import Reference


@dataclass(frozen=True)
class TrialData:
    """Rows of one forget sample in the model's vocabulary; pairs[i] belongs to targets[i], unless pairs are drawn.

    Of a target in several windows each has a row of its own, and so has its pair; everything else is one a target.
    """

    targets: TokenRows
    pairs: TokenRows | None = None
    heldout: TokenRows | None = None
    reference: Reference | None = None
    before: Validation | None = None
    """The original model's measurement, where it was made beforehand."""
    retrained: Validation | None = None
    """The measurement of the gold standard, for the trial that it is."""
    pair_overlap: tuple[float, ...] | None = None
    """Share of each target's 10-grams that its pair holds too, for the record."""
    draws: PairDraws | None = None
    """Of pairs drawn at random, which of `pairs` stands beside which target; these are then rows of the pool, each
    once, whatever windows a target has."""

    alternates: TokenRows | None = None
    """Second answers to the targets' prompts, for methods that read them."""
    answers: AnswerDraws | None = None
    """Which of `alternates` stands beside which target's text."""

    def answers_beside(self, seed: int, epoch: int) -> NDArray[np.int64] | None:
        """(N,) the row of `alternates` that belongs to each row of `targets` in an epoch; None without any."""
        return None if self.answers is None else self.answers.places(seed, epoch)[self.targets.text_of_row]

    def beside(self, seed: int, epoch: int) -> NDArray[np.int64] | None:
        """(N,) the row of `pairs` that stands beside each row of `targets` in an epoch; None without pairs."""
        if self.pairs is None:
            return None
        if self.draws is None:
            return np.arange(len(self.targets))
        return self.draws.places(seed, epoch)[self.targets.text_of_row]

    @property
    def over_pool(self) -> bool:
        """Whether an epoch runs over the pool (train.anchor=retain)."""
        return self.pairs is not None and self.draws is not None and self.draws.whole

    def epoch_rows(self, seed: int, epoch: int, active: Flags) -> EpochRows:
        """What an epoch runs over. active: of each row of `targets`."""
        if self.pairs is not None and self.over_pool:
            return over_pool(active, len(self.pairs), seed=seed, epoch=epoch)
        return over_targets(active, self.beside(seed, epoch))

    def pair_ids(self, seed: int) -> tuple[str | None, ...]:
        """The pair of each row of `targets`; None without pairs, and where they are another in each epoch."""
        rows = None if self.draws is not None and self.draws.epochs else self.beside(seed, 0)
        if rows is None or self.pairs is None:
            return (None,) * len(self.targets)
        return tuple(self.pairs.ids[row] for row in rows)


@dataclass(frozen=True)
class EpochReport:
    """What the caller is told after an epoch.

    said: what the model said after each target's prompt, in the targets' order. best: the epoch whose model would be
    left if the trial ended here, None where that is the last one's. save(folder) writes a checkpoint and
    save_weights(file) the model's weights, on rank 0. Inside as_left() the model that the trial was given is whole, and
    what would be left if it ended here. Every rank must call these or none.
    """

    record: EpochRecord
    history: tuple[EpochRecord, ...]
    decision: Decision
    said: tuple[str, ...]
    best: int | None = None
    save: Callable[[Path], None] = lambda folder: None
    save_weights: Callable[[Path], None] = lambda file: None
    as_left: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def leaves_this_model(self) -> bool:
        """Whether the trial ends here, and this epoch's model is what it leaves."""
        other = self.best not in (None, self.record.epoch) and self.decision.status != "failed"
        return self.decision.stop and not other


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended; the model given to `run_trial` now holds the unlearned weights.

    seconds: train and validate, of all epochs; engine (made, and loaded where the trial was continued) and checkpoint
    (what on_epoch took), of this attempt.
    """

    status: Status
    reason: str
    epochs: int
    before: Scores
    after: Scores
    history: tuple[EpochRecord, ...]
    samples: tuple[SampleRecord, ...]
    seconds: dict[str, float]
    thresholds: Thresholds | None = None
    """None where there are no held-out texts to make them from."""
    kept_epoch: int | None = None
    """The epoch whose weights the model holds, where they are not the last one's (stop.keep=best)."""


def with_heldout_above(thresholds: Thresholds, before: Validation) -> Thresholds | None:
    """The same with the number of held-out texts that lie above before anything is unlearned; None without numbers."""
    if not thresholds.known:
        return None
    if before.heldout_ma is None or before.heldout_el is None:
        return thresholds
    pairs = zip(before.heldout_ma.tolist(), before.heldout_el.tolist(), strict=True)
    return replace(thresholds, heldout_above=sum(not thresholds.below(ma, el) for ma, el in pairs))


def _known(values: Floats | None, row: int) -> float | None:
    return None if values is None or np.isnan(values[row]) else float(values[row])


def sample_records(
    tokenizer: PreTrainedTokenizerBase,
    data: TrialData,
    before: Validation,
    after: Validation,
    settings: FilterConfig,
    seed: int = 0,
) -> tuple[SampleRecord, ...]:
    """Each target's generations and scores before and after, and whether the filter calls it forgotten.

    seed: the trial's, which tells which pairs were drawn.
    """
    targets, pair_ids = data.targets, data.pair_ids(seed)
    gone = forgotten(after.bertscore_f1, after.bleu, settings)
    prompts = targets.joined(
        tokenizer.batch_decode([targets.prompt_ids[i][targets.prompt_mask[i]].tolist() for i in range(len(targets))])
    )
    references, windows = targets.joined(targets.references), targets.windows
    return tuple(
        SampleRecord(
            id=targets.ids[row],
            prompt=prompts[i],
            reference=references[i],
            before=before.candidates[i],
            after=after.candidates[i],
            ma_before=_known(before.ma, i),
            ma_after=_known(after.ma, i),
            bertscore_after=_known(after.bertscore_f1, i),
            bleu_after=_known(after.bleu, i),
            forgotten=bool(gone[i]),
            el_before=_known(before.el, i),
            el_after=_known(after.el, i),
            ngram=after.scores.ngram,
            bertscore_before=_known(before.bertscore_f1, i),
            bleu_before=_known(before.bleu, i),
            pair_id=pair_ids[row],
            pair_overlap=None if data.pair_overlap is None else data.pair_overlap[i],
            cut_tokens=None if targets.cut_tokens is None else targets.cut_tokens[row],
            loss_before=_known(before.forget_loss, i),
            loss_after=_known(after.forget_loss, i),
            windows=int(windows[i]),
        )
        for i, row in enumerate(targets.first_rows)
    )
