"""What a running sweep looks like: preparation, running trials with their last epoch, what is done, time left.

On a terminal a table that renews itself; elsewhere one line for each thing that happens. Reads the trials' events in
storage, so it shows what is really kept.

    with LiveView(plan, console) as view: view.step(step); view.started(trial_id); view.ended(trial_id)
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from icu_ray.console.progress import TELL_SECONDS, Clock, Step, duration, line
from icu_ray.console.terminal import print_words
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import DONE, Trial
from icu_ray.report.terminal.summary_tables import outcome_style
from icu_ray.storage.results import EpochRecord
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result
from icu_ray.storage.verdict import OUTCOME_WORD, result_outcome

REFRESH_SECONDS = 0.5


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


OnLook: TypeAlias = Callable[[Mapping[str, int], Mapping[str, tuple[EpochRecord, ...]]], None]


@dataclass
class _Progress:
    """A step as it was told last, and what follows from its pace."""

    step: Step
    clock: Clock = field(default_factory=Clock)
    printed: float = field(default_factory=time.monotonic)

    def tell(self, step: Step) -> None:
        self.step = step
        self.clock.left(step.stage, step.part)

    def text(self, percent: bool) -> str:
        """'embedding, 34 %, about 2 min 10 s left'."""
        part = self.step.part
        between = percent and part not in (None, 0, 1)
        return line(self.step.text, part if between else None, "" if part == 1 else self.clock.words())


class LiveView:
    """Told by the driver what starts and ends; looks up the rest.

    on_look: told at every look how many trials are in each state, and the history of those that run, by name.
    time_left: seconds until the last trial ends, None while that is not known; asked at every look of a terminal.
    """

    def __init__(
        self,
        plan: Plan,
        console: Console,
        on_look: OnLook = lambda states, histories: None,
        time_left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.plan, self.console, self._on_look, self._time_left = plan, console, on_look, time_left
        self._trials = {trial.trial_id: trial for trial in plan.trials}
        self._done = {trial.trial_id: str(trial.status) for trial in plan.trials if trial.status in DONE}
        self._running: dict[str, float] = {}
        self._told: dict[str, int] = {}
        self._history: dict[str, tuple[EpochRecord, ...]] = {}
        self._steps: dict[str, _Progress] = {}
        self._began = time.monotonic()
        self._trials_began: float | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        # What others print goes where the driver's output goes, a file: rich would show it on the terminal instead.
        self._live = None
        if console.is_terminal:
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
        self._thread = threading.Thread(target=self._watch, name="live-view", daemon=True)

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        if self._live is not None:
            self._live.stop()

    def step(self, step: Step) -> None:
        """Progress of the preparation."""
        with self._lock:
            new = step.name not in self._steps
            progress = self._steps.setdefault(step.name, _Progress(step))
            progress.tell(step)
            now = time.monotonic()
            if self._live is None and (new or step.event or step.part == 1 or now - progress.printed >= TELL_SECONDS):
                progress.printed = now
                word = "prepare " if self._trials_began is None else "also    "
                text = progress.text(percent=True)
                self._say(f"{word} {step.name}: {text}")

    def add(self, trial: Trial) -> None:
        """A trial that the plan did not have."""
        with self._lock:
            self._trials[trial.trial_id] = trial

    def started(self, trial_id: str) -> None:
        """A trial was handed to the cluster."""
        with self._lock:
            self._trials_began = self._trials_began or time.monotonic()
            self._running[trial_id] = time.monotonic()
            trial = self._trials[trial_id]
            if self._live is None:
                goes_on = f" from epoch {trial.epochs_done}" if trial.status == "resumable" else ""
                self._say(f"start    {trial.name}{goes_on}")

    def restarted(self, trial_id: str) -> None:
        """A trial's workers were replaced."""
        with self._lock:
            name = self._trials[trial_id].name
            self._say(f"again    {name}: its workers were restarted")

    def ended(self, trial_id: str, status: str, reason: str) -> None:
        """A trial is over."""
        with self._lock:
            if self._live is None:
                self._tell_epochs(trial_id)
            self._running.pop(trial_id, None)
            self._done[trial_id] = status
            name = self._trials[trial_id].name
            count = f"{len(self._done)}/{self._total()}"
            result = read_result(self._paths(self._trials[trial_id]))
            word = status if result is None else OUTCOME_WORD[result_outcome(result)]
            line = f"{word:<13} {name}: {reason} [{count}]"
            style = outcome_style(result)
            self._say(line, style if self._live is not None else "")

    def _say(self, line: str, style: str = "") -> None:
        """One line, which a terminal has broken between its words."""
        print_words(self.console, line, style)

    def _total(self) -> int:
        asked = self.plan.config.search
        return len(self._trials) if asked is None else max(asked.trials, len(self._trials))

    def _paths(self, trial: Trial) -> TrialPaths:
        return TrialPaths.of(self.plan.config.storage, self.plan.config.name, trial.trial_id)

    def _watch(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            for trial_id in list(self._running):
                try:
                    self._history[trial_id] = read_events(self._paths(self._trials[trial_id]))
                except (UserError, OSError):
                    continue  # storage is away for a moment; the trial itself will say if it matters
                if self._live is None:
                    with self._lock:
                        self._tell_epochs(trial_id)
            with self._lock:
                if self._live is not None:
                    self._live.update(self._render(), refresh=True)
                states = Counter(self._done.values()) + Counter(
                    running=len(self._running), waiting=self._total() - len(self._done) - len(self._running)
                )
                histories = {self._trials[trial_id].name: self._history.get(trial_id, ()) for trial_id in self._running}
            self._on_look(states, histories)

    def _tell_epochs(self, trial_id: str) -> None:
        for record in self._history.get(trial_id, ()):
            if record.epoch > self._told.get(trial_id, 0):
                self._told[trial_id] = record.epoch
                scores = record.scores
                self._say(
                    f"epoch    {self._trials[trial_id].name} {record.epoch}: MA {_percent(scores.ma)} %, "
                    f"EL{scores.ngram} {_percent(scores.el)} %, {record.active} active"
                )

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        open_steps = [progress for progress in self._steps.values() if progress.step.part != 1]
        if open_steps:
            preparing = Table.grid(padding=(0, 2))
            for fixed in (True, True, False):
                preparing.add_column(no_wrap=fixed, overflow="fold")
            for progress in open_steps:
                step = progress.step
                bar = ProgressBar(total=1.0, completed=step.part or 0.0, width=24, pulse=step.part is None)
                preparing.add_row(step.name, bar, progress.text(percent=False))
            heading = "Preparing" if self._trials_began is None else "Beside the trials"
            parts += [Text(heading, style="bold"), preparing]
        if self._running:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for heading in ("trial", "epoch", "MA %", f"EL{self.plan.config.el.ngram} %", "active", "time"):
                name = heading == "trial"
                table.add_column(heading, justify="left" if name else "right", no_wrap=not name, overflow="fold")
            for trial_id, since in self._running.items():
                trial = self._trials[trial_id]
                history = self._history.get(trial_id, ())
                age = duration(time.monotonic() - since)
                if history:
                    last = history[-1]
                    epoch = f"{last.epoch}/{trial.settings.max_epochs}"
                    table.add_row(
                        trial.name, epoch, _percent(last.scores.ma), _percent(last.scores.el), str(last.active), age
                    )
                else:
                    table.add_row(trial.name, "starting", "", "", "", age)
            parts.append(table)
        done, total = len(self._done), self._total()
        line = f"{done}/{total} trials done, {duration(time.monotonic() - self._began)} so far"
        left = self._time_left()
        parts.append(Text(line + (f", about {duration(left)} left" if left is not None else ""), style="dim"))
        return Group(*parts)


def outcome_of(plan: Plan, trial_id: str) -> tuple[str, str] | None:
    """(status, reason) of a trial's result in storage, None where it has none."""
    result = read_result(TrialPaths.of(plan.config.storage, plan.config.name, trial_id))
    return None if result is None else (result.status, result.reason)
