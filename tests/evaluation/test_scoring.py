"""Scoring without Ray: equal to lm-eval run alone, and to plain code for the authors' forms.

Needs: nothing.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.errors import UserError
from icu_ray.evaluation.definition import HARNESS_FILES, find_definition
from icu_ray.evaluation.kinds.classification import Pair, answer_loglikelihoods, score_pairs
from icu_ray.evaluation.kinds.dialogue import prompt_of, task_of
from icu_ray.evaluation.kinds.perplexity import rolling_task, window_task
from icu_ray.evaluation.model_requests import (
    SLICE_REQUESTS,
    Answer,
    Measure,
    Request,
    Slice,
    cut_slices,
    dump_answers,
    load_answers,
    slices_at_once,
)
from icu_ray.evaluation.stage.actors import Evaluator
from icu_ray.evaluation.stage.answers import answer_slice
from icu_ray.evaluation.suites import NINE, Options, open_task, with_means
from icu_ray.evaluation.task import Scores, Task
from icu_ray.evaluation.texts import normalize_answer, normalize_turn, token_f1
from icu_ray.models.loading import LoadedModel, load_model
from icu_ray.models.subjects import Subject
from tests.support.evaluation_case import save_model, sentence, write_mirror_rows


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror_rows(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(save_model(tmp_path_factory.mktemp("model"))))


def run(loaded: LoadedModel, task: Task, size: int = 256) -> tuple[Scores, list[Answer]]:
    """A task through a model in this process."""
    requests = task.ask(loaded.tokenizer)
    answers = [a for part in cut_slices(task.measure, requests, size) for a in answer_slice(loaded, part)]
    return task.score(requests, answers), answers


def harness_alone(loaded: LoadedModel, mirror: Path, limit: int) -> dict[str, Any]:
    """lm-eval's own evaluation of the nine tasks, its own model class, data files and batches."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = []
    for name in NINE:
        definition = find_definition(name)
        exact = mirror / "lm_eval" / f"{name}_{definition.split}.jsonl"
        path = exact if exact.is_file() else mirror / "lm_eval" / f"{name}.jsonl"
        tasks.append(
            {
                "task": name,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {definition.split: str(path)}},
                "training_split": None,
                "validation_split": None,
                "test_split": None,
                definition.split_key: definition.split,
            }
        )
    folders = [str(find_definition(name).path.parent) for name in HARNESS_FILES]
    model = HFLM(pretrained=str(loaded.folder), dtype="float32", batch_size=4, device="cpu")  # type: ignore[arg-type]
    found: Any = lm_eval.simple_evaluate(
        model=model,
        tasks=[{"group": "alone", "task": tasks}],
        limit=limit,
        task_manager=TaskManager(include_defaults=False, include_path=folders),
        log_samples=True,
        bootstrap_iters=0,
    )
    return dict(found)


@pytest.mark.parametrize("rows", ["own", "real"])
def test_the_nine_tasks_equal_lm_eval_run_alone(
    rows: str, mirror: Path, loaded: LoadedModel, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    folder = mirror if rows == "own" else request.getfixturevalue("shared") / "data"
    limit = 8 if rows == "own" else 5
    alone = harness_alone(loaded, folder, limit)
    for name in NINE:
        scores, answers = run(loaded, open_task(name, Options(mirror=folder, limit=limit)).load())
        expected = [tuple(each[0]) for sample in alone["samples"][name] for each in sample["resps"]]
        assert len(answers) == len(expected) > 0
        ours = np.array([answer.loglikelihood for answer in answers])
        theirs = np.array([value for value, _ in expected])
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6, err_msg=name)
        assert [answer.greedy for answer in answers] == [each for _, each in expected], name
        for metric, value in alone["results"][name].items():
            if "," in metric and "stderr" not in metric:
                found = scores.metrics[f"cls/{name}_{metric.split(',')[0]}"]
                if metric.startswith("perplexity"):  # exp of some 40 nats, whose own rounding is 40 times that of them
                    found, value = math.log(found), math.log(value)
                assert found == pytest.approx(value, rel=1e-6), metric
    assert len(with_means(scores.metrics)) == len(scores.metrics)  # one task alone has no mean of nine


