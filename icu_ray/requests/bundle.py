"""One archive with the evidence of a request, to be filed where the ledger is not.

bundle(folder, state, "r1", Path("r1.zip"))
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from icu_ray.errors import UserError
from icu_ray.requests.evidence import ended_attempts, page_of, record_as_written
from icu_ray.requests.ledger import FILE, Entry, read_chain
from icu_ray.requests.ledger_state import LedgerState
from icu_ray.storage.results import to_json


def bundle(folder: Path, state: LedgerState, request: str, out: Path) -> list[str]:
    """One zip archive with all there is to file about a request; the names in it. UserError where there is nothing, or
    where a record is not as it was written: in an archive with hashes of its own nobody would see that."""
    page = page_of(folder, state, request)
    if page is None:
        raise UserError(f"{request}: no run of it has ended, so there is nothing to file; see 'icu-ray requests list'")
    if out.exists():
        raise UserError(f"{out}: is there already; give another name")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.absolute().parent}: no such folder")
    records = {n: record_as_written(folder, state, request, n) for n in ended_attempts(state, request)}
    files = {f"attempt-{number}.json": content for number, content in records.items()}
    files |= {"record.json": records[max(records)], "record.html": page}
    files["chain.jsonl"] = _chain(folder, request)
    files["README.txt"] = _README.format(request=request, ledger=state.settings["ledger"]).encode()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    files["SHA256SUMS"] = sums.encode()
    half = out.absolute().with_name(f".{out.name}.tmp")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    os.replace(half, out)
    return sorted(files)


def _chain(folder: Path, request: str) -> bytes:
    """The entries about a request as they are; of the others, which are not its business, their hashes alone."""
    lines = (folder / FILE).read_bytes().split(b"\n")
    kept = []
    for entry, line in zip(read_chain(folder).entries, lines, strict=False):
        if _is_about(entry, request):
            kept.append(line + b"\n")
        else:
            kept.append(
                to_json({"number": entry.number, "time": entry.time, "before": entry.before, "hash": entry.hash})
            )
    return b"".join(kept)


def _is_about(entry: Entry, request: str) -> bool:
    """Whether an entry is of this request and tells of no other one."""
    told = entry.told
    if entry.kind in ("added", "evidence", "undone"):
        return bool(told["request"] == request) and not [n for n in told.get("waiting", ()) if n != request]
    named = told.get("requests") or [*told.get("asked", {}), *told.get("done", ()), *told.get("left", ())]
    named = [*named, *(name for each in told.get("not_reached", ()) for name in each["requests"])]
    return bool(set(named) == {request})


_README = """The evidence of deletion request {request} of ledger {ledger}.

record.html     to read: is it forgotten, at what cost, what is left; how it stands today
record.json     the same for programs, of the newest attempt; attempt-N.json: of every attempt
chain.jsonl     the ledger: entries about this request alone as they are, of the others their hashes. An entry's hash is
                SHA-256 over the canonical JSON of its number, time, kind, told and before (sorted keys, no blanks,
                ASCII); `before` is the hash of the entry before it. An entry 'evidence' has the SHA-256 of
                attempt-N.json in `told.evidence`, N in `told.attempt`: the last one counts, for a run that was killed
                writes its record again. Runs from before these entries have it in 'run ended' alone, which is here as
                it is only where it tells of this request and no other.
SHA256SUMS      of the files: sha256sum -c SHA256SUMS

No text is in here. Who has the ledger's key can prove that a text was in the request: icu-ray requests verify --text.
"""
