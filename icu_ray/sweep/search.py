"""A search in place of a grid: a Tune searcher chooses each trial's weights and learning rate, ASHA ends the poor ones.

    queue = SearchQueue(plan, make_searcher(config.search), nodes, limits, events)
    tune.TuneConfig(search_alg=queue, scheduler=scheduler(config), ...)

The queue starts a trial when its workers fit, as for a grid, and only then asks what it should be: by then the most is
known. Trials of earlier runs are told to the searcher first. Needs Ray; plan/search_objective.py: what is maximised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from icu_ray.config import SearchConfig, SweepConfig
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan, coming_trial, searched_trial
from icu_ray.plan.schedule import Limits, Node, next_start
from icu_ray.plan.search_objective import OBJECTIVE, objective_of
from icu_ray.plan.trial import Trial, worker_group_of
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.trial_events import SearchEvents
from icu_ray.sweep.trial_queue import TrialQueue

log = logging.getLogger(__name__)
_DRAWS = 100


def space_of(search: SearchConfig) -> dict[str, Any]:
    """Tune's form of a space."""
    return {
        name: (tune.loguniform if each.log else tune.uniform)(each.low, each.high)
        for name, each in search.space.items()
    }


def make_searcher(search: SearchConfig, known: int = 0) -> Searcher:
    """The searcher by name; UserError for one that there is not, or whose package is missing.

    known: trials that earlier runs chose, so that this one's draws are others.
    """
    space = space_of(search)
    try:
        if search.algorithm == "optuna":
            import optuna
            from optuna.samplers import TPESampler
            from ray.tune.search.optuna import OptunaSearch

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            return OptunaSearch(
                OptunaSearch.convert_search_space(space),
                metric=OBJECTIVE,
                mode="max",
                sampler=TPESampler(seed=search.seed + known),
            )
        if search.algorithm == "random":
            return _Random(space, search.seed + known)
        found = tune.create_searcher(search.algorithm, space=space, metric=OBJECTIVE, mode="max")
    except (ImportError, AssertionError, ValueError, TypeError) as error:
        raise UserError(f"search.algorithm: '{search.algorithm}': {error}") from error
    if not isinstance(found, Searcher):
        raise UserError(
            f"search.algorithm: '{search.algorithm}': is no Searcher of Ray Tune but a {type(found).__name__}"
        )
    return found


class _Random(Searcher):
    """Independent draws."""

    def __init__(self, space: Mapping[str, Any], seed: int) -> None:
        import numpy as np

        super().__init__(metric=OBJECTIVE, mode="max")
        self._space, self._random = space, np.random.RandomState(seed)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """One draw of each."""
        return {name: domain.sample(random_state=self._random) for name, domain in self._space.items()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learnt."""


def scheduler(config: SweepConfig) -> TrialScheduler | None:
    """ASHA over epochs, where the config asks for it."""
    if config.search is None or not config.search.stop_early:
        return None
    return ASHAScheduler(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=config.epochs_of(config.models[0], config.methods[0]),
        grace_period=config.search.grace_epochs,
        reduction_factor=2,
        # A trial at its last epoch is about to leave its model and result.
        stop_last_trials=False,
    )


class SearchQueue(TrialQueue):
    """A queue whose trials are made when there is room for one."""

    def __init__(
        self,
        plan: Plan,
        searcher: Searcher,
        nodes: Callable[[], tuple[Node, ...]],
        limits: Limits,
        events: SearchEvents,
    ) -> None:
        super().__init__(plan.waiting, nodes, limits, events)
        assert plan.config.search is not None
        self._search = plan.config.search
        self.plan, self._search_events = plan, events
        self._chooser = searcher  # `searcher` is a name that Tune looks into
        self._left = plan.open_trials
        self._known = {trial.trial_id: trial for trial in plan.trials}
        self._keys: dict[str, str] = {}
        self._handed: dict[str, Any] = {}
        self._asked = 0
        for trial in plan.trials:
            self._tell_earlier(trial)

    def _tell_earlier(self, trial: Trial) -> None:
        value = self._value(trial)
        if value is None:
            return
        try:
            self._chooser.add_evaluated_point(self._point(trial), value)
        except Exception as error:  # it knows no earlier points, or this one lies outside a space that was narrowed
            log.info("searcher %s was not told of %s: %s", type(self._chooser).__name__, trial.name, error)

    def _point(self, trial: Trial) -> dict[str, float]:
        values = {"alpha": trial.settings.alpha, "beta": trial.settings.beta, "lr": trial.settings.lr}
        return {name: values[name] for name in self._search.space}

    def _value(self, trial: Trial) -> float | None:
        paths = TrialPaths.of(self.plan.config.storage, self.plan.config.name, trial.trial_id)
        result = read_result(paths)
        if result is None or result.after is None or result.status == "failed":
            return None
        return objective_of(result.after, result.before, trial.settings.stop)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """As TrialQueue's; makes the next trial when one would fit."""
        if self._left > 0 and not self._waiting and self._events.may_start() and self._fits():
            self._make()
        if self._left > 0 and not self._waiting and self._events.may_start():
            return None
        suggestion = super().suggest(trial_id)
        if isinstance(suggestion, dict) and suggestion["trial_id"] in self._handed:
            suggestion["task"] = self._handed[suggestion["trial_id"]]
        return suggestion

    def _fits(self) -> bool:
        self._refresh()
        group = worker_group_of(coming_trial(self.plan))
        return (
            next_start([group], list(self._running.values()), self._seen[1], self._minutes(), self._limits) is not None
        )

    def _make(self) -> None:
        """The next trial; what was drawn before, to the digits that are kept, is told and drawn again."""
        for _ in range(_DRAWS):
            self._asked += 1
            key = f"search-{self._asked}"
            values = self._chooser.suggest(key)
            if values is None:
                return  # it waits for results
            if isinstance(values, str):
                break
            trial = searched_trial(self.plan, values)
            if trial.trial_id not in self._known:
                self._left -= 1
                self._known[trial.trial_id] = trial
                self._keys[trial.trial_id] = key
                self._handed[trial.trial_id] = self._search_events.chosen(trial)
                self._waiting.append(worker_group_of(trial))
                return
            known = self._value(trial)
            self._chooser.on_trial_complete(key, None if known is None else {OBJECTIVE: known}, error=known is None)
        log.info("the searcher has nothing new to try")
        self._left = 0

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An epoch is over, or a worker group has started."""
        super().on_trial_result(trial_id, result)
        placed = self._running.get(trial_id)
        key = None if placed is None else self._keys.get(placed.group.trial)
        if key is not None and OBJECTIVE in result:
            self._chooser.on_trial_result(key, dict(result))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the searcher what became of it, once its result lies in storage."""
        placed = self._running.get(trial_id)
        super().on_trial_complete(trial_id, result, error)
        if placed is None or placed.group in self._waiting:  # it goes on
            return
        ended = self._known[placed.group.trial]
        key = self._keys.get(ended.trial_id)
        if key is None:  # chosen by an earlier run
            self._tell_earlier(ended)
            return
        value = self._value(ended)
        self._chooser.on_trial_complete(key, None if value is None else {OBJECTIVE: value}, error=value is None)
