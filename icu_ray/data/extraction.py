"""The LM extraction benchmark: (N, 200) uint16 GPT-2 token rows of the Pile, and the paper's forget samples on them.

A row's number is its doc_id. A sample's targets stand in ascending doc_id, whatever the order of the CSV (section V-B;
spec 1.1), or are drawn by seed. Its pool is every other row: targets of other samples stay in. `open_extraction`
validates without decoding a text, in well under a second for the real 15,000 rows.

    extraction = open_extraction(config.data, config.samples); corpus = extraction.corpus()
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import ExtractionData
from icu_ray.data.corpus import Corpus, DataCheck, check_of, draw_rows, row_digests
from icu_ray.data.examples import Examples
from icu_ray.data.vocabulary import decode_rows, load_vocabulary, vocabulary_fingerprint, vocabulary_size
from icu_ray.errors import UserError, did_you_mean

ROW_LENGTH = 200
EMBEDDED_FROM = 100
"""Where the prefix starts: two rows that agree from here on are one text to the pairing (spec 1.2)."""
_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Extraction:
    """Validated token rows (N, 200) uint16, memory mapped, and which of them play which part (doc_ids, ascending)."""

    tokens: NDArray[np.uint16]
    tokenizer: str
    targets: Mapping[int, NDArray[np.int64]]
    pools: Mapping[int, NDArray[np.int64]]
    heldout: NDArray[np.int64]

    def check(self) -> DataCheck:
        """Counts and fingerprints."""
        little = self.tokens.astype("<u2", copy=False)
        ids = [str(row) for row in range(len(little))]
        digests = row_digests(row.tobytes() for row in little)
        reading = vocabulary_fingerprint(self.tokenizer)
        return check_of("extraction", ids, digests, self.targets, self.pools, self.heldout, reading)

    def corpus(self) -> Corpus:
        """The same rows with their texts."""
        used = np.unique(np.concatenate([*self.targets.values(), *self.pools.values()]))
        place = np.full(len(self.tokens), -1, dtype=np.int64)
        place[used] = np.arange(len(used))
        return Corpus(
            rows=self.examples(used),
            targets={sample: place[rows] for sample, rows in self.targets.items()},
            pools={sample: place[rows] for sample, rows in self.pools.items()},
            heldout=self.examples(self.heldout) if len(self.heldout) else None,
            check=self.check(),
        )

    def examples(self, doc_ids: NDArray[np.int64]) -> Examples:
        """Rows by doc_id, decoded."""
        rows = self.tokens[doc_ids].astype(np.int64)
        vocabulary = load_vocabulary(self.tokenizer)
        _check_token_ids(rows, vocabulary.get_vocab_size(), self.tokenizer, "tokens", doc_ids)
        texts = decode_rows(vocabulary, rows)
        return Examples(tuple(str(doc_id) for doc_id in doc_ids), tuple(texts), rows, self.tokenizer)


def open_extraction(data: ExtractionData, samples: Sequence[int]) -> Extraction:
    """Read and validate token file and samples; UserError names file, row, what was found and expected."""
    path = Path(data.folder) / data.tokens
    tokens = read_tokens(path)
    size = vocabulary_size(data.tokenizer)
    if size is not None:
        _check_token_ids(tokens, size, data.tokenizer, str(path), np.arange(len(tokens)))
    targets = {sample: _target_rows(data, sample, len(tokens)) for sample in samples}
    in_samples = np.unique(np.concatenate(list(targets.values())))
    heldout = _heldout_rows(tokens, in_samples, data.heldout)
    pools = {sample: _pool_rows(data, len(tokens), rows, heldout) for sample, rows in targets.items()}
    return Extraction(tokens, data.tokenizer, targets, pools, heldout)


def read_tokens(path: Path) -> NDArray[np.uint16]:
    """The token file, memory mapped; UserError unless it is (N, 200) uint16 and nothing but numbers."""
    if not path.is_file():
        near = [found.name for found in path.parent.glob("*.npy")] if path.parent.is_dir() else []
        raise UserError(
            f"data.tokens: {path}: no such file{did_you_mean(path.name, near)}. Run `icu-ray data fetch`, or put the "
            "token rows of the LM extraction benchmark (train_dataset.npy, (15000, 200) uint16) there"
        )
    expected = f"expected (rows, {ROW_LENGTH}) uint16 GPT-2 token ids"
    try:
        with path.open("rb") as file:
            head = file.read(len(_NPY_MAGIC))
    except OSError as error:
        raise UserError(f"data.tokens: {path}: cannot be read: {error}") from error
    if head != _NPY_MAGIC:
        kind = "an .npz archive" if head.startswith(b"PK") else "no .npy file (a pickle is never loaded)"
        raise UserError(f"data.tokens: {path}: found {kind}, {expected}")
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy has Python's own tokenizer read the header, which raises many kinds
        if "Python objects" in str(error) or "Object arrays" in str(error):
            raise UserError(f"data.tokens: {path}: holds pickled Python objects, {expected}") from error
        raise UserError(f"data.tokens: {path}: broken or truncated ({error}); fetch it again, {expected}") from error
    if tokens.ndim != 2 or tokens.shape[1] != ROW_LENGTH or len(tokens) == 0:
        raise UserError(f"data.tokens: {path}: found shape {tokens.shape}, {expected}")
    if tokens.dtype.kind != "u" or tokens.dtype.itemsize != 2:
        raise UserError(f"data.tokens: {path}: found dtype {tokens.dtype}, {expected}")
    checked: NDArray[np.uint16] = tokens
    return checked


def _check_token_ids(
    rows: NDArray[np.integer], size: int, tokenizer: str, where: str, doc_ids: NDArray[np.int64]
) -> None:
    if rows.size and int(rows.max()) >= size:
        row, column = (int(at[0]) for at in np.nonzero(rows >= size))
        raise UserError(
            f"data.tokens: {where}: row {doc_ids[row]}, column {column}: token id {rows[row, column]} is outside the "
            f"vocabulary of {tokenizer} (ids 0..{size - 1})"
        )


def _target_rows(data: ExtractionData, sample: int, total: int) -> NDArray[np.int64]:
    """doc_ids of one forget sample, ascending."""
    if data.draw is not None:
        for key in ("limit", "corpora"):
            if getattr(data, key) is not None:
                raise UserError(f"data.{key}: chooses among the rows of a sample's CSV, and data.draw reads none")
        if data.draw > total:
            raise UserError(f"data.draw: {data.draw} rows to draw, the token file has {total}")
        return draw_rows(total, data.draw, sample)
    path = Path(data.folder) / data.sample_file.replace("{sample}", str(sample))
    chosen = read_sample(path, total, data.corpora)
    return chosen[: data.limit]


def read_sample(path: Path, total: int, corpora: Sequence[str] | None = None) -> NDArray[np.int64]:
    """doc_ids of a sample's CSV, ascending; UserError on a doc_id that is no row of the token file or stands twice."""
    if not path.is_file():
        near = [found.name for found in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        raise UserError(
            f"data.sample_file: {path}: no such file{did_you_mean(path.name, near)}. Run `icu-ray data fetch`, put the "
            "paper's CSV (columns doc_id, corpus, text) there, or let data.draw=128 draw a sample"
        )
    first_line: dict[int, int] = {}
    known_corpora: set[str] = set()
    chosen: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            for needed in ("doc_id", "corpus") if corpora is not None else ("doc_id",):
                if needed not in columns:
                    raise UserError(
                        f"data.sample_file: {path}: no column '{needed}'{did_you_mean(needed, columns)}; "
                        f"found {', '.join(columns) or 'nothing'}"
                    )
            for record in reader:
                line, written = reader.line_num, record["doc_id"]
                try:
                    doc_id = int(written)
                except (TypeError, ValueError):
                    raise UserError(
                        f"data.sample_file: {path}: record ending on line {line}: doc_id {written!r} is no whole number"
                    ) from None
                if not 0 <= doc_id < total:
                    raise UserError(
                        f"data.sample_file: {path}: record ending on line {line}: doc_id {doc_id} is out of range, "
                        f"the token file has rows 0..{total - 1}"
                    )
                if doc_id in first_line:
                    raise UserError(
                        f"data.sample_file: {path}: doc_id {doc_id} appears twice, in the records ending on lines "
                        f"{first_line[doc_id]} and {line}"
                    )
                first_line[doc_id] = line
                known_corpora.add(record.get("corpus") or "")
                if corpora is None or record["corpus"] in corpora:
                    chosen.append(doc_id)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"data.sample_file: {path}: no readable CSV: {error}") from error
    for name in corpora or ():
        if name not in known_corpora:
            raise UserError(
                f"data.corpora: no row of {path} is from '{name}'{did_you_mean(name, known_corpora)}; "
                f"found {', '.join(sorted(known_corpora))}"
            )
    if not chosen:
        raise UserError(f"data.sample_file: {path}: holds no rows")
    return np.array(sorted(chosen), dtype=np.int64)


