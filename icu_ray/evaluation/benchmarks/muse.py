"""MUSE (Shi et al. 2024): news articles, or the Harry Potter books, to be forgotten as texts.

knowmem asks questions after all ten examples of the same kind, verbmem has a text go on, privleak asks whether texts
were trained on, each as a whole. A model that forgot a fold of the news (scalability, sustainability) is asked the
same; how many texts a fold has is not in our sources. Which commit of the hub is read: config/benchmarks.py.
"""

from __future__ import annotations

from icu_ray.evaluation.benchmarks.definition import Benchmark, Generation, PromptSet, Split, Table

_QA = ("question", "answer")
_RAW = {
    "news": {"forget": 889, "retain1": 1777, "retain2": 1778, "holdout": 3043},
    "books": {"forget": 4, "retain1": 12, "retain2": 13, "holdout": 3},
}
_KNOWMEM = {"forget_qa": 100, "retain_qa": 100, "forget_qa_icl": 10, "retain_qa_icl": 10}
_PRIVLEAK = {"forget": 100, "retain": 100, "holdout": 100}
_FOLDS = {"news": ("scal", "sust"), "books": ()}
_ANSWERS = Generation(new_tokens=32, stop=("\n\n", "\nQuestion", "Question:"))
_TEXTS = Generation(new_tokens=128)
_WHOLE = 2048
"""Tokens of a text: of training, and of privleak."""


def _hub(split: str) -> str:
    return f"muse-bench/MUSE-{split.capitalize()}"


def _tables(split: str) -> tuple[Table, ...]:
    def table(configuration: str, part: str, rows: int | None, columns: tuple[str, ...]) -> Table:
        return Table(_hub(split), configuration, part, f"{split}/{configuration}/{part}.jsonl", rows, columns)

    return (
        *(table("raw", part, rows, ("text",)) for part, rows in _RAW[split].items()),
        *(table("knowmem", part, rows, _QA) for part, rows in _KNOWMEM.items()),
        table("verbmem", "forget", 100, ("prompt", "gt")),
        *(table("privleak", part, rows, ("text",)) for part, rows in _PRIVLEAK.items()),
        *(table(kind, f"forget_{fold}", None, ("text",)) for kind in _FOLDS[split] for fold in range(1, 5)),
    )


def _split(split: str) -> Split:
    def knowmem(part: str) -> PromptSet:
        return PromptSet(
            f"{part}_knowmem",
            "questions",
            f"{split}/knowmem/{part}_qa.jsonl",
            *_QA,
            ("rouge_f1",),
            shots=f"{split}/knowmem/{part}_qa_icl.jsonl",
            generation=_ANSWERS,
            style="question_answer",
        )

    def privleak(part: str, members: bool | None) -> PromptSet:
        table = f"{split}/privleak/{part}.jsonl"
        return PromptSet(
            f"{part}_privleak", "texts", table, "", "text", ("mia_min_k",), max_length=_WHOLE, members=members
        )

    verbmem = PromptSet(
        "forget_verbmem",
        "completions",
        f"{split}/verbmem/forget.jsonl",
        "prompt",
        "gt",
        ("rouge_f1", "exact_memorisation", "extraction_strength"),
        generation=_TEXTS,
        max_length=_WHOLE,
    )
    # The retain texts of privleak are in no number that is reported.
    sets = (knowmem("forget"), knowmem("retain"), verbmem, privleak("forget", True), privleak("holdout", False))
    models = {"target": f"{_hub(split)}_target", "retrained": f"{_hub(split)}_retrain"}
    return Split(f"{split}/raw/forget.jsonl", f"{split}/raw/retain1.jsonl", sets, models=models)


MUSE = Benchmark(
    name="muse",
    title="MUSE",
    licence="CC BY 4.0",
    tables=(*_tables("news"), *_tables("books")),
    splits={split: _split(split) for split in _RAW},
    reported=("forget_knowmem_ROUGE", "forget_verbmem_ROUGE", "privleak", "retain_knowmem_ROUGE"),
)
