"""A model's place in a trial's identity: every byte of its weights counts, and is read once.

Needs: nothing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.models import content_hashes
from icu_ray.models.fingerprints import folder_fingerprint, model_fingerprint

PLAN: dict[str, Any] = {"name": "t", "data": {"source": "synthetic"}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "README.md").write_text("not part of it")
    return folder


def write_at(path: Path, place: int) -> None:
    """One byte is another, as in a merged LoRA; size and, as `cp -p` or rsync leave it, mtime are as before."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_small_models_keep_the_identity_that_they_had(folder: Path) -> None:
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        digest.update(f"{name}:{len(content)}:".encode() + hashlib.sha256(content).digest())
    assert folder_fingerprint(folder) == digest.hexdigest()


def test_the_middle_of_large_weights_counts(folder: Path) -> None:
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:  # a file with a hole: 600 MiB that take no room
        file.truncate(600 * 1024**2)
    before = folder_fingerprint(folder)
    write_at(weights, 300 * 1024**2)
    assert folder_fingerprint(folder) != before


def test_a_model_s_own_code_counts(folder: Path) -> None:
    before = folder_fingerprint(folder)
    (folder / "modeling_own.py").write_text("SCALE = 1\n")
    first = folder_fingerprint(folder)
    (folder / "modeling_own.py").write_text("SCALE = 2\n")
    assert len({before, first, folder_fingerprint(folder)}) == 3


def test_large_files_are_remembered_and_known_again_when_they_change(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_hashes, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(content_hashes, "PART_BYTES", 1000)
    monkeypatch.setattr(content_hashes, "REMEMBERED_BYTES", 4096)
    monkeypatch.setattr(content_hashes, "SETTLED_SECONDS", -1.0)
    read: list[str] = []
    part = content_hashes._part
    monkeypatch.setattr(content_hashes, "_part", lambda place, *where: read.append(place) or part(place, *where))
    weights = folder / "model.safetensors"
    first = folder_fingerprint(folder)
    assert read.count(str(weights)) == 17
    read.clear()
    assert folder_fingerprint(folder) == first
    assert read == [str(folder / "config.json")]
    write_at(weights, 5000)
    second = folder_fingerprint(folder)
    assert second != first
    other = folder / "other"
    other.write_bytes(weights.read_bytes())
    other.replace(weights)
    assert folder_fingerprint(folder) == second
    # A memory that is damaged, or lies, or cannot be written, is none.
    for content in (b"[]", b"{", b'{"%s": 5}' % str(weights).encode()):
        (cache / "fingerprints.json").write_bytes(content)
        assert folder_fingerprint(folder) == second
    (cache / "fingerprints.json").unlink()
    (cache / "fingerprints.json").mkdir()
    assert folder_fingerprint(folder) == second


def test_what_was_written_just_now_is_not_remembered(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_hashes, "REMEMBERED_BYTES", 4096)
    folder_fingerprint(folder)
    assert not (cache / "fingerprints.json").exists()


def test_a_folder_below_the_home_folder_is_known_by_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))

    def identity() -> dict[str, Any]:
        (model,) = resolve_config({**PLAN, "models": [{"name": "m", "source": "~/m"}]}, "t").models
        return model_fingerprint(model)

    before = identity()
    assert before == {"content": folder_fingerprint(folder)}
    write_at(folder / "model.safetensors", 5000)
    assert identity() != before


def test_chats_are_written_by_templates_that_lie_in_files_of_their_own(folder: Path) -> None:
    (model,) = resolve_config({**PLAN, "models": [{"name": "m", "source": str(folder)}]}, "t").models
    plain = model_fingerprint(model)
    assert model_fingerprint(model, chats=True) == plain  # what tokenizer_config.json holds is content
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    first = model_fingerprint(model, chats=True)
    (folder / "chat_template.jinja").write_text("{{ messages[0] }}")
    second = model_fingerprint(model, chats=True)
    assert first["content"] == second["content"] == plain["content"] and first != second
    # Of other rows it says nothing.
    assert model_fingerprint(model) == plain
