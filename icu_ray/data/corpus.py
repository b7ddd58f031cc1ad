"""The rows of a sweep and the part each plays: targets and pool of every forget sample, and held-out rows.

`Corpus` is what a source gives once its texts are read; `DataCheck` is the short account of the same rows (counts and
content fingerprints) that a plan needs for trial ids, made without decoding a text. Both come from data/sources.py.

    targets, pool = corpus.sample(0)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icu_ray.data.examples import Examples
from icu_ray.data.text_columns import PackedWriter
from icu_ray.errors import UserError


@dataclass(frozen=True)
class SampleCheck:
    """One forget sample: how many targets and pool rows, and the fingerprint of both together.

    pairs: which pool row a file names for each target (pairs.by=file), as a fingerprint; '' without such a file.
    answers: fingerprints of the second answers that its targets can be given, by where they come from.
    """

    targets: int
    pool: int
    fingerprint: str
    pairs: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataCheck:
    """Validated input: what a plan may count on before any text is decoded.

    fingerprint: content of all rows and of the part each plays in each sample (what a stand-in is trained on).
    samples: by sample number; a SampleCheck's fingerprint does not change when other samples join the sweep.
    remarks: what is not refused but must be said. subjects: whose data a target is, by its id, where its file says so.
    """

    source: str
    samples: Mapping[int, SampleCheck]
    heldout: int
    fingerprint: str
    remarks: tuple[str, ...] = ()
    subjects: Mapping[str, str] = field(default_factory=dict)
    heldout_fingerprint: str = ""
    """Content of the held-out rows alone."""

    def require_pool(self, methods: Iterable[str]) -> None:
        """UserError when methods that need paired rows are to run without a pool."""
        names = sorted(set(methods))
        if names and any(sample.pool == 0 for sample in self.samples.values()):
            raise UserError(
                f"data.pool: methods {', '.join(names)} pair each target with a row of the pool, and there is none; "
                "give a pool file, or use methods without pairs"
            )


@dataclass(frozen=True)
class Corpus:
    """Rows with their texts.

    rows: every row that is a target or a pool row of some sample, each once; held-out rows are not among them.
    targets, pools: (n,) int64 indices into rows, by sample number.
    """

    rows: Examples
    targets: Mapping[int, NDArray[np.int64]]
    pools: Mapping[int, NDArray[np.int64]]
    heldout: Examples | None
    check: DataCheck
    alternates: Mapping[int, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """By sample number, each target's other answers; {} where the texts have none."""

    def sample(self, sample: int) -> tuple[Examples, Examples]:
        """Targets and pool of one forget sample."""
        return self.rows.select(self.targets[sample]), self.rows.select(self.pools[sample])

    def to_forget(self, sample: int) -> Examples:
        """The targets alone: a pool may be too large to hold twice."""
        return self.rows.select(self.targets[sample])

    def fingerprint(self) -> str:
        """Content of all rows and their parts; the same that `check_data` reports."""
        return self.check.fingerprint


def draw_rows(total: int, count: int, sample: int) -> NDArray[np.int64]:
    """`count` of `total` row numbers, ascending, drawn with the sample number as seed.

    The rows whose SHA-256 of "sample:row" is smallest: no random generator, so no version of one, decides the sample.
    """
    ranked = sorted(range(total), key=lambda row: hashlib.sha256(f"{sample}:{row}".encode()).digest())
    return np.array(sorted(ranked[:count]), dtype=np.int64)


def row_digests(contents: Iterable[bytes]) -> Iterator[bytes]:
    """SHA-256 of each row's content."""
    return (hashlib.sha256(content).digest() for content in contents)


def check_of(
    source: str,
    ids: Iterable[str],
    digests: Iterable[bytes],
    targets: Mapping[int, NDArray[np.int64]],
    pools: Mapping[int, NDArray[np.int64]],
    heldout: NDArray[np.int64],
    reading: str = "",
) -> DataCheck:
    """Counts and fingerprints of rows given by id and content digest; `reading`: what turns content into text."""
    writer = PackedWriter()
    for row_id, digest in zip(ids, digests, strict=True):
        writer.append(row_id.encode("utf-8", "surrogatepass") + b"\0" + digest)
    rows = writer.finish()

    def fingerprint(*parts: NDArray[np.int64]) -> str:
        whole = hashlib.sha256(reading.encode())
        for part in parts:
            whole.update(len(part).to_bytes(8, "little"))
            borders = np.flatnonzero(np.diff(part) != 1) + 1  # rows that follow each other are read at one time
            for run in np.split(part, borders) if len(part) else ():
                whole.update(rows.between(run[0], run[-1] + 1))
        return whole.hexdigest()

    samples = {
        sample: SampleCheck(len(targets[sample]), len(pools[sample]), fingerprint(targets[sample], pools[sample]))
        for sample in sorted(targets)
    }
    for sample, counts in samples.items():
        if 0 < counts.pool < counts.targets:
            raise UserError(
                f"data: forget sample {sample} has {counts.targets} rows, its pool only {counts.pool}; "
                "take a smaller sample or a larger pool"
            )
    everything = hashlib.sha256("\n".join(f"{number}:{each.fingerprint}" for number, each in samples.items()).encode())
    everything.update((held_out := fingerprint(heldout)).encode())
    return DataCheck(source, samples, len(heldout), everything.hexdigest(), heldout_fingerprint=held_out)
