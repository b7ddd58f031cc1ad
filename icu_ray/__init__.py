"""icu_ray: iterative contrastive unlearning of language models on Ray.

    from icu_ray import probe, sweep, unlearn

The three are those of icu_ray/notebook.py. `import icu_ray` imports neither them nor Ray nor torch: each is fetched
when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icu_ray.notebook import probe, sweep, unlearn

__all__ = ["probe", "sweep", "unlearn"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from icu_ray import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
