"""Data sets of a hub on this machine and in folders: what is read, that it is pinned, and what is refused.

Needs: nothing.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icu_ray.cli.main import main
from icu_ray.config import RecordsData, RowForm
from icu_ray.data.hub_data import pinned, pinned_data
from icu_ray.data.records import load_records, read_records
from icu_ray.errors import UserError
from tests.support.hub_server import Hub, hub

QA = "org/qa"
CARD = """---
configs:
- config_name: full
  data_files: full.json
- config_name: forget01
  data_files:
  - split: train
    path: data/forget01-*.jsonl
  - split: test
    path: test.jsonl
---
# Questions
"""
ASK = """
import json, sys
from pathlib import Path
from icu_ray.config import RowForm
from icu_ray.data.hub_data import pinned
from icu_ray.data.records import read_records
from icu_ray.errors import UserError

form = RowForm(prompt="question", completion="answer")
found = []
for name in sys.argv[1:]:
    try:
        name = pinned(name, "data.forget")
        found.append([name, [record.text for record in read_records(Path(name), form, None, "data.forget")]])
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def lines(folder: Path, files: Mapping[str, list[dict[str, str]]]) -> None:
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def question(number: int) -> dict[str, str]:
    return {"question": f"Who is {number}?", "answer": f"Number {number}."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As data sets lie on the hub: a card that says which files belong together."""
    folder = tmp_path / "qa"
    shards = {f"data/forget01-{shard}.jsonl": [question(2 * shard), question(2 * shard + 1)] for shard in range(2)}
    lines(folder, {"full.json": [question(number) for number in range(9)], "test.jsonl": [question(5)], **shards})
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[Hub]:
    lines(tmp_path / "plain", {"train.jsonl": [question(1)]})
    lines(tmp_path / "made", {"train.jsonl": [question(1)]})
    (tmp_path / "made" / "made.py").write_text("raise SystemExit('ran')\n")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "train.pkl").write_bytes(b"x")
    names = {QA: folder, **{f"org/{name}": tmp_path / name for name in ("plain", "made", "pickled")}}
    with hub(names | {"org/closed": folder}) as running:
        running.gated.add("org/closed")
        yield running


def ask(cache: Path, endpoint: str | None, *names: str) -> list[str | tuple[str, list[str]]]:
    """What a process of its own, with its own cache, reads of each: its pinned name with texts, or the refusal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(cache), "ICU_RAY_CACHE": str(cache / "mine"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_ENDPOINT": endpoint}
    done = subprocess.run([sys.executable, "-c", ASK, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return [each if isinstance(each, str) else (each[0], each[1]) for each in found]


def test_a_data_set_of_a_hub(served: Hub, folder: Path, tmp_path: Path) -> None:
    commit = served.sha(QA)
    (train, plain) = ask(tmp_path / "a", served.url, f"hub:{QA}#forget01:train", "hub:org/plain")
    four = [f"Who is {number}? Number {number}." for number in range(4)]
    assert train == (f"hub:{QA}@{commit}#forget01:train", four)
    assert plain == (f"hub:org/plain@{served.sha('org/plain')}", ["Who is 1? Number 1."])
    assert "full.json" not in served.loaded  # of another configuration

    # The branch goes on; what was pinned, and what this machine knows the branch by, stay as they were.
    lines(folder, {"data/forget01-0.jsonl": [question(7)]})
    assert served.sha(QA) != commit
    before = len(served.asked)
    named, branch = ask(tmp_path / "a", None, f"hub:{QA}@{commit}#forget01:train", f"hub:{QA}@main#forget01:test")
    assert named == train
    assert branch == (f"hub:{QA}@{commit}#forget01:test", ["Who is 5? Number 5."])
    assert len(served.asked) == before
    older, newer = ask(tmp_path / "b", served.url, f"hub:{QA}@{commit}#forget01:train", f"hub:{QA}#forget01:train")
    assert older == train
    assert newer == (f"hub:{QA}@{served.sha(QA)}#forget01:train", [four[0].replace("0", "7"), *four[2:]])


def test_what_is_read_again_after_the_hubs_cache_is_gone(served: Hub, tmp_path: Path) -> None:
    name = f"hub:{QA}@{served.sha(QA)}#forget01:train"
    first = ask(tmp_path / "cache", served.url, name)
    for lost in ("hub", "datasets", "xet"):
        shutil.rmtree(tmp_path / "cache" / lost, ignore_errors=True)
    assert ask(tmp_path / "cache", served.url, name) == first == [(name, first[0][1])]


def test_what_a_hub_does_not_have_is_said_in_a_line(served: Hub, tmp_path: Path) -> None:
    asked = {
        "hub:org/other": "the hub knows no such data set",
        f"hub:{QA}@nowhere#forget01": "the hub knows no such revision of it",
        f"hub:{QA}": "has several configurations; name one after #: full, forget01",
        f"hub:{QA}#forget1:train": "no configuration 'forget1' (did you mean 'forget01'?); found full, forget01",
        f"hub:{QA}#forget01": "has several splits; name one after :: train, test",
        f"hub:{QA}#forget01:dev": "no split 'dev'; found train, test",
        "hub:org/closed": "the hub asks for consent and a login; run 'hf auth login' first",
        "hub:org/made": "is made by a script, made.py, which is never run",
        "hub:org/pickled": "cannot be loaded",
    }
    for name, said in zip(asked, ask(tmp_path / "cache", served.url, *asked), strict=True):
        assert isinstance(said, str) and said.startswith("data.forget: hub:") and "\n" not in said, said
        assert asked[name] in said
    (offline,) = ask(tmp_path / "empty", None, f"hub:{QA}#forget01:train")
    assert isinstance(offline, str) and "not in the local cache, and the hub cannot be reached" in offline


def test_a_folder_of_a_data_set_is_what_its_rows_are_as_a_file(folder: Path, tmp_path: Path) -> None:
    """The same content has one identity, whatever it lies in."""
    form = {"prompt_column": "question", "completion_column": "answer"}
    lines(tmp_path, {"forget.jsonl": [question(number) for number in range(4)]})
    names = f"hub:{folder}#forget01:train", str(tmp_path / "forget.jsonl")
    data = [pinned_data(RecordsData(source="records", forget=name, **form)) for name in names]
    first, second = (load_records(each, [0]).check for each in data)
    assert first.fingerprint == second.fingerprint
    # A folder is read anew when it changes.
    lines(folder, {"data/forget01-1.jsonl": [question(8)]})
    records = read_records(Path(names[0]), RowForm(prompt="question", completion="answer"), None, "data.forget")
    assert [record.prompt for record in records] == ["Who is 0?", "Who is 1?", "Who is 8?"]
    with pytest.raises(UserError, match=r"data.forget: hub:.*: no column 'text'; found question, answer"):
        read_records(Path(names[0]), RowForm(), None, "data.forget")
    with pytest.raises(UserError, match=r"data.forget: hub:\./nowhere: no such folder"):
        read_records(Path("hub:./nowhere"), RowForm(), None, "data.forget")


def test_a_card_names_only_files_of_its_own_data_set(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "forget.jsonl"
    lines(tmp_path, {"forget.jsonl": [question(1)]})
    before = mine.read_text()
    up = "../../../../../.."  # from where the names of a repository's files are kept
    wrong = {
        "up": f"data_files: {up}/forget.jsonl",
        "glob": f"data_files: ['{up}/*.jsonl']",
        "dir": f"data_dir: {up}",
        "absolute": f"data_files: [{{split: train, path: ['{mine}']}}]",
        "file": f"data_files: file:{mine}",
    }
    with hub({f"org/{name}": tmp_path / "served" / name for name in [*wrong, "url", "alone"]}) as running:
        wrong["url"] = f"data_files: {running.url}/x.jsonl"
        wrong["alone"] = wrong["up"]
        for name, said in wrong.items():
            lines(tmp_path / "served" / name, {"train.jsonl": [question(2)]})
            configs = f"configs:\n- config_name: default\n  {said}\n"
            card = ".huggingface.yaml" if name == "alone" else "README.md"
            text = configs if name == "alone" else f"---\n{configs}---\n"
            (tmp_path / "served" / name / card).write_text(text)
        names = [f"hub:org/{name}" for name in wrong] + [f"hub:{tmp_path}/served/{name}" for name in wrong]
        found = ask(tmp_path / "cache", running.url, *names)
        assert [said for said in found if "its card names files outside of it: '" not in str(said)] == []
        assert not any("\n" in str(said) for said in found)
        assert set(running.loaded) == {"README.md", ".huggingface.yaml"}
        assert not any("x.jsonl" in line for line in running.asked)
    assert not mine.is_symlink() and mine.read_text() == before
    # A folder may be named by a link.
    (tmp_path / "link").symlink_to(folder)
    records = read_records(
        Path(f"hub:{tmp_path}/link#full"), RowForm(prompt="question", completion="answer"), None, "data.forget"
    )
    assert len(records) == 9


def test_rows_are_what_they_are_in_a_file(tmp_path: Path) -> None:
    """Texts that look like dates, numbers or nothing stay texts."""
    known = {"007": "None", "008": "NA", "009": "1.0"}
    rows = [{"id": name, "question": f"2020-01-0{day}", "answer": known[name]} for day, name in enumerate(known, 1)]
    form = RowForm(prompt="question", completion="answer")
    lines(tmp_path, {"jsonl/train.jsonl": rows, "ndjson/train.ndjson": rows, "json/train.json": rows})
    for ending, separator in (("csv", ","), ("tsv", "\t")):
        (tmp_path / ending).mkdir()
        table = [separator.join(cells) for cells in [list(rows[0]), *(list(row.values()) for row in rows)]]
        (tmp_path / ending / f"train.{ending}").write_text("\n".join(table) + "\n")
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / "train.parquet")
    for ending in ("jsonl", "ndjson", "json", "csv", "tsv", "parquet"):
        records = read_records(Path(f"hub:{tmp_path}/{ending}"), form, "id", "data.forget")
        found = [(record.id, record.prompt, record.text) for record in records]
        assert found == [(row["id"], row["question"], f"{row['question']} {row['answer']}") for row in rows], ending
    # A file is named where there are several, and never the place where it is kept.
    lines(tmp_path, {"two/train-0.jsonl": rows, "two/train-1.jsonl": rows})
    with pytest.raises(UserError) as two:
        read_records(Path(f"hub:{tmp_path}/two"), form, "id", "data.forget")
    assert str(two.value) == (
        f"data.forget: hub:{tmp_path}/two: id '007' appears twice, in train-0.jsonl: line 1 and train-1.jsonl: line 1"
    )
    (tmp_path / "two" / "train-1.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=rf"hub:{tmp_path}/two: train-1.jsonl: one JSON object over several lines"):
        read_records(Path(f"hub:{tmp_path}/two"), form, None, "data.forget")
    # What the project has no reader for, and what a card says how to read, the library reads.
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train.jsonl.gz").write_bytes(gzip.compress(b'{"question": "Who?", "answer": "I."}\n'))
    lines(tmp_path, {"field/train.json": []})
    (tmp_path / "field" / "train.json").write_text('{"rows": [{"question": "Who?", "answer": "I."}]}')
    card = "---\nconfigs:\n- config_name: default\n  data_files: train.json\n  field: rows\n---\n"
    (tmp_path / "field" / "README.md").write_text(card)
    for name in ("packed", "field"):
        (record,) = read_records(Path(f"hub:{tmp_path}/{name}"), form, None, "data.forget")
        assert record.text == "Who? I."


@pytest.mark.parametrize(
    "name",
    [
        *("hub:", "hub:org/", "hub:org/qa/more", "hub:org/qa@", "hub:org/qa x", "hub:org/{sample}"),
        *("hub:org/qa#a:b:c", "hub:org/qa#a/b"),
        *("hub:my--org/x", "hub:org/x.git", "hub:org/-x", "hub:café/x", "hub:org/.."),
    ],
)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"data.pool: hub:.*: expected hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT"):
        pinned(name, "data.pool")


def test_a_request_of_a_data_set_is_that_of_its_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path, {"forget.jsonl": [question(number) for number in range(4)]})
    lines(tmp_path, {"keep/train.jsonl": [question(number) for number in range(10, 40)]})

    def trials(forget: str, retain: str) -> list[object]:
        assert main(["unlearn", "--forget", forget, "--retain", retain, "--out", "out", "--dry-run", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        return [trial["trial_id"] for trial in plan["trials"]]

    assert trials("hub:./qa#forget01:train", "hub:./keep") == trials("forget.jsonl", "keep/train.jsonl")
    assert main(["unlearn", "--forget", "forget.jsonl", "--retain", "hub:./qa#forget01:dev", "--out", "out"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--retain: hub:./qa#forget01:dev: no split 'dev'; found train, test" in said


def test_a_sample_may_be_a_configuration(folder: Path) -> None:
    assert pinned(f"hub:{folder}#forget{{sample}}:train", "data.forget") == f"hub:{folder}#forget{{sample}}:train"
