"""How much faster is a whole trial's validation than the definitions, run at the same epochs?

    python benchmarks/validation.py [--json] [--quick]

A GPT-Neo of 4 layers, width 128, memorises 64 records of 200 tokens and unlearns them epoch by epoch (Adam, batches of
8 active targets, the ICU loss without its KL term) until the paper's rule stops it. After every epoch, the start
included, both sides measure the same weights and decide from their own numbers:

ours: `icu_ray.training.validation.validate` in decision-only mode: EL at the start and where MA leaves the decision to
it; two-beam outputs of all samples in one batch, BERTScore and BLEU of them.
other: a plain transcription: one generate() for every prefix of MA and EL, the forget loss, and the filter in batches
of 8 for which, as in the authors' code, bert_score.score loads the encoder anew. It spends more on a model that writes
no end-of-text; nothing else depends on the trial.

MA, EL where both have it, BLEU, the samples that remain and the stopping epoch must be equal, F1 to 1e-4.
`parts` says where our time goes.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bert_score import score as bert_score
from probe import Shape, model_of, plain
from table import machine, print_table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icu_ray.config import Columns, EvalConfig, FilterConfig, StopConfig, TokensConfig
from icu_ray.data.encoder import bundled_encoder
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.synthetic import make_records
from icu_ray.data.tokens import tokenise
from icu_ray.metrics import probe as probe_module
from icu_ray.metrics.overlap import bleu
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.storage.results import Scores
from icu_ray.training import validation
from icu_ray.training.refinement import Decision, Flags, decide, el_decides, refine
from icu_ray.training.standins import train_tokenizer

FILTER = FilterConfig(encoder="bundled", encoder_layer=6)
STOP = StopConfig()
COLUMNS = Columns()
BATCH = 8


@dataclass(frozen=True)
class Case:
    """A model that knows its targets, and pairs to be learnt meanwhile."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    targets: TokenRows
    pairs: TokenRows


@dataclass(frozen=True)
class Measured:
    """One validation of one side. f1, overlap (BLEU): (N,)."""

    scores: Scores
    f1: np.ndarray
    overlap: np.ndarray
    seconds: float


def memorised(count: int) -> Case:
    texts = make_records(seed=0, start=0, stop=2 * count, tokens=COLUMNS.length)
    model = model_of(Shape("gpt_neo"))
    tokenizer = train_tokenizer(texts, model.config.vocab_size)
    examples = Examples(tuple(map(str, range(2 * count))), tuple(texts))
    rows = tokenise(examples, tokenizer, COLUMNS, TokensConfig(), own_columns=True)
    targets = rows.select(range(count))
    ids = torch.from_numpy(targets.input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(2000):
        right = 0.0
        for batch in torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).split(2 * BATCH):
            optimizer.zero_grad()
            out = model(input_ids=ids[batch], labels=ids[batch])
            # The filter's prompt is the prefix alone, which a model with absolute positions must have read, too.
            alone = ids[batch, COLUMNS.prefix_start :]
            (out.loss + model(input_ids=alone, labels=alone).loss).backward()
            optimizer.step()
            right += float((out.logits[:, :-1].argmax(-1) == ids[batch, 1:]).sum())
        if right / ids[:, 1:].numel() >= 0.99:
            return Case(model.eval(), tokenizer, targets, rows.select(range(count, 2 * count)))
    raise RuntimeError("the records were not memorised")


def unlearn(case: Case, optimizer: torch.optim.Optimizer, active: Flags, epoch: int) -> None:
    """One epoch over the samples that remain."""
    case.model.train()
    order = np.random.default_rng(epoch).permutation(np.flatnonzero(active))
    for begin in range(0, len(order), BATCH):
        batch = order[begin : begin + BATCH]
        targets, pairs = (torch.from_numpy(rows.input_ids[batch]) for rows in (case.targets, case.pairs))
        optimizer.zero_grad()
        forget = case.model(input_ids=targets, labels=targets).loss
        (-forget + 0.5 * case.model(input_ids=pairs, labels=pairs).loss).backward()
        optimizer.step()
    case.model.eval()


def decided(epoch: int, found: Measured, active: Flags) -> tuple[Flags, Decision]:
    active = refine(active, found.f1, found.overlap, FILTER)
    return active, decide(epoch, found.scores, active, STOP, STOP.max_epochs) if epoch else Decision(False)


def measure_ours(case: Case, epoch: int, active: Flags) -> Measured:
    """As training/loop.py does it: the start with EL, then decision-only, the last epoch completed."""
    measure = validation.Measure(filter=FILTER, eval=EvalConfig(el="decision"))
    started = time.perf_counter()

    def run(decision_only: bool) -> Measured:
        asked = (lambda ma: el_decides(ma, thresholds_of(STOP))) if decision_only else None
        found = validation.validate(case.model, case.tokenizer, case.targets, measure, el_decides=asked)
        return Measured(found.scores, found.bertscore_f1, found.bleu, time.perf_counter() - started)

    found = run(decision_only=epoch > 0)
    return run(decision_only=False) if decided(epoch, found, active)[1].stop and found.scores.el is None else found


