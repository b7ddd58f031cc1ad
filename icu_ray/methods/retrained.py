"""The gold standard: the same model, trained without the texts to forget (exact unlearning).

A model of the grid asks for it by `retrained: true`; sweep/prepare.py trains it.
"""

from __future__ import annotations

from icu_ray.methods.original import Original


class Retrained(Original):
    """Trained anew without the forget sample, then measured and evaluated like the others; a plan gives it no epoch."""

    name = "retrained"
