"""The config of one trial that a deletion request becomes: what is not said follows from the texts and the machine.

config = unlearn_config("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.cluster.nodes import machine
from icu_ray.cluster.runtime import will_start_locally
from icu_ray.config import SweepConfig
from icu_ray.config.file import apply_override, merge, resolve_config
from icu_ray.config.section import as_name
from icu_ray.data.encoder import BUNDLED
from icu_ray.errors import UserError
from icu_ray.requests.files import HELDOUT_MOST, WHERE, heldout_texts, request_data
from icu_ray.requests.row_length import columns_for

RUN = "run"
STANDIN = "standin"
_STANDIN_BETA = 4.0
HELDOUT_ENOUGH = 16
"""From so many unread texts on the thresholds are what the model does on them; of fewer the mean says too little."""
PAIRS: Mapping[str, Any] = {"max_ngram_overlap": 0.1, "candidates": 50, "overlap_fallback": "least"}
"""A text that is learnt as a pair and unlearnt as a target stays (docs/method.md has what was measured)."""
MAX_PPL_RATIO = 1.5
"""A model whose held-out perplexity is more than this many times the original's is not acceptable, unless asked."""


def unlearn_config(
    model: str,
    *,
    forget: str | None,
    retain: str | None = None,
    out: str,
    heldout: str | None = None,
    text_column: str = "text",
    prompt_column: str | None = None,
    completion_column: str | None = None,
    messages_column: str | None = None,
    template: str | None = None,
    id_column: str | None = None,
    subject_column: str | None = None,
    method: str | None = None,
    alpha: float = 0.5,
    beta: float | None = None,
    length: int | None = None,
    workers: int = 1,
    gpus: int | None = None,
    precision: str = "fp32",
    suites: Sequence[str] = (),
    mirror: str | None = None,
    audit: Sequence[str] = (),
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> SweepConfig:
    """The config of a request; UserError for what cannot be.

    model: hub id, folder, or 'standin' ('standin:medium'): one that is trained here until it knows the texts.
    beta: default 1.0, as in the paper; of a stand-in 4.0. forget: None, with a stand-in: the embedded synthetic
    records. length: tokens of a row; None: the longest text's (requests/row_length.py), and texts that are longer than
    the model can read are forgotten in windows. No text is cut unless rows.long=cut says so. retain: None: there are no
    texts to pair with, and gradient ascent is all that can be done. audit: attacks that then ask whether the texts come
    back. say: is told how the files are read where nobody said it (plan/own_files.py).
    """
    standin, _, size = model.partition(":")
    is_standin = standin == STANDIN
    if forget is None and not is_standin:
        raise UserError("--forget: give a file of the texts to forget (only --model standin brings its own)")
    if beta is None:
        beta = _STANDIN_BETA if is_standin else 1.0
    name = method or ("icu" if retain is not None or forget is None else "kumpr")
    tree: dict[str, Any] = {
        "name": RUN,
        "storage": out,
        "methods": [{"name": name, "alpha": alpha, "beta": beta}],
        "tracking": {"enabled": False},
        "evaluation": {"suites": list(suites), "mirror": mirror},
        **({"audit": {"attacks": list(audit)}} if audit else {}),
    }
    if gpus is None and not is_standin and will_start_locally():
        gpus = min(1, int(machine().gpus))
    described: dict[str, Any] = {"name": as_name(Path(model).name, "model"), "source": model, "precision": precision}
    if is_standin:
        described = {"name": STANDIN, "standin": {"size": size or "small", "target_repeats": 6}}
        # As in the quickstart: a stand-in needs larger steps than a real model.
        tree["optim"] = {"lr": 5e-4}
        tree["filter"] = {"encoder": "bundled", "encoder_layer": 6}
        tree["pairs"] = {"encoder": "bundled"}
    tree["models"] = [described | {"workers": workers} | ({} if gpus is None else {"gpus_per_worker": gpus})]
    if forget is None:
        tree["data"] = {"source": "synthetic", "records": 640, "sample_size": 16, "heldout": HELDOUT_MOST}
    else:
        data = {"source": "records", "forget": forget, "pool": retain, "heldout": heldout}
        data |= {"text_column": text_column, "id_column": id_column}
        named = {"prompt_column": prompt_column, "completion_column": completion_column}
        named |= {"messages_column": messages_column, "template": template, "subject_column": subject_column}
        tree["data"] = data | {key: value for key, value in named.items() if value is not None}
    length = length or (128 if is_standin else None)
    if length is not None:
        tree["columns"] = {"length": length, "prefix_start": length // 2, "suffix_start": 3 * length // 4}
    for override in overrides:
        tree = apply_override(tree, override)
    if isinstance(tree["data"], Mapping) and tree["data"].get("source") == "records":
        if _pairs(tree).get("by") == "given" and not tree["data"].get("pair_column"):
            # Row i of the retain file belongs to text i: none can be set aside.
            tree["data"] = {"heldout_rows": 0} | dict(tree["data"])
        tree["data"] = request_data(tree["data"], tree["models"][0], say)
    stop: dict[str, Any] = {"max_ppl_ratio": MAX_PPL_RATIO}
    # Texts that were set aside from the retain file may have been trained on: they say what is lost, not what a model
    # does on texts that it never read. A stand-in has not read them.
    unread = is_standin or (isinstance(tree["data"], Mapping) and isinstance(tree["data"].get("heldout"), str))
    if unread and heldout_texts(tree["data"]) >= HELDOUT_ENOUGH:
        stop |= {"ma": "heldout", "el": "heldout"}
    tree = merge({"stop": stop, "eval": {"heldout": "epochs"}}, tree)
    pairs = _pairs(tree)
    own_texts = isinstance(tree["data"], Mapping) and tree["data"].get("source") == "records"
    own_texts = own_texts and isinstance(tree.get("pairs", {}), Mapping)  # else the config's own check refuses it
    if own_texts and pairs.get("by", "nearest") == "nearest":
        # The encoder that is the default elsewhere, too: the installed copy of it needs no network.
        tree = merge({"pairs": {"encoder": BUNDLED, **({} if "max_ngram_overlap" in pairs else PAIRS)}}, tree)
    # A stand-in has no tokenizer yet: its texts are counted, and the cut ones named, when its rows are made.
    long = "cut" if is_standin else "refuse"
    if "columns" not in tree and not is_standin:
        tree["columns"], fit = columns_for(tree)
        if not fit:
            long = "windows"
    tree = merge({"rows": {"long": long}}, tree)
    return resolve_config(tree, WHERE)


def _pairs(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section as far as it is one."""
    found = tree.get("pairs")
    return found if isinstance(found, Mapping) else {}
