"""The audit of a sweep's models beside its trials: attacks that ask whether what was unlearned is really gone.

    audit = SweepAudit(plan, store_root, on_step)                # where config.audit.asked
    with audit.running(): ...                                    # sweep/beside.py

Each attack's result on a model is in the store as soon as it is there. A trial whose model has a gold standard is
audited once that is there too, as attacks compare with it. A trial's rows and file: sweep/trial_audit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from icu_ray.audit.findings import AttackResult
from icu_ray.audit.jobs import AuditJob, RowsAsked
from icu_ray.audit.stage import AuditDone, audit_models
from icu_ray.console.progress import Step
from icu_ray.console.streaming import streamed
from icu_ray.data.actor_pool import Pool
from icu_ray.data.corpus import Corpus
from icu_ray.data.sources import load_corpus
from icu_ray.plan.grid import Plan
from icu_ray.storage.store import Store
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.beside import BesideTrials
from icu_ray.sweep.rounds import Round
from icu_ray.sweep.trial_audit import TrialJobs, jobs_of, retrained_of, rows_asked, write_trial_audit
from icu_ray.sweep.trial_evaluation import TrialModels, models_of


class SweepAudit(BesideTrials):
    """Attacks every model with what the config's section `audit` names."""

    step, participle = "audit", "audited"

    def __init__(self, plan: Plan, root: str, on_step: Callable[[Step], None]) -> None:
        super().__init__(plan, root, on_step)
        self.backward = "relearn" in self.config.audit.names
        self._corpus: Corpus | None = None
        self._rows: dict[tuple[str, int], RowsAsked] = {}
        self._jobs: dict[str, TrialJobs] = {}
        self._found: dict[str, AttackResult] = {}
        self._errors: dict[str, str] = {}
        self._under_way: tuple[AuditJob, ...] = ()

    def _prepare_round(self, waiting: Sequence[TrialModels], pool: Pool) -> Callable[[], Round] | None:
        ready = [jobs for each in waiting if (jobs := self._jobs_of(each)) is not None]
        every = {job.digest: job for jobs in ready for job in (*jobs.before, *jobs.after)}
        missing = tuple(job for name, job in every.items() if not self._known(name))
        self._under_way = missing
        return partial(Round, _round, self.root, missing, pool) if missing else None

    def _heard(self, update: AuditDone, waiting: Sequence[TrialModels]) -> None:
        job = self._under_way[update.job]
        name = job.digest
        if update.result is None:
            self._errors[name] = update.error
        else:
            self._found[name] = update.result
        self._write(waiting)
        models = {subject.hash for each in self._added for subject in each.subjects}
        total = len(models) * len(self.config.audit.names)
        done = len(self._found) + len(self._errors)
        self.on_step(Step(self.step, min(done / total, 0.999), f"{job.subject.name}: {job.attack.name}"))

    def _write(self, waiting: Sequence[TrialModels]) -> None:
        for models in waiting:
            jobs = self._jobs.get(models.trial.trial_id)
            if jobs is None or models.trial.trial_id in self._written:
                continue
            if not all(self._known(job.digest) for job in (*jobs.before, *jobs.after)):
                continue
            after = write_trial_audit(jobs, self.plan, self._found, self._errors)
            self.failures += [f"{attack} on {models.trial.name}: {error}" for attack, error in after.errors.items()]
            self._is_written(models)

    def _done(self) -> str:
        models = len({subject.hash for each in self._added for subject in each.subjects})
        return f"{models} models, {len(self.config.audit.names)} attacks"

    def _known(self, name: str) -> bool:
        return name in self._found or name in self._errors

    def _jobs_of(self, models: TrialModels) -> TrialJobs | None:
        """What a trial's audit takes; None where the gold standard that it is compared with is still to come."""
        trial = models.trial
        if trial.trial_id in self._jobs:
            return self._jobs[trial.trial_id]
        retrained = None
        gold = retrained_of(self.plan, trial)
        if gold is not None:
            result = read_result(TrialPaths.of(self.config.storage, self.config.name, gold.trial_id))
            if result is None and not self._whole_cluster:
                return None
            if result is not None and result.status != "failed" and result.model_hash:
                retrained = models_of(self.plan, self.root, gold, result).after
        self._jobs[trial.trial_id] = jobs_of(models, self.plan, self._rows_of(models), retrained)
        return self._jobs[trial.trial_id]

    def _rows_of(self, models: TrialModels) -> RowsAsked:
        model, sample = models.trial.model, models.trial.sample
        if self._corpus is None:
            self._corpus = load_corpus(self.config)
        if (model.name, sample) not in self._rows:
            self._rows[model.name, sample] = rows_asked(self.config, self._corpus, model, sample)
        return self._rows[model.name, sample]


def _round(root: str, jobs: Sequence[AuditJob], pool: Pool) -> Iterator[AuditDone]:
    def work(tell: Callable[[AuditDone], None]) -> None:
        for done in audit_models(jobs, Store(root), lambda: pool):
            tell(done)

    yield from streamed(work)
