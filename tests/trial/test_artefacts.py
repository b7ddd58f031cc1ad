"""What trials share: made once a model or once a sample, and what a trial finds again is the original model's view.

Needs: nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from icu_ray.config.file import resolve_config
from icu_ray.data.examples import Examples
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import Provenance
from icu_ray.trial.artefact_making import ArtefactRequest, make_artefacts
from icu_ray.trial.artefacts import Needs, model_key
from icu_ray.trial.task import TrialTask
from icu_ray.trial.worker import _load
from tests.support.tiny_models import COLUMNS, VOCABULARY, tiny_model
from tests.support.training_case import tokenizer


def texts(count: int, seed: int) -> Examples:
    rows = np.random.default_rng(seed).integers(2, VOCABULARY, size=(count, COLUMNS.length))
    return Examples(tuple(f"{seed}-{i}" for i in range(count)), tuple(" ".join(f"w{t}" for t in row) for row in rows))


def test_samples_of_a_model_share_its_output_matrix(tmp_path: Path) -> None:
    folder, root = tmp_path / "model", str(tmp_path / "store")
    original = tiny_model("gpt_neo")
    original.save_pretrained(folder)
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
    }
    config = resolve_config(values, "t")
    trials: dict[int, Trial] = {trial.sample: trial for trial in plan_sweep(config, dry_run=True).trials}
    model, made, loaded = config.models[0], Counter[str](), {}
    for sample, trial in trials.items():
        request = ArtefactRequest(
            root=root,
            config=config,
            model=model,
            standin=None,
            model_key=model_key(model, COLUMNS, "corpus"),
            targets=texts(4, 10 + sample),
            pairs=texts(4, 20 + sample),
            pair_overlap=None,
            heldout=None,
            needs=Needs.of([trial]),
        )
        keys, records = make_artefacts(request)
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
