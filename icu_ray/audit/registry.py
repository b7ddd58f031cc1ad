"""The attacks by name, as a config sets them.

    for attack in attacks_of(config.audit): ...

Importing this module imports no torch: an attack's file is read when the attack is made.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from icu_ray.audit.attack import Attack
from icu_ray.config.auditing import AttackName, AuditConfig
from icu_ray.models.fingerprints import source_fingerprint
from icu_ray.storage.store import JsonValue

SUMMARIES: dict[AttackName, str] = {
    "prompt": "asks in other ways: longer and shorter prompts, paraphrases, noise, examples, an affirmative start",
    "prefix_search": "looks for the prefix after which the model goes on longest word for word",
    "sample": "draws many answers; how likely one of k of them holds the secret (leak@k)",
    "quantise": "rounds the weights to 8 and 4 bits, which may undo small changes",
    "relearn": "fine-tunes for a few steps on a part of the texts, or on others, and asks again",
    "adapter_off": "asks the base without the adapter that unlearning added",
    "membership": "tells the texts from held-out ones by their likelihood",
    "depth": "looks in which layers the knowledge is left, against a retrained model (UDS)",
    "neighbours": "measures what else was lost, by distance to the texts",
}
"""What each attack does, in a line."""
USES: dict[str, tuple[str, ...]] = {
    "relearn": ("retrained",),
    "membership": ("retrained",),
    "depth": ("original", "retrained"),
    "neighbours": ("original",),
}
"""Which other models an attack compares with; without them it measures less, and says so."""
ASKS_PARAPHRASES = ("prompt",)
"""Attacks that read the paraphrases of rows; the findings of others do not depend on them."""


def attacks_of(config: AuditConfig) -> tuple[Attack, ...]:
    """The attacks that a section `audit` asks for, in its order."""
    return tuple(attack_of(name, config) for name in config.names)


def attack_of(name: AttackName, config: AuditConfig) -> Attack:
    """One attack with its settings."""
    if name == "relearn":
        from icu_ray.audit.attacks.relearn import Relearn

        asked = config.relearn
        return Relearn(budgets=(0, *asked.steps), lr=asked.lr, batch=asked.batch_size)
    if name == "sample":
        from icu_ray.audit.attacks.sample import Sample

        drawn = config.sample
        return Sample(drawn.samples, drawn.temperatures, threshold=config.leak, nli=drawn.nli)
    return _of_default(name)


def _of_default(name: AttackName) -> Attack:
    if name == "quantise":
        from icu_ray.audit.attacks.quantise import Quantise

        return Quantise()
    if name == "prompt":
        from icu_ray.audit.attacks.prompts import Prompts

        return Prompts()
    if name == "prefix_search":
        from icu_ray.audit.attacks.prefix_search import PrefixSearch

        return PrefixSearch()
    if name == "membership":
        from icu_ray.audit.attacks.membership import Membership

        return Membership()
    if name == "depth":
        from icu_ray.audit.attacks.depth import Depth

        return Depth()
    if name == "adapter_off":
        from icu_ray.audit.attacks.adapter_off import AdapterOff

        return AdapterOff()
    from icu_ray.audit.attacks.neighbours import Neighbours

    return Neighbours()


def identity_of(attack: Attack) -> dict[str, JsonValue]:
    """What decides an attack's findings on given rows of a given model. An NLI model is known by its content, or by the
    commit that a hub's has here."""
    settings: dict[str, Any] = asdict(attack)  # type: ignore[call-overload]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    if (nli := settings.get("nli")) is not None:
        # Raised when what such a model brings changes; results without one stay where they are.
        plain["nli"] = {**source_fingerprint(nli), "version": 2}
    return {"attack": attack.name, "version": attack.version, "settings": plain}
