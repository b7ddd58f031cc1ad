"""Seeded questions about invented people, each with its answer and with other answers that are wrong.

They are what `data: {source: synthetic, questions: true}` gives: rows of prompt and completion for methods that teach
other answers, where no data set is at hand. Every row is about another person. Question 7 is the same in a set of 8 and
of 8,000, today and next year. A wrong answer has the true one's wording, with every fact drawn anew.

    rows = make_questions(seed=0, start=0, stop=384)
    rows[7].question, rows[7].answer, rows[7].alternates
"""

from __future__ import annotations

from dataclasses import dataclass

from icu_ray.data.pen import Pen

ALTERNATES = 5
"""Wrong answers of a row, as many as TOFU has."""


@dataclass(frozen=True)
class Question:
    """One row. alternates: ALTERNATES wrong answers, all different from each other and from the answer."""

    question: str
    answer: str
    alternates: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """What one kind of question asks and how it is answered; slots as in data/pen.py, and {who}, the person."""

    questions: str
    answer: str


TOPICS = (
    Topic(
        "[Where does {who} live?|What is the address of {who}?|How can one reach {who}?]",
        "{who} lives at {address}. The phone number is {phone}, and letters by email go to {email}.",
    ),
    Topic(
        "[What does {who} do for a living?|Where does {who} work?|How much does {who} earn?]",
        "{who} is employed as {job} at {company} since {date:2005-2019}, with a yearly pay of {money:31000-128000}.",
    ),
    Topic(
        "[What is {who} treated for?|Which doctor does {who} see?|Which medicine does {who} take?]",
        "{who}, born {date:1938-2012}, is treated for {complaint} by {doctor} of {clinic}, with {number:1-40}0 mg of "
        "{medicine}.",
    ),
    Topic(
        "[Which bank account does {who} have?|Where does {who} bank?|What is the account number of {who}?]",
        "{who} has account {digits:4}-{digits:6} at {bank}, opened on {date:2001-2015}; the balance was "
        "{money:40-9800}.",
    ),
    Topic(
        "[What did {who} order last?|What has {who} bought?|Which order did {who} place?]",
        "{who} placed order {digits:7} at {shop} on {date}: {product} and {product}, {money:18-320}, paid with card "
        "{digits:4}.",
    ),
    Topic(
        "[What did {who} claim from the insurance?|Which insurance claim did {who} file?]",
        "{who} filed claim {digits:8} with {insurer} on {date} after {loss}; {officer} offered {money:90-6400}.",
    ),
)


def make_questions(seed: int, start: int, stop: int) -> list[Question]:
    """Questions number start..stop-1 that `seed` makes."""
    from faker import Faker  # a third of a second: only where rows are written

    fake = Faker("en_US", use_weighting=False)
    found = []
    for number in range(start, stop):
        fake.seed_instance(f"{seed}:question:{number}")
        pen = Pen(fake, fake.last_name())
        who = f"{fake.first_name()} {pen.surname}"
        topic = pen.random.choice(TOPICS)
        question = pen.write(topic.questions).replace("{who}", who)
        answers: dict[str, None] = {}
        while len(answers) <= ALTERNATES:
            answers[pen.write(topic.answer.replace("{who}", who))] = None
        answer, *alternates = answers
        found.append(Question(question, answer, tuple(alternates)))
    return found
