"""What models do on texts that nobody asked to forget, before and after unlearning, in one sentence.

heldout_said(block)     # "125m on 16 held-out texts: mean MA 12.0 % before and 9.1 to 12.5 % after, ..."
"""

from __future__ import annotations

from collections.abc import Iterable

from icu_ray.report.numbers.rows import Block
from icu_ray.storage.results import TrialResult
from icu_ray.storage.verdict_parts import HeldOut, heldout_of, sets_said


def heldout_said(block: Block) -> str | None:
    """Means of MA and EL, from the lowest trial's to the highest's, and which thresholds came from these texts.

    None where nothing was measured on any held-out text, not even perplexity: there are none.
    """
    results = [
        trial.measured for row in block.rows if not row.gold for trial in row.trials if trial.measured is not None
    ]
    scores = [side for result in results for side in (result.before, result.after) if side is not None]
    if all(side.ppl_heldout is None and side.heldout_texts is None for side in scores):
        return None
    found = [each for each in map(_measured, results) if each is not None]
    told = [("MA", [(each.ma_before, each.ma_after) for each in found])]
    for ngram in sorted({each.ngram for each in found}):
        told.append((f"EL{ngram}", [(each.el_before, each.el_after) for each in found if each.ngram == ngram]))
    said = [
        f"mean {name} {_range(b for b, _ in sides)} before and {_range(a for _, a in sides)} after"
        for name, sides in told
    ]
    if not found or all(value is None for _, sides in told for pair in sides for value in pair):
        return f"{block.model} on held-out texts: MA and EL were not measured."
    texts = sorted({each.texts for each in found if each.texts})
    count = "" if not texts else f"{texts[0]} " if len(texts) == 1 else f"{texts[0]} to {texts[-1]} "
    several = "text" if texts == [1] else "texts"
    some = [each for each in found if each.sets]
    sets = sets_said(tuple(dict.fromkeys(name for each in some for name in each.sets)))
    only = f", in {len(some)} of {len(found)} trials" if 0 < len(some) < len(found) else ""
    return f"{block.model} on {count}held-out {several}: {', '.join(said)}; {sets}{only}."


def _measured(result: TrialResult) -> HeldOut | None:
    if result.before is None or result.after is None:
        return None
    return heldout_of(result.before, result.after, result.thresholds)


def _range(values: Iterable[float | None]) -> str:
    known = sorted(f"{100 * value:.1f}" for value in values if value is not None)
    if not known:
        return "not measured"
    ends = dict.fromkeys((min(known, key=float), max(known, key=float)))
    return f"{' to '.join(ends)} %"
