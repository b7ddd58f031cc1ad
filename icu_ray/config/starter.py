"""A config to start from: few keys, each with its sentence above it.

Path("mine.yaml").write_text(starter_config(Path("mine.yaml"), None, None, None, gpus=0))
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icu_ray.config.file import resolve_config
from icu_ray.config.keys import all_keys, written
from icu_ray.config.section import as_name

_WIDTH = 79
_HEAD = """\
# What it would run:   icu-ray plan {path}
# Run or continue it:  icu-ray sweep {path}
# What a key means:    icu-ray explain KEY     (all keys: icu-ray explain)
# Other methods:       icu-ray list methods
"""


def starter_config(
    path: Path,
    model: str | None,
    forget: str | None,
    retain: str | None,
    gpus: int,
    rows: Mapping[str, Any] | None = None,
    heldout_rows: int = 16,
) -> str:
    """The YAML of the file `path`. model: hub id or folder, None: a stand-in. forget, retain: files of texts.

    gpus: of each worker. Without forget: made-up records. rows: keys of the section `data` that say how the files are
    written; None: as texts. heldout_rows: of `retain`. UserError for what cannot be a config.
    """
    tree: dict[str, Any] = {"name": as_name(path.stem, "mine"), "storage": "./runs"}
    if model is None:
        tree["models"] = [{"name": "small", "standin": {"size": "small", "target_repeats": 6}}]
        # As in the quickstart: a stand-in needs larger steps and a larger beta than a real model.
        method: dict[str, Any] = {"name": "icu", "alpha": 0.5, "beta": [4.0, 8.0]}
        more: dict[str, Any] = {
            "columns": {"length": 128, "prefix_start": 64, "suffix_start": 96},
            "optim": {"lr": 5e-4},
            "pairs": {"encoder": "bundled"},
            "filter": {"encoder": "bundled", "encoder_layer": 6},
        }
    else:
        tree["models"] = [
            {"name": as_name(Path(model).name, "model"), "source": model, "workers": 1, "gpus_per_worker": gpus}
        ]
        method = {"name": "icu", "alpha": 0.5, "beta": [0.5, 1.0]}
        more = {"optim": {"lr": 5e-6}}
    if forget is None:
        data: dict[str, Any] = {"source": "synthetic", "records": 640, "sample_size": 16, "heldout": 64}
    else:
        data = {"source": "records", "forget": forget, **(rows or {"text_column": "text"})}
        if retain is not None:
            data |= {"pool": retain, "heldout_rows": heldout_rows}
    if forget is not None and retain is None:
        method = {"name": "kumpr"}  # without texts to keep there are no pairs
    tree |= {"data": data, "methods": [method], **more, "stop": {"max_epochs": 30}}
    if forget is None:
        tree["evaluation"] = {"suites": ["quick"]}
    resolve_config(tree, "icu-ray init")
    return _HEAD.format(path=path) + "\n" + "\n".join(_lines(tree, "", 0)) + "\n"


def _lines(tree: Mapping[str, Any], prefix: str, indent: int) -> Iterator[str]:
    kind = f"source: {tree['source']}" if prefix == "data." else ""
    meanings = {key.plain(): key.meaning for key in all_keys() if key.of in ("", kind)}
    begin = " " * indent
    for key, value in tree.items():
        meaning = textwrap.wrap(meanings[prefix + key], _WIDTH - len(f"{begin}# "), break_long_words=False)
        yield from (f"{begin}# {line}" for line in meaning)
        if isinstance(value, Mapping):
            yield f"{begin}{key}:"
            yield from _lines(value, f"{prefix}{key}.", indent + 2)
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            yield f"{begin}{key}:"
            for item in value:
                lines = list(_lines(item, f"{prefix}{key}.", indent + 4))
                first = next(place for place, line in enumerate(lines) if not line.lstrip().startswith("#"))
                yield from (line.removeprefix("  ") for line in lines[:first])
                yield f"{begin}  - {lines[first].lstrip()}"
                yield from lines[first + 1 :]
        else:
            yield f"{begin}{key}: {_quoted(value)}"


def _quoted(value: Any) -> str:
    """As YAML; a text in quotes where it might be read as something else."""
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z./_][\w./-]*", value):
        return "'" + value.replace("'", "''") + "'"
    return written(value)
