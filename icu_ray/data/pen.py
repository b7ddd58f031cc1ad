"""Fills the slots of a wording: invented people from Faker, closed lists of things, numbers, dates and sums of money.

    fake.seed_instance("0:7"); Pen(fake, fake.last_name()).write("[Call|Phone] {first}, {phone}, by {date:2019-2021}.")

[a|b] is one of the wordings, {field} something invented, {field:3} and {field:1-9} with its length or range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faker import Faker

WORLD: Mapping[str, str] = {
    "clinic": "Northgate Clinic|Harbour Road Surgery|Willow Park Practice|Lakeside Health",
    "doctor": "Dr. Okafor|Dr. Lindqvist|Dr. Marchetti|Dr. Banerjee|Dr. Whitcombe|Dr. Salazar",
    "complaint": "migraine|back pain|high blood pressure|asthma|a persistent cough|insomnia|eczema|anaemia",
    "medicine": "lisinopril|salbutamol|amitriptyline|metformin|sertraline|ibuprofen|omeprazole",
    "bank": "Meridian Savings|Calder Valley Bank|First Harbor Credit Union|Oakfield Mutual",
    "shop": "Bramble & Finch|Pinecrest Outdoor|Lumen Home Supply|The Paper Lantern",
    "product": "walking boots|rain jacket|cycling gloves|camping stove|garden hose|desk lamp|cast iron pan|"
    "coffee grinder|wool blanket|tea kettle|wall clock|notebook set",
    "insurer": "Sentinel Home & Auto|Graywater Assurance|Blue Heron Mutual",
    "loss": "a burst pipe|a broken windscreen|a stolen bicycle|storm damage to the roof|a scratched door",
    "officer": "Priya|Tomas|Eleanor|Kwame|Ingrid|Mateo",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
}
_SLOT = re.compile(r"\[([^\]]*)\]|\{(\w+)(?::(\d+)(?:-(\d+))?)?\}")


class Pen:
    """Writes one record: fills the slots of a template from its own random numbers and invented people."""

    def __init__(self, fake: Faker, surname: str) -> None:
        self.fake = fake
        self.random: Random = fake.random
        self.surname = surname
        self.invented: Mapping[str, Callable[[], str]] = {
            "name": lambda: f"{fake.first_name()} {fake.last_name()}",
            "first": fake.first_name,
            "surname": lambda: self.surname,
            "job": lambda: fake.job().lower(),
            "company": fake.company,
            "email": fake.email,
            "street": fake.street_address,
            "phone": lambda: f"({self.digits(3)}) {self.digits(3)}-{self.digits(4)}",
            "address": lambda: f"{fake.street_address()}, {fake.city()}, {fake.state_abbr()} {fake.postcode()}",
        }

    def write(self, wording: str) -> str:
        """`wording` with every slot filled, from left to right."""
        return _SLOT.sub(self._fill, wording)

    def digits(self, count: int) -> str:
        return "".join(str(self.random.randrange(10)) for _ in range(count))

    def _pick(self, choices: str) -> str:
        return self.random.choice(choices.split("|"))

    def _fill(self, slot: re.Match[str]) -> str:
        choices, field, low, high = slot.groups()
        if choices is not None:
            return self._pick(choices)
        if field in WORLD:
            return self._pick(WORLD[field])
        if field == "digits":
            return self.digits(int(low))
        if field == "number":
            return str(self.random.randint(int(low), int(high)))
        if field == "money":
            return f"${self.random.randint(int(low), int(high))}.{self.digits(2)}"
        if field == "date":  # Faker's own dates count back from today, so they are not used
            year = self.random.randint(int(low or 2016), int(high or 2024))
            return f"{self.random.randint(1, 28)} {self._pick(WORLD['month'])} {year}"
        return self.invented[field]()
