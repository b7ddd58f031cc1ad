"""The extraction benchmark as a source: which rows play which part, and every refusal.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from icu_ray.config import ExtractionData, SweepConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.corpus import draw_rows
from icu_ray.data.extraction import open_extraction, read_tokens
from icu_ray.data.sources import check_data, counts_own_tokens, load_corpus
from icu_ray.errors import UserError
from tests.support.tiny_models import save_byte_tokenizer

ROWS = 40
VOCABULARY = 300


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, VOCABULARY)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens = np.random.default_rng(0).integers(1, 256, size=(ROWS, 200)).astype(np.uint16)
    np.save(tmp_path / "train_dataset.npy", tokens)
    _sample(tmp_path, 0, [31, 4, 17, 9])
    _sample(tmp_path, 1, [2, 17, 38])
    return tmp_path


def _sample(folder: Path, sample: int, doc_ids: list[Any], column: str = "doc_id") -> None:
    with (folder / f"lm_extraction_128_{sample}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column, "corpus", "text"])
        for number, doc_id in enumerate(doc_ids):
            writer.writerow([doc_id, "github" if number % 2 else "pile-cc", 'two\nlines, "quoted"'])


def _data(folder: Path, tokenizer: str, **settings: Any) -> ExtractionData:
    return ExtractionData(source="extraction", folder=str(folder), tokenizer=tokenizer, **settings)


def _config(folder: Path, tokenizer: str, samples: list[int], **settings: Any) -> SweepConfig:
    data = {"source": "extraction", "folder": str(folder), "tokenizer": tokenizer, **settings}
    model = {"name": "m", "source": "x"}
    return resolve_config({"name": "t", "models": [model], "samples": samples, "data": data}, "test")


def test_targets_ascend_whatever_the_order_of_the_file(folder: Path, tokenizer_folder: str) -> None:
    corpus = load_corpus(_config(folder, tokenizer_folder, [0, 1]))
    targets, pool = corpus.sample(0)
    assert targets.ids == ("4", "9", "17", "31")
    assert set(pool.ids) == {str(row) for row in range(ROWS)} - set(targets.ids)  # targets of sample 1 stay in
    tokens = np.load(folder / "train_dataset.npy")
    assert targets.token_rows is not None
    assert pool.token_rows is not None
    assert np.array_equal(targets.token_rows, tokens[[4, 9, 17, 31]])
    assert np.array_equal(pool.token_rows, tokens[[int(i) for i in pool.ids]])
    decoder = Tokenizer.from_file(f"{tokenizer_folder}/tokenizer.json")
    assert targets.texts[1] == decoder.decode(tokens[9].tolist(), skip_special_tokens=False)


def test_limit_corpora_and_pool_rows(folder: Path, tokenizer_folder: str) -> None:
    limited = open_extraction(_data(folder, tokenizer_folder, limit=2, pool_rows=5), [0])
    assert limited.targets[0].tolist() == [4, 9]
    assert limited.pools[0].tolist() == [0, 1, 2, 3, 5]
    some = open_extraction(_data(folder, tokenizer_folder, corpora=("github",)), [0])
    assert some.targets[0].tolist() == [4, 9]
    corpus = load_corpus(_config(folder, tokenizer_folder, [0], limit=2, pool_rows=5))
    assert corpus.rows.ids == ("0", "1", "2", "3", "4", "5", "9")
    assert corpus.sample(0)[1].ids == ("0", "1", "2", "3", "5")


def test_heldout_rows_are_last_unique_and_in_no_sample(folder: Path, tokenizer_folder: str) -> None:
    tokens = np.load(folder / "train_dataset.npy")
    tokens[39, 100:] = tokens[3, 100:]  # a copy from the prefix on: seen elsewhere, so not held out
    tokens[36, :100] = tokens[5, :100]
    np.save(folder / "train_dataset.npy", tokens)
    extraction = open_extraction(_data(folder, tokenizer_folder, heldout=3), [0, 1])
    assert extraction.heldout.tolist() == [34, 35, 37]
    assert not np.intersect1d(extraction.heldout, np.concatenate(list(extraction.pools.values()))).size
    corpus = load_corpus(_config(folder, tokenizer_folder, [0, 1], heldout=3))
    assert corpus.heldout is not None
    assert corpus.heldout.ids == ("34", "35", "37")


def test_drawn_samples_need_no_file_and_differ_by_seed(folder: Path, tokenizer_folder: str) -> None:
    extraction = open_extraction(_data(folder, tokenizer_folder, draw=6), [7, 8])
    assert all(np.array_equal(rows, np.unique(rows)) and len(rows) == 6 for rows in extraction.targets.values())
    assert not np.array_equal(extraction.targets[7], extraction.targets[8])
    assert draw_rows(ROWS, 6, 7).tolist() == extraction.targets[7].tolist()
    assert set(draw_rows(ROWS, 3, 7)) < set(draw_rows(ROWS, 6, 7))


def test_fingerprints_follow_content_and_not_places(folder: Path, tokenizer_folder: str, tmp_path: Path) -> None:
    both = check_data(_config(folder, tokenizer_folder, [0, 1]))
    alone = check_data(_config(folder, tokenizer_folder, [0]))
    assert both.samples[0] == alone.samples[0]
    assert both.fingerprint != alone.fingerprint
    assert (both.samples[0].targets, both.samples[0].pool) == (4, ROWS - 4)
    assert load_corpus(_config(folder, tokenizer_folder, [0, 1])).fingerprint() == both.fingerprint
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert check_data(_config(copy, tokenizer_folder, [0])) == alone
    tokens = np.load(folder / "train_dataset.npy")
    tokens[20, 3] ^= 1
    np.save(folder / "train_dataset.npy", tokens)
    assert check_data(_config(folder, tokenizer_folder, [0])).samples[0].fingerprint != alone.samples[0].fingerprint


def test_stand_ins_count_their_own_tokens(folder: Path, tokenizer_folder: str) -> None:
    config = _config(folder, tokenizer_folder, [0])
    assert counts_own_tokens(config, standin=True)
    assert not counts_own_tokens(config, standin=False)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GOOD = np.full((ROWS, 200), 5, dtype=np.uint16)
BAD_TOKENS: dict[str, tuple[bytes, str]] = {
    "one row": (_npy(GOOD[0]), r"found shape \(200,\)"),
    "wrong width": (_npy(GOOD[:, :150]), r"found shape \(40, 150\)"),
    "no rows": (_npy(GOOD[:0]), r"found shape \(0, 200\)"),
    "floats": (_npy(GOOD.astype(np.float32)), "found dtype float32"),
    "wide integers": (_npy(GOOD.astype(np.int64)), "found dtype int64"),
    "objects": (_npy(np.array([[object()] * 2], dtype=object)), "pickled Python objects"),
    "a pickle": (pickle.dumps([1, 2]), "a pickle is never loaded"),
    "an archive": (b"PK\x03\x04" + bytes(50), "npz archive"),
    "truncated": (_npy(GOOD)[:500], "broken or truncated"),
    "truncated head": (_npy(GOOD)[:30], "broken or truncated"),
    "empty": (b"", "no .npy file"),
    "outside the vocabulary": (_npy(np.where(np.arange(ROWS)[:, None] == 7, 299 + GOOD - 4, GOOD).astype(np.uint16)),
                               r"row 7, column 0: token id 300 .*ids 0..299"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_token_files_are_refused(folder: Path, tokenizer_folder: str, case: str) -> None:
    content, message = BAD_TOKENS[case]
    (folder / "train_dataset.npy").write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        check_data(_config(folder, tokenizer_folder, [0]))
    assert "train_dataset.npy" in str(refused.value)


BAD_SETTINGS: dict[str, tuple[Callable[[Path], object] | None, dict[str, Any], str]] = {
    "missing tokens": (lambda f: (f / "train_dataset.npy").rename(f / "train_datasets.npy"), {},
                       "did you mean 'train_datasets.npy'.*icu-ray data fetch"),
    "missing sample": (None, {"sample_file": "lm_extraction_{sample}.csv"}, "did you mean 'lm_extraction_128_0.csv'"),
    "no doc_id": (lambda f: _sample(f, 0, [1], column="docid"), {}, "no column 'doc_id' .did you mean 'docid'"),
    "out of range": (lambda f: _sample(f, 0, [1, ROWS]), {}, "doc_id 40 is out of range.*0..39"),
    "negative": (lambda f: _sample(f, 0, [-1]), {}, "doc_id -1 is out of range"),
    "twice": (lambda f: _sample(f, 0, [3, 1, 3]), {}, "doc_id 3 appears twice.*lines 3 and 7"),
    "no number": (lambda f: _sample(f, 0, ["3.5"]), {}, "doc_id '3.5' is no whole number"),
    "no rows": (lambda f: _sample(f, 0, []), {}, "holds no rows"),
    "larger than the pool": (lambda f: _sample(f, 0, list(range(25))), {}, "25 rows is larger than its pool of 15"),
    "more than all": (None, {"draw": 41}, "41 rows to draw, the token file has 40"),
    "half drawn": (None, {"draw": 30}, "30 rows is larger than its pool of 10"),
    "draw with limit": (None, {"draw": 3, "limit": 2}, "data.limit"),
    "unknown corpus": (None, {"corpora": ["githb"]}, "did you mean 'github'"),
    "too many held out": (None, {"heldout": 38}, "38 rows wanted"),
    "no tokenizer": (None, {"tokenizer": "./nowhere"}, "data.tokenizer: ./nowhere is no folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_samples_and_settings_are_refused(folder: Path, tokenizer_folder: str, case: str) -> None:
    spoil, settings, message = BAD_SETTINGS[case]
    if spoil is not None:
        spoil(folder)
    with pytest.raises(UserError, match=message):
        check_data(_config(folder, settings.pop("tokenizer", tokenizer_folder), [0], **settings))


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.json"):
        check_data(_config(folder, str(folder), [0]))


def test_columns_longer_than_the_rows_are_refused(folder: Path, tokenizer_folder: str) -> None:
    config = _config(folder, tokenizer_folder, [0])
    long = config.model_copy(update={"columns": config.columns.model_copy(update={"length": 256})})
    with pytest.raises(UserError, match=r"columns\.length: 256 for models m"):
        check_data(long)


def test_the_real_benchmark(shared: Path) -> None:
    folder, tokenizer = shared / "data" / "lm_extraction", str(shared / "data" / "gpt2_tokenizer")
    config = _config(folder, tokenizer, [0, 1, 2])
    start = time.process_time()
    check = check_data(config)
    assert time.process_time() - start < 1.0
    assert {(each.targets, each.pool) for each in check.samples.values()} == {(128, 14872)}
    assert read_tokens(folder / "train_dataset.npy").shape == (15000, 200)
    targets, _ = load_corpus(_config(folder, tokenizer, [0], pool_rows=200)).sample(0)
    with (folder / "lm_extraction_128_0.csv").open(newline="") as file:
        written = {row["doc_id"]: row["text"] for row in csv.DictReader(file)}
    assert sorted(map(int, written)) == [int(i) for i in targets.ids]
    alike = sum(written[i] == text for i, text in zip(targets.ids, targets.texts, strict=True))
    assert alike >= 110  # the other CSV texts lost carriage returns or broken characters
