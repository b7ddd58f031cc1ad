"""A user's own records and the synthetic ones: what is read, what is refused, what is the same every time.

Needs: nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icu_ray.config import RowForm, SweepConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.records import read_records
from icu_ray.data.sources import check_data, load_corpus
from icu_ray.data.synthetic import make_records
from icu_ray.errors import UserError

TEXTS = ["plain", 'with "quotes", commas', "two\nlines", "ünïcode \U0001f600", "x" * 200_000]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def _config(samples: list[int] | None = None, **data: Any) -> SweepConfig:
    tree = {"name": "t", "models": [{"name": "m", "source": "x"}], "samples": samples or [0]}
    return resolve_config({**tree, "data": {"source": "records", **data}}, "test")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_three_formats_give_the_same_records(tmp_path: Path, kind: str, with_ids: bool) -> None:
    path = tmp_path / f"texts.{kind}"
    if kind == "jsonl":
        _jsonl(path, [{"key": 10 + n, "body": text} for n, text in enumerate(TEXTS)])
    elif kind == "csv":
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([["key", "body"], *([10 + n, text] for n, text in enumerate(TEXTS))])
    else:
        _parquet(path, {"key": [10 + n for n in range(len(TEXTS))], "body": TEXTS})
    records = read_records(path, RowForm("body"), "key" if with_ids else None, "data.forget", "forget")
    assert [record.text for record in records] == TEXTS
    expected = ["10", "11", "12", "13", "14"] if with_ids else [f"forget-{n}" for n in range(1, 6)]
    assert [record.id for record in records] == expected


def test_samples_pool_and_heldout(tmp_path: Path) -> None:
    for sample in (0, 1):
        _jsonl(tmp_path / f"f{sample}.jsonl", [{"text": f"secret {sample}.{n}"} for n in range(2)])
    _jsonl(tmp_path / "pool.jsonl", [{"text": f"other {n}"} for n in range(5)])
    _jsonl(tmp_path / "held.jsonl", [{"text": "held"}])
    files = {"pool": str(tmp_path / "pool.jsonl"), "heldout": str(tmp_path / "held.jsonl")}
    config = _config([0, 1], forget=str(tmp_path / "f{sample}.jsonl"), **files)
    corpus = load_corpus(config)
    targets, pool = corpus.sample(1)
    assert targets.ids == ("forget1-1", "forget1-2")
    assert targets.texts == ("secret 1.0", "secret 1.1")
    assert pool.texts == tuple(f"other {n}" for n in range(5))
    assert len(corpus.rows) == 9
    assert corpus.heldout is not None
    assert corpus.heldout.texts == ("held",)
    assert check_data(config) == corpus.check
    assert corpus.check.samples[0] == check_data(_config([0], forget=config.data.forget, **files)).samples[0]  # type: ignore[union-attr]


def test_the_first_rows_of_the_pool_once_held_out_ones_are_kept_out(tmp_path: Path) -> None:
    forget = _jsonl(tmp_path / "f.jsonl", [{"text": "a"}])
    pool = _jsonl(tmp_path / "p.jsonl", [{"text": f"keep {n}"} for n in range(9)])
    files = {"forget": str(forget), "pool": str(pool), "heldout_rows": 2}
    cut = load_corpus(_config(**files, pool_rows=4))
    assert cut.sample(0)[1].texts == tuple(f"keep {n}" for n in range(4))
    assert cut.heldout is not None and cut.heldout.texts == ("keep 7", "keep 8")
    assert cut.fingerprint() != load_corpus(_config(**files)).fingerprint()
    with pytest.raises(UserError, match=r"data\.pool_rows: 8 rows asked for, but only 7 can be taken from .*p\.jsonl"):
        load_corpus(_config(**files, pool_rows=8))


def test_what_is_held_out_is_not_in_the_pool_too(tmp_path: Path) -> None:
    """It would be trained on, and then asked as a text that was not."""
    forget = _jsonl(tmp_path / "f.jsonl", [{"text": "a"}])
    pool = _jsonl(tmp_path / "p.jsonl", [{"text": f"keep {n}"} for n in range(9)])
    held = _jsonl(tmp_path / "h.jsonl", [{"text": "held"}, *({"text": f" keep {n}\n"} for n in (1, 3, 4, 8))])
    config = _config(forget=str(forget), pool=str(pool), heldout=str(held))
    corpus = load_corpus(config)
    assert corpus.sample(0)[1].texts == tuple(f"keep {n}" for n in (0, 2, 5, 6, 7))
    assert corpus.heldout is not None and len(corpus.heldout) == 5
    (said,) = corpus.check.remarks
    assert said.startswith(
        f"4 rows of {pool} left out of the pool, for {held} has them too: 'pool-2' (line 2) is 'held"
    )
    assert said.endswith("'pool-5' (line 5) is 'heldout-4' (line 4) and 1 more.") and check_data(config) == corpus.check
    again = _jsonl(tmp_path / "q.jsonl", [{"text": "held"}])
    with pytest.raises(UserError, match=r"data\.heldout: .*h\.jsonl: each text of .*q\.jsonl is in it too"):
        load_corpus(_config(forget=str(forget), pool=str(again), heldout=str(held)))


def test_without_a_pool_only_methods_without_pairs_may_run(tmp_path: Path) -> None:
    check = check_data(_config(forget=str(_jsonl(tmp_path / "f.jsonl", [{"text": "a"}]))))
    assert check.samples[0].pool == 0
    check.require_pool([])
    with pytest.raises(UserError, match="methods icu pair each target"):
        check.require_pool(["icu"])


REFUSED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "missing": ("record.jsonl", b"", {"forget": "{dir}/records.jsonl"}, "no such file .did you mean 'record.j"),
    "unknown kind": ("f.txt", b"x", {}, "expected a file ending in .jsonl, .csv, .parquet"),
    "cut line": ("f.jsonl", b'{"text": "a"}\n{"text": "b', {}, "line 2: no JSON object.*cut short"),
    "no object": ("f.jsonl", b'{"text": "a"}\n[1]\n', {}, "line 2: found list"),
    "no column": ("f.jsonl", b'{"texts": "a"}\n', {}, "line 1: no column 'text' .did you mean 'texts'"),
    "a number": ("f.jsonl", b'{"text": 3}\n', {}, "line 1: column 'text' holds int, expected text"),
    "empty text": ("f.jsonl", b'{"text": "a"}\n{"text": " \\n"}\n', {}, "line 2: column 'text' is empty"),
    "half a character": ("f.jsonl", b'{"text": "a\\ud83d"}\n', {}, "line 1: .* half a character"),
    "no rows": ("f.jsonl", b"\n\n", {}, "holds no rows"),
    "bad bytes": ("f.jsonl", b'{"text": "\xff"}\n', {}, "line 1: no JSON object"),
    "broken id": ("f.jsonl", b'{"text":"a","i":"x\\ud800"}\n', {"id_column": "i"}, "holds half of a surrogate"),
    "same id": ("f.jsonl", b'{"text":"a","i":1}\n{"text":"b","i":1}\n', {"id_column": "i"}, "id '1' appears twice"),
    "no id": ("f.jsonl", b'{"text":"a","i":null}\n', {"id_column": "i"}, "line 1: id column 'i' holds nothing"),
    "csv column": ("f.csv", b"id,txt\n1,a\n", {}, "no column 'text' .did you mean 'txt'.*found id, txt"),
    "csv fields": ("f.csv", b"id,text\n1\n", {}, "line 2: found 1 fields, expected 2"),
    "csv quote": ("f.csv", b'id,text\n1,"a', {}, "no readable CSV.*cut short"),
    "csv empty": ("f.csv", b"id,text\n1,\n", {}, "line 2: column 'text' is empty"),
    "csv nothing": ("f.csv", b"", {}, "no column 'text'; found nothing"),
    "no parquet": ("f.parquet", b"PAR1 but no more", {}, "no readable parquet"),
    "parquet column": ("f.parquet", {"body": ["a"]}, {}, "no column 'text'.*found body"),
    "parquet null": ("f.parquet", {"text": ["a", None]}, {}, "row 2: column 'text' holds nothing"),
    "one file": ("f.jsonl", b'{"text":"a"}\n', {"samples": [0, 1]}, "one file for samples 0, 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_records_are_refused(tmp_path: Path, case: str) -> None:
    name, content, settings, message = REFUSED[case]
    path = tmp_path / name
    if isinstance(content, dict):
        _parquet(path, content)
    else:
        path.write_bytes(content)
    settings = dict(settings)
    forget = settings.pop("forget", str(path)).replace("{dir}", str(tmp_path))
    with pytest.raises(UserError, match=message):
        check_data(_config(settings.pop("samples", None), forget=forget, **settings))


LONG = "x" * 6_000_000
TWO = '[\n {"text": "a", "n": 1},\n {"text": "é;\\nb", "n": 2}\n]'
READ: dict[str, tuple[str, bytes]] = {
    "semicolons": ("f.csv", 'n;text\n1;a\n2;"é;\nb"\n'.encode()),
    "quoted semicolons": ("f.csv", '"n";"text"\r\n"1";"a"\r\n"2";"é;\nb"\r\n'.encode()),
    "tabs": ("f.csv", 'n\ttext\n1\ta\n2\t"é;\nb"\n'.encode()),
    "tsv": ("f.tsv", 'text\tn\na\t1\n"é;\nb"\t2\n'.encode()),
    "utf-16": ("f.csv", 'n;text\r\n1;a\r\n2;"é;\nb"\r\n'.encode("utf-16")),
    "utf-16 lines": ("f.jsonl", '{"text": "a"}\n{"text": "é;\\nb"}\n'.encode("utf-16")),
    "utf-32": ("f.csv", 'n,text\n1,a\n2,"é;\nb"\n'.encode("utf-32")),
    "CSV": ("f.CSV", 'n,text\n1,a\n2,"é;\nb"\n'.encode()),
    "JSONL": ("f.JSONL", '{"text": "a"}\n{"text": "é;\\nb"}\n'.encode()),
    "blank in the header": ("f.csv", 'n, text\n1, a\n2, "é;\nb"\n'.encode()),
    "blank behind a name": ("f.csv", 'n,text \n1,a\n2,"é;\nb"\n'.encode()),
    "blank lines first": ("f.csv", '\n\nn,text\n1,a\n2,"é;\nb"\n'.encode()),
    "array": ("f.json", TWO.encode()),
    "array in jsonl": ("f.jsonl", b"\xef\xbb\xbf" + TWO.encode()),
    "lines in json": ("f.json", '{"text": "a"}\n{"text": "é;\\nb"}\n'.encode()),
}


@pytest.mark.parametrize("case", READ)
def test_what_a_file_says_of_itself_is_believed(tmp_path: Path, case: str) -> None:
    name, content = READ[case]
    (tmp_path / name).write_bytes(content)
    assert [record.text for record in read_records(tmp_path / name, RowForm(), None, "k")] == ["a", "é;\nb"]


CAUSES: dict[str, tuple[str, bytes, str]] = {
    "semicolons": ("f.csv", b"id;body\n1;a\n", "no column 'text'; found id, body, separated by semicolons"),
    "tabs": ("f.csv", b"id\tbody\n1\ta\n", "separated by tabs"),
    "cp1252": ("f.csv", b"text\na\ncaf\xe9\n", "line 3: .*byte 0xe9 is not UTF-8, perhaps Windows-1252.*save"),
    "cp1252 lines": ("f.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "line 2: .*not UTF-8"),
    "utf-16 without mark": ("f.csv", "text\na\n".encode("utf-16-le"), "zero bytes: UTF-16 without its mark"),
    "half utf-16": ("f.csv", "text\na\n".encode("utf-16")[:-1], "no UTF-16, as its mark says"),
    "column twice": ("f.csv", b"text, text\na, b\n", "column 'text' appears 2 times"),
    "one object": ("f.json", b'{\n"text": "a"\n}', "one JSON object over several lines; expected an array"),
    "array cut short": ("f.json", b'[{"text": "a"},\n', "no JSON array.*cut short"),
    "no quotes": ("f.jsonl", b'{"text": "a"}\n{text: "b"}\n', "line 2: no JSON object .*property name"),
    "array of texts": ("f.json", b'["a", "b"]', "row 1: found str, expected an object"),
    "quote": ("f.csv", b'id,text\n1,"a" b\n', "no readable CSV"),
    "long": ("f.jsonl", ('{"text": "' + LONG + '"}').encode(), "line 1: column 'text' holds 6,000,000 characters"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_refusal_names_the_cause(tmp_path: Path, case: str) -> None:
    name, content, message = CAUSES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_records(tmp_path / name, RowForm(), None, "k")
    assert "\n" not in str(refused.value)
    assert case in ("half utf-16", "array cut short") or "cut short" not in str(refused.value)


@pytest.mark.parametrize("rows", [["a", "x" * 10**8], ["x" * 10**6] * 100], ids=["one long text", "one text often"])
def test_a_small_parquet_may_not_hold_a_large_text(tmp_path: Path, rows: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"text": rows, "id": list(range(len(rows)))}), path, compression="zstd")
    assert path.stat().st_size < 30_000
    with pytest.raises(UserError, match=r"f\.parquet: [\d,]+ bytes unpack to [\d,]+ or more, expected at most 67,"):
        read_records(path, RowForm(), "id", "k")


def test_line_ends_and_blanks_make_no_other_text(tmp_path: Path) -> None:
    forget = _jsonl(tmp_path / "f.jsonl", [{"text": "Anna lives\nat 12 Hill Road"}])
    rows = [{"text": "another"}, {"text": " Anna lives\r\nat  12 Hill\u00a0Road\n"}, {"text": "a third"}]
    pool = _jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(UserError, match=r"1 rows to forget .* are in it too: 'forget-1' \(line 1\) is 'pool-2'"):
        check_data(_config(forget=str(forget), pool=str(pool)))
    with pytest.raises(UserError, match="the same text appears twice: 'forget-1'"):
        check_data(_config(forget=str(_jsonl(tmp_path / "twice.jsonl", [{"text": "a  b"}, {"text": "a b\n"}]))))


def test_a_parquet_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "f.parquet", {"text": [f"text {n} {'lorem ' * n}" for n in range(50)]})
    whole = path.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"f\.parquet: no readable parquet"):
            check_data(_config(forget=str(path)))
    holed = whole[: len(whole) // 4] + bytes(len(whole) // 4) + whole[len(whole) // 2 :]
    path.write_bytes(holed)
    with pytest.raises(UserError, match=r"f\.parquet"):
        check_data(_config(forget=str(path)))


def test_rows_to_forget_are_refused_in_the_pool(tmp_path: Path) -> None:
    forget = _jsonl(tmp_path / "f.jsonl", [{"text": "a"}, {"text": "b"}])
    pool = _jsonl(tmp_path / "p.jsonl", [{"text": "c"}, {"text": "b"}, {"text": "d"}])
    with pytest.raises(UserError, match=r"p.jsonl: 1 rows to forget .*'forget-2' \(line 2\) is 'pool-2' \(line 2\)"):
        check_data(_config(forget=str(forget), pool=str(pool)))


def test_a_sample_larger_than_its_pool_is_refused(tmp_path: Path) -> None:
    forget = _jsonl(tmp_path / "f.jsonl", [{"text": "a"}, {"text": "b"}])
    pool = _jsonl(tmp_path / "p.jsonl", [{"text": "c"}])
    with pytest.raises(UserError, match="forget sample 0 has 2 rows, its pool only 1"):
        check_data(_config(forget=str(forget), pool=str(pool)))


def test_source_columns_need_token_rows(tmp_path: Path) -> None:
    tree = {"name": "t", "models": [{"name": "m", "source": "x"}], "tokens": {"columns_of": "source"}}
    config = resolve_config({**tree, "data": {"source": "synthetic"}}, "test")
    with pytest.raises(UserError, match=r"tokens\.columns_of"):
        check_data(config)


def _synthetic(**data: Any) -> SweepConfig:
    columns = {"length": 128, "prefix_start": 64, "suffix_start": 96}
    tree = {"name": "t", "models": [{"name": "m", "standin": {}}], "samples": [0, 1], "columns": columns}
    return resolve_config({**tree, "data": {"source": "synthetic", **data}}, "test")


def test_a_record_depends_on_its_seed_and_number_alone() -> None:
    records = make_records(0, 0, 40, 128)
    assert records[7:9] == make_records(0, 7, 9, 128)
    assert len(set(records)) == 40
    assert not set(records) & set(make_records(1, 0, 40, 128))
    code = "from icu_ray.data.synthetic import make_records; print(repr(make_records(0, 0, 40, 128)))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == repr(records)


def test_records_fill_a_row_of_a_small_vocabulary() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    start = time.process_time()
    records = make_records(3, 0, 512, 128)
    assert time.process_time() - start < 2.0
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(records, trainer)
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(records)]
    assert min(lengths) >= 128
    assert np.mean(lengths) < 180


def test_synthetic_samples_are_drawn_from_one_world() -> None:
    config = _synthetic(records=60, sample_size=10, heldout=5)
    corpus = load_corpus(config)
    first, second = corpus.sample(0)[0], corpus.sample(1)[0]
    assert len(first) == 10
    assert first.ids != second.ids
    assert len(corpus.rows) == 60
    assert set(first.ids).isdisjoint(corpus.sample(0)[1].ids)
    assert len(corpus.sample(0)[1]) == 50
    assert corpus.heldout is not None
    assert len(corpus.heldout) == 5
    assert set(corpus.heldout.texts).isdisjoint(corpus.rows.texts)
    assert check_data(config) == load_corpus(config).check
    assert check_data(_synthetic(records=60, sample_size=10, heldout=5, seed=1)) != corpus.check
    with pytest.raises(UserError, match="sample of 31 rows is larger than its pool"):
        check_data(_synthetic(records=60, sample_size=31))


def test_checking_loads_no_model_library_and_no_ray() -> None:
    code = (
        "import sys; from icu_ray.config.file import resolve_config; from icu_ray.data.sources import check_data\n"
        "model = {'name': 'm', 'standin': {}}\n"
        "check_data(resolve_config({'name': 't', 'models': [model], 'data': {'source': 'synthetic'}}, 'test'))\n"
        "import icu_ray.storage.store, icu_ray.data.tokens, icu_ray.data.pairing\n"
        "print(*sorted({'torch', 'ray', 'transformers', 'faiss', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""
