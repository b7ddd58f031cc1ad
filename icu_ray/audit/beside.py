"""What several attacks need: models beside the one that is attacked, and its teacher-forced scores.

original = model_beside(target, "original")        # None where there is none
scores = secret_scores(loaded.model, rows)               # of each row's secret after its prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icu_ray.audit.attack import Target
from icu_ray.audit.rows import AuditRow
from icu_ray.errors import UserError
from icu_ray.metrics.answers import AnswerRow, AnswerScores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icu_ray.models.loading import LoadedModel


def model_beside(target: Target, role: str) -> LoadedModel | None:
    """The model of `Material.originals` with this role, on the target's device and in its precision."""
    source = target.material.originals.get(role)
    return None if source is None else load_beside(target.loaded, source)


def load_beside(loaded: LoadedModel, source: str, revision: str | None = None) -> LoadedModel:
    """Another model, on the device and in the precision of `loaded`.

    UserError where its vocabulary is another: the rows are tokens of the attacked model.
    """
    import torch

    from icu_ray.models.loading import load_model

    found = load_model(
        source,
        revision=revision,
        # A class from a repository's own code is one that the user has trusted.
        trust_remote_code=type(loaded.model).__module__.startswith("transformers_modules."),
        dtype="bfloat16" if loaded.model.dtype == torch.bfloat16 else "float32",
    )
    if found.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"model {source}: its tokenizer has another vocabulary than that of the model that is attacked; expected "
            "the same, for both read the same tokens"
        )
    found.model.to(loaded.model.device)  # type: ignore[arg-type]
    return found


def secret_scores(model: PreTrainedModel, rows: Sequence[AuditRow]) -> list[AnswerScores]:
    """What a forward says of the tokens of each row's secret, given its prompt; those that end it included."""
    from icu_ray.metrics.answer_scores import answer_scores

    return answer_scores(model, [AnswerRow.after(row.tokens, row.given) for row in rows])


def own_length(row: AuditRow, special: frozenset[int]) -> int:
    """Tokens of the secret without the special ones that end it; `special`: data.prompts.special_ids."""
    secret = row.secret_ids
    count = len(secret)
    while count and secret[count - 1] in special:
        count -= 1
    return count
