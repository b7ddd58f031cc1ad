"""Whether a ledger and what it vouches for are as they were written.

found = verify(Path("ledger")); found.troubles, found.remarks
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from icu_ray.requests.evidence import given_up, record_file, record_trouble
from icu_ray.requests.ledger import KEY, Chain, Trouble, read_chain, read_key
from icu_ray.requests.ledger_state import LedgerState, state_of
from icu_ray.requests.ledger_texts import TEXTS, texts_file, texts_trouble
from icu_ray.requests.unreached import what_to_do
from icu_ray.requests.versions import files_trouble, model_trouble, version_folder

_TRIES = 5
"""How often a ledger is read that others go on writing."""


@dataclass(frozen=True)
class Verified:
    """troubles: what is not as it was written. remarks: what is worth to know and no trouble. entries: how many.

    unreached: places that purges could not reach, where purged texts may still lie; the remarks have them too.
    """

    entries: int
    head: str
    troubles: tuple[Trouble, ...]
    remarks: tuple[str, ...]
    unreached: tuple[str, ...] = ()


def verify(folder: Path) -> Verified:
    """Read everything again: the chain, and where that is whole, records, models of versions and texts.

    Where somebody wrote meanwhile, what seems wrong may only be newer than the chain that was read: it is read again.
    """
    for _ in range(_TRIES - 1):
        found = _verified(folder)
        if not found.troubles or read_chain(folder).head[1] == found.head:
            return found
    return _verified(folder)


def _verified(folder: Path) -> Verified:
    chain = read_chain(folder)
    troubles, remarks = list(chain.troubles), []
    unreached: tuple[str, ...] = ()
    if chain.half:
        remarks.append(
            f"{chain.half} bytes behind the last entry are no entry: a writer was killed; the next one removes them"
        )
    if (folder / KEY).stat().st_mode & 0o077:
        remarks.append(f"{KEY}: others than its owner can read it; expected mode 0600")
    if not troubles:
        state = state_of(chain.entries)
        of_versions, said = _versions(folder, state)
        troubles += _evidence(folder, chain, state) + of_versions
        remarks += said
        for left in given_up(folder, state):
            remarks.append(f"{left}: is of a run that was given up; the next run removes it")
        key = read_key(folder)
        for request in state.requests.values():
            if request.held and (trouble := texts_trouble(folder, request, key)):
                troubles.append(Trouble(0, trouble))
        known = {texts_file(folder, name) for name, each in state.requests.items() if not each.purged}
        known |= {folder / each.path for each in state.unreached if each.path is not None}
        for left in sorted(set((folder / TEXTS).glob("*")) - known):
            remarks.append(f"{left}: is of no request: a writer was killed; the next one removes it")
        if state.open is not None:
            remarks.append(
                f"attempt {state.open.number} has not ended: it runs, or was killed and 'run' goes on with it"
            )
        if state.purging or state.removing:
            what = ", ".join([*state.purging, *(f"version {number}" for number in state.removing)])
            remarks.append(f"the purge of {what} has not ended: 'purge' or 'run' goes on with it")
        unreached = tuple(each.said for each in state.unreached)
        remarks += [
            f"a purge could not reach this place, and purged texts may still lie there: {each.said}; {what_to_do(each)}"
            for each in state.unreached
        ]
    return Verified(len(chain.entries), chain.head[1], tuple(troubles), tuple(remarks), unreached)


def _evidence(folder: Path, chain: Chain, state: LedgerState) -> list[Trouble]:
    found = []
    for entry in chain.entries:
        for request, digest in entry.told.get("evidence", {}).items() if entry.kind == "run ended" else ():
            file = record_file(folder, request, entry.told["attempt"])
            if not file.is_file():
                found.append(Trouble(entry.number, f"{file}: the record is not there"))
                continue
            content = file.read_bytes()
            if trouble := record_trouble(folder, content, digest):
                found.append(Trouble(entry.number, f"{file}: {trouble}"))
                continue
            head = json.loads(content)["ledger"]["head"]
            if chain.entries[head["number"] - 1].hash != head["hash"]:
                found.append(Trouble(head["number"], f"is not the one that {file} names"))
    for file in sorted((folder / "evidence").glob("*/attempt-*.json")):
        try:
            number = int(json.loads(file.read_bytes())["ledger"]["head"]["number"])
        except (ValueError, KeyError, TypeError):
            if not any(str(file) in each.said for each in found):
                found.append(Trouble(0, f"{file}: is no record"))
            continue
        if number > len(chain.entries):
            found.append(Trouble(number, f"is missing: {file} names it, so the ledger was cut off"))
    return found


def _versions(folder: Path, state: LedgerState) -> tuple[list[Trouble], list[str]]:
    """Troubles, and remarks: who deletes an old version, because it still knows the texts, may do so."""
    found, remarks = [], []
    unreached = {each.path for each in state.unreached}
    for number in (0, *state.versions):
        place = version_folder(folder, number)
        if number and not state.versions[number].held:
            left = (place / "model").exists() and state.versions[number].purged
            left = left and str((place / "model").relative_to(folder)) not in unreached
            trouble = f"{place}/model: was deleted by a purge, and is there" if left else ""
            trouble = trouble or (files_trouble(folder, state, number) if place.is_dir() else "")
        elif number not in (0, state.current) and not (place / "model").is_dir():
            remarks.append(f"{place}: version {number} is not in force, and its model is no longer there")
            trouble = files_trouble(folder, state, number) if place.is_dir() else ""
        elif number and not place.is_dir():
            trouble = f"{place}: version {number} is not there"
        else:
            trouble = model_trouble(folder, state, number) or files_trouble(folder, state, number)
        found += [Trouble(0, trouble)] if trouble else []
    return found, remarks
