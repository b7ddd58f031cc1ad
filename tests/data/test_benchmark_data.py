"""Sections of the field's benchmarks: the files they stand for, how they are written out, pinned, and refused.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from icu_ray.cli.main import main
from icu_ray.config import MuseData, RecordsData, RwkuData, SweepConfig, TofuData, WmdpData
from icu_ray.config.benchmarks import COMMITS
from icu_ray.config.file import resolve_config
from icu_ray.data.hub_data import pinned_data
from icu_ray.data.sources import load_corpus
from icu_ray.errors import UserError
from tests.support.benchmark_case import on_hub, tofu_folder, with_hub, write_lines
from tests.support.hub_server import hub

SYSTEM = "You are a helpful assistant."
ASK = """
import json, sys
from icu_ray.config.file import resolve_config
from icu_ray.data.hub_data import pinned_data
from icu_ray.data.sources import load_corpus

tree = {"name": "t", "models": [{"name": "m", "source": "org/model"}], "data": json.loads(sys.argv[1])}
config = resolve_config(tree, "t")
config = config.model_copy(update={"data": pinned_data(config.data)})
corpus = load_corpus(config)
written = config.model_dump(mode="json")
again = resolve_config(written, "again")
same = load_corpus(again).check == corpus.check
print(json.dumps([written["data"], config.data.forget, len(corpus.targets[0]), len(corpus.pools[0]), same]))
"""


def config(data: dict[str, Any], **more: Any) -> SweepConfig:
    return resolve_config({"name": "t", "models": [{"name": "m", "source": "org/model"}], "data": data, **more}, "t")


def records(data: dict[str, Any]) -> RecordsData:
    found = config(data).data
    assert isinstance(found, RecordsData)
    return found


def test_tofu_is_records_of_the_hub_or_a_folder(tmp_path: Path) -> None:
    from_hub = records({"source": "tofu", "split": "forget05", "revision": "abc"})
    assert from_hub.forget == "hub:locuslab/TOFU@abc#forget05" and from_hub.pool == "hub:locuslab/TOFU@abc#retain95"
    form = from_hub.form
    assert (form.prompt, form.completion, form.template, form.system) == ("question", "answer", "chat", SYSTEM)
    assert form.date == "2025-04-10"
    wrong = records({"source": "tofu", "split": "forget05", "revision": "abc", "wrong_answers": True})
    assert wrong.forget == "hub:locuslab/TOFU@abc#forget05_perturbed" and wrong.pool == from_hub.pool
    assert (from_hub.alternates_column, wrong.alternates_column) == (None, "perturbed_answer")
    files = records({"source": "tofu", "split": "forget01", "folder": f"{tmp_path}/"})
    assert files.forget == str(tmp_path / "forget01.json") and files.pool == str(tmp_path / "retain99.json")
    tags = records({"source": "tofu", "split": "forget10", "template": "question-answer", "tags": ["Q", "A"]})
    assert tags.form.tags == ("Q", "A") and tags.form.system is None
    assert records({"source": "tofu", "split": "forget10", "system": None}).form.system is None


def test_the_other_benchmarks_are_texts_of_the_hub_or_a_folder() -> None:
    muse = records({"source": "muse", "split": "books"})
    assert (muse.forget, muse.pool) == (
        f"hub:muse-bench/MUSE-Books@{COMMITS['muse-bench/MUSE-Books']}#raw:forget",
        f"hub:muse-bench/MUSE-Books@{COMMITS['muse-bench/MUSE-Books']}#raw:retain1",
    )
    assert not muse.prompted and muse.form.columns == ("text",)
    assert records({"source": "muse", "split": "news", "folder": "f"}).pool == "f/news/raw/retain1.jsonl"
    fold = records({"source": "muse", "split": "news", "fold": "sust_3", "revision": "v1"})
    assert fold.forget == "hub:muse-bench/MUSE-News@v1#sust:forget_3" and fold.pool is not None
    assert fold.pool.endswith("#raw:retain1")
    fold = records({"source": "muse", "split": "news", "fold": "scal_1", "folder": "f", "pieces": 2048})
    assert (fold.forget, fold.pool) == ("f/news/scal/forget_1-2048.jsonl", "f/news/raw/retain1-2048.jsonl")
    wmdp = records({"source": "wmdp", "split": "cyber", "revision": "v1", "pool_rows": 9})
    assert wmdp.forget == "hub:cais/wmdp-corpora@v1#cyber-forget-corpus" and wmdp.pool_rows == 9
    assert records({"source": "wmdp", "split": "bio", "folder": "f"}).forget == "f/bio-forget-corpus.jsonl"
    rwku = {"source": "rwku", "subject": "1_Stephen_King", "folder": "f"}
    assert records(rwku).forget == "f/1_Stephen_King/positive.json" and records(rwku).pool is None
    phi = records({**rwku, "corpus": "phi3", "pool": "keep.jsonl"})
    assert (phi.forget, phi.pool) == ("f/1_Stephen_King/positive_phi.json", "keep.jsonl")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"source": "tofu", "split": "forget01", "folder": "f", "heldout_rows": 3}, TofuData),
        ({"source": "tofu", "split": "forget01", "template": "question-answer"}, TofuData),
        ({"source": "muse", "split": "news", "revision": "abc"}, MuseData),
        ({"source": "muse", "split": "news", "fold": "scal_4"}, MuseData),
        ({"source": "wmdp", "split": "bio", "folder": "f"}, WmdpData),
        ({"source": "rwku", "subject": "1_Stephen_King", "folder": "f"}, RwkuData),
    ],
)
def test_a_config_writes_out_the_section_and_reads_it_again(data: dict[str, Any], kind: type) -> None:
    made = config(data)
    written = made.model_dump(mode="json")
    assert isinstance(made.data, RecordsData) and isinstance(made.data.benchmark, kind)
    assert data.items() <= written["data"].items()
    again = resolve_config(written, "again")
    assert again == made and again.model_dump(mode="json") == written
    # A user's own texts are written as ever.
    own = config({"source": "records", "forget": "f.jsonl"})
    assert own.model_dump(mode="json")["data"]["source"] == "records" and records({"source": "records", "forget": "f"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"source": "tofu", "split": "forget11"},
            "t: data.split: expected 'forget01', 'forget05' or 'forget10', found \"forget11\" (did you mean 'forget1",
        ),
        ({"source": "tofu"}, "data.split: required, and missing"),
        ({"source": "tofu", "split": "forget01", "file": "x"}, "data.file: unknown key"),
        ({"source": "tofu", "split": "forget01", "tags": ["a", "b"]}, "data: 'tags' is for template question-answer"),
        (
            {"source": "tofu", "split": "forget01", "system": "Be.", "template": "question-answer"},
            "data: 'system' is for template chat",
        ),
        ({"source": "tofu", "split": "forget01", "revision": "a b"}, "data.revision: "),
        (
            {"source": "muse", "split": "new"},
            "data.split: expected 'news' or 'books', found \"new\" (did you mean 'news'",
        ),
        ({"source": "muse", "split": "books", "fold": "sust_1"}, "data: fold=sust_1 is for split news, found books"),
        (
            {"source": "muse", "split": "news", "fold": "sust_5"},
            "data.fold: expected 'scal_1', 'scal_2', 'scal_3', 'scal_4', 'sust_1'",
        ),
        (
            {"source": "wmdp", "split": "bio"},
            "data: split bio: its authors give bio-forget-corpus.jsonl to those who ask",
        ),
        ({"source": "rwku", "subject": "x"}, "data.folder: required, and missing"),
        ({"source": "rwku", "subject": "a/b", "folder": "f"}, "data.subject: "),
        ({"source": "tofo", "split": "forget01"}, "'muse', 'wmdp', 'rwku', found 'tofo'"),
        ({"split": "forget01"}, "source is missing; expected 'synthetic', 'extraction', 'records', 'tofu'"),
    ],
)
def test_what_is_no_section_of_a_benchmark_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        config(data)


def test_a_section_alone_is_checked_too() -> None:
    with pytest.raises(ValidationError):
        WmdpData(source="wmdp", split="bio")
    assert TofuData(source="tofu", split="forget01").as_records().benchmark is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"source": "tofu", "split": "forget10"},
            "Without a network set data.folder=FOLDER, a folder with its files; 'icu-ray data fetch tofu --out FOLDER' "
            "gets them from the hub",
        ),
        (
            {"source": "wmdp", "split": "cyber"},
            "Without a network set data.folder=FOLDER, a folder with its files; access must be asked for: ",
        ),
        (
            {"source": "records", "forget": "hub:org/nowhere"},
            "Without a network give a folder, as hub:./FOLDER, or a file",
        ),
    ],
)
def test_without_a_network_the_own_key_is_named(
    data: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # A commit needs no hub, but the files do.
    branch = {} if data["source"] == "records" else {"revision": "main"}
    for work in (lambda: pinned_data(records({**data, **branch})), lambda: load_corpus(config(data))):
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            work()
        assert ("hub:./FOLDER" in str(refused.value)) == (data["source"] == "records")


def test_rows_of_a_folder(tmp_path: Path) -> None:
    tofu_folder(tmp_path / "tofu")
    corpus = load_corpus(config({"source": "tofu", "split": "forget01", "folder": str(tmp_path / "tofu")}))
    assert len(corpus.targets[0]) == len(corpus.pools[0]) == 6
    assert corpus.rows.chats is not None and SYSTEM in corpus.rows.chats[0]
    assert corpus.rows.texts[0] == "question 0 of forget01? answer 0 of forget01?"
    # RWKU's own files hold one array.
    person = tmp_path / "rwku" / "1_Ada"
    person.mkdir(parents=True)
    (person / "positive.json").write_text(json.dumps([{"subject": "Ada", "text": "Ada wrote."}], indent=4))
    rwku = load_corpus(config({"source": "rwku", "subject": "1_Ada", "folder": str(tmp_path / "rwku")}))
    assert rwku.rows.texts == ("Ada wrote.",)
    for name in ("forget", "retain1"):
        write_lines(tmp_path / "muse" / "news" / "raw" / f"{name}.jsonl", [{"text": f"{name} is news."}])
    muse = load_corpus(config({"source": "muse", "split": "news", "folder": str(tmp_path / "muse")}))
    assert muse.rows.texts == ("forget is news.", "retain1 is news.")


def test_files_that_are_not_there_are_named_with_what_gets_them(tmp_path: Path, capsys: Any) -> None:
    folder = tofu_folder(tmp_path / "tofu")
    (folder / "retain99.json").unlink()
    with pytest.raises(UserError) as refused:
        load_corpus(config({"source": "tofu", "split": "forget01", "folder": str(folder)}))
    assert str(refused.value) == (
        f"data.folder: {folder}: it lacks retain99.json (did you mean 'retain95.json'?); data.source=tofu reads "
        f"forget01.json, retain99.json there; 'icu-ray data fetch tofu --out {folder}' gets them from the hub"
    )
    with pytest.raises(UserError, match=r"nowhere: there is no such folder; data\.source=muse reads news/raw/forget"):
        load_corpus(config({"source": "muse", "split": "news", "folder": str(tmp_path / "nowhere")}))
    (tmp_path / "rwku" / "1_Stephen_King").mkdir(parents=True)
    rwku = {"source": "rwku", "subject": "Stephen King", "folder": str(tmp_path / "rwku")}
    with pytest.raises(UserError, match=r"it lacks Stephen King/positive\.json \(did you mean '1_Stephen_King'"):
        load_corpus(config(rwku))
    with pytest.raises(UserError, match="access must be asked for: the hub's cais/wmdp-corpora"):
        load_corpus(config({"source": "wmdp", "split": "cyber", "folder": str(tmp_path)}))
    file = tmp_path / "c.yaml"
    file.write_text(
        f"name: t\nmodels: [{{name: m, source: org/m}}]\ndata: {{source: tofu, split: forget01, folder: {tmp_path}}}"
    )
    assert main(["data", "check", str(file)]) == 2
    assert "it lacks forget01.json, retain99.json" in capsys.readouterr().err


def test_a_plain_folder_is_as_it_is() -> None:
    data = records({"source": "tofu", "split": "forget01", "folder": "f"})
    assert pinned_data(data) is data


def test_the_hub_s_commit_is_written_out(tmp_path: Path) -> None:
    with hub(on_hub(tmp_path / "hub", "tofu")) as running:
        done = with_hub(
            tmp_path / "cache", running.url, "-c", ASK, '{"source": "tofu", "split": "forget01", "revision": "main"}'
        )
        assert done.returncode == 0, done.stderr
        written, forget, targets, pool, same = json.loads(done.stdout.splitlines()[-1])
        commit = running.sha("locuslab/TOFU")
    assert written["source"] == "tofu" and written["revision"] == commit
    assert forget == f"hub:locuslab/TOFU@{commit}#forget01"
    assert (targets, pool, same) == (40, 3960, True)


def test_the_real_rows(shared: Path) -> None:
    folder = str(shared / "data" / "tofu")
    for split, targets, kept in (("forget01", 40, 3960), ("forget05", 200, 3800), ("forget10", 400, 3600)):
        section = {"source": "tofu", "split": split, "folder": folder}
        corpus = load_corpus(config(section))
        assert (len(corpus.targets[0]), len(corpus.pools[0])) == (targets, kept)
        own = {
            "source": "records",
            "forget": f"{folder}/{split}.json",
            "pool": f"{folder}/retain{100 - int(split[-2:])}.json",
            "prompt_column": "question",
            "completion_column": "answer",
            "template": "chat",
            "system": SYSTEM,
        }
        assert load_corpus(config(own)).check == corpus.check
