"""The evidence of a ledger's requests: for each attempt of a request a signed record, and a page to read.

    run_record, hashes = evidence_of(folder, state, attempt, judged, told, head)
    page = page_of(folder, state, "r1")

    evidence/<request>/attempt-N.json    the record (requests/record.py) of this request alone: its own verdict in three
                                         parts, what was asked again, cost, versions, place in the chain, signature
                      /record.html       the newest as a page, with curves over all versions since

A record names texts by id and keyed hash and holds none. It is signed with the ledger's key and names the ledger's head
of its time; the entries 'evidence' and 'run ended' name the record's hash. Each vouches for the other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.report.formats.record_page import record_html
from icu_ray.requests.judging import Judged
from icu_ray.requests.ledger import Entry, mac, read_key
from icu_ray.requests.ledger_state import Attempt, LedgerState
from icu_ray.requests.record import plain_verdict
from icu_ray.requests.regression import ASKED_IN
from icu_ray.requests.versions import left_versions, version_folder
from icu_ray.storage.files import write_atomic
from icu_ray.storage.results import finite, to_json
from icu_ray.storage.store import content_hash
from icu_ray.storage.verdict import Verdict
from icu_ray.storage.verdict_parts import percent

EVIDENCE = "evidence"
_TEXTS = ("texts_back", "texts_attacked")
_HOW = "HMAC-SHA256 over the record's canonical JSON without this key, by the ledger's key"


def keyed(record: Mapping[str, Any], judged: Judged, state: LedgerState) -> dict[str, Any]:
    """The record of a run without plain hashes over its texts, which tell short ones to who guesses them: each text has
    a keyed one, and the trial's id, which stands in paths, is left out."""
    if judged.trial:
        record = json.loads(to_json(dict(record)).replace(judged.trial.encode(), b"..."))
    macs = {(r.id, text["id"]): text["hmac"] for r in state.requests.values() for text in r.texts}
    each = []
    for text in record["texts"]["each"]:
        told = {key: value for key, value in text.items() if key != "sha256"}
        request, name = judged.names[text["id"]]
        each.append({**told, "id": f"{request}/{name}", "hmac": macs[request, name]})
    return {**record, "texts": {**record["texts"], "file": None, "each": each}}


