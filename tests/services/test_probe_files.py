"""Token files for `icu-ray probe`: padding on either side of a row is padding, and what is doubtful is refused.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icu_ray.config import Columns, TokensConfig
from icu_ray.data.examples import Examples
from icu_ray.data.prompts import joined
from icu_ray.data.tokens import LongTexts, tokenise
from icu_ray.errors import UserError
from icu_ray.metrics.probe import ProbeResult, probe
from icu_ray.services.probe import probe_files, token_rows
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

PAD, EOS = 1, 0
FILE = Path("rows.npy")


def test_padding_on_the_right_is_padding() -> None:
    texts = [[5, 6, 7, 8], [9, PAD, 4, 3, 2], [5, EOS]]
    left = np.array([[PAD] * (6 - len(text)) + text for text in texts])
    right = np.array([text + [PAD] * (6 - len(text)) for text in texts])
    both = np.array([[PAD] * (5 - len(text)) + text + [PAD] for text in texts])
    wanted = token_rows(left, 10, PAD, EOS, FILE, 3)
    assert wanted.mask.sum(axis=1).tolist() == [4, 5, 2]
    for ids in (right, both):
        rows = token_rows(ids, 10, PAD, EOS, FILE, 3)
        for name in ("input_ids", "mask", "labels", "prompt_ids", "prompt_mask"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(wanted, name))


def test_where_padding_is_the_end_of_text_one_ends_a_text_and_more_are_refused() -> None:
    rows = token_rows(np.array([[EOS, EOS, 5, 6, 7, EOS]]), 10, EOS, EOS, FILE, 3)
    assert rows.mask[0].tolist() == [False, False, True, True, True, True]
    with pytest.raises(UserError, match=r"rows\.npy: row 1 ends with 2 tokens 0, this model's padding and end of text"):
        token_rows(np.array([[EOS, 5, 6, 7], [5, 6, EOS, EOS]]), 10, EOS, EOS, FILE, 3)


def test_padding_is_no_text_where_another_tokenizer_wrote_the_tokens(tmp_path: Path) -> None:
    """On either side, whatever its token is called and wherever the tokenizer's folder says so."""
    model, other = tmp_path / "model", tmp_path / "other"
    tiny_model("gpt_neo").save_pretrained(model)
    tokenizer().save_pretrained(model)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(60)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [list(range(20, 32)), list(range(30, 39)), [9, 11, 3, 11, 5, 8]]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(f"w{token}" for token in text)}) + "\n" for text in texts)
    )

    def probed(file: Path, name: str | None = None) -> ProbeResult:
        return probe_files(str(model), file, tokenizer=name, el_start=3, ngram=2, length=12, device="cpu")

    wanted = probed(tmp_path / "texts.jsonl")
    # A token of its own; the end of text; one that stands within texts too.
    for pad, special in ((50, {"pad_token": "w50"}), (51, {"eos_token": "w51"}), (11, {"pad_token": "w11"})):
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", **special).save_pretrained(other)
        sides = ["left"] if "eos_token" in special else ["left", "right", "both"]
        for side in sides:
            rows = []
            for text in texts:
                room = 12 - len(text)
                before = {"left": room, "right": 0, "both": room // 2}[side]
                rows.append([pad] * before + text + [pad] * (room - before))
            np.save(tmp_path / "rows.npy", np.array(rows))
            found = probed(tmp_path / "rows.npy", str(other))
            np.testing.assert_allclose(found.forget_loss, wanted.forget_loss, rtol=1e-5)
            np.testing.assert_array_equal(found.ma, wanted.ma)
    np.save(tmp_path / "rows.npy", np.array([[5, 6, 7, 51, 51]]))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w51").save_pretrained(other)
    with pytest.raises(UserError, match=r"rows\.npy: row 0 ends with 2 tokens 51"):
        probed(tmp_path / "rows.npy", str(other))


def test_a_text_in_windows_counts_as_its_worst_window_does(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_model("gpt_neo").save_pretrained(model)
    tokenizer().save_pretrained(model)
    words = [f"w{20 + (3 * n) % 40}" for n in range(27)]

    def probed(name: str, texts: list[list[str]], long: LongTexts) -> ProbeResult:
        file = tmp_path / name
        file.write_text("".join(json.dumps({"text": " ".join(text)}) + "\n" for text in texts))
        return probe_files(str(model), file, el_start=8, ngram=2, length=12, device="cpu", long=long)

    apart = probed("apart.jsonl", [words[start : start + 12] for start in (0, 6, 12, 15)], "cut")
    whole = probed("whole.jsonl", [words[:9], words], "windows")
    assert apart.el is not None and whole.el is not None and whole.cut_tokens == (0, 0) and len(whole.ids) == 2
    assert (whole.ma[1], whole.el[1]) == (apart.ma.max(), apart.el.max())
    assert whole.forget_loss[1] == pytest.approx(apart.forget_loss.min())
    alone = probed("alone.jsonl", [words[:9]], "cut")
    assert whole.ma[0] == alone.ma[0] and whole.forget_loss[0] == pytest.approx(alone.forget_loss[0])


def test_of_questions_the_answers_alone_are_probed(tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "questions.json"
    tiny_model("gpt_neo").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    pairs = [("w20 w21", "w22 w23 w24 w25 w26"), ("w30 w31 w32", "w33 w34 w35 w36")]
    file.write_text("".join(json.dumps({"question": asked, "answer": said}) + "\n" for asked, said in pairs))
    told: list[str] = []
    found = probe_files(
        str(folder), file, ngram=2, length=12, columns={"template": "plain"}, device="cpu", tell=told.append
    )
    texts, boundaries = zip(*(joined(*pair) for pair in pairs), strict=True)
    rows = tokenise(
        Examples(("row-1", "row-2"), texts, boundaries=boundaries),
        tokenizer(),
        Columns(12, 3, 6),
        TokensConfig(),
        own_columns=True,
    )
    wanted = probe(tiny_model("gpt_neo"), rows, ngram=2)
    assert found.ids == wanted.ids and found.ma.tolist() == wanted.ma.tolist()
    assert found.forget_loss == pytest.approx(wanted.forget_loss)
    assert told == [f"{file}: 'question' is given and 'answer' follows, one after the other"]
    again = probe_files(
        str(folder), file, el_start=1, ngram=2, length=12, columns={"template": "plain"}, device="cpu", tell=told.append
    )
    assert again.el is not None and found.el is not None and again.el.tolist() == found.el.tolist()
    assert told[2:] == ["--el-start 1 is for plain texts: EL of rows with prompts begins where the completion does"]
