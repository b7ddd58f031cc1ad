"""Second answers to the targets of one sample, for the trials of one model: what is drawn, and the rows that they make.

answers = second_answers(plan, model, corpus, sample, needs, invented)     # for an ArtefactRequest
"""

from __future__ import annotations

from collections.abc import Sequence

from icu_ray.config import ModelConfig
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Examples
from icu_ray.data.second_answers import AnswerDraws, Answers, answered, answers_fingerprint
from icu_ray.data.sources import answers_of
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan
from icu_ray.trial.artefacts import Needs


def second_answers(
    plan: Plan,
    model: ModelConfig,
    corpus: Corpus,
    sample: int,
    needs: Needs,
    invented: Sequence[tuple[str, ...]] | None,
) -> dict[Answers, tuple[AnswerDraws, Examples]]:
    """Of each kind that is needed. invented: the model's own alternates of each target, where it was asked for them.

    UserError for answers of a file that has changed since the plan was made.
    """
    if not needs.answers:
        return {}
    found: dict[Answers, tuple[AnswerDraws, Examples]] = {}
    epochs, targets = plan.config.most_epochs(model), corpus.to_forget(sample)
    known = answers_of(plan.config, corpus, sample)
    planned = None if plan.data is None else plan.data.samples[sample].answers
    for kind in needs.answers:
        if kind == "alternates" and invented is not None:
            texts = tuple(invented)
        else:
            texts = known[kind]
            if planned is not None and planned.get(kind) != answers_fingerprint(texts):
                raise UserError(f"answers: the {kind} have changed since the sweep was planned")
        draws = AnswerDraws(tuple(targets.ids), tuple(map(len, texts)), plan.config.all_seeds, epochs)
        found[kind] = draws, answered(targets, draws, texts)
    return found
