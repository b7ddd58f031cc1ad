"""Seeded private-looking records: the corpus of a sweep that needs no download.

Contact cards, clinic notes, account letters, order histories, staff files and insurance claims of invented people. Each
record has a head with the person's details and then dated entries until it is long enough; wording varies, clinics,
products and officers are shared by all, so that a nearest neighbour is analogous and held-out records tell of the same
world. Names, addresses and numbers come from Faker, seeded for each record alone: record 7 is the same text in a corpus
of 8 and of 8,000, today and next year.

    texts = make_records(seed=0, start=0, stop=384, tokens=128)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from icu_ray.config import SyntheticData
from icu_ray.data.corpus import Corpus, check_of, draw_rows, row_digests
from icu_ray.data.examples import Examples
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from faker import Faker

TOKENS_BY_KIND = (1.15, 0.5, 0.5)
"""Tokens of a word, a digit and a sign, at least: with a BPE of 2,048 trained on such records the true count of a record
is 1.04 to 1.48 times what these give (measured), so every record fills its row and few run far over it."""

CLINICS = ("Northgate Clinic", "Harbour Road Surgery", "Willow Park Practice", "Lakeside Health")
DOCTORS = ("Dr. Okafor", "Dr. Lindqvist", "Dr. Marchetti", "Dr. Banerjee", "Dr. Whitcombe", "Dr. Salazar")
COMPLAINTS = ("migraine", "back pain", "high blood pressure", "asthma", "a cough", "insomnia", "eczema")
MEDICINES = ("lisinopril", "salbutamol", "amitriptyline", "metformin", "sertraline", "omeprazole")
BANKS = ("Meridian Savings", "Calder Valley Bank", "First Harbor Credit Union", "Oakfield Mutual")
SHOPS = ("Bramble & Finch", "Pinecrest Outdoor", "Lumen Home Supply", "The Paper Lantern")
OUTDOOR_GOODS = ("walking boots", "rain jacket", "cycling gloves", "camping stove", "garden hose")
HOUSEHOLD_GOODS = ("desk lamp", "cast iron pan", "coffee grinder", "wool blanket", "tea kettle", "wall clock")
PRODUCTS = OUTDOOR_GOODS + HOUSEHOLD_GOODS
INSURERS = ("Sentinel Home & Auto", "Graywater Assurance", "Blue Heron Mutual")
LOSSES = ("a burst pipe", "a broken windscreen", "a stolen bicycle", "storm damage", "a scratched door")
OFFICERS = ("Priya", "Tomas", "Eleanor", "Kwame", "Ingrid", "Mateo")
_FIRST_HALF = ("January", "February", "March", "April", "May", "June")
_SECOND_HALF = ("July", "August", "September", "October", "November", "December")
MONTHS = _FIRST_HALF + _SECOND_HALF
_WORD = re.compile("[A-Za-z]+")


@dataclass(frozen=True)
class Pen:
    """What one record is written with: its own random numbers and its own invented people."""

    fake: Faker
    random: Random

    def pick(self, *choices: str) -> str:
        return choices[self.random.randrange(len(choices))]

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def digits(self, count: int) -> str:
        return "".join(str(self.random.randrange(10)) for _ in range(count))

    def money(self, low: int, high: int) -> str:
        return f"${self.number(low, high)}.{self.digits(2)}"

    def date(self, first: int = 2016, last: int = 2024) -> str:
        # Faker's own dates count back from today, so they are not used.
        return f"{self.number(1, 28)} {self.pick(*MONTHS)} {self.number(first, last)}"

    def address(self) -> str:
        return f"{self.fake.street_address()}, {self.fake.city()}, {self.fake.state_abbr()} {self.fake.postcode()}"

    def phone(self) -> str:
        return f"({self.digits(3)}) {self.digits(3)}-{self.digits(4)}"


Template = Callable[[Pen], Iterator[str]]
"""Yields the head of a record and then entries without end."""


def contact_card(pen: Pen) -> Iterator[str]:
    name = pen.fake.name()
    yield (
        f"{pen.pick('Contact', 'Customer contact', 'Address book entry')}: {name}, {pen.fake.job().lower()} at "
        f"{pen.fake.company()}. {pen.pick('Lives at', 'Home address', 'Post goes to')} {pen.address()}. "
        f"{pen.pick('Phone', 'Mobile', 'Call')} {pen.phone()}, {pen.pick('email', 'e-mail', 'write to')} {pen.fake.email()}. "
        f"{pen.pick('Born on', 'Date of birth', 'Birthday')} {pen.date(1942, 2003)}."
    )
    entries = (
        lambda: (
            f"On {pen.date()} {pen.pick(*OFFICERS)} {pen.pick('spoke to', 'called', 'wrote to')} {pen.fake.first_name()} "
            f"about the {pen.pick(*PRODUCTS)}; {pen.pick('asked to ring back on', 'new number is', 'reachable at')} {pen.phone()}."
        ),
        lambda: (
            f"{pen.pick('Emergency contact is', 'In an emergency ask for', 'Next of kin:')} {pen.fake.name()}, "
            f"{pen.pick('a sister', 'a neighbour', 'the husband', 'the wife', 'a brother')}, {pen.phone()}."
        ),
        lambda: f"{pen.pick('Moved on', 'Until')} {pen.date()} {pen.pick('from', 'at')} {pen.address()}.",
    )
    while True:
        yield pen.random.choice(entries)()


def clinic_note(pen: Pen) -> Iterator[str]:
    last = pen.fake.last_name()
    yield (
        f"{pen.pick(*CLINICS)}. Patient {pen.fake.first_name()} {last}, born {pen.date(1938, 2012)}, "
        f"record number {pen.digits(7)}, {pen.pick('living at', 'resident at', 'of')} {pen.address()}. "
        f"{pen.pick('Seen by', 'Referred to', 'Under the care of')} {pen.pick(*DOCTORS)} {pen.pick('for', 'because of', 'with')} "
        f"{pen.pick(*COMPLAINTS)} since {pen.date(2012, 2020)}."
    )
    entries = (
        lambda: (
            f"{pen.date()}: {pen.pick('prescribed', 'started on', 'changed to')} {pen.pick(*MEDICINES)} {pen.number(1, 40) * 5} mg "
            f"{pen.pick('once', 'twice', 'three times')} a day by {pen.pick(*DOCTORS)}."
        ),
        lambda: (
            f"{pen.date()}: blood pressure {pen.number(104, 168)} over {pen.number(61, 99)}, pulse {pen.number(52, 104)}, "
            f"weight {pen.number(47, 118)} kg."
        ),
        lambda: (
            f"{pen.date()}: {pen.pick('telephoned', 'wrote', 'came in')} {pen.pick('complaining of', 'about', 'worried by')} "
            f"{pen.pick(*COMPLAINTS)}; {pen.fake.first_name()} {last} {pen.pick('is the carer', 'came along', 'was told')}, {pen.phone()}."
        ),
    )
    while True:
        yield pen.random.choice(entries)()


def account_letter(pen: Pen) -> Iterator[str]:
    name = pen.fake.name()
    yield (
        f"{pen.pick(*BANKS)}, {pen.date()}. {pen.pick('Dear', 'To')} {name}, {pen.address()}. "
        f"{pen.pick('This letter concerns', 'We write about', 'Please check')} your account {pen.digits(4)}-{pen.digits(6)}, "
        f"{pen.pick('opened on', 'held since')} {pen.date(2001, 2015)} with social security number "
        f"{pen.digits(3)}-{pen.digits(2)}-{pen.digits(4)}."
    )
    entries = (
        lambda: (
            f"On {pen.date()} {pen.money(12, 980)} {pen.pick('was paid to', 'went to', 'came from')} {pen.fake.company()}, "
            f"reference {pen.digits(6)}."
        ),
        lambda: (
            f"Your balance {pen.pick('on', 'at the close of')} {pen.date()} {pen.pick('was', 'stood at')} {pen.money(40, 9800)}."
        ),
        lambda: (
            f"{pen.pick('A card ending in', 'Card')} {pen.digits(4)} {pen.pick('was sent to', 'was issued to', 'is held by')} "
            f"{pen.fake.name()} on {pen.date()}."
        ),
    )
    while True:
        yield pen.random.choice(entries)()


def order_history(pen: Pen) -> Iterator[str]:
    yield (
        f"{pen.pick(*SHOPS)} {pen.pick('order history', 'orders', 'purchases')} of {pen.fake.name()} ({pen.fake.email()}), "
        f"customer {pen.digits(6)}, {pen.pick('delivery to', 'shipped to', 'sent to')} {pen.address()}, {pen.phone()}."
    )
    entries = (
        lambda: (
            f"Order {pen.digits(7)}, {pen.date()}: {pen.number(1, 4)} {pen.pick(*PRODUCTS)}, {pen.money(9, 240)}, paid with card "
            f"{pen.digits(4)}."
        ),
        lambda: (
            f"Order {pen.digits(7)}, {pen.date()}: {pen.pick(*PRODUCTS)} and {pen.pick(*PRODUCTS)}, {pen.money(18, 320)}, "
            f"{pen.pick('a gift for', 'collected by', 'signed for by')} {pen.fake.name()}."
        ),
        lambda: (
            f"{pen.pick('Returned', 'Refunded')} {pen.date()}: {pen.pick(*PRODUCTS)}, {pen.money(9, 120)}, handled by "
            f"{pen.pick(*OFFICERS)}."
        ),
    )
    while True:
        yield pen.random.choice(entries)()


def staff_file(pen: Pen) -> Iterator[str]:
    yield (
        f"Staff file of {pen.fake.name()}, employee {pen.digits(5)}, {pen.fake.job().lower()} at {pen.fake.company()} since "
        f"{pen.date(2005, 2019)}. {pen.pick('Salary', 'Yearly pay')} {pen.money(31000, 128000)}, paid to account {pen.digits(8)}. "
        f"{pen.pick('Home address', 'Lives at')} {pen.address()}; {pen.pick('private phone', 'phone')} {pen.phone()}."
    )
    entries = (
        lambda: (
            f"{pen.date()}: {pen.pick('review by', 'talk with', 'trained by')} {pen.fake.name()}, "
            f"{pen.pick('rated', 'result')} {pen.number(1, 5)} of 5, bonus {pen.money(200, 6000)}."
        ),
        lambda: (
            f"{pen.date()}: {pen.number(1, 14)} days {pen.pick('sick with', 'away with')} {pen.pick(*COMPLAINTS)}, "
            f"certificate from {pen.pick(*DOCTORS)}."
        ),
        lambda: (
            f"{pen.date()}: {pen.pick('moved to room', 'given key', 'given badge')} {pen.digits(3)}, "
            f"{pen.pick('reports to', 'shares it with')} {pen.fake.name()}."
        ),
    )
    while True:
        yield pen.random.choice(entries)()


def insurance_claim(pen: Pen) -> Iterator[str]:
    yield (
        f"{pen.pick(*INSURERS)} claim {pen.digits(8)}. {pen.pick('Policy holder', 'Insured')}: {pen.fake.name()}, {pen.address()}, "
        f"policy {pen.digits(4)}-{pen.digits(4)}, {pen.pick('reported', 'filed')} on {pen.date()} {pen.pick('for', 'after')} "
        f"{pen.pick(*LOSSES)}. {pen.pick('Estimate', 'Damage')} {pen.money(150, 8800)}; {pen.pick('call', 'phone')} {pen.phone()}."
    )
    entries = (
        lambda: (
            f"{pen.date()}: {pen.pick(*OFFICERS)} {pen.pick('inspected', 'valued', 'photographed')} {pen.pick(*LOSSES)} "
            f"{pen.pick('at', 'near')} {pen.fake.street_address()}."
        ),
        lambda: (
            f"{pen.date()}: {pen.money(90, 6400)} {pen.pick('paid to', 'refused to', 'offered to')} {pen.fake.name()}, account "
            f"{pen.digits(8)}."
        ),
        lambda: (
            f"{pen.date()}: {pen.pick('witness', 'neighbour', 'driver')} {pen.fake.name()}, {pen.phone()}, "
            f"{pen.pick('confirmed', 'denied', 'described')} {pen.pick(*LOSSES)}."
        ),
    )
    while True:
        yield pen.random.choice(entries)()


TEMPLATES: tuple[Template, ...] = (
    contact_card,
    clinic_note,
    account_letter,
    order_history,
    staff_file,
    insurance_claim,
)


def make_records(seed: int, start: int, stop: int, tokens: int) -> list[str]:
    """Records number start..stop-1 of the world of `seed`, each of at least `tokens` tokens of a small BPE."""
    from faker import Faker  # a third of a second: only where records are written

    fake = Faker("en_US", use_weighting=False)  # weighted choice over a thousand names is three times slower
    texts = []
    for number in range(start, stop):
        fake.seed_instance(f"{seed}:{number}")
        pen = Pen(fake, fake.random)
        parts: list[str] = []
        for part in pen.random.choice(TEMPLATES)(pen):
            parts.append(part)
            if sum(map(_least_tokens, parts)) >= tokens:
                break
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
    texts = make_records(data.seed, 0, total, length)
    everything = Examples(tuple(f"record-{number}" for number in range(total)), tuple(texts))
    targets = {sample: draw_rows(data.records, data.sample_size, sample) for sample in samples}
    pools = {sample: np.setdiff1d(np.arange(data.records), rows) for sample, rows in targets.items()}
    heldout = np.arange(data.records, total)
    digests = row_digests(text.encode() for text in texts)
    return Corpus(
        rows=everything.select(np.arange(data.records)),
        targets=targets,
        pools=pools,
        heldout=everything.select(heldout),
        check=check_of("synthetic", everything.ids, digests, targets, pools, heldout),
    )
