"""Models by their hub id, from a hub on this machine: what is loaded, that it is told, and that once is enough.

Needs: nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.evaluation_case import save_model
from tests.support.hub_server import Hub, hub

MODEL = "org/tiny"
LOAD = """
import json, sys
from icu_ray.errors import UserError
from icu_ray.models.loading import load_model, load_tokenizer
from icu_ray.console.progress import listening

stages = []
revision = sys.argv[3] if len(sys.argv) > 3 else None
try:
    with listening(lambda stage, part: stages.append((stage, part))):
        if sys.argv[2] == "model":
            folder = str(load_model(sys.argv[1], revision=revision).folder)
        else:
            folder = load_tokenizer(sys.argv[1], revision=revision).name_or_path
    print(json.dumps({"folder": folder, "stages": stages}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""
PLAN = """
import json, sys
from icu_ray.config.file import resolve_config
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.plan.planning import _unknown_commits

tree = {"name": "t", "models": [{"name": "tiny", "source": sys.argv[1]}], "data": {"source": "synthetic"}}
config = resolve_config(tree, "t")
said = dict(zip(["said"], _unknown_commits(config)))
print(json.dumps(model_fingerprint(config.models[0]) | said))
"""

RETRAINED = """
import json, sys
from icu_ray.config.file import resolve_config
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.models.retrained import published_retrained
from icu_ray.plan.planning import _unreachable
from icu_ray.trial.artefacts import pinned

model = {"name": "m", "source": sys.argv[1], "retrained": sys.argv[2]}
tree = {"name": "t", "models": [model], "data": {"source": "synthetic"}, "methods": [{"name": "kumpr"}]}
tree |= {"pairs": {"encoder": "bundled"}, "filter": {"encoder": "bundled", "encoder_layer": 6}}
config = resolve_config(tree, "t")
found = model_fingerprint(published_retrained(config.models[0]))
print(json.dumps(found | {"unreachable": _unreachable(config), "pinned": pinned(config.models[0]).retrained}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As models lie on the hub: the weights several times over, for other frameworks too."""
    folder = save_model(tmp_path_factory.mktemp("hub") / "tiny")
    weights = folder / "model.safetensors"
    for other in ("pytorch_model.bin", "flax_model.msgpack", "onnx/model.onnx"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(weights.read_bytes())
    (folder / "README.md").write_text("# tiny\n")
    return folder


@pytest.fixture
def served(folder: Path) -> Iterator[Hub]:
    with hub({MODEL: folder}, bytes_per_second=200e3) as running:
        yield running


def load(cache: Path, endpoint: str | None, *arguments: str) -> dict[str, object]:
    """What a process of its own, with its own cache, finds."""
    return ask(cache, endpoint, LOAD, *arguments)


def ask(cache: Path, endpoint: str | None, code: str, *arguments: str) -> dict[str, object]:
    """What a process of its own, with its own cache, prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_ENDPOINT": endpoint}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_model_is_loaded_once(served: Hub, folder: Path, tmp_path: Path) -> None:
    found = load(tmp_path, served.url, MODEL, "model")
    assert "error" not in found, found
    place = Path(str(found["folder"]))
    kept = {file.name for file in place.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= kept
    assert not kept & {"pytorch_model.bin", "flax_model.msgpack", "README.md", "onnx"}
    assert (place / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    stages = found["stages"]
    assert isinstance(stages, list)
    parts = [part for stage, part in stages if stage == f"downloading {MODEL}"]
    assert parts == sorted(parts) and len(set(parts)) > 1 and 0 < parts[-1] <= 1
    assert stages[-1] == ["loading the model", None]

    # What is there needs no network any more, by the same name or its commit.
    before = len(served.asked)
    again = load(tmp_path, None, MODEL, "model")
    assert again.get("folder") == str(place), again
    assert load(tmp_path, None, MODEL, "model", served.sha(MODEL)).get("folder") == str(place)
    assert load(tmp_path, served.url, MODEL, "model").get("folder") == str(place)
    assert len(served.asked) == before


@pytest.mark.slow
def test_the_tokenizer_alone_is_loaded_without_weights(served: Hub, tmp_path: Path) -> None:
    assert "error" not in load(tmp_path, served.url, MODEL, "tokenizer")
    assert "tokenizer.json" in served.loaded and "model.safetensors" not in served.loaded
    assert "error" not in load(tmp_path, None, MODEL, "tokenizer")
    # Weights that are not there are still missed, and then had.
    assert "hub cannot be reached" in str(load(tmp_path, None, MODEL, "model").get("error"))
    assert "error" not in load(tmp_path, served.url, MODEL, "model")
    assert "model.safetensors" in served.loaded


@pytest.mark.slow
def test_a_branch_that_moves(folder: Path, tmp_path: Path) -> None:
    """What is loaded belongs together, though the weights are asked for after main went on."""
    moving = tmp_path / "moving"
    shutil.copytree(folder, moving)
    with hub({MODEL: moving}) as served:
        first = served.sha(MODEL)
        assert Path(str(load(tmp_path / "a", served.url, MODEL, "tokenizer")["folder"])).name == first
        weights = (moving / "model.safetensors").read_bytes()
        save_model(moving, seed=1)
        assert served.sha(MODEL) != first
        kept = Path(str(load(tmp_path / "a", served.url, MODEL, "model")["folder"]))
        assert kept.name == first and (kept / "model.safetensors").read_bytes() == weights
        # Who has none of it takes what main is now, and an older commit by its name.
        assert Path(str(load(tmp_path / "b", served.url, MODEL, "model")["folder"])).name == served.sha(MODEL)
        assert Path(str(load(tmp_path / "b", served.url, MODEL, "model", first)["folder"])).name == first
        assert "the hub knows no such model" in str(load(tmp_path / "b", served.url, MODEL, "model", "other")["error"])


@pytest.mark.slow
def test_what_is_missing_of_a_model_is_loaded_alone(served: Hub, tmp_path: Path) -> None:
    place = Path(str(load(tmp_path, served.url, MODEL, "model")["folder"]))
    (place / "tokenizer.json").resolve().unlink()
    (place / "tokenizer.json").unlink()
    served.asked.clear()
    found = load(tmp_path, served.url, MODEL, "model")
    assert served.loaded == ["tokenizer.json"]
    parts = [part for stage, part in found["stages"] if stage == f"downloading {MODEL}"]  # type: ignore[attr-defined]
    assert max(parts, default=0) == pytest.approx(1, abs=0.01)


def test_a_model_is_known_by_its_commit_when_it_is_planned(folder: Path, tmp_path: Path) -> None:
    moving = tmp_path / "moving"
    shutil.copytree(folder, moving)
    with hub({MODEL: moving}) as served:
        first = served.sha(MODEL)
        assert ask(tmp_path / "a", served.url, PLAN, MODEL) == {"hub": MODEL, "revision": first}
        (moving / "README.md").write_text("# moved\n")
        # A machine goes on with the commit that it knew first, without a network too.
        assert ask(tmp_path / "a", None, PLAN, MODEL) == {"hub": MODEL, "revision": first}
        assert ask(tmp_path / "b", served.url, PLAN, MODEL) == {"hub": MODEL, "revision": served.sha(MODEL)}
        assert served.sha(MODEL) != first and not served.loaded
        found = ask(tmp_path / "c", None, PLAN, MODEL)
    said = "neither the local cache nor the hub gives the commit of tiny"
    assert found["revision"] is None and str(found["said"]).startswith(said)


def test_what_the_hub_does_not_know(served: Hub, tmp_path: Path) -> None:
    said = str(load(tmp_path, served.url, "org/other", "model").get("error"))
    assert said == "model org/other: the hub knows no such model, and there is no folder of that name"


def test_a_published_retrained_model_is_known_by_its_commit_and_has_safetensors(folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    with hub({MODEL: folder, "org/without": folder, "org/pickled": pickled}) as served:
        commit = served.sha("org/without")
        for named in ("org/without", f"org/without@{commit}"):
            found = ask(tmp_path / "a", served.url, RETRAINED, MODEL, named)
            known = {"hub": "org/without", "revision": commit}
            assert found == {**known, "unreachable": "", "pinned": f"org/without@{commit}"}
        said = ask(tmp_path / "a", served.url, RETRAINED, MODEL, "org/pickled")["unreachable"]
        assert said == "model org/pickled: the hub has no safetensors of it; expected some, as its pickles are not read"
        other = ask(tmp_path / "a", served.url, RETRAINED, MODEL, "org/unknown")["unreachable"]
        assert str(other).startswith("model org/unknown: the hub knows no such model")
