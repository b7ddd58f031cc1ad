"""What `icu-ray audit` refuses, prints and ends with.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.verdict import model_audit
from icu_ray.cli.main import main
from icu_ray.services import audit as service
from icu_ray.storage.audits import ModelAudit
from tests.support.evaluation_case import save_model, sentence


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    """The command on a small model and four texts."""
    model, forget = save_model(tmp_path / "model", 0), tmp_path / "forget.jsonl"
    forget.write_text("".join(json.dumps({"text": sentence(number, 16)}) + "\n" for number in range(4)))
    return ["audit", "--model", str(model), "--forget", str(forget), "--storage", str(tmp_path / "runs")]


@pytest.mark.parametrize("attacks", ["", " , "])
@pytest.mark.parametrize("command", ["audit", "unlearn"])
def test_no_attack_is_refused(
    typed: list[str], attacks: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, words = "--attacks", typed
    if command == "unlearn":
        option, words = "--audit", ["unlearn", "--forget", typed[4], "--out", str(tmp_path / "out")]
    assert main([*words, option, attacks]) == 2
    assert f"{option} '{attacks}': names no attack; expected one or more of: all, prompt" in capsys.readouterr().err


def test_a_revision_of_a_folder_is_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--attacks", "prefix_search", "--revision", "v2"]) == 2
    assert f"--revision v2: {typed[2]}: of this machine; expected a model on the hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--nli", "./none", "--nli: ./none: no such model; expected a hub id, or a folder"),
        ("--leak", "2", "--leak: Input should be less than or equal to 1, found 2.0"),
        ("--relearn-lr", "-1", "--relearn-lr: Input should be greater than 0, found -1.0"),
    ],
)
def test_a_wrong_setting_is_told_by_its_option(
    typed: list[str], option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*typed, "--attacks", "sample", option, value]) == 2
    assert said in capsys.readouterr().err


def verdict(
    back: int, control_back: int, *, asked: int = 8, exact: bool = False, failed: str = "", silent: int = 0
) -> ModelAudit:
    """Of an attack that brought back so many of 8 rows, and of 8 control rows. failed: another one. silent: so many of
    the rows gave no answer after more steps."""

    def found(group: Group, back: int) -> list[Finding]:
        recalls = [0.7 * (number < back) for number in range(8)]
        return [Finding(f"{group}{n}", group, "own rows", 5, recall, False) for n, recall in enumerate(recalls)]

    findings = [*found("forget", back), *found("control", control_back)]
    if exact:
        findings.append(Finding("forget0", "forget", "own rows", 5, 1.0, True))
    findings += [Finding(f"forget{number}", "forget", "own rows", 10) for number in range(silent)]
    names = [f"forget{number}" for number in range(asked)]
    errors = {failed: "out of memory"} if failed else {}
    return model_audit({"relearn": AttackResult(tuple(findings))}, {"relearn": "steps"}, 0.5, errors, asked=names)


@pytest.mark.parametrize(
    ("audit", "code", "code_of_gate"),
    [
        (verdict(0, 0), 0, 0),
        (verdict(1, 0), 0, 1),
        (verdict(4, 4), 0, 0),  # as often as control rows: no more than chance
        (verdict(4, 4, exact=True), 0, 1),
        (verdict(2, 8), 0, 1),  # every control row is back: it cannot be told
        (verdict(0, 0, asked=9), 0, 1),  # a row that no attack got an answer on
        (verdict(0, 0, silent=8), 0, 1),
        (verdict(0, 0, failed="depth"), 1, 1),
    ],
)
def test_exit_codes(
    typed: list[str],
    audit: ModelAudit,
    code: int,
    code_of_gate: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(service, "audit_files", lambda models, *_, **__: [(models[0], audit)])
    assert main(typed) == code
    assert main([*typed, "--fail-if-back"]) == code_of_gate
    assert f"{typed[2]}: {audit.said()}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("audit", "share"),
    [
        (verdict(0, 0), 0.0),
        (verdict(2, 0, failed="sample"), 0.25),
        (verdict(0, 0, failed="sample"), None),
        (verdict(0, 0, failed="depth"), 0.0),
        (verdict(2, 8), None),
        (verdict(0, 0, asked=9), None),
        (verdict(0, 0, silent=8), None),
        (verdict(2, 0, silent=8), 0.25),
    ],
)
def test_json_tells_nothing_back_from_not_known(
    typed: list[str],
    audit: ModelAudit,
    share: float | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(service, "audit_files", lambda models, *_, **__: [(models[0], audit)])
    main([*typed, "--json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert told["share"] == share


def test_why_rows_do_not_count_is_printed(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(audit: ModelAudit) -> list[str]:
        monkeypatch.setattr(service, "audit_files", lambda models, *_, **__: [(models[0], audit)])
        assert main(typed) == 0
        return capsys.readouterr().out.splitlines()

    said, relearn = printed(verdict(4, 4))
    assert "4 of 8 rows came back, and 4 of 8 control rows: as often as control rows" in said
    assert relearn.endswith("control 4 of 8 (own rows, 5 steps); as often as control rows")
    said, relearn = printed(verdict(4, 4, exact=True))
    assert "1 of 8 rows came back" in said and relearn.endswith("; as often as control rows, 1 word for word")
    assert "as often" not in " ".join(printed(verdict(4, 0)))
    said, relearn = printed(verdict(0, 0, silent=3))
    assert said.endswith("no attack brought a row back (of 8); answers missing: relearn (3 of 8 rows)")
    assert relearn.endswith("0 of 8 rows back, control 0 of 8 (own rows, 5 steps); answers missing: 3 of 8 rows")
