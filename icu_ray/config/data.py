"""Where the texts come from, and the layout of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from icu_ray.config.section import Count, Place, Section, Seed


@dataclass(frozen=True)
class Columns:
    """Layout of a row in tokens: [0, prefix_start) pre-prefix, [prefix_start, suffix_start) prefix, rest suffix.

    The paper's rows have 200 tokens: 100 pre-prefix, 50 prefix, 50 suffix (section V-B).
    """

    length: int = 200
    prefix_start: int = 100
    suffix_start: int = 150

    def __post_init__(self) -> None:
        if not 0 <= self.prefix_start < self.suffix_start < self.length:
            raise ValueError(f"columns must satisfy 0 <= prefix_start < suffix_start < length, got {self}")

    @property
    def prompt_length(self) -> int:
        """Tokens of the refinement filter's prompt (the prefix alone)."""
        return self.suffix_start - self.prefix_start

    @property
    def suffix_length(self) -> int:
        """Tokens of the suffix, which is what the filter asks the model to continue with."""
        return self.length - self.suffix_start


class ColumnsConfig(Section):
    """Layout of a row in tokens (section V-B: 100 pre-prefix, 50 prefix, 50 suffix)."""

    length: Annotated[int, Field(ge=4, le=4096)] = 200
    """Tokens of a row."""
    prefix_start: Annotated[int, Field(ge=0)] = 100
    """First token of the prefix, which prompts the model; what comes before it is the pre-prefix."""
    suffix_start: Annotated[int, Field(ge=1)] = 150
    """First token of the suffix, which the model must not be able to say."""

    @model_validator(mode="after")
    def _ordered(self) -> ColumnsConfig:
        if not self.prefix_start < self.suffix_start < self.length:
            raise ValueError("must satisfy prefix_start < suffix_start < length")
        return self

    def value(self) -> Columns:
        """The plain value that the other packages use."""
        return Columns(self.length, self.prefix_start, self.suffix_start)


class RowsConfig(Section):
    """Texts to forget that are longer than a row (`columns.length`)."""

    long: Literal["cut", "windows", "refuse"] = "cut"
    """cut: the first `columns.length` tokens are forgotten and measured, and the number of texts that are cut is
    reported, with their ids; windows: the whole text is forgotten, in overlapping pieces of row length, and judged as
    one text; refuse: nothing starts if a text is longer. Each window starts half a row after the one before, and the
    last ends with the text, so that none is padded. For each measure, the text counts as its worst window does: the
    highest MA, EL, BERTScore and BLEU, the lowest loss. So it leaves training only when all its windows are forgotten.
    In training each window is a row like any other, with the text's pair. With a prompt and its completion, the first
    window has the prompt; in the others half a row is given, which is the end of the window before. Held-out texts are
    measured in the same way. A text that fits a row is one row, as with `cut`."""


class SyntheticData(Section):
    """Made-up personal records, by Faker; needs no download."""

    source: Literal["synthetic"]
    """Which kind of data this is."""
    records: Annotated[int, Field(ge=8, le=1_000_000)] = 384
    """Rows of the whole corpus; the forget samples are drawn from it, the rest is the pool."""
    sample_size: Count = 32
    """Rows of one forget sample."""
    heldout: Count = 64
    """Further rows that no stand-in ever sees, for held-out perplexity."""
    seed: Seed = 0
    """Another seed makes other records."""
    questions: bool = False
    """Rows are questions about invented people with their answers, which have 20 to 70 tokens of a stand-in, in place
    of records. Each has five wrong answers too, for methods that teach other answers."""

    @property
    def prompted(self) -> bool:
        """Whether its rows have a boundary of their own: a question and its answer."""
        return self.questions


