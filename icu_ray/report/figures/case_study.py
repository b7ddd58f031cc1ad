"""Single targets: the prompt, the reference, and what the model says before and after, with leaked words marked.

    cases = choose_cases(block); words = marked_words(case.after[0].text, case.reference, case.prompt)

A word counts as leaked when it stands in a run of three or more words that the reference has too, or when it is a name
or a number of the reference that the prompt does not give away. As in Figures 4 and 5 of the paper, the reader sees
what is left; how much is left in all is said by EL and MA.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.report.figures.theme import Theme
from icu_ray.report.numbers.comparison import reference_row
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.storage.results import SampleRecord
from icu_ray.storage.trial_files import read_generations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN = 3
"""Consecutive words shared with the reference that count as a leak."""
_ROWS_SHOWN = 8
_EPOCHS_SHOWN = 10
_PUNCTUATION = ".,;:!?\"'()[]{}<>«»“”‘’…*_"


@dataclass(frozen=True)
class Said:
    """One text of a case: who said it, the text, and the target's MA after (fraction), where measured."""

    who: str
    text: str
    ma: float | None
    forgotten: bool | None


@dataclass(frozen=True)
class Case:
    """One target of one model. chosen: why this one."""

    model: str
    sample: int
    target: str
    chosen: str
    prompt: str
    reference: str
    said: tuple[Said, ...]


def _plain(word: str) -> str:
    return word.strip(_PUNCTUATION).casefold()


def marked_words(text: str, reference: str, prompt: str) -> list[tuple[str, bool]]:
    """The words of `text` in order, each with whether it is leaked from the reference."""
    words = text.split()
    plain, known = [_plain(word) for word in words], [_plain(word) for word in reference.split()]
    runs = {tuple(known[start : start + RUN]) for start in range(len(known) - RUN + 1)}
    leaked = [False] * len(words)
    for start in range(len(words) - RUN + 1):
        if tuple(plain[start : start + RUN]) in runs:
            leaked[start : start + RUN] = [True] * RUN
    given = {_plain(word) for word in prompt.split()}
    secrets = {_plain(word) for word in reference.split() if _telling(word)} - given - {""}
    return [(word, hit or (p in secrets and _telling(word))) for word, hit, p in zip(words, leaked, plain, strict=True)]


def _telling(word: str) -> bool:
    """A name (capital inside or first, or a handle) or something with a digit."""
    bare = word.strip(_PUNCTUATION)
    return any(c.isdigit() or c in "@#" for c in bare) or any(c.isupper() for c in bare)


