"""A user's own task, by its YAML file: what it is called, what it is, what is refused. It runs in docs/tutorial.md.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from icu_ray.errors import UserError
from icu_ray.evaluation.definition import find_definition

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
    ],
)
def test_what_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        find_definition(str(path))
