"""Which lm-eval task a name means, read from its YAML file without importing lm-eval (6 s) or its index (30 s).

The nine tasks of the paper's table are known by their place; our own lie in tasks/. Any other name is looked up in the
harness's index, which takes that long once.
"""

from __future__ import annotations

import functools
import glob
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from icu_ray.errors import UserError, did_you_mean
from icu_ray.storage.store import JsonValue, file_hash

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

TRUST = "trust_task_code (evaluation.trust_task_code=true, icu-ray evaluate --trust-task-code)"
"""What a user sets to have the code of his own tasks run, as messages say it."""
_FILES_OF_ROWS = ("json", "csv", "parquet", "arrow", "text")
"""Readers of `datasets` whose rows lie in files that `data_files` names."""
OWN_FOLDER = Path(__file__).parent / "tasks"
HARNESS_FILES: Mapping[str, str] = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "winogrande": "winogrande/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "mathqa": "mathqa/mathqa.yaml",
    "pubmedqa": "pubmedqa/pubmedqa.yaml",
}

FOLDERS: Mapping[str, str] = {"wmdp": "", "mmlu/default": "", "bbh/cot_fewshot": "bbh_cot_fewshot_", "truthfulqa": ""}
"""Of the harness, with further tasks and groups, known by their place; how names begin that their files lack."""
ALONE: Mapping[str, str] = {"triviaqa": "triviaqa/default.yaml"}
"""Files of the harness's further tasks."""


@dataclass(frozen=True)
class Definition:
    """A task's YAML. config: its keys, includes merged, functions as their names."""

    name: str
    path: Path
    config: Mapping[str, Any]
    own: bool = False
    """Whether this is a user's own file."""
    trusted: bool = True
    """Whether code that it names may be run; without, it names none."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Free keys: what the format cannot say of our own tasks."""
        found = self.config.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def reads_files(self) -> bool:
        """Whether its rows lie in files that it names, not on the hub."""
        return self.config.get("dataset_path") in _FILES_OF_ROWS

    def check_files(self) -> None:
        """UserError for a file of rows on this machine that is not there; looked for as `datasets` does."""
        asked = self.config.get("dataset_kwargs")
        if not self.reads_files or not isinstance(asked, dict):
            return
        folder = str(asked.get("data_dir") or "")
        for file in _names_in(asked.get("data_files")):
            # Of these two `datasets` expands '~' in the folder alone.
            path = os.path.join(os.path.expanduser(folder), file)
            if "://" not in path and not glob.glob(path, recursive=True):
                below = f" in data_dir {folder}" if folder else ""
                raise UserError(f"task {self.name}: {self.path}: data_files: {file}: no such file{below}")

    @property
    def split(self) -> str:
        """The split that is scored: as in the harness, the test split where the task names one."""
        found = self.config.get("test_split") or self.config.get("validation_split")
        if not isinstance(found, str):
            raise UserError(f"task {self.name}: {self.path.name} names neither a test nor a validation split")
        return found

    @property
    def split_key(self) -> str:
        """'test_split' or 'validation_split'."""
        return "test_split" if self.config.get("test_split") else "validation_split"

    @property
    def fewshot_split(self) -> str | None:
        """Where examples come from, for a task that is asked with examples."""
        if not self.config.get("num_fewshot"):
            return None
        found = self.config.get("fewshot_split") or self.config.get("training_split") or self.split
        return str(found)

    def identity(self) -> dict[str, JsonValue]:
        """What decides the task besides its rows: the harness's version, or our own files' content."""
        if self.own:
            folder = self.path.parent
            return {"task": self.name, "files": [file_hash(path) for path in [self.path, *sorted(folder.glob("*.py"))]]}
        if self.path.parent != OWN_FOLDER:
            return {"lm_eval": importlib.metadata.version("lm_eval"), "task": self.name}
        files = [self.path, *sorted(OWN_FOLDER.glob("*.py")), OWN_FOLDER.parent / "texts.py"]
        include = self.config.get("include")
        files += [self.path.parent / str(include)] * bool(include)
        return {"task": self.name, "files": [file_hash(path) for path in files]}


def _names_in(files: object) -> Iterator[str]:
    """The names in `data_files`: one, a list, either of them by split, or a list of {split, path}."""
    if isinstance(files, str):
        yield files
    elif isinstance(files, dict):
        for some in files.values():
            yield from _names_in(some)
    elif isinstance(files, list):
        for some in files:
            yield from _names_in(some.get("path") if isinstance(some, dict) else some)


