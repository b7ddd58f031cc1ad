"""What a plan says of the field's methods: ids, cells, second answers, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from icu_ray import methods
from icu_ray.config import MethodConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.sources import answers_of, load_corpus
from icu_ray.errors import UserError
from icu_ray.plan.grid import Plan
from icu_ray.plan.model_memory import memories
from icu_ray.plan.planning import plan_sweep
from icu_ray.trial.artefact_making import ArtefactRequest, make_artefacts
from icu_ray.trial.artefacts import ArtefactKeys, Needs, model_key
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

FORGET = [
    {
        "question": f"w{n} w{n + 1}",
        "answer": f"w{n + 2} w{n + 3} w{n + 4}",
        "others": [f"w{n + 9}", f"w{n + 8} w7"],
    }  # no word of w1, which ends texts
    for n in range(20, 60, 10)
]
POOL = [{"question": f"w{n} w3", "answer": f"w{n} w4 w5 w6"} for n in range(20, 40)]
TABLE = {"prompt_column": "question", "completion_column": "answer", "template": "plain"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model("gpt_neo").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def planned(
    model: Path,
    told: Sequence[dict[str, Any]],
    data: dict[str, Any] | None = None,
    forget: Sequence[dict[str, Any]] = FORGET,
    **changes: Any,
) -> Plan:
    files = {"forget": forget, "pool": POOL}
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (model.parent / f"{name}.jsonl").write_text(lines)
    where = {name: str(model.parent / f"{name}.jsonl") for name in files}
    values = {
        "name": "t",
        "models": [{"name": "m", "source": str(model), "gpus_per_worker": 0}],
        "data": {"source": "records", **where, **TABLE, **(data or {})},
        "columns": {"length": 12, "prefix_start": 4, "suffix_start": 8},
        "el": {"ngram": 2},
        "filter": {"encoder": "bundled", "encoder_layer": 1},
        "pairs": {"by": "random"},
        "stop": {"max_epochs": 3},
        "methods": list(told),
        **changes,
    }
    return plan_sweep(resolve_config(values, "t"), dry_run=True)


def ids(plan: Plan) -> dict[str, str]:
    return {trial.name: trial.trial_id for trial in plan.trials}


ALTERNATES = {"alternates_column": "others"}


def test_a_method_gives_the_alpha_that_no_cell_names(model: Path) -> None:
    names = ids(planned(model, [{"name": n} for n in ("icu", "graddiff", "satimp", "undial", "ceu")]))
    assert set(names) == {
        "icu-m-s0-a0.5-b1.0",
        "graddiff-m-s0-a1.0",
        "satimp-m-s0-a0.1",
        "undial-m-s0-a0.0",
        "ceu-m-s0",
    }
    cells = methods.cells(MethodConfig(name="satimp", settings={"preset": "ou_yaml"}))
    assert cells == ((1.0, 1.0),)
    assert methods.cells(MethodConfig(name="satimp", alpha=(0.3, 0.4))) == ((0.3, 1.0), (0.4, 1.0))


def test_npo_uses_alpha_with_a_retain_part_alone(model: Path) -> None:
    with pytest.raises(UserError, match="npo has no retain part with these settings"):
        planned(model, [{"name": "npo", "alpha": [0.5, 1.0]}])
    plain = ids(planned(model, [{"name": "npo"}]))
    kept = ids(planned(model, [{"name": "npo", "alpha": [0.5, 1.0], "settings": {"retain": "nll"}}]))
    assert set(plain) == {"npo-m-s0"} and set(kept) == {"npo-m-s0-a0.5", "npo-m-s0-a1.0"}


def test_ids_know_what_can_be_answered_and_nothing_else_does(model: Path, tmp_path: Path) -> None:
    told = [{"name": "idkdpo"}, {"name": "graddiff"}]
    first = ids(planned(model, told))
    file = tmp_path / "refusals.txt"
    file.write_text("No.\n")
    other = ids(planned(model, told, answers={"sentences": str(file)}))
    (tmp_path / "copy.txt").write_text("No.\n\n")
    same = ids(planned(model, told, answers={"sentences": str(tmp_path / "copy.txt")}))
    assert first["graddiff-m-s0-a1.0"] == other["graddiff-m-s0-a1.0"]
    assert first["idkdpo-m-s0-a1.0"] != other["idkdpo-m-s0-a1.0"] == same["idkdpo-m-s0-a1.0"]
    column = ids(planned(model, told, ALTERNATES))
    assert column == first  # nobody asked for the column


def test_second_answers_count_in_time_and_memory(model: Path) -> None:
    two, three, learnt = (planned(model, [{"name": name}]) for name in ("simnpo", "idkdpo", "idknll"))
    works = [plan.trials[0].work for plan in (two, three, learnt)]
    assert works[0] is not None and works[1] is not None and works[2] is not None
    # Each adds a side that is read, forward and back, and scored once more.
    assert 1.4 < works[1].train / works[0].train < 1.6
    # Whoever learns other answers does not read the true ones.
    assert 0.9 < works[2].train / works[0].train < 1
    needs = [memories(plan)[0].need for plan in (two, three, learnt)]
    assert needs[0] is not None and needs[1] is not None and needs[2] is not None
    assert needs[1].activations == pytest.approx(1.5 * needs[0].activations)
    assert needs[2].activations == needs[0].activations
    beside = memories(planned(model, [{"name": "ceu"}]))[0].use
    assert beside is not None and beside.beside == 1


@pytest.mark.parametrize(
    ("told", "data", "forget", "changes", "message"),
    [
        ({"name": "altpo"}, {}, FORGET, {}, "no column of them; name it as data.alternates_column"),
        ({"name": "rmu"}, {}, FORGET, {}, r"rmu names layer 7, and model m has 2; expected 0 to 1: see .* layer,"),
        ({"name": "rmu", "settings": {"layer": 1, "train_layers": "0,4"}}, {}, FORGET, {}, "names 4, above 'layer' 1"),
        ({"name": "wga", "settings": {"beta_wga": -1}}, {}, FORGET, {}, "must not be negative, found -1"),
        (
            {"name": "npo", "settings": {"npo_style": "muse_logits"}},
            {},
            FORGET,
            {"kl": {"cache": "probs"}},
            "compares raw scores, which kl.cache=probs does not keep",
        ),
        (
            {"name": "altpo"},
            ALTERNATES,
            [FORGET[0], {**FORGET[1], "others": []}],
            {},
            r"line 2: column 'others' holds list, expected a list of one text or more",
        ),
        ({"name": "altpo"}, ALTERNATES, [{**FORGET[0], "others": ["w1", ""]}], {}, "'others': text 2 is empty"),
        ({"name": "idknll"}, {}, FORGET, {"answers": {"sentences": "/none.txt"}}, "/none.txt: no such file"),
    ],
)
def test_what_is_refused(
    model: Path, told: dict[str, Any], data: dict[str, Any], forget: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planned(model, [told], data, forget, **changes)


def test_texts_without_prompts_are_refused_for_second_answers(model: Path) -> None:
    rows = [{"text": f"w{n} w{n + 1} w{n + 2} w9 w8 w7"} for n in range(10, 14)]
    plain = {"prompt_column": None, "completion_column": None, "template": None}
    pool = model.parent / "texts.jsonl"
    pool.write_text("".join(json.dumps({"text": f"w{n} w2 w3 w4 w5 w6"}) + "\n" for n in range(30, 50)))
    with pytest.raises(UserError, match="idkdpo teaches other answers to the prompts of the targets, and texts of"):
        planned(model, [{"name": "idkdpo"}], {**plain, "pool": str(pool)}, rows)


def made(plan: Plan, root: Path) -> tuple[ArtefactKeys, ArtefactRequest]:
    """What the plan's trials share, made without Ray."""
    from icu_ray.data.second_answers import AnswerDraws, answered

    config, needs = plan.config, Needs.of(plan.trials)
    corpus = load_corpus(config)
    targets, pool = corpus.sample(0)
    texts = answers_of(config, corpus, 0)
    draws = {
        kind: AnswerDraws(tuple(targets.ids), tuple(map(len, texts[kind])), config.all_seeds, config.stop.max_epochs)
        for kind in needs.answers
    }
    request = ArtefactRequest(
        root=str(root),
        config=config,
        model=config.models[0],
        made=None,
        model_key=model_key(config.models[0], config, "corpus"),
        targets=targets,
        pairs=pool.select(range(len(targets))),
        pair_overlap=None,
        heldout=None,
        needs=needs,
        answers={kind: (each, answered(targets, each, texts[kind])) for kind, each in draws.items()},
    )
    return make_artefacts(request)[0], request


