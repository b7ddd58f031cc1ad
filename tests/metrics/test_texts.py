"""Candidates, BLEU, BERTScore, entropy, perplexity and normalised scores.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from bert_score import score as package_score
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from icu_ray.data.encoder import bundled_encoder
from icu_ray.errors import UserError
from icu_ray.metrics.bertscore import _encoder, bertscore
from icu_ray.metrics.generation import decode_candidates, generate_candidates
from icu_ray.metrics.overlap import bleu, distinct_share, has_four_words, token_entropy, variety
from icu_ray.metrics.perplexity import perplexity
from icu_ray.metrics.scores import COLUMNS, MethodRow, normalised_scores
from icu_ray.services.score import read_score_table
from tests.support.tiny_models import FAMILIES, PAD, tiny_model, tiny_rows

PRINTED = json.loads((Path(__file__).parents[1] / "support" / "printed_scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_beam_is_greedy_and_pads_are_unseen(family: str) -> None:
    model = tiny_model(family, seed=4)
    prompt = np.asarray([[5, 6, 7, 8], [PAD, PAD, 9, 10]])
    said = generate_candidates(model, prompt, prompt != PAD, max_new_tokens=5, pad_id=PAD, eos_id=None, beams=1)
    for row, start in zip(said, ([5, 6, 7, 8], [9, 10]), strict=True):
        tokens = list(start)
        for _ in range(5):
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert row.tolist() == tokens[len(start) :]


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 3),
    beams=st.integers(1, 4),
    new=st.integers(1, 7),
    pads=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    sharpness=st.sampled_from([0.2, 1.0, 4.0]),
    eos=st.sampled_from([None, "rare", "likely"]),
    guess=st.sampled_from([None, "answers", "greedy", "some"]),
)
def test_beam_search_is_that_of_transformers(
    family: str, seed: int, beams: int, new: int, pads: list[int], sharpness: float, eos: str | None, guess: str | None
) -> None:
    """Flat and peaked, an end-of-text often among the best tokens, prompts with pads, good and bad guesses."""
    model = tiny_model(family, seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    prompts = np.random.default_rng(seed).integers(2, 60, size=(len(pads), 5))
    mask = np.arange(5)[None] >= np.asarray(pads)[:, None]
    prompts[~mask] = PAD
    ids, attention = torch.from_numpy(prompts), torch.from_numpy(mask.astype(np.int64))
    with torch.no_grad():
        first = model(input_ids=ids[:1], attention_mask=attention[:1]).logits[0, -1].argsort(descending=True)
    eos_id = None if eos is None else int(first[1 if eos == "likely" else 30])
    settings = GenerationConfig(
        max_new_tokens=new, num_beams=beams, do_sample=False, pad_token_id=PAD, eos_token_id=eos_id, bos_token_id=None
    )
    with torch.no_grad():
        model.generation_config = settings
        wanted = model.generate(input_ids=ids, attention_mask=attention, generation_config=settings)[:, 5:].numpy()
    wanted = np.pad(wanted, ((0, 0), (0, new - wanted.shape[1])), constant_values=PAD)

    def said(beams: int, guesses: np.ndarray | None = None) -> np.ndarray:
        return generate_candidates(
            model, prompts, mask, max_new_tokens=new, pad_id=PAD, eos_id=eos_id, beams=beams, guesses=guesses
        )

    guesses = wanted.copy() if guess in ("answers", "some") else None if guess is None else said(1)
    if guess == "some":
        guesses[::2, -1] = 2
    assert said(beams, guesses).tolist() == wanted.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_certain_is_not_searched(family: str) -> None:
    """A guess is taken where it is more probable than anything else, and only there; then nothing is decoded."""
    model = tiny_model(family, seed=1)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(400)
    prompts = np.random.default_rng(0).integers(2, 60, size=(6, 5))
    ask = {"max_new_tokens": 6, "pad_id": PAD, "eos_id": None}
    answers = generate_candidates(model, prompts, prompts > 0, **ask)
    other = answers.copy()
    other[2:, 3] = 3 + (other[2:, 3] == 3)
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    for guesses, count in ((answers, 1), (other, 6), (None, 6)):
        forwards.clear()
        assert generate_candidates(model, prompts, prompts > 0, guesses=guesses, **ask).tolist() == answers.tolist()
        assert len(forwards) == count


def test_a_folder_s_generation_settings_do_not_matter() -> None:
    model = tiny_model("gpt_neo", seed=4)
    prompt = np.asarray([[5, 6, 7, 8]])
    plain = generate_candidates(model, prompt, prompt > 0, max_new_tokens=6, pad_id=PAD, eos_id=None)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    same = generate_candidates(model, prompt, prompt > 0, max_new_tokens=6, pad_id=PAD, eos_id=None)
    assert plain.tolist() == same.tolist()


def test_a_model_of_nan_says_pads() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(math.nan)
    prompt = np.asarray([[5, 6, 7, 8]])
    said = generate_candidates(model, prompt, prompt > 0, max_new_tokens=4, pad_id=PAD, eos_id=None)
    assert said.tolist() == [[PAD] * 4]
    assert perplexity(model, tiny_rows(4, 0)) == math.inf


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_token_that_is_broken_breaks_only_the_prompts_that_hold_it(spoilt: float) -> None:
    """Wherever it stands in them, and whichever prompt comes first."""
    model = tiny_model("gpt_neo", seed=4)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    prompts = np.asarray([[5, 6, 7, 63], [5, 6, 7, 8], [63, 6, 7, 8], [8, 7, 6, 5]])

    def said(heard: list[None]) -> list[list[int]]:
        found = generate_candidates(
            model,
            prompts,
            prompts > 0,
            max_new_tokens=4,
            pad_id=PAD,
            eos_id=None,
            beams=1,  # a second one might look at the token behind other prompts
            on_nan=lambda: heard.append(None),
        )
        return [row.tolist() for row in found]

    whole = said(heard := [])
    assert not heard and all(63 not in row for row in whole)
    with torch.no_grad():
        model.transformer.wte.weight[63] = spoilt
    pads = [PAD] * 4
    assert said(heard) == [pads, whole[1], pads, whole[3]]
    assert heard


def test_bleu_is_zero_without_four_shared_words() -> None:
    reference = "the quick brown fox jumps over the lazy dog near the river"
    found = bleu(
        [reference, reference.upper(), "the quick brown cat sat on a mat and did not jump", "", "   "], [reference] * 5
    )
    assert found[:2].tolist() == pytest.approx([1.0, 1.0])
    assert found[2:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("tokenizer", ["13a", "words"])
def test_a_text_without_four_words_is_told_apart(tokenizer: Literal["13a", "words"]) -> None:
    texts = ["", "Chrysanthemum", "three small words", "there are four words"]
    assert has_four_words(texts, tokenizer).tolist() == [False, False, False, True]
    assert bleu(texts, texts, tokenizer).tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_what_bleu_takes_for_words_decides() -> None:
    candidate, reference = "seen at lib/foo/bar.py today", "said of lib/foo/bar.py never"
    assert bleu([candidate], [reference])[0] > 0.01  # lib / foo / bar . py
    assert bleu([candidate], [reference], "words")[0] == 0.0
    same = "the quick brown fox jumps over the lazy dog"
    assert bleu([same.upper()], [same], "words")[0] == pytest.approx(1.0)


PIECES = ["A", "b", "c.", "d,", "(e)", "f/g", "H's", '"i"', "j-k", "3.5", "n't\n"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=5, max_size=16), st.data())
def test_bleu_by_words_is_nltks_and_by_13a_sacrebleus(words: list[str], data: st.DataObject) -> None:
    from nltk.tokenize import word_tokenize
    from nltk.translate.bleu_score import sentence_bleu
    from sacrebleu.metrics import BLEU

    said = data.draw(st.permutations(words[:-2])) if data.draw(st.booleans()) else words[2:] + words[:2]
    candidate, reference = " ".join(said), " ".join(words)
    plain = BLEU(lowercase=True, smooth_method="none", effective_order=False, tokenize="13a")
    (by_13a,) = bleu([candidate], [reference])
    assert by_13a == pytest.approx(min(plain.sentence_score(candidate, [reference]).score / 100, 1), abs=1e-12)
    first, second = (word_tokenize(text.lower(), preserve_line=True) for text in (reference, candidate))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where no 4-gram is shared
        expected = sentence_bleu([first], second)
    (found,) = bleu([candidate], [reference], "words")
    assert found == pytest.approx(expected, abs=1e-12)


def test_bertscore_survives_empty_text_and_knows_equality() -> None:
    precision, recall, f1 = bertscore(
        ["", "the cat sat", "the cat sat", "entropy of the market"],
        ["the cat sat", "", "the cat sat", "the cat sat"],
        encoder="bundled",
        layer=6,
    )
    assert f1[:2].tolist() == [0.0, 0.0]
    assert f1[2] == pytest.approx(1.0, abs=1e-5)
    assert f1[3] < 0.6
    np.testing.assert_allclose(f1[2:], 2 * precision[2:] * recall[2:] / (precision[2:] + recall[2:]), rtol=1e-6)


def test_bertscore_is_the_package_s_and_embeds_references_once() -> None:
    references = ["the cat sat on the mat", "entropy of the market", "a letter from the bank", "blood pressure 120"]
    first = ["the cat sat on a mat", "entropy of the market", "the bank", "pressure is high in many words of text"]
    second = [first[0], "it is another sentence", first[2], references[1]]
    read: list[int] = []
    encoder = _encoder("bundled", 5, "cpu")
    hook = encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(args[0])), with_kwargs=True
    )
    try:
        for candidates, new_texts in ((first, 7), (second, 4), (second, 4)):  # one of the first is recited
            read.clear()
            found = bertscore(candidates, references, encoder="bundled", layer=5, batch_size=3)
            assert sum(read) == new_texts
            wanted = package_score(candidates, references, model_type=str(bundled_encoder()), num_layers=5)
            np.testing.assert_allclose(np.stack(found), torch.stack(wanted).numpy(), atol=1e-5)
    finally:
        hook.remove()
    # A continued trial asks a fresh process, and must get the same to the last bit.
    _encoder.cache_clear()
    assert np.array_equal(found, bertscore(second, references, encoder="bundled", layer=5, batch_size=3))


def test_bertscore_refuses_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="6 layers, found 9"):
        bertscore(["a"], ["b"], encoder="bundled", layer=9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_entropy_and_distinct_share(ids: list[int]) -> None:
    row = np.asarray([ids])
    shares = [ids.count(value) / len(ids) for value in set(ids)]
    assert token_entropy(row)[0] == pytest.approx(-sum(p * math.log2(p) for p in shares), abs=1e-12)
    assert distinct_share(row)[0] == len(set(ids)) / len(ids)


@given(st.lists(st.integers(2, 9), max_size=8), st.integers(0, 20), st.sampled_from([0, 1]))
def test_the_pads_behind_a_short_answer_are_no_repetition(said: list[int], pads: int, pad: int) -> None:
    """1 ends a text; a tokenizer may pad with it."""
    row = np.asarray([*said, 1, *[pad] * pads])
    asked = len(said) + 1 + pads
    (found,) = variety([row], eos_id=1)
    if len(said) >= asked / 2:
        assert found == len(set(said)) / len(said)
    else:  # to end early is no variety
        assert found == pytest.approx(len(set(said)) / max(asked / 2, 1))
    # Without an end it is the share of all tokens.
    assert variety([row], eos_id=None)[0] == pytest.approx(distinct_share([row])[0])


def test_a_word_and_the_end_is_a_collapse_and_a_short_sentence_is_none() -> None:
    whole, sentence, word, nothing = (
        np.asarray([*said, *[1] * (16 - len(said))]) for said in (range(2, 17), range(2, 8), [5], [])
    )
    shares = variety([whole, sentence, word, nothing], eos_id=1)
    assert shares[1] > shares[0] / 2 > shares[2] > shares[3] == 0


def test_perplexity_against_plain_code() -> None:
    model, some = tiny_model("opt", seed=1), tiny_rows(6, 0)
    losses = []
    for ids, labels, mask in zip(some.input_ids, some.labels, some.mask, strict=True):
        with torch.no_grad():
            logits = model(
                input_ids=torch.from_numpy(ids)[None], attention_mask=torch.from_numpy(mask.astype(np.int64))[None]
            ).logits[0]
        for t in range(1, len(ids)):
            if labels[t] >= 0:
                losses.append(-float(logits[t - 1].log_softmax(-1)[labels[t]]))
    assert perplexity(model, some, batch_size=2) == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


@pytest.mark.parametrize("table", sorted({(row["table"], row["size"]) for row in PRINTED}))
def test_normalised_scores_give_the_printed_ones(table: tuple[str, str]) -> None:
    members = [row for row in PRINTED if (row["table"], row["size"]) == table]
    found = normalised_scores([MethodRow(row["row"], tuple(row["values"])) for row in members])
    for score, row in zip(found, members, strict=True):
        assert score.s_z == pytest.approx(row["s_z"], abs=0.005)
        assert score.s_m == pytest.approx(row["s_m"], abs=0.005)
    assert sum(score.s_z for score in found) == pytest.approx(0, abs=1e-9)


def test_all_46_printed_scores_are_there() -> None:
    assert 2 * len(PRINTED) == 46


HEADER = "row," + ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row,el10,ma\nx,1,2\n", "column 'bert' is missing"),
        (HEADER.replace("entropy", "entrophy") + "\n", "did you mean 'entrophy'"),
        (
            f"{HEADER}\nx,1,2,3,4,5,6,7,8,abc\n",
            "line 2 (row 'x'), column gpt: expected a number or '>1000', found 'abc'",
        ),
        (f"{HEADER}\nx,1,2,3,4,5,6,7,8,\n", "column gpt: no value"),
        (f"{HEADER}\nx,1,2,3,4,5,6,7,8,nan\n", "expected a finite number"),
        (f"{HEADER}\nx,1,2,3\n", "line 2: expected 10 cells, found 4"),
        (f"{HEADER}\n", "holds no rows"),
        (f"{HEADER}\nx,1,2,3,4,5,6,7,8,9\n", "holds one row, 'x'; a score compares the rows of a table"),
        (
            f"{HEADER}\nx,1,2,3,4,5,6,7,8,9\ny,1,2,3,4,5,6,7,8,9\n x,2,2,3,4,5,6,7,8,9\n",
            "line 4: row 'x' appears twice, first in line 2",
        ),
    ],
)
def test_score_tables_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_score_table(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_score_table_of_a_spreadsheet_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\nx,1,2,3,4,5,6,7,8,9\n\ny,1,2,3\n".replace(",", ";"), encoding=encoding)
    with pytest.raises(UserError, match="line 4: expected 10 cells, found 4"):
        read_score_table(path)
    path.write_text(f"{HEADER}\nx,1,2,3,4,5,6,7,8,9\n\ny,1,2,3,4,5,6,7,8,8\n".replace(",", ";"), encoding=encoding)
    assert read_score_table(path)[0].values == (1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_score_table_reads_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\nx,1,2,3,4,5,6,>1000,> 1000,9\ny,1,2,3,4,5,6,7,8,9\n")
    assert read_score_table(path)[0].values[6:8] == (1000.0, 1000.0)
    equal = normalised_scores(read_score_table(path))
    assert (equal[0].s_m, equal[1].s_m) == (-2.0, 0.0)


def test_a_perplexity_written_out_counts_as_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f"{HEADER}\nx,1,2,3,4,5,6,>1000,8,9\ny,1,2,3,4,5,6,2000,8,9\nz,1,2,3,4,5,6,7,8,9\nw,2000,2,3,4,5,6,7,8,9\n"
    )
    capped, written, known, other = normalised_scores(read_score_table(path))
    assert (capped.s_z, capped.s_m) == (written.s_z, written.s_m)
    assert known.s_m == 0.0 and capped.s_m == -1.0
    assert other.s_z < known.s_z - 2  # no other column has a cap


class TestOracle:
    """The authors' own filter on a small model (../shared/oracles/A)."""

    def test_filter_outputs_and_scores(self, shared: Path) -> None:
        folder = shared / "oracles" / "A"
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        wanted = json.loads((folder / "expected.json").read_text())["filter"]
        prompts = np.asarray(wanted["prompt_ids"])
        said = generate_candidates(
            model, prompts, prompts != 1999, max_new_tokens=50, pad_id=1999, eos_id=1999, use_mask=False
        )
        assert said.tolist() == wanted["candidate_ids"]
        texts = decode_candidates(tokenizer, said, strip_special=False)
        assert list(texts) == wanted["candidate_text"]
        np.testing.assert_allclose(token_entropy(said), wanted["entropy"], atol=1e-9)
        np.testing.assert_allclose(distinct_share(said), wanted["diff"], atol=1e-12)
        found = bertscore(texts, wanted["reference_text"], encoder="bundled", layer=6)
        for values, name in zip(found, ("P", "R", "F1"), strict=True):
            np.testing.assert_allclose(values, wanted["bertscore"][name], atol=1e-5)
        flags = (bleu(texts, wanted["reference_text"]) < 0.01).astype(int)
        assert flags.tolist() == wanted["forgotten_by_bleu"]
        by_words = (bleu(texts, wanted["reference_text"], "words") < 0.01).astype(int)
        assert by_words.tolist() == wanted["forgotten_by_bleu"]

    @pytest.mark.parametrize(("use_mask", "key"), [(True, "beam2_with_mask"), (False, "beam2_no_mask")])
    def test_padded_prompts(self, shared: Path, use_mask: bool, key: str) -> None:
        folder = shared / "oracles" / "A"
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        padded = json.loads((folder / "inputs.json").read_text())["padded"]
        wanted = json.loads((folder / "expected.json").read_text())["padded"][key]
        mask = np.asarray(padded["prompt_mask"], dtype=bool)
        said = generate_candidates(
            model,
            np.asarray(padded["prompt_ids"]),
            mask,
            max_new_tokens=50,
            pad_id=1999,
            eos_id=1999,
            use_mask=use_mask,
        )
        assert said.tolist() == wanted


def test_printed_rows_are_complete() -> None:
    assert all(len(row["values"]) == len(COLUMNS) for row in PRINTED)
    assert len(list(itertools.groupby(PRINTED, key=lambda row: (row["table"], row["size"])))) == 4
