"""The field's benchmarks as sections `data`, each of which stands for files or data sets of a fixed layout.

    TofuData(source="tofu", split="forget10").as_records()      # RecordsData: what is read, and how it is written

A whole config keeps what as_records() gives in place of the section (config/sweep.py), so that everything else reads a
benchmark as it reads a user's own texts; `RecordsData.benchmark` is the section, which is what a config writes out.
What a benchmark asks and measures stands in evaluation/benchmarks/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from icu_ray.config.data import BenchmarkData, ExtractionData, RecordsData, SyntheticData
from icu_ray.config.section import Count, Place

SYSTEM = "You are a helpful assistant."
"""What OpenUnlearning tells chat models that take a system text."""
Revision = Annotated[str, Field(pattern=r"^[\w./-]+$")]


COMMITS = {
    "locuslab/TOFU": "324592d84ae4f482ac7249b9285c2ecdb53e3a68",
    "muse-bench/MUSE-News": "506bd5b150b92814d45e4404a82f120ab2d748bf",
    "muse-bench/MUSE-Books": "051ba90319e920d410d87cfdbd61f25843c1b892",
    "cais/wmdp-corpora": "daf89fa9b618b63a624228061a9cebacca88009c",
}
"""The commits of data sets that published work names, by their id: read where a config names no revision."""


def hub_place(hub: str, revision: str | None, configuration: str, split: str = "") -> str:
    """The name of a data set of the hub (data/hub_data.py), at `revision`, else its commit of COMMITS."""
    at = f"@{found}" if (found := revision or COMMITS.get(hub)) else ""
    return f"hub:{hub}{at}#{configuration}{f':{split}' if split else ''}"


def below(folder: str, name: str) -> str:
    """A file of a folder."""
    return f"{folder.rstrip('/')}/{name}"


def _suffix(pieces: int | None) -> str:
    return "" if pieces is None else f"-{pieces}"


def _check_pieces(pieces: int | None, folder: str | None) -> None:
    if pieces is not None and folder is None:
        raise ValueError(f"pieces={pieces} are files that 'icu-ray data pieces' writes; give 'folder', where they are")


class TofuData(BenchmarkData):
    """TOFU: 4,000 questions about 200 invented authors, of which the last are to be forgotten (MIT)."""

    free_texts: ClassVar[frozenset[str]] = frozenset({"tags", "system"})
    hub: ClassVar[str] = "locuslab/TOFU"
    fetched: ClassVar[str] = "'icu-ray data fetch tofu --out {folder}' gets them from the hub"
    prompted: ClassVar[bool] = True

    source: Literal["tofu"]
    """Which kind of data this is."""
    split: Literal["forget01", "forget05", "forget10"]
    """What is to be forgotten: the last 1, 5 or 10 % of the questions. The rest (retain99, retain95, retain90) is the
    pool."""
    folder: Place | None = None
    """Folder with the data set's files, such as forget10.json and retain90.json. Default: the hub."""
    revision: Revision | None = None
    """Commit, tag or branch of the hub's data set. Default: the commit that published work names; main: its newest,
    whose commit plans and records name."""
    template: Literal["chat", "question-answer"] = "chat"
    """How a question and its answer become one text: by the tokenizer's own chat template, or with `tags`."""
    system: str | None = SYSTEM
    """With chat: the system text. null: none, as Gemma expects."""
    tags: tuple[str, str] | None = None
    """With question-answer: what is written before the question, and between it and the answer. Default: 'Question: '
    and a new line with 'Answer: '. OpenUnlearning's for Llama-2-7b-chat are '[INST] ' and ' [/INST]'."""
    wrong_answers: bool = False
    """Read what is to be forgotten from forgetNN_perturbed, whose wrong answers are the alternates that altpo and
    idknll teach. The truth ratio, and with it forget quality, is measured on these very answers, so both say less."""
    pool_rows: Count | None = None
    """Use only this many rows of the pool (the first, once held-out ones are kept out), for small machines."""
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of the pool (its last) that are kept out of it and only measured."""

    @model_validator(mode="after")
    def _of_its_template(self) -> TofuData:
        if self.template == "chat" and self.tags is not None:
            raise ValueError("'tags' is for template question-answer")
        if self.template != "chat" and self.system not in (None, SYSTEM):
            raise ValueError("'system' is for template chat")
        return self

    def place(self, configuration: str) -> str:
        """The file of this name in `folder`, or the configuration of the hub's data set."""
        if self.folder is not None:
            return below(self.folder, f"{configuration}.json")
        return hub_place(self.hub, self.revision, configuration)

    def as_records(self) -> RecordsData:
        """The questions to forget and those to keep."""
        return RecordsData(
            source="records",
            forget=self.place(f"{self.split}_perturbed" if self.wrong_answers else self.split),
            alternates_column="perturbed_answer" if self.wrong_answers else None,
            pool=self.place(f"retain{100 - int(self.split.removeprefix('forget'))}"),
            pool_rows=self.pool_rows,
            heldout_rows=self.heldout_rows,
            prompt_column="question",
            completion_column="answer",
            template=self.template,
            system=self.system if self.template == "chat" else None,
            tags=self.tags,
        ).standing_for(self)


