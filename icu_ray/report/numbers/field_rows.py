"""Each row's values of a trial's evaluation, under the names and keys that OpenUnlearning gives them.

    rows = field_rows(documents[trial.name])        # rows["forget_Q_A_Prob"][0] == {"prob": 0.2, "avg_loss": 1.6}

Of wrong answers only the mean of their probabilities is kept, so 'prob' of ..._Q_A_PERT_Prob is one number where theirs
is a list. 'score' of a truth ratio is R itself, not the score that its aggregate is a mean of, as in their files, from
where their forget quality is computed. ROUGE is the one that the benchmark asks for, recall or F1.
"""

from __future__ import annotations

from collections.abc import Mapping

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import PromptSet
from icu_ray.evaluation.benchmarks.derived import ATTACKS, PROB_MEAN
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task
from icu_ray.evaluation.benchmarks.tasks import SAID, metric_names
from icu_ray.evaluation.task import DocumentScore
from icu_ray.metrics.answers import prob_mean_scores
from icu_ray.report.numbers.trial_documents import TaskDocuments

FieldRow = Mapping[str, "float | str | None"]
_KEYS: Mapping[str, Mapping[str, str]] = {
    "prob": {"prob": "prob", "avg_loss": "avg_loss"},
    "prob_normalised": {"prob": "prob_normalised"},
    "prob_right": {"prob": "prob_right"},
    "prob_wrong": {"prob": "prob_wrong"},
    "truth_ratio": {"score": "truth_ratio_raw"},
    "exact_memorisation": {"score": "exact_memorisation"},
    "extraction_strength": {"score": "extraction_strength"},
}
"""Of each column that a metric is the mean of: theirs by ours."""
_SIDES = {True: "forget", False: "holdout"}
"""What they call members of membership inference, and others."""


def field_rows(documents: TaskDocuments) -> dict[str, dict[int, FieldRow]]:
    """By metric, and by the row's number; of membership inference by 'mia_loss/forget' and 'mia_loss/holdout'."""
    found: dict[str, dict[int, FieldRow]] = {}
    for task, rows in documents.items():
        benchmark = benchmark_of_task(task)
        sets = {} if benchmark is None else BENCHMARKS[benchmark].sets
        asked = sets.get(task.removesuffix(SAID).removeprefix(f"{benchmark}_"))
        if asked is None:
            continue  # of another version's benchmark
        if task.endswith(SAID):
            found[metric_names(asked)["rouge"]] = {number: _rouge(row, asked) for number, row in rows.items()}
            continue
        for column, name in metric_names(asked).items():
            values = {number: _row(row, _KEYS[column]) for number, row in rows.items() if column in row.metrics}
            if column in _KEYS and values:
                found[name] = values
        means = {number: row for number, row in rows.items() if {"prob_right", "truth_ratio_raw"} <= row.metrics.keys()}
        if means:
            name = f"{metric_names(asked)['truth_ratio']}{PROB_MEAN}"
            found[name] = {number: {"score": _prob_mean(row)} for number, row in means.items()}
        for attack in ATTACKS if asked.members is not None else ():
            values = {number: {"score": row.metrics[attack]} for number, row in rows.items() if attack in row.metrics}
            if values:
                found[f"{attack}/{_SIDES[asked.members is True]}"] = values
    return found


def _row(row: DocumentScore, keys: Mapping[str, str]) -> FieldRow:
    return {theirs: row.metrics.get(ours) for theirs, ours in keys.items()}


def _prob_mean(row: DocumentScore) -> float:
    return float(prob_mean_scores([row.metrics["prob_right"]], [row.metrics["truth_ratio_raw"]])[0])


def _rouge(row: DocumentScore, asked: PromptSet) -> FieldRow:
    key = "rougeL_recall" if "rouge_recall" in asked.measures else "rougeL_f1"
    texts = {"input": row.prompt, "ground_truth": row.target, "generation": row.said}
    return {key: row.metrics.get("rouge"), **{name: text for name, text in texts.items() if text or name != "input"}}
