"""The folder of a Ray that is started here.

Needs: nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from icu_ray.cluster import temp_folder as module
from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.errors import ClusterError

SESSION = "session_2026-11-27_06-53-08_123456_4194304/sockets/plasma_store"


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, with a name too long for sockets."""
    folder = tmp_path / ("long" * 10)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_long_tmpdir_leaves_room_for_sockets(long: Path) -> None:
    with temp_folder(None) as folder:
        assert len(str(folder / SESSION)) <= 107
        assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert not folder.parent.exists()


def test_tmpdir_is_named_where_nothing_short_is_there(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORT", (str(long), "/nowhere"))
    with pytest.raises(ClusterError, match=f"TMPDIR: {long} is too long .* expected at most 2[0-9]"), temp_folder(None):
        pass


def test_a_short_tmpdir_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with temp_folder(None) as folder:
            assert folder.parent.parent == Path(short)
