"""The field's benchmarks: their descriptions hold together, their rows are read, and what is fetched is what is read.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from icu_ray.cli.main import main
from icu_ray.config import MuseData, RwkuData, TofuData, WmdpData
from icu_ray.config.benchmarks import COMMITS
from icu_ray.data.prompt_styles import STYLES
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Measure, PromptSet
from icu_ray.evaluation.benchmarks.rows import set_rows, sets_of, shots_of, split_of, table_place
from tests.support.benchmark_case import on_hub, tofu_folder, with_hub, write_lines
from tests.support.hub_server import hub


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_description_holds_together(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name and benchmark.licence and benchmark.reported
    files = [table.file for table in benchmark.tables]
    assert len(files) == len(set(files))
    for split in benchmark.splits.values():
        assert {split.forget, *([split.retain] if split.retain else [])} <= set(files)
        assert split.sets or split.harness
        assert len({asked.name for asked in split.sets}) == len(split.sets)
        for asked in split.sets:
            assert set(asked.columns) <= set(benchmark.table(asked.table).columns)
            assert set(asked.measures) <= set(get_args(Measure)) and asked.measures
            assert asked.shots is None or set(asked.columns) <= set(benchmark.table(asked.shots).columns)
            assert asked.style is None or asked.style in STYLES
            assert "{}" in asked.ask
            assert ("rouge_recall" in asked.measures or "rouge_f1" in asked.measures) == bool(asked.generation)
            assert ("truth_ratio" in asked.measures) == (asked.right is not None and asked.wrong is not None)
            if asked.members is not None:
                assert any(measure.startswith("mia_") for measure in asked.measures)


def test_tofu_is_what_the_field_says() -> None:
    tofu = BENCHMARKS["tofu"]
    assert sum(table.rows or 0 for table in tofu.tables if table.configuration in ("forget10", "retain90")) == 4000
    sets = {asked.name: asked for asked in tofu.splits["forget05"].sets}
    assert list(sets) == ["forget", "retain", "real_authors", "world_facts", "holdout"]
    assert sets["forget"].table == "forget05_perturbed.json" and tofu.table(sets["forget"].table).rows == 200
    # The answer itself is the right one where nobody has put it into other words.
    assert sets["retain"].right == "paraphrased_answer" and sets["world_facts"].right == "answer"
    assert "probability_normalised" in sets["real_authors"].measures
    assert "probability_normalised" not in sets["retain"].measures
    assert all(asked.generation.new_tokens == 200 for asked in sets.values() if asked.generation)
    muse = {asked.name: asked for asked in BENCHMARKS["muse"].splits["books"].sets}
    assert muse["retain_knowmem"].generation is not None and muse["retain_knowmem"].generation.new_tokens == 32
    assert muse["retain_knowmem"].generation.stop == ("\n\n", "\nQuestion", "Question:")
    assert muse["forget_verbmem"].generation is not None and muse["forget_verbmem"].generation.new_tokens == 128


def test_rows_of_a_folder(tmp_path: Path) -> None:
    section = TofuData(source="tofu", split="forget10", folder=str(tofu_folder(tmp_path)))
    names = [asked.name for asked in sets_of(section)]
    assert names == ["forget", "retain", "real_authors", "world_facts"]  # copies may lack the hold-out questions
    forget = set_rows(section, sets_of(section)[0])
    assert len(forget) == 6 and set(forget[0]) == {
        "question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question",
    }  # fmt: skip
    assert forget[2]["question"] == "question 2 of forget10?"
    tofu_folder(tmp_path, later=True)
    assert [asked.name for asked in sets_of(section)][-1] == "holdout"
    (tmp_path / "world_facts_perturbed.json").unlink()
    with pytest.raises(UserError, match=r"it lacks world_facts_perturbed\.json, which TOFU asks; 'icu-ray data fetch"):
        sets_of(section)
    write_lines(tmp_path / "world_facts_perturbed.json", [{"question": "q", "answer": "a", "perturbed_answer": "b"}])
    with pytest.raises(UserError, match=r"line 1: column 'perturbed_answer': expected a list of texts, found 'b'"):
        set_rows(section, sets_of(section)[3])


def test_rows_with_examples(tmp_path: Path) -> None:
    muse = BENCHMARKS["muse"]
    for table in muse.tables:
        if table.file.startswith("news/"):
            name = table.file.removesuffix(".jsonl")
            write_lines(tmp_path / table.file, [{column: f"{column} of {name}" for column in table.columns}])
    section = MuseData(source="muse", split="news", folder=str(tmp_path))
    knowmem, _, verbmem, privleak, _ = sets_of(section)
    assert shots_of(section, knowmem) == [
        ("question of news/knowmem/forget_qa_icl", "answer of news/knowmem/forget_qa_icl")
    ]
    assert shots_of(section, verbmem) == []
    assert set_rows(section, verbmem) == [
        {"prompt": "prompt of news/verbmem/forget", "gt": "gt of news/verbmem/forget"}
    ]
    assert set_rows(section, privleak) == [{"text": "text of news/privleak/forget"}]


def test_where_a_table_is() -> None:
    tofu, muse = BENCHMARKS["tofu"], BENCHMARKS["muse"]
    section = TofuData(source="tofu", split="forget01", revision="abc")
    place = table_place(section, tofu.table("retain_perturbed.json"))
    assert place == "hub:locuslab/TOFU@abc#retain_perturbed"
    news = MuseData(source="muse", split="news")
    assert table_place(news, muse.table("news/verbmem/forget.jsonl")) == (
        f"hub:muse-bench/MUSE-News@{COMMITS['muse-bench/MUSE-News']}#verbmem:forget"
    )
    rwku = RwkuData(source="rwku", subject="1_Ada", folder="f", corpus="phi3")
    assert table_place(rwku, BENCHMARKS["rwku"].table("forget_level1.json")) == "f/1_Ada/forget_level1.json"
    assert table_place(rwku, BENCHMARKS["rwku"].table("forget_target.json")) == "f/forget_target.json"
    assert split_of(rwku).forget == "positive_phi.json"
    assert split_of(WmdpData(source="wmdp", split="cyber")).harness == ("wmdp_cyber", "mmlu")


def test_the_real_rows(shared: Path) -> None:
    section = TofuData(source="tofu", split="forget01", folder=str(shared / "data" / "tofu"))
    rows = {asked.name: set_rows(section, asked) for asked in sets_of(section)}
    assert {name: len(found) for name, found in rows.items()} == {
        "forget": 40, "retain": 400, "real_authors": 100, "world_facts": 117,
    }  # fmt: skip
    assert {len(row["perturbed_answer"]) for row in rows["forget"]} == {5}
    assert {len(row["perturbed_answer"]) for row in rows["world_facts"]} == {3}


def fetch(cache: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The served data sets have commits of their own."""
    newest = () if "--revision" in arguments else ("--revision", "main")
    return with_hub(cache, endpoint, "-m", "icu_ray.cli", "data", "fetch", *arguments, *newest)


