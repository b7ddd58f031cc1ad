"""Forget loss, MA and EL of any causal LM on any forget file: what stands behind `icu-ray probe`.

    result = probe_files("gpt2-folder", Path("forget.npy"))

A `.npy` holds (N, L) token ids in the model's own vocabulary, unless `tokenizer` says who wrote them; a run of padding
ids at either end of a row is padding. `.jsonl`, `.json`, `.csv`, `.tsv` and `.parquet` hold texts, tokenised by the
model's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import Columns, TokensConfig
from icu_ray.data.examples import IGNORED_LABEL, Examples, TokenRows
from icu_ray.data.long_texts import long_texts_said
from icu_ray.data.records import examples_of, read_records
from icu_ray.errors import UserError
from icu_ray.plan.own_files import records_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icu_ray.data.long_texts import LongTexts
    from icu_ray.metrics.probe import ProbeResult


EL_START = 150
"""Tokens of EL's shortest prompt, as in the paper."""


def read_token_file(path: Path) -> NDArray[np.int64]:
    """(N, L) int64 from a .npy file of integers; UserError for anything else, pickled content included."""
    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a .npy file of token ids") from None
    except Exception as error:  # numpy has Python's own tokenizer read the header, which raises many kinds
        # numpy's own words for a pickle are an advice to load it.
        pickled = "pickle" in str(error) or "Python objects" in str(error)
        what = "is a pickle, which is never loaded" if pickled else f"cannot be read: {error}"
        raise UserError(f"{path}: {what}; expected a .npy array of integer token ids") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or 0 in found.shape:
        shape = getattr(found, "shape", "an archive")
        raise UserError(f"{path}: expected token ids of shape (rows, tokens), found {shape}")
    if not np.issubdtype(found.dtype, np.integer):
        raise UserError(f"{path}: expected integer token ids, found dtype {found.dtype}")
    return found.astype(np.int64)


def columns_for(length: int, el_start: int) -> Columns:
    """A layout of `length` tokens whose suffix starts at el_start; the prefix is as long as in the paper, 50."""
    start = min(max(el_start, 1), length - 1)
    return Columns(length, max(0, start - 50) if start > 0 else 0, start)


def token_rows(
    ids: NDArray[np.int64], vocabulary: int, pad_id: int, eos_id: int | None, path: Path, start: int
) -> TokenRows:
    """Rows of a token file as the model sees them, padded on the left; ids outside its vocabulary are refused with row
    and column."""
    _refuse_outside(
        ids, vocabulary, path, "the model's", "; if another tokenizer wrote the ids, name it with --tokenizer"
    )
    columns = columns_for(ids.shape[1], start)
    ids = _pads_to_the_left(ids, pad_id, eos_id, path)
    mask = np.maximum.accumulate(ids != pad_id, axis=1)
    labels = np.where(mask & (ids != pad_id), ids, IGNORED_LABEL)
    prompt = slice(columns.prefix_start, columns.suffix_start)
    names = tuple(str(i) for i in range(len(ids)))
    return TokenRows(
        names, ids, mask, labels, ids[:, prompt], mask[:, prompt], ("",) * len(ids), columns, pad_id, eos_id
    )


def _refuse_outside(ids: NDArray[np.int64], size: int, path: Path, whose: str, more: str = "") -> None:
    outside = np.argwhere((ids < 0) | (ids >= size))
    if len(outside):
        row, column = (int(x) for x in outside[0])
        raise UserError(
            f"{path}: row {row}, column {column}: token id {ids[row, column]} is outside {whose} vocabulary of {size}"
            + more
        )


def _decoded(ids: NDArray[np.int64], tokenizer: str, path: Path) -> list[str]:
    """Texts of a token file that this tokenizer wrote, without the padding on either side."""
    from icu_ray.data.vocabulary import load_vocabulary, padding_of

    _refuse_outside(ids, load_vocabulary(tokenizer).get_vocab_size(), path, f"{tokenizer}'s")
    pad_id, eos_id = padding_of(tokenizer)
    rows = ids.tolist()
    if pad_id is not None:
        left = _pads_to_the_left(ids, pad_id, eos_id, path, f"{tokenizer}'s")
        rows = [row[int(np.argmax(row != pad_id)) :].tolist() for row in left]
    texts: list[str] = load_vocabulary(tokenizer).decode_batch(rows, skip_special_tokens=False)
    return texts


def _pads_to_the_left(
    ids: NDArray[np.int64], pad_id: int, eos_id: int | None, path: Path, whose: str = "this model's"
) -> NDArray[np.int64]:
    """The same rows with the padding at their end before them; refused: a row that holds padding only.

    Where padding is the end-of-text token too, one at the end of a row ends its text, and what more mean nobody knows.
    """
    text = ids != pad_id
    if not text.any(axis=1).all():
        raise UserError(f"{path}: row {int(np.flatnonzero(~text.any(axis=1))[0])} holds padding only")
    trailing = np.argmax(text[:, ::-1], axis=1)
    if pad_id == eos_id:
        if (doubtful := np.flatnonzero(trailing > 1)).size:
            row = int(doubtful[0])
            raise UserError(
                f"{path}: row {row} ends with {int(trailing[row])} tokens {pad_id}, {whose} padding and end of "
                "text; expected rows that are padded on the left"
            )
        return ids
    return np.stack([np.roll(row, count) for row, count in zip(ids, trailing, strict=True)])


