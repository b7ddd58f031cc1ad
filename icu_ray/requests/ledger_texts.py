"""The texts of a ledger's requests: taken in, put together for a run, proved afterwards by keyed hashes.

    add(folder, Path("forget.jsonl"), subject="17", due="2026-12-24")
    union = union_file(folder, state, ["r1", "r2"], target)

A text is kept in texts/<request>.jsonl until it is purged. Its keyed hash stands in the ledger for good: HMAC-SHA256
with the ledger's key, the same for texts that differ only in blanks, line ends or the encoding of accents.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData
from icu_ray.config.file import load_data
from icu_ray.data.hub_data import is_hub_data
from icu_ray.data.records import Record, read_records, reading_once
from icu_ray.data.table_files import column_names, file_ending, read_columns
from icu_ray.errors import UserError
from icu_ray.requests.ledger import mac, now, read_chain, read_key, refuse_damaged, writing
from icu_ray.requests.ledger_settings import WORK, records_data, request_config
from icu_ray.requests.ledger_state import LedgerState, Request, requested, state_of
from icu_ray.requests.unlearn import plan_request
from icu_ray.requests.versions import model_of
from icu_ray.storage.files import write_atomic

TEXTS = "texts"
KEY = "FILE"
_FORM = (
    *("text_column", "prompt_column", "completion_column", "messages_column", "template", "tags", "system"),
    *("chat_date", "id_column"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_state(folder: Path) -> LedgerState:
    """A ledger's state; UserError where it is damaged, or there is none."""
    chain = read_chain(folder)
    refuse_damaged(folder, chain)
    return state_of(chain.entries)


def texts_file(folder: Path, request: str) -> Path:
    """Where the texts of a request lie until they are purged."""
    return folder / TEXTS / f"{request}.jsonl"


