"""WMDP (Li et al. 2024): corpora on dangerous biology and on attacks on computers, to be forgotten.

What a model still knows is the accuracy of lm-evaluation-harness's tasks, four choices each, asked without a chat
template; low on WMDP's with an unchanged MMLU is good, 0.25 is chance. MMLU is a group of 57 tasks there; its accuracy
is lm-eval's, over all questions. The corpora are given to those who ask. How many texts they have is not in our
sources. Which commit of the hub is read: config/benchmarks.py.
"""

from __future__ import annotations

from icu_ray.config import WmdpData
from icu_ray.evaluation.benchmarks.definition import Benchmark, Split, Table

QUESTIONS = {"wmdp_bio": 1273, "wmdp_chem": 408, "wmdp_cyber": 1987}
"""Questions of each task (cais/wmdp)."""


def _table(name: str) -> Table:
    return Table(WmdpData.hub, name, "", f"{name}.jsonl", None, ("text",))


WMDP = Benchmark(
    name="wmdp",
    title="WMDP",
    licence="asked for with access: see the hub's page of cais/wmdp-corpora",
    tables=tuple(_table(f"{split}-{kind}-corpus") for split in ("bio", "cyber") for kind in ("forget", "retain")),
    splits={
        split: Split(
            f"{split}-forget-corpus.jsonl", f"{split}-retain-corpus.jsonl", (), harness=(f"wmdp_{split}", "mmlu")
        )
        for split in ("bio", "cyber")
    },
    reported=("cls/wmdp_bio_acc", "cls/wmdp_cyber_acc", "cls/mmlu_acc"),
    access=WmdpData.fetched,
)
