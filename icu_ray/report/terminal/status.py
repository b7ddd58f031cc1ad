"""Where a sweep stands, for `icu-ray status`: read from storage alone, so that any terminal can ask.

    found = collect([("runs", "quickstart")], unstarted=True)
    console.print(status_table(found, console), soft_wrap=True)

Printed so, no line but the table's is wrapped, and a path or address in it can be copied.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from icu_ray.console.progress import duration
from icu_ray.console.terminal import UNBOUNDED, wrapped
from icu_ray.report.collect import Collected, ReportedTrial
from icu_ray.report.contents import state_word
from icu_ray.report.terminal.fitting import Heading, fitted
from icu_ray.report.terminal.summary_tables import outcome_style
from icu_ray.storage.el_names import ngrams_of
from icu_ray.storage.results import Scores
from icu_ray.storage.verdict import result_outcome

_DRIVER = {
    "running": "running",
    "finished": "finished",
    "failed": "ended, with trials that failed or are missing",
    "interrupted": "interrupted or killed; run the same command again to continue",
    "": "not known to be running",
}


def status_table(found: Collected, console: Console) -> RenderableType:
    """The driver's state and the steps it is at, one row a trial of the plan, counts, and why trials failed.

    console: what it will be printed on, for the table is made as wide as that.
    """
    sweep = found.sweeps[0]
    most = {} if sweep.record is None else {spec.trial_id: spec.max_epochs for spec in sweep.record.trials}
    rows: list[tuple[str | Text, ...]] = []
    planned = [trial for trial in found.trials if trial.planned]
    ngrams = ngrams_of(planned)
    headings = (
        *(Heading("trial"), Heading("state"), Heading("epoch", True), Heading("MA %", True)),
        *(Heading(f"EL{ngram} %", True, 1) for ngram in ngrams),
        Heading("active", True, 2),
    )
    for trial in planned:
        last = trial.history[-1] if trial.history else None
        scores = _scores(trial)
        rows.append(
            (
                Text(trial.name),
                Text(_word(trial), style=outcome_style(trial.result)),
                "" if last is None else f"{last.epoch}/{most.get(trial.trial_id) or '?'}",
                _percent(None if scores is None else scores.ma),
                *(_percent(None if scores is None or trial.ngram != ngram else scores.el) for ngram in ngrams),
                "" if last is None else str(last.active),
            )
        )
    table, left_out = fitted(console, headings, rows, where="'icu-ray status --json'")
    counts = Counter(_word(trial) for trial in planned)
    failed = [(trial.name, trial.result.reason) for trial in planned if trial.result and trial.state == "failed"]
    others = [f"{trial.name} ({_word(trial)})" for trial in found.trials if not trial.planned]
    wide = console.width if console.is_terminal else UNBOUNDED

    def words(text: str) -> Text:
        return Text(wrapped(text, columns=wide), style="dim")

    return Group(
        Text(f"{sweep.name}: {_DRIVER.get(sweep.state, sweep.state)}", style="bold"),
        *(Text(f"  {line}", style="cyan") for line in sweep.under_way),
        table,
        *([words(left_out)] if left_out else ()),
        words(", ".join(f"{count} {word}" for word, count in counts.items()) + _since(found)),
        *(Text(f"{name}: failed: {reason}", style="red") for name, reason in failed),
        *([words(f"not in the plan, left by an earlier config: {', '.join(others)}")] if others else ()),
        *(Text(line, style="red") for line in found.broken),
    )


def status_json(found: Collected) -> dict[str, Any]:
    """The same for scripts; MA and EL (el10, el5: by its n) are fractions.

    state: how a trial stands or ended; outcome: what came out, None before its end.
    """
    trials = []
    for trial in found.trials:
        scores = _scores(trial)
        trials.append(
            {
                "trial_id": trial.trial_id,
                "name": trial.name,
                "planned": trial.planned,
                "state": trial.state,
                "outcome": None if trial.result is None else result_outcome(trial.result),
                "reason": "" if trial.result is None else trial.result.reason,
                "epoch": trial.epochs,
                "ma": None if scores is None else scores.ma,
                f"el{trial.ngram}": None if scores is None else scores.el,
                "active": trial.history[-1].active if trial.history else None,
                "evaluated": trial.evaluation is not None,
                "audited": trial.audit is not None,
            }
        )
    sweep = found.sweeps[0]
    return {
        "sweep": sweep.name,
        "driver": sweep.state,
        "under_way": list(sweep.under_way),
        "trials": trials,
        "unreadable": list(found.broken),
    }


def _word(trial: ReportedTrial) -> str:
    return "running" if trial.state == "running" else state_word(trial)


def _scores(trial: ReportedTrial) -> Scores | None:
    return trial.history[-1].scores if trial.history else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _since(found: Collected) -> str:
    record = found.sweeps[0].record
    if record is None or found.sweeps[0].state != "running":
        return ""
    return f"; first started {duration(time.time() - record.started)} ago"
