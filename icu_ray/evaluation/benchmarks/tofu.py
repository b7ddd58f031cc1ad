"""TOFU (Maini et al. 2024): questions about 200 invented authors, 20 each; the last 1, 5 or 10 % are to be forgotten.

The hold-out questions came to the hub later and are non-members of membership attacks; copies of the data set may lack
them. Which commit of the hub is read: config/benchmarks.py.
"""

from __future__ import annotations

from dataclasses import replace

from icu_ray.config import TofuData
from icu_ray.evaluation.benchmarks.definition import Benchmark, Generation, PromptSet, Split, Table

_QA = ("question", "answer")
_WRONG = (*_QA, "perturbed_answer")
_PERTURBED = (*_QA, "paraphrased_answer", "perturbed_answer", "paraphrased_question")
_ANSWERS = Generation(new_tokens=200)
_SIZES = {"01": 40, "05": 200, "10": 400}
_ROWS = 4000


def _table(name: str, rows: int, columns: tuple[str, ...], later: bool = False) -> Table:
    return Table(TofuData.hub, name, "", f"{name}.json", rows, columns, later)


def _split(share: str) -> Split:
    forget = PromptSet(
        "forget",
        "questions",
        f"forget{share}_perturbed.json",
        *_QA,
        ("probability", "truth_ratio", "rouge_recall", "exact_memorisation", "extraction_strength", "mia_min_k"),
        right="paraphrased_answer",
        wrong="perturbed_answer",
        paraphrase="paraphrased_question",
        generation=_ANSWERS,
        members=True,
    )
    retain = replace(
        forget,
        name="retain",
        table="retain_perturbed.json",
        measures=("probability", "truth_ratio", "rouge_recall"),
        members=None,
    )
    others = tuple(
        replace(
            retain,
            name=name,
            table=f"{name}_perturbed.json",
            measures=("probability_normalised", "truth_ratio", "rouge_recall"),
            right="answer",
            paraphrase=None,
        )
        for name in ("real_authors", "world_facts")
    )
    holdout = PromptSet("holdout", "questions", f"holdout{share}.json", *_QA, ("mia_min_k",), members=False)
    kept = f"retain{100 - int(share)}"
    models = {"target": "open-unlearning/tofu_{}_full", "retrained": f"open-unlearning/tofu_{{}}_{kept}"}
    return Split(f"forget{share}.json", f"{kept}.json", (forget, retain, *others, holdout), models=models)


TOFU = Benchmark(
    name="tofu",
    title="TOFU",
    licence="MIT",
    tables=(
        *(_table(f"forget{share}", rows, _QA) for share, rows in _SIZES.items()),
        *(_table(f"retain{100 - int(share)}", _ROWS - rows, _QA) for share, rows in _SIZES.items()),
        *(_table(f"forget{share}_perturbed", rows, _PERTURBED) for share, rows in _SIZES.items()),
        _table("retain_perturbed", 400, _PERTURBED),
        _table("real_authors_perturbed", 100, _WRONG),
        _table("world_facts_perturbed", 117, _WRONG),
        *(_table(f"holdout{share}", rows, _QA, later=True) for share, rows in _SIZES.items()),
    ),
    splits={f"forget{share}": _split(share) for share in _SIZES},
    reported=(
        "forget_quality",
        "forget_Truth_Ratio",
        "forget_Q_A_Prob",
        "forget_Q_A_ROUGE",
        "model_utility",
        "privleak",
        "extraction_strength",
    ),
)
