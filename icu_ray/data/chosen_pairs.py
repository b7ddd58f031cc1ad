"""Pairs that a user chose: rows of the retain file, a column of the forget file, or a file of ids (pairs.by).

    chosen = chosen_pairs(config, corpus.rows.ids, corpus.targets, corpus.pools)[0]     # (T,) rows, one a target

Whatever leaves a target without exactly one pair of the pool is refused by name, before anything starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import RecordsData, SweepConfig
from icu_ray.data.forms import kind_of
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError

Indices = NDArray[np.int64]
_COLUMNS = ("target", "pair")
_NAMED = 5


def chosen_pairs(
    config: SweepConfig, ids: Sequence[str], targets: Mapping[int, Indices], pools: Mapping[int, Indices]
) -> dict[int, Indices] | None:
    """(T,) numbers of rows by sample, in the targets' order; None where nobody chose them (nearest, random).

    ids: of all rows. targets, pools: (n,) numbers of rows, as in `Corpus`. A file may name pairs of other samples'
    targets too. UserError where a target has no pair.
    """
    settings = config.pairs
    if settings.by == "given":
        return {sample: _rows_in_order(config, sample, rows, pools[sample]) for sample, rows in targets.items()}
    if settings.by != "file" or settings.file is None:
        return None
    file, named = settings.file, _read(Path(settings.file))
    used = np.unique(np.concatenate([*targets.values(), *pools.values()]))
    row_of = {ids[row]: int(row) for row in used}
    found = {}
    for sample, rows in targets.items():
        asked = [(ids[row], named.get(ids[row])) for row in rows]
        without = [target for target, pair in asked if pair is None]
        if without:
            more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
            raise UserError(
                f"pairs.file: {file}: no pair for {len(without)} of the {len(asked)} targets of sample {sample}: "
                f"{', '.join(without[:_NAMED])}{more}; expected one for each"
            )
        allowed, forgotten = set(pools[sample].tolist()), set(rows.tolist())
        for target, (pair, where) in ((target, pair) for target, pair in asked if pair is not None):
            row = row_of.get(pair)
            if row is None:
                raise UserError(
                    f"pairs.file: {file}: {where}: pair '{pair}' of '{target}' is the id of no row of the data"
                )
            if row not in allowed:
                why = "is itself to be forgotten" if row in forgotten else "is not in the pool"
                raise UserError(f"pairs.file: {file}: {where}: pair '{pair}' of '{target}' {why} in sample {sample}")
        found[sample] = np.array([row_of[pair[0]] for _, pair in asked if pair is not None], dtype=np.int64)
    return found


def pairs_fingerprint(ids: Sequence[str], rows: Indices) -> str:
    """SHA-256 of the pairs' ids in their order."""
    digest = hashlib.sha256()
    for row in rows:
        encoded = ids[row].encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _rows_in_order(config: SweepConfig, sample: int, targets: Indices, pool: Indices) -> Indices:
    data = config.data
    assert isinstance(data, RecordsData)
    if data.pair_column is not None:
        return pool[-len(targets) :]  # data/records.py puts them there
    if len(pool) != len(targets):
        raise UserError(
            f"pairs.by=given: {data.forget.replace('{sample}', str(sample))} has {len(targets)} rows, {data.pool} has "
            f"{len(pool)}; expected as many, row by row, or the pairs in a column (data.pair_column) or a file "
            "(pairs.by=file)"
        )
    return pool


def _read(path: Path) -> dict[str, tuple[str, str]]:
    """By target the pair, and where that stands."""
    found: dict[str, tuple[str, str]] = {}
    for where, values in read_columns(path, _COLUMNS, "pairs.file"):
        names = [_name(value, column, path, where) for column, value in zip(_COLUMNS, values, strict=True)]
        if names[0] in found:
            raise UserError(
                f"pairs.file: {path}: target '{names[0]}' appears twice, in {found[names[0]][1]} and {where}"
            )
        found[names[0]] = (names[1], where)
    return found


def _name(value: object, column: str, path: Path, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as a table holds whole numbers in whose column one was once missing
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise UserError(
            f"pairs.file: {path}: {where}: column '{column}' holds {kind_of(value)}, expected the id of a row"
        )
    return str(value)
