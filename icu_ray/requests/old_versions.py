"""Versions that still know texts which a purge deletes: which go with them, and which have to stay.

    gone = outdated(folder, state, ["r2"])        # (1,): version 1 was made before r2 was forgotten
    moved(folder, state); remove(folder, state); mark(state)
    still_know(folder, state)                     # sentences: the original, and versions that others stand on

A version knows a request's texts unless it or one that it comes from made that request done. Of a request that was
undone nobody wants them forgotten. The version in force has forgotten all that is done, so it stays. So does one to
which `undo` of a request that is not purged goes back: it has forgotten all that is purged, or `undo` would need texts
that are deleted. The original is its owner's: it is named and never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.registry import mark_removed
from icu_ray.requests.deleting import deleted
from icu_ray.requests.ledger_state import LedgerState
from icu_ray.requests.unreached import Unreached
from icu_ray.requests.versions import adapter_base, version_folder


def outdated(folder: Path, state: LedgerState, names: Collection[str]) -> tuple[int, ...]:
    """Versions whose models go when these requests' texts do, and those that earlier purges had to leave."""
    knowing = _knowing(state, names)
    return tuple(number for number in knowing if number not in _stood_on(folder, state, knowing))


def known_by(state: LedgerState, number: int, names: Collection[str] = ()) -> tuple[str, ...]:
    """Requests that are done and purged, or are to be, and whose texts a version still knows; 0: the original."""
    covered = set(state.covers(number))
    gone = (each for each in state.requests.values() if not each.held or each.id in names)
    return tuple(each.id for each in gone if each.state == "done" and each.id not in covered)


def moved(folder: Path, state: LedgerState) -> list[Unreached]:
    """Models of versions whose removal has begun that lie elsewhere, behind a link: they are left."""
    found = []
    for number in state.removing:
        model = version_folder(folder, number) / "model"
        if model.is_symlink() and model.exists():
            said = f"{_what(folder, state, number)}; it is a link to {model.readlink()}, which is left"
            found.append(Unreached(said, known_by(state, number), path=str(model.resolve())))
    return found


def remove(folder: Path, state: LedgerState) -> tuple[list[str], list[Unreached]]:
    """Delete the models of versions whose removal has begun; what was deleted, and what could not be. Their records
    stay."""
    places, left = [], []
    for number in state.removing:
        model, what = version_folder(folder, number) / "model", _what(folder, state, number)
        if trouble := deleted(model):  # of a link, the link
            path = str(model.relative_to(folder))
            left.append(Unreached(f"{what}; not deleted: {trouble}", known_by(state, number), path=path))
        else:
            places.append(what)
    return places, left


def _what(folder: Path, state: LedgerState, number: int) -> str:
    model = version_folder(folder, number) / "model"
    return f"{model.relative_to(folder)}/: still knew {', '.join(known_by(state, number))}"


def mark(state: LedgerState) -> list[str]:
    """Say in MLflow's registry that these versions' models are gone; what could not be reached."""
    uri, name = state.settings["mlflow"], state.settings["name"]
    if not uri or not state.removing:
        return []
    try:
        for number in state.removing:  # one may be entered there without the ledger's having been told
            mark_removed(uri, name, ledger=state.settings["ledger"], number=number)
    except Exception as error:  # the models go all the same, and the next run says so there
        what = without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0])
        shown = ", ".join(str(state.versions[number].registry or number) for number in state.removing)
        return [f"MLflow at {without_secrets(uri)}: registry entries {shown}, whose models are deleted ({what})"]
    return []


def still_know(folder: Path, state: LedgerState) -> list[str]:
    """Models that still know purged texts, a sentence each."""
    purged = known_by(state, 0)
    if not purged:
        return []
    found = [
        f"the model you began from still knows the texts of {', '.join(purged)}, and is yours to delete or lock away: "
        f"{state.settings['model']}"
    ]
    knowing = _knowing(state)
    for number, upon in _stood_on(folder, state, knowing).items():
        if number in knowing:
            until = f"the purge of the requests after version {upon}"
            if upon == state.current:
                until = "a run with lora.save=merged"
            found.append(
                f"version {number} still knows the texts of {', '.join(known_by(state, number))}, and stays because "
                f"version {upon} is an adapter on it; the next purge after {until} removes it"
            )
    return found


def _knowing(state: LedgerState, names: Collection[str] = ()) -> tuple[int, ...]:
    """Versions that know texts that are purged, or are to be, and still have a model."""
    return tuple(
        number
        for number, version in state.versions.items()
        if number != state.current and version.held and known_by(state, number, names)
    )


def _stood_on(folder: Path, state: LedgerState, knowing: Sequence[int]) -> dict[int, int]:
    """Versions of which others, that stay, are adapters, with the newest of these."""
    models = {(version_folder(folder, number) / "model").resolve(): number for number in state.versions}
    found: dict[int, int] = {}
    for number, version in sorted(state.versions.items()):
        if version.held and number not in knowing:
            try:
                base = adapter_base(version_folder(folder, number) / "model")
            except UserError:  # it is damaged, as `verify` says, and may be an adapter on any version before it
                found |= dict.fromkeys((each for each in state.versions if each < number), number)
                continue
            if base is not None and (upon := models.get(base)) is not None:
                found[upon] = number
    return found