def plain_loglikelihood(loaded: LoadedModel, context: list[int], target: list[int]) -> float:
    """One sequence at a time, no batch, float64 sum."""
    ids = torch.tensor([context + target])
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids[:, :-1]).logits[0, -len(target) :].double()
    return float(logits.log_softmax(-1)[range(len(target)), target].sum())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_a_score_does_not_depend_on_the_batch(loaded: LoadedModel, seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    ids = [random.integers(1, 300, size=random.integers(2, 60)).tolist() for _ in range(count)]
    pairs = [Pair(row[:-1], row[-1:]) if n % 3 else Pair(row[:1], row[1:]) for n, row in enumerate(ids)]
    pairs.append(Pair(pairs[0].context, [*pairs[0].target[:-1], 7]))  # shares its forward with the first
    for pair, scored in zip(pairs, score_pairs(loaded.model, pairs, 1024), strict=True):
        assert scored.loglikelihood == pytest.approx(
            plain_loglikelihood(loaded, pair.context, pair.target), rel=1e-5, abs=1e-5
        )


def test_a_model_of_nan_chooses_nothing(tmp_path: Path) -> None:
    broken = load_model(str(save_model(tmp_path / "model")))
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.fill_(math.nan)  # type: ignore[operator]
    requests = tuple(Request(0, "the old", f" {word}") for word in ("house", "stone"))
    asked = (
        Slice(Measure("loglikelihood"), requests),
        Slice(Measure("rolling"), (Request(0, target="the old house"),)),
        Slice(Measure("window", max_length=8), (Request(0, tokens=(1, 2, 3)),)),
        Slice(Measure("generation", max_length=64, max_new_tokens=4), (Request(0, "the old"), Request(1, "the house"))),
        Slice(Measure("harness_generation"), (Request(0, "the old", json.dumps({"until": ["."], "max_gen_toks": 4})),)),
    )
    for part in asked:
        with pytest.raises(UserError, match="the model's scores are not finite"):
            answer_slice(broken, part)


def test_a_model_that_is_nan_on_one_prompt_says_nothing_after_it(tmp_path: Path) -> None:
    """One word's embedding is broken, and not the one that ends the first prompt."""
    broken = load_model(str(save_model(tmp_path / "model")))
    encoded = [broken.tokenizer(text)["input_ids"] for text in ("the old house", "the stone")]
    word = next(token for token in encoded[0] if token not in encoded[1] and token != encoded[0][-1])
    with torch.no_grad():
        broken.model.get_output_embeddings().weight = torch.nn.Parameter(  # type: ignore[operator, union-attr]
            broken.model.get_output_embeddings().weight.clone()  # type: ignore[operator]
        )
        broken.model.get_input_embeddings().weight[word] = math.nan  # type: ignore[operator]
    measure = Measure("generation", max_length=64, max_new_tokens=4)
    assert answer_slice(broken, Slice(measure, (Request(0, "the stone"),)))[0].loglikelihood == 0
    with pytest.raises(UserError, match="the model's scores are not finite"):
        answer_slice(broken, Slice(measure, (Request(0, "the stone"), Request(1, "the old house"))))


def test_too_long_and_empty_continuations_are_refused(loaded: LoadedModel) -> None:
    long = Request(3, "a", " cat" * 3000)
    with pytest.raises(UserError, match=r"document 3: .* expected 1 to 1024"):
        answer_loglikelihoods(loaded.model, loaded.tokenizer, [long], Measure("loglikelihood"))


def test_the_authors_encoding_cuts_the_context_at_its_end_first(loaded: LoadedModel) -> None:
    """Spec section 3: context cut to 512 from its end, then (context + choice)[-512:] from its beginning."""
    words = " ".join(sentence(n) for n in range(200))
    request = Request(0, words, " old stone houses")
    measure = Measure("loglikelihood", "separate", 512)
    [answer] = answer_loglikelihoods(loaded.model, loaded.tokenizer, [request], measure)
    context: Any = loaded.tokenizer(words, truncation=True, max_length=512)["input_ids"]
    target: Any = loaded.tokenizer(" old stone houses")["input_ids"]
    both = (context + target)[-512:]
    expected = plain_loglikelihood(loaded, both[: -len(target)], target)
    assert answer.loglikelihood == pytest.approx(expected, rel=1e-6)
    assert answer.tokens == len(target)


def test_the_authors_prompts(mirror: Path) -> None:
    """Spec section 3, a row a task: context, candidates, which of them is right."""

    def first(name: str) -> tuple[str, list[str]]:
        task = open_task(name, Options(mirror=mirror)).load()
        requests = [r for r in task.ask(None) if r.document == 0]  # type: ignore[arg-type]
        return requests[0].context, [r.target for r in requests]

    assert first("hellaswag_icu") == (
        f"{sentence(0)} the old man",
        [f" {sentence(at, 5)} [title] ok" for at in range(4)],
    )
    assert first("winogrande_icu") == (
        f"{sentence(0)} Ann thanked Eve because",
        [" Ann was kind.", " Eve was kind."],
    )
    assert first("copa_icu") == (sentence(0), [f" {sentence(1)}", f" {sentence(2)}"])
    assert first("arc_easy_icu") == (f"{sentence(0)} Why?", [f" {sentence(at, 4)}" for at in range(4)])
    assert first("piqa_icu") == (sentence(0), [f" {sentence(1)}", f" {sentence(3)}"])
    assert first("mathqa_icu") == ("what is 4 + 4 ?", ["8", "9", "10", "11", "12"])
    abstract = f"Context: {sentence(0, 30)}\nQuestion: Is it warm?\nAnswer:"
    assert first("pubmedqa_icu") == (abstract, [" yes", " maybe", " no"])
    assert first("lambada_icu") == (f"{sentence(0, 12)} Then they drank", [" Tea."])


def test_the_authors_arc_always_has_four_candidates(mirror: Path, loaded: LoadedModel) -> None:
    task = open_task("arc_easy_icu", Options(mirror=mirror)).load()
    requests = task.ask(loaded.tokenizer)
    of = {n: [r.target for r in requests if r.document == n] for n in (5, 6, 7)}
    assert of[5] == [*(f" {sentence(90 + at, 4)}" for at in range(3)), "just for work"]
    assert of[6] == [f" {sentence(91 + at, 4)}" for at in range(1, 5)]  # the fifth is right: the last four
    assert of[7] == [f" {sentence(92 + at, 4)}" for at in range(4)]
    right = [Answer(float(r.target == f" {sentence(95, 4)}"), 1) for r in requests]  # row 6's right one alone
    assert task.score(requests, right).documents[6].metrics["acc"] == 1.0


def test_lambada_counts_a_word_that_differs_in_case_or_marks(mirror: Path, loaded: LoadedModel) -> None:
    task = open_task("lambada_icu", Options(mirror=mirror, limit=4)).load()
    requests = task.ask(loaded.tokenizer)
    answers = [Answer(0, 1, True, "x"), Answer(0, 1, False, " the tea"), Answer(0, 1, False, "teas"), Answer(0, 1)]
    scores = task.score(requests, answers)
    assert [row.metrics["acc"] for row in scores.documents] == [1.0, 1.0, 0.0, 0.0]
    assert scores.metrics == {"cls/lambada_icu_acc": 0.5}


@given(st.text("abAB the .,!?'", max_size=40), st.text("abAB the .,!?'", max_size=40))
def test_token_f1_equals_its_definition(said: str, wanted: str) -> None:
    def words(text: str) -> Counter[str]:
        kept = "".join(c for c in text.lower() if c not in ".,!?'")
        return Counter(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    a, b = words(said), words(wanted)
    shared = sum(min(a[word], b[word]) for word in a)
    expected = 2 * shared / (a.total() + b.total()) if shared else 0.0
    assert token_f1(said, wanted) == pytest.approx(expected)
    assert normalize_answer(said).split() == [w for w in normalize_answer(said).split() if w not in ("a", "an", "the")]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("i don't know . do you ?", "I don't know. Do you?"),
        ("YES! and i'm glad", "Yes! And I'm glad."),
        ("it costs 3.5 , right", "It costs 3.5, right."),
        (" leading space", "leading space."),
        ('he said "no"', 'He said "no"'),
        ("", ""),
    ],
)
def test_turns_are_written_as_replies(turn: str, expected: str) -> None:
    assert normalize_turn(turn) == expected


