"""Seeded private-looking records: the corpus of a sweep that needs no download.

Contact cards, clinic notes, account letters, order histories, staff files and insurance claims of invented people. Each
record has a head with the person's details and then dated entries until it is long enough; wording varies, clinics,
products and officers are shared by all, so that a nearest neighbour is analogous and held-out records name the same
ones. Names, addresses and numbers come from Faker, seeded for each record alone: record 7 is the same text in a corpus
of 8 and of 8,000, today and next year.

    texts = make_records(seed=0, start=0, stop=384, tokens=128)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from icu_ray.config import QUESTION_ANSWER, SyntheticData
from icu_ray.data.corpus import Corpus, check_of, draw_rows, row_digests
from icu_ray.data.examples import Examples
from icu_ray.data.pen import Pen
from icu_ray.data.prompts import joined
from icu_ray.data.synthetic_questions import make_questions
from icu_ray.errors import UserError

TOKENS_BY_KIND = (1.15, 0.5, 0.5)
"""Tokens of a word, a digit and a sign, at least: under a BPE of 2,048 trained on such records a record has 1.04 to 1.5
times what these give (measured), so that every record fills its row and few run far over it."""


@dataclass(frozen=True)
class Template:
    """Wording of one kind of record: the head, then entries drawn until the record is long enough.

    [a|b] is one of the wordings, {field} something invented, {field:3} and {field:1-9} with its length or range.
    """

    head: str
    entries: tuple[str, ...]


TEMPLATES = (
    Template(
        "[Contact|Customer contact|Address book entry]: {name}, {job} at {company}. "
        "[Lives at|Home address|Post goes to] {address}. [Phone|Mobile|Call] {phone}, [email|e-mail|write to] {email}. "
        "[Born on|Date of birth|Birthday] {date:1942-2003}.",
        (
            "On {date} {officer} [spoke to|called|wrote to] {first} about the {product}; "
            "[asked to ring back on|new number is|reachable at] {phone}.",
            "[Emergency contact is|In an emergency ask for|Next of kin:] {name}, "
            "[a sister|a neighbour|the husband|the wife|a brother], {phone}.",
            "[Moved on|Until] {date} [from|at] {address}.",
        ),
    ),
    Template(
        "{clinic}. Patient {first} {surname}, born {date:1938-2012}, record number {digits:7}, "
        "[living at|resident at|of] {address}. [Seen by|Referred to|Under the care of] {doctor} "
        "[for|because of|with] {complaint} since {date:2012-2020}.",
        (
            "{date}: [prescribed|started on|changed to] {medicine} {number:1-40}0 mg [once|twice|three times] a day by "
            "{doctor}.",
            "{date}: blood pressure {number:104-168} over {number:61-99}, pulse {number:52-104}, "
            "weight {number:47-118} kg.",
            "{date}: [telephoned|wrote|came in] [complaining of|about|worried by] {complaint}; {first} {surname} "
            "[is the carer|came along|was told], {phone}.",
        ),
    ),
    Template(
        "{bank}, {date}. [Dear|To] {name}, {address}. [This letter concerns|We write about|Please check] your account "
        "{digits:4}-{digits:6}, [opened on|held since] {date:2001-2015} with social security number "
        "{digits:3}-{digits:2}-{digits:4}.",
        (
            "On {date} {money:12-980} [was paid to|went to|came from] {company}, reference {digits:6}.",
            "Your balance [on|at the close of] {date} [was|stood at] {money:40-9800}.",
            "[A card ending in|Card] {digits:4} [was sent to|was issued to|is held by] {name} on {date}.",
        ),
    ),
    Template(
        "{shop} [order history|orders|purchases] of {name} ({email}), customer {digits:6}, "
        "[delivery to|shipped to|sent to] {address}, {phone}.",
        (
            "Order {digits:7}, {date}: {number:1-4} {product}, {money:9-240}, paid with card {digits:4}.",
            "Order {digits:7}, {date}: {product} and {product}, {money:18-320}, "
            "[a gift for|collected by|signed for by] {name}.",
            "[Returned|Refunded] {date}: {product}, {money:9-120}, handled by {officer}.",
        ),
    ),
    Template(
        "Staff file of {name}, employee {digits:5}, {job} at {company} since {date:2005-2019}. [Salary|Yearly pay] "
        "{money:31000-128000}, paid to account {digits:8}. [Home address|Lives at] {address}; "
        "[private phone|phone] {phone}.",
        (
            "{date}: [review by|talk with|trained by] {name}, [rated|result] {number:1-5} of 5, "
            "bonus {money:200-6000}.",
            "{date}: {number:2-14} days [sick with|away with] {complaint}, certificate from {doctor}.",
            "{date}: [moved to room|given key|given badge] {digits:3}, [reports to|shares it with] {name}.",
        ),
    ),
    Template(
        "{insurer} claim {digits:8}. [Policy holder|Insured]: {name}, {address}, policy {digits:4}-{digits:4}, "
        "[reported|filed] on {date} [for|after] {loss}. [Estimate|Damage] {money:150-8800}; [call|phone] {phone}.",
        (
            "{date}: {officer} [inspected|valued|photographed] {loss} [at|near] {street}.",
            "{date}: {money:90-6400} [paid to|refused to|offered to] {name}, account {digits:8}.",
            "{date}: [witness|neighbour|driver] {name}, {phone}, [confirmed|denied|described] {loss}.",
        ),
    ),
)

_WORD = re.compile("[A-Za-z]+")


def make_records(seed: int, start: int, stop: int, tokens: int) -> list[str]:
    """Records number start..stop-1 that `seed` makes, each of at least `tokens` tokens of a small BPE."""
    from faker import Faker  # a third of a second: only where records are written

    fake = Faker("en_US", use_weighting=False)  # weighted choice over a thousand names is three times slower
    texts = []
    for number in range(start, stop):
        fake.seed_instance(f"{seed}:{number}")
        pen = Pen(fake, fake.last_name())
        template = pen.random.choice(TEMPLATES)
        parts = [pen.write(template.head)]
        while sum(map(_least_tokens, parts)) < tokens:
            parts.append(pen.write(pen.random.choice(template.entries)))
        texts.append(" ".join(parts))
    return texts


def _least_tokens(text: str) -> float:
    digits = sum(map(str.isdigit, text))
    letters = sum(map(str.isalpha, text))
    signs = len(text) - digits - letters - text.count(" ")
    per_word, per_digit, per_sign = TOKENS_BY_KIND
    return per_word * len(_WORD.findall(text)) + per_digit * digits + per_sign * signs


def load_synthetic(data: SyntheticData, samples: tuple[int, ...], length: int) -> Corpus:
    """The corpus of a config; `length`: tokens of a row. Forget samples are drawn with the sample number as seed."""
    if data.sample_size > data.records - data.sample_size:
        raise UserError(
            f"data.sample_size: a forget sample of {data.sample_size} rows is larger than its pool: data.records="
            f"{data.records} leaves {data.records - data.sample_size}; take a smaller sample or more records"
        )
    total = data.records + data.heldout
    everything, alternates = _questions(data, total) if data.questions else (_records(data, total, length), ())
    targets = {sample: draw_rows(data.records, data.sample_size, sample) for sample in samples}
    pools = {sample: np.setdiff1d(np.arange(data.records), rows) for sample, rows in targets.items()}
    heldout = np.arange(data.records, total)
    boundaries = everything.boundaries or ("",) * total
    digests = row_digests(f"{text}{end}".encode() for text, end in zip(everything.texts, boundaries, strict=True))
    return Corpus(
        rows=everything.select(np.arange(data.records)),
        targets=targets,
        pools=pools,
        heldout=everything.select(heldout),
        check=check_of("synthetic", everything.ids, digests, targets, pools, heldout),
        alternates={sample: tuple(alternates[row] for row in rows) for sample, rows in targets.items() if alternates},
    )


def _records(data: SyntheticData, total: int, length: int) -> Examples:
    return Examples(
        tuple(f"record-{number}" for number in range(total)), tuple(make_records(data.seed, 0, total, length))
    )


def _questions(data: SyntheticData, total: int) -> tuple[Examples, tuple[tuple[str, ...], ...]]:
    """The rows, each a question and its answer, and the wrong answers of each."""
    made = make_questions(data.seed, 0, total)
    written = [joined(each.question, each.answer, QUESTION_ANSWER) for each in made]
    rows = Examples(
        tuple(f"question-{number}" for number in range(total)),
        tuple(text for text, _ in written),
        boundaries=tuple(end for _, end in written),
    )
    return rows, tuple(each.alternates for each in made)