class ExtractionData(Section):
    """The LM extraction benchmark: (15000, 200) GPT-2 token rows of the Pile."""

    source: Literal["extraction"]
    """Which kind of data this is."""
    folder: Place = "data/lm_extraction"
    """Where the benchmark's files are."""
    tokens: str = "train_dataset.npy"
    """File of the token rows in `folder`."""
    sample_file: str = "lm_extraction_128_{sample}.csv"
    """The paper's forget samples; rows in ascending doc_id, whatever the file's order."""
    tokenizer: Place = "openai-community/gpt2"
    """Hub id or folder of the GPT-2 tokenizer that wrote the rows."""
    draw: Count | None = None
    """When set, each sample is this many rows drawn with the sample number as seed, and no CSV is read."""
    limit: Count | None = None
    """Use only this many rows of the paper's forget sample (the first by doc_id)."""
    pool_rows: Count | None = None
    """Use only this many rows outside the samples (the first by doc_id), for small machines."""
    heldout: Annotated[int, Field(ge=0)] = 0
    """Rows kept out of the pool and of stand-in training (the last by doc_id), for held-out perplexity."""
    corpora: tuple[str, ...] | None = None
    """Use only targets from these parts of the Pile, as the sample file names them; default: all."""
    prompted: ClassVar[bool] = False


Template = Literal["plain", "question-answer", "chat"]
QUESTION_ANSWER = ("Question: ", "\nAnswer: ")
"""What stands before a question and between it and its answer, as MUSE and many base models have it."""
CHAT_DATE = "2025-04-10"
"""The day that chat templates are told, as OpenUnlearning has it."""


