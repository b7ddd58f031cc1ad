"""Choices in which implementations of the field's measures differ, each by a name of its own.

    Conventions()                        # the definitions; what is measured unless something else is asked for
    Conventions.open_unlearning()        # what OpenUnlearning's code computes
    Conventions(tail="last_label")       # one choice alone
    conventions_of({"base": "open_unlearning", "tail": "eos"})   # as a config gives them

With OpenUnlearning's choices the numbers can be held against those that it prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

Tail: TypeAlias = Literal["eos", "last_label"]
Mask: TypeAlias = Literal["length", "pad_id"]
LATER = ("rows", "generation_end", "unmeasured")
"""Choices that came later: they are part of what a task is where they are not the defaults."""


@dataclass(frozen=True)
class Conventions:
    """One choice a field; the defaults are the definitions of the measures."""

    tail: Tail = "eos"
    """What exact memorisation and extraction strength leave out at an answer's end: its end-of-sequence token if there
    is one, or the last label whatever it is."""
    membership_tail: Tail = "last_label"
    """The same for min-k, min-k++ and the gradient norm, which are defined without the last label."""
    es_floor: Literal["none", "ou"] = "none"
    """The least extraction strength of a row of m tokens: 0, or 1/m, because the search ends at the last token even
    where that is wrong."""
    empty: Literal["missing", "zero"] = "missing"
    """A row without tokens has no extraction strength, min-k and min-k++, or it counts with 0."""
    wrong_mean: Literal["geometric", "arithmetic"] = "geometric"
    """How the probabilities of a row's wrong answers become one in the truth ratio: exp of minus their mean loss, or
    the mean of the probabilities."""
    mask: Mask = "length"
    """What attention does not see: what pads a row, or every token with the id of the pad, also in a prompt. The two
    differ where the pad is the end-of-sequence token."""
    gradient_mode: Literal["eval", "train"] = "eval"
    """The model's mode for the gradient norm; in train mode dropout is active."""
    stemmer: bool = True
    """Whether ROUGE compares word stems. MUSE's own code does not."""
    rows: Literal["default", "open_unlearning"] = "default"
    """How prompts and answers are written as tokens; data/prompt_styles.py says in which four things these differ."""
    generation_end: Literal["turn", "text"] = "turn"
    """Where what a chat model says ends: at any token that ends a turn or a text, or at the end of text alone."""
    unmeasured: Literal["left_out", "nan"] = "left_out"
    """A row without tokens, which has no probability, is left out of the means of what is made of probabilities, or
    makes them NaN, so that there is no such number."""

    @classmethod
    def open_unlearning(cls) -> Conventions:
        """All choices of OpenUnlearning's code."""
        return cls(
            tail="last_label",
            membership_tail="last_label",
            es_floor="ou",
            empty="zero",
            wrong_mean="geometric",
            mask="pad_id",
            gradient_mode="train",
            stemmer=True,
            rows="open_unlearning",
            generation_end="text",
            unmeasured="nan",
        )

    def told(self) -> dict[str, str | bool]:
        """What decides a number: all choices by name, of the later ones those that are not the defaults."""
        usual = asdict(Conventions())
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != usual[name]}


DEFINED = Conventions()
"""The definitions."""


def conventions_of(given: str | Mapping[str, Any]) -> Conventions:
    """The choices of `evaluation.conventions`: a base's name, or a mapping of single choices and perhaps their base.

    TypeError for a choice that is none.
    """
    base, chosen = _parts(given)
    return replace(_BASES[base], **chosen)


def told_choices(given: str | Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str | bool], ...]]:
    """The base of `evaluation.conventions`, and by name the choices that are not the base's."""
    base, chosen = _parts(given)
    usual = asdict(_BASES[base])
    return base, tuple((name, value) for name, value in chosen.items() if usual.get(name) != value)


def _parts(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    tree = {"base": given} if isinstance(given, str) else dict(given)
    return tree.pop("base", "defined"), tree


_BASES: Mapping[str, Conventions] = {"defined": DEFINED, "open_unlearning": Conventions.open_unlearning()}