def choose_cases(block: Block) -> tuple[Case, ...]:
    """The typical target (median MA after, over methods) and the best remembered one, of the sample most rows have.

    Chosen by numbers, not by taste; only targets that every method with texts has. Where there are many rows each
    label speaks once, with the cell that tests refer to or its first.
    """
    reference = reference_row(block.methods)
    shown: dict[str, Row] = {}
    for row in block.methods:
        key = row.name if len(block.methods) <= _ROWS_SHOWN else row.label
        if key not in shown or row is reference:
            shown[key] = row
    spoken = {row.name: _records(row) for row in shown.values()}
    spoken = {name: records for name, records in spoken.items() if records}
    if not spoken:
        return ()
    samples = [sample for records in spoken.values() for sample in {key[0] for key in records}]
    sample = max(sorted(set(samples)), key=samples.count)
    spoken = {name: records for name, records in spoken.items() if any(key[0] == sample for key in records)}
    shared = set.intersection(*(set(records) for records in spoken.values()))
    ranked = sorted((key for key in shared if key[0] == sample), key=lambda key: (_remembered(spoken, key), key[1]))
    if not ranked:
        return ()
    picks = {ranked[(len(ranked) - 1) // 2]: "typical: median MA after unlearning, over methods"}
    picks.setdefault(ranked[-1], "worst: highest MA after unlearning, over methods")
    return tuple(_case(block, key, why, spoken) for key, why in picks.items())


def epoch_case(block: Block) -> Case | None:
    """What the prompt of the typical target yields epoch by epoch under the reference row's method (Figure 5)."""
    cases, reference = choose_cases(block), reference_row(block.methods)
    if not cases or reference is None:
        return None
    case = cases[0]
    trial = next((t for t in reference.trials if t.sample == case.sample and t.measured is not None), None)
    if trial is None:
        return None
    said: list[Said] = []
    try:
        generations = read_generations(trial.paths)
    except UserError:  # damaged: a picture less
        return None
    for kept in generations:
        text = kept.said.get(case.target)
        if text is not None and (not said or text != said[-1].text):
            said.append(Said(f"epoch {kept.epoch}" if kept.epoch else "before", text, None, None))
    if len(said) < 2:
        return None
    while len(said) > _EPOCHS_SHOWN:  # the changes matter most at the ends; every second one of the middle goes
        said = [said[0], *said[1:-1][1::2], said[-1]]
    return replace(case, chosen=f"epoch by epoch, {reference.name}", said=tuple(said))


def _records(row: Row) -> dict[tuple[int, str], SampleRecord]:
    found: dict[tuple[int, str], SampleRecord] = {}
    for trial in row.trials:
        if trial.measured is not None:
            for record in trial.samples:
                found.setdefault((trial.sample, record.id), record)
    return found


def _remembered(spoken: dict[str, dict[tuple[int, str], SampleRecord]], key: tuple[int, str]) -> float:
    values = [value for records in spoken.values() if (value := records[key].ma_after) is not None]
    return statistics.fmean(values) if values else 0.0


def _case(block: Block, key: tuple[int, str], why: str, spoken: dict[str, dict[tuple[int, str], SampleRecord]]) -> Case:
    first = next(iter(spoken.values()))[key]
    said = [Said("before", first.before, first.ma_before, None)]
    said += [Said(name, r[key].after, r[key].ma_after, r[key].forgotten) for name, r in spoken.items()]
    return Case(block.model, key[0], key[1], why, first.prompt, first.reference, tuple(said))


_LABEL, _TEXT = 22, 84
"""Characters of the two columns of a picture."""
_POINTS = 8
_CHARACTER, _LINE = 0.602 * _POINTS / 72, 1.45 * _POINTS / 72
"""Inches a character and a line of DejaVu Sans Mono."""


def draw_case(case: Case, theme: Theme) -> Figure:
    """A case as a picture: two columns of fixed-width text; leaked words bold on a tinted ground."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    entries: list[tuple[str, list[tuple[str, bool]]]] = [
        ("prompt", [(word, False) for word in case.prompt.split()]),
        ("reference", [(word, False) for word in case.reference.split()]),
    ]
    entries += [(said.who, marked_words(said.text, case.reference, case.prompt)) for said in case.said]
    wrapped = [(label, wrap(words or [("(nothing)", False)], _TEXT)) for label, words in entries]
    labels = {label: textwrap.wrap(label, _LABEL - 2) for label, _ in wrapped}
    lines = sum(max(len(text), len(labels[label])) for label, text in wrapped) + 0.6 * len(wrapped) + 1.2
    figure = Figure(figsize=((_LABEL + _TEXT + 3) * _CHARACTER, lines * _LINE))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, _LABEL + _TEXT + 3)
    axis.set_ylim(lines, 0)
    axis.axis("off")
    font: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": _POINTS, "va": "center"}
    top = 1.0
    for label, text in wrapped:
        for offset, part in enumerate(labels[label]):
            axis.text(1, top + offset, part, fontweight="bold", **font)
        bottom = top + max(len(text), len(labels[label]))
        for line in text:
            for place, word, leaked in line:
                left = _LABEL + place
                if leaked:
                    axis.add_patch(
                        Rectangle((left - 0.2, top - 0.48), len(word) + 0.4, 0.96, color=theme.leaked, linewidth=0)
                    )
                axis.text(left, top, word, fontweight="bold" if leaked else "normal", **font)
            top += 1
        top = bottom
        axis.plot((1, _LABEL + _TEXT + 2), (top - 0.2, top - 0.2), color=theme.faint, linewidth=0.6)
        top += 0.6
    return figure


def wrap(words: Sequence[tuple[str, bool]], width: int) -> list[list[tuple[int, str, bool]]]:
    """Lines of (column, word, leaked); a word longer than a line is cut to it."""
    lines: list[list[tuple[int, str, bool]]] = [[]]
    column = 0
    for word, leaked in words:
        shown = word if len(word) <= width else word[: width - 1] + "…"
        if column and column + len(shown) > width:
            lines.append([])
            column = 0
        lines[-1].append((column, shown, leaked))
        column += len(shown) + 1
    return lines
