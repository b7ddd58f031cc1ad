"""Alternates that a model invents for the targets of a sample (AltPO), once for each model and target, in the store.

    alternates, record = make_alternates(AlternatesRequest(...))       # in a Ray task, by sweep/prepare_tasks.py

A pool of Ray Data actors, each with the model, takes a few targets at a time; what comes back goes to the store at
once, each target under a key of its own (model, row, settings). So what an interruption leaves is not made again, nor
is what another sample or sweep has asked already. What is empty, says the truth again or only reasons is drawn anew,
DRAWS times in all; then the target has fewer alternates, and one that has none is refused.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from icu_ray.config import AnswersConfig, ModelConfig, SweepConfig
from icu_ray.console.progress import told
from icu_ray.data.alternates import (
    asking_prompts,
    begins_thinking,
    cut_alternate,
    draw_seed,
    is_alternate,
    refuse_full_positions,
    row_fingerprints,
    true_answers,
    without_alternates,
)
from icu_ray.data.embedding import quiet_ray_data
from icu_ray.data.examples import Examples
from icu_ray.data.prompts import special_ids
from icu_ray.data.specials import specials_of
from icu_ray.errors import UserError
from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.generated_answers import TARGETS_AT_ONCE
from icu_ray.storage.store import JsonValue, Store, content_hash
from icu_ray.trial.artefacts import ArtefactKey, ArtefactRecord, load_original

if TYPE_CHECKING:
    import pyarrow as pa

    from icu_ray.models.loading import LoadedModel

KIND, FILE = "alternates", "alternates.json"
VERSION = 2
"""Raised when the making changes, so that stored ones are not taken for it."""
DRAWS = 4
"""Draws of an alternate before it is given up."""
RETRIES = 5
"""Times that targets are asked again after the death of their actor."""
Ask: TypeAlias = "Callable[[AlternatesRequest, Sequence[int]], Iterator[tuple[int, tuple[str, ...]]]]"
"""Yields (row, its alternates) for these rows of the request's targets, in any order."""


@dataclass(frozen=True)
class AlternatesRequest:
    """All that is told of one model and sample. made, model_key: see `ArtefactRequest`."""

    root: str
    config: SweepConfig
    model: ModelConfig
    made: ArtefactKey | None
    model_key: ArtefactKey
    targets: Examples

    def keys(self) -> list[ArtefactKey]:
        """Of each target's alternates in the store."""
        shared: dict[str, JsonValue] = {
            "version": VERSION,
            "model": self.model_key,
            "precision": self.model.precision,
            "answers": self.config.answers.generation,
        }
        return [{**shared, "row": each} for each in row_fingerprints(self.targets)]


def invent(loaded: LoadedModel, targets: Examples, settings: AnswersConfig) -> list[tuple[str, ...]]:
    """A loaded model's alternates for each target, at most settings.repeats; () where it has none to give."""
    from icu_ray.metrics.generation import decode_candidates
    from icu_ray.metrics.sampling import sample_continuations

    model, tokenizer = loaded.model, loaded.tokenizer
    prompts, truths = asking_prompts(targets, tokenizer, settings.instruction), true_answers(targets)
    thinking = [begins_thinking(str(tokenizer.decode(prompt[-16:]))) for prompt in prompts]
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    refuse_full_positions(targets.ids, prompts, places)
    found: list[dict[int, str]] = [{} for _ in prompts]
    for draw in range(DRAWS):
        numbers = [[n for n in range(settings.repeats) if n not in each] for each in found]
        if not any(numbers):
            break
        seeds = [
            [draw_seed(settings.seed, name, n, draw) for n in each]
            for name, each in zip(targets.ids, numbers, strict=True)
        ]
        said = sample_continuations(
            model,
            prompts,
            seeds,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            pad_id=specials_of(tokenizer).pad_id,
            ends=special_ids(tokenizer),
        )
        for row, each in enumerate(said):
            texts = decode_candidates(
                tokenizer, [np.asarray(tokens, dtype=np.int64) for tokens in each], strip_special=True
            )
            for number, text in zip(numbers[row], texts, strict=True):
                alternate = cut_alternate(text, thinking[row])
                if is_alternate(alternate, truths[row]):
                    found[row][number] = alternate
    return [tuple(each[number] for number in sorted(each)) for each in found]


def make_alternates(
    request: AlternatesRequest, ask: Ask | None = None
) -> tuple[tuple[tuple[str, ...], ...], ArtefactRecord]:
    """Each target's alternates. UserError for a target that gets none.

    ask: what has the model invent those of some targets; default: a pool of actors, which needs a running Ray. It is
    called only if some are missing.
    """
    started, store, keys = time.perf_counter(), Store(request.root), request.keys()
    found: dict[int, tuple[str, ...]] = {}
    for row, key in enumerate(keys):
        if (folder := store.find(KIND, key)) is not None:
            found[row] = _read(folder)
    missing = [row for row in range(len(keys)) if row not in found]
    if missing:
        told("alternates", len(found) / len(keys))
    for row, texts in (ask or _by_actors)(request, missing) if missing else ():
        found[row] = _read(store.get_or_make(KIND, keys[row], _writer(request.targets.ids[row], texts)))
        told("alternates", len(found) / len(keys))
    if len(found) < len(keys):
        raise RuntimeError(
            f"{len(keys) - len(found)} of {len(keys)} targets came back without alternates after {RETRIES} retries: "
            "their actor died; see Ray's log (out of memory?)"
        )
    alternates = tuple(found[row] for row in range(len(keys)))
    _refuse_none(request, alternates)
    name = content_hash([KIND, [dict(key) for key in keys]])
    return alternates, ArtefactRecord(KIND, name, bool(missing), time.perf_counter() - started)