def test_each_trial_is_handed_its_own_answers(model: Path, tmp_path: Path) -> None:
    from icu_ray.storage.results import Provenance
    from icu_ray.trial.task import TrialTask
    from icu_ray.trial.worker import _load

    told = [
        {"name": "idkdpo"},
        {"name": "altpo"},
        {"name": "undial", "alpha": 1.0},
        {"name": "rmu", "settings": {"layer": 1}},
        {"name": "graddiff"},
    ]
    plan = planned(model, told, ALTERNATES)
    keys, _ = made(plan, tmp_path / "store")
    assert set(keys.answers) == {"sentences", "alternates"}
    found = {}
    for trial in plan.trials:
        own = keys.of(Needs.of([trial]))
        task = TrialTask(
            trial, own, str(tmp_path), "t", str(tmp_path / "store"), 0, False, None, Provenance("", "", False)
        )
        found[trial.label] = _load(task)[1]
    assert found["graddiff"].reference is None and found["graddiff"].alternates is None
    assert found["undial"].reference is not None and found["undial"].reference.target_hidden is not None
    assert found["undial"].reference.hidden is None and found["undial"].alternates is None
    assert found["rmu"].reference is not None and set(found["rmu"].reference.layers) == {1}
    for label, texts in (("altpo", {t for row in FORGET for t in row["others"]}), ("idkdpo", None)):
        data = found[label]
        assert data.alternates is not None and data.reference is not None
        assert data.reference.alternate_nll is not None
        assert data.reference.alternate_nll.shape == data.alternates.input_ids.shape
        assert data.alternates.starts is not None
        said = {text.strip() for text in data.alternates.references}
        if texts is not None:
            assert said <= {str(text) for text in texts}
        for epoch in (1, 2, 3):
            beside = data.answers_beside(42, epoch)
            assert beside is not None
            for target, place in enumerate(beside):
                assert data.alternates.ids[place].startswith(data.targets.ids[target] + ":answer")


def test_held_out_texts_that_decide_the_verdict_are_a_part_of_the_id(model: Path) -> None:
    """A finished trial is not taken for one that is judged by other texts."""

    def of(first: int, stop: dict[str, Any]) -> set[str]:
        file = model.parent / "heldout.jsonl"
        rows = [{"question": f"Who is held out as number {first + n}?", "answer": "one of them"} for n in range(4)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = planned(model, [{"name": "kumpr"}], {"heldout": str(file)}, stop={"max_epochs": 3, **stop})
        return {trial.trial_id for trial in made.trials}

    by_them = {"ma": "heldout", "el": "heldout"}
    assert of(0, by_them) == of(0, by_them) != of(7, by_them)
    assert of(0, {}) == of(7, {})
