"""Where a sweep keeps what another framework measured: <storage>/<sweep>/imported/<label>.json, one file a label.

write_imported("runs", "tofu", imported); found = read_imported("runs", "tofu", "npo")
"""

from __future__ import annotations

import re
from dataclasses import asdict

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.files import join, list_dir, write_atomic
from icu_ray.storage.imported import Imported
from icu_ray.storage.results import to_json
from icu_ray.storage.values import read_value

FOLDER = "imported"
_ENDING = ".json"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=(),-]{0,99}", re.ASCII)


def is_label(text: str) -> bool:
    """Whether a label can be a file's name everywhere: up to 100 ASCII letters, digits and ._+=(),- after the first."""
    return _LABEL.fullmatch(text) is not None


def imported_file(storage: str, sweep: str, label: str) -> str:
    """Path or URL of the file of a label."""
    return join(storage, sweep, FOLDER, label + _ENDING)


def write_imported(storage: str, sweep: str, imported: Imported) -> None:
    """Write it whole, in place of what had its label."""
    write_atomic(imported_file(storage, sweep, imported.label), to_json(asdict(imported), indent=1))


def imported_labels(storage: str, sweep: str) -> tuple[str, ...]:
    """The labels that have a file, sorted."""
    names = list_dir(join(storage, sweep, FOLDER))
    return tuple(name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING))


def read_imported(storage: str, sweep: str, label: str) -> Imported | None:
    """What has this label, None where there is nothing; UserError for a file that is no such value."""
    url = imported_file(storage, sweep, label)
    remedy = "remove the file, or read the evaluation again with 'icu-ray import'"
    found = read_value(Imported, url, remedy)
    if found is not None and found.label != label:
        said = f"is labelled {found.label[:40]!r}, expected {label!r}, as the file is called"
        raise UserError(f"{without_secrets(url)}: {said}; {remedy}")
    return found