def evidence_of(
    folder: Path,
    state: LedgerState,
    attempt: Attempt,
    judged: Judged,
    told: Mapping[str, Any],
    head: Entry,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the record of each request of an attempt; that of the whole run, and SHA-256 of each by request."""
    whole = keyed(judged.record, judged, state)
    whole["model"] = {**whole["model"], "folder": None}  # that in work/ is not kept
    if told["version"] is not None:
        place = str(version_folder(folder, told["version"]) / "model")
        whole["model"] |= {"folder": place, "sha256_after": told["model"]["sha256"]}
    hashes = {}
    for name in attempt.requests:
        content = to_json(_signed(folder, _of_request(state, attempt, judged, told, head, whole, name)), indent=2)
        write_atomic(str(record_file(folder, name, attempt.number)), content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    return whole, hashes


def record_file(folder: Path, request: str, attempt: int) -> Path:
    """Where the record of an attempt of a request lies."""
    return folder / EVIDENCE / request / f"attempt-{attempt}.json"


def given_up(folder: Path, state: LedgerState) -> list[Path]:
    """Records and versions that attempts have left which were given up; no entry names them."""
    gone = {number for number, each in state.attempts.items() if each.abandoned}
    records = [record_file(folder, name, number) for number in gone for name in state.attempts[number].requests]
    versions = [version_folder(folder, number) for number in left_versions(folder, state, gone)]
    return sorted(each for each in (*records, *versions) if each.exists())


def remove_given_up(folder: Path, state: LedgerState) -> None:
    """Remove them. Only for who holds the ledger."""
    for each in given_up(folder, state):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def _of_request(
    state: LedgerState,
    attempt: Attempt,
    judged: Judged,
    told: Mapping[str, Any],
    head: Entry,
    whole: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    request, own = state.requests[name], judged.own[name]
    each = [{**text, "id": text["id"].partition("/")[2]} for text in whole["texts"]["each"] if _is_of(text, name)]
    outcome = "done" if name in told["done"] else "waiting" if name in told["left"] else "not acceptable"
    said = plain_verdict_of(own, whole)
    if outcome == "not acceptable":
        said |= {"success": False, "said": f"NOT acceptable: {'; '.join(told['reasons'])}"}
    elif outcome == "waiting":
        said |= {
            "success": False,
            "said": "NOT forgotten yet: its own texts are not below the thresholds; it is run again",
        }
    ngram = own.heldout.ngram
    if (asked := told["asked"].get(name)) is not None:
        again = f"mean MA {percent(asked['ma'])}, mean EL{ngram} {percent(asked['el'])}"
        answer = {True: "yes", False: "NO", None: "not measured"}[asked["forgotten"]]
        trial = f"{said['lines']['forgotten?']} (measured in {asked['in_trial']['precision']})"
        lines = {**said["lines"], "forgotten?": f"{trial}; the model asked again in {ASKED_IN}: {answer} ({again})"}
        said |= {"forgotten": asked["forgotten"], "lines": lines}
    scores = {side: dict(values) for side, values in whole["scores"].items()}
    scores.setdefault("after", {}).update({"ma": own.ma, f"el{ngram}": own.el})
    before = [
        [text[f"{key}_before"] for text in each if text[f"{key}_before"] is not None] for key in ("ma", f"el{ngram}")
    ]
    means = [sum(values) / len(values) if values else None for values in before]
    scores.setdefault("before", {}).update({"ma": means[0], f"el{ngram}": means[1]})
    return {
        **whole,
        "id": name,
        "asked_by": request.subject,
        "verdict": said,
        "scores": scores,
        "texts": {**whole["texts"], "file": request.file, "count": len(each), "each": each}
        | {"in_windows": sum((text["windows"] or 1) > 1 for text in each)},
        "audit": audit_of_request(whole["verdict"].get("audit"), judged, name),
        "ledger": {
            "id": state.settings["ledger"],
            "state": outcome,
            "added": request.added,
            "due": request.due,
            "attempt": attempt.number,
            "requests_of_attempt": len(attempt.requests),
            "base": attempt.base,
            "version": told["version"],
            "reasons": told["reasons"],
            "not_carried_out": told["not_carried_out"],
            "head": {"number": head.number, "hash": head.hash},
        },
        "regression": {
            "asked": {other: known for other, known in told["asked"].items() if known["earlier"]},
            "purged": told["purged"],
            "cost": told["cost"],
        },
    }


def audit_of_request(audit: Mapping[str, Any] | None, judged: Judged, request: str) -> dict[str, Any] | None:
    """What attacks found on the run's model, and which of this request's texts they brought back (texts_back), got an
    answer on at all (texts_attacked) and did not (texts_not_measured).

    run_back, run_rows, run_share: how many rows of the whole run came back, how many were to be attacked, and the part.
    """
    if audit is None:
        return None
    own = {row: text for row, (name, text) in judged.names.items() if name == request}
    told = {{"back": "run_back", "rows": "run_rows", "share": "run_share"}.get(k, k): v for k, v in audit.items()}
    lists = {key: [own[row] for row in audit[key] if row in own] for key in _TEXTS if key in audit}
    if "texts_attacked" in lists:  # which trials of before did not tell
        lists["texts_not_measured"] = [text for text in own.values() if text not in lists["texts_attacked"]]
    return {**told, **lists}


def plain_verdict_of(own: Verdict, whole: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of one request as plain values, with what the run's says of its epochs."""
    result = _Told(whole["verdict"])
    return plain_verdict(result, own)  # type: ignore[arg-type]


class _Told:
    """A trial's result as far as a record tells it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.status, self.reason = told["status"], told["reason"]
        self.epochs, self.kept_epoch = told["epochs"], told["kept_epoch"]


def _is_of(text: Mapping[str, Any], request: str) -> bool:
    return bool(text["id"].partition("/")[0] == request)


def _signed(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(to_json(finite(dict(record))))
    return {**plain, "signature": {"how": _HOW, "value": mac(read_key(folder), content_hash(plain))}}


def record_trouble(folder: Path, content: bytes, expected: str) -> str:
    """What is wrong with a record, '' for nothing. expected: its SHA-256 by the ledger."""
    if hashlib.sha256(content).hexdigest() != expected:
        return "is not the record that the ledger names (changed)"
    record = json.loads(content)
    signature = record.pop("signature", {}).get("value")
    return "" if signature == mac(read_key(folder), content_hash(record)) else "is not signed with this ledger's key"


def curve_of(state: LedgerState, request: str) -> list[dict[str, Any]]:
    """What each attempt's model knew of a request, and what it cost, in the order of attempts."""
    found = []
    for attempt in state.attempts.values():
        if attempt.ended is None or request not in attempt.ended["asked"]:
            continue
        known = attempt.ended["asked"][request]
        point = {key: known[key] for key in ("ma", "el", "forget_loss", "forgotten")}
        names = {"attempt": attempt.number, "version": attempt.ended["version"]}
        found.append({**names, **point, "ppl_ratio": attempt.ended["cost"].get("ratio")})
    return found


def ended_attempts(state: LedgerState, request: str) -> list[int]:
    """Numbers of a request's attempts that ended; each has left a record."""
    return [number for number in state.requests[request].attempts if state.attempts[number].ended is not None]


def record_as_written(folder: Path, state: LedgerState, request: str, attempt: int) -> bytes:
    """The record of an attempt that ended; UserError where it is not as it was written, for whatever is made of it
    would pass the change on.
    """
    file, ended = record_file(folder, request, attempt), state.attempts[attempt].ended or {}
    content = file.read_bytes() if file.is_file() else b""
    if trouble := record_trouble(folder, content, ended["evidence"][request]):
        trouble = trouble if file.is_file() else "the record is not there"
        raise UserError(f"{file}: {trouble}; put it back from a copy of the ledger, or from a bundle")
    return content


def page_of(folder: Path, state: LedgerState, request: str) -> bytes | None:
    """The page of a request; None where no attempt has ended. UserError as `record_as_written`."""
    ended = ended_attempts(state, request)
    if not ended:
        return None
    record = json.loads(record_as_written(folder, state, request, ended[-1]))
    known = state.requests[request]
    now: dict[str, Any] = {"state": known.state, "purged": known.purged, "not_reached": state.not_reached(request)}
    now["curve"] = curve_of(state, request)
    return record_html({**record, "now": now}).encode("utf-8", errors="replace")


def write_pages(folder: Path, state: LedgerState) -> list[str]:
    """The pages of all requests that have a record; why some were not written, as their records were changed."""
    troubles = []
    for name in state.requests:
        try:
            write_page(folder, state, name)
        except UserError as error:
            troubles.append(f"the page of {name} was not written: {error}")
    return troubles


def write_page(folder: Path, state: LedgerState, request: str) -> None:
    """The page of a request; nothing where it has no record. UserError as `record_as_written`."""
    if (page := page_of(folder, state, request)) is not None:
        write_atomic(str(folder / EVIDENCE / request / "record.html"), page)
