"""Rows of prompt and completion: where the completion begins, what is scored, and that other rows do not matter.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from icu_ray.config import QUESTION_ANSWER, Columns, ElConfig, EvalConfig, LossConfig, TokensConfig
from icu_ray.data.examples import IGNORED_LABEL, Examples, TokenRows
from icu_ray.data.prompts import LossOn, _windows, joined
from icu_ray.data.specials import Specials
from icu_ray.data.tokens import tokenise
from icu_ray.errors import UserError
from icu_ray.methods.weights import batch_weights, scored_tokens
from icu_ray.metrics.probe import probe
from icu_ray.training.validation import Measure, _generate, _probe, validate
from icu_ray.trial.artefacts import load_rows, save_rows
from tests.support.tiny_models import tiny_model
from tests.support.training_case import FILTER, tokenizer

COLUMNS = Columns(24, 12, 18)
PAIRS = {"a": ("w5 w6 w7", "w8 w9"), "b": ("w20", "w21 w22 w23 w24 w25"), "c": ("w3 w4 w5 w6", "w7 w8 w9 w2 w3 w4")}
PAIRS["d"] = ("w3 w4 w5 w6 w7 w8", "w9 w2 w3 w4 w5 w6")


def rows_of(*names: str, columns: Columns = COLUMNS, loss_on: LossOn = "completion") -> TokenRows:
    texts, boundaries = zip(*(joined(*PAIRS[name]) for name in names), strict=True)
    examples = Examples(names, texts, boundaries=boundaries)
    return tokenise(examples, tokenizer(), columns, TokensConfig(), own_columns=True, loss_on=loss_on)


def test_a_border_is_joined_with_one_blank_which_is_the_completion_s() -> None:
    assert joined("Who?", "Ada") == ("Who? Ada", 4)
    assert joined("Who? ", "Ada") == ("Who? Ada", 4)
    assert joined("Who?", " Ada") == ("Who? Ada", 4)
    assert joined("Who?\n", "Ada") == ("Who?\nAda", 5)
    assert joined("Who?", "Ada", QUESTION_ANSWER) == ("Question: Who?\nAnswer: Ada", 22)
    # Tags are taken as they are given.
    assert joined("Who?", "Ada", ("[INST] ", " [/INST]")) == ("[INST] Who? [/INST]Ada", 19)


def test_the_completion_alone_is_scored_with_one_end_of_text() -> None:
    rows = rows_of("a", "b")
    assert rows.starts == (24 - 3, 24 - 6) and rows.lengths == (6, 7)
    scored = [row[row != IGNORED_LABEL].tolist() for row in rows.labels]
    # w1 is end-of-text and padding at once (and no word here may begin with it): the real one is scored, pads are not.
    assert scored == [[8, 9, 1], [21, 22, 23, 24, 25, 1]]
    assert [ids[mask].tolist() for ids, mask in zip(rows.prompt_ids, rows.prompt_mask, strict=True)] == [
        [5, 6, 7],
        [20],
    ]
    assert rows.references == ("w8 w9", "w21 w22 w23 w24 w25")
    whole = rows_of("a", "b", loss_on="all")
    assert [row[row != IGNORED_LABEL].tolist() for row in whole.labels] == [[6, 7, 8, 9, 1], [21, 22, 23, 24, 25, 1]]


def test_an_end_of_text_that_is_there_is_not_put_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAIRS, "a", ("w5", "w8 w1"))
    assert rows_of("a").input_ids[0, -3:].tolist() == [5, 8, 1]


def test_a_token_across_the_border_is_the_completion_s() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<e>": 0, "a": 1, "b": 2, "c": 3, "bc": 4}
    inner = Tokenizer(models.WordPiece(words, unk_token="<e>", continuing_subword_prefix=""))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    merging = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>", pad_token="<e>", unk_token="<e>")
    examples = Examples(("x",), ("a bc",), boundaries=(3,))  # 'a b' is given, the text has 'bc' as one token
    rows = tokenise(examples, merging, Columns(8, 2, 4), TokensConfig(), own_columns=True)
    assert rows.prompt_ids[0].tolist() == [1] and rows.input_ids[0, rows.starts[0] :].tolist() == [4, 0]  # type: ignore[index]
    # Nothing is given of 'bc a', whose first token has nothing but padding before it: that one is not scored.
    examples = Examples(("x",), ("bc a",), boundaries=(1,))
    rows = tokenise(examples, merging, Columns(8, 2, 4), TokensConfig(), own_columns=True)
    assert rows.starts == (5,) and rows.labels[0].tolist() == [IGNORED_LABEL] * 6 + [1, 0]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("w5 " * 24, "w6"), "its prompt alone has 24 tokens and fills a row of 24"),
        (("w5", " "), "its completion has no token of its own"),
    ],
)
def test_rows_without_a_boundary_are_refused(pair: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAIRS, "a", (pair[0].strip(), pair[1]))
    with pytest.raises(UserError, match=said):
        rows_of("a")


def test_a_long_completion_is_cut_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAIRS, "a", ("w5 w6", " ".join(["w7"] * 30)))
    rows = rows_of("a")
    assert rows.cut_tokens == (33 - 24,) and rows.starts == (2,)
    texts, boundaries = zip(joined(*PAIRS["a"]), strict=True)
    examples = Examples(("a",), texts, boundaries=boundaries)
    with pytest.raises(UserError, match="longer than 24 tokens"):
        tokenise(examples, tokenizer(), COLUMNS, TokensConfig(), own_columns=True, long="refuse")


@given(given=st.integers(1, 23), length=st.integers(1, 90), lead=st.booleans())
def test_every_token_of_a_long_completion_is_asked_for_in_some_window(given: int, length: int, lead: bool) -> None:
    whole = [0] * lead + list(range(1, given + length + 1))
    given += lead
    assume(given < 24)
    found = _windows(whole, given, 24, Specials((0,) if lead else (), (), 1, 1))
    assert all(len(body) <= 24 and given_here < len(body) for body, given_here in found)
    asked = {token for body, given_here in found for token in body[given_here:]}
    assert asked == set(whole[given:])
    assert found[0] == (whole[:24], given) and (len(found) == 1) == (len(whole) <= 24)
    for body, given_here in found[1:]:
        assert len(body) == 24 and given_here >= 12 - lead  # nothing is padded, and half a row stands before
        assert not lead or body[0] == 0
        start = whole.index(body[lead])
        assert body[lead:] == whole[start : start + 24 - lead] and given_here - lead >= given - start


def test_a_long_completion_in_windows_is_one_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PAIRS, "a", ("w5 w6", " ".join(f"w{n}" for n in range(20, 60))))
    texts, boundaries = zip(*(joined(*PAIRS[name]) for name in "bac"), strict=True)
    examples = Examples(("b", "a", "c"), texts, boundaries=boundaries)
    rows = tokenise(examples, tokenizer(), COLUMNS, TokensConfig(), own_columns=True, long="windows")
    # 2 + 40 + 1 tokens: half a row lies between windows, and the last ends with the text.
    assert rows.ids == ("b", "a", "a", "a", "c") and rows.texts == (0, 1, 1, 1, 2)
    assert rows.input_ids[1:4, 0].tolist() == [5, 30, 37] and rows.input_ids[3, -1] == 1
    assert rows.starts is not None and rows.starts[1:4] == (2, 12, 12)
    assert rows.cut_tokens == (0,) * 5 and rows.references[2] == " ".join(f"w{n}" for n in range(42, 54))
    model = tiny_model("gpt_neo", seed=0)
    whole, each = probe(model, rows, ngram=2).of_texts(rows), probe(model, rows, ngram=2)
    assert whole.ids == ("b", "a", "c") and whole.ma[1] == each.ma[1:4].max()
    save_rows(rows, tmp_path)
    again = load_rows(tmp_path)
    assert again.texts == rows.texts and again.starts == rows.starts


def test_measures_do_not_depend_on_other_rows_or_on_the_row_s_length() -> None:
    """MA and EL by their definitions, on each row alone; in company and in wider rows they are the same."""
    model = tiny_model("gpt_neo", seed=0)
    together = probe(model, rows_of("a", "b", "c"), ngram=2)
    wider = probe(model, rows_of("c", "a", "b", columns=Columns(32, 12, 18)), ngram=2)
    measure = Measure(FILTER, el=ElConfig(ngram=2))
    said = _generate(model, rows_of("a", "b", "c"), measure)
    for place, name in enumerate("abc"):
        rows = rows_of(name)
        alone = probe(model, rows, ngram=2)
        start = rows.suffix_starts[0]
        ids = torch.from_numpy(rows.input_ids[:, rows.mask[0].argmax() :])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1]
        count = 24 - start
        nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[-count:]
        assert alone.forget_loss[0] == pytest.approx(float(nll.mean()), rel=1e-5)
        assert alone.ma[0] == pytest.approx(float((logits.argmax(-1) == ids[0, 1:])[-count:].double().mean()))
        for other in (together, wider):
            at = other.ids.index(name)
            assert other.ma[at] == alone.ma[0] and other.forget_loss[at] == pytest.approx(
                alone.forget_loss[0], rel=1e-5
            )
            assert other.el is not None and alone.el is not None and np.array_equal(other.el[at], alone.el[0])
        mine = _generate(model, rows, measure)[0]
        assert len(mine) == count and said[place].tolist() == mine.tolist()


def test_measures_are_of_the_completion_whatever_the_losses_count() -> None:
    model, measure = tiny_model("gpt_neo", seed=0), Measure(FILTER, el=ElConfig(ngram=2))
    known, found = (
        validate(model, tokenizer(), rows_of("a", "b", loss_on=on), measure, heldout=rows_of("c", "d", loss_on=on))
        for on in ("completion", "all")
    )
    assert found.scores == known.scores and known.scores.ppl_heldout is not None
    padded = [
        probe(model, rows_of("a", "b", loss_on=on), ngram=2, use_mask=False).forget_loss for on in ("completion", "all")
    ]
    np.testing.assert_array_equal(*padded)


def test_the_divergence_is_taken_where_tokens_of_the_completion_are_predicted() -> None:
    for on, places in (("completion", 3 + 6), ("all", 6 + 7)):
        rows = rows_of("a", "b", loss_on=on)  # type: ignore[arg-type]
        starts = rows.suffix_starts
        active = np.ones(2, dtype=bool)
        loss = LossConfig(on=on, reduction="sum")  # type: ignore[arg-type]
        found = batch_weights(rows.labels, rows.labels, active, rows.columns, loss, rows.mask, (starts, starts))
        assert found.kl is not None and int((found.kl > 0).sum()) == places
        if on == "completion":
            assert [np.flatnonzero(row).tolist() for row in found.kl] == [[20, 21, 22], [17, 18, 19, 20, 21, 22]]


def test_what_is_said_counts_as_many_tokens_as_the_row_s_own_completion_has() -> None:
    model, measure = tiny_model("gpt_neo", seed=0), Measure(FILTER, el=ElConfig(ngram=2))
    alone = [validate(model, tokenizer(), rows_of(name), measure).scores for name in "abc"]
    together = validate(model, tokenizer(), rows_of("a", "b", "c"), measure).scores
    for what in ("entropy", "distinct", "bertscore_f1", "bleu", "forget_loss", "ma"):
        values = [getattr(scores, what) for scores in alone]
        known = [value for value in values if value is not None]
        assert getattr(together, what) == pytest.approx(sum(known) / len(known), rel=1e-5), what


@pytest.mark.parametrize(
    "asked", [{"span": "prefix_suffix"}, {"el_start": 1}, {"el_start": 20, "span": "prefix_suffix"}]
)
def test_the_layout_of_plain_rows_does_not_cut_a_prompt_or_move_a_boundary(asked: dict[str, Any]) -> None:
    """`fidelity: paper` asks for both; here 'd' begins before the prefix and its completion in it."""
    model = tiny_model("gpt_neo", seed=0)
    columns = Columns(24, 20, 22)
    usual, found = (
        probe(model, rows_of("a", "b", "d", columns=columns), ngram=2, **options) for options in ({}, asked)
    )
    for what in ("ma", "el", "forget_loss"):
        np.testing.assert_array_equal(getattr(usual, what), getattr(found, what))
    measure = Measure(
        FILTER, el=ElConfig(ngram=2, start=asked.get("el_start")), eval=EvalConfig(span=asked.get("span", "all"))
    )
    np.testing.assert_array_equal(_probe(model, rows_of("a", "b", "d", columns=columns), measure).el, usual.el)


def test_a_text_with_the_same_boundary_has_the_same_numbers() -> None:
    """'d' fills a row of the layout whose suffix begins where its completion does."""
    model, measure = tiny_model("gpt_neo", seed=0), Measure(FILTER, el=ElConfig(ngram=2))
    columns = Columns(13, 0, 6)
    prompted = rows_of("d", columns=columns)
    assert prompted.starts == (6,) and prompted.mask.all()
    examples = Examples(("d",), (" ".join(PAIRS["d"]) + " w1",))
    plain = tokenise(examples, tokenizer(), columns, TokensConfig(), own_columns=True)
    assert np.array_equal(plain.input_ids, prompted.input_ids)
    assert np.array_equal(plain.prompt_ids, prompted.prompt_ids)
    first, second = (probe(model, rows, ngram=2) for rows in (plain, prompted))
    assert first.el is not None and second.el is not None and first.el[0] == second.el[0]
    said = [[ids.tolist() for ids in _generate(model, rows, measure)] for rows in (plain, prompted)]
    assert said[0] == said[1]
    # A text's MA and loss are of the whole row; a prompt is not counted, as with the loss span 'suffix'.
    spans = [
        scored_tokens(rows.labels, columns, "suffix", starts)
        for rows, starts in ((plain, None), (prompted, prompted.suffix_starts))
    ]
    assert spans[0].sum() == 6 and np.array_equal(spans[0][:, :-1], spans[1][:, :-1])


def test_spans_of_the_loss_follow_the_row(tmp_path: Path) -> None:
    rows = rows_of("a", "b", loss_on="all")
    assert np.array_equal(rows.measured_labels, rows_of("a", "b").labels)
    scored = scored_tokens(rows.labels, rows.columns, "suffix", rows.suffix_starts)
    assert scored.sum(1).tolist() == [3, 6]
    assert (scored_tokens(rows.labels, rows.columns, LossConfig().span, rows.suffix_starts).sum(1) == [5, 6]).all()
    save_rows(rows, tmp_path)
    again = load_rows(tmp_path)
    assert again.starts == rows.starts and np.array_equal(again.labels, rows.labels)
    assert rows.select([1]).starts == (rows.starts or ())[1:]
