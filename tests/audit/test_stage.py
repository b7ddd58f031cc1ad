"""The stage on a real Ray: results equal the attack run here, are kept, and one that fails takes no other with it.

Needs: one Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.audit.attack import Attack, Target
from icu_ray.audit.attacks.membership import Membership
from icu_ray.audit.attacks.prefix_search import PrefixSearch
from icu_ray.audit.attacks.quantise import Quantise
from icu_ray.audit.jobs import AuditJob, RowsAsked, material_of
from icu_ray.audit.stage import AuditDone, audit_models
from icu_ray.config import Columns, TokensConfig
from icu_ray.data.actor_pool import Pool
from icu_ray.data.examples import Examples
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.subjects import Subject, load_subject
from icu_ray.storage.store import Store
from tests.support.evaluation_case import save_model, sentence


def shape() -> Pool:
    return Pool(2)


def never() -> Pool:
    raise AssertionError("what is in the store was asked again")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = save_model(tmp_path_factory.mktemp("model") / "m", 0)
    return Subject("m", str(folder), folder_fingerprint(folder))


def rows(count: int = 4) -> RowsAsked:
    def texts(first: int) -> Examples:
        return Examples(
            tuple(f"r{first + n}" for n in range(count)), tuple(sentence(first + n, 16) for n in range(count))
        )

    return RowsAsked(texts(0), texts(50), texts(100), Columns(24, 4, 12), TokensConfig(), True, "cut")


def here(job: AuditJob) -> dict[str, object]:
    loaded = load_subject(job.subject)
    with material_of(job, loaded.tokenizer) as material:
        return job.attack.run(Target(loaded, material)).as_json()


def by_job(done: Iterator[AuditDone]) -> list[AuditDone]:
    return sorted(done, key=lambda each: each.job)


def test_results_are_those_of_the_attack_and_are_kept(ray_cluster: None, tmp_path: Path, subject: Subject) -> None:
    attacks: tuple[Attack, ...] = (PrefixSearch(), Quantise())
    jobs = [AuditJob(subject, attack, rows()) for attack in attacks]
    store = Store(str(tmp_path / "store"))
    found = by_job(audit_models(jobs, store, shape))
    assert [done.error for done in found] == ["", ""]
    for job, done in zip(jobs, found, strict=True):
        assert done.result is not None
        assert done.result.as_json() == here(job)
    assert [done.result for done in by_job(audit_models(jobs, store, never))] == [done.result for done in found]
    # Other rows, or another model, are asked anew.
    for other in (replace(jobs[0], rows=rows(3)), replace(jobs[0], subject=replace(subject, hash="0" * 64))):
        with pytest.raises(AssertionError, match="asked again"):
            list(audit_models([other], store, never))


def test_a_model_that_cannot_be_read_fails_alone(ray_cluster: None, tmp_path: Path, subject: Subject) -> None:
    gone = Subject("gone", str(tmp_path / "nowhere"), "0" * 64)
    jobs = [AuditJob(each, PrefixSearch(), rows()) for each in (gone, subject)]
    found = by_job(audit_models(jobs, Store(str(tmp_path / "store")), shape))
    assert found[0].result is None and "nowhere" in found[0].error
    assert found[1].result is not None


def test_a_model_to_compare_with_that_is_not_that_of_the_record_leaves_no_result(
    ray_cluster: None, tmp_path: Path, subject: Subject
) -> None:
    """Of a folder and behind a URL; once its files are put back, the attack is run."""
    folder, store = save_model(tmp_path / "gold", 1), Store(str(tmp_path / "store"))
    gold = Subject("gold", str(folder), folder_fingerprint(folder), recorded=True)
    remote = replace(gold, source=f"local://{folder}")
    jobs = [AuditJob(subject, Membership(), rows(), {"retrained": each}) for each in (gold, remote)]
    as_it_was = here(jobs[0])
    save_model(folder, 2)
    for job in jobs:
        (done,) = audit_models([job], store, shape)
        assert done.result is None
        assert done.error.startswith(f"{job.originals['retrained'].source}: its files have changed since their SHA-256")
    # A hash that is no record is only a name.
    found = here(AuditJob(subject, Membership(), rows(), {"retrained": replace(gold, recorded=False)}))
    assert found != as_it_was
    save_model(folder, 1)
    (done,) = audit_models(jobs[:1], store, shape)
    assert done.result is not None and done.result.as_json() == as_it_was
