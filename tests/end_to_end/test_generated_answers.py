"""A sweep whose models are asked for alternates: they are invented once, AltPO's trials read them, others do not wait.

Needs: a Ray of its own, a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icu_ray.storage.trial_files import TrialPaths, read_result, trial_ids
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

CONFIG = """\
name: t
models:
  - {name: able, source: able, gpus_per_worker: 0}
  - {name: silent, source: silent, gpus_per_worker: 0}
data: {source: records, forget: forget.jsonl, pool: pool.jsonl, prompt_column: q, completion_column: a, template: plain}
columns: {length: 12, prefix_start: 4, suffix_start: 8}
methods: [{name: altpo}, {name: graddiff}]
answers: {alternates: generated, instruction: w5 w6, repeats: 3, max_new_tokens: 6}
el: {ngram: 2}
stop: {ma: 0.0, el: 0.0, max_epochs: 2}
train: {batch_size: 4}
pairs: {by: random}
filter: {encoder: bundled, encoder_layer: 1}
tracking: {enabled: false}
"""


@pytest.mark.slow
def test_altpo_unlearns_with_what_the_model_invents(tmp_path: Path) -> None:
    able, silent = tiny_model("llama"), tiny_model("llama", seed=1)
    with torch.no_grad():  # whatever it reads, it says an end of text
        for name, weight in silent.named_parameters():
            if "embed_tokens" in name:
                weight.fill_(1.0)
            elif "o_proj" in name or "down_proj" in name:
                weight.zero_()
        silent.lm_head.weight.zero_()
        silent.lm_head.weight[1] = 5.0
    for name, model in (("able", able), ("silent", silent)):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    rows = [{"q": f"w{n} w{n + 1}", "a": f"w{n + 2} w{n + 3} w{n + 4}"} for n in range(10, 60, 10)]
    pool = [{"q": f"w{n} w3", "a": f"w{n} w4 w5"} for n in range(20, 30)]
    for file, each in (("forget", rows), ("pool", pool)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    (tmp_path / "c.yaml").write_text(CONFIG)
    run = [sys.executable, "-m", "icu_ray.sweep", "c.yaml"]
    ended = subprocess.run(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    storage, output = str(tmp_path / "runs"), ended.stdout
    found = [read_result(TrialPaths.of(storage, "t", trial)) for trial in trial_ids(storage, "t")]
    results = {result.name: result for result in found if result is not None}
    statuses = {name: result.status for name, result in results.items()}
    done = {name for name, status in statuses.items() if status in ("finished", "not_forgotten")}
    assert done == {"altpo-able-s0-a1.0", "graddiff-able-s0-a1.0", "graddiff-silent-s0-a1.0"}, output
    assert "model silent invented none for target" in output and "'forget-1' and 4 more" in output
    assert "able, sample 0: alternates" in output
    stored = [
        json.loads(path.read_text()) for path in (tmp_path / "runs" / "store").glob("alternates/*/alternates.json")
    ]
    assert sorted((each["id"], len(each["alternates"])) for each in stored) == sorted(
        (f"forget-{number}", count) for number in range(1, 6) for count in (0, 3)
    )
    words = {word for each in stored for text in each["alternates"] for word in text.split()}
    assert words and all(word.startswith("w") for word in words)