def measure_plainly(case: Case) -> Measured:
    started = time.perf_counter()
    rows, f1, overlap = case.targets, [], []
    for begin in range(0, len(rows), BATCH):
        block = slice(begin, begin + BATCH)
        prompts, mask = torch.from_numpy(rows.prompt_ids[block]), torch.from_numpy(rows.prompt_mask[block])
        with torch.inference_mode():
            said = case.model.generate(
                prompts, attention_mask=mask.long(), max_new_tokens=COLUMNS.suffix_length, num_beams=2, do_sample=False
            )
        texts = case.tokenizer.batch_decode(said[:, prompts.shape[1] :], skip_special_tokens=True)
        references = list(rows.references[block])
        # bert_score fails on an empty candidate under this transformers; like an empty one, '.' resembles nothing.
        heard = [text if text.strip() else "." for text in texts]
        f1 += bert_score(heard, references, model_type=str(bundled_encoder()), num_layers=6, device="cpu")[2].tolist()
        overlap += bleu(texts, references).tolist()
    ids = torch.from_numpy(rows.input_ids)
    losses = []
    for batch in ids.split(BATCH):
        with torch.inference_mode():
            losses.append(float(case.model(input_ids=batch, labels=batch).loss))
    ma, el = plain(case.model, rows.input_ids, COLUMNS.suffix_start, BATCH)
    forget_loss, f1_mean, bleu_mean = (float(np.mean(values)) for values in (losses, f1, overlap))
    scores = Scores(float(ma.mean()), float(el.mean()), forget_loss, f1_mean, bleu_mean, entropy=None)
    return Measured(scores, np.array(f1), np.array(overlap), time.perf_counter() - started)


@contextmanager
def clocked(places: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Seconds spent in functions, by name: module and attribute of each."""
    seconds = dict.fromkeys(places, 0.0)
    originals = {name: getattr(module, attribute) for name, (module, attribute) in places.items()}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return originals[name](*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    for name, (module, attribute) in places.items():
        setattr(module, attribute, wrapped(name))
    try:
        yield seconds
    finally:
        for name, (module, attribute) in places.items():
            setattr(module, attribute, originals[name])


PARTS = {
    "forward": (probe_module, "_teacher_forced"),
    "decode": (probe_module, "greedy_continuations"),
    "beams": (validation, "generate_candidates"),
    "bertscore": (validation, "bertscore"),
    "bleu": (validation, "bleu"),
}


def compare(count: int, lr: float) -> tuple[list[dict[str, Any]], dict[str, float]]:
    case = memorised(count)
    validation.validate(case.model, case.tokenizer, case.targets.select(range(2)), validation.Measure(filter=FILTER))
    optimizer = torch.optim.Adam(case.model.parameters(), lr=lr, betas=(0.9, 0.98))
    weights, found, actives = [], [], []
    active, decision, epoch = np.ones(count, dtype=bool), Decision(False), 0
    with clocked(PARTS) as parts:
        while not decision.stop:
            if epoch:
                unlearn(case, optimizer, active, epoch)
            weights.append({name: value.clone() for name, value in case.model.state_dict().items()})
            found.append(measure_ours(case, epoch, active))
            active, decision = decided(epoch, found[-1], active)
            actives.append(active)
            epoch += 1
    rows = []
    active, decision = np.ones(count, dtype=bool), Decision(False)
    for epoch, (state, ours, ours_active) in enumerate(zip(weights, found, actives, strict=True)):
        assert not decision.stop, f"the definitions stop at epoch {epoch - 1}, ours at {len(found) - 1}"
        case.model.load_state_dict(state)
        other = measure_plainly(case)
        active, decision = decided(epoch, other, active)
        assert np.array_equal(active, ours_active), f"epoch {epoch}: other samples remain"
        assert other.scores.ma is not None
        assert ours.scores.ma is not None
        assert abs(other.scores.ma - ours.scores.ma) < 1e-12
        if ours.scores.el is not None:
            assert other.scores.el is not None
            assert abs(other.scores.el - ours.scores.el) < 1e-12
        np.testing.assert_allclose(ours.f1, other.f1, atol=1e-4)
        np.testing.assert_allclose(ours.overlap, other.overlap)
        rows.append(
            {
                "case": f"epoch {epoch}",
                "ma": ours.scores.ma,
                "el10": ours.scores.el,
                "active": int(active.sum()),
                "ours": ours.seconds,
                "other": other.seconds,
                "ratio": other.seconds / ours.seconds,
            }
        )
    assert decision.stop, "ours stops earlier than the definitions"
    ours_total, other_total = (sum(row[side] for row in rows) for side in ("ours", "other"))
    total = {"case": f"trial, {count} samples", "ours": ours_total, "other": other_total}
    return [*rows, {**total, "ratio": other_total / ours_total}], {**parts, "rest": ours_total - sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="8 samples")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    rows, parts = compare(8 if arguments.quick else 64, lr=2e-5)
    if arguments.json:
        print(json.dumps({"rows": rows, "parts": parts, "machine": machine()}))
        return
    print_table(
        rows, {"case": "", "ma": ".3f", "el10": ".3f", "active": "d", "ours": ".2f", "other": ".1f", "ratio": ".1f"}
    )
    print("our seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items()))


if __name__ == "__main__":
    main()
