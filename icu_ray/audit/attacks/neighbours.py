"""Neighbours: what else was lost? The loss of kin rows before and after, by their distance from the forget rows.

A row's vector is the mean of the last hidden states of its tokens, special ones left out, by the original model where
it is given, else by the attacked one. The mean over all rows is subtracted, for states of language models share a large
common part that makes all of them look alike. Distance is 1 - cosine to the nearest forget row, 0 .. 2. The loss is the
mean over the tokens of a kin row's own secret. Where unlearning is precise, the nearest rows lose no more than the
farthest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from icu_ray.audit.attack import Target
from icu_ray.audit.beside import model_beside, secret_scores
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.rows import AuditRow
from icu_ray.data.prompts import special_ids
from icu_ray.metrics.answers import AnswerRow, Floats, avg_losses
from icu_ray.models.hidden import last_hidden

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel


@dataclass(frozen=True)
class Neighbours:
    """bins: of equally many kin rows, from the nearest on.

    measures of each kin row: `distance`, `loss` and, where the original model is given, `loss_before` and
    `loss_change`, nats a token. numbers: the means of each bin, `nearest_…` of the first, `farthest_…` of the last and
    `bin_2_…` between. The budget is the one forward that each row takes.
    """

    bins: int = 5

    name: ClassVar[str] = "neighbours"
    unit: ClassVar[str] = "forward passes"
    version: ClassVar[int] = 1
    changes_weights: ClassVar[bool] = False
    brings_back: ClassVar[bool] = False

    def run(self, target: Target) -> AttackResult:
        """A forward a row for the distances, and one a kin row and model for the losses."""
        kin, forget = target.material.kin, target.material.forget
        if not kin or not forget:
            return AttackResult((), missing=("no rows that the model was to keep: nothing to look for losses in",))
        original = model_beside(target, "original")
        distances = nearest_distances(target.loaded if original is None else original, kin, forget)
        target.on_part(0.5)
        measured: dict[str, Floats] = {
            "distance": distances,
            "loss": avg_losses(secret_scores(target.loaded.model, kin)),
        }
        missing = []
        if original is None:
            missing.append("no original model: there is no loss before, and distances are the unlearned model's own")
        else:
            measured["loss_before"] = avg_losses(secret_scores(original.model, kin))
            measured["loss_change"] = measured["loss"] - measured["loss_before"]
        known = _finite(np.stack(list(measured.values()), axis=1))
        if not known.all():
            missing.append(f"{int((~known).sum())} of {len(kin)} kin rows: a model's scores are not finite")
        findings = [
            Finding(row.id, "kin", "", 1.0, measures={name: float(each[place]) for name, each in measured.items()})
            for place, row in enumerate(kin)
            if known[place]
        ]
        target.on_part(1.0)
        return AttackResult(tuple(findings), self._by_distance(findings), tuple(missing))

    def _by_distance(self, findings: Sequence[Finding]) -> dict[str, float]:
        """The means of each bin; among equally distant rows their names decide."""
        order = sorted(findings, key=lambda each: (each.measures["distance"], each.row))
        numbers = {}
        parts = np.array_split(np.arange(len(order)), min(self.bins, max(1, len(order))))
        for place, part in enumerate(each for each in parts if len(each)):
            name = "nearest" if place == 0 else "farthest" if place == len(parts) - 1 else f"bin_{place + 1}"
            for measure in order[part[0]].measures:
                numbers[f"{name}_{measure}"] = float(np.mean([order[at].measures[measure] for at in part]))
        return numbers


def nearest_distances(loaded: LoadedModel, rows: Sequence[AuditRow], others: Sequence[AuditRow]) -> Floats:
    """(N,) 1 - cosine of each of N rows to the nearest of the others; NaN where states are not finite."""
    vectors = mean_states(loaded, [*rows, *others])
    whole = _finite(vectors)
    if not whole[len(rows) :].any():
        return np.full(len(rows), np.nan)
    vectors = vectors - vectors[whole].mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(norms, 1e-12)
    own, other = vectors[: len(rows)], vectors[len(rows) :][whole[len(rows) :]]
    found: Floats = 1 - (own @ other.T).max(axis=1)
    return np.maximum(found, 0.0)


def _finite(values: Floats) -> NDArray[np.bool_]:
    """(N,) of (N, M): whether all of a row's values are finite."""
    return np.logical_and.reduce(np.isfinite(values), axis=1, dtype=np.bool_)  # type: ignore[no-any-return]


def mean_states(loaded: LoadedModel, rows: Sequence[AuditRow]) -> Floats:
    """(N, H) mean over each row's tokens, but special ones, of the states that feed the output matrix."""
    import torch

    from icu_ray.metrics.answer_scores import blocks_of_rows

    special = special_ids(loaded.tokenizer)
    asked = [AnswerRow.after(row.tokens, len(row.tokens)) for row in rows]
    means: dict[AnswerRow, Floats] = {}
    device = loaded.model.device
    for block in blocks_of_rows(loaded.model, list(dict.fromkeys(asked))):
        width = max(len(row.ids) for row in block)
        ids = torch.tensor([row.ids + row.ids[:1] * (width - len(row.ids)) for row in block])
        counts = torch.zeros(ids.shape)
        for place, row in enumerate(block):
            texts = [token not in special for token in row.ids]
            counts[place, : len(row.ids)] = torch.tensor(texts if any(texts) else [True] * len(texts)).float()
        counts = (counts / counts.sum(1, keepdim=True)).to(device)
        with torch.inference_mode():
            hidden = last_hidden(loaded.model, ids.to(device), None).float()
            found = (hidden * counts[..., None]).sum(1).double().cpu().numpy()
        means |= dict(zip(block, found, strict=True))
    return np.stack([means[each] for each in asked])
