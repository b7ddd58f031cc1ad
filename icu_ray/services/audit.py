"""Attacks on one model: what stands behind `icu-ray audit`.

    found = audit_files(["unlearned"], Path("forget.jsonl"), AuditConfig(attacks=("all",)), control=heldout)
    found[0][1].said()

Whatever can be refused is refused before a Ray is started, and none is when the store has all of it already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.audit.findings import AttackResult
from icu_ray.audit.jobs import AuditJob, RowsAsked
from icu_ray.audit.registry import attacks_of
from icu_ray.audit.stage import audit_models
from icu_ray.audit.verdict import model_audit
from icu_ray.config import TokensConfig
from icu_ray.config.auditing import AuditConfig
from icu_ray.data.actor_pool import Pool
from icu_ray.data.examples import Examples
from icu_ray.data.paraphrases import read_paraphrases, written_paraphrases
from icu_ray.data.record_table import RecordTable
from icu_ray.data.records import Record, examples_of, read_records
from icu_ray.errors import UserError
from icu_ray.evaluation.stage.actors import default_pool
from icu_ray.models.checking import check_models
from icu_ray.models.loading import load_tokenizer
from icu_ray.models.subjects import Subject
from icu_ray.plan.audit_checks import check_nli
from icu_ray.plan.own_files import records_of
from icu_ray.services.asked_models import described, quietly_connected, subjects_of
from icu_ray.services.probe import columns_for
from icu_ray.storage.audits import ModelAudit
from icu_ray.storage.files import check_writable, join, local_path
from icu_ray.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def audit_files(
    models: Sequence[str],
    forget: Path,
    config: AuditConfig,
    *,
    control: Path | None = None,
    kin: Path | None = None,
    original: str | None = None,
    retrained: str | None = None,
    columns: Mapping[str, Any] | None = None,
    paraphrases_column: str | None = None,
    length: int = 200,
    prompt_tokens: int | None = None,
    storage: str = "./runs",
    precision: str = "fp32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, ModelAudit]]:
    """The verdict on every model (hub id or folder), from <storage>/store where it is there.

    control: texts of the same kind that no model here has read; kin: texts that it was to keep. original, retrained:
    the model before unlearning and one that never read `forget`, with which some attacks compare. length: tokens of a
    row; prompt_tokens: how many of them are given (default: three quarters), of plain texts. paraphrases_column: of
    `forget`, where its prompts stand in other words.
    """
    check_writable(storage)
    check_nli(config, "--nli")
    given = length * 3 // 4 if prompt_tokens is None else prompt_tokens
    if not 1 <= given < length:
        raise UserError(f"--prompt-tokens {given}: expected 1 to {length - 1}, less than --length {length}")
    told = {"source": models[0], "revision": revision, "trust_remote_code": trust_remote_code}

    def texts(file: Path | None, kind: str) -> RecordTable[Record] | None:
        if file is None:
            return None
        described = records_of(file, columns or {}, told, "icu-ray audit", tell)
        return read_records(file, described.form, None, kind, kind)

    own = records_of(forget, {**(columns or {}), "paraphrases_column": paraphrases_column}, told, "icu-ray audit", tell)
    records = read_records(forget, own.form, None, "forget")
    asked = examples_of(records)
    paraphrases: dict[str, tuple[str, ...]] = {}
    if paraphrases_column is not None:
        paraphrases = written_paraphrases(asked, own.form, read_paraphrases(own, 0))
    every, asked = len(asked), asked.first(config.rows)
    control_records, kin_records = texts(control, "control"), texts(kin, "kin")
    if control_records is not None:
        _refuse_shared("--forget", records, forget, control_records, control)
        if kin_records is not None:
            _refuse_shared("--keep", kin_records, kin, control_records, control)
    controls, pool = (None if each is None else examples_of(each) for each in (control_records, kin_records))
    for option, given_rows, most in (("--control", controls, config.control), ("--keep", pool, config.kin)):
        if given_rows is not None and len(given_rows) > most:
            tell(f"{option}: the first {most} of {len(given_rows)} rows are asked")
    rows = RowsAsked(
        asked,
        None if controls is None else controls.first(config.control),
        None if pool is None else pool.first(config.kin),
        columns_for(length, given),
        TokensConfig(),
        own_columns=True,
        long="cut",
        paraphrases={name: paraphrases[name] for name in asked.ids if name in paraphrases},
        left_out=every - len(asked),
    )
    others = {name: source for name, source in (("original", original), ("retrained", retrained)) if source}
    sources = list(dict.fromkeys([*models, *others.values()]))
    asked_models = described(sources, revision, trust_remote_code)
    check_models(asked_models)
    subjects = dict(zip(sources, subjects_of(asked_models, precision), strict=True))
    originals = {name: subjects[source] for name, source in others.items()}
    _refuse_two_roles(models, others, subjects)
    jobs = [AuditJob(subjects[model], attack, rows, originals) for model in models for attack in attacks_of(config)]
    tokenizer = load_tokenizer(models[0], revision=revision, trust_remote_code=trust_remote_code)
    cut = cut_rows(rows.forget, tokenizer, length)
    if cut is not None:
        tell(cut)
    return _verdicts(models, jobs, storage, config.leak, (*rows.missing, *(() if cut is None else (cut,))))


def cut_rows(forget: Examples, tokenizer: PreTrainedTokenizerBase, length: int) -> str | None:
    """Which texts have more than `length` tokens, in a sentence; None: none."""
    from icu_ray.data.tokens import row_lengths

    lengths, _ = row_lengths(forget, tokenizer)
    long = [f"{name} ({count})" for name, count in zip(forget.ids, lengths, strict=True) if count > length]
    named = ", ".join(long[:5]) + (f" and {len(long) - 5} more" if len(long) > 5 else "")
    return f"{len(long)} of {len(forget)} rows are cut at --length {length}: {named}" if long else None


def _refuse_shared(
    option: str, read: Sequence[Record], file: Path | None, control: Sequence[Record], control_file: Path | None
) -> None:
    """UserError where control rows are in `file`, which `option` gives: the model has read what is in there."""
    known = {record.content: record for record in read}
    both = [(known[record.content], record) for record in control if record.content in known]
    if both:
        named = "; ".join(f"{other.where} is {own.where}" for own, other in both[:5])
        more = f" and {len(both) - 5} more" if len(both) > 5 else ""
        raise UserError(
            f"--control: {control_file}: {len(both)} texts are in {option} {file} too: {named}{more}; expected "
            "texts that the model has never read"
        )


def _refuse_two_roles(models: Sequence[str], others: Mapping[str, str], subjects: Mapping[str, Subject]) -> None:
    for name, source in others.items():
        for model in models:
            if subjects[model].hash == subjects[source].hash:
                raise UserError(f"--{name} {source}: is the model of --model {model}, file by file; expected another")


def _verdicts(
    models: Sequence[str], jobs: Sequence[AuditJob], storage: str, leak: float, missing: Sequence[str]
) -> list[tuple[str, ModelAudit]]:
    """jobs: of each model as many, one model after the other."""
    folder = local_path(storage)
    store = Store(join(storage if folder is None else str(folder.resolve()), "store"))
    log = (Path(tempfile.gettempdir()) if folder is None else folder.resolve()) / "audit.log"
    results: list[dict[str, AttackResult]] = [{} for _ in models]
    errors: list[dict[str, str]] = [{} for _ in models]
    each = len(jobs) // len(models)

    def pool() -> Pool:
        backward = any(job.attack.changes_weights for job in jobs)
        return default_pool([job.subject for job in jobs], backward=backward)

    for done in audit_models(jobs, store, pool, ray=lambda: quietly_connected(log)):
        model, attack = done.job // each, jobs[done.job].attack.name
        if done.result is None:
            errors[model][attack] = done.error
        else:
            results[model][attack] = done.result
    units = {job.attack.name: job.attack.unit for job in jobs}
    asked = set(jobs[0].rows.forget.ids)
    return [
        (model, model_audit(results[place], units, leak, errors[place], missing, asked))
        for place, model in enumerate(models)
    ]
