"""What trials share: made once a model or once a sample, and what a trial finds again is the original model's view.

Needs: nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icu_ray.config import RecordsData, RowsConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.examples import IGNORED_LABEL, Examples
from icu_ray.data.pair_draws import draw_pairs, pair_draws
from icu_ray.errors import UserError
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.reference import Reference
from icu_ray.models.retrained import published_retrained
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import Provenance, SampleRecord, Scores
from icu_ray.storage.store import Store
from icu_ray.sweep.prepared import Prepared
from icu_ray.sweep.trials import _task
from icu_ray.training.records import sample_records
from icu_ray.training.validation import Validation
from icu_ray.trial.artefact_making import ArtefactRequest, make_artefacts, measure_retrained
from icu_ray.trial.artefacts import Needs, get_artefact, load_rows, model_key
from icu_ray.trial.task import TrialTask
from icu_ray.trial.worker import _load
from tests.support.tiny_models import COLUMNS, VOCABULARY, tiny_model
from tests.support.training_case import tokenizer

PROVENANCE = Provenance("0", "", False)


def texts(count: int, seed: int) -> Examples:
    rows = np.random.default_rng(seed).integers(2, VOCABULARY, size=(count, COLUMNS.length))
    return Examples(tuple(f"{seed}-{i}" for i in range(count)), tuple(" ".join(f"w{t}" for t in row) for row in rows))


def planned(folder: Path, **changes: Any) -> Plan:
    """A plan on a model that is saved in `folder`."""
    tiny_model("gpt_neo").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    values = {
        "name": "t",
        "models": [{"name": "m", "source": str(folder), "gpus_per_worker": 0}],
        "data": {"source": "synthetic", "records": 16, "sample_size": 4},
        "columns": {"length": COLUMNS.length, "prefix_start": 4, "suffix_start": 8},
        "samples": [0, 1],
        "el": {"ngram": 2},
        "filter": {"encoder": "bundled", "encoder_layer": 1},
        "tokens": {"columns_of": "model"},
        **changes,
    }
    return plan_sweep(resolve_config(values, "t"), dry_run=True)


def requested(plan: Plan, root: str, sample: int, trials: Sequence[Trial]) -> ArtefactRequest:
    """What these trials ask for."""
    needs = Needs.of(trials)
    return ArtefactRequest(
        root=root,
        config=plan.config,
        model=plan.config.models[0],
        made=None,
        model_key=model_key(plan.config.models[0], plan.config, "corpus"),
        targets=texts(4, 10 + sample),
        pairs=texts(4, 20 + sample) if needs.pairs else None,
        pair_overlap=(0.25,) * 4 if needs.pairs else None,
        heldout=None,
        needs=needs,
    )


def test_samples_of_a_model_share_its_output_matrix(tmp_path: Path) -> None:
    folder, root = tmp_path / "model", str(tmp_path / "store")
    plan, original = planned(folder), tiny_model("gpt_neo")
    trials: dict[int, Trial] = {trial.sample: trial for trial in plan.trials}
    made, loaded = Counter[str](), {}
    for sample, trial in trials.items():
        keys, records = make_artefacts(requested(plan, root, sample, [trial]))
        made.update(record.kind for record in records if record.made)
        task = TrialTask(trial, keys, str(tmp_path), "t", root, 0, False, None, Provenance("0", "", False))
        loaded[sample] = _load(task)[1]
    assert made == {"rows": 4, "references": 2, "heads": 1, "before": 2}
    for data in loaded.values():
        assert data.pairs is not None and data.reference is not None
        with torch.no_grad():
            wanted = original(input_ids=torch.from_numpy(data.pairs.input_ids)).logits.log_softmax(-1).flatten(0, 1)
        where = torch.arange(len(wanted))
        found = data.reference.batch(range(4)).scores_into(torch.empty_like(wanted), where).log_softmax(-1)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_a_published_retrained_model_is_measured_once_and_checked_where_it_is_loaded(tmp_path: Path) -> None:
    """As where a plan had no files of it yet."""
    folder, root, other = tmp_path / "model", str(tmp_path / "store"), tmp_path / "other"
    plan = planned(folder, methods=[{"name": "kumpr"}], samples=[0])
    asked = requested(plan, root, 0, plan.trials)
    keys, _ = make_artefacts(asked)

    def measured(seed: int, family: str = "gpt_neo") -> tuple[Scores, bool, str]:
        tiny_model(family, seed).save_pretrained(other)
        tokenizer().save_pretrained(other)
        published = published_retrained(asked.model.model_copy(update={"retrained": str(other)}))
        assert published is not None
        found, records = measure_retrained(asked, keys, published)
        assert found.model is None
        scores = Validation.load(get_artefact(Store(root), "before", found.scores), 2)
        return scores.scores, any(record.made for record in records), found.model_hash

    before = Validation.load(get_artefact(Store(root), "before", keys.before), 2)
    first, made, digest = measured(1)
    assert made and digest == folder_fingerprint(other) and first != before.scores
    assert measured(1) == (first, False, digest)
    assert measured(0)[0] == before.scores  # the target itself, by another way
    shutil.rmtree(other)
    with pytest.raises(UserError, match=r"retrained model .*other: is a LlamaForCausalLM \(llama\), expected GPT"):
        measured(0, "llama")


def test_a_long_text_is_several_rows_with_its_pair_beside_each(tmp_path: Path) -> None:
    changes = {"rows": {"long": "windows"}, "methods": [{"name": "icu"}, {"name": "npo"}], "samples": [0]}
    plan, root = planned(tmp_path / "model", **changes), str(tmp_path / "store")
    whole = [" ".join(f"w{20 + (7 * n + t) % 40}" for t in range(COLUMNS.length)) for n in range(5)]
    asked = requested(plan, root, 0, plan.trials)
    asked = replace(asked, targets=Examples(asked.targets.ids, tuple(whole[:4])))
    assert asked.pairs is not None
    # Two rows of 12 tokens: windows start at 0, 6 and 12.
    long = Examples(asked.targets.ids, (whole[0], f"{whole[1]} {whole[4]}", *whole[2:4]))
    keys, _ = make_artefacts(replace(asked, targets=long, heldout=long))
    (trial,) = (each for each in plan.trials if each.label == "icu")
    prepared = Prepared({("m", 0): keys}, {}, ())
    loaded, data = _load(_task(plan.config, prepared, Provenance("0", "", False), root, trial))
    assert data.targets.texts == (0, 1, 1, 1, 2, 3) and data.pairs is not None and data.before is not None
    assert data.pairs.ids == tuple(asked.pairs.ids[text] for text in data.targets.texts)
    assert data.heldout is not None and data.heldout.texts == data.targets.texts
    assert len(data.before.ma) == 4 and data.before.scores.heldout_texts == 4
    assert data.reference is not None
    told_of_original = data.reference.batch(range(6))  # a state and a target's loss for each row
    assert told_of_original.hidden is not None and len(told_of_original.hidden) == 6
    told = sample_records(loaded.tokenizer, data, data.before, data.before, trial.settings.filter)
    assert [(each.id, each.windows, each.cut_tokens) for each in told] == [
        (name, 3 if number == 1 else 1, 0) for number, name in enumerate(long.ids)
    ]
    whole_said = "forgotten whole, in overlapping windows"
    for rows, said in ((plan.config.rows, whole_said), (RowsConfig(), "only their beginning")):
        own = plan.config.model_copy(update={"data": RecordsData(source="records", forget="f.jsonl"), "rows": rows})
        of_a_user, _ = make_artefacts(replace(asked, targets=long, heldout=long, config=own))
        assert of_a_user.long_texts.startswith(f"1 of 4 texts is longer than 12 tokens: 10-1 (24); {said}")
    # Where all fit, the rows are those of before there were windows.
    fitting, _ = make_artefacts(asked)
    cut, _ = make_artefacts(replace(asked, config=plan.config.model_copy(update={"rows": RowsConfig()})))
    store = Store(root)
    for part in ("targets", "pairs"):
        files = [get_artefact(store, "rows", keys.rows[part]) / "rows.npz" for keys in (fitting, cut)]
        with np.load(files[0]) as found, np.load(files[1]) as before:
            assert all(np.array_equal(found[name], before[name]) for name in before)
    measured = [get_artefact(store, "before", keys.before) / "validation.json" for keys in (fitting, cut)]
    assert measured[0].read_bytes() == measured[1].read_bytes()


@pytest.mark.parametrize("anchor", ["never", "epoch", "retain"])
def test_a_trial_finds_its_own_draws_among_the_rows_of_all_seeds(anchor: str, tmp_path: Path) -> None:
    resample = "never" if anchor == "never" else "epoch"
    plan = planned(
        tmp_path / "model",
        pairs={"by": "random", "resample": resample, "encoder": "/nowhere"},
        train={"anchor": "retain" if anchor == "retain" else "forget"},
        rows={"long": "windows"},
        stop={"max_epochs": 2},
        samples=[0],
        seeds=[3, 8],
    )
    root, pool = str(tmp_path / "store"), texts(9, 30)
    draws = pair_draws(plan.config, 2, 4, len(pool))
    assert draws is not None and draws.whole == (anchor == "retain")
    if anchor == "never":
        draws = replace(draws, overlap={3: (0.5, 0.25, 0.0, 0.0), 8: (1.0,) * 4})
    asked = requested(plan, root, 0, plan.trials)
    # Of four texts the second is three rows.
    whole = [" ".join(f"w{20 + (7 * n + t) % 40}" for t in range(COLUMNS.length)) for n in range(5)]
    long = Examples(asked.targets.ids, (whole[0], f"{whole[1]} {whole[4]}", *whole[2:4]))
    asked = replace(asked, targets=long, pairs=pool.select(draws.pool_rows), pair_overlap=None, draws=draws)
    keys, _ = make_artefacts(asked)
    assert len(plan.trials) == 2
    for trial in plan.trials:
        loaded, data = _load(_task(plan.config, Prepared({("m", 0): keys}, {}, ()), PROVENANCE, root, trial))
        assert data.pairs is not None and data.reference is not None and data.before is not None
        assert data.pairs.ids == tuple(pool.ids[row] for row in draws.pool_rows)
        assert data.reference.hidden is not None and len(data.reference.hidden) == len(data.pairs)
        seed = trial.settings.seed
        beside = data.beside(seed, 2)
        assert beside is not None
        wanted = draw_pairs(seed, 0 if anchor == "never" else 2, 4, 9)[[0, 1, 1, 1, 2, 3]]
        assert [data.pairs.ids[row] for row in beside] == [pool.ids[row] for row in wanted]
        told = sample_records(loaded.tokenizer, data, data.before, data.before, trial.settings.filter, seed)
        names = [pool.ids[row] for row in draw_pairs(seed, 0, 4, 9)] if anchor == "never" else [None] * 4
        assert [each.pair_id for each in told] == names
        overlap = {3: [0.5, 0.25, 0.0, 0.0], 8: [1.0] * 4}[seed] if anchor == "never" else [None] * 4
        assert [each.pair_overlap for each in told] == overlap


def test_loss_on_changes_the_rows_of_prompts_alone(tmp_path: Path) -> None:
    folder, root = tmp_path / "model", str(tmp_path / "store")
    whole = tuple(f"w{20 + n} w{30 + n} w{40 + n} w{50 + n}" for n in range(4))

    def targets(on: str, boundaries: tuple[int, ...] | None) -> Any:
        plan = planned(folder, methods=[{"name": "kumpr"}], samples=[0], loss={"on": on})
        asked = requested(plan, root, 0, plan.trials)
        examples = Examples(asked.targets.ids, whole, boundaries=boundaries)
        return make_artefacts(replace(asked, targets=examples))[0].rows["targets"]

    def scored(key: Any) -> list[int]:
        rows = load_rows(get_artefact(Store(root), "rows", key))
        return (rows.labels != IGNORED_LABEL).sum(axis=1).tolist()

    after = (len("w20 w30"),) * 4
    # Two words of four and the end of text; with the prompt all but the first word, before which nothing stands.
    assert scored(targets("completion", after)) == [3] * 4
    assert scored(targets("all", after)) == [4] * 4
    assert targets("completion", None) == targets("all", None) != targets("all", after)
    assert targets("completion", after) != targets("all", after)


def test_a_trial_is_told_the_same_whichever_others_are_planned(tmp_path: Path) -> None:
    named = [{"name": "icu"}, {"name": "npo"}, {"name": "kumpr"}, {"name": "icu", "label": "alone", "cells": [[0, 0]]}]
    plan, root = planned(tmp_path / "model", methods=named, samples=[0]), str(tmp_path / "store")

    def told(trial: Trial, others: Sequence[Trial]) -> tuple[tuple[SampleRecord, ...], Reference | None]:
        keys, _ = make_artefacts(requested(plan, root, 0, others))
        prepared = Prepared({("m", 0): keys}, {}, ())
        loaded, data = _load(_task(plan.config, prepared, Provenance("0", "", False), root, trial))
        assert data.before is not None
        return sample_records(loaded.tokenizer, data, data.before, data.before, trial.settings.filter), data.reference

    for trial in plan.trials:
        (together, shared), (alone, own) = told(trial, plan.trials), told(trial, [trial])
        assert together == alone
        assert {record.pair_id is not None for record in alone} == {trial.label == "icu"}
        assert (shared is None) == (own is None) == (trial.label not in ("icu", "npo"))
        if trial.label == "npo" and shared is not None and own is not None:
            found, wanted = shared.batch(range(4)).target_nll, own.batch(range(4)).target_nll
            assert found is not None and wanted is not None and torch.equal(found, wanted)


def test_a_stand_in_that_learns_answers_with_their_end_is_another(tmp_path: Path) -> None:
    def key(**data: Any) -> Any:
        told = {"source": "records", "forget": str(tmp_path / "f.jsonl"), **data}
        config = resolve_config({"name": "t", "models": [{"name": "m", "standin": {}}], "data": told}, "t")
        return model_key(config.models[0], config, "corpus")

    assert "rows" not in key()  # as before there were prompts
    assert key(prompt_column="question", completion_column="answer") == {**key(), "rows": "prompted"}
