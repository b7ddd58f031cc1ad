"""The jobs of a cluster and how far they are, for `icu-ray submit --list`.

    for job in jobs("http://head:8265"):
        print(job.status, job.id, job.sweep, job.progress)

All that was submitted is there, by `icu-ray submit` or by plain `ray job submit`, sweeps or not. How far a job is, is
read from what it has printed: its storage need not be one that this machine can read.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from icu_ray.errors import without_secrets
from icu_ray.sweep.submit import explained, job_client

_LONGEST = 160
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_OPENING = re.compile(
    r"^(\S+): (\d+) trials? to run(?: and (\d+) to be chosen by the search)?(?:, (\d+) already done)?; log in ",
    re.MULTILINE,
)
"""A sweep's first line (sweep/run.py)."""
_COUNT = re.compile(r"\[(\d+)/(\d+)\]$", re.MULTILINE)
"""The end of the line that a sweep prints when a trial ends (report/terminal/live.py)."""


@dataclass(frozen=True)
class ListedJob:
    """started, ended: Unix seconds, None where Ray tells none. sweep: its name, '' where it is none or not known.

    done, trials: how many of the sweep's trials are over, None where not known. said: the last line that a running job
    has printed; for a job that failed before it ran, why.
    """

    id: str
    status: str
    sweep: str
    command: str
    started: float | None
    ended: float | None
    done: int | None = None
    trials: int | None = None
    said: str = ""

    @property
    def progress(self) -> str:
        """'3 of 12 trials done; epoch icu-small-s0 4: MA 60.1 %'; '' where nothing is known."""
        counted = "" if self.trials is None else f"{self.done} of {self.trials} trials done"
        return "; ".join(filter(None, (counted, self.said)))


def jobs(address: str) -> list[ListedJob]:
    """All submitted jobs, the newest last."""
    client = job_client(address)
    with explained(f"jobs at {address}"):
        found = [job for job in client.list_jobs() if job.submission_id]  # a driver that was not submitted has none
        return [_listed(client, job) for job in sorted(found, key=lambda job: job.start_time or 0)]


def _listed(client: Any, job: Any) -> ListedJob:
    status, sweep = str(job.status.value), str((job.metadata or {}).get("sweep", ""))
    running = status == "RUNNING"
    log = ""
    # What an ended job has printed matters only where nothing else tells which sweep it was.
    if running or (not sweep and "icu_ray.sweep" in job.entrypoint):
        with contextlib.suppress(RuntimeError, OSError):  # its node is gone, or not there yet
            log = client.get_job_logs(job.submission_id)
    # Ray writes the command among what it prints: above it, or below where the job was quicker.
    log = log.replace(f"Running entrypoint for job {job.submission_id}: {job.entrypoint}\n", "", 1)
    log = _STYLE.sub("", log)
    name, done, trials = _counted(log)
    lines = log.split("\n")
    said = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "") if running else ""
    if status == "FAILED" and job.driver_exit_code is None:
        said = " ".join((job.message or "").split())
    said = without_secrets(said)
    return ListedJob(
        str(job.submission_id),
        status,
        sweep or name,
        without_secrets(job.entrypoint),
        _seconds(job.start_time),
        _seconds(job.end_time),
        done,
        trials,
        said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "...",
    )


def _counted(log: str) -> tuple[str, int | None, int | None]:
    """Name, trials that are over and trials of the sweep that has printed this; ('', None, None) where none has."""
    opening = _OPENING.search(log)
    if opening is None:
        return "", None, None
    counts = _COUNT.findall(log)
    if counts:
        return opening[1], int(counts[-1][0]), int(counts[-1][1])
    waiting, chosen, already = (int(number or 0) for number in opening.groups()[1:])
    return opening[1], already, waiting + chosen + already


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
