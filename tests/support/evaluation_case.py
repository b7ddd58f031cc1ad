"""A small mirror of rows of every task, written here, and a small random GPT-Neo with a tokenizer of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from icu_ray.training.standins import train_tokenizer

TEXT = "the cat sat on a warm mat while rain fell over old stone houses and people drank tea by fire"
WORDS = tuple(TEXT.split())


def sentence(number: int, words: int = 9) -> str:
    """A sentence that differs by number."""
    chosen = [WORDS[(number * 7 + at * (3 + number % 5)) % len(WORDS)] for at in range(words)]
    return f"{' '.join(chosen).capitalize()} {number}."


def _arc(number: int, candidates: int = 4, answer: str = "B") -> dict[str, Any]:
    texts = [sentence(number + at, 4) for at in range(candidates)]
    labels = list("ABCDE"[:candidates])
    return {
        "id": str(number),
        "question": sentence(number) + " Why?",
        "choices": {"text": texts, "label": labels},
        "answerKey": answer,
    }


def rows_of(count: int = 5) -> dict[str, list[dict[str, Any]]]:
    """Rows by the mirror's file name."""
    numbers = range(count)
    arc = [_arc(n) for n in numbers] + [_arc(90, 3, "C"), _arc(91, 5, "E"), _arc(92, 5, "A")]
    options = "a ) {} , b ) {} , c ) {} , d ) {} , e ) {}"
    mathqa = [
        {
            "Problem": f"what is {n} + {n} ?",
            "Rationale": "",
            "options": options.format(*range(2 * n, 2 * n + 5)),
            "correct": "a",
        }
        for n in numbers
    ]
    return {
        "hellaswag": [
            {
                "activity_label": "Tea",
                "ctx_a": sentence(n),
                "ctx_b": "the old man",
                "ctx": f"{sentence(n)} the old man",
                "endings": [f"{sentence(n + at, 5)} [title] ok" for at in range(4)],
                "label": str(n % 4),
            }
            for n in numbers
        ],
        "lambada_openai": [{"text": f"{sentence(n, 15)} Then they drank tea"} for n in numbers],
        "winogrande": [
            {"sentence": f"{sentence(n)} Ann thanked Eve because _ was kind.", "option1": "Ann", "option2": "Eve"}
            | {"answer": str(1 + n % 2)}
            for n in numbers
        ],
        "copa": [
            {"premise": sentence(n), "choice1": sentence(n + 1), "choice2": sentence(n + 2)}
            | {"question": "cause" if n % 2 else "effect", "idx": n, "label": n % 2}
            for n in numbers
        ],
        "arc_easy_test": arc,
        "arc_challenge_test": arc[::-1],
        "arc_easy": arc,
        "arc_challenge": arc[::-1],
        "piqa": [
            {"goal": sentence(n), "sol1": sentence(n + 1), "sol2": sentence(n + 3), "label": n % 2} for n in numbers
        ],
        "mathqa_test": mathqa,
        "mathqa": mathqa[::-1],
        "pubmedqa": [
            {"QUESTION": f"Is tea {n} warm?", "CONTEXTS": [sentence(n, 30), sentence(n + 1, 30)]}
            | {"final_decision": ("yes", "no", "maybe")[n % 3]}
            for n in numbers
        ],
    }


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """With a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_mirror_rows(mirror: Path, count: int = 5) -> None:
    """The whole mirror."""
    for name, rows in rows_of(count).items():
        write_jsonl(mirror / "lm_eval" / f"{name}.jsonl", rows)
    authors = mirror / "validation"
    texts = [{"doc_id": n, "text": "\n".join(sentence(n + at, 20) for at in range(6))} for n in range(count)]
    write_csv(authors / "pile.csv", texts)
    write_csv(authors / "wikitext.csv", texts[::-1])
    write_csv(authors / "lambada.csv", [{"id": n, "text": f"{sentence(n, 12)} Then they drank Tea."} for n in range(9)])
    write_csv(
        authors / "pubmed_qa.csv",
        [
            {"question": "Is it warm?", "abstract": sentence(n, 30), "final_decision": ("yes", "no", "maybe")[n % 3]}
            for n in range(count)
        ],
    )
    for name in ("wizard_of_wikipedia", "empathetic_dialogues", "blended_skill_talk", "wizard_of_internet"):
        turns = {str(n): [sentence(n + at, 4 + n) for at in range(2 + n % 4)] for n in range(count)}
        (authors / f"{name}.json").write_text(json.dumps({"text": turns}))


def save_model(folder: Path, seed: int = 0, positions: int = 1024) -> Path:
    """A random model whose distributions are far from flat, and its tokenizer."""
    tokenizer = train_tokenizer([sentence(n, 30) for n in range(40)], 400)
    torch.manual_seed(seed)
    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=positions,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
