"""Config keys that a ledger sets itself: as overrides they would break what it vouches for, and are refused.

    refuse_keys(["storage=s3://bucket"], at_run=True)          # UserError, with what to do instead

Refused are the places of what a run reads and leaves, models that are not kept, a search, and passwords, which would
stand in the ledger and in bundles for good. That a run is one trial is seen in its plan (`one_trial`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icu_ray.config.file import apply_override
from icu_ray.errors import UserError, without_secrets
from icu_ray.plan.grid import Plan

_PLACES = {
    "name": "each run has a name of its own; leave it out",
    "storage": "runs leave what they make in the ledger's folder; make the ledger where there is room",
    "data.source": "a ledger is for files of texts; leave it out",
    "data.forget": "texts to forget are entered with 'icu-ray requests add'",
    "data.pool": "give --retain to 'icu-ray requests init'",
    "data.heldout": "give --heldout to 'icu-ray requests init'",
    "models.0.source": "give --model to 'icu-ray requests init'",
    "search": "a run of a ledger is one trial; set one value of each key",
}


def refuse_keys(overrides: Sequence[str], *, at_run: bool) -> None:
    """UserError for an override that is the ledger's own to set. at_run: not for all runs (`init`) but for one."""
    for override in overrides:
        key = override.partition("=")[0]
        if without_secrets(override) != override:
            raise UserError(
                f"{key}: holds a user, a password or a token, which would stand in the ledger for good; give it "
                "without them (MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
        for name, value in _leaves(apply_override({}, override)):
            known = next((each for each in _PLACES if name == each or name.startswith(f"{each}.")), None)
            if known is not None:
                raise UserError(f"{key}: the ledger sets {known} itself; {_PLACES[known]}")
            if name == "resources.keep_models" and value is not True:
                raise UserError(f"{key}: a ledger keeps the model of each version; leave it out")
            if at_run and name.startswith("data."):
                raise UserError(
                    f"{key}: which texts there are, and how they are written, is the same for all runs of a ledger; "
                    "give it to 'icu-ray requests init'"
                )


def _leaves(node: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a tree with its dotted key; an empty section or list is one."""
    items = list(node.items()) if isinstance(node, Mapping) else list(enumerate(node)) if isinstance(node, list) else []
    if not items:
        yield before.removesuffix("."), node
    for key, value in items:
        yield from _leaves(value, f"{before}{key}.")


def one_trial(plan: Plan) -> None:
    """UserError unless a plan has one trial."""
    if len(plan.trials) != 1:
        raise UserError(
            f"the settings make {len(plan.trials)} trials; expected one, for a run of a ledger makes one version: set "
            "one value of each key, one model, one method and one seed"
        )
