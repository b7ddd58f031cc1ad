"""Writing a mirror of the evaluation data for machines without a network.

    write_mirror(Path("mirror"), ["hellaswag", "wow"], print)        # icu-ray data mirror --out mirror

Rows of harness tasks come through `datasets` from wherever the task's definition says (the hub, or a local folder), one
JSON object a line, and are named once complete. The authors' own files come from their repository at a fixed commit,
checked against their SHA-256. What is there already stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icu_ray.console.progress import told
from icu_ray.data.fetch import PublicFile, fetch_data
from icu_ray.errors import UserError
from icu_ray.evaluation.definition import Definition
from icu_ray.evaluation.rows.read_mirror import AUTHORS_FOLDER, ROWS_FOLDER
from icu_ray.storage.files import cache_folder, write_atomic

_COMMIT = "bb776e39de81ebcb53d1e7e51031960ec4f6842c"


def _authors(name: str, folder: str, size: int, sha256: str) -> PublicFile:
    return PublicFile(f"{AUTHORS_FOLDER}/{name}", "himalalps/ICU", _COMMIT, f"{folder}/{name}", size, sha256)


AUTHORS_FILES = (
    _authors(
        "blended_skill_talk.json",
        "datasets/validation_data",
        952048,
        "60c938c0f2f2f15d00a962a2df2163a9ce2d1511a90baacc68cb713d3b686766",
    ),
    _authors(
        "empathetic_dialogues.json",
        "datasets/validation_data",
        934894,
        "337ebfe6171f8732f114ea618febde30bb05bf2fa3aff259f452c9c5bbac65de",
    ),
    _authors(
        "wizard_of_internet.json",
        "datasets/validation_data",
        595218,
        "8347706b3d7c33816c9b53851ec34e11015fa0632c067a69d44b4d754cc60bd9",
    ),
    _authors(
        "wizard_of_wikipedia.json",
        "datasets/validation_data",
        801541,
        "e8d2d3332fe6abf59a567fa4a6cc9d7d8bfbebf0d38291519ef7a3df0df2e978",
    ),
    _authors(
        "pile.csv",
        "datasets/validation_data",
        1107676,
        "c5339507c8d8478f78f59a248f67d86b5e91e126d74949cdc8d8293e6a742b94",
    ),
    _authors(
        "wikitext.csv",
        "datasets/validation_data",
        1146335,
        "cb85284acc5ce7e23706d69fc75da183c591da5a207c25c66490659dd88fcb0f",
    ),
    _authors("lambada.csv", "datasets", 1752047, "4059051c8cddaef9577f37dc0fb7399ecfdeac19712e831f09b9e75ca534ff27"),
    _authors("pubmed_qa.csv", "datasets", 1308371, "f2b0fb465b7cf1e1c3dce47a0b51baea35aa8bc67705682aaddf70f36b041519"),
)


def authors_folder() -> Path:
    """A folder below the local cache that holds the authors' files; downloaded at first use."""
    base = cache_folder() / "evaluation"
    fetch_data(base, lambda line: None, files=AUTHORS_FILES)
    return base


def write_mirror(out: Path, definitions: Sequence[Definition], say: Callable[[str], None], *, authors: bool) -> None:
    """Write the rows of every definition's splits below `out`, and with `authors` the authors' files.

    say: gets one line a file. UserError with what to put where when something cannot be had.
    """
    failed: list[str] = []
    for number, definition in enumerate(definitions):
        told(f"reading {definition.name}", number / len(definitions))
        for split in dict.fromkeys([definition.split, definition.fewshot_split or definition.split]):
            name = str(definition.metadata.get("mirror", definition.name))
            path = out / ROWS_FOLDER / f"{name}_{split}.jsonl"
            if path.is_file():
                say(f"{path}: there already")
                continue
            try:
                rows = _rows(definition, split)
            except Exception as error:  # the hub client and datasets raise many kinds, all meaning: not from here
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                failed.append(f"  {path}\n    split '{split}' of {_source(definition)} ({reason})")
                continue
            write_atomic(str(path), _lines(rows, definition.name))
            say(f"{path}: {len(rows)} rows of {_source(definition)}")
    if failed:
        raise UserError(
            f"data mirror: {len(failed)} files cannot be downloaded. Put them there by hand, each row one JSON object "
            "a line:\n" + "\n".join(failed)
        )
    if authors:
        fetch_data(out, say, files=AUTHORS_FILES)


def _source(definition: Definition) -> str:
    name = definition.config.get("dataset_name")
    return f"{definition.config.get('dataset_path')}" + (f" ({name})" if name else "")


def _rows(definition: Definition, split: str) -> Any:
    import datasets

    config = definition.config
    return datasets.load_dataset(
        config["dataset_path"], config.get("dataset_name"), split=split, **(config.get("dataset_kwargs") or {})
    )


def _lines(rows: Any, name: str) -> bytes:
    try:
        return "".join(f"{json.dumps(dict(row), ensure_ascii=False)}\n" for row in rows).encode()
    except TypeError as error:
        raise UserError(f"data mirror: {name}: its rows hold more than text and numbers ({error})") from error
