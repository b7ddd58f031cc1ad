"""Data files that users hand in, damaged: every loader gives a value or says what is wrong.

Needs: nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import RecordsData, RowForm
from icu_ray.data.extraction import read_sample, read_tokens
from icu_ray.data.forms import written
from icu_ray.data.records import load_records, read_records
from icu_ray.evaluation.ratings.candidates import read_candidates
from icu_ray.evaluation.ratings.human import import_ratings, summarise_ratings
from icu_ray.evaluation.ratings.human_sheets import SheetRow
from icu_ray.evaluation.ratings.judge import Verdict, read_verdicts
from icu_ray.evaluation.ratings.judge_answers import read_answers
from icu_ray.evaluation.rows.read_mirror import read_csv, read_dialogues, read_jsonl
from icu_ray.evaluation.suites import Options, open_tasks
from icu_ray.metrics.scores import COLUMNS, normalised_scores
from icu_ray.services.probe import read_token_file
from icu_ray.services.score import read_score_table
from icu_ray.storage.results import to_json
from tests.support.evaluation_case import rows_of, write_mirror_rows
from tests.support.fuzz_case import JUNK, TEXTS, command, damaged, damaged_bytes, damaged_lines, fuzz, value_or_refusal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


ARRAYS = st.sampled_from(
    [
        npy(np.full((3, 200), 5, dtype=np.uint16)),
        npy(np.full((2, 8), 5, dtype=np.int64), (2, 0)),
        npy(np.zeros((2, 0))),
        npy(np.array(3)),
        npy(np.zeros((2, 2), dtype=[("a", "<i4"), ("b", "<U3")])),
        npy(np.asfortranarray(np.full((3, 200), 2, dtype=">u2"))),
    ]
)
HEADERS = st.tuples(
    st.sampled_from(["<u2", "|O", "<M8[s]", "|V0", "<f8", "x", "[('a', '|O')]", "<U99999999"]),
    st.sampled_from(["(3, 200)", "(-3, 200)", "(10**9, 200)", "(2**62, 2**62)", "(3,)", "()", "3", "(True, 200)"]),
    st.sampled_from(["False", "True", "None", "__import__('os').getpid()"]),
).map(
    lambda parts: (
        b"\x93NUMPY\x01\x00\xf6\x00"
        + f"{{'descr': '{parts[0]}', 'fortran_order': {parts[2]}, 'shape': {parts[1]}, }}".ljust(0xF5).encode()
        + b"\n"
        + bytes(1200)
    )
)


@fuzz(100)
@given(content=ARRAYS.flatmap(damaged_bytes) | HEADERS | st.binary(max_size=60))
def test_npy(folder: Path, content: bytes) -> None:
    path = folder / "tokens.npy"
    path.write_bytes(content)
    for load in (read_tokens, read_token_file):
        said = value_or_refusal(lambda load=load: load(path).max())  # type: ignore[misc]
        assert said is None or str(path) in said


ROWS = [{"id": f"r{n}", "text": f"text number {n}", "more": [n, None, {"a": 1.5}]} for n in range(4)]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(rows[0])
    writer.writerows([row.values() for row in rows])
    return file.getvalue().encode()


RECORDS = st.one_of(
    st.tuples(st.just(".jsonl"), damaged_lines(ROWS) | st.binary(max_size=60)),
    st.tuples(st.just(".csv"), damaged_bytes(as_csv(ROWS)) | st.binary(max_size=60)),
)


@fuzz(150)
@given(forget=RECORDS, pool=RECORDS, ids=st.booleans())
def test_records(folder: Path, forget: tuple[str, bytes], pool: tuple[str, bytes], ids: bool) -> None:
    paths = [folder / f"{name}{ending}" for name, (ending, _) in (("forget", forget), ("pool", pool))]
    for path, (_, content) in zip(paths, (forget, pool), strict=True):
        path.write_bytes(content)
        said = value_or_refusal(lambda path=path: read_records(path, RowForm(), "id" if ids else None, "k"))  # type: ignore[misc]
        assert said is None or said.startswith(f"k: {path}")
    data = RecordsData(source="records", forget=str(paths[0]), pool=str(paths[1]), id_column="id" if ids else None)
    value_or_refusal(lambda: load_records(data, [0]).fingerprint())
    value_or_refusal(lambda: read_candidates([str(paths[0])], "both", None, lambda line: None))


CHAT = [{"role": role, "content": "hello"} for role in ("system", "user", "assistant")]


@fuzz(150)
@given(value=damaged(CHAT))
def test_chats(value: Any) -> None:
    said = value_or_refusal(lambda: written(RowForm(messages="messages"), [value], "k: f"))
    assert said is None or said.startswith("k: f")


@fuzz(60)
@given(data=st.data())
def test_parquet(folder: Path, data: st.DataObject) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"id": [f"r{n}" for n in range(50)], "text": [f"text {n}" for n in range(50)]}), file)
    path = folder / "records.parquet"
    path.write_bytes(data.draw(damaged_bytes(file.getvalue())))
    value_or_refusal(lambda: read_records(path, RowForm(), "id", "k"))


SAMPLE = b'doc_id,corpus,text\n2,github,a\n3,wiki,"b, c"\n'


@fuzz(100)
@given(content=damaged_bytes(SAMPLE), corpora=st.none() | st.just(("github",)))
def test_sample_of_the_benchmark(folder: Path, content: bytes, corpora: tuple[str, ...] | None) -> None:
    path = folder / "sample.csv"
    path.write_bytes(content)
    value_or_refusal(lambda: read_sample(path, 30, corpora))


TABLE = ",".join(("row", *COLUMNS)).encode() + b"\na,1,2,3,4,5,6,7,>1000,9\nb,2,3,4,5,6,7,8,9,1e3\n"


@fuzz(100)
@given(content=damaged_bytes(TABLE))
def test_score_table(folder: Path, content: bytes) -> None:
    path = folder / "table.csv"
    path.write_bytes(content)
    value_or_refusal(lambda: normalised_scores(read_score_table(path)))
    command("score", str(path))


KEY = [SheetRow(f"x-1-{n:04d}", "rater-1", f"t/r{n}", "cell", "f" * 16).__dict__ for n in range(3)]
SHEET = b'row_id,prefix,reference,output,rating\nx-1-0000,a,b,c,3\nx-1-0001,a,b,c,\nx-1-0002,a,b,"c,\nd",8\n'
VERDICTS = [json.loads(to_json(Verdict(f"t/r{n}", "cell", f"r{n}", "f" * 16, n, None).__dict__)) for n in range(3)]


@fuzz(100)
@given(
    sheet=st.just(SHEET) | damaged_bytes(SHEET),
    key=st.just(b"".join(map(to_json, KEY))) | damaged_lines(KEY),
    kept=st.none() | damaged_lines([{"row_id": "x-1-0000", "rating": 3}]),
    verdicts=damaged_lines(VERDICTS),
)
def test_ratings(folder: Path, sheet: bytes, key: bytes, kept: bytes | None, verdicts: bytes) -> None:
    (folder / "key.jsonl").write_bytes(key)
    (folder / "ratings.jsonl").unlink(missing_ok=True)
    if kept is not None:
        (folder / "ratings.jsonl").write_bytes(kept)
    (folder / "sheet.csv").write_bytes(sheet)
    (folder / "judge.jsonl").write_bytes(verdicts)
    value_or_refusal(lambda: read_verdicts(str(folder / "judge.jsonl")))
    value_or_refusal(lambda: import_ratings(folder, [folder / "sheet.csv"]))
    value_or_refusal(lambda: summarise_ratings(folder, None))
    command("human", "import", str(folder), str(folder / "sheet.csv"), "--judge", str(folder / "judge.jsonl"))


ANSWER = {"text": "Final score: 3", "finish": "stop", "model": None, "input_tokens": 3, "output_tokens": 3}


@fuzz(60)
@given(content=damaged_lines([{"key": "k", "answer": ANSWER}, {"key": "l", "answer": ANSWER}]))
def test_answers_of_the_judge(folder: Path, content: bytes) -> None:
    (folder / "answers.jsonl").write_bytes(content)
    value_or_refusal(lambda: read_answers(folder / "answers.jsonl"))


@pytest.fixture(scope="module")
def mirror(folder: Path) -> Path:
    write_mirror_rows(folder / "mirror")
    return folder / "mirror"


MIRRORED = {
    **{name: (f"lm_eval/{name}.jsonl", rows) for name, rows in rows_of(3).items()},
}
TASKS = {"arc_easy_test": "arc_easy", "arc_challenge_test": "arc_challenge", "mathqa_test": "mathqa"}


@fuzz(100)
@given(data=st.data(), name=st.sampled_from(sorted(set(MIRRORED) - {"arc_easy", "arc_challenge", "mathqa"})))
def test_rows_of_a_mirror(mirror: Path, data: st.DataObject, name: str) -> None:
    file, rows = MIRRORED[name]
    path = mirror / file
    before = path.read_bytes()
    path.write_bytes(data.draw(damaged_lines(rows)))
    try:
        value_or_refusal(lambda: read_jsonl(path))
        for source in open_tasks([TASKS.get(name, name)], Options(mirror=mirror)):
            value_or_refusal(source.load)
    finally:
        path.write_bytes(before)


AUTHORS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "wow": ("wizard_of_wikipedia.json", read_dialogues),
    "pile_icu": ("pile.csv", lambda path: read_csv(path, ("text",))),
    "wikitext_rolling": ("wikitext.csv", lambda path: read_csv(path, ("text",))),
    "lambada_icu": ("lambada.csv", lambda path: read_csv(path, ("text",))),
    "pubmedqa_icu": ("pubmed_qa.csv", lambda path: read_csv(path, ("question",))),
}


@fuzz(100)
@given(data=st.data(), task=st.sampled_from(sorted(AUTHORS)))
def test_authors_files_of_a_mirror(mirror: Path, data: st.DataObject, task: str) -> None:
    name, read = AUTHORS[task]
    path = mirror / "validation" / name
    before = path.read_bytes()
    content = damaged_bytes(before)
    if name.endswith(".json"):
        content = content | damaged(json.loads(before)).map(lambda tree: json.dumps(tree).encode())
    path.write_bytes(data.draw(content | JUNK.map(lambda value: json.dumps(value).encode())))
    try:
        value_or_refusal(lambda: read(path))
        for source in open_tasks([task], Options(mirror=mirror)):
            value_or_refusal(source.load)
    finally:
        path.write_bytes(before)


@fuzz(20)
@given(names=st.lists(TEXTS, min_size=1, max_size=3))
def test_names_of_files(folder: Path, names: list[str]) -> None:
    """Whatever a user calls a file: never a traceback, and nothing is written for it."""
    given = [name for name in names if name.isprintable() and not name.startswith("-")] or ["x"]
    for arguments in (
        ["score", given[0]],
        ["report", given[0]],
        ["status", given[0]],
        ["sync", given[0]],
        ["plan", given[0]],
        ["probe", "--model", given[0], "--forget", given[-1]],
        ["judge", given[0], "--dry-run"],
        ["human", "import", given[0], given[-1]],
        ["data", "check", given[0]],
    ):
        command(*arguments)