def lines(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_its_first_row(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def test_tofu_is_fetched_counted_and_read(tmp_path: Path) -> None:
    served, out, cache = on_hub(tmp_path / "hub", "tofu"), tmp_path / "out", tmp_path / "cache"
    on_the_hub = served["locuslab/TOFU"]
    with hub(served) as running:
        done = fetch(cache, running.url, "tofu", "--out", str(out))
        commit = running.sha("locuslab/TOFU")
        assert done.returncode == 0, done.stderr
        said = done.stderr.splitlines()
        rows = 2 * (40 + 200 + 400) + 3960 + 3800 + 3600 + 400 + 100 + 117
        assert said[0] == f"TOFU: 15 tables, {rows:,} rows. Licence: MIT."
        size = sum(file.stat().st_size for file in on_the_hub.rglob("*.json"))
        assert said[1] == f"locuslab/TOFU at {commit[:12]}: at most {size / 1e6:.1f} MB to download"
        assert f"{out}/forget01_perturbed.json: 40 rows" in said
        assert f"{out}/holdout10.json: locuslab/TOFU has no holdout10 at {commit[:12]}; left out" in said
        assert json.loads((out / "source.json").read_text())["commits"] == {"locuslab/TOFU": commit}
        for file in on_the_hub.rglob("*.json"):
            assert lines(out / f"{file.parent.name}.json") == lines(file)
        again = fetch(cache, running.url, "tofu", "--out", str(out))
        assert again.returncode == 0 and f"{out}/retain90.json: there already" in again.stderr
        source = json.loads((out / "source.json").read_text())
        assert source["commits"] == {"locuslab/TOFU": commit} and "found" not in source
        section = TofuData(source="tofu", split="forget10", folder=str(out))
        assert [len(set_rows(section, asked)) for asked in sets_of(section)] == [400, 400, 100, 117]


def test_a_folder_holds_the_files_of_one_commit(tmp_path: Path) -> None:
    served, out, cache = on_hub(tmp_path / "hub", "tofu"), tmp_path / "out", tmp_path / "cache"
    out.mkdir()
    file = served["locuslab/TOFU"] / "forget01" / "train.json"
    (out / "forget01.json").write_bytes(file.read_bytes())
    with hub(served) as running:
        first = running.sha("locuslab/TOFU")
        assert fetch(cache, running.url, "tofu", "--out", str(out)).returncode == 0
        # Nothing tells the commit of what lay there before.
        source = json.loads((out / "source.json").read_text())
        assert (source["commits"], source["found"]) == ({"locuslab/TOFU": first}, ["forget01.json"])
        file.write_text(file.read_text().replace("answer 0", "another answer 0"))
        second = running.sha("locuslab/TOFU")
        refused = fetch(tmp_path / "other", running.url, "tofu", "--out", str(out), "--revision", second)
    assert second != first and refused.returncode == 2
    for said in (
        f"data fetch tofu: {out} has forget01.json and others of locuslab/TOFU at {first}, as its source.json says",
        f"asked for is {second}. Fetch that into another folder, with another --out, or ",
        f"complete this one with --revision {first}",
    ):
        assert said in " ".join(refused.stderr.split())
    assert json.loads((out / "source.json").read_text()) == source


@pytest.mark.slow
def test_what_is_not_the_published_table_is_refused(tmp_path: Path) -> None:
    served, out, cache = on_hub(tmp_path / "hub", "tofu"), tmp_path / "out", tmp_path / "cache"
    on_the_hub = served["locuslab/TOFU"]
    with hub(served) as running:
        assert fetch(cache, running.url, "tofu", "--out", str(out)).returncode == 0
        commit = running.sha("locuslab/TOFU")
        without_its_first_row(out / "forget05.json")
        refused = fetch(cache, running.url, "tofu", "--out", str(out))
        assert refused.returncode == 2
        assert "forget05.json: found 199 rows, expected the 200 of forget05; move the file away" in refused.stderr
        without_its_first_row(on_the_hub / "world_facts_perturbed" / "train.json")
        other = fetch(tmp_path / "other", running.url, "tofu", "--out", str(tmp_path / "second"))
        assert other.returncode == 2 and "found 116 rows, expected the 117 of world_facts_perturbed" in other.stderr
        assert not (tmp_path / "second" / "world_facts_perturbed.json").exists()
        pinned = fetch(tmp_path / "other", running.url, "tofu", "--out", str(tmp_path / "p"), "--revision", commit)
        assert pinned.returncode == 0, pinned.stderr
        unknown = fetch(tmp_path / "other", running.url, "tofu", "--out", str(tmp_path / "u"), "--revision", "none")
        assert unknown.returncode == 2 and "the hub knows no such revision of it" in unknown.stderr


def test_muse_is_fetched_from_two_data_sets(tmp_path: Path) -> None:
    served, out = on_hub(tmp_path / "hub", "muse"), tmp_path / "out"
    assert len(served) == 2
    with hub(served) as running:
        done = fetch(tmp_path / "cache", running.url, "muse", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert lines(out / "books" / "raw" / "holdout.jsonl") == lines(
        served["muse-bench/MUSE-Books"] / "raw" / "holdout.json"
    )
    section = MuseData(source="muse", split="news", folder=str(out))
    knowmem = sets_of(section)[0]
    assert (len(set_rows(section, knowmem)), len(shots_of(section, knowmem))) == (100, 10)
    assert len(lines(Path(section.as_records().forget))) == 889


def test_rwku_is_written_by_person(tmp_path: Path) -> None:
    served, out = on_hub(tmp_path / "hub", "rwku"), tmp_path / "out"
    with hub(served) as running:
        done = fetch(tmp_path / "cache", running.url, "rwku", "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert f"{out}/*/forget_level1.json: 3,268 rows of 200 subjects" in done.stderr
        section = RwkuData(source="rwku", subject="2_Person_2", folder=str(out))
        (text,) = lines(Path(section.as_records().forget))
        assert text == {"subject": "Person 2", "text": "text 1 of train_positive_llama3?"}
        cloze = set_rows(section, sets_of_there(section)["forget_level1"])
        assert [row["query"] for row in cloze][:2] == ["query 1 of forget_level1?", "query 201 of forget_level1?"]
        # The made-up texts are about the first three people alone.
        assert not (out / "4_Person_4" / "positive.json").exists()
        assert (out / "4_Person_4" / "forget_level3.json").exists()

        targets = served["jinzhuoran/RWKU"] / "forget_target" / "train.json"
        targets.write_text(targets.read_text().replace('"Person 9"', '"Person Nine"'))
        other = fetch(tmp_path / "other", running.url, "rwku", "--out", str(tmp_path / "second"))
        assert other.returncode == 2
        assert "forget_level1: rows of 'Person 9', whom forget_target.json does not have" in other.stderr


def sets_of_there(section: RwkuData) -> dict[str, PromptSet]:
    return {asked.name: asked for asked in split_of(section).sets}


def test_a_refused_fetch_names_its_own_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "TOFU_EVAL.json").write_text("{}")
    assert main(["data", "fetch", "tofu", "--out", str(tmp_path / "TOFU_EVAL.json")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is a file, expected a folder; set --out to another place" in said and "storage" not in said
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["data", "fetch", "tofu", "--out", str(tmp_path / "tofu")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Without a network nothing is fetched: run this on a machine that has one, and copy " in said
    assert "here, with forget01.json and the other tables" in said and "hub:./FOLDER" not in said


def test_what_cannot_be_fetched_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "wmdp", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "data fetch wmdp: access must be asked for" in said and "bio-forget-corpus.jsonl" in said
    assert main(["data", "fetch", "--revision", "abc"]) == 2
    assert "--revision is for data sets of the hub" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "fetch", "tofuu"])
    assert "'tofuu' is not known (did you mean 'tofu'?)" in " ".join(capsys.readouterr().err.split())