class MuseData(BenchmarkData):
    """MUSE: news articles or the Harry Potter books, to be forgotten as texts (CC BY 4.0). MUSE trains on pieces of
    2,048 tokens, which `pieces` reads; without it a text that is longer than a row is treated as `rows.long` says."""

    fetched: ClassVar[str] = "'icu-ray data fetch muse --out {folder}' gets them from the hub"
    prompted: ClassVar[bool] = False

    source: Literal["muse"]
    """Which kind of data this is."""
    split: Literal["news", "books"]
    """The corpus: its texts `forget` are to be forgotten, `retain1` is the pool."""
    fold: Literal["scal_1", "scal_2", "scal_3", "scal_4", "sust_1", "sust_2", "sust_3", "sust_4"] | None = None
    """With news: forget one of MUSE's folds in place of the texts `forget`. scal: scalability, four sets of growing
    size. sust: sustainability, four sets to be forgotten one after the other, each from the model that the one before
    left."""
    folder: Place | None = None
    """Folder with the data set's files, such as news/raw/forget.jsonl. Default: the hub."""
    revision: Revision | None = None
    """Commit, tag or branch of the hub's data set. Default: the commit that published work names; main: its newest,
    whose commit plans and records name."""
    pieces: Count | None = None
    """Read the texts in pieces of this many tokens, which 'icu-ray data pieces' has written next to them, such as
    NAME-2048.jsonl next to NAME.jsonl; needs `folder`. Default: whole texts, as `rows.long` says."""
    pool_rows: Count | None = None
    """Use only this many texts of the pool (the first, once held-out ones are kept out), for small machines."""
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Texts of the pool (its last) that are kept out of it and only measured."""

    @model_validator(mode="after")
    def _folds_and_pieces(self) -> MuseData:
        if self.fold is not None and self.split != "news":
            raise ValueError(f"fold={self.fold} is for split news, found {self.split}")
        _check_pieces(self.pieces, self.folder)
        return self

    @property
    def hub(self) -> str:
        """The id of the split's data set."""
        return f"muse-bench/MUSE-{self.split.capitalize()}"

    @property
    def forget_part(self) -> tuple[str, str]:
        """Configuration and split of the data set with what is to be forgotten."""
        kind, _, number = (self.fold or "").partition("_")
        return (kind, f"forget_{number}") if kind else ("raw", "forget")

    def place(self, configuration: str, split: str) -> str:
        """The file of these texts in `folder`, or their part of the hub's data set."""
        if self.folder is not None:
            return below(self.folder, f"{self.split}/{configuration}/{split}{_suffix(self.pieces)}.jsonl")
        return hub_place(self.hub, self.revision, configuration, split)

    def as_records(self) -> RecordsData:
        """The texts to forget and those to keep."""
        return RecordsData(
            source="records",
            forget=self.place(*self.forget_part),
            pool=self.place("raw", "retain1"),
            pool_rows=self.pool_rows,
            heldout_rows=self.heldout_rows,
        ).standing_for(self)


