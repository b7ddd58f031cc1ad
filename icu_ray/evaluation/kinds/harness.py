"""Tasks of lm-evaluation-harness (and our own in its format) as requests and scores.

    source = harness_task(find_definition("hellaswag"), RowsFrom(mirror=Path("mirror")), limit=None)

The harness's own ConfigurableTask makes the prompts, judges the answers and aggregates; only the scoring of requests is
ours. With a mirror its rows go in as they are and every document is looked at before a model is: what cannot be asked
is refused with file, row and reason. Without one the harness loads its dataset from the hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.evaluation.definition import Definition
from icu_ray.evaluation.kinds.harness_scores import score_documents
from icu_ray.evaluation.kinds.without_code import refuse_foreign_metrics, sandbox_templates, task_of_values
from icu_ray.evaluation.model_requests import Answer, Kind, Measure, Request
from icu_ray.evaluation.rows.read_mirror import Row, read_csv, read_jsonl, rows_file
from icu_ray.evaluation.task import Scores, Task, TaskSource
from icu_ray.storage.store import JsonValue, file_hash

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

AUTHORS_LENGTH = 512
FEWSHOT_SEED = 1234
"""lm-eval's default."""
_KINDS: Mapping[str, Kind] = {
    "multiple_choice": "loglikelihood",
    "loglikelihood": "loglikelihood",
    "loglikelihood_rolling": "rolling",
    "generate_until": "harness_generation",
}
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "lambada_icu": ("text",),
    "pubmedqa_icu": ("abstract", "question", "final_decision"),
}


@dataclass(frozen=True)
class RowsFrom:
    """Where a task's documents come from: rows made here, else a file, else a mirror, else the hub."""

    mirror: Path | None = None
    file: Path | None = None
    made: Sequence[Row] | None = None
    made_key: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class _Split:
    """Rows of one split and what they are called in a refusal; hash: of their bytes."""

    where: str
    hash: JsonValue
    read: Callable[[], Sequence[Row]]


def harness_task(definition: Definition, rows: RowsFrom, limit: int | None) -> TaskSource:
    """A task by its definition; from the hub it is read now, else when it is loaded."""
    splits = _splits(definition, rows)
    identity: dict[str, JsonValue] = {**definition.identity(), "limit": limit}
    if splits is not None:
        return TaskSource(
            definition.name,
            {**identity, "rows": {name: split.hash for name, split in splits.items()}},
            lambda: _load(definition, splits, limit),
        )
    task = _load(definition, None, limit)
    requests = [asdict(request) for request in task.ask(None)]  # type: ignore[arg-type]
    digest = hashlib.sha256(json.dumps(requests, sort_keys=True).encode()).hexdigest()
    return TaskSource(definition.name, {**identity, "requests": digest}, lambda: task)


def _splits(definition: Definition, rows: RowsFrom) -> dict[str, _Split] | None:
    """The splits a task reads, by name; None when they are on the hub."""
    made, file, mirror = rows.made, rows.file, rows.mirror
    if made is not None:
        return {definition.split: _Split(definition.name, dict(rows.made_key), lambda: made)}
    if file is not None:
        columns = _COLUMNS[definition.name]
        return {definition.split: _Split(str(file), file_hash(file), lambda: read_csv(file, columns))}
    if mirror is None:
        return None
    if "class" in definition.config:
        raise UserError(f"task '{definition.name}': is written in Python and reads the hub itself, not a mirror")
    name = str(definition.metadata.get("mirror", definition.name))
    found = {}
    for split in dict.fromkeys([definition.split, definition.fewshot_split or definition.split]):
        path = rows_file(mirror, name, split)
        found[split] = _Split(str(path), file_hash(path), lambda path=path: read_jsonl(path))  # type: ignore[misc]
    return found


def _load(definition: Definition, splits: Mapping[str, _Split] | None, limit: int | None) -> Task:
    with _quiet():
        if not definition.trusted:
            refuse_foreign_metrics(definition)
        if splits is None:
            where, harness = f"task {definition.name}", _from_hub(definition)
        else:
            where, harness = splits[definition.split].where, _from_rows(definition, splits)
        _refuse_media(definition, harness)
        asked = [_ask(harness, number, doc, where) for number, doc in enumerate(_documents(harness, limit))]
    kind = _KINDS[str(harness.OUTPUT_TYPE)]
    own = definition.metadata.get("encoding") == "separate"
    measure = Measure(
        kind,
        encoding="separate" if own else "joint",
        max_length=AUTHORS_LENGTH if own else None,
        greedy_text=bool(definition.metadata.get("greedy_text")),
    )
    requests = tuple(_request(kind, number, each) for number, some in enumerate(asked) for each in some)

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        return score_documents(harness, definition.name, measure, asked, requests, answers)

    return Task(definition.name, len(asked), measure, lambda tokenizer: requests, score)


