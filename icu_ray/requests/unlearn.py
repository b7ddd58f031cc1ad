"""One deletion request: what stands behind `icu-ray unlearn`. The machinery of a sweep, with one trial and no grid.

    done = unlearn("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")
    done.forgotten, done.folder / "model"          # AutoModelForCausalLM.from_pretrained takes that folder

In `out` lie model/, record.json, record.html, report.html, targets.csv and, below run-.../ (one for each request) and
store/, what a second call goes on from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from icu_ray.config import SweepConfig
from icu_ray.data.records import reading_once
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.requests.ledger import mac
from icu_ray.requests.next_try import NextTry, next_tries
from icu_ray.requests.recheck import check_earlier, make_record
from icu_ray.requests.record import Asked, in_percent, leave_record, plain_verdict, read_record, said_of_earlier
from icu_ray.requests.request_config import RUN, unlearn_config
from icu_ray.requests.subjects import SubjectVerdict, by_subject, subjects_json
from icu_ray.storage.audit_files import read_audit
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import TrialResult, finite
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_events, read_result, read_samples
from icu_ray.storage.verdict import Verdict, verdict_json, verdict_of
from icu_ray.sweep.run import run_sweep

_REPORTED = ("report.html", "targets.csv")
_RECORD = ("record.json", "record.html")


@dataclass(frozen=True)
class Unlearned:
    """folder: `out`. run: the request's own folder in it. exit_code: of the run. result: None where it did not end.

    settings: of its trial, for what to try next. subjects: whose data a text is, by its id, where its file says so.
    """

    folder: Path
    run: str
    exit_code: int
    result: TrialResult | None
    settings: TrialSettings | None = None
    subjects: Mapping[str, str] = field(default_factory=dict)

    @property
    def forgotten(self) -> bool:
        """Whether the means of MA and EL of the texts fell below the thresholds, whatever that cost."""
        return self.result is not None and self.result.status == "finished"

    @property
    def success(self) -> bool:
        """Whether they did so at an acceptable cost."""
        verdict = self.verdict
        return self.forgotten if verdict is None else verdict.success

    @property
    def command_code(self) -> int:
        """Exit code of the command: 0 for a success alone, whose earlier texts (--also-check) are forgotten too."""
        earlier = [] if self.record is None else said_of_earlier(self.record)
        lost = any(forgotten is False for _, forgotten in earlier)
        return self.exit_code if self.success and not lost else self.exit_code or 1

    @property
    def verdict(self) -> Verdict | None:
        """The answer; None where the trial did not end, or was of an earlier version."""
        if self.result is None or self.paths is None:
            return None
        evaluation, audit = read_evaluation(self.paths), read_audit(self.paths)
        return verdict_of(self.result, read_samples(self.paths), evaluation, audit)

    @property
    def by_subject(self) -> tuple[SubjectVerdict, ...]:
        """The answer for each subject; () where no column names them."""
        verdict = self.verdict
        return () if verdict is None else by_subject(verdict.texts, self.subjects)

    @property
    def next_tries(self) -> tuple[NextTry, ...]:
        """What to try after what was no success."""
        verdict, paths = self.verdict, self.paths
        if verdict is None or paths is None or self.settings is None:
            return ()
        return next_tries(verdict, read_events(paths), self.settings)

    @property
    def model(self) -> Path | None:
        """The request's own model: `out`/model, or in its own folder where an earlier one keeps that place."""
        top, own = self.folder / "model", None if self.paths is None else Path(self.paths.model)
        if own is None or not own.is_dir():
            return None
        return top if top.is_dir() and top.resolve() == own.resolve() else own

    @property
    def kept(self) -> Path | None:
        """`out`/model where it is still an earlier request's, which forgot; this one's did not."""
        top = self.folder / "model"
        return top if top.is_dir() and self.model != top else None

    @property
    def paths(self) -> TrialPaths | None:
        """The trial's files, None where it did not end."""
        return None if self.result is None else TrialPaths.of(str(self.folder), self.run, self.result.trial_id)

    @property
    def record(self) -> dict[str, Any] | None:
        """What record.json holds, None where there is none."""
        return read_record(self.folder)

    def scores(self) -> dict[str, dict[str, float | None]]:
        """What was measured `before` and `after`, a suite's metrics (cls/avg) among it; a side not measured lacks."""
        if self.result is None or self.paths is None:
            return {}
        evaluation = read_evaluation(self.paths)
        evaluated = {} if evaluation is None else {"before": evaluation.before, "after": evaluation.after}
        sides = {"before": self.result.before, "after": self.result.after}
        return {name: {**plain(side), **evaluated.get(name, {})} for name, side in sides.items() if side is not None}


