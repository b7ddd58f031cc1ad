"""A user's own task, by its YAML file: what it is called, what it is, what is refused. It runs in docs/tutorial.md.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from icu_ray.cli.main import main
from icu_ray.errors import UserError
from icu_ray.evaluation.definition import find_definition
from icu_ray.evaluation.suites import Options, open_task
from tests.support.evaluation_case import write_jsonl

TASK = """\
task: codes
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "{{start}}"
"""


def test_it_is_called_as_its_key_says_and_is_what_its_files_hold(tmp_path: Path) -> None:
    path = tmp_path / "any_file.yaml"
    path.write_text(TASK)
    found = find_definition(str(path))
    assert (found.name, found.split) == ("codes", "test")
    before = found.identity()
    assert find_definition(str(path)).identity() == before
    (tmp_path / "functions.py").write_text("def choices(row):\n    return row['ends']\n")
    with_functions = find_definition(str(path)).identity()
    path.write_text(TASK + "num_fewshot: 2\n")
    assert len({str(each) for each in (before, with_functions, find_definition(str(path)).identity())}) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("task: [unclosed", "cannot be read"),
        ("- a list", "cannot be read"),
        ("output_type: multiple_choice", "task: expected a name of letters, digits and '_', found None"),
        ("task: with-dashes", "found 'with-dashes'"),
        ("task: hellaswag", "'hellaswag' is the name of a task that is there"),
        ("task: quick_choice", "'quick_choice' is the name of a task that is there"),
        ("include: base.yaml", "no such file (.*base.yaml)"),
        ("include: mine.yaml", "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        find_definition(str(path))


CODE = """\
from pathlib import Path
def touch(row, mark=Path(%r)):
    mark.touch()
    return row["start"]
class Task:
    def __init__(self):
        touch({"start": ""})
touch({"start": ""})
"""
FULL = f"""{TASK}doc_to_choice: "{{{{ends}}}}"
doc_to_target: right
"""
METRICS = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
ESCAPES = (
    "{{ cycler.__init__.__globals__.os.system('touch %s') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ joiner.__init__.__globals__.os.system('touch %s') }}",
    "{{ (start ~ '{0.__class__}').format(start) }}{{ lipsum.__globals__['os'].system('touch %s') }}",
)


@pytest.fixture
def folder(tmp_path: Path, mark: Path) -> Path:
    """A task's file is missing in it; its rows, and a module that touches the mark, are there."""
    (tmp_path / "functions.py").write_text(CODE % str(mark))
    rows = [{"start": f"a{n}", "ends": ["b", "c"], "right": 1} for n in range(3)]
    write_jsonl(tmp_path / "mirror" / "lm_eval" / "codes_test.jsonl", rows)
    return tmp_path


def load(folder: Path, trust: bool = False) -> list[str]:
    """What the task asks."""
    options = Options(mirror=folder / "mirror", trust_task_code=trust)
    task = open_task(str(folder / "mine.yaml"), options).load()
    return [request.context for request in task.ask(None)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            f"{FULL}{METRICS}process_docs: !function functions.touch\n",
            "mine.yaml, line 9: '!function functions.touch': code",
        ),
        (f"{FULL}{METRICS}process_docs: !function os.system\n", "mine.yaml, line 9: '!function os.system': code"),
        (f"include: base.yaml\n{FULL}{METRICS}", "base.yaml, line 1: '!function functions.touch': code"),
        ("task: codes\nclass: !function functions.Task\n", "line 2: '!function functions.Task': code"),
        ("task: codes\nclass: functions.Task\n", "key 'class': code"),
        (f"{FULL}{METRICS}use_prompt: 'other.yaml:p'\n", "key 'use_prompt': code"),
        (
            f"{FULL}metric_list: [{{metric: ./functions.py, aggregation: mean}}]",
            "metric_list: ./functions.py is none of",
        ),
        (f"{FULL}metric_list: [{{metric: acc, hf_evaluate: true}}]", "metric_list: acc is none of"),
    ],
)
def test_code_is_refused(folder: Path, content: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.yaml").write_text(content)
    (folder / "base.yaml").write_text("doc_to_text: !function functions.touch\n")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="run only with trust_task_code") as refused:
        load(folder)
    assert said in str(refused.value)


@pytest.mark.parametrize("template", ESCAPES)
@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "doc_to_choice"])
def test_templates_reach_nothing_but_their_row(folder: Path, mark: Path, template: str, key: str) -> None:
    lines = [line for line in FULL.splitlines() if not line.startswith(key)]
    (folder / "mine.yaml").write_text("\n".join([*lines, f'{key}: "{template % mark}"', METRICS]))
    with pytest.raises(UserError, match=r"row 1: no document of this task \(SecurityError"):
        load(folder)
    (folder / "mine.yaml").write_text(FULL + METRICS)
    assert load(folder) == ["a0", "a0", "a1", "a1", "a2", "a2"]


def test_a_neighbour_of_the_same_name_is_not_read(folder: Path) -> None:
    (folder / "mine.yaml").write_text(FULL + METRICS)
    (folder / "a.yaml").write_text(f"{FULL}{METRICS}process_docs: !function functions.touch\n")
    assert load(folder)[0] == "a0"


def test_trusted_code_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "functions.py").write_text("def loud(row):\n    return row['start'] + '!'\n")
    write_jsonl(tmp_path / "mirror" / "lm_eval" / "codes_test.jsonl", [{"start": "a", "ends": ["b", "c"], "right": 1}])
    task = tmp_path / "mine.yaml"
    task.write_text(FULL.replace('"{{start}}"', "!function functions.loud") + METRICS)
    assert load(tmp_path, trust=True) == ["a!", "a!"]
    given = ["plan", "quickstart", f"storage={tmp_path}/runs", f"evaluation.mirror={tmp_path}/mirror"]
    given += ["evaluation.suites=[]", f"evaluation.tasks=[{task}]"]
    assert main(given) == 2
    assert f"task {task}: mine.yaml, line 5: '!function functions.loud': code" in capsys.readouterr().err
    assert main([*given, "evaluation.trust_task_code=true"]) == 0
