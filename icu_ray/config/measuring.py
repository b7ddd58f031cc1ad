"""What is measured after every epoch and when a trial ends; what is evaluated; the judge."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_serializer, model_validator

from icu_ray.config.section import Count, Fraction, Place, Positive, Section, Weight


class FilterConfig(Section):
    """Iterative unlearning refinement (section IV-D): which targets count as forgotten."""

    rule: Literal["or", "and", "never"] = "or"
    """Whether low BERTScore or low BLEU is enough to be forgotten, as in the authors' code, or both are needed, as the
    paper says. never: every target is unlearned in every epoch, and none is counted as forgotten."""
    sticky: bool = False
    """Whether a forgotten target stays so; without, it is judged again after every epoch."""
    at_start: bool = True
    """Judge before the first epoch too."""
    prompt: Literal["prefix", "full"] = "prefix"
    """What the model is given to continue: only the prefix, or everything before the suffix."""
    bertscore: Fraction = 0.3
    """BERTScore F1 below which a text counts as forgotten."""
    bleu: Fraction = 0.01
    """BLEU below which a text counts as forgotten; 0.01 asks for four words in a row that are right."""
    bleu_tokenizer: Literal["13a", "words"] = "13a"
    """What BLEU takes for words: sacrebleu's 13a, which splits at punctuation, or nltk's word_tokenize, as in the
    authors' code."""
    encoder: Place = "google-bert/bert-base-uncased"
    """BERT encoder of BERTScore: hub id, folder, or 'bundled'."""
    encoder_layer: Count | None = 9
    """Its layer whose vectors are compared; null: its last."""
    beams: Count = 2
    """Beams of the search for what the model says."""
    strip_special: bool = True
    """Leave end-of-text marks out of what is compared."""
    batch_size: Count = 128
    """Prompts answered at a time."""


class GenerateConfig(Section):
    """Whether generation is told which tokens are padding."""

    mask: bool = True
    """Give generation the attention mask; the authors' code does not, and padding is then read as text."""


class ElConfig(Section):
    """Extraction likelihood."""

    ngram: Count = 10
    """n of EL's n-grams of tokens."""
    start: Annotated[int, Field(ge=1)] | None = None
    """First prefix length; default: the suffix's start (150), the authors' choice; 1 is Jang et al.'s. Of rows
    with a prompt it is always where the completion starts."""
    denominator: Literal["label", "generation"] = "label"
    """Whose number of n-grams the overlap is divided by: the true text's, as in the authors' code, or the generation's,
    as in the paper."""
    batch_cut: Count | None = None
    """Reproduce generate()'s whole-batch end-of-text cut for batches of this size (the authors': 8)."""


class EvalConfig(Section):
    """How the probe runs."""

    span: Literal["all", "prefix_suffix"] = "all"
    """Which tokens MA counts: all, as in the authors' code, or prefix and suffix. Of rows with a prompt always the
    completion's."""
    chunk: Count = 64
    """Sequences whose key/value rows are held at one time."""
    el: Literal["always", "decision"] = "always"
    """'decision': EL is decoded only where it can change the stopping decision, and at the end."""
    heldout: Literal["ends", "epochs"] = "ends"
    """When perplexity on held-out rows is measured: before and after, or after every epoch."""


Threshold = Fraction | Literal["heldout"]


class StopConfig(Section):
    """When a trial ends (sections IV-D, V-D)."""

    rule: Literal["and", "or", "epochs"] = "and"
    """Whether MA and EL must both be below their thresholds, or one. epochs: a trial trains all of `max_epochs` (or
    `max_steps`), whatever is measured meanwhile; it is then judged as with and."""
    ma: Threshold = 0.5994
    """Memorisation accuracy below which a sample counts as forgotten: a number, or 'heldout': no more than the original
    model's mean on the held-out texts."""
    el: Threshold = 0.0499
    """Extraction likelihood below which a sample counts as forgotten: a number, or 'heldout', as `ma`."""
    max_ppl_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Cost limit: a model whose held-out perplexity is more than this many times the original's is not a success."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's model is left: the last one's, or the best one's: among the epochs within the cost limit, the one
    nearest to the thresholds; among equals, the one with the lowest held-out perplexity. best needs
    eval.heldout=epochs."""
    on_empty: bool = True
    """End also when the filter has left no target to unlearn."""
    audited: bool = False
    """Forgotten is not enough: a trial continues, at most to its last epoch, while any target comes back (audit.leak)
    under the cheap attack of search.objective=audited."""
    max_epochs: Count = 50
    """Epochs after which a trial ends as not forgotten; the authors' code has no limit."""
    max_steps: Count | None = None
    """Steps of the optimizer after which a trial ends, unless `max_epochs` ends it first."""


