"""The documents of a trial's evaluation, read with what makes them unreadable told and not raised.

broken: list[str] = []
documents_of(trial, broken)[trial.name]["tofu_forget"][0]         # of the unlearned model, a DocumentScore
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from icu_ray.errors import UserError, without_secrets
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task, said_documents
from icu_ray.evaluation.task import DocumentScore
from icu_ray.report.collect import ReportedTrial
from icu_ray.storage.trial_files import read_documents

TaskDocuments: TypeAlias = Mapping[str, Mapping[int, DocumentScore]]
"""One model's, by task and number."""


def documents_of(trial: ReportedTrial, broken: list[str]) -> Mapping[str, TaskDocuments]:
    """By model; none where no benchmark was asked, or they cannot be read, of which `broken` gets a line."""
    evaluation = trial.evaluation
    if evaluation is None or not any(map(benchmark_of_task, evaluation.tasks)):
        return {}  # documents, which may be large and far away, are not fetched for nothing
    try:
        data = read_documents(trial.paths.documents, evaluation)
        return {} if data is None else said_documents(data)
    except UserError as error:
        broken.append(str(error))
    except (OSError, ValueError, KeyError) as error:  # earlier versions wrote no SHA-256 that would have said it
        broken.append(without_secrets(f"{trial.paths.documents}: is no table of documents: {error}"))
    return {}