def test_dialogue_prompts_name_the_speakers_and_the_next() -> None:
    assert prompt_of(["hi", "hello there"]) == "User 1: Hi.\nUser 2: Hello there.\nUser 1:"
    assert prompt_of(["hi"]) == "User 1: Hi.\nUser 2:"


@pytest.mark.parametrize("keep", ["end", "start"])
def test_dialogues_equal_one_generation_at_a_time(loaded: LoadedModel, keep: Any) -> None:
    long = [sentence(n, 12) for n in range(60)]  # more than 512 tokens
    dialogues = [[sentence(n), sentence(n + 1, 3 + 2 * n), sentence(n + 2)] for n in range(6)] + [long]
    task = task_of("made", dialogues, keep)
    scores, answers = run(loaded, task)
    tokenizer = loaded.tokenizer
    f1 = []
    for turns, answer in zip(dialogues, answers, strict=True):
        ids: Any = tokenizer(prompt_of(turns[:-1]))["input_ids"]
        ids = torch.tensor([ids[-512:] if keep == "end" else ids[:512]])
        with torch.inference_mode():
            said: Any = loaded.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0
            )
        text = tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == text
        f1.append(token_f1(str(text).split("\nUser ")[0], normalize_turn(turns[-1])))
    assert scores.metrics["dialogue/made_f1"] == pytest.approx(sum(f1) / len(f1))


