"""Commands of icu-ray as a user types them."""

from __future__ import annotations

import json
from typing import Any

from gpu_parts.setting import Ran, Setting, run_python


def probe_command(setting: Setting) -> None:
    """The part: icu-ray probe on the model that was taught."""
    arguments = ["--model", str(setting.model), "--forget", str(setting.forget), "--json"]
    arguments += ["--el-start", str(setting.suffix_start), "--device", setting.device]
    _command(setting, "probe", "probe-command", arguments, lambda ran: _values(ran, ("n", "ma", "el10", "forget_loss")))


def doctor(setting: Setting) -> None:
    """The part: icu-ray doctor."""
    _command(setting, "doctor", "doctor", [], lambda ran: {"said": ran.text[-4000:]})


def evaluate(setting: Setting) -> None:
    """The part: icu-ray evaluate on the small suite that needs no files."""
    arguments = ["--model", str(setting.model), "--suite", "quick", "--json", "--storage", f"{setting.work}/evaluated"]
    _command(setting, "evaluate", "evaluate", arguments, lambda ran: {"said": ran.last})


def _command(setting: Setting, command: str, part: str, arguments: list[str], read: Any) -> None:
    ran = run_python(setting, ["-m", "icu_ray.cli", command, *arguments], part, setting.left - 2)
    found: dict[str, Any] = {"exit_code": ran.code, "command_seconds": ran.seconds, **read(ran)}
    # The doctor's 1 is a finding of its own, which stands in what it said.
    if ran.code != 0 and command != "doctor":
        found["error"] = f"{ran.last}\n{ran.how}"
    setting.save(part, found)


def _values(ran: Ran, names: tuple[str, ...]) -> dict[str, Any]:
    for line in ran.text.splitlines():
        if line.startswith("{"):
            told = json.loads(line)
            return {name: told.get(name) for name in names}
    return {}
