"""The card of an unlearned model (README.md in the folder that is published): what was done to it, and what that shows.

    text = model_card(trial, base, licence)

The card names texts by count and hash alone and never quotes one. Its front matter is YAML that model hubs read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from icu_ray import __version__
from icu_ray.models.hub import looks_local
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.formats.markdown import escape, pipe_table
from icu_ray.report.formats.record_page import number
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import NOTHING_UNLEARNED, RETRAINED_WITHOUT
from icu_ray.storage.verdict_parts import percent

LIMITS = (
    "'Forgotten' is about the texts that were asked about, as they were measured: greedy continuations of their own "
    "beginnings, and the tokens that the model puts first.",
    "What else the model has lost was looked for on held-out texts and, where tasks are listed above, on those tasks.",
)

_NOT_ATTACKED = (
    "A paraphrase, another prompt, another language or further training may still bring the texts back; this was not "
    "measured."
)


@dataclass(frozen=True)
class Base:
    """The model before. source: hub id or folder, None for a stand-in. licence: as its own card says it, or None.

    lora: settings of the adapter that was trained on it, if one was. alone: whether the folder holds that alone. train:
    how it was fine-tuned on the texts first, if it was.
    """

    source: str | None
    revision: str | None = None
    licence: str | None = None
    lora: Mapping[str, Any] | None = None
    alone: bool = False
    train: Mapping[str, Any] | None = None

    @property
    def of_hub(self) -> bool:
        """Whether others can find it by its name."""
        return self.source is not None and self.source.count("/") == 1 and not looks_local(self.source)


def model_card(trial: ReportedTrial, base: Base) -> str:
    """The whole file. ValueError for a trial without a result."""
    result, verdict = trial.result, trial.verdict
    if result is None:
        raise ValueError(f"trial {trial.name} has no result")
    front = {
        "library_name": "peft" if base.alone else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["machine-unlearning", "icu-ray", trial.base_method],
        **({"base_model": base.source} if base.of_hub else {}),
        **({"license": base.licence} if base.licence else {}),
    }
    unlearned = result.reason not in NOTHING_UNLEARNED
    headline = f"{result.status}: {result.reason}" if verdict is None else verdict.headline
    if not unlearned:
        headline, verdict = f"Nothing was unlearned. {result.reason[0].upper()}{result.reason[1:]}.", None
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {escape(trial.name)}"]
    parts.append(f"**{escape(headline)}**")
    if verdict is not None and not verdict.success:
        parts.append("**Unlearning was not a success. Do not use this model as one that has forgotten these texts.**")
    parts += ["## What was done", _table(_done(trial, base)), "## What was measured", _table(_measured(trial))]
    if verdict is not None:
        parts += ["## Verdict", _table([(what, "; ".join(said)) for what, said in verdict.lines])]
    parts += ["## Limits", *(f"- {escape(limit)}" for limit in _limits(trial))]
    parts.append(f"Written by icu_ray {__version__}.")
    return "\n\n".join(parts) + "\n"


def _limits(trial: ReportedTrial) -> tuple[str, ...]:
    """What the numbers do not say."""
    if trial.audit is None or not trial.audit.after.total:
        return (*LIMITS, _NOT_ATTACKED)
    attacks = ", ".join(name.replace("_", " ") for name in trial.audit.attacks)
    said = f"Attacks ({attacks}): {trial.audit.after.said()}. Others may still bring the texts back."
    return (*LIMITS, said)


def _done(trial: ReportedTrial, base: Base) -> list[tuple[str, str]]:
    result, made = trial.result, trial.provenance
    assert result is not None
    source = "a small stand-in that was trained for this" if base.source is None else base.source
    kept = "" if result.kept_epoch is None else f", the model is that of epoch {result.kept_epoch}"
    rows = [
        ("model before", source + (f" at {base.revision}" if base.revision else "")),
        ("method", ", ".join([trial.method, *(f"{key} {value}" for key, value in trial.hyperparameters.items())])),
        ("epochs", f"{result.epochs}{kept}"),
        ("texts to forget", f"{len(trial.samples)}, forget sample {trial.sample}"),
    ]
    if base.train is not None:
        how = ", ".join(f"{key} {value}" for key, value in base.train.items() if value is not None and key != "data")
        texts = "the texts to forget and the pool" if base.train.get("data") is None else "a file with these texts"
        texts += ", but not on the texts to forget" if result.reason == RETRAINED_WITHOUT else ""
        rows.insert(1, ("fine-tuned first", f"on {texts}: {how}"))
    if base.lora is not None:
        targets = base.lora["targets"]
        where = targets if isinstance(targets, str) else ", ".join(targets)
        holds = "this folder holds only the adapter, for the model before" if base.alone else "merged into the model"
        said = f"an adapter (LoRA) of rank {base.lora['rank']}, alpha {base.lora['alpha']:g}, on {where}; {holds}"
        rows.append(("trained", said))
    if made is not None:
        rows += [("SHA-256 of all texts", made.data), ("SHA-256 of the model before", made.model)]
    rows.append(("SHA-256 of the model after", result.model_hash))
    if made is not None:
        code = f"icu_ray {made.version}, commit {made.commit[:12]}{' with local changes' if made.dirty else ''}"
        rows.append(("code", ", ".join([code, *(f"{name} {version}" for name, version in made.packages.items())])))
    return [(what, said or "not known") for what, said in rows]


def _measured(trial: ReportedTrial) -> list[tuple[str, str]]:
    result = trial.result
    assert result is not None
    evaluated = ({}, {}) if trial.evaluation is None else (trial.evaluation.before, trial.evaluation.after)
    own = [{} if side is None else plain(side) for side in (result.before, result.after)]
    audited = ({}, {}) if trial.audit is None else (trial.audit.metrics("before"), trial.audit.metrics())
    sides = [{**scores, **tasks, **back} for scores, tasks, back in zip(own, evaluated, audited, strict=True)]
    el = f"el{trial.ngram}"
    named = [
        ("MA of the texts", "ma", percent),
        (f"{el.upper()} of the texts", el, percent),
        ("BERTScore F1 of what it says", "bertscore_f1", percent),
        ("perplexity of held-out texts", "ppl_heldout", number),
        *((name, name, number if name.startswith("ppl/") else percent) for name in evaluated[1]),
        *([("texts that attacks brought back", "audit/came_back", percent)] if trial.audit is not None else []),
    ]
    return [(what, " → ".join(form(side.get(key)) for side in sides)) for what, key, form in named]


def _table(rows: list[tuple[str, str]]) -> str:
    return pipe_table(["", ""], [[escape(what), escape(said)] for what, said in rows], left=2)
