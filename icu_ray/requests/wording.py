"""Errors of a deletion request in the words of who made it: `--retain`, where the config behind it says `data.pool`.

    with named_as_typed("--{}".format, overrides=["optim.lr=1e-5"]): unlearn(...)

    @with_arguments_named
    def unlearn(model, *, retain, text_column, overrides): ...          # from Python: `retain`

A key that was typed itself, as an override, keeps its name. `python_call` writes a call from Python for the record.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from icu_ray.errors import ClusterError, UserError

_P = ParamSpec("_P")
_R = TypeVar("_R")
OPTIONS: Mapping[str, str] = {
    "data.forget": "forget",
    "data.pool": "retain",
    "data.heldout": "heldout",
    "data.text_column": "text-column",
    "data.prompt_column": "prompt-column",
    "data.completion_column": "completion-column",
    "data.messages_column": "messages-column",
    "data.template": "template",
    "data.id_column": "id-column",
    "data.subject_column": "subject-column",
    "data": "forget",
    "models.0.source": "model",
    "models.0.standin.size": "model",
    "models.0.workers": "workers",
    "models.0.gpus_per_worker": "gpus",
    "models.0.precision": "precision",
    "gpus_per_worker": "gpus",
    "methods.0.name": "method",
    "methods.0.alpha": "alpha",
    "methods.0.beta": "beta",
    "methods": "method",
    "columns.length": "length",
    "columns": "length",
    "storage": "out",
    "evaluation.suites": "suite",
    "evaluation.mirror": "mirror",
}
"""Keys of the config that a request becomes, and the option that each is made of."""
ORIGIN = "icu-ray unlearn: "
"""Before what a config says of itself: of a request it is said already, or there is no command."""


@contextlib.contextmanager
def named_as_typed(option: Callable[[str], str], overrides: Iterable[str]) -> Iterator[None]:
    """A UserError from inside names options, as `option` writes them, in place of keys that are not in `overrides`."""
    try:
        yield
    except ClusterError:
        raise
    except UserError as error:
        raise UserError(as_typed(str(error), option, overrides)) from error


def with_arguments_named(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function whose UserErrors name its arguments; its `overrides` is a mapping of keys."""

    @functools.wraps(function)
    def named(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        overrides = kwargs.get("overrides") or {}
        with named_as_typed(lambda option: option.replace("-", "_"), overrides):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return named


def as_typed(message: str, option: Callable[[str], str], overrides: Iterable[str] = ()) -> str:
    """`message` with options for keys. One that is a plain word counts where a line begins with it, or after 'set'."""
    typed = [override.partition("=")[0] for override in overrides]
    for key, name in OPTIONS.items():
        if any(key == each or key.startswith(f"{each}.") for each in typed):
            continue
        plain = key.isalpha()
        before = rf"(?m)((?:^(?:{ORIGIN})?|\bset ))" if plain else r"((?<![\w.]))"
        after = r"(?=[: ])" if plain else r"(?:\.\d+)?(?!\w|\.\w)"
        message = re.sub(rf"{before}{re.escape(key)}{after}", _put(option(name)), message)
    return re.sub(rf"(?m)^{ORIGIN}", "", message)


def _put(name: str) -> Callable[[re.Match[str]], str]:
    return lambda found: found[1] + name


def python_call(name: str, function: Callable[..., object], given: Mapping[str, object]) -> str:
    """A call as one would type it, without the arguments that have their default."""
    defaults = {each.name: each.default for each in inspect.signature(function).parameters.values()}
    said = [f"{key}={_typed(value)!r}" for key, value in given.items() if value != defaults[key]]
    return f"{name}({', '.join(said)})"


def _typed(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _typed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_typed(each) for each in value]
    return str(value) if isinstance(value, Path) else value