def _is_plain_address(text: str) -> bool:
    """Whether a text is an address of the web in which nothing can be secret: a host, perhaps a port and a path."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # no such port, a bracket that is not closed
        return False
    known = parts.scheme in ("http", "https") and bool(parts.hostname)
    return known and not set(text) & set("@?#") and not any(map(str.isspace, text))


class JudgeConfig(Section):
    """The GPT judge: an OpenAI-compatible endpoint, how fast it may be asked, and what it costs (icu-ray judge).

    The key is no part of it: `api_key_env` names the environment variable that holds it.
    """

    base_url: str = "https://api.openai.com/v1"
    """Address of the API."""
    model: Annotated[str, Field(min_length=1)] = "gpt-4-turbo"
    """Name of the judging model there."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = "OPENAI_API_KEY"
    """None: the endpoint needs no key."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """None: the endpoint's own sampling, as in the paper."""
    prompt_file: Place | None = None
    """A text file in place of the built-in instruction; it must ask for the last line 'Final score: X'."""
    max_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests under way at one time."""
    requests_per_minute: Positive | None = None
    """Most requests per minute; default: no limit on our side."""
    tokens_per_minute: Positive | None = None
    """Most tokens per minute, asked and answered; default: no limit on our side."""
    usd_per_million_input: Weight | None = None
    """Price of what is asked, for the estimate."""
    usd_per_million_output: Weight | None = None
    """Price of what is answered, for the estimate."""
    reply_tokens: Count = 200
    """Length of an answer that the cost estimate and the token rate assume before it is known."""
    timeout_s: Positive = 120.0
    """Seconds to wait for an answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Times a request is sent again after 429, 5xx, a cut connection or no answer in time."""
    reasks: Annotated[int, Field(ge=0, le=10)] = 2
    """Times a row is asked again when its answer holds no valid score."""

    @model_validator(mode="after")
    def _usable(self) -> JudgeConfig:
        # The address is written to results and messages: nothing secret may be in it. It is not repeated here either.
        if not _is_plain_address(self.base_url):
            raise ValueError("base_url must be http(s)://host[:port]/path without user, password, query or fragment")
        if (self.usd_per_million_input is None) != (self.usd_per_million_output is None):
            raise ValueError("give both usd_per_million_input and usd_per_million_output, or neither")
        return self


class ConventionsConfig(Section):
    """Single choices in which implementations of the field's measures differ; null: as in `base`."""

    base: Literal["defined", "open_unlearning"] = "defined"
    """Where the choices come from that are not given: the measures' definitions, or OpenUnlearning's code."""
    tail: Literal["eos", "last_label"] | None = None
    """What exact memorisation and extraction strength leave out at an answer's end: its end-of-sequence token if there
    is one, or the last label whatever it is."""
    membership_tail: Literal["eos", "last_label"] | None = None
    """The same for min-k, min-k++ and the gradient norm."""
    es_floor: Literal["none", "ou"] | None = None
    """The least extraction strength of a row of m tokens: 0, or (ou) 1/m."""
    empty: Literal["missing", "zero"] | None = None
    """Whether a row without tokens has no extraction strength, min-k and min-k++, or counts with 0."""
    wrong_mean: Literal["geometric", "arithmetic"] | None = None
    """How the probabilities of a row's wrong answers become one in the truth ratio. TOFU's paper has the arithmetic
    mean, its code the geometric one."""
    mask: Literal["length", "pad_id"] | None = None
    """What attention does not see: what pads a row, or every token with the id of the pad, also in a prompt."""
    gradient_mode: Literal["eval", "train"] | None = None
    """The model's mode for the gradient norm; in train mode dropout is active."""
    stemmer: bool | None = None
    """Whether ROUGE compares word stems. MUSE's own code does not."""
    rows: Literal["default", "open_unlearning"] | None = None
    """How prompts and answers are written as tokens ('icu_ray/data/prompt_styles.py' lists the differences)."""
    generation_end: Literal["turn", "text"] | None = None
    """Where what a chat model says ends: at any token that ends a turn or a text, or only at the end of text."""
    unmeasured: Literal["left_out", "nan"] | None = None
    """Whether a row without tokens is left out of the means of what is made of probabilities, or makes them NaN, so
    that there is no such number."""

    @property
    def chosen(self) -> dict[str, str | bool]:
        """The choices that are given, by name."""
        return {name: value for name, value in self if name != "base" and value is not None}

    @model_serializer
    def _as_written(self) -> dict[str, str | bool]:
        return {"base": self.base, **self.chosen}