def _from_hub(definition: Definition) -> ConfigurableTask:
    try:
        return _built(definition, {})
    except UserError:
        raise
    except Exception as error:  # the hub client and datasets raise many kinds, all meaning that these rows are not here
        source = definition.config.get("dataset_path")
        if definition.reads_files:
            said = f"{definition.path}: its files of rows cannot be read as {source} ({_said(_first_cause(error))})"
        else:
            said = (
                f"{source} cannot be had from the hub ({_said(error)}); without a network give a folder with "
                "evaluation.mirror (--mirror)"
            )
        raise UserError(f"task {definition.name}: {said}") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _first_cause(error: BaseException) -> BaseException:
    """What `datasets` calls 'an error while generating the dataset' was raised from."""
    return error if error.__cause__ is None else _first_cause(error.__cause__)


def _from_rows(definition: Definition, splits: Mapping[str, _Split]) -> ConfigurableTask:
    """The task with its rows in memory. What it cannot be made of is looked for row by row."""
    read = {name: list(split.read()) for name, split in splits.items()}

    def build(rows: Sequence[Row]) -> ConfigurableTask:
        import datasets

        tables = {name: datasets.Dataset.from_list(some) for name, some in {**read, definition.split: rows}.items()}
        fewshot = definition.fewshot_split
        overrides = {
            "dataset_name": None,
            "dataset_kwargs": None,
            # Without examples the harness would still load the training split, which no mirror needs to hold.
            "training_split": definition.config.get("training_split") if fewshot in read and fewshot else None,
            "validation_split": None,
            "test_split": None,
            definition.split_key: definition.split,
            "custom_dataset": lambda **_: datasets.DatasetDict(tables),
        }
        return _built(definition, overrides)

    rows = read[definition.split]
    try:
        return build(rows)
    except Exception as error:  # prompts are templates and functions: a wrong row makes them raise anything
        first = _first_failing(rows, build)
        if first is None:
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{splits[definition.split].where}: row {first + 1}: no document of this task ({reason})"
        ) from error


def _first_failing(rows: Sequence[Row], build: Callable[[Sequence[Row]], object]) -> int | None:
    """Number of the first row with which a build fails, by halving; None when all rows together are the trouble."""

    def fails(some: Sequence[Row]) -> bool:
        try:
            build(some)
        except Exception:
            return True
        return False

    good, bad = 0, len(rows)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(rows[:middle]) else (middle, bad)
    return bad - 1 if fails(rows[bad - 1 : bad]) else None


def _built(definition: Definition, overrides: Mapping[str, Any]) -> ConfigurableTask:
    from lm_eval.tasks import TaskManager

    sandbox_templates()
    if definition.trusted:
        manager = TaskManager(include_defaults=False, include_path=str(definition.path.parent))
        group = {"group": "icu_ray", "task": [{**overrides, "task": definition.name}]}
        task: Any = manager.load([group])["tasks"][definition.name]
    else:
        task = task_of_values(definition, overrides)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _refuse_media(definition: Definition, harness: ConfigurableTask) -> None:
    if harness.OUTPUT_TYPE not in _KINDS or getattr(harness, "MULTIMODAL", False):
        raise UserError(f"task '{definition.name}': asks for more than text; expected a task of text")
    if getattr(harness, "UNSAFE_CODE", False):
        raise UserError(f"task '{definition.name}': runs code that a model writes, which is not done here")


def _documents(harness: ConfigurableTask, limit: int | None) -> Iterator[Mapping[str, Any]]:
    for number, doc in enumerate(harness.eval_docs):
        if number == limit:
            return
        yield doc


def _ask(harness: ConfigurableTask, number: int, doc: Mapping[str, Any], where: str) -> list[Instance]:
    """The requests of one document, checked."""
    place = f"{where}: row {number + 1}"
    config = harness.config
    try:
        context = harness.fewshot_context(doc, config.num_fewshot or 0, gen_prefix=harness.doc_to_prefix(doc))
        if harness.OUTPUT_TYPE == "multiple_choice":
            _check_choices(harness, doc, place)
        made = harness.construct_requests(doc=dict(doc), ctx=context, metadata=(config.task, number, 1))
    except UserError:
        raise
    except Exception as error:  # as above: templates and functions on a row that is not what they expect
        raise UserError(f"{place}: no document of this task ({type(error).__name__}: {error})") from error
    instances = made if isinstance(made, list) else [made]
    for each in instances:
        if each.request_type == "loglikelihood" and not each.args[1]:
            raise UserError(f"{place}: there is nothing to score: the continuation is empty")
    return instances


def _check_choices(harness: ConfigurableTask, doc: Mapping[str, Any], place: str) -> None:
    choices = harness.doc_to_choice(doc)
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{place}: its list of candidates is empty")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{place}: a candidate is empty: {choices}")
    gold = harness.doc_to_text(doc) if harness.multiple_input else harness.doc_to_target(doc)
    for each in gold if isinstance(gold, list) else [gold]:
        inside = 0 <= each < len(choices) if isinstance(each, int) else each in choices
        if not inside:
            raise UserError(f"{place}: label {each!r} is none of its {len(choices)} candidates")


def _request(kind: Kind, number: int, instance: Instance) -> Request:
    if kind == "rolling":
        return Request(number, "", instance.args[0])
    if kind == "harness_generation":
        return Request(number, instance.args[0], json.dumps(instance.args[1], sort_keys=True))
    return Request(number, instance.args[0], instance.args[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and datasets without progress bars and advice."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
