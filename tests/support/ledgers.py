"""Ledgers of a tiny model for tests without Ray: their trials are written by hand, all around them is real.

folder = made(tmp_path); enter(folder, tmp_path, 0); run(folder, forget=trial(after=0.3))
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.data.sources import load_corpus
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.requests.ledger_settings import init
from icu_ray.requests.ledger_texts import add
from icu_ray.requests.record import Asked, Ended, leave_record, plain_verdict, request_record, thresholds_told
from icu_ray.requests.regression import Answers, Question
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.unlearn import Unlearned, run_name
from icu_ray.storage.audit_files import read_audit, write_audit
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import Provenance, SampleRecord, Scores, TrialResult, TrialSpec
from icu_ray.storage.store import content_hash
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_samples, start_trial, write_result, write_samples
from icu_ray.storage.verdict import verdict_of
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

TEXTS = [" ".join(f"w{20 + (7 * n + 3 * k * n + k) % 40}" for k in range(12)) for n in range(40)]
SETTINGS = ["el.ngram=2", "filter.encoder=bundled", "filter.encoder_layer=1"]
LIMITS = Thresholds(Limit(0.5994), Limit(0.0499), max_ppl_ratio=1.5, ngram=2)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"{path.stem}-{n}", "text": t}) + "\n" for n, t in enumerate(texts)))
    return path


def saved(folder: Path, seed: int) -> Path:
    tiny_model("gpt_neo", seed=seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "retain": write(tmp_path / "keep.jsonl", TEXTS[30:]),
        "heldout": write(tmp_path / "heldout.jsonl", TEXTS[26:30]),
        "id_column": "id",
        "gpus": 0,
        "overrides": SETTINGS,
    }


def made(tmp_path: Path, mlflow: str | None = None, **more: Any) -> Path:
    """A ledger of a random model. more: further options of `unlearn_config`."""
    if not (tmp_path / "model").is_dir():
        saved(tmp_path / "model", 0)
        saved(tmp_path / "unlearned", 1)
    init(tmp_path / "ledger", str(tmp_path / "model"), options(tmp_path) | more, purge_days=30.0, mlflow=mlflow)
    return tmp_path / "ledger"


def enter(folder: Path, number: int, **given: Any) -> str:
    """A request of two texts, by number 0 to 12; its id."""
    file = write(folder.parent / f"forget-{number}.jsonl", TEXTS[2 * number : 2 * number + 2])
    return add(folder, file, **given).id


def answering(el: float | None = 0.01) -> Callable[..., dict[str, Answers]]:
    """In place of a model's answers (`judging.ask`), where only the ledger is looked at. el: of every text."""

    def ask(model: str, questions: Sequence[Question], trust_remote_code: bool = False) -> dict[str, Answers]:
        return {each.request: Answers(0.3, el, 4.0, ((0.3, el, 4.0),) * 2) for each in questions}

    return ask


def trial(
    after: float | Mapping[str, float] = 0.3,
    ppl: float | None = 22.0,
    stop: Callable[[], None] = lambda: None,
    limits: Thresholds = LIMITS,
    original: bool = True,
    audit: ModelAudit | None = None,
    code: int = 0,
) -> Callable[..., Unlearned]:
    """What stands in for `unlearn`: a trial's files as one leaves them, with a random model.

    after: MA of all texts after, or of those whose id begins so. ppl: held-out perplexity after; before it is 20 (None:
    neither was measured). stop: called in the middle. limits: that it is judged by. original: whether the first one is
    still there, for runs from a version. audit: what attacks found. code: of the sweep, 130 where it was interrupted
    once the trial had ended.
    """

    def unlearn(model: str, *, forget: str, out: Path, asked: Asked, **given: Any) -> Unlearned:
        config = unlearn_config(model, forget=forget, out=str(out), **given)
        name = content_hash([model, [json.loads(line) for line in Path(forget).read_text().splitlines()], ppl])[:16]
        run = run_name(name, asked.key)
        paths, corpus = TrialPaths.of(str(out), run, name), load_corpus(config)
        targets = corpus.to_forget(0)
        before = Scores(0.9, 0.5, 1.0, 0.8, 0.2, 3.0, ppl_heldout=ppl and 20.0)

        def of(text: str) -> float:
            if isinstance(after, float):
                return after
            return next((value for start, value in after.items() if text.startswith(start)), 0.3)

        values = [of(text) for text in targets.ids]
        mean = Scores(sum(values) / len(values), 0.01, 1.0, 0.8, 0.2, 3.0, ppl_heldout=ppl)
        config = config.model_copy(update={"name": run})
        made = Provenance("0.1", "c0ffee", False, "d" * 64, folder_fingerprint(Path(model)), {}, config.model_dump())
        start_trial(paths, TrialSpec(name, "n", "m", "icu", 0, {}))
        samples = [
            SampleRecord(
                i, "p", "r", f"said {text}", "a", 0.9, value, 0.1, 0.1, True, el_before=0.5, el_after=0.01, cut_tokens=0
            )
            for i, text, value in zip(targets.ids, targets.texts, values, strict=True)
        ]
        write_samples(paths, samples)
        stop()
        if not Path(paths.model).is_dir():
            shutil.copytree(Path(out).parents[1] / "unlearned", paths.model)
        status = "finished" if limits.below(mean.ma, mean.el) else "not_forgotten"
        told = (name, "n", "m", "icu", 0, {"beta": 1.0}, status, "after epoch 2", 2, before, mean, {"total": 3.0})
        hashed = folder_fingerprint(Path(paths.model))
        result = TrialResult(*told, made, 1.7e9, thresholds=limits, model_hash=hashed)  # type: ignore[arg-type]
        write_result(paths, result)
        if audit is not None:
            write_audit(paths, TrialAudit({}, ("", hashed), 0.5, audit, audit))
        found = read_audit(paths)
        verdict = plain_verdict(result, verdict_of(result, samples, audit=found))
        scores = {"before": plain(before), "after": plain(mean)}
        ended = Ended(None, result, read_samples(paths), scores, Path(paths.model))
        said = thresholds_told(limits)
        record = request_record(asked, config, corpus, ended, verdict=verdict, thresholds=said, earlier=None)
        if "versions" in model and not original:
            record["cost"]["first_original"] = {"perplexity": None, "ratio": None, "why_not": "it cannot be loaded"}
        elif "versions" in model:
            record["cost"]["first_original"] = {"perplexity": 20.0, "ratio": ppl and ppl / 20.0, "why_not": None}
        leave_record(record, Path(out) / run, Path(out))
        return Unlearned(Path(out), run, code, result)

    return unlearn