_Word = Annotated[Literal["defined", "open_unlearning"], Tag("a-word")]
_Mapping = Annotated[ConventionsConfig, Tag("a-mapping")]


def _spelt(value: Any) -> str:
    return "a-word" if isinstance(value, str) else "a-mapping"


class EvaluationConfig(Section):
    """What every model of the sweep is evaluated on, the original ones too; by default nothing."""

    suites: tuple[Literal["lm_eval", "icu", "quick", "benchmark"], ...] = ()
    """lm_eval: nine tasks as the harness defines them. icu: as the authors ask them, dialogues and perplexities. quick:
    on held-out records of synthetic data. benchmark: what the benchmark asks that `data.source` names (tofu, muse,
    wmdp, rwku)."""
    tasks: tuple[Place, ...] = ()
    """Further tasks by name: of a suite, or any of lm-evaluation-harness."""
    trust_task_code: bool = False
    """Run the code that a YAML file of your own among `tasks` names (`!function`, classes, scripts as metrics)."""
    mirror: Place | None = None
    """Folder written by `icu-ray data mirror`; default: the hub."""
    limit: Count | None = None
    """Documents of each task; default: all."""
    conventions: Annotated[_Word | _Mapping, Discriminator(_spelt)] = "defined"
    """With benchmark: measures as they are defined, or with all choices of OpenUnlearning's code, so that the numbers
    can be compared with those that it prints; or a mapping of single choices, such as `{wrong_mean: arithmetic}` or
    `{base: open_unlearning, tail: eos}`."""
    membership: tuple[Literal["loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm"], ...] = ()
    """With benchmark: membership attacks on the rows to forget in addition to those of the benchmark's own table.
    gradnorm, the norm of each row's gradient, takes a backward pass per row; the others take nothing more than is
    measured anyway. The attack by reference needs only a retrained model and is always included."""
    paraphrased_questions: bool = False
    """With benchmark tofu: ask what is to be forgotten and what is to be kept in other words too (the data set's
    paraphrased_question), in addition to the questions themselves: probability, truth ratio and ROUGE."""
    dialogue_context: Literal["end", "start"] = "end"
    """Which part of a dialogue of more than 512 tokens the model reads; the authors' code cuts its end."""
    when: Literal["ends", "epochs"] = "ends"
    """Which models of a trial are evaluated: the one that it began with and the one that it leaves, or the one after
    each epoch too, which is kept on disk until it has been evaluated."""

    @field_validator("conventions", mode="after")
    @classmethod
    def _in_a_word(cls, given: str | ConventionsConfig) -> str | ConventionsConfig:
        return given.base if isinstance(given, ConventionsConfig) and not given.chosen else given

    @property
    def asked(self) -> bool:
        """Whether there is anything to evaluate."""
        return bool(self.suites or self.tasks)

    @property
    def by_epoch(self) -> bool:
        """Whether the models after each epoch are evaluated."""
        return self.asked and self.when == "epochs"

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> EvaluationConfig:
        if self.when == "epochs" and not self.asked:
            raise ValueError("when=epochs: there is nothing to evaluate; give suites or tasks, or leave it out")
        return self
