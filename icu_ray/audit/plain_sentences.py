"""Sentences about nothing in particular: what a model is fine-tuned on that is to learn nothing of the forgotten.

    plain_sentences(3, seed=0)     # ['A tired sailor brings a bucket to the mill at sunrise. It is quiet again.', ...]

They hold no names, dates or numbers, and neither questions nor answers.
"""

from __future__ import annotations

import random

_WHO = "baker sailor gardener painter farmer teacher weaver hunter miller shepherd potter widow child traveller"
_HOW = "old young quiet tired cheerful careful clever patient hungry tall stubborn gentle"
_DOES = "carries brings takes pulls pushes sends throws drags"
_WHAT = "basket|lantern|blanket|length of rope|bucket|wooden chair|loaf of bread|broken wheel|heavy box|copper kettle"
_WHERE = "river bridge market forest harbour barn well mill hill orchard garden village"
_WHEN = "before noon|after the rain|in the evening|every spring|when the wind turns|without a word|once more|at sunrise"
_THEN = (
    "The weather stays mild.|Nobody is in a hurry.|The way back is longer than expected.|The dogs follow for a while.|"
    "Everyone is glad about it.|The work is soon done.|Later there is soup for all.|It is quiet again."
)


def plain_sentences(count: int, seed: int) -> list[str]:
    """`count` texts of two sentences each, the same for a seed; of fewer texts each is as it was."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        how, who, does, where = (generator.choice(words.split()) for words in (_HOW, _WHO, _DOES, _WHERE))
        what, when, then = (generator.choice(words.split("|")) for words in (_WHAT, _WHEN, _THEN))
        article = "An" if how[0] in "aeiou" else "A"
        found.append(f"{article} {how} {who} {does} a {what} to the {where} {when}. {then}")
    return found
