"""What a benchmark is: tables of rows, sets of prompts made of them, and what is measured and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Measure = Literal[
    "probability",
    "probability_normalised",
    "truth_ratio",
    "rouge_recall",
    "rouge_f1",
    "exact_memorisation",
    "extraction_strength",
    "mia_loss",
    "mia_zlib",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_gradnorm",
]
"""What is measured of a row."""
_OF_OTHER_WORDS = ("probability", "truth_ratio", "rouge_recall")
Kind = Literal["questions", "completions", "texts"]
"""Of a set: questions with answers, prefixes with what follows them, or whole texts."""


@dataclass(frozen=True)
class Table:
    """A table of a data set.

    hub, configuration, split: where the hub has it; split '': its only one. file: below a folder of files. rows: how
    many it has; None where our sources do not say. columns: those that are read. later: whether it came to the hub
    later, so that copies may lack it. by_subject: whether `file` lies in a folder of each subject, with that subject's
    rows alone; its column `subject` says whose a row is.
    """

    hub: str
    configuration: str
    split: str
    file: str
    rows: int | None
    columns: tuple[str, ...]
    later: bool = False
    by_subject: bool = False


@dataclass(frozen=True)
class Generation:
    """How answers are generated: always greedily. new_tokens: at most; stop: texts at which an answer is cut."""

    new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are asked of every model.

    table: the file of a `Table`. prompt, answer: columns; of texts `answer` is the text. right, wrong: the columns of
    the right answer and the list of wrong ones that the truth ratio compares; wrong ones also normalise the
    probability. paraphrase: a column of the same question in other words, which is read and checked, and asked only
    where `evaluation.paraphrased_questions` says so. shots: the table of examples that stand before every question, all
    of them. style: a name of data/prompt_styles.STYLES; None: as the config's rows are written. ask: the user's
    message, with {} in the place of the prompt. begin: what the answer is made to begin with. max_length: tokens of a
    row. members: what membership inference takes the rows for; None: neither.
    """

    name: str
    kind: Kind
    table: str
    prompt: str
    answer: str
    measures: tuple[Measure, ...]
    right: str | None = None
    wrong: str | None = None
    paraphrase: str | None = None
    shots: str | None = None
    generation: Generation | None = None
    style: str | None = None
    ask: str = "{}"
    begin: str = ""
    max_length: int = 512
    members: bool | None = None

    @property
    def forgotten(self) -> bool:
        """Whether its rows are of what is to be forgotten."""
        return self.members is True or self.name.startswith("forget")

    @property
    def paraphrased(self) -> PromptSet | None:
        """Its rows with the question in other words, of which no attack is measured; None where it has no such."""
        if self.paraphrase is None:
            return None
        return replace(
            self,
            name=f"{self.name}_parap_question",
            prompt=self.paraphrase,
            measures=tuple(each for each in self.measures if each in _OF_OTHER_WORDS),
            paraphrase=None,
            members=None,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is read of a row."""
        named = (self.prompt, self.answer, self.right, self.wrong, self.paraphrase)
        return tuple(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True)
class Split:
    """forget, retain: the tables' files that a model unlearns and keeps; None: there is none. harness: tasks of
    lm-evaluation-harness. models: published models on the hub, by what they are (target, retrained); {} in an id is
    the base model's name."""

    forget: str
    retain: str | None
    sets: tuple[PromptSet, ...]
    harness: tuple[str, ...] = ()
    models: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Benchmark:
    """name: as in `data.source`. reported: the columns of its own table, in its own words. access:
    what must be done before anybody can have the data; '' where it is public."""

    name: str
    title: str
    licence: str
    tables: tuple[Table, ...]
    splits: Mapping[str, Split]
    reported: tuple[str, ...]
    access: str = ""

    @property
    def sets(self) -> dict[str, PromptSet]:
        """Those of all its splits by name, also with questions in other words; what a set of one name measures is the
        same in each split."""
        sets = [each for split in self.splits.values() for each in split.sets]
        return {each.name: each for each in (*sets, *filter(None, (known.paraphrased for known in sets)))}

    @property
    def hubs(self) -> tuple[str, ...]:
        """The ids of its data sets."""
        return tuple(dict.fromkeys(table.hub for table in self.tables))

    def table(self, file: str) -> Table:
        """The table with this file."""
        return next(table for table in self.tables if table.file == file)
