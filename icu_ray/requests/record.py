"""The record of one deletion request: what was asked, what was done, what it cost; a file that one keeps.

    record = request_record(asked, config, trial_files, measured)    # plain values
    leave_record(record, Path("unlearned/run-ab12"), Path("unlearned"))

record.json and record.html name texts by id and by the hash of their content, and never hold a text. What was not
measured is null. The record of the request that made the model one starts from is found beside that model, so that the
cost is told against the model before the first of them, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData, StopConfig, SweepConfig
from icu_ray.data.corpus import Corpus
from icu_ray.report.formats.record_page import record_html
from icu_ray.storage.files import write_atomic
from icu_ray.storage.results import SampleRecord, TrialResult, TrialSpec, finite, to_json
from icu_ray.storage.thresholds import Thresholds
from icu_ray.storage.verdict import Verdict, verdict_json
from icu_ray.storage.verdict_parts import means_said

FORMAT = 2
"""1 called EL's threshold `el`, with `ngram` beside it."""
NAME, PAGE = "record.json", "record.html"


@dataclass(frozen=True)
class Asked:
    """What only the one who asks can say. also_check: files of texts that earlier requests have had forgotten.

    key: of a ledger, which names the run's folder by it (requests/unlearn.py).
    """

    command: str = ""
    request_id: str | None = None
    asked_by: str | None = None
    also_check: tuple[str, ...] = ()
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Ended:
    """A request's trial as storage holds it; model: the folder of the unlearned model, where there is one."""

    spec: TrialSpec | None
    result: TrialResult
    samples: tuple[SampleRecord, ...]
    scores: Mapping[str, Mapping[str, float | None]]
    model: Path | None


def thresholds_told(limits: Thresholds) -> dict[str, Any]:
    """The thresholds a trial was judged by.

    at_most: names of those that a measured value may equal, as held-out texts' means; it must be below the others.
    """
    values: dict[str, Any] = {name.lower(): finite(limit.value) for name, limit in limits.named.items()}
    made = [name.lower() for name, limit in limits.named.items() if limit.source == "heldout"]
    parts = [means_said(limits)] if made else []
    for key, (name, limit) in zip(("ma", "el"), limits.named.items(), strict=True):
        if limit.source == "number":
            paper = finite(limit.value) == getattr(StopConfig(), key)
            parts.append(f"{name}: {'the paper (section V-D)' if paper else f'this request (stop.{key})'}")
    ratio = limits.max_ppl_ratio
    return values | {"rule": limits.rule, "from": "; ".join(parts), "at_most": made, "max_ppl_ratio": ratio}


