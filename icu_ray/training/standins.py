"""Stand-ins: small language models trained here until they have memorised the forget samples.

A quick trial of unlearning needs a model that truly knows something, and none can be shipped. `build_standin` trains a
byte-level BPE and a GPT-Neo (global and local attention alternate, as in the paper's models) or a Llama (as its
TinyLlama) from nothing on a corpus in which the forget texts stand several times, as duplicated text does on the web,
until memorisation accuracy and extraction likelihood (10-grams, as the probe measures them) are high enough on every
forget sample.

    build_standin(StandinConfig(size="small"), corpus, {0: forget}, Columns(128, 64, 96), Path("model"), print)

Promises: the folder loads with AutoModelForCausalLM and AutoTokenizer; equal arguments give equal weights on a kind of
machine, whatever its number of cores (training runs on one thread: such models gain little from more); texts that are
not among the arguments are never seen. A model that does not get there is a `UserError` and leaves no folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from icu_ray.config import Columns, StandinConfig, TokensConfig
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.long_texts import LongTexts
from icu_ray.data.positions import real_positions
from icu_ray.data.tokens import tokenise
from icu_ray.errors import UserError
from icu_ray.methods.vocabulary_loss import Segment, vocabulary_loss
from icu_ray.methods.vocabulary_terms import NllTerm
from icu_ray.metrics.probe import probe
from icu_ray.models.hidden import last_hidden
from icu_ray.models.loading import load_tokenizer
from icu_ray.training.muon import make_optimizers
from icu_ray.training.standin_models import new_model
from icu_ray.training.trained_epochs import trained_epochs, write_training

END_OF_TEXT = "<|endoftext|>"
NGRAM = 10
WARMUP_STEPS = 20
TOKENS_AT_ONCE = 256
"""Tokens whose scores over the vocabulary are held at one time: these then stay in the processor's cache."""


@dataclass(frozen=True)
class StandinProgress:
    """What was reached after an epoch; ma and el are those of the forget sample that is known least, None of none."""

    epoch: int
    max_epochs: int
    loss: float
    ma: float | None
    el: float | None
    """None while MA is too low for EL to be worth decoding."""
    seconds: float


@dataclass(frozen=True)
class _Block:
    """Texts of one width. ids: (N, W) int64; real: (N, W) bool, False on left pads."""

    ids: NDArray[np.int64]
    real: NDArray[np.bool_]


def build_standin(
    config: StandinConfig,
    corpus_texts: Sequence[str],
    forget_texts: Mapping[int, Sequence[str]],
    columns: Columns,
    out_dir: Path,
    progress: Callable[[StandinProgress], None],
    long: LongTexts = "cut",
    boundaries: Mapping[str, int] | None = None,
    like: Path | None = None,
) -> None:
    """Train and save a stand-in.

    corpus_texts: what it reads, the forget texts may be among them. forget_texts: by sample number; samples may
    overlap. columns: the row in its own tokens, in which the forget texts are memorised. long: 'windows': it reads and
    memorises all windows of a text that is longer than a row, else its first row. boundaries: how many characters of
    each text are given; what follows is memorised, and its end-of-text. like: folder of a stand-in whose tokenizer is
    taken, and as many of whose epochs are trained, whatever is memorised then: with it there may be no forget text.
    """
    known = dict.fromkeys(text for texts in forget_texts.values() for text in texts)
    if not known and like is None:
        raise UserError("stand-in: there is no forget text to memorise")
    rest = [text for text in dict.fromkeys(corpus_texts) if text not in known]
    tokenizer = train_tokenizer([*rest, *known], config.vocabulary) if like is None else load_tokenizer(str(like))
    read = (*known, *rest)
    given = None if boundaries is None else tuple(boundaries[text] for text in read)
    examples = Examples(tuple(map(str, range(len(read)))), read, boundaries=given)
    rows = tokenise(examples, tokenizer, columns, TokensConfig(), own_columns=True, long=long)
    of_text = np.split(np.arange(len(rows)), rows.first_rows[1:])
    number = {text: of_text[place] for place, text in enumerate(known)}
    asked = forget_texts if like is None else {}
    samples = {sample: np.concatenate([number[text] for text in texts]) for sample, texts in asked.items()}
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = new_model(config, len(tokenizer), columns.length)
        epochs = None if like is None else trained_epochs(like)
        history = _train(model, config, rows, samples, sum(map(len, number.values())), progress, epochs)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # saving imports DeepSpeed, which would say that it has no GPU
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    write_training(out_dir, [{"epoch": e.epoch, "loss": e.loss, "ma": e.ma, f"el{NGRAM}": e.el} for e in history])


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens; end-of-text, token 0, is also its padding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _train(
    model: PreTrainedModel,
    config: StandinConfig,
    rows: TokenRows,
    samples: Mapping[int, NDArray[np.int64]],
    known: int,
    progress: Callable[[StandinProgress], None],
    epochs: int | None = None,
) -> list[StandinProgress]:
    """Epochs until every sample is memorised, or just so many; the first `known` rows are the targets."""
    started = time.perf_counter()
    targets = rows.select(range(known))
    blocks = _epoch_blocks(rows, known, config.target_repeats)
    optimizers = make_optimizers(model, config.learning_rate)
    step = 0
    most, history = epochs or config.max_epochs, list[StandinProgress]()
    every = list(samples.values())
    # Where the completions of a sample are all too short for EL, MA alone says whether they are known.
    long = rows.columns.length - targets.suffix_starts >= (0 if targets.starts is None else NGRAM)
    with_el = [sample for sample in every if long[sample].any()]

    def lowest(values: NDArray[np.float64], samples: Sequence[NDArray[np.int64]] = every) -> float:
        # A text that is too short to be measured is in no mean; NaN, which no threshold lets pass, where all are.
        means = (values[sample][~np.isnan(values[sample])] for sample in samples)
        return float(np.min([known.mean() if len(known) else np.nan for known in means]))

    for epoch in range(1, most + 1):
        losses = []
        model.train()
        for block in _batches(blocks, config.batch_size, np.random.default_rng([config.seed, epoch])):
            step += 1
            loss = _loss(model, block)
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * min(1.0, step / WARMUP_STEPS)
                optimizer.step()
            losses.append(float(loss.detach()))
        ma, el = None, None
        if epochs is None:
            found = probe(model, targets, ngram=NGRAM, should_decode=lambda ma: lowest(ma) >= config.min_memorization)
            ma = lowest(found.ma)
            if found.el is not None and with_el and not np.isnan(least := lowest(found.el, with_el)):
                el = least
        reached = StandinProgress(epoch, most, float(np.mean(losses)), ma, el, time.perf_counter() - started)
        history.append(reached)
        progress(reached)
        extracted = el is not None and el >= config.min_extraction
        if extracted or (not with_el and ma is not None and ma >= config.min_memorization):
            break
    else:
        if epochs is None:
            raise UserError(_not_memorised(config, history[-1], known))
    model.eval()  # type: ignore[no-untyped-call]
    return history


