"""Carrying out the requests of a ledger: attempts, each one trial over the texts of one or several requests.

    ran = run(Path("ledger"))                   # all that wait, in one trial
    ran.code, ran.ended

An attempt: its entry 'run started' is written; the texts are put together; `unlearn` makes a model, evaluates and
attacks it (a sweep of one trial, which goes on where it was killed); every request that is done in its base is asked
again; then the version, the evidence, and last the entry 'run ended' that makes both count (ending.py). All steps give
the same when they are done again, so whatever is killed, `run` goes on from there.

A request is done when its own means lie below the thresholds (in the trial, and when the version is asked), those of
all requests of the attempt do, the cost keeps its limit, and no earlier request comes back. Where the means of all lie
below and one's own do not, that one waits on, and is run again on the new version by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icu_ray.config import SweepConfig
from icu_ray.data.records import reading_once
from icu_ray.errors import UserError, without_secrets
from icu_ray.models.folders import ADAPTER_CONFIG
from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.requests.ending import enter, not_carried_out, still_open
from icu_ray.requests.evidence import remove_given_up
from icu_ray.requests.judging import judge
from icu_ray.requests.ledger import read_key, writing
from icu_ray.requests.ledger_keys import one_trial, refuse_keys
from icu_ray.requests.ledger_settings import WORK, original_hash, request_config
from icu_ray.requests.ledger_state import Attempt, LedgerState, state_of
from icu_ray.requests.ledger_texts import read_state, remove_orphans, union_file
from icu_ray.requests.purge import finish_purge
from icu_ray.requests.record import Asked
from icu_ray.requests.runner import holding, still_mine
from icu_ray.requests.unlearn import Unlearned, plan_request, unlearn
from icu_ray.requests.versions import check_model, model_of
from icu_ray.sweep.lease import Lease

Forget = Callable[..., Unlearned]


@dataclass(frozen=True)
class Ran:
    """What a call of `run` did. ended: what each 'run ended' entry tells. code: the command's exit code, 0 only where
    each attempt gave a version and all that was asked for was carried out.

    stopped: why the last attempt did not end; '' where none was stopped.
    """

    ended: tuple[Mapping[str, Any], ...] = ()
    code: int = 0
    stopped: str = ""


@dataclass(frozen=True)
class _Asked:
    """What `run` was asked for."""

    one_by_one: bool = False
    again: bool = False
    base: int | None = None
    overrides: tuple[str, ...] = ()
    command: str = ""
    tried: set[str] = field(default_factory=set)


def run(
    folder: Path,
    *,
    one_by_one: bool = False,
    again: bool = False,
    base: int | None = None,
    abandon: bool = False,
    overrides: Sequence[str] = (),
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
    forget: Forget = unlearn,
) -> Ran:
    """Go on with an attempt that was killed, then run what waits. UserError for what cannot be, before it is started.

    one_by_one: an attempt for each request, those due first. again: also those that were not acceptable. base: start
    from this version in place of the current one (0: the original), over all requests that are not done in it. abandon:
    give an attempt up that was killed; its requests wait again, and are run at once. overrides: config keys for these
    attempts.
    """
    refuse_keys(overrides, at_run=True)
    asked = _Asked(one_by_one, again, base, tuple(overrides), command)
    ended: list[Mapping[str, Any]] = []
    with holding(folder) as lease:
        finish_purge(folder)
        state = read_state(folder)
        if state.open is not None and abandon:
            with writing(folder) as book:
                book.append("run abandoned", {"attempt": state.open.number})
        elif state.open is not None and (overrides or base is not None):
            raise UserError(
                f"{folder}: attempt {state.open.number} ({', '.join(state.open.requests)}) was interrupted and goes on "
                "with its own settings; call run without others, or give it up with --abandon"
            )
        remove_given_up(folder, read_state(folder))
        while True:
            state = read_state(folder)
            attempt = state.open or _start(folder, state, asked, first=not ended)
            if attempt is None:
                return Ran(tuple(ended), int(any(each["version"] is None or each["not_carried_out"] for each in ended)))
            asked.tried.update(attempt.requests)
            told = attempt.requests
            say(f"attempt {attempt.number}: {', '.join(told)}, from version {attempt.base}")
            found, stopped, code = _carry_out(folder, attempt, asked.command, lease, forget, say)
            if found is None:
                return Ran(tuple(ended), code, stopped)
            ended.append(found)


def _start(folder: Path, state: LedgerState, asked: _Asked, first: bool) -> Attempt | None:
    """The next attempt, entered into the ledger; None where nothing is left to run."""
    base = state.current
    if first and asked.base is not None:
        base = asked.base
        _check_base(state, base)
    names = _chosen(state, asked, base, first)
    if not names:
        return None
    check_model(folder, state, base)
    number = len(state.attempts) + 1
    overrides = (*_first_limits(state, base), *asked.overrides)
    with reading_once():
        config = _config(folder, state, names, base, number, overrides)
        if base == 0 and original_hash(config) != state.settings["model_sha256"]:
            raise UserError(f"{state.settings['model']}: is another model than the ledger was made for")
        lora = config.models[0].lora
        is_adapter = base and (Path(model_of(folder, state, base)) / ADAPTER_CONFIG).is_file()
        if is_adapter and lora is not None and lora.save == "adapter":
            raise UserError(
                f"lora.save={lora.save}: version {base} is an adapter, and another one cannot be put on it; give "
                "--from-original, or lora.save=merged"
            )
        one_trial(plan_request(config, dry_run=True))
    with writing(folder) as book:
        remove_orphans(folder, state_of(book.entries))
        told = {"attempt": number, "requests": names, "base": base, "overrides": list(overrides)}
        book.append("run started", told)
        return state_of(book.entries).attempts[number]


def _check_base(state: LedgerState, base: int) -> None:
    """UserError for a version that is none, or in which something is forgotten that was taken back."""
    undone = {each.id for each in state.in_state("undone")}
    known = [number for number in (0, *state.versions) if not undone & set(state.covers(number))]
    expected = f"expected one of {', '.join(map(str, known))}"
    if base not in (0, *state.versions):
        raise UserError(f"--from-version {base}: no such version; {expected}")
    if base not in known:
        back = ", ".join(name for name in dict.fromkeys(state.covers(base)) if name in undone)
        raise UserError(
            f"--from-version {base}: {back} is forgotten in it, and was undone; {expected}; to have it forgotten "
            "again, enter its texts as a new request and run without --from-version"
        )


def _first_limits(state: LedgerState, base: int) -> list[str]:
    """The first original's thresholds as config keys, where held-out texts set them: a run from a version would measure
    them on that version, where they are lower after each request, so that each is asked for more than the one before.
    """
    first = state.attempts[state.lineage(base)[0].attempt].ended if base else None
    limits: Mapping[str, Any] = next(
        (told["limits"] for told in (first or {"asked": {}})["asked"].values() if "limits" in told), {}
    )
    # A number has to be fallen below; as low as the held-out texts' mean will do.
    return [
        f"stop.{name}={min(1.0, limits[name]['value'] + 1e-9):.10f}"
        for name in ("ma", "el")
        if limits and limits[name]["source"] == "heldout" and limits[name]["value"] is not None
    ]


def _chosen(state: LedgerState, asked: _Asked, base: int, first: bool) -> list[str]:
    if asked.base is not None and first:
        covered = set(state.covers(base))
        open_ones = [each for each in state.in_state("waiting", "not acceptable", "done") if each.id not in covered]
        gone = [each.id for each in open_ones if not each.held]
        if gone:
            enough = next(
                each.number
                for each in state.lineage(state.current)
                if each.held and set(gone) <= set(state.covers(each.number))
            )
            raise UserError(
                f"from version {base}: {', '.join(gone)} would be remembered again, and cannot be unlearned any more: "
                f"the texts are purged; start from version {enough}, in which they are forgotten: --from-version "
                f"{enough}"
            )
        return [each.id for each in open_ones]
    found = list(state.in_state("waiting"))
    if asked.again:
        found += [each for each in state.in_state("not acceptable") if each.id not in asked.tried]
    return [each.id for each in found[: 1 if asked.one_by_one else None]]


def _union(folder: Path, number: int) -> Path:
    return folder / WORK / f"attempt-{number}.jsonl"


def _config(
    folder: Path, state: LedgerState, names: Sequence[str], base: int, number: int, overrides: Sequence[str]
) -> SweepConfig:
    """The config of an attempt; its texts are put together for it."""
    union_file(folder, state, names, _union(folder, number))
    model = model_of(folder, state, base)
    return request_config(state.settings, _union(folder, number), folder / WORK, model=model, overrides=overrides)


def _carry_out(
    folder: Path, attempt: Attempt, command: str, lease: Lease, forget: Forget, say: Callable[[str], None]
) -> tuple[Mapping[str, Any] | None, str, int]:
    """What the attempt's 'run ended' tells, or None, why it was stopped, and the exit code."""
    state = read_state(folder)
    check_model(folder, state, attempt.base)
    names = list(attempt.requests)
    with reading_once():
        config = _config(folder, state, names, attempt.base, attempt.number, attempt.overrides)
    if config.tracking.enabled:
        # A purge may be made where MLFLOW_TRACKING_URI is another.
        address = without_secrets(tracking_uri(str(folder.resolve() / WORK), config.tracking.uri))
        if address not in attempt.tracked:
            with writing(folder) as book:
                book.append("tracked", {"attempt": attempt.number, "mlflow": address})
    options = dict(state.settings["options"])
    overrides = [*options.pop("overrides", ()), *attempt.overrides]
    done = forget(
        model_of(folder, state, attempt.base),
        forget=str(_union(folder, attempt.number)),
        out=folder.resolve() / WORK,
        asked=Asked(command, "+".join(names), key=read_key(folder)),
        overrides=overrides,
        **options,
    )
    result = done.result
    # Given up, requests that are done by the version in force do not wait: the base brings them back.
    again = "" if attempt.base == state.current else f" --from-version {attempt.base}"
    if result is None or result.status == "failed" or done.verdict is None or done.record is None:
        what = "was interrupted" if result is None else "failed; the log is in the ledger's folder 'work'"
        said = f"attempt {attempt.number} {what}. 'run' goes on with it, 'run --abandon{again}' gives it up"
        return None, said, done.exit_code or 1
    failed, missing = not_carried_out(config, done)
    if what := still_open(attempt, done, failed, missing):
        if anew := {name: why for name, why in failed.items() if name not in attempt.failed}:
            with writing(folder) as book:
                told = {"attempt": attempt.number, "requests": names, "not_carried_out": anew}
                book.append("run failed", told)
        once = ", without what fails a second time" if failed else ""
        said = (
            f"attempt {attempt.number} {what}. 'run' goes on with it{once}; 'run --abandon{again} KEY=VALUE' gives it "
            "up and starts again with other settings"
        )
        return None, said, done.exit_code or 1
    judged = judge(folder, state, attempt, config, done, say)
    still_mine(lease, folder)
    lacking = {**failed, **dict.fromkeys(missing, "there is no result; the log is in the ledger's folder 'work'")}
    return enter(folder, attempt, done, judged, lacking), "", 0
