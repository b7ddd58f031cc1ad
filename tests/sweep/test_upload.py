"""What of a working folder is said to travel is what Ray packs; files of keys and tokens are refused.

Needs: nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from icu_ray.errors import UserError
from icu_ray.sweep.upload import what_travels

ROOT = Path(__file__).parents[2]
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"


def make(root: Path, *names: str, content: str = "x" * 500) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_what_is_said_is_what_ray_packs(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    root = tmp_path / "work"
    make(root, "c.yaml", "code/a.py", "code/b.py", "code/keep/deep/c.txt", "my runs/x")
    make(root, ".git/config", "runs/one/model.bin", "runs/two/model.bin", "code/__pycache__/a.pyc", "big.bin")
    make(root, "code/keep/__pycache__/c.pyc", "code/scratch/s.txt", "code/keep/deep/draft.txt")
    make(root, ".gitignore", content="/runs/\n__pycache__/\n")
    make(root, ".rayignore", content="*.bin\n")
    make(root, "code/.rayignore", content="scratch\ndraft.txt\n")
    upload = what_travels(root)
    package = tmp_path / "package.zip"
    create_package(str(root), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as packed:
        files = [entry for entry in packed.infolist() if not entry.is_dir()]
    assert sorted(str(path) for path in upload.files) == sorted(entry.filename for entry in files)
    assert upload.size == sum(entry.compress_size for entry in files)
    assert str(upload) == (
        "8 files, 3 kB; left out: .git/, big.bin, runs/, __pycache__/ in 2 places, code/scratch/, "
        "code/keep/deep/draft.txt"
    )


def test_this_checkout_may_be_sent(tmp_path: Path) -> None:
    """None of its files, which hold made-up tokens for tests, is taken for one of keys."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    assert len(what_travels(tmp_path).files) > 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, "x") for name in (".env", ".env.local", "id_ed25519", "hf_token", "my.p12", "client_secret_1.json")),
        *((name, "x") for name in ("auth/token.txt", "application_default_credentials.json", "wandb-api-key")),
        ("server.pem", PRIVATE),
        ("notes.txt", "hf_" + "a1" * 16 + "\n"),
        ("robot.json", '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nabc"}'),
        ("run.sh", "export X=canary-0123456789\n"),
    ],
)
def test_a_file_of_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-0123456789")
    make(tmp_path, "c.yaml")
    make(tmp_path, name, content=content)
    with pytest.raises(UserError, match=r"looks like keys, tokens or passwords") as refused:
        what_travels(tmp_path)
    assert f": {name}: " in str(refused.value) and "canary" not in str(refused.value)
    make(tmp_path, ".rayignore", content=f"/{name}\n")
    assert len(what_travels(tmp_path).files) == 2


def test_what_only_sounds_like_keys_travels(tmp_path: Path) -> None:
    names = ("tokens.py", "tokenizer.json", "special_tokens_map.json", ".env.example", "keys.csv", "secret_garden.txt")
    make(tmp_path, *names)
    make(tmp_path, "ca.pem", content="-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")
    make(tmp_path, "test_keys.py", content=f'KEY = """{PRIVATE}"""\n')
    assert len(what_travels(tmp_path).files) == len(names) + 2


def test_more_than_a_cluster_takes_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "c.yaml", "models/a/config.json")
    with (tmp_path / "models/a/model.safetensors").open("wb") as file:
        file.truncate(150_000_000)  # a hole, which takes no place on the disk
    with pytest.raises(UserError) as refused:
        what_travels(tmp_path)
    assert str(refused.value) == (
        f"--working-dir {tmp_path}: holds 3 files, 150.0 MB, expected less than 104.9 MB, which is what Ray takes; "
        "the largest part is models/ (150.0 MB); name in .rayignore what the job does not need"
    )
