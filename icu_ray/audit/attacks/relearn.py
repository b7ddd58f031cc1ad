"""Does a text come back when the model is fine-tuned a little, on others of the texts or on something else?

    Relearn(budgets=(0, 20, 100)).run(Target(loaded, material))

Unlearned models often say their forgotten texts again after a few steps on some of these, or on none (Hu et al.,
"Unlearning or obfuscating?", arXiv 2406.13356; Lynch et al., "Eight methods", arXiv 2402.16835). The steps here are on

own: a share of the forget rows, and asked for are the others;
kin: rows of the same kind that the model was to keep, and asked for are all forget rows;
other: sentences about nothing in particular (plain_sentences.py), and asked for are all forget rows.

Control rows are asked for as well: what comes back of them is what learning the style of such rows brings. No secret is
asked for that is taught: 'own' leaves out forget rows with such a one, 'kin' does not teach secrets of forget rows, and
after both, control rows with one that was taught are left out.

R = min(gain of the retrained model / gain of this one, 1), gain being how much the mean over the asked forget rows of
exp(-mean loss of the secret) rises: 1 where the model learns no faster than one that has never read the rows, or gains
nothing ("OpenUnlearning", arXiv 2506.12618; there for steps on all forget rows).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from icu_ray.audit.asking import asked, asked_all, losses_of, mean_probability, missing_of
from icu_ray.audit.attack import Target
from icu_ray.audit.beside import load_beside
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.plain_sentences import plain_sentences
from icu_ray.audit.recite import apart, cut_secrets
from icu_ray.audit.rows import AuditRow, Material
from icu_ray.errors import UserError
from icu_ray.metrics.answers import AnswerRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icu_ray.models.loading import LoadedModel

Source: TypeAlias = Literal["own", "kin", "other"]
Optimizer: TypeAlias = Literal["adamw", "sgd"]
SETTINGS: Mapping[str, str] = {"own": "own rows", "kin": "kin rows", "other": "other texts"}
OTHER_TEXTS = 256
ROWS_AT_ONCE = 8
"""Rows of a forward with gradients; a step adds up those of its batch."""


@dataclass(frozen=True)
class Relearn:
    """budgets: the numbers of steps after which rows are asked for, as they are before all steps (0). sources: what the
    steps are on. share: of the forget rows, for 'own'. lr: learning rate; its default is for real models, stand-ins
    need some 1e-3. batch: rows of a step. optimizer: AdamW without weight decay, or plain gradient descent. seed: of
    which rows, and of their order.

    The loss of a step is the mean over its rows of the mean loss of a row's secret, what ends it included; of other
    texts all but the first token is scored. Steps are in float32 whatever the model was in, for in bfloat16 most of so
    small steps would be lost to rounding, and the model would seem to hold. That takes 20 bytes a parameter with AdamW:
    weights, gradients and two moments on the model's device, and a copy of the weights on the CPU, from which each
    source begins. Beside a retrained model (`originals['retrained']`) it is twice that.
    """

    name: ClassVar[str] = "relearn"
    unit: ClassVar[str] = "steps"
    version: ClassVar[int] = 3
    changes_weights: ClassVar[bool] = True
    brings_back: ClassVar[bool] = True

    budgets: tuple[int, ...] = (0, 5, 10, 20, 50, 100)
    sources: tuple[Source, ...] = ("own", "kin", "other")
    share: float = 0.5
    lr: float = 2e-5
    batch: int = 32
    optimizer: Optimizer = "adamw"
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [each for each in self.sources if each not in get_args(Source)]
        if wrong:
            raise UserError(f"relearn: source '{wrong[0]}' is none; expected some of {', '.join(get_args(Source))}")
        if self.optimizer not in get_args(Optimizer):
            raise UserError(f"relearn: optimizer '{self.optimizer}' is none; expected adamw or sgd")
        if not self.budgets or min(self.budgets) < 0:
            raise UserError(f"relearn: budgets {list(self.budgets)}; expected numbers of steps, 0 or more")
        if not 0 < self.share < 1:
            raise UserError(f"relearn: share {self.share}; expected a part of the forget rows, above 0 and below 1")
        if self.batch < 1 or self.lr <= 0:
            raise UserError(f"relearn: batch {self.batch}, lr {self.lr}; expected at least 1, and more than 0")

    def run(self, target: Target) -> AttackResult:
        """Numbers, SOURCE being own, kin or other, and N a budget: `probability_SOURCE@N`, of the asked forget rows;
        with a retrained model `retrained_probability_SOURCE@N`, `retrained_recall_SOURCE@N` and `r_SOURCE@N`, N > 0.

        The weights are afterwards those of the last steps, in float32.
        """
        material, loaded = target.material, target.loaded
        lessons = {source: self.lesson(source, material, loaded.tokenizer) for source in self.sources}
        missing = [lesson for lesson in lessons.values() if isinstance(lesson, str)]
        taught = {source: lesson for source, lesson in lessons.items() if isinstance(lesson, Lesson)}
        for source, lesson in taught.items():
            if left := len(material.control) - len(lesson.control):
                missing.append(
                    f"{SETTINGS[source]}: {left} of {len(material.control)} control rows are not asked for, for their "
                    "secrets are among those that are taught"
                )
        retrained = self._retrained(target, missing) if taught else None
        parts = _Parts(target, len(taught) * len({0, *self.budgets}) * (1 if retrained is None else 2))
        findings: list[Finding] = []
        numbers: dict[str, float] = {}
        for source, budget, lesson in self._steps(loaded, taught):
            found = asked_all(loaded, Material(lesson.asked, lesson.control), SETTINGS[source], budget)
            findings += found
            numbers[f"probability_{source}@{budget}"] = mean_probability(losses_of(found))
            parts.one_more()
        if retrained is not None:
            for source, budget, lesson in self._steps(retrained, taught):
                own = asked(retrained, lesson.asked, "forget", SETTINGS[source], budget)
                numbers[f"retrained_probability_{source}@{budget}"] = mean_probability(losses_of(own))
                recalls = [each.recall for each in own if each.recall is not None]
                numbers[f"retrained_recall_{source}@{budget}"] = float(np.mean(recalls)) if recalls else np.nan
                parts.one_more()
        numbers |= _scores(numbers, list(itertools.product(taught, sorted({*self.budgets} - {0}))))
        known = {name: value for name, value in numbers.items() if np.isfinite(value)}
        return AttackResult(tuple(findings), known, (*missing, *missing_of(findings), *cut_secrets(material.forget)))

    def lesson(self, source: Source, material: Material, tokenizer: PreTrainedTokenizerBase) -> Lesson | str:
        """What is taught and which rows are asked for; a sentence where there is nothing to teach or to ask for."""
        setting = SETTINGS[source]
        if not material.forget:
            return f"{setting}: there is no forget row to ask for"
        if source == "other":
            texts = plain_sentences(OTHER_TEXTS, self.seed)
            return Lesson(_whole_texts(texts, tokenizer), material.forget, material.control)
        if source == "kin":
            kin = apart(self._in_order(material.kin), material.forget, tokenizer)
            if not kin:
                return f"{setting}: there are no rows of the same kind, with other secrets, that the model was to keep"
            return Lesson(_answers(kin), material.forget, apart(material.control, kin, tokenizer))
        order = self._in_order(material.forget)
        # Windows of one text have one id, and share words: a text is taught or asked for, whole.
        names = list(dict.fromkeys(row.id for row in order))
        taught = set(names[: max(1, round(self.share * len(names)))])
        own = [row for row in order if row.id in taught]
        others = apart((row for row in material.forget if row.id not in taught), own, tokenizer)
        if not others:
            return f"{setting}: of {len(names)} forget rows none is left to ask for beside those that are taught"
        return Lesson(_answers(own), others, apart(material.control, own, tokenizer))

    def _in_order(self, rows: Sequence[AuditRow]) -> list[AuditRow]:
        """In an order by seed, id and tokens alone."""
        return sorted(rows, key=lambda row: hashlib.sha256(repr((self.seed, row.id, row.tokens)).encode()).digest())

    def _steps(self, loaded: LoadedModel, lessons: Mapping[Source, Lesson]) -> Iterator[tuple[Source, int, Lesson]]:
        """At each source's budgets, with the model as it is then; each source begins from the model's own weights."""
        import torch

        model = loaded.model.float()  # type: ignore[no-untyped-call]
        kept = [weight.detach().cpu().clone() for weight in model.parameters()]
        for source, lesson in lessons.items():
            with torch.no_grad():
                for weight, own in zip(model.parameters(), kept, strict=True):
                    weight.copy_(own)
            budgets = (0, *self.budgets)
            for budget in relearned(
                model, lesson.texts, budgets, self.optimizer, self.lr, batch=self.batch, seed=self.seed
            ):
                yield source, budget, lesson

    def _retrained(self, target: Target, missing: list[str]) -> LoadedModel | None:
        """The model that has never read the rows; without one that can be compared, a sentence says why."""
        source = target.material.originals.get("retrained")
        if source is None:
            missing.append("R: there is no model that was retrained without the forget rows")
            return None
        try:
            return load_beside(target.loaded, source)
        except UserError as error:
            missing.append(f"R: the retrained model cannot be read beside this one: {error}")
            return None


@dataclass(frozen=True)
class Lesson:
    """texts: what is taught, the labelled tokens of each. asked, control: the forget and control rows that are asked
    for, whose secrets are not taught."""

    texts: tuple[AnswerRow, ...]
    asked: tuple[AuditRow, ...]
    control: tuple[AuditRow, ...]


def relearning_score(gain: float, retrained_gain: float) -> float:
    """R, at most 1: the retrained model's gain over this one's; 1 where this one gains nothing."""
    return 1.0 if gain <= 0 else min(retrained_gain / gain, 1.0)


def relearned(
    model: PreTrainedModel,
    texts: Sequence[AnswerRow],
    budgets: Sequence[int],
    optimizer: Optimizer,
    lr: float,
    *,
    batch: int,
    seed: int,
) -> Iterator[int]:
    """Each budget, ascending, when so many steps are done; the model is in eval mode and changed in place.

    Batches go through the texts in a shuffled order, over and over.
    """
    import torch

    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(True)
    weights = list(model.parameters())
    steps: torch.optim.Optimizer = (
        torch.optim.SGD(weights, lr=lr) if optimizer == "sgd" else torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    )
    stream = _endless(texts, random.Random(seed))
    done = 0
    for budget in sorted(set(budgets)):
        for _ in range(budget - done):
            steps.zero_grad()
            _add_gradients(model, list(itertools.islice(stream, min(batch, len(texts)))))
            steps.step()
        done = budget
        steps.zero_grad()  # frees them while the model is asked
        yield budget


def _endless(texts: Sequence[AnswerRow], generator: random.Random) -> Iterator[AnswerRow]:
    while True:
        yield from generator.sample(texts, len(texts))


def _add_gradients(model: PreTrainedModel, texts: list[AnswerRow]) -> None:
    """The gradient of the mean over the texts of each one's mean loss."""
    import torch
    from torch.nn import functional

    # The longest first: if they do not fit into memory, nothing has been computed in vain.
    texts = sorted(texts, key=lambda text: -len(text.ids))
    for begin in range(0, len(texts), ROWS_AT_ONCE):
        some = texts[begin : begin + ROWS_AT_ONCE]
        width = len(some[0].ids)
        # What pads a row stands behind its end, where a causal model does not look from before.
        ids = torch.tensor([text.ids + text.ids[:1] * (width - len(text.ids)) for text in some])
        labels = torch.tensor([text.labels + (-100,) * (width - len(text.ids)) for text in some])
        parts = torch.tensor([1 / (len(text.scored) * len(texts)) for text in some])
        wanted = labels[:, 1:].to(model.device)
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none")
        (losses.view(wanted.shape).sum(1) * parts.to(model.device)).sum().backward()  # type: ignore[no-untyped-call]


