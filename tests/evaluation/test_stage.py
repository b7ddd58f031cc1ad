"""The stage on a real Ray: the same numbers whatever the actors, slices and deaths, and nothing is done twice.

Needs: one Ray.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icu_ray.data.actor_pool import Pool
from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import cut_slices
from icu_ray.evaluation.stage import run
from icu_ray.evaluation.stage.actors import GPU_SHARES, Answered, Evaluator, default_pool, gpu_share
from icu_ray.evaluation.stage.results import Evaluation, write_documents
from icu_ray.evaluation.stage.run import evaluate_models
from icu_ray.evaluation.suites import Options, open_tasks
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.subjects import Subject
from icu_ray.storage.store import Store
from tests.support.evaluation_case import save_model, write_mirror_rows

TASKS = ("hellaswag", "lambada_icu", "arc_easy_icu", "wow", "pile_icu", "pile_rolling")
GIGABYTE = 2**30


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror_rows(folder, count=12)
    return folder


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    folders = [save_model(tmp_path_factory.mktemp(f"model{seed}"), seed) for seed in (0, 1)]
    return [Subject(f"model{seed}", str(folder), f"hash{seed}") for seed, folder in enumerate(folders)]


@contextlib.contextmanager
def _no_ray() -> Iterator[None]:
    raise AssertionError("a Ray was asked for")
    yield


def _numbers(evaluations: list[Evaluation]) -> list[tuple[str, str, dict[str, float], int, str]]:
    return [(e.model, e.task, dict(e.metrics), e.documents, e.error) for e in evaluations]


@pytest.fixture(scope="module")
def one_actor(
    ray_cluster: None, mirror: Path, subjects: list[Subject], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[Evaluation], list[Answered]]:
    """Everything, evaluated by one actor."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    told: list[Answered] = []
    sources = open_tasks(TASKS, Options(mirror=mirror))
    return store, evaluate_models(subjects, sources, store, pool=Pool(1), on_slice=told.append), told


def test_an_actor_keeps_its_model(one_actor: tuple[Store, list[Evaluation], list[Answered]]) -> None:
    _, evaluations, told = one_actor
    assert [(e.model, e.task) for e in evaluations] == [(m, t) for m in ("model0", "model1") for t in TASKS]
    assert not any(e.error for e in evaluations)
    assert len({each.process for each in told}) == 1
    assert max(each.loads for each in told) == 2  # two models, each loaded once
    assert [each.subject for each in told] == sorted(each.subject for each in told)
    assert evaluations[0].metrics != evaluations[len(TASKS)].metrics


def test_what_is_in_the_store_is_not_done_again(
    one_actor: tuple[Store, list[Evaluation], list[Answered]], mirror: Path, subjects: list[Subject]
) -> None:
    store, evaluations, _ = one_actor
    again = evaluate_models(subjects, open_tasks(TASKS, Options(mirror=mirror)), store, ray=_no_ray)
    assert _numbers(again) == _numbers(evaluations)
    # A task's result is gone, its slices are not: they are put together again.
    for folder in (store.folder / "evaluations").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    again = evaluate_models(subjects, open_tasks(TASKS, Options(mirror=mirror)), store, ray=_no_ray)
    assert _numbers(again) == _numbers(evaluations)