def _refuse_none(request: AlternatesRequest, alternates: Sequence[Sequence[str]]) -> None:
    without = without_alternates(request.targets, alternates)
    if without:
        several = f" and {len(without) - 1} more" if len(without) > 1 else ""
        repeats = request.config.answers.repeats
        raise UserError(
            f"answers.alternates=generated: model {request.model.name} invented none for target '{without[0]}'"
            f"{several}: what it said was empty, the true answer, or reasoning without an end, {DRAWS} times for each "
            f"of answers.repeats={repeats}; change answers.instruction, raise answers.temperature (of a model that "
            "reasons before it answers: answers.max_new_tokens), or give alternates of your own as "
            "data.alternates_column"
        )


def _writer(name: str, texts: Sequence[str]) -> Any:
    def write(folder: Path) -> None:
        content = {"id": name, "alternates": list(texts)}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="replace")

    return write


def _read(folder: Path) -> tuple[str, ...]:
    return tuple(json.loads((folder / FILE).read_text(encoding="utf-8"))["alternates"])


def _by_actors(request: AlternatesRequest, rows: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row, its alternates) of these rows as they come, by a pool of actors. UserError for what the model refuses."""
    import ray

    # Texts of one length stand together, so that little is padding.
    order = sorted(rows, key=lambda row: len(request.targets.texts[row]))
    size = TARGETS_AT_ONCE["gpu" if request.model.gpus else "cpu"]
    parts = [order[begin : begin + size] for begin in range(0, len(order), size)]
    items = [{"rows": part, "targets": pickle.dumps(request.targets.select(part))} for part in parts]
    model = request.model
    with quiet_ray_data():
        # Targets that are given up take none of the others with them.
        ray.data.DataContext.get_current().max_errored_blocks = -1
        invented = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Inventor,
            fn_constructor_args=(request.root, model, request.made, request.config.answers),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=_actors(request, len(items)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=model.cpus_per_worker,
            num_gpus=min(1, model.gpus) or None,
            max_task_retries=RETRIES,
        )
        for block in invented.iter_batches(batch_size=None, batch_format="pyarrow"):
            for answer in block.to_pylist():
                if answer["error"]:
                    raise UserError(answer["error"])
                yield from zip(answer["rows"], map(tuple, answer["alternates"]), strict=True)


def _actors(request: AlternatesRequest, items: int) -> int:
    """As many as the cluster has room for: its GPUs or CPUs, and on CPUs half of its memory."""
    import ray

    model, cluster = request.model, ray.cluster_resources()
    if model.gpus:
        room = cluster.get("GPU", 0) // min(1, model.gpus)
    else:
        weights = 4 * parameters_of(model)
        room = min(cluster.get("CPU", 1) // model.cpus_per_worker, cluster.get("memory", 0) / 2 // weights)
    return int(max(1, min(room, items, request.config.resources.max_workers or items)))


class Inventor:
    """An actor with the model; a call takes some targets and gives their alternates, or why there are none."""

    def __init__(self, root: str, model: ModelConfig, made: ArtefactKey | None, settings: AnswersConfig) -> None:
        import torch

        torch.set_num_threads(model.cpus_per_worker)
        self.root, self.model, self.made, self.settings = root, model, made, settings
        self.loaded: LoadedModel | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        schema = pa.schema(
            [
                ("rows", pa.list_(pa.int64())),
                ("alternates", pa.list_(pa.list_(pa.string()))),
                ("error", pa.string()),
            ]
        )
        return pa.Table.from_pylist([self._answer(item) for item in batch.to_pylist()], schema=schema)

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.loaded is None:
                self.loaded = load_original(self.model, self.made, Store(self.root))
            alternates = invent(self.loaded, pickle.loads(item["targets"]), self.settings)
        except UserError as error:
            return {"rows": item["rows"], "alternates": [], "error": str(error)}
        except (RuntimeError, MemoryError) as error:  # torch's errors, out of memory among them
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            said = f"model {self.model.name} cannot invent alternates: {first}"
            return {"rows": item["rows"], "alternates": [], "error": said}
        # Half of a surrogate pair, which a broken tokenizer may emit, has no UTF-8.
        texts = [[text.encode("utf-8", "replace").decode("utf-8") for text in each] for each in alternates]
        return {"rows": item["rows"], "alternates": texts, "error": ""}