def request_record(
    asked: Asked,
    config: SweepConfig,
    corpus: Corpus,
    ended: Ended,
    *,
    verdict: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    earlier: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The record without what is measured afterwards (requests/recheck.py).

    verdict: whether it is forgotten and in which words, as the command tells it. earlier: record of the request that
    made the model this one starts from.
    """
    result, spec, made = ended.result, ended.spec, ended.result.provenance
    el = f"el{config.el.ngram}"
    model = {
        "source": config.models[0].source,
        "revision": config.models[0].revision,
        "sha256_before": None if made is None else made.model or None,
        "sha256_after": result.model_hash or None,
        "folder": None if ended.model is None else str(ended.model),
    }
    before = {key: model[key] for key in ("source", "revision")} | {"sha256": model["sha256_before"]}
    return {
        "format": FORMAT,
        "id": asked.request_id or result.trial_id,
        "asked_by": asked.asked_by,
        "command": asked.command or None,
        "started": _iso(None if spec is None else spec.started),
        "ended": _iso(result.ended),
        "written": _iso(time.time()),
        "verdict": dict(verdict),
        "thresholds": dict(thresholds),
        "model": model,
        "first_original": before if earlier is None else earlier.get("first_original"),
        "earlier_requests": [] if earlier is None else [*earlier.get("earlier_requests", ()), _named(earlier)],
        "texts": _texts(config, corpus, ended.samples, el),
        "scores": {side: dict(values) for side, values in ended.scores.items()},
        "cost": _cost(ended.scores),
        "retain": {"rows": len(corpus.pools[config.samples[0]]), **_file(config, "pool")},
        "heldout": {"rows": 0 if corpus.heldout is None else len(corpus.heldout), **_file(config, "heldout")},
        "method": {"name": result.method, "epochs": result.epochs, **result.hyperparameters},
        "seconds": result.seconds.get("total"),
        "versions": {
            "icu_ray": None if made is None else made.version,
            "commit": None if made is None else made.commit,
            "local_changes": None if made is None else made.dirty,
            "python": platform.python_version(),
            **({} if made is None else made.packages),
        },
        "also_checked": [],
        "config": {} if made is None else dict(made.config),
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def content_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _named(earlier: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: earlier.get(key) for key in ("id", "ended")}
    return known | {"texts": earlier.get("texts", {}).get("count"), "forgotten": earlier["verdict"].get("forgotten")}


def _file(config: SweepConfig, part: str) -> dict[str, Any]:
    data = config.data
    if not isinstance(data, RecordsData):
        return {"file": None}
    if part == "heldout" and data.heldout_rows:
        return {"file": data.pool, "which": "its last rows, which the model was not trained on here"}
    return {"file": getattr(data, part)}


def _texts(config: SweepConfig, corpus: Corpus, samples: Sequence[SampleRecord], el: str) -> dict[str, Any]:
    targets, subjects = corpus.to_forget(config.samples[0]), corpus.check.subjects
    measured = {sample.id: sample for sample in samples}
    each = []
    for name, text in zip(targets.ids, targets.texts, strict=True):
        sample = measured.get(name)
        known: dict[str, Any] = {"id": name, "sha256": content_sha256(text)}
        known |= {"subject": subjects[name]} if name in subjects else {}
        for key, measure in (("ma", "ma"), (el, "el")):
            for side in ("before", "after"):
                known[f"{key}_{side}"] = None if sample is None else getattr(sample, f"{measure}_{side}")
        known["filtered"] = None if sample is None else sample.forgotten
        known["cut_tokens"] = None if sample is None else sample.cut_tokens
        known["windows"] = None if sample is None else sample.windows
        each.append(known)
    cuts = [known["cut_tokens"] for known in each]
    return {
        **_file(config, "forget"),
        "count": len(each),
        "row_tokens": config.columns.length,
        "cut": None if None in cuts else sum(cut > 0 for cut in cuts),
        "in_windows": sum((known["windows"] or 1) > 1 for known in each),
        "each": each,
    }


def _cost(scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Perplexity on held-out texts and the tasks' metrics (which have a '/'), before and after."""
    sides = scores.get("before", {}), scores.get("after", {})
    names = [name for name in dict.fromkeys((*sides[0], *sides[1])) if "/" in name]
    tasks = {name: {"before": sides[0].get(name), "after": sides[1].get(name)} for name in names}
    first, last = (side.get("ppl_heldout") for side in sides)
    perplexity = {"before": first, "after": last, "ratio": _ratio(first, last)}
    against = {"perplexity": None, "ratio": None, "why_not": "this request starts from the first original"}
    return {"heldout_perplexity": perplexity, "first_original": against, "tasks": tasks}


def _ratio(first: float | None, last: float | None) -> float | None:
    return last / first if first and last is not None else None


def against_first(record: dict[str, Any], perplexity: float | None, why_not: str = "") -> None:
    """Put the first original's perplexity on this request's held-out texts into the record; None: with the reason."""
    after = record["cost"]["heldout_perplexity"]["after"]
    known = {"perplexity": perplexity, "ratio": _ratio(perplexity, after), "why_not": why_not or None}
    record["cost"]["first_original"] = known


def earlier_record(source: str | None, model_hash: str | None) -> dict[str, Any] | None:
    """The record of the request that made a model, found beside its folder; None where there is none of this model."""
    if source is None or not model_hash or not Path(source).is_dir():
        return None
    folder, real = Path(source), Path(source).resolve()
    # unlearned/model is a link to unlearned/run-.../trials/<id>/model; a copy may lie beside a record too.
    for place in dict.fromkeys((folder.parent, *real.parents[:3])):
        found = read_record(place)
        if found is not None and found["model"].get("sha256_after") == model_hash:
            return found
    return None


def read_record(folder: Path) -> dict[str, Any] | None:
    """record.json of a folder; None where it is missing or no record."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / NAME).read_bytes())
        if isinstance(found, dict) and found.get("format") in (1, FORMAT):
            return found
    return None


def leave_record(record: Mapping[str, Any], run: Path, out: Path) -> None:
    """record.json and record.html into the request's own folder, and copies of both on top."""
    write_atomic(str(run / NAME), to_json(dict(record), indent=2))
    write_atomic(str(run / PAGE), record_html(record).encode("utf-8", errors="replace"))
    for name in (NAME, PAGE):
        shutil.copyfile(run / name, out / name)


def said_of_earlier(record: Mapping[str, Any]) -> list[tuple[str, bool | None]]:
    """A line for each file of earlier texts that was asked again, and whether they are still forgotten."""
    words = {True: "still forgotten", False: "REMEMBERED AGAIN", None: "not measured"}
    told = []
    for found in record["also_checked"]:
        sides = (found["ma"]["before"], found["ma"]["after"])
        shown = " -> ".join(map(in_percent, sides))
        told.append((f"{words[found['forgotten']]}: {found['file']} (MA {shown})", found["forgotten"]))
    return told


def plain_verdict(result: TrialResult, verdict: Verdict | None) -> dict[str, Any]:
    """The answer as plain values. verdict: None where the result is too old to say its thresholds."""
    told: dict[str, Any] = {
        "forgotten": result.status == "finished",
        "status": result.status,
        "reason": result.reason,
        "epochs": result.epochs,
        "kept_epoch": result.kept_epoch,
    }
    if verdict is not None:
        known = verdict_json(verdict)
        told |= {"forgotten": verdict.together, "success": verdict.success, "outcome": verdict.outcome}
        told |= {"said": verdict.headline, "lines": known["lines"], "left": known["left"]}
        told |= {} if known["audit"] is None else {"audit": known["audit"]}
    return told


def in_percent(value: float | None) -> str:
    """A fraction as 12.3 %, '-' where it was not measured."""
    return "-" if value is None else f"{100 * value:.1f} %"