class _Loader(yaml.SafeLoader):
    """SafeLoader that takes `!function module.name` for the text after it."""


class _LoaderWithoutCode(yaml.SafeLoader):
    """SafeLoader that refuses `!function module.name`."""


def _function_name(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _no_function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    raise _CodeError(f"line {node.start_mark.line + 1}: '!function {loader.construct_scalar(node)}'")


class _CodeError(Exception):
    """A task's file names code. The text: where and what."""


_Loader.add_constructor("!function", _function_name)
_LoaderWithoutCode.add_constructor("!function", _no_function)
_CODE_KEYS = ("class", "use_prompt")
"""Keys for which the harness imports a class, or reads another file by its own reader."""


def read_definition(name: str, path: Path) -> Definition:
    """A task's file with what it includes."""
    return Definition(name, path, _merged(path))


def read_keys(path: Path, own: bool) -> dict[str, Any]:
    """The keys of a file of the harness's format; none for one that is no such file. own: code in it is not named."""
    try:
        return _merged(path, _LoaderWithoutCode if own else _Loader)
    except (
        _CodeError,
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ):
        return {}


def _merged(path: Path, loader: type[yaml.SafeLoader] = _Loader) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except _CodeError as error:
        raise _CodeError(f"{path.name}, {error}") from None
    include = config.get("include")
    for other in [include] if isinstance(include, str) else include or ():
        config = {**_merged(path.parent / other, loader), **config}
    return dict(config)


def own_names() -> list[str]:
    """Names of the tasks in tasks/."""
    return sorted(path.stem for path in OWN_FOLDER.glob("*.yaml"))


def find_definition(name: str, known: tuple[str, ...] = (), trust_code: bool = False) -> Definition:
    """The task called `name`; UserError with the nearest names for an unknown one, or for a group or a tag (groups.py).

    name: of a task here or of the harness, or the path of a user's own YAML file in the harness's format. known:
    further names a user may have meant. trust_code: a user's own file may name code; else that is refused.
    """
    if name.endswith(".yaml"):
        return _own_definition(Path(name), known, trust_code)
    if name in own_names():
        return read_definition(name, OWN_FOLDER / f"{name}.yaml")
    if name in HARNESS_FILES:
        return read_definition(name, harness_folder() / HARNESS_FILES[name])
    if name in ALONE:
        return read_definition(name, harness_folder() / ALONE[name])
    for folder, begin in FOLDERS.items():
        file = harness_folder() / folder / f"{name.removeprefix(begin)}.yaml"
        if name.startswith(begin) and file.is_file():
            return read_definition(name, file)
    index = harness_index()
    if name in index.all_groups or name in index.all_tags:
        raise UserError(f"task '{name}': this is a group of the harness, which has no documents of its own")
    if name not in index.all_subtasks:
        # A name near the tasks people usually ask for is meant more often than one of the harness's thousands.
        near = did_you_mean(name, (*known, *HARNESS_FILES)) or did_you_mean(name, index.all_subtasks)
        raise UserError(f"unknown task '{name}'{near}; expected a task of a suite or of lm-eval")
    path = index.task_index[name].yaml_path
    if path is None:
        raise UserError(f"task '{name}' has no YAML file in the harness; only tasks with one can be evaluated")
    return read_definition(name, path)


def _own_definition(path: Path, known: tuple[str, ...], trust_code: bool) -> Definition:
    """A user's own task, called as its key `task` says."""
    try:
        config = _merged(path, _Loader if trust_code else _LoaderWithoutCode)
        if not trust_code and (keys := [key for key in _CODE_KEYS if key in config]):
            raise _CodeError(f"key '{keys[0]}'")
    except _CodeError as error:
        raise UserError(f"task {path}: {error}: code, which is run only with {TRUST}") from None
    except FileNotFoundError as error:
        raise UserError(f"task {path}: no such file ({error.filename}); expected a task of lm-eval's format") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"task {path}: cannot be read: {error}; expected a task of lm-eval's format") from error
    name = config.get("task")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UserError(f"task {path}: task: expected a name of letters, digits and '_', found {name!r}")
    if name in (*known, *own_names(), *HARNESS_FILES):
        raise UserError(f"task {path}: task: '{name}' is the name of a task that is there; give it another")
    return Definition(name, path.resolve(), config, own=True, trusted=trust_code)


@functools.cache
def harness_index() -> TaskManager:
    """All that the harness knows by name."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def harness_folder() -> Path:
    """Where the harness's own tasks lie."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"