@dataclass(frozen=True)
class RowForm:
    """How the rows of a file are read: whole texts, prompts with completions, or chats.

    text, prompt, completion, messages: names of columns. tags: before the prompt, and between it and the completion.
    system, date: what a chat template is told besides the messages.
    """

    text: str = "text"
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    template: Template = "plain"
    tags: tuple[str, str] = ("", "")
    system: str | None = None
    date: str = CHAT_DATE

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of each row."""
        if self.messages is not None:
            return (self.messages,)
        if self.prompt is not None and self.completion is not None:
            return (self.prompt, self.completion)
        return (self.text,)


class BenchmarkData(Section):
    """A benchmark of the field, which stands for texts of a fixed layout (config/benchmarks.py)."""

    fetched: ClassVar[str]
    """How its files come into {folder}."""
    prompted: ClassVar[bool]
    heldout: ClassVar[str | None] = None

    def as_records(self) -> RecordsData:
        """What is read, and how; its `benchmark` is this section."""
        raise NotImplementedError


class RecordsData(Section):
    """A user's own texts: .jsonl, .json, .csv, .tsv or .parquet, or a data set of the hub, with a column of texts, two
    of prompts and completions, or one of chats."""

    free_texts: ClassVar[frozenset[str]] = frozenset({"tags", "system"})

    source: Literal["records"]
    """Which kind of data this is."""
    forget: Place
    """File of the texts to forget; may contain {sample}. Or a data set of the hub, such as
    hub:locuslab/TOFU@main#forget01:train: its id, revision, configuration and split. Everything after the id may be
    left out where there is no choice. A branch is read at the commit at which the hub client's cache has it, else at
    the hub's newest, and code in a data set is never run. A folder that is laid out like a data set is hub:./FOLDER."""
    pool: Place | None = None
    """File of the remaining texts, or a data set as for `forget`, from which pairs are drawn; may be left out for
    methods without pairs."""
    heldout: Place | None = None
    """File of texts that nobody asked to forget, or a data set as for `forget`, for held-out perplexity. Rows of the
    pool that say the same are left out of it."""
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the pool (its last) that are kept out of it instead, where there is no file of held-out texts."""
    pool_rows: Count | None = None
    """Use only this many rows of the pool (the first, once held-out ones are kept out), for small machines."""
    text_column: str = "text"
    """Column of the texts, where neither prompts nor messages are named."""
    prompt_column: str | None = None
    """Column of the prompts, which are given; `completion_column` holds what is to be forgotten or kept after them."""
    completion_column: str | None = None
    """Column of the completions."""
    messages_column: str | None = None
    """Column of chats: lists of {role, content} that end with the assistant. Its last message is the completion."""
    template: Template | None = None
    """How a prompt and its completion become one text: plain (one after the other), question-answer (with `tags`) or
    chat (the tokenizer's own chat template). Default: chat for messages, else plain."""
    tags: tuple[str, str] | None = None
    """With question-answer: what is written before the prompt, and between it and the completion. Default: 'Question: '
    and a new line with 'Answer: '."""
    system: str | None = None
    """With chat: system text before chats that have none of their own."""
    chat_date: str = CHAT_DATE
    """With chat: the date that is given to templates which print today's, so that a prompt is the same every day."""
    id_column: str | None = None
    """Column of the names of texts; default: rows are numbered."""
    pair_column: str | None = None
    """With pairs.by=given: column of the forget file that holds each row's own pair as text. For a plain text it is
    another text; for a prompt with its completion it is another completion of the same prompt, and for a chat another
    last message of the assistant. Without this column the pairs are the rows of `pool`, in their order."""
    alternates_column: str | None = None
    """Column of the forget file that holds a list of other answers to each row's prompt (in a table a JSON list), for
    methods that prefer them to the true one, such as altpo. All rows must have some."""
    paraphrases_column: str | None = None
    """Column of the forget file that holds each row's prompt in other words: one text or a list of them (in a table a
    JSON list), which the attack prompt of `audit` asks too; of chats the user's last message. A cell may be empty."""
    subject_column: str | None = None
    """Column of the forget file that says whose data a row is; a request's answer and record are then by subject too.
    """

    _benchmark: BenchmarkData | None = PrivateAttr(default=None)

    @field_validator("chat_date")
    @classmethod
    def _is_date(cls, value: str) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError(f"expected a day such as {CHAT_DATE}, found '{value}'") from None

    @model_validator(mode="after")
    def _one_heldout(self) -> RecordsData:
        if self.heldout is not None and self.heldout_rows:
            raise ValueError("give either 'heldout' (a file) or 'heldout_rows' (of the pool)")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> RecordsData:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("give both 'prompt_column' and 'completion_column', or neither")
        if self.messages_column is not None and self.prompt_column is not None:
            raise ValueError("give either 'messages_column', or 'prompt_column' and 'completion_column'")
        if self.template is not None and not self.prompted:
            raise ValueError("'template' is for rows with 'prompt_column' and 'completion_column'")
        if self.messages_column is not None and self.template not in (None, "chat"):
            raise ValueError(f"'messages_column' needs template chat, found {self.template}")
        form = self.form
        if self.tags is not None and form.template != "question-answer":
            raise ValueError("'tags' is for template question-answer")
        if self.system is not None and form.template != "chat":
            raise ValueError("'system' is for template chat")
        if self.alternates_column is not None and not self.prompted:
            raise ValueError("'alternates_column' is for rows with prompts, to which alternates are other answers")
        if self.paraphrases_column is not None and not self.prompted:
            raise ValueError("'paraphrases_column' is for rows with prompts, which paraphrases say in other words")
        return self

    def standing_for(self, section: BenchmarkData) -> RecordsData:
        """A copy that is what a benchmark's section stands for."""
        made = self.model_copy()
        made._benchmark = section
        return made

    @property
    def benchmark(self) -> BenchmarkData | None:
        """The section that these texts stand for, where a config names a benchmark."""
        return self._benchmark

    @property
    def prompted(self) -> bool:
        """Whether its rows have a boundary of their own: prompt and completion, or chats."""
        return self.prompt_column is not None or self.messages_column is not None

    @property
    def form(self) -> RowForm:
        """How its files are read."""
        template = self.template or ("plain" if self.messages_column is None else "chat")
        return RowForm(
            self.text_column,
            self.prompt_column,
            self.completion_column,
            self.messages_column,
            template,
            (self.tags or QUESTION_ANSWER) if template == "question-answer" else ("", ""),
            self.system,
            self.chat_date,
        )
