"""What the command line says of configs, methods and errors: in the words of who typed.

Needs: nothing.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from icu_ray import api, methods
from icu_ray.cli.main import main
from icu_ray.config import SweepConfig
from icu_ray.config.file import load_config
from icu_ray.config.keys import all_keys
from icu_ray.config.shipped import shipped_configs
from icu_ray.errors import UserError
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.wording import as_typed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with texts to forget and to keep."""
    for name, texts in (("forget", ["one text", "another"]), ("retain", ["a third", "a fourth", "a fifth"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "file").write_text("")
    (tmp_path / "overlap.jsonl").write_text('{"text": "one text"}\n{"text": "else"}\n{"text": "more"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--retain", "none.jsonl"], "--retain: none.jsonl: no such file"),
        (["--retain", "overlap.jsonl"], "--retain: overlap.jsonl: 1 rows to forget (forget.jsonl) are in it too"),
        (["--retain", "retain.jsonl", "--text-column", "body"], "--retain: retain.jsonl: line 1: no column 'body'"),
        (["--forget", "none.jsonl"], "--forget: none.jsonl: no such file"),
        (["--method", "icu"], "--retain: methods icu pair each target"),
        (["--method", "icuu"], "--method: unknown method 'icuu' (did you mean 'icu'?)"),
        (["--alpha", "-1"], "--alpha: expected greater than or equal to 0, found -1.0"),
        (["--length", "3"], "--length: expected greater than or equal to 4"),
        (["--workers", "0"], "--workers: expected greater than or equal to 1"),
        (["--suite", "lm_evil"], "--suite: expected 'lm_eval'"),
        (["--out", "file"], "--out file: {folder}/file is a file, expected a folder; set --out to another place"),
        (["data.pool=none.jsonl"], "data.pool: none.jsonl: no such file"),
        (["stop.max_epochs=0"], "stop.max_epochs: expected greater than or equal to 1"),
    ],
)
def test_an_error_names_what_was_typed(
    files: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unlearn", "--forget", "forget.jsonl", "--out", "out", *typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"icu-ray: {said.replace('{folder}', str(files))}") and len(error.splitlines()) == 1, error


def test_from_python_an_error_names_the_argument(files: Path) -> None:
    with pytest.raises(UserError, match=r"^retain: none.jsonl: no such file"):
        api.unlearn(forget="forget.jsonl", retain="none.jsonl", out="out")


def test_only_whole_keys_are_renamed() -> None:
    said = "data.heldout_rows: see data.heldout, data.pool. My data is mine"
    assert as_typed(said, "--{}".format) == "data.heldout_rows: see --heldout, --retain. My data is mine"


def test_an_error_in_an_override_names_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nmodels: [{name: a, standin: {size: small}}]\ndata: {source: synthetic}\nseed: -1\n")
    with pytest.raises(UserError) as refused:
        load_config(mine, ["optim.lr=-1"])
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"config {mine}: seed: expected")
    assert lines[1].startswith("override 'optim.lr=-1': optim.lr: expected greater than 0")


@pytest.mark.parametrize(("listed", "address", "gpus"), [("", "", 0), ("0,1", "", 1), ("", "10.0.0.1:6379", 1)])
def test_a_request_asks_for_a_gpu_where_there_is_one(
    files: Path, monkeypatch: pytest.MonkeyPatch, listed: str, address: str, gpus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setenv("RAY_ADDRESS", address)
    (model,) = unlearn_config("org/some model", forget="forget.jsonl", out="out", length=48).models
    assert (model.gpus, model.name) == (gpus, "some-model")
    assert unlearn_config("org/m", forget="forget.jsonl", out="out", length=48, gpus=3).models[0].gpus == 3
    assert unlearn_config("standin", forget="forget.jsonl", out="out").models[0].gpus == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swep"], "icu-ray: argument COMMAND: 'swep' is not known (did you mean 'sweep'?); known: sweep, submit, "),
        (["unlearn", "--out", "o", "--lenght", "3"], "unrecognized arguments: --lenght (did you mean '--length'?)"),
        (
            ["unlearn", "--out", "o", "--beta", "four"],
            "icu-ray unlearn: argument --beta: expected a number, found 'four'",
        ),
        (
            ["probe", "--model", "m", "--forget", "f", "--ngram", "0"],
            "--ngram: expected a number of at least 1, found 0",
        ),
        (
            ["probe", "--model", "m", "--forget", "f", "--ngram", "x"],
            "--ngram: expected a whole number of at least 1, ",
        ),
    ],
)
def test_a_word_that_is_not_known_gets_the_nearest(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and not printed.out


def test_every_key_of_the_reference_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert main(["explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {key["path"] for key in told} == {key.path for key in all_keys()} and len(told) > 100
    for key in told:
        assert key["meaning"], key["path"]
        assert f"| `{key['path'].rsplit('.', 1)[-1]}` |" in page


def test_every_section_of_a_config_is_in_the_reference() -> None:
    known = {(key.section, key.name) for key in all_keys()}
    schema = SweepConfig.model_json_schema()
    for name, section in {"SweepConfig": schema, **schema["$defs"]}.items():
        for key in section.get("properties", {}):
            assert (name, key) in known, f"{name}.{key}"
    assert ("AuditConfig", "leak") in known


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            "optim.lr",
            ["optim.lr\n", "Learning rate.", "number above 0", "5e-06", "icu-ray sweep mine.yaml optim.lr=5e-06"],
        ),
        ("models.0.workers=3", ["models.<number>.workers\n", "models.0.workers=1"]),
        ("filter.rule", ["and, with fidelity=paper", "filter.rule=and"]),
        ("data.pool", ["source: records"]),
        ("stop", ["stop.ma ", "stop.max_epochs ", "default"]),
        ("audit.leak", ["number above 0 and of at most 1"]),
        ("lr", ["optim.lr ", "models.<number>.lr "]),
    ],
)
def test_explain_says_what_a_key_means(asked: str, says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", asked]) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in says), out


def test_a_key_that_is_none_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "optim.rl"]) == 2
    assert "there is no key 'optim.rl' (did you mean 'optim.lr'?)" in capsys.readouterr().err


