"""A quick look at which rows come back, cheap enough to be taken again and again while a model is trained.

    quick_audit(loaded, rows, leak=0.5)          # {"row-1": False, "row-2": True, ...}

Prefix search (the longest piece of the secret that any prefix of it brings back, a forward a row) with the weights as
they are, and with what 4 bits leave of them (NF4), which may undo small changes. With the rounded ones also the greedy
answer to the prompt, which sees a secret that is said with another word in it. Asking with the weights as they are too
would cost as much again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icu_ray.audit.asking import asked
from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.prefix_search import PrefixSearch
from icu_ray.audit.attacks.quantise import BITS, quantised
from icu_ray.audit.beside import own_length
from icu_ray.audit.rows import AuditRow, Material
from icu_ray.audit.verdict import is_back
from icu_ray.data.prompts import special_ids
from icu_ray.models.adapters import merged_meanwhile

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel


def quick_audit(loaded: LoadedModel, rows: Sequence[AuditRow], leak: float) -> dict[str, bool]:
    """Whether each row has come back, by id; of rows with one id (windows of a text), whether any has.

    leak: the part of the secret, 0..1, from which on it has. A row after which the scores of the model, as it is, are
    not finite counts as back: what is not measured is not forgotten. A row whose secret is special tokens alone is left
    out. The model is left as it was, bit for bit.
    """
    special = special_ids(loaded.tokenizer)
    rows = [row for row in rows if own_length(row, special)]
    target, attack = Target(loaded, Material(tuple(rows))), PrefixSearch()
    as_it_is = attack.run(target).findings
    with merged_meanwhile(loaded.model), quantised(loaded.model, "nf4"):
        rounded = (*attack.run(target).findings, *asked(loaded, rows, "forget", "nf4", BITS["nf4"]))
    unanswered = {each.row for each in as_it_is if each.recall is None}
    back = {each.row for each in (*as_it_is, *rounded) if is_back(each, leak)}
    return {row.id: row.id in back or row.id in unanswered for row in rows}
