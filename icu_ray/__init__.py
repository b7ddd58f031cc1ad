"""icu_ray: iterative contrastive unlearning of language models on Ray.

From Python: `from icu_ray.api import probe, sweep, unlearn`. Importing `icu_ray` itself imports neither Ray nor torch.
"""

__version__ = "0.1.0"