def _answers(rows: Sequence[AuditRow]) -> tuple[AnswerRow, ...]:
    return tuple(AnswerRow.after(row.tokens, row.given) for row in rows)


def _whole_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[AnswerRow, ...]:
    from icu_ray.data.specials import encode, specials_of

    specials = specials_of(tokenizer)
    whole = ([*specials.lead, *ids, *specials.trail] for ids in encode(tokenizer, texts))
    return tuple(AnswerRow.after(ids, 1) for ids in whole if len(ids) > 1)


def _scores(numbers: Mapping[str, float], places: Sequence[tuple[Source, int]]) -> dict[str, float]:
    """R of sources and budgets, from the probabilities there and before all steps."""
    found = {}
    for source, budget in places:
        gains = [
            numbers.get(f"{whose}probability_{source}@{budget}", np.nan)
            - numbers.get(f"{whose}probability_{source}@0", np.nan)
            for whose in ("", "retrained_")
        ]
        if np.isfinite(gains).all():
            found[f"r_{source}@{budget}"] = relearning_score(*gains)
    return found


class _Parts:
    """Tells how much is done, of so many times that rows are asked for."""

    def __init__(self, target: Target, count: int) -> None:
        self.target, self.count, self.done = target, count, 0

    def one_more(self) -> None:
        self.done += 1
        self.target.on_part(self.done / self.count)
