"""The documentation does what it says: every code block of README.md and docs/ runs here, in order, in an empty folder.

A block that needs a cluster, a hub or minutes is marked `<!-- not run: why -->`; its commands are still read by the
real parser, and the configs they name by the real schema. `<!-- file: NAME -->` has a block written to that file.
A block without a language that comes next after one that ran is what that one printed: lines and words must agree,
numbers may differ.
cluster/README.md is for clouds: none of its blocks runs, all of them are parsed.

Needs: Rays of its own.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from icu_ray.cli.main import make_parser
from icu_ray.config.file import load_config
from icu_ray.config.shipped import config_folder, find_config
from icu_ray.evaluation.definition import find_definition
from icu_ray.report.formats.glossary import GLOSSARY

ROOT = Path(__file__).parents[2]
# In this order: later pages go on with the tutorial's files and sweep.
SLOW_PAGES = [
    "docs/tutorial.md",
    "docs/how-to/add-a-seed.md",
    "docs/how-to/resume.md",
    "docs/how-to/evaluation.md",
    "docs/how-to/deletion-request.md",
    "docs/how-to/audit.md",
    "docs/how-to/gold-standard.md",
]
"""Pages whose blocks take minutes, one after the other."""
QUICK_PAGES = [
    "docs/how-to/table-1.md",
    "docs/how-to/recipes.md",
    "docs/how-to/search.md",
    "docs/how-to/tofu.md",
    "docs/how-to/cluster.md",
    "docs/how-to/air-gapped.md",
    "docs/how-to/add-a-method.md",
    "docs/how-to/add-a-task.md",
    "docs/how-to/own-data.md",
    "docs/how-to/requests.md",
    "docs/how-to/add-a-data-source.md",
    "docs/how-to/add-a-measure.md",
    "docs/index.md",
    "docs/glossary.md",
    "docs/models.md",
    "docs/outputs.md",
    "docs/trust.md",
    "docs/paper.md",
    "docs/method.md",
    "docs/methods.md",
    "docs/architecture.md",
    "docs/faults.md",
    "docs/results.md",
    "docs/reference/cli.md",
    "docs/reference/config.md",
    "README.md",
]
_BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line. file: where it is to be written. not_run: why it is not run."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    not_run: str | None


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        marks, language, content = match.groups()
        file = re.search(r"<!-- file: (\S+) -->", marks)
        not_run = re.search(r"<!-- not run: (.+?) -->", marks)
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(
            Block(page, line, language, content, file and file.group(1), not_run.group(1) if not_run else None)
        )
    # A fence that the pattern does not understand must not go by unseen.
    assert len(found) * 2 == len(re.findall(r"^```", text, re.MULTILINE)), page
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The words of every call of ours in a bash block, without variables before it and what it is piped into.

    One that `ray job submit ... --` or `ray exec CLUSTER '...'` runs is found in there.
    """
    for line in block.text.replace("\\\n", " ").splitlines():
        if not re.search(r"\bicu-ray |icu_ray\.sweep", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and word[0] in "|;&<>()":
                if words[:3] == ["ray", "job", "submit"]:
                    words = words[words.index("--") + 1 :]
                elif words[:2] == ["ray", "exec"]:
                    words = shlex.split(words[-1])
                while words and ("=" in words[0] or words[0] in ("if", "then", "exec")):
                    words.pop(0)
                if words[:1] == ["icu-ray"]:
                    yield words[1:]
                elif words[1:3] == ["-m", "icu_ray.sweep"]:
                    yield ["sweep", *words[3:]]
                words = []
            else:
                words.append(word)


def check_commands(block: Block, folder: Path) -> int:
    """Parse every command, and load the config that it names."""
    count = 0
    for words in commands(block):
        arguments, rest = make_parser().parse_known_args(words)
        assert not rest or (hasattr(arguments, "overrides") and all("=" in word for word in rest)), words
        config = getattr(arguments, "config", None)
        if words[0] in ("sweep", "plan", "submit") and not getattr(arguments, "attach", None):
            given = [*([config] if config else []), *arguments.overrides, *rest]
            name = given.pop(0) if given and "=" not in given[0] else None
            path = folder / name if name and (folder / name).is_file() else find_config(name)
            load_config(path, given)
        count += 1
    return count


@dataclass(frozen=True)
class Place:
    """The folder in which the pages run, with what their commands see; python: what Python blocks have defined."""

    folder: Path
    environment: dict[str, str]
    python: dict[str, object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("docs")
    installed = folder / "site"
    installed.mkdir()
    change = pytest.MonkeyPatch()
    change.chdir(folder)
    change.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    change.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{installed}")
    # What a page installs goes to a folder of its own, not into the environment of these tests.
    change.setenv("PIP_TARGET", str(installed))
    change.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    change.setenv("HF_HUB_OFFLINE", "1")
    change.setenv("ICU_RAY_CACHE", str(folder / "cache"))  # a machine on which no trial has ended yet
    change.setenv("HF_HOME", str(folder / "huggingface"))
    change.delenv("MLFLOW_TRACKING_URI", raising=False)
    change.syspath_prepend(str(installed))
    for shipped in config_folder().glob("*.yaml"):  # configs of the pages are based on some of them
        shutil.copy(shipped, folder)
    yield Place(folder, dict(os.environ), {"__name__": "__main__"})
    change.undo()


MORE = "..."
"""A line of a page that stands for lines that it leaves out."""
PROGRESS = re.compile(r"(prepare|start|epoch|again|also) +\S.*")
"""A line that a sweep writes into a file and not on a terminal."""


def masked(text: str) -> list[str]:
    """Its lines as the page and a run must have them alike: without numbers, ids and the width of columns."""
    text = re.sub(r"(less than )?(\d+ worker minute)s?", r"\2", text)  # as the machine is fast
    lines = (re.sub(r"\b(?=\w*\d)[0-9a-f]{8}\b|\d[\d.]*", "#", " ".join(line.split())) for line in text.splitlines())
    return [line for line in lines if line]


def check_printed(shown: Block, printed: str, told: str) -> None:
    """What a page shows as printed is what was printed. told: on standard error, which a page may leave out.

    Trials that run at the same time end in any order, and a model may need an epoch more elsewhere: so each line that
    is shown must have been printed, each that was printed must be shown unless the page has a line `...`, and neither
    is counted.
    """
    where = f"{shown.page}:{shown.line}"
    page, output = masked(shown.text), masked(printed)
    stale = [line for line in page if line not in {*output, *masked(told), MORE}]
    missing = [line for line in output if line not in page and MORE not in page and not PROGRESS.fullmatch(line)]
    assert not stale and not missing, f"{where}: not printed: {stale}; not shown: {missing}\n{printed}\n{told}"


def run_block(block: Block, place: Place) -> tuple[str, str] | None:
    """What it printed on standard output and error; None where it did not run."""
    where = f"{block.page}:{block.line}"
    if block.file is not None:
        path = place.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    if block.language == "yaml":
        assert block.file is not None, where
        check_yaml(place.folder / block.file)
    elif block.language == "python" and block.file is None:  # a script is run by the page's own command
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec"), place.python)
        return printed.getvalue(), ""
    elif block.language == "bash":
        count = check_commands(block, place.folder)
        if block.not_run is not None:
            return None
        assert count or re.search(r"pip install|^python \S+\.py", block.text, re.MULTILINE), where
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=place.folder,
            env=place.environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        importlib.invalidate_caches()
        return done.stdout, done.stderr
    else:
        # toml of a package, which pip reads; layouts and other text have no language.
        assert block.language in ("", "toml") or block.file is not None, where
    return None


def check_yaml(path: Path) -> None:
    """A config, a task or a price file, by the code that reads it."""
    keys = yaml.safe_load(path.read_text())
    if "task" in keys:
        assert find_definition(str(path)).split == "test"
    elif "gpu_hour" in keys:
        from icu_ray.config import PricesConfig
        from icu_ray.config.file import load_section

        load_section(PricesConfig, path, [], "prices")
    else:
        assert load_config(path).name == keys["name"]


def test_no_page_is_left_out() -> None:
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")} | {"README.md"}
    assert pages == {*SLOW_PAGES, *QUICK_PAGES}


@pytest.mark.parametrize("page", [*(pytest.param(page, marks=pytest.mark.slow) for page in SLOW_PAGES), *QUICK_PAGES])
def test_every_block_runs(page: str, place: Place) -> None:
    ran: tuple[str, str] | None = None
    for block in blocks(page):
        if ran is not None and block.language == "" and block.file is None:
            check_printed(block, *ran)
        ran = run_block(block, place)
    if page in CHECKS:
        CHECKS[page](place)


def test_what_a_page_shows_as_printed_is_compared() -> None:
    def check(shown: str, printed: str, told: str = "") -> None:
        check_printed(Block("page.md", 1, "", shown, None, None), printed, told)

    check("MA    98.15 %\nicu ef94f6c2  new\n", "MA  9.2 %\nicu 01234567 new\n\n")
    check("two\none 2\nsaid\n", "one 1\none 3\ntwo\n", "said\n")
    check("...\nthe end\n", "tables\nthe end\n")
    check("the end\n", "start    icu-s0\nthe end\n")
    for shown, printed in (("EL 98 %", "EL10 98 %"), ("a\nb", "a"), ("a", "a\nb"), ("deadbeef", "facade00")):
        with pytest.raises(AssertionError, match=r"page\.md:1"):
            check(shown, printed)


def test_commands_for_clusters_are_parsed(tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text())
    entrypoint = shlex.split(job["spec"]["entrypoint"])[-1]
    found = [block for block in blocks("cluster/README.md") if block.language == "bash"]
    found.append(Block("cluster/kuberay/rayjob.yaml", 1, "bash", entrypoint, None, None))
    for block in found:
        check_commands(block, tmp_path)
    names = [[words[0] for words in commands(block)] for block in found]
    assert names[-1] == ["data", "sweep"]
    assert {"submit", "sweep", "data"} <= {name for page in names[:-1] for name in page}


def results(folder: Path) -> dict[Path, dict[str, Any]]:
    """result.json of every trial of a sweep."""
    return {path: json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*/result.json"))}


def check_tutorial(place: Place) -> None:
    """Two trials by two methods, the plug-in among them, evaluated on the page's task; the frames hold the same, and
    what the trials took is kept for later estimates."""
    run: Any = place.python["run"]
    trials = run.trials.set_index("name")
    assert list(trials.index) == ["icu-letters-s0-a0.5-b4.0", "max_entropy-letters-s0-a8.0"]
    assert run.exit_code == 0
    found = results(place.folder / "runs" / "letters")
    for path, result in found.items():
        row = trials.loc[result["name"]]
        assert row["trial_id"] == result["trial_id"] and row["epochs"] == result["epochs"]
        assert row["ma_after_pct"] == pytest.approx(100 * result["after"]["ma"])
        evaluation = json.loads((path.parent / "evaluation.json").read_text())
        assert not evaluation["errors"]
        assert row["cls/recall_acc_after_pct"] == 100 * evaluation["after"]["cls/recall_acc"]
        assert result["status"] == "finished"
        assert evaluation["after"]["cls/recall_acc"] < evaluation["before"]["cls/recall_acc"]
        epochs = run.epochs[run.epochs["trial"] == result["name"]]
        assert list(epochs["epoch"]) == list(range(result["epochs"] + 1))
        assert {"start", "load", "train", "validate", "checkpoint", "save"} < set(result["seconds"])
        assert epochs["ma"].iloc[-1] == result["after"]["ma"]
    kept = (place.folder / "cache" / "past_trials.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["epochs"] for line in kept) == sorted(result["epochs"] for result in found.values())
    place.python["finished"] = {path: path.stat().st_mtime_ns for path in found}


def check_added_seed(place: Place) -> None:
    """Two trials more; those of before were not touched."""
    samples = [result["sample"] for result in results(place.folder / "runs" / "letters").values()]
    assert sorted(samples) == [0, 0, 1, 1]
    before: Any = place.python["finished"]
    assert len(before) == 2 and all(path.stat().st_mtime_ns == when for path, when in before.items())


def check_gold_standard(place: Place) -> None:
    """Its texts are unknown to the retrained model, and every method's model is told apart from it or not."""
    found = {result["name"]: result for result in results(place.folder / "runs" / "gold").values()}
    gold = found["retrained-small-s0"]
    assert gold["after"]["ma"] < 0.5 < 0.85 < gold["before"]["ma"]
    lines = list(
        csv.DictReader((place.folder / "runs" / "gold" / "report" / "distances.csv").open(encoding="utf-8-sig"))
    )
    assert [line["row"] for line in lines] == ["before unlearning", "icu (0, 0)", "icu (0.5, 1)"]
    before, *others = (float(line["loss_difference"]) for line in lines)
    assert before < min(others) and all(float(line["texts"]) == 16 for line in lines)


def check_request(place: Place) -> None:
    """The command's request, which Python then found done: one trial, whose numbers the frames hold."""
    done: Any = place.python["done"]
    (run,) = (place.folder / "unlearned").glob("run-*")
    (result,) = results(run).values()
    assert done.forgotten and done.success and done.exit_code == 0 and done.reason == result["reason"]
    record = json.loads((place.folder / "kept" / "record.json").read_text())
    assert record["verdict"]["success"]
    assert record["scores"]["after"]["ppl_heldout"] <= 1.5 * record["scores"]["before"]["ppl_heldout"]
    for side in ("before", "after"):
        assert {key: done.scores.loc[side, key] for key in ("ma", "el10", "ppl_heldout")} == {
            key: result[side][key] for key in ("ma", "el10", "ppl_heldout")
        }
    assert set(done.texts["id"]) == {f"forget-1-{number}" for number in range(8)}
    assert list(done.epochs["epoch"]) == list(range(result["epochs"] + 1))
    assert (place.folder / "unlearned" / "model" / "config.json").is_file()


CHECKS = {
    "docs/tutorial.md": check_tutorial,
    "docs/how-to/add-a-seed.md": check_added_seed,
    "docs/how-to/deletion-request.md": check_request,
    "docs/how-to/gold-standard.md": check_gold_standard,
}


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What a link to a heading of a page may name, as GitHub makes it of the heading."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(path), re.MULTILINE)
    shown = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in [*SLOW_PAGES, *QUICK_PAGES, "cluster/README.md", "benchmarks/README.md", "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(ROOT / page)):
            if not target.startswith(("http://", "https://")):
                file, _, anchor = target.partition("#")
                path = (ROOT / page).parent / file if file else ROOT / page
                if not path.exists() or (anchor and anchor not in anchors(path)):
                    broken.append(f"{page}: {target}")
    assert broken == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    lines = prose(ROOT / "README.md").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!"))] == []


def test_the_glossary_is_that_of_the_report() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (.+) \| (.+) \|$", page, re.MULTILINE)[1:] == list(GLOSSARY)


def test_the_reference_is_what_the_code_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert not made["undocumented"](), "config keys without a sentence"
    for name, content in made["pages"]().items():
        committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert committed == content, f"docs/reference/{name} is old: run python docs/generate.py"