def test_windows_equal_the_models_own_loss(loaded: LoadedModel) -> None:
    """Mean of window losses: the short last window weighs as much as the others."""
    texts = [sentence(n, 30) for n in range(40)]
    scores, _ = run(loaded, window_task("made_icu", texts), size=2)
    ids: Any = loaded.tokenizer("\n\n".join(texts))["input_ids"]
    losses = []
    for begin in range(0, len(ids), 512):
        window = torch.tensor([ids[begin : begin + 512]])
        with torch.inference_mode():
            losses.append(float(loaded.model(input_ids=window, labels=window).loss))
    assert len(losses) > 2 and len(ids) % 512 not in (0, 1)
    assert scores.metrics["ppl/made_icu"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_rolling_equals_the_harness(loaded: LoadedModel) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = [sentence(n, 3 + n) for n in range(4)] + [" ".join(sentence(n, 30) for n in range(40))]  # > 1024 tokens
    scores, answers = run(loaded, rolling_task("made_rolling", texts))
    lm: Any = HFLM(pretrained=str(loaded.folder), dtype="float32", batch_size=2, device="cpu")  # type: ignore[arg-type]
    expected = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts])
    np.testing.assert_allclose([answer.loglikelihood for answer in answers], expected, rtol=1e-6)
    words = sum(len(text.split()) for text in texts)
    tokens = sum(len(loaded.tokenizer(text)["input_ids"]) for text in texts)  # type: ignore[arg-type]
    assert answers[-1].tokens > 1024
    assert scores.metrics["ppl/made_rolling_word"] == pytest.approx(math.exp(-sum(expected) / words), rel=1e-6)
    assert scores.metrics["ppl/made_rolling"] == pytest.approx(math.exp(-sum(expected) / tokens), rel=1e-6)


def test_generation_tasks_of_the_harness_stop_where_they_say(loaded: LoadedModel) -> None:
    contexts = [sentence(n, 4 + n) for n in range(3)]
    expected = []
    for context in contexts:
        ids: Any = torch.tensor([loaded.tokenizer(context)["input_ids"]])
        with torch.inference_mode():
            said: Any = loaded.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
            )
        expected.append(str(loaded.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)))
    stop = expected[0][3:5]
    asked = json.dumps({"until": [stop], "max_gen_toks": 12, "do_sample": False})
    requests = tuple(Request(n, context, asked) for n, context in enumerate(contexts))
    answers = answer_slice(loaded, Slice(Measure("harness_generation"), requests))
    assert [answer.text for answer in answers] == [text.split(stop)[0] for text in expected]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(1, 12))
