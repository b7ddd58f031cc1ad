"""What each part of `icu-ray requests` does, what it prints as JSON and in words, and its exit code."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from icu_ray.cli.unlearn import SETTINGS
from icu_ray.console.verbosity import teller
from icu_ray.errors import UserError, without_secrets

if TYPE_CHECKING:
    from icu_ray.requests.ledger_state import LedgerState, Request

Answer: TypeAlias = tuple[dict[str, Any], str, int]
"""What --json prints, what is printed without it, and the exit code."""


def init_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.config.auditing import attacks_typed
    from icu_ray.requests.ledger_settings import init

    options = {name: getattr(arguments, name) for name in (*SETTINGS, "retain", "heldout")}
    options["suites"] = arguments.suite
    options["audit"] = list(attacks_typed(arguments.audit, "--audit")) or None
    days = arguments.after
    told = init(
        arguments.ledger,
        arguments.model,
        options,
        purge_days=days,
        mlflow=arguments.mlflow,
        name=arguments.name,
        say=teller(),
    )
    return told, f"{arguments.ledger}: made for {arguments.model}; keep {arguments.ledger}/key with care", 0


def add_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.ledger_texts import add as add_request

    given = {"request": arguments.id, "subject": arguments.subject, "due": arguments.due}
    request = add_request(arguments.ledger, arguments.file, say=teller(), **given)
    return _told(request), f"{request.id}: {len(request.texts)} texts, waiting", 0


def _told(request: Request) -> dict[str, Any]:
    names = ("id", "state", "since", "added", "subject", "due", "version", "attempts", "purged", "file")
    return {name: getattr(request, name) for name in names} | {"texts": len(request.texts)}


def list_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.ledger import now
    from icu_ray.requests.ledger_texts import read_state

    state = read_state(arguments.ledger)
    requests = [_told(each) | {"not_reached": state.not_reached(each.id)} for each in state.requests.values()]
    told = {"current": state.current, "requests": requests}
    lines = [f"model version {state.current}{' (the original)' if not state.current else ''}"]
    if not state.requests:
        lines.append(f"no request yet; 'icu-ray requests add {arguments.ledger} FILE' enters one")
    for each in state.requests.values():
        late = each.due is not None and each.due < now()[:10] and each.state not in ("done", "undone")
        due = "" if each.due is None else f", due {each.due}{' (OVERDUE)' if late else ''}"
        by = "" if each.version is None else f" by version {each.version}"
        who = "" if each.subject is None else f" for {each.subject}"
        places = state.not_reached(each.id)
        purged = ", texts purged" if each.purged else ""
        purged += f", but {len(places)} place{'s'[: len(places) > 1]} NOT reached" if places else ""
        lines.append(f"{each.id}: {each.state}{by} since {each.since}; {len(each.texts)} texts{who}{due}{purged}")
    return told, "\n".join(lines), 0


def run_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.evidence import write_pages
    from icu_ray.requests.ledger_texts import read_state
    from icu_ray.requests.registering import register
    from icu_ray.requests.run_requests import run

    if arguments.from_original and arguments.from_version not in (None, 0):
        raise UserError("--from-original and --from-version: give one of them")
    base = 0 if arguments.from_original else arguments.from_version
    ran = run(
        arguments.ledger,
        one_by_one=arguments.one_by_one,
        again=arguments.again,
        base=base,
        abandon=arguments.abandon,
        overrides=arguments.overrides,
        command=without_secrets(shlex.join(["icu-ray", *arguments.words])),
        say=teller(),
    )
    state = read_state(arguments.ledger)
    damaged = write_pages(arguments.ledger, state)
    trouble = register(arguments.ledger)
    lines = [line for each in ran.ended for line in _ended_said(each, arguments.ledger)]
    lines += [ran.stopped] if ran.stopped else []
    if not lines:
        refused = [each.id for each in state.in_state("not acceptable")]
        more = f"; {', '.join(refused)} were not acceptable: --again runs them" if refused else ""
        lines.append(f"nothing waits{more}")
    told = {"attempts": [dict(each) for each in ran.ended], "stopped": ran.stopped, "current": state.current}
    lines += [*damaged, *([trouble] if trouble else [])]
    return {**told, "pages": damaged, "mlflow": trouble}, "\n".join(lines), ran.code


def _ended_said(told: Mapping[str, Any], ledger: Path) -> list[str]:
    from icu_ray.requests.record import in_percent

    number = told["attempt"]
    asked = [name for name, known in told["asked"].items() if known["earlier"]]
    cost = told["cost"].get("ratio")
    lines = []
    if told["version"] is None:
        lines.append(f"attempt {number}: NOT acceptable: {'; '.join(told['reasons'])}")
        lines.append("What to do, in this order:")
        for each in told["next"]:
            changes = {
                ("methods.0.beta" if key == "beta" else key): value for key, value in each.items() if key != "why"
            }
            keys = " ".join(
                f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in changes.items()
            )
            lines.append(f"  {each['why']}: icu-ray requests run {ledger} --again {keys}")
        lines.append(f"  batch it with others: icu-ray requests add ..., then icu-ray requests run {ledger} --again")
        if told["base"]:
            lines.append(f"  start anew over all requests: icu-ray requests run {ledger} --from-original")
    else:
        lines.append(f"attempt {number}: version {told['version']}; done: {', '.join(told['done'])}")
        if told["left"]:
            lines.append(f"  not below the thresholds by themselves, and run again: {', '.join(told['left'])}")
    lines += _not_carried_out(told)
    for name, known in told["asked"].items():
        ma, el = in_percent(known["ma"]), in_percent(known["el"])
        word = {True: "forgotten", False: "NOT forgotten", None: "not measured"}[known["forgotten"]]
        lines.append(f"  {name}{' (asked again)' if name in asked else ''}: MA {ma}, EL {el}, {word}")
        trial = known.get("in_trial")
        if trial is not None and trial["forgotten"] and known["forgotten"] is not True:
            lines[-1] += f" when the model is asked in fp32 (it was in the trial, measured in {trial['precision']})"
    if told["purged"]["requests"]:
        gone = told["purged"]
        lines.append(f"  {gone['requests']} purged requests with {gone['texts']} texts cannot be asked any more")
    if cost is not None:
        lines.append(f"  held-out perplexity: {cost:.2f} times the original's")
    return lines


def _not_carried_out(told: Mapping[str, Any]) -> list[str]:
    """What an attempt lacks, a line each; ledgers from before do not tell."""
    lacking = told.get("not_carried_out", {})
    return [f"  asked for and not carried out: {name} ({why})" for name, why in lacking.items()]


def verify_part(arguments: argparse.Namespace) -> Answer:
    if arguments.text is not None:
        from icu_ray.requests.ledger_texts import proved

        found = proved(arguments.ledger, arguments.text)
        lines = [f"{each['id']}: {', '.join(each['found']) or 'in no request'}" for each in found]
        return {"texts": found}, "\n".join(lines), int(any(not each["found"] for each in found))
    from icu_ray.requests.verify_ledger import verify

    checked = verify(arguments.ledger)
    told = {
        "ok": not checked.troubles,
        "entries": checked.entries,
        "head": checked.head,
        "troubles": [{"entry": each.entry or None, "said": each.said} for each in checked.troubles],
        "remarks": list(checked.remarks),
        "unreached": list(checked.unreached),
    }
    outcome = "as written" if not checked.troubles else "NOT as written"
    lines = [f"{arguments.ledger}: {checked.entries} entries, {outcome}; head {checked.head}"]
    lines += [str(each) for each in checked.troubles] + list(checked.remarks)
    return told, "\n".join(lines), int(bool(checked.troubles or checked.unreached))


def undo_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.ledger_texts import read_state
    from icu_ray.requests.registering import register
    from icu_ray.requests.undo import undo

    told = undo(arguments.ledger, arguments.request)
    trouble = register(arguments.ledger)
    state = read_state(arguments.ledger)
    lines = [f"{arguments.request}: undone; the model is version {state.current}"]
    if told["waiting"]:
        waiting = ", ".join(told["waiting"])
        lines.append(f"waiting again: {waiting}; 'icu-ray requests run {arguments.ledger}' applies them")
    return {**told, "mlflow": trouble}, "\n".join([*lines, *([trouble] if trouble else [])]), 0


def purge_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.evidence import write_pages
    from icu_ray.requests.ledger_texts import read_state
    from icu_ray.requests.purge import purge

    told = purge(arguments.ledger, days=arguments.after, by_hand=arguments.deleted_by_hand, say=teller())
    damaged = write_pages(arguments.ledger, read_state(arguments.ledger))  # they say what is purged
    gone = [*told["requests"], *(f"version {number}" for number in told["versions"])]
    lines = [f"purged: {', '.join(gone)}; {told['texts']} texts" if gone else "nothing is due"]
    lines += [f"  {place}" for place in told["places"]]
    lines += [f"yours to delete, a file that was added: {file}" for file in told["files"]]
    lines += [f"deleted by hand, as you say: {place}" for place in told["by_hand"]]
    lines += [f"yours to delete, NOT reached: {place}" for place in told["unreached"]]
    lines += [f"not marked, the next run tries it again: {entry}" for entry in told["unmarked"]]
    lines += [*told["still_know"], *damaged]
    return {**told, "pages": damaged}, "\n".join(lines), int(bool(told["unreached"]))


def show_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.evidence import curve_of, ended_attempts, record_file, write_page
    from icu_ray.requests.undo import known_request

    state = _state(arguments)
    request = state.requests[known_request(state, arguments.request)]
    curve = curve_of(state, request.id)
    ended = ended_attempts(state, request.id)
    records = [str(record_file(arguments.ledger, request.id, number)) for number in ended]
    if ended:  # a run that was killed may have left an older page
        write_page(arguments.ledger, state, request.id)
    told = _told(request) | {"curve": curve, "records": records, "hashes": [dict(text) for text in request.texts]}
    told["not_reached"] = state.not_reached(request.id)
    lines = [f"{request.id}: {request.state} since {request.since}{', texts purged' if request.purged else ''}"]
    lines += [f"  {key}: {value}" for key, value in (("for", request.subject), ("due", request.due)) if value]
    lines.append(f"  texts: {len(request.texts)}, of {request.file}")
    lines += [f"  NOT reached by a purge, its texts may still lie there: {place}" for place in told["not_reached"]]
    for number in ended:
        reasons = (state.attempts[number].ended or {})["reasons"]
        if reasons:
            lines.append(f"  attempt {number}, not acceptable: {'; '.join(reasons)}")
        lines += _not_carried_out(state.attempts[number].ended or {})
    if curve:
        lines.append("  attempt  version      MA      EL    loss  perplexity, times the original's")
    for point in curve:
        shown = [f"{100 * point[key]:6.1f}%" if point[key] is not None else "      -" for key in ("ma", "el")]
        more = [f"{point[key]:7.2f}" if point[key] is not None else "      -" for key in ("forget_loss", "ppl_ratio")]
        version = "none" if point["version"] is None else point["version"]
        lines.append(f"  {point['attempt']:7}  {version!s:>7} {' '.join([*shown, *more])}")
    if records:
        lines.append(f"  page: {arguments.ledger}/evidence/{request.id}/record.html")
    return told, "\n".join(lines), 0


def _state(arguments: argparse.Namespace) -> LedgerState:
    from icu_ray.requests.ledger_texts import read_state

    return read_state(arguments.ledger)


def bundle_part(arguments: argparse.Namespace) -> Answer:
    from icu_ray.requests.bundle import bundle
    from icu_ray.requests.undo import known_request

    state = _state(arguments)
    names = bundle(arguments.ledger, state, known_request(state, arguments.request), arguments.out)
    return {"archive": str(arguments.out), "files": names}, f"{arguments.out}: {', '.join(names)}", 0
