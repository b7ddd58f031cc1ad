"""How sure a difference of two trials is of its rows: a paired test over what both models were asked.

    rows = RowValues(broken)
    test = rows.test("tofu/forget_Q_A_Prob", first, second)      # of second minus first; None: not told row by row

Only a benchmark's metrics that are means over rows have one, and only where both trials were asked the same rows by the
same conventions. It says how another choice of such rows might do, not another sample or seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icu_ray.errors import UserError, without_secrets
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import PromptSet
from icu_ray.evaluation.benchmarks.derived import PROB_MEAN, Documents, prob_means
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task, trial_documents
from icu_ray.evaluation.benchmarks.tasks import SAID, metric_names
from icu_ray.metrics.answers import Floats
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.statistics import PairedTest, paired_tests
from icu_ray.storage.trial_files import read_documents


class RowValues:
    """Values of rows by trial, each trial's documents read once. broken: gets a line for each that cannot be read."""

    def __init__(self, broken: list[str]) -> None:
        self._broken = broken
        self._known: dict[tuple[str, str, str], Mapping[str, tuple[str, Floats]]] = {}

    def test(self, metric: str, first: ReportedTrial, second: ReportedTrial) -> PairedTest | None:
        """Of the rows that both models could be measured on; None where there are none."""
        mine, theirs = (self._of(trial).get(metric) for trial in (first, second))
        if mine is None or theirs is None or mine[0] != theirs[0] or len(mine[1]) != len(theirs[1]):
            return None
        both = np.isfinite(mine[1]) & np.isfinite(theirs[1])
        found = paired_tests(theirs[1][both].tolist(), mine[1][both].tolist())
        return found if found.n else None

    def _of(self, trial: ReportedTrial) -> Mapping[str, tuple[str, Floats]]:
        """By metric the hash of its task, and its rows."""
        key = trial.storage, trial.sweep, trial.trial_id
        if key not in self._known:
            self._known[key] = self._read(trial)
        return self._known[key]

    def _read(self, trial: ReportedTrial) -> Mapping[str, tuple[str, Floats]]:
        evaluation = trial.evaluation
        if evaluation is None or not trial.storage or not any(map(benchmark_of_task, evaluation.tasks)):
            return {}
        try:
            data = read_documents(trial.paths.documents, evaluation)
            documents = {} if data is None else trial_documents(data, trial.name)
            if data is not None and not documents and evaluation.models[0] == evaluation.models[1]:
                documents = trial_documents(data, trial.model)  # a trial that changed nothing
        except UserError as error:
            self._broken.append(str(error))
            return {}
        except (OSError, ValueError, KeyError) as error:  # earlier versions wrote no SHA-256 that would have said it
            self._broken.append(without_secrets(f"{trial.paths.documents}: is no table of documents: {error}"))
            return {}
        tasks = evaluation.tasks
        return {name: (tasks[task], values) for name, (task, values) in _by_metric(documents).items() if task in tasks}


def _by_metric(documents: Documents) -> dict[str, tuple[str, Floats]]:
    """By metric its task, and the values that it is the mean of."""
    found = {}
    for name, benchmark in BENCHMARKS.items():
        for each in benchmark.sets.values():
            task = f"{name}_{each.name}"
            for column, metric in metric_names(each).items():
                whose = task + SAID if column == "rouge" else task
                values = documents.get(whose, {}).get(column)
                if values is not None and _is_reported(each, column):
                    found[f"{name}/{metric}"] = (whose, values)
            shares = prob_means(documents.get(task, {}))
            if shares is not None:
                found[f"{name}/{metric_names(each)['truth_ratio']}{PROB_MEAN}"] = (task, shares)
    return found


def _is_reported(each: PromptSet, column: str) -> bool:
    return column != "prob" or bool({"probability", "probability_normalised"} & set(each.measures))