def probe_files(
    model_source: str,
    forget: Path,
    *,
    tokenizer: str | None = None,
    el_start: int | None = None,
    ngram: int = 10,
    length: int = 200,
    columns: Mapping[str, Any] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    long: LongTexts = "cut",
    say: Callable[[str], None] = lambda line: None,
    tell: Callable[[str], None] = lambda line: None,
) -> ProbeResult:
    """Measure a model on a forget file. UserError for anything that cannot be read.

    columns: keys of data.source=records that say how rows are written; what is not said is looked for in the file, and
    `tell` is told. el_start: tokens of EL's shortest prompt, EL_START where none are given; not of rows with prompts,
    whose EL begins where the completion does, which `tell` is told too.
    length: tokens of a row. long: 'cut': of a longer text only the beginning is measured; 'windows': all of it, and the
    text counts as its worst window does.
    """
    is_tokens = forget.suffix.lower() == ".npy"
    ids = read_token_file(forget) if is_tokens else None
    texts, prompted = None, False
    if not is_tokens:
        model_told = {"source": model_source, "revision": revision, "trust_remote_code": trust_remote_code}
        described = records_of(forget, columns or {}, model_told, "icu-ray probe", tell)
        texts, prompted = read_records(forget, described.form, None, "forget"), described.prompted
    if prompted and el_start is not None:
        tell(f"--el-start {el_start} is for plain texts: EL of rows with prompts begins where the completion does")
    usual = " (the default)" if el_start is None else ""
    el_start = EL_START if el_start is None else el_start
    width = length if ids is None or tokenizer is not None else ids.shape[1]
    if el_start + ngram > width and not prompted:
        raise UserError(
            f"--el-start {el_start}{usual}: no {ngram}-gram fits between it and the end of rows of {width} tokens; "
            f"expected at most {width - ngram}"
        )
    say(f"loading {model_source}")
    import torch

    from icu_ray.data.specials import specials_of
    from icu_ray.data.tokens import tokenise
    from icu_ray.metrics.probe import probe
    from icu_ray.models.loading import load_model

    loaded = load_model(model_source, revision=revision, trust_remote_code=trust_remote_code)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = loaded.model
    model.to(device=torch.device(chosen))  # type: ignore[call-arg]
    specials = specials_of(loaded.tokenizer)
    if ids is not None and tokenizer is None:
        vocabulary = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
        rows = token_rows(ids, vocabulary, specials.pad_id, specials.eos_id, forget, el_start)
    else:
        if ids is not None:
            assert tokenizer is not None
            named = [str(i) for i in range(len(ids))]
            examples = Examples(tuple(named), tuple(_decoded(ids, tokenizer, forget)))
        else:
            assert texts is not None
            examples = examples_of(texts)
        rows = _tokenised(examples, loaded.tokenizer, columns_for(length, el_start), tokenise, long)
    say(f"probing {len(rows)} rows of {rows.columns.length} tokens on {chosen}")
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and rows.columns.length > limit:
        raise UserError(f"{forget}: rows of {rows.columns.length} tokens exceed the model's {limit} positions")
    return probe(model, rows, el_start=el_start, ngram=ngram).of_texts(rows)


def _tokenised(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    columns: Columns,
    tokenise: Callable[..., TokenRows],
    long: LongTexts,
) -> TokenRows:
    return tokenise(examples, tokenizer, columns, TokensConfig(), own_columns=True, long=long)


def probe_remarks(result: ProbeResult, ngram: int, length: int) -> list[str]:
    """What must be said beside the means: of how many texts there is no number, or only of their beginning.

    length: tokens that texts were cut to.
    """
    from icu_ray.metrics.extraction_likelihood import unmeasured_text

    broken, total = int(result.broken.sum()), len(result.ids)
    remarks = [f"the model's scores are not finite on {broken} of {total} texts"] if broken else []
    short = unmeasured_text(int(result.short.sum()), total, ngram)
    lengths = [length + cut for cut in result.cut_tokens or (0,) * total]
    long = long_texts_said(result.ids, lengths, length)
    remarks += [f"{short}; lower --ngram"] if short else []
    return remarks + ([f"{long}; only their beginning is measured; raise --length"] if long else [])


def probe_json(result: ProbeResult, ngram: int) -> dict[str, Any]:
    """The JSON object of `icu-ray probe --json`; what cannot be measured is NaN or None and becomes null."""
    key = f"el{ngram}"
    assert result.el is not None
    return {
        "n": len(result.ids),
        "ma": result.ma_mean,
        key: result.el_mean,
        "forget_loss": result.forget_loss_mean,
        f"{key}_unmeasured": int(result.short.sum()),
        "cut": None if result.cut_tokens is None else sum(cut > 0 for cut in result.cut_tokens),
        "per_sample": [
            {"id": name, "ma": float(ma), key: float(el), "forget_loss": float(loss)}
            for name, ma, el, loss in zip(result.ids, result.ma, result.el, result.forget_loss, strict=True)
        ],
    }