def test_list_names_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {}
    for what in ("methods", "configs", "tasks", "measures", "benchmarks"):
        assert main(["list", what]) == 0
        assert "\n\n" in capsys.readouterr().out
        assert main(["list", what, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert all(all(row.values()) for row in rows if row.get("weights") != ""), rows
        listed[what] = {next(iter(row.values())) for row in rows}
    assert listed["methods"] == set(methods.names())
    assert listed["benchmarks"] == {"tofu", "muse", "wmdp", "rwku"}
    assert (
        "muse-bench/MUSE-Books_retrain" in next(row for row in rows if row["benchmark"] == "muse")["published models"]
    )
    assert listed["configs"] == set(shipped_configs())
    assert {"hellaswag", "hellaswag_icu", "wow", "quick_cloze"} <= listed["tasks"]
    assert {"MA (%)", "forget loss", "BLEU (%)", "held-out PPL", "held-out MA (%)", "held-out loss"} <= listed[
        "measures"
    ]


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ([], "synthetic"),
        (["--forget", "forget.jsonl", "--retain", "retain.jsonl"], "records"),
        (["--model", "org/some model", "--forget", "it's.jsonl"], "records"),
    ],
)
def test_init_writes_a_config_that_says_what_it_means(
    files: Path, options: list[str], source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "own.yaml", *options]) == 0
    assert "icu-ray plan own.yaml" in capsys.readouterr().out
    config, text = load_config(Path("own.yaml")), (files / "own.yaml").read_text()
    assert (config.name, config.data.source) == ("own", source)
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        assert line.lstrip().startswith(("#", "-")) or not line or before.lstrip().startswith("#"), line
    assert max(map(len, lines)) <= 80
    assert main(["init", "own.yaml"]) == 2
    assert "own.yaml: is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (lambda n: {"question": f"Who is {n}?", "answer": f"Number {n}."}, {"template: question-answer"}),
        (lambda n: {"prompt": f"Number {n} is", "completion": f"{n}."}, {"prompt_column: prompt", "template: plain"}),
        (lambda n: {"text": f"The {n}th text."}, {"text_column: text", "heldout_rows: 4"}),
    ],
)
def test_init_looks_at_how_rows_are_written(
    files: Path, row: Callable[[int], dict[str, str]], found: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What it writes can be planned as it stands."""
    for name, numbers in (("forget", range(3)), ("retain", range(3, 11))):
        (files / f"{name}.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    assert main(["init", "own.yaml", "--forget", "forget.jsonl", "--retain", "retain.jsonl"]) == 0
    assert found <= {line.strip() for line in (files / "own.yaml").read_text().splitlines()}
    assert main(["sweep", "own.yaml", "--dry-run"]) == 0
    (files / "own.yaml").unlink()
    assert main(["init", "own.yaml", "--model", "org/away", "--forget", "forget.jsonl"]) == 0
    said = "whether it has a chat template is not known" in capsys.readouterr().out
    assert said == ("text" not in row(0))  # of plain texts nobody asks


@pytest.mark.parametrize("forget", ["hub:./away#forget{sample}", "hub:org/away#forget{sample}", "forget{sample}.jsonl"])
def test_init_does_not_look_for_a_part_whose_name_holds_a_sample(files: Path, forget: str) -> None:
    assert main(["init", "own.yaml", "--forget", forget]) == 0
    assert f"  forget: '{forget}'\n" in (files / "own.yaml").read_text()


def test_init_reads_no_more_of_a_retain_file_than_decides(files: Path) -> None:
    """Of 32 texts half are the 16 that are written; what stands behind them, a broken line here, is not read."""
    lines = [json.dumps({"text": f"The {number}th text."}) + "\n" for number in range(32)]
    (files / "forget.jsonl").write_text(lines[0])
    (files / "retain.jsonl").write_text("".join(lines) + "{no JSON\n")
    assert main(["init", "own.yaml", "--forget", "forget.jsonl", "--retain", "retain.jsonl"]) == 0
    assert "  heldout_rows: 16\n" in (files / "own.yaml").read_text()


def test_init_writes_the_columns_of_chats(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    (files / "chats.json").write_text(json.dumps([{"messages": turns}]))
    assert main(["init", "own.yaml", "--model", "org/away", "--forget", "chats.json"]) == 0
    assert "  messages_column: messages\n" in (files / "own.yaml").read_text()
    assert main(["init", "other.yaml", "--forget", "chats.json"]) == 2
    assert "stand-in, whose tokenizer has no chat template" in capsys.readouterr().err


def test_an_example_of_a_key_is_one_line_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("icu_ray.console.terminal.width", lambda: 40)
    assert main(["explain", "stop.max_ppl_ratio"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split(maxsplit=1) == ["example", "icu-ray sweep mine.yaml stop.max_ppl_ratio=VALUE"]
    assert all(len(line) <= 40 for line in lines[:-1])


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("stop.ma", "number from 0 to 1 or `heldout`"),
        ("samples", "list of: whole number from 0 to 1000000000"),
        ("stop.max_ppl_ratio", "number of at least 1 or null"),
        ("optim.lr", "number above 0"),
    ],
)
def test_what_a_key_takes_is_said_in_words(key: str, takes: str) -> None:
    assert [known.takes for known in all_keys() if known.path == key] == [takes]


@pytest.mark.parametrize(
    "typed",
    [
        ["report", "nosuch"],
        ["sync", "nosuch"],
        ["data", "check", "nosuch"],
        ["submit", "nosuch"],
        ["submit", "--list", "--address", "nosuch"],
        ["evaluate", "--model", "nosuch", "--tasks", "nosuch"],
        ["sweep", "nosuch"],
        ["unlearn", "--out", "out", "--forget", "nosuch.jsonl"],
    ],
)
def test_a_terminal_is_told_at_once_what_is_done(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    piped = capsys.readouterr().err.splitlines()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(typed) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(" ...") and " ".join(rest).endswith(
        *piped
    )  # the same words, in lines of the terminal's width