def unlearn(
    model: str, *, forget: str | None, out: str | Path, asked: Asked | None = None, **options: Any
) -> Unlearned:
    """Carry a request out (see `unlearn_config`), and leave model, report, record and targets.csv in `out`.

    model: may be `out`/model, what the request before it left there. asked: who asks, by which command, and which
    earlier texts are to be asked again, for the record.
    """
    if "://" in str(out):
        raise UserError(f"--out {out}: expected a folder of this machine; a sweep's storage may be a URL")
    model_there = Path(out) / "model"
    if model_there.exists() and not model_there.is_symlink():
        raise UserError(f"--out {out}: holds a 'model' that is not of an earlier request; give another folder")
    asked = asked or Asked()
    if os.path.abspath(model) == os.path.abspath(model_there):
        # The link will name this request's own model before the record is written.
        model = os.path.realpath(model_there)
    with reading_once():
        config = unlearn_config(model, forget=forget, out=str(out), **options)
        for file in asked.also_check:
            check_earlier(file, config)  # refused before anything is written
        plan = plan_request(config, key=asked.key)
    code = run_sweep(plan)
    run = plan.config.name
    trial = plan.trials[0]
    result = read_result(TrialPaths.of(str(out), run, trial.trial_id))
    done = Unlearned(Path(out), run, code, result, trial.settings, plan.subjects)
    _collect(done)
    if done.result is not None and done.paths is not None:
        verdict = plain_verdict(done.result, done.verdict)
        if plan.subjects:
            verdict["subjects"] = subjects_json(done.by_subject)
        record = make_record(asked, config, done.paths, done.scores(), verdict)
        leave_record(record, Path(out) / run, Path(out))
    return done


def plan_request(config: SweepConfig, *, dry_run: bool = False, key: bytes = b"") -> Plan:
    """The plan of a request's one trial, in a folder of its own: no other request's trial is in its report."""
    plan = plan_sweep(config, dry_run=dry_run)
    named = config.model_copy(update={"name": run_name(plan.trials[0].trial_id, key)})
    return replace(make_plan(named, plan.data, provisional=plan.provisional), unreachable=plan.unreachable)


def run_name(trial_id: str, key: bytes) -> str:
    """Name of a run's folder, which its record tells. key: of a ledger; a trial's id is a plain hash over its texts, so
    without the key who guesses them could see that he is right."""
    return f"{RUN}-{(mac(key, trial_id) if key else trial_id)[:8]}"


def _collect(done: Unlearned) -> None:
    """Put what a practitioner wants on top: of this request, but no model that did not forget over one that did."""
    out, result = done.folder, done.result
    ended = result is not None and result.status != "failed"
    report = out / done.run / "report"
    for name in (*_REPORTED, *_RECORD):
        (out / name).unlink(missing_ok=True)
        if ended and name in _REPORTED and (report / name).is_file():
            shutil.copyfile(report / name, out / name)
    link, made = out / "model", None if done.paths is None or not ended else Path(done.paths.model)
    if not done.success and _has_forgotten(link):
        return
    link.unlink(missing_ok=True)
    if made is not None and made.is_dir():
        # A link: each request's model stays with its trial, where a later evaluation looks for it.
        link.symlink_to(os.path.relpath(made, out), target_is_directory=True)


def _has_forgotten(link: Path) -> bool:
    """Whether the model that an earlier request left there is a success."""
    trial = link.resolve().parent
    if not link.is_dir() or trial.parent.name != "trials":
        return False
    try:
        result = read_result(TrialPaths(str(trial)))
    except UserError:
        return False
    return result is not None and Unlearned(link.parent, trial.parent.parent.name, 0, result).success


def request_json(done: Unlearned) -> dict[str, Any]:
    """A request's outcome for scripts. MA and EL are fractions; what was not measured or is not there is None.

    kept_model: an earlier request's, which forgot and keeps its place. next: what to try after what was no success.
    status: finished, not_forgotten or failed, None where the trial did not end. before, after: `Unlearned.scores`.
    kept_epoch: whose model it is, where it is not the last of `epochs`.
    """
    result, scores, verdict = done.result, done.scores(), done.verdict
    files = {"report": "report.html", "targets": "targets.csv", "record": "record.json"}
    told = {
        "forgotten": done.forgotten,
        "success": done.success,
        "status": None if result is None else result.status,
        "reason": "" if result is None else result.reason,
        "epochs": None if result is None else result.epochs,
        "kept_epoch": None if result is None else result.kept_epoch,
        "before": scores.get("before"),
        "after": scores.get("after"),
        "verdict": None if verdict is None else verdict_json(verdict),
        **({"subjects": subjects_json(done.by_subject)} if done.subjects else {}),
        "next": [asdict(each) for each in done.next_tries],
        "model": None if done.model is None else str(done.model),
        "kept_model": None if done.kept is None else str(done.kept),
        **{key: str(done.folder / name) if (done.folder / name).exists() else None for key, name in files.items()},
    }
    return {key: finite(value) for key, value in told.items()}


def settings_said(result: TrialResult) -> Mapping[str, str]:
    """The lines of a request's summary: what was measured before and after."""
    before, after = result.before, result.after
    if before is None or after is None:
        return {}

    def both(first: float | None, last: float | None, percent: bool) -> str:
        shown = [in_percent(v) if percent else "-" if v is None else f"{v:.2f}" for v in (first, last)]
        return " -> ".join(shown)

    return {
        "memorisation accuracy (MA)": both(before.ma, after.ma, True),
        f"extraction likelihood (EL{after.ngram})": both(before.el, after.el, True)
        + (f" ({after.el_unmeasured} texts are too short to be measured)" if after.el_unmeasured else ""),
        "BERTScore of what it says": both(before.bertscore_f1, after.bertscore_f1, True),
        "perplexity on held-out texts": both(before.ppl_heldout, after.ppl_heldout, False),
    }
