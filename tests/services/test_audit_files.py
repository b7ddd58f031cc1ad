"""What an audit of files refuses before a Ray is started.

Needs: nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icu_ray.config.auditing import AuditConfig
from icu_ray.data.examples import Examples
from icu_ray.errors import UserError
from icu_ray.models.loading import load_tokenizer
from icu_ray.services.audit import audit_files, cut_rows
from tests.support.benchmark_case import small_model, write_lines


def test_controls_are_other_texts_and_a_model_has_one_role(tmp_path: Path) -> None:
    model, forget, control = small_model(tmp_path / "model"), tmp_path / "forget.jsonl", tmp_path / "control.jsonl"
    texts = [f"This is text {n}, which is to be forgotten." for n in range(3)]
    write_lines(forget, [{"text": text} for text in texts])
    write_lines(control, [{"text": "Another one."}, {"text": f"{texts[1]} "}])
    attacks, storage = AuditConfig(attacks=("prompt",)), str(tmp_path / "runs")
    with pytest.raises(UserError, match=r"--control: .*1 texts are in --forget .*: line 2 is line 2; expected"):
        audit_files([str(model)], forget, attacks, control=control, storage=storage)
    write_lines(control, [{"text": "Another one."}])
    write_lines(kept := tmp_path / "kept.jsonl", [{"text": "One that is kept."}, {"text": " Another one."}])
    with pytest.raises(UserError, match=r"--control: .*1 texts are in --keep .*kept\.jsonl too: line 1 is line 2; exp"):
        audit_files([str(model)], forget, attacks, control=control, kin=kept, storage=storage)
    shutil.copytree(model, tmp_path / "copy")
    for role in ("original", "retrained"):
        with pytest.raises(UserError, match=f"--{role} .*copy: is the model of --model"):
            audit_files([str(model)], forget, attacks, storage=storage, **{role: str(tmp_path / "copy")})  # type: ignore[arg-type]


def test_more_rows_than_are_asked_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = small_model(tmp_path / "model"), list[str]()
    files = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "control", "kin")}
    for name, file in files.items():
        write_lines(file, [{"text": f"This is text {n} of {name}."} for n in range(5)])
    monkeypatch.setattr("icu_ray.services.audit._verdicts", lambda *given: [])
    attacks = AuditConfig(attacks=("prompt",), control=3, kin=5)
    audit_files([str(model)], **files, config=attacks, storage=str(tmp_path / "runs"), tell=told.append)
    assert [each for each in told if "rows are asked" in each] == ["--control: the first 3 of 5 rows are asked"]


def test_texts_that_are_cut_are_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(small_model(tmp_path / "model")))
    forget = Examples(("short", "long"), ("A text.", "a text of many words " * 60))
    said = cut_rows(forget, tokenizer, 40)
    assert said is not None and said.startswith("1 of 2 rows are cut at --length 40: long (")
    assert cut_rows(forget, tokenizer, 4000) is None
