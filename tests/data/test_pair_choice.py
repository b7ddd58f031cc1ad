"""Pairs that are no nearest neighbours: drawn by seed, chosen by a user, and what is refused of them.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.config import Columns, SweepConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.chosen_pairs import chosen_pairs
from icu_ray.data.corpus import Corpus
from icu_ray.data.pair_draws import PairDraws, draw_pairs, draw_targets
from icu_ray.data.pairing import find_pairs, ngram_overlap
from icu_ray.data.sources import check_data, load_corpus
from icu_ray.errors import UserError
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.store import Store

SMALL_INTS = st.integers(1, 40)


def plainly_drawn(seed: int, epoch: int, targets: int, pool: int) -> list[int]:
    """The draw once more, as its documentation says it."""
    found = []
    for target in range(targets):
        digest = hashlib.sha256(b"pair:%d:%d:%d" % (seed, epoch, target)).hexdigest()
        found.append(int(digest, 16) % pool)
    return found


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50), targets=SMALL_INTS, pool=SMALL_INTS)
def test_a_draw_is_a_function_of_seed_epoch_and_counts(seed: int, epoch: int, targets: int, pool: int) -> None:
    drawn = draw_pairs(seed, epoch, targets, pool)
    assert drawn.tolist() == plainly_drawn(seed, epoch, targets, pool)
    assert drawn.dtype == np.int64
    # More targets change nothing for those before them.
    assert draw_pairs(seed, epoch, targets + 7, pool)[:targets].tolist() == drawn.tolist()


def test_draws_are_uniform_and_differ_by_seed_and_epoch() -> None:
    assert draw_pairs(0, 1, 4, 1000).tolist() == [361, 374, 370, 127]  # today and next year
    for drawn in (draw_pairs(3, 2, 20_000, 10), draw_targets(3, 2, 20_000, 10)):
        counts = Counter(drawn.tolist())
        assert sorted(counts) == list(range(10)) and all(abs(count - 2000) < 200 for count in counts.values())
    different = [draw_pairs(seed, epoch, 50, 1000).tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(each) for each in different}) == 4
    # With replacement: of 50 targets two get one row of 100 nearly always.
    assert len(set(draw_pairs(0, 1, 50, 100).tolist())) < 50


@settings(deadline=None)
@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    epochs=st.integers(0, 5),
    targets=SMALL_INTS,
    pool=SMALL_INTS,
)
def test_what_is_made_beforehand_holds_every_draw(seeds: list[int], epochs: int, targets: int, pool: int) -> None:
    draws = PairDraws(targets, pool, tuple(seeds), epochs)
    asked = range(1, epochs + 1) if epochs else (0,)
    every = {row for seed in seeds for epoch in asked for row in plainly_drawn(seed, epoch, targets, pool)}
    assert draws.pool_rows.tolist() == sorted(every)
    for seed in seeds:
        alone = PairDraws(targets, pool, (seed,), epochs)
        for epoch in asked if epochs else (0, 1, 9):
            wanted = plainly_drawn(seed, epoch if epochs else 0, targets, pool)
            assert draws.pool_rows[draws.places(seed, epoch)].tolist() == wanted
            assert alone.pool_rows[alone.places(seed, epoch)].tolist() == wanted  # whatever other seeds there are
    whole = PairDraws(targets, pool, tuple(seeds), max(epochs, 1), whole=True)
    assert whole.pool_rows.tolist() == list(range(pool))
    with pytest.raises(ValueError, match="seed 100"):
        draws.places(100, 1)
    if epochs:
        with pytest.raises(ValueError, match=f"epoch {epochs + 1}"):
            draws.places(seeds[0], epochs + 1)


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config(by: str, pairs: dict[str, Any] | None = None, **data: Any) -> SweepConfig:
    tree = {"name": "t", "models": [{"name": "m", "source": "x"}], "pairs": {"by": by, **(pairs or {})}}
    return resolve_config({**tree, "data": {"source": "records", **data}}, "t")


def texts_of_pairs(asked: SweepConfig) -> list[tuple[str, str]]:
    corpus = load_corpus(asked)
    chosen = chosen_pairs(asked, corpus.rows.ids, corpus.targets, corpus.pools)
    assert chosen is not None
    targets, pairs = corpus.rows.select(corpus.targets[0]), corpus.rows.select(chosen[0])
    assert set(chosen[0].tolist()) <= set(corpus.pools[0].tolist())
    check_data(asked)
    return list(zip(targets.texts, pairs.texts, strict=True))


def test_rows_of_the_retain_file_are_pairs_in_their_order(tmp_path: Path) -> None:
    forget = lines(tmp_path / "f.jsonl", [{"text": "a"}, {"text": "b"}])
    pool = lines(tmp_path / "p.jsonl", [{"text": "y"}, {"text": "x"}])
    assert texts_of_pairs(config("given", forget=forget, pool=pool)) == [("a", "y"), ("b", "x")]
    three = lines(tmp_path / "three.jsonl", [{"text": "y"}, {"text": "x"}, {"text": "z"}])
    with pytest.raises(UserError, match=r"pairs\.by=given: .*f\.jsonl has 2 rows, .*three\.jsonl has 3; expected as"):
        check_data(config("given", forget=forget, pool=three))


def test_a_column_holds_the_text_of_each_pair(tmp_path: Path) -> None:
    rows = [{"text": "a b", "other": "c d"}, {"text": "e f", "other": "c d"}]
    forget = lines(tmp_path / "f.jsonl", rows)
    assert texts_of_pairs(config("given", forget=forget, pair_column="other")) == [("a b", "c d"), ("e f", "c d")]
    # A pool beside it is for others: its rows are nobody's pairs.
    pool = lines(tmp_path / "p.jsonl", [{"text": "y"}, {"text": "x"}, {"text": "z"}])
    asked = config("given", forget=forget, pair_column="other", pool=pool, heldout_rows=1)
    assert texts_of_pairs(asked) == [("a b", "c d"), ("e f", "c d")]
    assert load_corpus(asked).sample(0)[1].ids == ("pool-1", "pool-2", "forget-1:pair", "forget-2:pair")
    same = lines(tmp_path / "same.jsonl", [{"text": "a b", "other": "e  f"}, {"text": "e f", "other": "c"}])
    with pytest.raises(
        UserError, match=r"same\.jsonl: line 1: the pair in column 'other' is a text to forget, 'forget"
    ):
        check_data(config("given", forget=same, pair_column="other"))
    for cell, found in ((None, "holds nothing"), (" ", "is empty"), (7, "holds int")):
        bad = lines(tmp_path / "bad.jsonl", [{"text": "a b", "other": cell}])
        with pytest.raises(UserError, match=f"line 1: column 'other' {found}"):
            check_data(config("given", forget=bad, pair_column="other"))


def test_a_pair_of_a_column_is_no_heldout_text(tmp_path: Path) -> None:
    forget = lines(tmp_path / "f.jsonl", [{"text": "a b", "other": "keep  9"}])
    pool = lines(tmp_path / "p.jsonl", [{"text": f"keep {row}"} for row in range(10)])
    asked = config("given", forget=forget, pair_column="other", pool=pool, heldout_rows=1)
    with pytest.raises(
        UserError, match=r"line 1: the pair in column 'other' is the held-out text 'pool-10' \(line 10\)"
    ):
        check_data(asked)
    heldout = lines(tmp_path / "h.jsonl", [{"text": "keep 9"}])
    with pytest.raises(UserError, match=r"is the held-out text 'heldout-1'"):
        check_data(config("given", forget=forget, pair_column="other", heldout=heldout))


def test_one_id_with_two_pairs_is_named(tmp_path: Path) -> None:
    for sample in (0, 1):
        lines(tmp_path / f"f{sample}.jsonl", [{"id": 5, "text": "a b", "other": f"c {sample}"}])
    asked = config("given", forget=str(tmp_path / "f{sample}.jsonl"), pair_column="other", id_column="id")
    with pytest.raises(
        UserError, match=r"data\.pair_column: .*f\{sample\}\.jsonl: id '5:pair' names two different texts"
    ):
        check_data(asked.model_copy(update={"samples": (0, 1)}))


def test_nothing_to_draw_from_is_refused(tmp_path: Path) -> None:
    forget = lines(tmp_path / "f.jsonl", [{"text": "a b"}])
    tree = {"name": "t", "storage": str(tmp_path), "models": [{"name": "m", "standin": {}}], "pairs": {"by": "random"}}
    tree |= {"data": {"source": "records", "forget": forget}, "filter": {"encoder": "bundled", "encoder_layer": 6}}
    with pytest.raises(UserError, match=r"data\.pool: methods icu pair each target with a row of the pool"):
        plan_sweep(resolve_config(tree, "t"))


def test_beside_a_prompt_the_column_holds_another_completion(tmp_path: Path) -> None:
    rows = [{"q": "Who?", "a": "Ada.", "idk": "I do not know."}, {"q": "Where?", "a": "Rome.", "idk": "Nowhere."}]
    asked = config(
        "given",
        forget=lines(tmp_path / "f.jsonl", rows),
        prompt_column="q",
        completion_column="a",
        template="question-answer",
        pair_column="idk",
    )
    begins = ("Question: Who?\nAnswer: ", "Question: Where?\nAnswer: ")
    assert texts_of_pairs(asked) == [
        (begins[0] + "Ada.", begins[0] + "I do not know."),
        (begins[1] + "Rome.", begins[1] + "Nowhere."),
    ]
    corpus = load_corpus(asked)
    pairs = corpus.sample(0)[1]
    assert pairs.boundaries is not None
    assert [text[:given].rstrip() for text, given in zip(pairs.texts, pairs.boundaries, strict=True)] == [
        begin.rstrip() for begin in begins
    ]


def test_beside_a_chat_the_column_holds_another_last_message(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    forget = lines(tmp_path / "f.jsonl", [{"messages": turns, "pair": "Nobody."}])
    corpus = load_corpus(config("given", forget=forget, messages_column="messages", pair_column="pair", system="Hm."))
    pairs = corpus.sample(0)[1]
    assert pairs.chats is not None
    said = [(turn["role"], turn["content"]) for turn in json.loads(pairs.chats[0])["messages"]]
    assert said == [("system", "Hm."), ("user", "Who?"), ("assistant", "Nobody.")]


FORGET = [{"id": n, "text": f"forget {n}"} for n in (1, 2)]
POOL = [{"id": n, "text": f"keep {n}"} for n in (7, 8, 9)]


def named(folder: Path, pairs: list[tuple[Any, Any]], ending: str = "jsonl") -> SweepConfig:
    file = folder / f"pairs.{ending}"
    if ending == "csv":
        file.write_text("target,pair\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    elif ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"target": [a for a, _ in pairs], "pair": [b for _, b in pairs]}), file)
    else:
        lines(file, [{"target": a, "pair": b} for a, b in pairs])
    data = {"forget": lines(folder / "f.jsonl", FORGET), "pool": lines(folder / "p.jsonl", POOL), "id_column": "id"}
    return config("file", {"file": str(file)}, **data)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_names_the_pair_of_each_target(tmp_path: Path, ending: str) -> None:
    asked = named(tmp_path, [(2, 9), (7, 8), (1, 9)], ending)
    assert texts_of_pairs(asked) == [("forget 1", "keep 9"), ("forget 2", "keep 9")]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(1, 7)], r"no pair for 1 of the 2 targets of sample 0: 2; expected one for each"),
        ([(1, 7), (2, 8), (1, 8)], r"target '1' appears twice, in line 1 and line 3"),
        ([(1, 7), (2, 1)], r"line 2: pair '1' of '2' is itself to be forgotten in sample 0"),
        ([(1, 7), (2, 70)], r"line 2: pair '70' of '2' is the id of no row of the data"),
        ([(1, 7), (20, 7)], r"no pair for 1 of the 2 targets of sample 0: 2; expected one for each"),
        ([(1, 7), (2, None)], r"line 2: column 'pair' holds nothing, expected the id of a row"),
        ([(1, 7), (2, 1.5)], r"line 2: column 'pair' holds float, expected the id of a row"),
    ],
)
def test_a_file_that_leaves_a_target_without_its_pair_is_refused(
    tmp_path: Path, pairs: list[tuple[Any, Any]], said: str
) -> None:
    with pytest.raises(UserError, match=rf"pairs\.file: .*pairs\.jsonl: {said}"):
        check_data(named(tmp_path, pairs))


def synthetic(file: Path, pairs: list[tuple[str, str]]) -> SweepConfig:
    lines(file, [{"target": a, "pair": b} for a, b in pairs])
    tree = {"name": "t", "models": [{"name": "m", "standin": {}}], "pairs": {"by": "file", "file": str(file)}}
    data = {"source": "synthetic", "records": 24, "sample_size": 4, "heldout": 1}
    return resolve_config({**tree, "data": data, "samples": [0, 1], "columns": COLUMNS.__dict__}, "t")


COLUMNS = Columns(48, 16, 32)


def test_one_file_serves_all_samples_and_enters_each_by_its_own_pairs(tmp_path: Path) -> None:
    plain = load_corpus(synthetic(tmp_path / "none.jsonl", []))
    every = sorted({int(row) for rows in plain.targets.values() for row in rows})
    free = [row for row in range(len(plain.rows)) if row not in every]
    ids = plain.rows.ids
    pairs = {row: free[number] for number, row in enumerate(every)}
    whole = check_data(synthetic(tmp_path / "a.jsonl", [(ids[a], ids[b]) for a, b in pairs.items()]))
    only_first = set(plain.targets[0].tolist()) - set(plain.targets[1].tolist())
    pairs[min(only_first)] = free[-1]
    other = check_data(synthetic(tmp_path / "b.jsonl", [(ids[a], ids[b]) for a, b in pairs.items()]))
    assert whole.samples[0].pairs != other.samples[0].pairs and whole.samples[1].pairs == other.samples[1].pairs
    assert whole.samples[1].pairs and whole.samples[0].fingerprint == other.samples[0].fingerprint


def test_known_pairs_need_no_encoder_and_report_shared_text(tmp_path: Path) -> None:
    from icu_ray.config import PairsConfig, SyntheticData
    from icu_ray.data.synthetic import load_synthetic

    corpus: Corpus = load_synthetic(
        SyntheticData(source="synthetic", records=24, sample_size=4, heldout=1), (0, 1), COLUMNS.length
    )
    asked = PairsConfig(by="random", encoder="/nowhere")
    chosen = {sample: corpus.pools[sample][np.resize(draw_pairs(0, 1, 4, 20), 8)] for sample in (0, 1)}
    store = Store(str(tmp_path / "store"))
    first, again = (
        find_pairs(corpus, (0, 1), asked, COLUMNS, own_columns=True, store=store, chosen=chosen) for _ in range(2)
    )
    for sample in (0, 1):
        found = first[sample]
        assert found.similarity is None and len(found) == 8 and found.target_ids[:4] == found.target_ids[4:]
        assert found.pair_rows.tolist() == chosen[sample].tolist() == again[sample].pair_rows.tolist()
        assert again[sample].similarity is None
        rows = {name: number for number, name in enumerate(corpus.rows.ids)}
        for target, row, overlap in zip(found.target_ids, found.pair_rows, found.ngram_overlap, strict=True):
            assert overlap == ngram_overlap(corpus.rows.texts[rows[target]].split(), corpus.rows.texts[row].split())
    files = list((tmp_path / "store").rglob("pairs.json"))
    assert len(files) == 2
    assert {entry["similarity"] for file in files for entry in json.loads(file.read_text())} == {None}
