"""What a plan says of alternates that models invent: ids, time, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icu_ray.errors import UserError
from icu_ray.plan.generated_answers import generations
from icu_ray.report.terminal.plan_table import plan_json, print_plan
from tests.plan.test_field_methods import ALTERNATES, FORGET, ids, planned
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

ALTPO = [{"name": "altpo"}, {"name": "graddiff"}]
SHORT = {"alternates": "generated", "instruction": "w5 w6"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 32 positions."""
    made = tmp_path / "model"
    tiny_model("llama").save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


def test_settings_enter_the_ids_of_trials_that_read_alternates_alone(folder: Path) -> None:
    given = ids(planned(folder, ALTPO, ALTERNATES))
    made = ids(planned(folder, ALTPO, answers=SHORT))
    altpo, graddiff = "altpo-m-s0-a1.0", "graddiff-m-s0-a1.0"
    assert given[graddiff] == made[graddiff] and given[altpo] != made[altpo]
    for key, value in {"repeats": 3, "temperature": 0.7, "max_new_tokens": 20, "instruction": "w7", "seed": 1}.items():
        other = ids(planned(folder, ALTPO, answers={**SHORT, key: value}))
        assert other[graddiff] == made[graddiff] and other[altpo] != made[altpo], key
    # Sentences of ignorance stay what they are.
    sentences = [{"name": "idkdpo"}]
    assert ids(planned(folder, sentences, answers=SHORT)) == ids(planned(folder, sentences))


def test_the_plan_says_how_long_inventing_takes(folder: Path) -> None:
    plan = planned(folder, ALTPO, answers=SHORT)
    (found,) = generations(plan)
    assert (found.model.name, found.targets, found.gpu_hours) == ("m", len(FORGET), 0.0)
    twice = generations(planned(folder, ALTPO, answers={**SHORT, "max_new_tokens": 400}))
    assert twice[0].minutes == pytest.approx(2 * found.minutes, rel=0.01)
    assert found.cpu_hours == pytest.approx(found.minutes / 60)
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=200))
    said = f"m: invents 5 alternates for each of {len(FORGET)} targets first; at most about 1 minute."
    assert said in out.getvalue()
    assert json.loads(plan_json(plan))["invented"] == [said]
    assert generations(planned(folder, [{"name": "graddiff"}], answers=SHORT)) == ()
    assert generations(planned(folder, ALTPO, ALTERNATES)) == ()


@pytest.mark.parametrize(
    ("data", "answers", "message"),
    [
        (ALTERNATES, SHORT, "has the models invent what data.alternates_column=others gives; leave out one"),
        (ALTERNATES, {"repeats": 3}, "'repeats' is for alternates=generated, found alternates=given"),
        ({}, {**SHORT, "instruction": "  "}, "instruction: is blank"),
        ({}, {**SHORT, "temperature": 0}, "temperature"),
        ({}, {**SHORT, "instruction": "w5 " * 30}, r"'forget-1': its question .* 35 tokens and fill the 32 positions"),
        ({}, {}, "have the model invent them: answers.alternates=generated"),
    ],
)
def test_what_is_refused(folder: Path, data: dict[str, Any], answers: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned(folder, [{"name": "altpo"}], data, answers=answers)


def test_only_models_that_are_asked_must_have_room(folder: Path) -> None:
    long = {**SHORT, "instruction": "w5 " * 30}
    planned(folder, [{"name": "graddiff"}], answers=long)
    planned(folder, [{"name": "idkdpo"}], answers=long)
    with pytest.raises(UserError, match="fill the 32 positions"):
        planned(folder, [{"name": "idkdpo", "settings": {"answers": "alternates"}}], answers=long)


def test_texts_without_prompts_are_refused(folder: Path) -> None:
    rows = [{"text": f"w{n} w{n + 1} w{n + 2} w9 w8 w7"} for n in range(10, 14)]
    plain = {"prompt_column": None, "completion_column": None, "template": None}
    pool = folder.parent / "texts.jsonl"
    pool.write_text("".join(json.dumps({"text": f"w{n} w2 w3 w4 w5 w6"}) + "\n" for n in range(30, 50)))
    with pytest.raises(UserError, match="altpo teaches other answers to the prompts of the targets, and texts of"):
        planned(folder, [{"name": "altpo"}], {**plain, "pool": str(pool)}, rows, answers=SHORT)
