"""RWKU (Jin et al. 2024): famous people to be forgotten, by texts about them that the model itself wrote.

Asked: cloze sentences (level 1), questions (level 2) and nine kinds of attacks (level 3) about the person, and cloze
sentences and questions about neighbours. An empty answer counts as NOANSWER. ROUGE-L recall is that of the package
`rouge` there, not of rouge_score. Its membership scores are log-likelihoods, so their sign is opposite to ours.

All attacks are asked in one way here. RWKU's scripts leave out 'Answer:' after an affirmative suffix, and 'Question: '
before in-context learning. Not asked: its utility tables (utility_general, of MMLU; utility_reason, of BBH;
utility_truthfulness; utility_factuality, of TriviaQA; utility_fluency), because our sources say neither their columns
nor how they are asked. lm-evaluation-harness asks the data sets that these are of (`evaluation.tasks`), which gives
other numbers; nothing here measures fluency. Names of tables and columns are those of RWKU's scripts; the data set
itself was not at hand. No commit of the hub is pinned.
"""

from __future__ import annotations

from icu_ray.evaluation.benchmarks.definition import Benchmark, Generation, Measure, PromptSet, Split, Table

HUB = "jinzhuoran/RWKU"
_ASKED = ("subject", "query", "answer")
_ANSWERS = Generation(new_tokens=30, stop=("\n",))
_BLANK = "Please complete the blank in the following question.\nQuestion: {}\n"
_BRIEFLY = "Please briefly answer the following question.\nQuestion: {}\n"
_MIA: tuple[Measure, ...] = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
_LEVELS = {"forget_level1": 3268, "forget_level2": 2879, "forget_level3": 6984}
_NEIGHBOURS = ("neighbor_level1", "neighbor_level2")


def _by_subject(name: str, file: str, rows: int | None, columns: tuple[str, ...]) -> Table:
    return Table(HUB, name, "", file, rows, columns, by_subject=True)


def _questions(name: str) -> PromptSet:
    return PromptSet(
        name,
        "questions",
        f"{name}.json",
        "query",
        "answer",
        ("rouge_recall",),
        generation=_ANSWERS,
        style="chat_without_system",
        ask=_BLANK if name.endswith("1") else _BRIEFLY,
        begin="Answer:",
    )


def _membership(name: str, file: str, members: bool) -> PromptSet:
    return PromptSet(name, "texts", file, "", "text", _MIA, max_length=2048, members=members)


_SETS = (
    *(_questions(name) for name in (*_LEVELS, *_NEIGHBOURS)),
    _membership("mia_forget", "forget_mia.json", True),
    _membership("mia_retain", "retain_mia.json", False),
)

RWKU = Benchmark(
    name="rwku",
    title="RWKU",
    licence="not in our sources: see the hub's page of jinzhuoran/RWKU",
    tables=(
        Table(HUB, "forget_target", "", "forget_target.json", 200, ("target",)),
        *(_by_subject(name, f"{name}.json", rows, _ASKED) for name, rows in _LEVELS.items()),
        *(_by_subject(name, f"{name}.json", None, _ASKED) for name in _NEIGHBOURS),
        _by_subject("train_positive_llama3", "positive.json", None, ("subject", "text")),
        _by_subject("train_positive_phi3", "positive_phi.json", None, ("subject", "text")),
        _by_subject("mia_forget", "forget_mia.json", None, ("subject", "text")),
        _by_subject("mia_retain", "retain_mia.json", None, ("subject", "text")),
    ),
    splits={
        "llama3": Split("positive.json", None, _SETS),
        "phi3": Split("positive_phi.json", None, _SETS),
    },
    reported=(*(f"{name}_Q_A_ROUGE" for name in (*_LEVELS, *_NEIGHBOURS)), "mia_loss", "mia_min_k"),
)
