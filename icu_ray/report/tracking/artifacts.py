"""Files of a run: configs, samples, what was answered to every document, tables and the report.

send_samples(client, run_id, read_samples(paths))
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icu_ray.errors import UserError
from icu_ray.storage.el_names import plain
from icu_ray.storage.files import join, list_dir, read_bytes
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.results import SampleRecord, TrialEvaluation
from icu_ray.storage.trial_files import read_documents

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
_REPORT_SUFFIXES = (".html", ".md", ".csv", ".tex", ".png", ".svg", ".pdf")


def send_samples(client: MlflowClient, run_id: str, samples: Sequence[SampleRecord]) -> None:
    """What was said about each text before and after, as a table that the UI shows; nothing where there is none."""
    if not samples:
        return
    rows = [plain(sample) for sample in samples]
    # log_table appends to a table that is there, so it is written as a file in the table's own format.
    table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    client.log_dict(run_id, table, "samples.json")
    client.set_tag(run_id, "mlflow.loggedArtifacts", '[{"path": "samples.json", "type": "table"}]')


def send_evaluation(client: MlflowClient, run_id: str, documents: str, evaluation: TrialEvaluation) -> bool:
    """What was answered to every document (a Parquet file), and which tasks could not be evaluated.

    False where that file is not what was written, and so was not sent.
    """
    content, whole = None, True
    try:
        content = read_documents(documents, evaluation)
    except UserError as error:
        log.warning("not sent: %s", error)
        whole = False
    if content is not None:
        with scratch_folder() as folder:
            file = folder / "documents.parquet"
            file.write_bytes(content)
            client.log_artifact(run_id, str(file), "evaluation")
    if evaluation.errors:
        client.log_dict(run_id, dict(evaluation.errors), "evaluation/errors.json")
    return whole


def send_tables(client: MlflowClient, run_id: str, folder: str) -> None:
    """The sweep's tables, those that are there."""
    for name in ("trials.csv", "cells.csv", "summary.json"):
        content = read_bytes(join(folder, name))
        if content is not None:
            client.log_text(run_id, content.decode(), name)


def send_report(client: MlflowClient, run_id: str, folder: str) -> None:
    """The report's files as artefacts under 'report', where there is one."""
    with scratch_folder() as local:
        for name in list_dir(folder):
            if name.endswith(_REPORT_SUFFIXES) and (data := read_bytes(join(folder, name))):
                (local / name).write_bytes(data)
                client.log_artifact(run_id, str(local / name), "report")
