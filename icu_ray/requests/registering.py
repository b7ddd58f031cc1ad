"""Entering a ledger's versions into MLflow's model registry, where it was made with one.

    said = register(Path("ledger"))             # what went wrong, '' for nothing

The ledger is the truth: what could not be sent is sent by the next call, and no version depends on it.
"""

from __future__ import annotations

from pathlib import Path

from icu_ray.errors import without_secrets
from icu_ray.report.tracking.registry import mark_removed, register_version, set_current
from icu_ray.requests.ledger import writing
from icu_ray.requests.ledger_texts import read_state
from icu_ray.requests.versions import model_of


def register(folder: Path) -> str:
    """Enter what is not entered, and have 'current' name the version in force."""
    state = read_state(folder)
    uri, name, ledger = state.settings["mlflow"], state.settings["name"], state.settings["ledger"]
    if not uri:
        return ""
    try:
        for version in state.versions.values():
            if version.purged:  # again, for the server may have been away when its model was deleted
                mark_removed(uri, name, ledger=ledger, number=version.number)
            if version.registry is not None or not version.held:
                continue
            told = state.attempts[version.attempt].ended or {}
            ratio = told["cost"].get("ratio")
            tags = {"requests": ",".join(version.requests), "sha256": version.sha256}
            tags |= {"ppl_ratio": f"{ratio:.4f}"} if ratio is not None else {}
            shown = register_version(
                uri,
                name,
                number=version.number,
                base=version.base,
                folder=model_of(folder, state, version.number),
                ledger=ledger,
                tags=tags,
            )
            with writing(folder) as book:
                book.append("registered", {"version": version.number, "registry": shown})
        set_current(uri, name, ledger=ledger, number=state.current)
    except Exception as error:  # whatever the server or network does, the versions are there
        what = without_secrets(f"{type(error).__name__}: {error}")
        return f"MLflow at {without_secrets(uri)} did not take the versions ({what}); the next run sends them"
    return ""