def test_slices_are_whole_documents_in_order(sizes: list[int], size: int) -> None:
    requests = [Request(document, str(n)) for document, many in enumerate(sizes) for n in range(many)]
    slices = cut_slices(Measure("loglikelihood"), requests, size)
    assert [r for part in slices for r in part.requests] == requests
    documents = [{r.document for r in part.requests} for part in slices]
    assert sum(map(len, documents)) == len(sizes)
    assert all(len(part.requests) >= size for part in slices[:-1])


def test_a_slice_s_key_is_its_content() -> None:
    requests = (Request(5, "a", "b"), Request(6, "a", "c"))
    part = Slice(Measure("loglikelihood"), requests)
    elsewhere = Slice(Measure("loglikelihood"), tuple(Request(r.document + 9, r.context, r.target) for r in requests))
    assert part.key("m", "float32") == elsewhere.key("m", "float32")
    others = [
        Slice(Measure("loglikelihood", "separate"), requests).key("m", "float32"),
        Slice(Measure("loglikelihood"), requests[:1]).key("m", "float32"),
        part.key("n", "float32"),
        part.key("m", "bfloat16"),
    ]
    assert all(part.key("m", "float32") != other for other in others)


def test_answers_come_back_bit_for_bit() -> None:
    answers = [Answer(-0.1 - 0.2, 3, True, "ü\ud800"), Answer(math.nan, 1), Answer(-math.inf, 2)]
    back = load_answers(dump_answers(answers))
    assert repr(list(back)) == repr(answers)


@given(
    sizes=st.lists(st.tuples(st.sampled_from(["answer", "greedy", "loglikelihood"]), st.integers(1, 300)), max_size=12)
)
def test_small_slices_that_are_measured_alike_are_asked_together(sizes: list[tuple[Any, int]]) -> None:
    slices = [Slice(Measure(kind), tuple(Request(n) for n in range(size))) for kind, size in sizes]
    calls = slices_at_once(slices)
    assert sorted(place for call in calls for place in call) == list(range(len(slices)))
    kinds = [{slices[place].measure.kind for place in call} for call in calls]
    assert all(len(kind) == 1 for kind in kinds)
    assert all(len(call) == 1 for call, kind in zip(calls, kinds, strict=True) if kind == {"loglikelihood"})
    for call in calls:
        assert len(call) == 1 or sum(len(slices[place].requests) for place in call) <= SLICE_REQUESTS
    # What is generated comes after what tells how it begins.
    greedy = [kind == {"greedy"} for kind in kinds]
    assert greedy == sorted(greedy)


def test_slices_that_are_asked_together_have_their_own_answers_and_errors(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", positions=64)
    ids = loaded.tokenizer("the stone was carried to the old house by the river", verbose=False)["input_ids"]
    known = [
        Slice(Measure("answer"), tuple(Request(n, tokens=(*ids[n:], 0), given=3) for n in part)) for part in _PARTS
    ]
    said = [
        Slice(
            Measure("greedy", max_new_tokens=9),
            tuple(Request(n, tokens=tuple(ids[n : n + 3]), likely=(*ids[n + 3 :], 0)) for n in part),
        )
        for part in _PARTS
    ]
    long = Slice(known[0].measure, (Request(9, tokens=tuple(ids) * 9, given=3),))
    actor, subject = Evaluator(1), Subject("model", str(folder), "hash")

    def asked(parts: list[Slice]) -> tuple[list[Any], list[str]]:
        row = actor._row(0, pickle.dumps((subject, parts)))
        return [load_answers(data) if data else None for data in row["answers"]], row["errors"]

    found, errors = asked([known[0], long, known[1]])
    assert found[1] is None and "this model reads only 64" in errors[1] and errors[0] == errors[2] == ""
    spoken, errors = asked(said)
    assert errors == ["", ""] and actor.sure
    alone = Evaluator(1)._model(subject)
    for part, answers in [(known[0], found[0]), (known[1], found[2]), *zip(said, spoken, strict=True)]:
        expected = answer_slice(alone, part)
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        np.testing.assert_allclose(
            [answer.loglikelihood for answer in answers], [answer.loglikelihood for answer in expected], rtol=1e-4
        )


_PARTS = ([0, 1, 2], [3, 4])
