"""The unlearning methods, one short file each beside its formula, and their registry.

    method = methods.get("icu", alpha=0.5, beta=1.0); terms = method.loss(model, batch)

Read `icu.py` beside the paper, then any other method: `objective.py` has the terms they add up. `base.py` is what a
method is, `forget_retain.py` what the field's have in common, `batch.py` what one is given, `cost.py` what a step
takes, for plans. `losses.py` computes an objective, `vocabulary_loss.py` the part with the logits by the terms of
`vocabulary_terms.py`; `weights.py` says which tokens count; `learn.py` is plain fine-tuning, for models that are to
know the texts; `module.py` makes one module of model and method for an engine.
Methods must not know Ray, DeepSpeed or files.

A package adds a method by an entry point, without touching icu_ray:

    [project.entry-points."icu_ray.methods"]
    mine = "my_package.my_module:Mine"        # a subclass of icu_ray.methods.base.Method

`names()` lists, `described()` says what one does, `get()` builds. None of them imports torch. A plug-in that cannot be
imported is named when it is asked for (and by `broken()`); all others go on working.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from icu_ray.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from icu_ray.config import LossConfig, MethodConfig, StepConfig
    from icu_ray.methods.base import Method, Setting

GROUP = "icu_ray.methods"
RETRAINED = "retrained"
"""The gold standard's row, which a model of the grid asks for and no config's `methods`."""
BUILT_IN: Mapping[str, str] = {
    "icu": "icu_ray.methods.icu:Icu",
    "kumpr": "icu_ray.methods.kumpr:Kumpr",
    "kl": "icu_ray.methods.kl:Kl",
    "llmu": "icu_ray.methods.llmu:Llmu",
    "po": "icu_ray.methods.po:Po",
    "dpo": "icu_ray.methods.dpo:Dpo",
    "npo": "icu_ray.methods.npo:Npo",
    "graddiff": "icu_ray.methods.graddiff:GradDiff",
    "wga": "icu_ray.methods.wga:Wga",
    "satimp": "icu_ray.methods.satimp:SatImp",
    "simnpo": "icu_ray.methods.simnpo:SimNpo",
    "ceu": "icu_ray.methods.ceu:CeU",
    "undial": "icu_ray.methods.undial:Undial",
    "pdu": "icu_ray.methods.pdu:Pdu",
    "idkdpo": "icu_ray.methods.idkdpo:IdkDpo",
    "idknll": "icu_ray.methods.idknll:IdkNll",
    "altpo": "icu_ray.methods.altpo:AltPo",
    "rmu": "icu_ray.methods.rmu:Rmu",
    "task_vector": "icu_ray.methods.task_vector:TaskVector",
    "original": "icu_ray.methods.original:Original",
    "retrained": "icu_ray.methods.retrained:Retrained",
}
_log = logging.getLogger(__name__)


def names() -> tuple[str, ...]:
    """Every name that a config may give: built-in methods in the paper's order, then plug-ins by name."""
    return (*(name for name in BUILT_IN if name != RETRAINED), *sorted(_plug_ins()))


def broken() -> dict[str, str]:
    """Plug-ins that cannot be used, with the reason; imports them all."""
    reasons = {}
    for name, point in _plug_ins().items():
        try:
            _load_plug_in(name, point)
        except UserError as error:
            reasons[name] = str(error)
    return reasons


def method_class(name: str) -> type[Method]:
    """The class behind a name; UserError for an unknown name or a broken plug-in."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Method] = getattr(importlib.import_module(module), attribute)
        return found
    points = _plug_ins()
    if name not in points:
        raise UserError(f"method '{name}' is not known{did_you_mean(name, names())}; known: {', '.join(names())}")
    return _load_plug_in(name, points[name])


@dataclass(frozen=True)
class Described:
    """A method for people. weights: what of alpha, beta and its own settings it uses. summary: one sentence."""

    weights: str
    summary: str


def described(name: str) -> Described:
    """What a method says of itself; of a broken plug-in, what is wrong with it."""
    try:
        method = method_class(name)
    except UserError as error:
        return Described("", str(error))
    used = [word for word, is_used in (("alpha", method.uses_alpha), ("beta", method.uses_beta)) if is_used]
    text = sys.modules[method.__module__].__doc__ or method.__doc__ or ""
    return Described(", ".join([*used, *method.defaults]), " ".join(text.strip().split("\n\n")[0].split()))


def get(
    name: str,
    *,
    alpha: float | None = None,
    beta: float = 1.0,
    settings: Mapping[str, Setting] | None = None,
    loss: LossConfig | None = None,
    step: StepConfig | None = None,
) -> Method:
    """A method with its hyper-parameters (alpha None: its own default); `loss` says span, reduction, form of the
    divergence and chunk. step: the rule that makes steps of its gradients."""
    made = method_class(name)(alpha, beta, settings, loss)
    made.step = step
    return made


def cells(method: MethodConfig) -> tuple[tuple[float, float], ...]:
    """The (alpha, beta) cells of a config's method in their written order; UserError for an unknown one."""
    return method.grid(method_class(method.name).usual_alpha(method.settings))


def _plug_ins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN:
            _log.warning("plug-in method '%s' (%s) is ignored: a built-in has that name", point.name, point.value)
        else:
            found[point.name] = point
    return found


def _load_plug_in(name: str, point: EntryPoint) -> type[Method]:
    from icu_ray.methods.base import Method

    origin = f"method '{name}' of plug-in {point.dist.name if point.dist else '?'} ({point.value})"
    try:
        loaded = point.load()
    except Exception as error:  # a stranger's import may fail in any way, and must not stop the other methods
        raise UserError(f"{origin} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise UserError(f"{origin}: expected a subclass of icu_ray.methods.base.Method, found {loaded!r}")
    return loaded