def _heldout_rows(tokens: NDArray[np.uint16], in_samples: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The last `count` rows outside all samples of which neither half stands in another row.

    A quarter of the rows are copies of others from the prefix on; text that a model saw elsewhere is not held out.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    free = np.ones(len(tokens), dtype=np.bool_)
    free[in_samples] = False
    for half in (tokens[:, :EMBEDDED_FROM], tokens[:, EMBEDDED_FROM:]):
        whole = np.ascontiguousarray(half)
        keys = whole.view(np.dtype((np.void, whole.shape[1] * whole.itemsize))).ravel()
        _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        free &= sizes[group] == 1
    usable = np.flatnonzero(free).astype(np.int64)
    if count > len(usable):
        raise UserError(f"data.heldout: {count} rows wanted, only {len(usable)} are unique and in no forget sample")
    return usable[-count:]


def _pool_rows(
    data: ExtractionData, total: int, targets: NDArray[np.int64], heldout: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Every row that is neither a target of this sample nor held out, the first `pool_rows` of them."""
    free = np.ones(total, dtype=np.bool_)
    free[targets] = False
    free[heldout] = False
    pool = np.flatnonzero(free).astype(np.int64)[: data.pool_rows]
    if len(pool) < len(targets):
        raise UserError(
            f"data: a forget sample of {len(targets)} rows is larger than its pool of {len(pool)} "
            f"(token file: {total} rows, held out: {len(heldout)}); take a smaller sample or a larger data.pool_rows"
        )
    return pool
