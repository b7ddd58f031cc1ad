"""The audit of one trial: whether it is outstanding, which rows are attacked, and what is written.

for trial in outstanding_audits(plan): ...
rows = rows_asked(config, corpus, model, sample)
write_trial_audit(models, plan, found)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icu_ray.audit.attack import Attack
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.jobs import AuditJob, RowsAsked
from icu_ray.audit.registry import ASKS_PARAPHRASES, attacks_of, identity_of
from icu_ray.audit.verdict import model_audit
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.data.corpus import Corpus
from icu_ray.data.sources import counts_own_tokens
from icu_ray.methods import RETRAINED
from icu_ray.models.subjects import Subject
from icu_ray.plan.audit_checks import no_controls
from icu_ray.plan.grid import Plan
from icu_ray.plan.paraphrases import paraphrases_asked, paraphrases_from
from icu_ray.plan.trial import DONE, Trial
from icu_ray.storage.audit_files import read_audit, write_audit
from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.files import list_dir
from icu_ray.storage.folders import remove
from icu_ray.storage.store import JsonValue, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.trial_evaluation import TrialModels, is_asked, is_evaluated, task_hashes

_VERSION = 3


def attack_hashes(plan: Plan, trial: Trial) -> dict[str, str]:
    """The attacks that a config asks for, each with a hash of what it does, on what, and beside which other models."""
    config, retrained = plan.config, retrained_of(plan, trial)
    rows = [config.audit.rows, config.audit.control, config.audit.kin]
    beside = None if retrained is None else _model_hash(plan, retrained)
    reworded = paraphrases_from(config, trial.sample)
    # Control rows are held-out ones, and a trial's id need not tell which these are; that of a model made here does.
    held_out = None if plan.data is None or trial.model.made_here else plan.data.heldout_fingerprint

    def told(attack: Attack) -> list[JsonValue]:
        # Paraphrases came later: audits without any are found again.
        more = [reworded] if reworded is not None and attack.name in ASKS_PARAPHRASES else []
        return [_VERSION, identity_of(attack), rows, beside, *more, *([] if held_out is None else [held_out])]

    return {attack.name: content_hash(told(attack)) for attack in attacks_of(config.audit)}


def _model_hash(plan: Plan, trial: Trial) -> str | None:
    """Of a trial's model; None while there is none, so that audits beside it are made again once there is."""
    result = read_result(TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id))
    return None if result is None or result.status == "failed" else result.model_hash or None


def retrained_of(plan: Plan, trial: Trial) -> Trial | None:
    """The trial that is the gold standard of this one's model and sample; None where there is none."""
    own = trial.model.name, trial.sample
    golds = (each for each in plan.trials if each.settings.method == RETRAINED)
    return next((each for each in golds if (each.model.name, each.sample) == own), None)


def outstanding_audits(plan: Plan) -> tuple[Trial, ...]:
    """Trials that ended before this run and lack an audit that the config asks for."""
    return tuple(trial for trial in plan.trials if trial.status in DONE and not _is_audited(plan, trial))


def _is_audited(plan: Plan, trial: Trial) -> bool:
    def whole(found: TrialAudit) -> bool:
        asked = dict(found.attacks) == attack_hashes(plan, trial) and found.leak == plan.config.audit.leak
        return asked and not found.before.errors and not found.after.errors

    return is_asked(TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id), read_audit, whole)


def remove_unkept(plan: Plan, trials: Sequence[Trial]) -> None:
    """Remove the models of trials that are audited, and evaluated where that is asked for, without an error.

    trials: all of the sweep. What an earlier run was interrupted before is made up for. A gold standard stays as long
    as an audit is outstanding that compares with it.
    """
    evaluations = task_hashes(plan.config) if plan.config.evaluation.asked else None
    done = [
        trial
        for trial in trials
        if _is_audited(plan, trial) and (evaluations is None or is_evaluated(plan.config, trial, evaluations))
    ]
    for trial in done:
        if trial.settings.method == RETRAINED and len(done) < len(trials):
            continue
        model = TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id).model
        if list_dir(model):
            remove(model)


def rows_asked(config: SweepConfig, corpus: Corpus, model: ModelConfig, sample: int) -> RowsAsked:
    """The targets of a sample, held-out rows that the model has not read as controls, and the pool's first rows."""
    audit = config.audit
    kin, targets = corpus.pools[sample][: audit.kin], corpus.to_forget(sample)
    forget, every = targets.first(audit.rows), paraphrases_asked(config, targets, sample)
    paraphrases = {name: every[name] for name in forget.ids if name in every}
    # An audit reads long texts as their windows where the sweep does, else their beginning.
    return RowsAsked(
        forget,
        None if corpus.heldout is None or no_controls(config, model) else corpus.heldout.first(audit.control),
        corpus.rows.select(kin) if len(kin) else None,
        config.columns.value(),
        config.tokens,
        counts_own_tokens(config, model.standin is not None),
        "windows" if config.rows.long == "windows" else "cut",
        paraphrases,
        len(targets) - len(forget),
    )


@dataclass(frozen=True)
class TrialJobs:
    """The attacks on both models of a trial, in the config's order."""

    models: TrialModels
    before: tuple[AuditJob, ...]
    after: tuple[AuditJob, ...]


def jobs_of(models: TrialModels, plan: Plan, rows: RowsAsked, retrained: Subject | None) -> TrialJobs:
    """What is to be done for a trial. retrained: the gold standard's model."""
    originals = {"original": models.before, **({} if retrained is None else {"retrained": retrained})}

    def jobs(subject: Subject) -> tuple[AuditJob, ...]:
        return tuple(AuditJob(subject, attack, rows, originals) for attack in attacks_of(plan.config.audit))

    return TrialJobs(models, jobs(models.before), jobs(models.after))


def write_trial_audit(
    jobs: TrialJobs, plan: Plan, found: Mapping[str, AttackResult], errors: Mapping[str, str]
) -> ModelAudit:
    """Write a trial's audit.json; what is said of its own model. found, errors: by the hash of a job's key."""
    models, audit = jobs.models, plan.config.audit
    why = no_controls(plan.config, models.trial.model)
    missing = () if why is None else (why,)
    before, after = (_verdict(each, found, errors, audit.leak, missing) for each in (jobs.before, jobs.after))
    hashes = models.before.hash, models.after.hash
    write_audit(models.paths, TrialAudit(attack_hashes(plan, models.trial), hashes, audit.leak, before, after))
    return after


def _verdict(
    jobs: Sequence[AuditJob],
    found: Mapping[str, AttackResult],
    errors: Mapping[str, str],
    leak: float,
    missing: Sequence[str],
) -> ModelAudit:
    results = {job.attack.name: found[job.digest] for job in jobs if job.digest in found}
    failed = {job.attack.name: errors[job.digest] for job in jobs if job.digest in errors}
    units = {job.attack.name: job.attack.unit for job in jobs}
    rows = jobs[0].rows
    return model_audit(results, units, leak, failed, (*missing, *rows.missing), set(rows.forget.ids))