def _epoch_blocks(rows: TokenRows, known: int, repeats: int) -> tuple[_Block, ...]:
    """What an epoch reads: every row, and the forget rows `repeats` times in all.

    Half of the repeats have no pre-prefix: the refinement filter (section IV-D) asks with the prefix alone, at the
    first positions, and only a text that was seen there too is recalled there. A prompt is asked with whole.
    """
    quotes = repeats // 2 if rows.starts is None else 0
    every = np.concatenate([np.arange(len(rows)), np.tile(np.arange(known), repeats - quotes - 1)])
    whole = _Block(rows.input_ids[every], rows.mask[every])
    if quotes == 0 or known == 0 or rows.columns.prefix_start == 0:
        return (whole,)
    again = np.tile(np.arange(known), quotes)
    start = rows.columns.prefix_start
    return whole, _Block(rows.input_ids[again, start:], rows.mask[again, start:])


def _batches(blocks: Sequence[_Block], batch_size: int, random: np.random.Generator) -> Iterator[_Block]:
    """All rows in random batches of about batch_size x row length tokens, blocks mixed but never within a batch."""
    width = max(block.ids.shape[1] for block in blocks)
    found = []
    for block in blocks:
        size = batch_size * (width // block.ids.shape[1])
        order = random.permutation(len(block.ids))
        found += [
            _Block(block.ids[chosen], block.real[chosen])
            for chosen in np.array_split(order, max(1, round(len(order) / size)))
        ]
    for place in random.permutation(len(found)):
        yield found[place]


def _loss(model: PreTrainedModel, block: _Block) -> torch.Tensor:
    """Mean negative log-likelihood of the real tokens that follow a real token."""
    ids, mask, positions = torch.from_numpy(block.ids), None, None
    if not block.real.all():
        mask = torch.from_numpy(block.real.astype(np.int64))
        positions = torch.from_numpy(real_positions(block.real))
    hidden = last_hidden(model, ids, mask, positions)[:, :-1]
    scored = torch.from_numpy(block.real[:, 1:] & block.real[:, :-1])
    labels = ids[:, 1:][scored]
    every = Segment(len(labels), [NllTerm(1.0, labels, torch.full((len(labels),), 1 / len(labels)))])
    return vocabulary_loss(hidden[scored], model.lm_head.weight, None, [every], TOKENS_AT_ONCE)[0]


def _not_memorised(config: StandinConfig, reached: StandinProgress, known: int) -> str:
    el = "not measured" if reached.el is None else f"{reached.el:.3f}"
    return (
        f"stand-in ({config.size}): not memorised after standin.max_epochs={config.max_epochs}: MA "
        f"{reached.ma or 0.0:.3f} (standin.min_memorization={config.min_memorization}), EL{NGRAM} {el} "
        f"(standin.min_extraction={config.min_extraction}) on {known} forget texts, loss {reached.loss:.2f}; raise "
        "standin.max_epochs or standin.target_repeats, take a larger standin.size or a smaller forget sample"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are split by threads, so the weights would depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