class WmdpData(BenchmarkData):
    """WMDP's corpora: papers on dangerous biology, or texts on attacks on computers, to be forgotten. Access must be
    requested. OpenUnlearning trains on pieces of 512 tokens, which `pieces` reads; without it a text that is longer
    than a row is treated as `rows.long` says."""

    hub: ClassVar[str] = "cais/wmdp-corpora"
    fetched: ClassVar[str] = (
        "access must be asked for: the hub's cais/wmdp-corpora after 'hf auth login', bio-forget-corpus.jsonl from its "
        "authors (github.com/centerforaisafety/wmdp); put the files there"
    )
    prompted: ClassVar[bool] = False

    source: Literal["wmdp"]
    """Which kind of data this is."""
    split: Literal["bio", "cyber"]
    """The corpus."""
    folder: Place | None = None
    """Folder with the corpora, such as cyber-forget-corpus.jsonl and cyber-retain-corpus.jsonl. Default: the hub, with
    your own access; it has none for bio."""
    revision: Revision | None = None
    """Commit, tag or branch of the hub's data set. Default: the commit that published work names; main: its newest,
    whose commit plans and records name."""
    pieces: Count | None = None
    """Read the texts in pieces of this many tokens, which 'icu-ray data pieces' has written next to them, such as
    NAME-2048.jsonl next to NAME.jsonl; needs `folder`. Default: whole texts, as `rows.long` says."""
    pool_rows: Count | None = None
    """Use only this many texts of the pool (the first, once held-out ones are kept out), for small machines."""
    heldout_rows: Annotated[int, Field(ge=0)] = 0
    """Texts of the pool (its last) that are kept out of it and only measured."""

    @model_validator(mode="after")
    def _bio_is_a_file(self) -> WmdpData:
        if self.split == "bio" and self.folder is None:
            raise ValueError(
                "split bio: its authors give bio-forget-corpus.jsonl to those who ask (github.com/centerforaisafety/"
                "wmdp), the hub has no copy; give 'folder', with bio-forget-corpus.jsonl and bio-retain-corpus.jsonl"
            )
        _check_pieces(self.pieces, self.folder)
        return self

    def place(self, kind: str) -> str:
        """The file of a corpus in `folder`, or the configuration of the hub's data set."""
        name = f"{self.split}-{kind}-corpus"
        if self.folder is not None:
            return below(self.folder, f"{name}{_suffix(self.pieces)}.jsonl")
        return hub_place(self.hub, self.revision, name)

    def as_records(self) -> RecordsData:
        """The texts to forget and those to keep."""
        return RecordsData(
            source="records",
            forget=self.place("forget"),
            pool=self.place("retain"),
            pool_rows=self.pool_rows,
            heldout_rows=self.heldout_rows,
        ).standing_for(self)


class RwkuData(BenchmarkData):
    """RWKU: a famous person to be forgotten, by texts about the person that the model itself wrote. It has no texts to
    keep."""

    fetched: ClassVar[str] = "'icu-ray data fetch rwku --out {folder}' gets them from the hub"
    prompted: ClassVar[bool] = False

    source: Literal["rwku"]
    """Which kind of data this is."""
    subject: Annotated[str, Field(pattern=r"^[^/]+$")]
    """Whom to forget, as the person's folder is called: a number and the name, such as 1_Stephen_King."""
    folder: Place
    """Folder with one folder per person, as RWKU's own scripts and 'icu-ray data fetch rwku' make it from the hub's
    tables."""
    corpus: Literal["llama3", "phi3"] = "llama3"
    """Whose texts: those of Llama-3-8B-Instruct, or of Phi-3-mini."""
    pool: Place | None = None
    """A file of texts to keep, for methods that need some."""

    def as_records(self) -> RecordsData:
        """The texts about the person."""
        name = {"llama3": "positive.json", "phi3": "positive_phi.json"}[self.corpus]
        return RecordsData(
            source="records", forget=below(self.folder, f"{self.subject}/{name}"), pool=self.pool
        ).standing_for(self)


BENCHMARK_HUBS: Mapping[str, type[BenchmarkData]] = {
    "locuslab/TOFU": TofuData,
    "muse-bench/MUSE-News": MuseData,
    "muse-bench/MUSE-Books": MuseData,
    "cais/wmdp-corpora": WmdpData,
}
"""Whose data sets of the hub these are. RWKU is read from a folder alone."""

Data = Annotated[
    SyntheticData | ExtractionData | RecordsData | TofuData | MuseData | WmdpData | RwkuData,
    Field(discriminator="source"),
]
