"""One measurement of a model on its forget sample: probe, candidates, BERTScore, BLEU, entropy, held-out texts.

Every rank measures its share of the targets; afterwards every rank has the whole result. The measurement of the
original model ('before') is the same for all trials of a forget sample and is kept by `Validation.save`.

    validation = validate(model, tokenizer, targets, Measure(filter, generate, el, eval), heldout=heldout_rows)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.config import ElConfig, EvalConfig, FilterConfig, GenerateConfig
from icu_ray.console.progress import told
from icu_ray.data.examples import TokenRows
from icu_ray.metrics.bertscore import bertscore
from icu_ray.metrics.generation import decode_candidates, generate_candidates
from icu_ray.metrics.overlap import bleu, has_four_words, token_entropy, variety
from icu_ray.metrics.perplexity import perplexity_of, total_nll
from icu_ray.metrics.probe import ProbeResult, mean_of_measured, probe
from icu_ray.storage.el_names import by_field, of_ngram, plain
from icu_ray.storage.results import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]
Heldout = Literal["perplexity", "whole"]
"""What is measured on held-out rows: perplexity alone, or MA, EL and loss of each and what the model says too."""


@dataclass(frozen=True)
class Validation:
    """Means (`scores`) and what they are means of, each (N,) float64; el is None where it was not decoded.

    N texts: of one in several windows (rows.long=windows) each measure is that of the window that looks worst, and what
    the model says is what it says in all of them.
    """

    scores: Scores
    ma: Floats
    el: Floats | None
    forget_loss: Floats
    bertscore_f1: Floats
    bleu: Floats
    candidates: tuple[str, ...]
    heldout_ma: Floats | None = None
    heldout_el: Floats | None = None
    """Of each held-out text, where these were measured whole."""

    def save(self, folder: Path) -> None:
        """validation.json; numbers that are not finite are kept as null."""
        arrays = {
            name: None if value is None else [_finite(x) for x in value.tolist()]
            for name in ("ma", "el", "forget_loss", "bertscore_f1", "bleu", "heldout_ma", "heldout_el")
            for value in [getattr(self, name)]
        }
        content = {"scores": plain(self.scores), **arrays, "candidates": list(self.candidates)}
        (folder / "validation.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(folder: Path, ngram: int | None = None) -> Validation:
        """What `save` wrote. ngram: n of EL, for files of earlier versions."""
        raw = json.loads((folder / "validation.json").read_text(encoding="utf-8"))

        def array(name: str) -> Floats:
            return np.asarray([math.nan if x is None else x for x in raw[name]], dtype=np.float64)

        def known(name: str) -> Floats | None:
            return None if raw.get(name) is None else array(name)

        return Validation(
            of_ngram(Scores(**by_field(raw["scores"])), ngram),
            array("ma"),
            known("el"),
            array("forget_loss"),
            array("bertscore_f1"),
            array("bleu"),
            tuple(raw["candidates"]),
            known("heldout_ma"),
            known("heldout_el"),
        )


@dataclass(frozen=True)
class Measure:
    """How to measure: the sections of the config that define it."""

    filter: FilterConfig = FilterConfig()
    generate: GenerateConfig = GenerateConfig()
    el: ElConfig = ElConfig()
    eval: EvalConfig = EvalConfig()


def validate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    targets: TokenRows,
    measure: Measure,
    *,
    heldout: TokenRows | None = None,
    heldout_measure: Heldout = "whole",
    rank: int = 0,
    world_size: int = 1,
    el_decides: Callable[[float], bool] | None = None,
) -> Validation:
    """Measure `model` on `targets`, and on `heldout` when given.

    el_decides: asked with the mean MA of the targets; where it says no, EL is left out (decision-only mode).
    """
    rows = targets.share(rank, world_size)
    share = _measure_share(model, tokenizer, rows, measure, el_decides, world_size)
    shares = gathered(share, world_size)

    def joined(name: str) -> Floats:
        return np.concatenate([part[name] for part in shares])

    el = joined("el") if all(part["el"] is not None for part in shares) else None
    f1, overlap, broken = joined("f1"), joined("bleu"), np.concatenate([part["broken"] for part in shares])

    def mean(values: Floats) -> float | None:
        return _finite(mean_of_measured(values, broken))

    scores = Scores(
        ma=mean(joined("ma")),
        el=None if el is None else mean(el),
        forget_loss=mean(joined("forget_loss")),
        bertscore_f1=mean(f1),
        bleu=mean(overlap),
        entropy=mean(joined("entropy")),
        distinct=mean(joined("distinct")),
        el_unmeasured=sum(part["short"] for part in shares),
        ngram=measure.el.ngram,
    )
    candidates = tuple(text for part in shares for text in part["candidates"])
    validation = Validation(scores, joined("ma"), el, joined("forget_loss"), f1, overlap, candidates)
    if heldout is None:
        return validation
    return with_heldout(validation, model, heldout, measure, rank, world_size, heldout_measure)


def with_heldout(
    validation: Validation,
    model: PreTrainedModel,
    heldout: TokenRows,
    measure: Measure,
    rank: int = 0,
    world_size: int = 1,
    what: Heldout = "whole",
) -> Validation:
    """The same with what the model does on held-out rows filled in; every rank measures its share of them."""
    rows = heldout.share(rank, world_size)
    if validation.scores.ppl_heldout is None:
        shares = gathered(total_nll(model, rows), world_size)
        perplexity = perplexity_of(sum(nll for nll, _ in shares), sum(count for _, count in shares))
        validation = replace(validation, scores=replace(validation.scores, ppl_heldout=_finite(perplexity)))
    if what == "perplexity":
        return validation
    probed = _probe(model, rows, measure).of_texts(rows)
    varied = rows.by_text(variety(_generate(model, rows, measure), rows.eos_id), np.minimum)
    said = np.where(np.isnan(probed.ma), np.nan, varied)
    parts = gathered((probed.ma, probed.el, probed.forget_loss, said, probed.broken), world_size)
    ma, el, loss, distinct, broken = (np.concatenate([part[place] for part in parts]) for place in range(5))

    def mean(values: Floats) -> float | None:
        return _finite(mean_of_measured(values, broken))

    scores = replace(
        validation.scores,
        ma_heldout=mean(ma),
        el_heldout=mean(el),
        loss_heldout=mean(loss),
        distinct_heldout=mean(distinct),
        ma_heldout_spread=_spread(ma, broken),
        el_heldout_spread=_spread(el, broken),
        heldout_texts=len(heldout.first_rows),
    )
    return replace(validation, scores=scores, heldout_ma=ma, heldout_el=el)


def _spread(values: Floats, broken: NDArray[np.bool_]) -> float | None:
    """Standard deviation between the texts that were measured; of one text there is none."""
    measured = values[~np.isnan(values)]
    return None if broken.any() or len(measured) < 2 else float(measured.std(ddof=1))


def _probe(
    model: PreTrainedModel,
    rows: TokenRows,
    measure: Measure,
    should_decode: Callable[[Floats], bool] | None = None,
) -> ProbeResult:
    return probe(
        model,
        rows,
        el_start=measure.el.start,
        ngram=measure.el.ngram,
        denominator=measure.el.denominator,
        batch_cut=measure.el.batch_cut,
        use_mask=measure.generate.mask,
        span=measure.eval.span,
        chunk=measure.eval.chunk,
        should_decode=should_decode,
    )


def _generate(model: PreTrainedModel, rows: TokenRows, measure: Measure) -> list[NDArray[np.int64]]:
    """What the model says after each row's prompt, as ids: as many tokens as the row's own suffix or completion has."""
    answers = rows.columns.length - rows.suffix_starts
    # Each row's own answer, moved to the left; what stands behind it is not read.
    columns = rows.suffix_starts[:, None] + np.arange(answers.max(initial=0))
    guesses = np.take_along_axis(rows.input_ids, np.minimum(columns, rows.columns.length - 1), axis=1)
    found = generate_candidates(
        model,
        rows.prompt_ids,
        rows.prompt_mask,
        max_new_tokens=answers,
        pad_id=rows.pad_id,
        eos_id=rows.eos_id,
        beams=measure.filter.beams,
        use_mask=measure.generate.mask,
        batch_size=measure.filter.batch_size,
        guesses=guesses,
    )
    return [ids[:count] for ids, count in zip(found, answers, strict=True)]


def _measure_share(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenRows,
    measure: Measure,
    el_decides: Callable[[float], bool] | None,
    world_size: int,
) -> dict[str, Any]:
    def should_decode(of_rows: Floats) -> bool:
        assert el_decides is not None
        ma = rows.by_text(of_rows)
        sums = gathered((float(np.nansum(ma)), int((~np.isnan(ma)).sum())), world_size)
        count = sum(measured for _, measured in sums)
        return el_decides(sum(total for total, _ in sums) / count if count else math.nan)

    filter_settings = measure.filter
    probed = _probe(model, rows, measure, None if el_decides is None else should_decode)
    generated = _generate(model, rows, measure)
    texts = decode_candidates(tokenizer, generated, filter_settings.strip_special)
    told("BERTScore")
    _, _, f1 = bertscore(
        texts,
        rows.references,
        encoder=filter_settings.encoder,
        layer=filter_settings.encoder_layer,
        device=model.device,
    )
    overlap = bleu(texts, rows.references, filter_settings.bleu_tokenizer)
    # A long text without four words, such as a key, has BLEU 0 as in the authors' code; a short one is not judged.
    overlap[probed.short & ~has_four_words(rows.references, filter_settings.bleu_tokenizer)] = np.nan
    probed = probed.of_texts(rows)
    said = {
        "f1": rows.by_text(f1),
        "bleu": rows.by_text(overlap),
        "entropy": rows.by_text(token_entropy(generated), np.minimum),
        "distinct": rows.by_text(variety(generated, rows.eos_id), np.minimum),
    }
    # Where the model predicts nothing that can be counted, what it says is no evidence of forgetting either.
    said = {name: np.where(np.isnan(probed.ma), np.nan, values) for name, values in said.items()}
    return {
        "ma": probed.ma,
        "el": probed.el,
        "forget_loss": probed.forget_loss,
        "short": int(probed.short.sum()),
        "broken": probed.broken,
        **said,
        "candidates": rows.joined(texts),
    }


def gathered(value: Any, world_size: int) -> list[Any]:
    """Every rank's value, in rank order."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