def test_damaged_answers_are_asked_again(
    one_actor: tuple[Store, list[Evaluation], list[Answered]], mirror: Path, subjects: list[Subject], tmp_path: Path
) -> None:
    shutil.copytree(one_actor[0].folder, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    shutil.rmtree(store.folder / "evaluations")
    for manifest in (store.folder / "answers").glob("*/manifest.json"):
        (manifest.parent / "answers.json").write_text("[]")
    with pytest.raises(AssertionError, match="a Ray was asked for"):
        evaluate_models(subjects, open_tasks(TASKS, Options(mirror=mirror)), store, ray=_no_ray)


def test_a_new_model_under_an_old_store_is_evaluated(
    one_actor: tuple[Store, list[Evaluation], list[Answered]], mirror: Path, subjects: list[Subject]
) -> None:
    other = Subject("model2", subjects[0].source, "another hash")
    with pytest.raises(AssertionError, match="a Ray was asked for"):
        evaluate_models([other], open_tasks(TASKS, Options(mirror=mirror)), one_actor[0], ray=_no_ray)


@pytest.mark.slow
def test_two_actors_small_slices_and_a_killed_actor_change_nothing(
    one_actor: tuple[Store, list[Evaluation], list[Answered]],
    mirror: Path,
    subjects: list[Subject],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 of the process of an actor while slices are under way; called in a thread, as a sweep does."""
    monkeypatch.setattr(run, "cut_slices", functools.partial(cut_slices, size=6))
    told: list[Answered] = []
    killed: list[int] = []

    def on_slice(answered: Answered) -> None:
        told.append(answered)
        if len(told) == 3:
            killed.append(answered.process)
            os.kill(answered.process, signal.SIGKILL)

    found: list[Any] = []
    sources = open_tasks(TASKS, Options(mirror=mirror))
    store = Store(str(tmp_path))
    thread = threading.Thread(
        target=lambda: found.append(evaluate_models(subjects, sources, store, pool=Pool(2), on_slice=on_slice))
    )
    thread.start()
    thread.join(300)
    assert killed and len({each.process for each in told}) >= 2
    assert any(each.process != killed[0] for each in told[3:])
    expected = one_actor[1]
    assert [(e.model, e.task, e.documents, e.error) for e in found[0]] == [
        (e.model, e.task, e.documents, e.error) for e in expected
    ]
    for ours, theirs in zip(found[0], expected, strict=True):
        assert dict(ours.metrics) == pytest.approx(dict(theirs.metrics), rel=1e-6)
        counted = [name for name in ours.metrics if name.endswith("_acc")]
        assert [ours.metrics[name] for name in counted] == [theirs.metrics[name] for name in counted]
    slices = len(list((store.folder / "answers").glob("*/manifest.json")))
    assert len(told) == slices > len(one_actor[2])  # each slice came back once


def test_a_task_that_one_model_cannot_do_fails_alone(
    ray_cluster: None, mirror: Path, subjects: list[Subject], tmp_path: Path
) -> None:
    """Windows of 512 tokens do not fit a model of 64 positions; a broken folder fails its own tasks."""
    small = Subject("small", str(save_model(tmp_path / "small", positions=64)), "small")
    broken = Subject("broken", str(tmp_path / "nowhere"), "broken")
    sources = open_tasks(("piqa", "pile_icu"), Options(mirror=mirror, limit=4))
    store = Store(str(tmp_path / "store"))
    found = {(e.model, e.task): e for e in evaluate_models([broken, small, subjects[0]], sources, store, pool=Pool(1))}
    assert "no such folder" in found["broken", "piqa"].error
    assert "no such folder" in found["broken", "pile_icu"].error
    assert "this model reads only 64" in found["small", "pile_icu"].error
    assert not found["small", "piqa"].error and found["small", "piqa"].metrics
    assert not found["model0", "pile_icu"].error
    again = evaluate_models([subjects[0]], sources, store, ray=_no_ray)  # what was evaluated is kept
    assert not any(each.error for each in again)


class _Deadly(Subject):
    """A model that kills whoever is handed it, each time, as one that fills the memory does; `revision` is a diary."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Named by nothing that the actor would have to import from here.
        return exec, (f"import os; open({self.revision!r}, 'a').write('died '); os._exit(9)",)


@pytest.mark.slow
def test_a_slice_that_always_kills_its_actor_is_given_up(
    ray_cluster: None, mirror: Path, subjects: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RETRIES", 1)
    diary = tmp_path / "diary"
    deadly = _Deadly("deadly", subjects[0].source, "deadly", revision=str(diary))
    sources = open_tasks(("copa",), Options(mirror=mirror, limit=2))
    found = evaluate_models([deadly, subjects[0]], sources, Store(str(tmp_path / "store")), pool=Pool(1))
    assert diary.read_text().count("died") == 2  # the first time and one retry
    assert "1 of 1 slices came back without an answer after 1 retries" in found[0].error
    assert found[1].metrics and not found[1].error


def test_documents_of_all_models_in_one_table(
    one_actor: tuple[Store, list[Evaluation], list[Answered]], tmp_path: Path
) -> None:
    import pyarrow.parquet

    write_documents(one_actor[1], tmp_path / "documents.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "documents.parquet").to_pylist()
    for evaluation in one_actor[1]:
        mine = [r for r in rows if (r["model"], r["task"]) == (evaluation.model, evaluation.task)]
        assert len(mine) == evaluation.documents or evaluation.task == "pile_icu"  # windows, not documents
        if evaluation.task == "hellaswag":
            assert [r["document"] for r in mine] == list(range(12))
            acc = sum(r["acc"] for r in mine) / len(mine)
            assert acc == pytest.approx(evaluation.metrics["cls/hellaswag_acc"])
            assert sum(r["said"] == r["target"] for r in mine) == sum(r["acc"] for r in mine)
            assert all(len(r["loglikelihoods"]) == 4 for r in mine)


@pytest.mark.parametrize(("weights", "actors"), [(0.5, GPU_SHARES), (11, 5), (25, 2), (70, 1), (200, 1)])
def test_small_models_share_a_gpu(weights: float, actors: int) -> None:
    """Each actor's share of 80 GB holds its model and 2 GB more."""
    share = gpu_share(int(weights * GIGABYTE), 80 * GIGABYTE)
    assert share == pytest.approx(1 / actors)
    if actors > 1:
        assert share * 80 > weights + 2


def test_a_backward_needs_room_for_gradients(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", 0)
    subject = Subject("m", str(model), folder_fingerprint(model))
    weights = (model / "model.safetensors").stat().st_size
    room = {"CPU": 16.0, "memory": 2.0 * 9 * weights}
    assert default_pool([subject], room).actors == 9
    assert default_pool([subject], room, backward=True).actors == 3


def test_actors_by_cpu_and_memory(ray_cluster: None, subjects: list[Subject]) -> None:
    assert default_pool(subjects) == Pool(actors=2)


@pytest.mark.parametrize("source", ["{}", "local://{}"])
def test_weights_that_are_not_those_of_the_record_are_not_evaluated(tmp_path: Path, source: str) -> None:
    folder = save_model(tmp_path / "model", 0)
    subject = Subject("model", source.format(folder), folder_fingerprint(folder), recorded=True)
    assert Evaluator(1)._model(subject).model is not None
    save_model(folder, 1)
    with pytest.raises(UserError, match=f"model: its files have changed since their SHA-256 {subject.hash[:12]}"):
        Evaluator(1)._model(subject)
