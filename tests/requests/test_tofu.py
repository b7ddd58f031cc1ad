"""A request on real questions and answers, as typed: TOFU's forget01 and retain99, and a chat model taught the first.

Needs: ../shared and a Ray of its own.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from icu_ray.cli.main import main
from icu_ray.data.examples import TokenRows
from icu_ray.data.sources import load_corpus
from icu_ray.data.tokens import tokenise
from icu_ray.metrics.probe import probe
from icu_ray.models.loading import load_model
from icu_ray.requests.request_config import unlearn_config

FILES = ["--forget", "tofu/forget01.json", "--retain", "tofu/retain99.json"]


def taught(source: Path, tokenizer: Path, folder: Path) -> None:
    """A model of the oracles in `folder`, trained in plain torch until it recites the 40 answers of forget01."""
    shutil.copytree(source, folder)
    folder.chmod(0o755)
    for file in (*folder.iterdir(), *tokenizer.iterdir()):
        shutil.copyfile(file, folder / file.name) if file.parent != folder else file.chmod(0o644)
    config = unlearn_config(str(folder), forget="tofu/forget01.json", retain="tofu/retain99.json", out="out")
    corpus, loaded = load_corpus(config), load_model(str(folder))
    model = loaded.model

    def rows(which: np.ndarray) -> TokenRows:
        columns = config.columns.value()
        return tokenise(corpus.rows.select(which), loaded.tokenizer, columns, config.tokens, own_columns=True)

    targets, others = rows(corpus.targets[0]), rows(corpus.pools[0][:40])
    ids, mask, labels = (
        np.concatenate([getattr(part, name) for part in (targets, others)]) for name in ("input_ids", "mask", "labels")
    )
    torch.manual_seed(0)
    order, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    model.train()
    for epoch in range(150):
        for part in np.array_split(order.permutation(len(ids)), 5):
            cut = int(ids.shape[1] - mask[part].sum(axis=1).max())
            given = [torch.from_numpy(each[part, cut:].astype(np.int64)) for each in (ids, mask, labels)]
            places = (given[1].cumsum(-1) - 1).clamp(min=0)
            loss = model(input_ids=given[0], attention_mask=given[1], position_ids=places, labels=given[2]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if epoch % 5 == 4 and probe(model.eval(), targets, should_decode=lambda ma: False).ma_mean > 0.95:
            break
        model.train()
    model.eval()
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_forget01_as_typed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tofu").symlink_to(shared / "data" / "tofu")
    taught(shared / "oracles" / "C" / "models" / "target", shared / "oracles" / "C" / "tokenizer", tmp_path / "model")
    offline = ["filter.encoder=bundled", "filter.encoder_layer=6", "optim.lr=5e-4"]
    command = ["unlearn", "--model", "model", *FILES, "--out", "out", *offline]
    assert main([*command, "--dry-run"]) == 0
    capfd.readouterr()
    code = main(command)
    said = capfd.readouterr()
    assert code == 0, said
    assert "\nForgotten" in said.out and "all together: yes" in said.out
    record = json.loads(Path("out/record.json").read_text())
    assert record["texts"]["count"] == 40 and record["verdict"]["success"]
    before, after = record["scores"]["before"], record["scores"]["after"]
    assert before["ma"] > 0.9 and after["ma"] < 0.6 and before["el10"] > 0.4 > after["el10"]
    questions = [json.loads(line) for line in (tmp_path / "tofu" / "forget01.json").read_text().splitlines()]
    with Path("out/targets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(questions) == 40
    # No pair repeats its target: candidates that do are passed over.
    samples = next(Path("out").glob("run-*/trials/*/samples.jsonl")).read_text().splitlines()
    assert all(json.loads(line)["pair_overlap"] <= 0.1 for line in samples)
    assert not any(each["answer"] in Path("out/record.html").read_text() for each in questions)
