"""Which rows a trial's audit attacks, and when it is made again.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icu_ray.audit.attacks.sample import Sample
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.registry import attacks_of, identity_of
from icu_ray.config.file import resolve_config
from icu_ray.data.sources import load_corpus
from icu_ray.models.fingerprints import source_fingerprint
from icu_ray.plan.audit_checks import no_controls
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.store import content_hash
from icu_ray.storage.trial_files import TrialPaths, read_result, write_result
from icu_ray.sweep.trial_audit import attack_hashes, jobs_of, retrained_of, rows_asked, write_trial_audit
from icu_ray.sweep.trial_evaluation import models_of
from tests.support.benchmark_case import write_lines
from tests.support.ended_sweep import ended_sweep

STANDIN: dict[str, Any] = {"standin": {}}
OWN: dict[str, Any] = {"source": "some/model"}


@pytest.mark.parametrize(
    ("more", "model", "said"),
    [
        ({"heldout": "heldout.jsonl"}, OWN, None),
        ({"heldout": "heldout.jsonl"}, STANDIN, None),
        ({"heldout_rows": 4}, STANDIN, None),
        ({"heldout_rows": 4}, {**OWN, "train": {"epochs": 1}}, None),
        ({"heldout_rows": 4}, OWN, "may have read the rows that data.heldout_rows sets aside"),
        ({}, STANDIN, "there are no held-out texts"),
    ],
)
def test_controls_are_texts_that_the_model_has_not_read(
    tmp_path: Path, more: dict[str, Any], model: dict[str, Any], said: str | None
) -> None:
    for name, count in (("forget", 3), ("pool", 12), ("heldout", 5)):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": f"This is text {n} of {name}."} for n in range(count)])
    data = {"source": "records", "forget": str(tmp_path / "forget.jsonl"), "pool": str(tmp_path / "pool.jsonl"), **more}
    data |= {"heldout": str(tmp_path / data["heldout"])} if "heldout" in data else {}
    config = resolve_config(
        {
            "name": "t",
            "models": [{"name": "m", **model}],
            "data": data,
            "samples": [0],
            "audit": {"attacks": ["prompt"]},
        },
        "t",
    )
    reason = no_controls(config, config.models[0])
    rows = rows_asked(config, load_corpus(config), config.models[0], 0)
    if said is None:
        assert reason is None and rows.control is not None and len(rows.control) in (4, 5)
    else:
        assert reason is not None and said in reason and rows.control is None


def test_texts_that_are_left_out_are_said(tmp_path: Path) -> None:
    """Of 4 texts the first is attacked, and 3 are left out; rows and total are of what was attacked."""
    for rows, missing in ((1, ("3 of 4 texts: audit.rows is 1",)), (4, ()), (None, ())):
        plan = ended_sweep(tmp_path / str(rows), {"audit": {"attacks": ["prefix_search"], "rows": rows}})
        (trial,), corpus = plan.trials, load_corpus(plan.config)
        paths = TrialPaths.of(plan.config.storage, "t", trial.trial_id)
        result = read_result(paths)
        assert result is not None
        models = models_of(plan, str(tmp_path / "store"), trial, result)
        asked = rows_asked(plan.config, corpus, trial.model, trial.sample)
        jobs = jobs_of(models, plan, asked, None)
        said = tuple(Finding(name, "forget", "", 0, 0.0, False) for name in asked.forget.ids)
        found = {job.digest: AttackResult(said) for job in (*jobs.before, *jobs.after)}
        after = write_trial_audit(jobs, plan, found, {})
        assert [each for each in after.missing if "audit.rows" in each] == list(missing)
        assert after.share == 0 and after.total == len(after.rows) == (rows or 4)


def test_another_nli_model_at_the_same_place_is_asked_anew(tmp_path: Path) -> None:
    """Both the key in the store and the hash in audit.json are of what the folder holds."""
    folder = tmp_path / "nli"
    folder.mkdir()

    def hashes() -> tuple[str, dict[str, str]]:
        plan = ended_sweep(tmp_path / "sweep", {"audit": {"attacks": ["sample"], "sample": {"nli": str(folder)}}})
        (attack,) = attacks_of(plan.config.audit)
        return content_hash(identity_of(attack)), attack_hashes(plan, plan.trials[0])

    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    first = hashes()
    assert hashes() == first
    (folder / "model.safetensors").write_bytes(b"two")
    second = hashes()
    assert second[0] != first[0] and second[1] != first[1]
    # The same model in another folder is the same.
    folder = folder.rename(tmp_path / "moved")
    assert hashes() == second
    # Earlier versions kept results by the content alone, and showed answers that do not entail.
    told = identity_of(Sample(nli=str(folder)))["settings"]
    assert isinstance(told, dict) and told["nli"] != source_fingerprint(str(folder))


def test_other_control_rows_are_asked_anew(tmp_path: Path) -> None:
    """A trial's id tells how many held-out texts there are; an audit is of these."""
    for name in ("forget", "pool"):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": f"This is text {n} of {name}."} for n in range(4)])
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "pool", "heldout")}
    more = {"data": {"source": "records", **files}, "samples": [0], "audit": {"attacks": ["prompt"]}}

    def audited(text: str) -> tuple[str, dict[str, str]]:
        write_lines(tmp_path / "heldout.jsonl", [{"text": text}, {"text": "That was the first one."}])
        plan = ended_sweep(tmp_path, more)
        return plan.trials[0].trial_id, attack_hashes(plan, plan.trials[0])

    first = audited("This is one.")
    other = audited("This is another one.")
    assert other[0] == first[0] and other[1] != first[1]
    assert audited("This is one.") == first


def test_results_without_an_nli_model_keep_their_place() -> None:
    assert identity_of(Sample())["settings"] == {
        "samples": 100,
        "temperatures": [0.7, 1.0],
        "counts": [],
        "threshold": 0.5,
        "nli": None,
        "seed": 0,
    }


@pytest.mark.parametrize("model", [STANDIN, OWN])
def test_held_out_rows_of_synthetic_texts_are_read_by_nobody(model: dict[str, Any]) -> None:
    tree = {"name": "t", "models": [{"name": "m", **model}], "data": {"source": "synthetic", "heldout": 4}}
    config = resolve_config(tree, "t")
    assert no_controls(config, config.models[0]) is None


def test_an_audit_is_made_again_once_the_retrained_model_is_there(tmp_path: Path) -> None:
    ended = ended_sweep(tmp_path, {}).trials[0].trial_id
    result = read_result(TrialPaths.of(str(tmp_path / "runs"), "t", ended))
    assert result is not None
    tree = {
        "name": "t",
        "storage": str(tmp_path / "runs"),
        "data": {"source": "synthetic", "records": 16, "sample_size": 4, "heldout": 2},
        "models": [{"name": "m", "standin": {}, "gpus_per_worker": 0, "retrained": True}],
        "methods": [{"name": "kumpr"}],
        "audit": {"attacks": ["relearn"]},
    }
    plan = plan_sweep(resolve_config(tree, "test"))
    trial = next(each for each in plan.trials if each.settings.method == "kumpr")
    gold = retrained_of(plan, trial)
    assert gold is not None
    paths, hashes = TrialPaths.of(plan.config.storage, "t", gold.trial_id), [attack_hashes(plan, trial)]
    for status, model in (("failed", ""), ("finished", "one"), ("finished", "other")):
        write_result(paths, replace(result, trial_id=gold.trial_id, status=status, model_hash=model))  # type: ignore[arg-type]
        hashes.append(attack_hashes(plan, trial))
    assert hashes[0] == hashes[1] and hashes[1] != hashes[2] != hashes[3]