def add(
    folder: Path,
    file: Path,
    *,
    request: str | None = None,
    subject: str | None = None,
    due: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Request:
    """A request more, which waits. UserError for what could not be run, or is in a request already.

    request: its id (default: r and the next free number). subject: who asks. due: a day, 2026-12-24.
    """
    _check_names(request, subject)
    due = None if due is None else _day(due)
    if is_hub_data(file):
        raise UserError(f"{KEY}: {file}: expected a file; the texts are kept in the ledger until they are purged")
    file_ending(file, KEY)
    state = read_state(folder)
    with reading_once():
        data = _checked(folder, state, file, say)
    records = _records(file, data)
    key = read_key(folder)
    told = [{"id": record.id, "hmac": mac(key, record.content)} for record in records]
    with writing(folder) as book:
        state = state_of(book.entries)
        free = (f"r{number}" for number in itertools.count(len(state.requests) + 1))
        name = request or next(each for each in free if each not in state.requests)
        if name in state.requests:
            raise UserError(f"--id {name}: is in the ledger already, since {state.requests[name].added}; give another")
        _refuse_known(state, told, file)
        remove_orphans(folder, state)
        entered: dict[str, Any] = {"request": name, "subject": subject, "due": due, "file": str(file)}
        entered |= {"form": form_told(data), "texts": told}
        content = _kept_rows(file, data, name, [record.id for record in records])
        (folder / TEXTS).mkdir(mode=0o700, exist_ok=True)
        write_atomic(str(texts_file(folder, name)), content)
        texts_file(folder, name).chmod(0o600)
        # What every later command reads has to be what the entry says of it.
        if trouble := texts_trouble(folder, requested(entered, now()), key):
            texts_file(folder, name).unlink()
            raise UserError(
                f"{KEY}: {file}: was not kept as it was read ({trouble}); nothing was entered, add it again"
            )
        book.append("added", entered)
        return state_of(book.entries).requests[name]


def _check_names(request: str | None, subject: str | None) -> None:
    if request is not None and not _NAME.fullmatch(request):
        raise UserError(f"--id {request}: expected up to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    if subject is not None and not subject.strip():
        raise UserError("--subject: is empty; expected who asks")


def _day(due: str) -> str:
    """A day as 2026-12-24 however it was typed (20261224, 2026-W52-4): due days are put in order as text."""
    try:
        return datetime.date.fromisoformat(due).isoformat()
    except ValueError:
        raise UserError(f"--due {due}: expected a day such as {now()[:10]}") from None


def _checked(folder: Path, state: LedgerState, file: Path, say: Callable[[str], None]) -> RecordsData:
    """How the rows of a file are written; UserError where a run could not be made of it."""
    config = request_config(state.settings, file, folder / WORK, model=model_of(folder, state, state.current), say=say)
    plan_request(config, dry_run=True)
    return records_data(config)


def _records(file: Path, data: RecordsData) -> Sequence[Record]:
    return read_records(file, data.form, data.id_column, KEY, "forget")


def _refuse_known(state: LedgerState, told: Sequence[Mapping[str, str]], file: Path) -> None:
    """A text may stand in one request alone. Once purged it may be asked for again: nobody can look any more."""
    known = {
        text["hmac"]: (each.id, text["id"])
        for each in state.requests.values()
        if each.state != "undone" and each.held
        for text in each.texts
    }
    for text in told:
        if text["hmac"] in known:
            request, name = known[text["hmac"]]
            raise UserError(
                f"{KEY}: {file}: text '{text['id']}' is in request {request} already, as '{name}' "
                f"({state.requests[request].state}); remove it"
            )


def _kept_rows(file: Path, data: RecordsData, request: str, ids: Sequence[str]) -> bytes:
    """The rows with the columns that are read, ids with the request before them: two requests may use the same ids.

    ids: of the records, as they were read: a table may hold 1.0 where the text is called '1'.
    """
    named = (
        *(data.id_column, data.subject_column, data.pair_column),
        *(data.alternates_column, data.paraphrases_column),
    )
    columns = list(dict.fromkeys((*data.form.columns, *(name for name in named if name is not None))))
    lines = []
    for (_, values), name in zip(read_columns(file, columns, KEY), ids, strict=False):
        row = dict(zip(columns, values, strict=True))
        if data.id_column is not None:
            row[data.id_column] = f"{request}/{name}"
        lines.append(json.dumps(row, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def remove_orphans(folder: Path, state: LedgerState) -> None:
    """Remove texts whose request was never entered, because who added it was killed. Only for who writes the ledger."""
    for found in (folder / TEXTS).glob("*"):
        if any(each.path == str(found.relative_to(folder)) for each in state.unreached):
            continue  # a purge does that, which enters it
        request = state.requests.get(found.name.removesuffix(".jsonl"))
        if request is None or found.suffix != ".jsonl" or request.purged:
            with contextlib.suppress(OSError):  # which holds nothing up, and is tried again by whoever writes next
                found.unlink()


def union_file(folder: Path, state: LedgerState, requests: Iterable[str], target: Path) -> None:
    """The texts of several requests in one file, in this order. UserError where some of them are missing or changed."""
    names = checked(folder, state, requests)
    write_atomic(str(target), b"".join(texts_file(folder, name).read_bytes() for name in names))
    target.chmod(0o600)


def checked(folder: Path, state: LedgerState, requests: Iterable[str]) -> list[str]:
    """These requests; UserError where the texts of one are not in the ledger's folder, or not those that were added."""
    names, key = list(requests), read_key(folder)
    for name in names:
        if trouble := texts_trouble(folder, state.requests[name], key):
            raise UserError(f"{trouble}; expected the texts that were added as request {name}")
    return names


def texts_trouble(folder: Path, request: Request, key: bytes) -> str:
    """What is wrong with the texts of a request that the ledger still has, '' for nothing. key: the ledger's."""
    file = texts_file(folder, request.id)
    if not file.is_file():
        return f"{file}: the texts of {request.id} are not there"
    try:
        records = records_of(file, request.form, "its texts")
    except UserError as error:
        return f"{file}: the texts of {request.id} were changed: {error}"
    for text, record in zip(request.texts, records, strict=False):
        if record.id.removeprefix(f"{request.id}/") != text["id"] or mac(key, record.content) != text["hmac"]:
            return f"{file}: text '{text['id']}' of {request.id} was changed: the ledger has another hash of it"
    if len(records) != len(request.texts):
        return f"{file}: {request.id} has {len(request.texts)} texts by the ledger, found {len(records)}"
    return ""


def form_told(data: RecordsData) -> dict[str, Any]:
    """How the rows of a request's file are written: keys of the config's section `data`, without files."""
    return data.model_dump(mode="json", include=set(_FORM), exclude_none=True)


def records_of(file: Path, form: Mapping[str, Any], key: str) -> Sequence[Record]:
    """The texts of a file that is written as `form_told` says; they are numbered where it has no column of ids."""
    data = load_data({"source": "records", "forget": str(file), **form}, key)
    assert isinstance(data, RecordsData)
    named = data.id_column if data.id_column in column_names(file, key) else None
    return read_records(file, data.form, named, key, "forget")


def proved(folder: Path, file: Path) -> list[dict[str, Any]]:
    """For each text of a file: its id there, and in which requests it is, by keyed hashes alone: no model is needed.

    A .txt file is one text; others are read as the requests' own files were.
    """
    state, key = read_state(folder), read_key(folder)
    where: dict[str, list[str]] = {}
    for each in state.requests.values():
        for text in each.texts:
            where.setdefault(text["hmac"], []).append(f"{each.id}/{text['id']}")
    told: dict[str, dict[str, Any]] = {}
    for records in _readings(file, [each.form for each in state.requests.values()]):
        for record in records:
            found = where.get(mac(key, record.content), [])
            known = told.setdefault(record.id, {"id": record.id, "found": []})
            known["found"] = list(dict.fromkeys((*known["found"], *found)))
    return list(told.values())


def _readings(file: Path, forms: Sequence[Mapping[str, Any]]) -> list[Sequence[Record]]:
    """The file's texts in every way in which files of the ledger were read, as far as it can be."""
    if file.suffix.lower() == ".txt":
        if not file.is_file():
            raise UserError(f"--text: {file}: no such file")
        try:
            return [[Record(file.name, file.read_text(encoding="utf-8"), "file")]]
        except UnicodeDecodeError as error:
            raise UserError(f"--text: {file}: no UTF-8 text: {error.reason} at byte {error.start}") from error
    file_ending(file, "--text")
    found, trouble = [], UserError(f"--text: {file}: the ledger has no request")
    for form in [form for place, form in enumerate(forms) if form not in forms[:place]]:
        try:
            found.append(records_of(file, form, "--text"))
        except UserError as error:
            trouble = error
    if not found:
        raise trouble
    return found
