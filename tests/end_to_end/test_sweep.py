"""The main job as a user runs it: one command on a small grid, refused input, a driver killed and run again.

Needs: Rays of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from icu_ray.data.encoder import bundled_encoder
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_beat, read_evaluation, read_events, read_result, trial_ids
from icu_ray.sweep.__main__ import main
from tests.support.evaluation_case import save_model as save_evaluation_model
from tests.support.evaluation_case import sentence
from tests.support.tiny_models import save_byte_tokenizer
from tests.support.trained import lent

ROOT = Path(__file__).parents[2]
CONFIG = """\
name: t
data: {source: synthetic, records: 48, sample_size: 6, heldout: 6}
samples: [0]
columns: {length: 48, prefix_start: 16, suffix_start: 32}
models:
  - {name: small, standin: {size: small, vocabulary: 600, target_repeats: 8}}
methods:
  - {name: icu, cells: [[0.5, 1.0]]}
  - {name: icu, label: gradient-ascent, cells: [[0, 0]]}
optim: {lr: 2.0e-4}
train: {batch_size: 4}
el: {ngram: 5}
stop: {max_epochs: 12}
pairs: {encoder: bundled}
filter: {encoder: bundled, encoder_layer: 6}
evaluation: {suites: [quick], limit: 4}
"""


CANARY = f"canary-{secrets.token_hex(8)}"
SECRETS = (
    *("HF_TOKEN", "OPENAI_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"),
)
"""What a user's shell may hold and no file may."""


def no_secret(folder: Path, *outputs: str) -> None:
    """Nothing below a folder (config aside) nor in what was printed holds the canary."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "c.yaml"]
    names = {path.name for path in files}
    assert {"sweep.json", "spec.json", "result.json", "driver.log", "report.html", "mlflow.db"} <= names
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert not [output for output in outputs if CANARY in output]


def no_secret_of_ray(driver: int) -> None:
    """Nor does any file that the Ray of a running driver keeps: its logs and all besides."""
    ours = [owner for owner in Path(tempfile.gettempdir()).glob("icu-ray-*/**/driver.pid") if owner.is_file()]
    folder = next(owner.parent for owner in ours if owner.read_text().rsplit("-", 2)[1] == str(driver))
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name.startswith("runtime_env_agent") for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **dict.fromkeys(SECRETS, CANARY)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "icu_ray.sweep", "c.yaml", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stopped_by(number: signal.Signals, folder: Path, when: Callable[[str], bool]) -> str:
    """Start the sweep, send it a signal once `when` likes what it printed; it must stop by itself within seconds."""
    process = start(folder)
    assert process.stdout is not None
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    deadline = time.monotonic() + 600
    while not when("".join(output)):
        assert process.poll() is None and time.monotonic() < deadline, "".join(output)
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    reader.join(timeout=60)
    assert "ended at once" not in "".join(output)
    return "".join(output)


def results(folder: Path) -> dict[str, Any]:
    storage = str(folder / "runs")
    found = [read_result(TrialPaths.of(storage, "t", trial)) for trial in trial_ids(storage, "t")]
    return {result.name: result for result in found if result is not None}


def evaluated(folder: Path) -> dict[str, TrialEvaluation]:
    """Evaluations by trial name."""
    storage = str(folder / "runs")
    paths = {name: TrialPaths.of(storage, "t", result.trial_id) for name, result in results(folder).items()}
    found = {name: read_evaluation(path) for name, path in paths.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")


def mlflow_runs(folder: Path) -> list[Any]:
    client = client_of(folder)
    experiment = client.get_experiment_by_name("t")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
def test_a_sweep_its_kill_and_its_continuation(tmp_path: Path, trained: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "c.yaml").write_text(CONFIG)
    with lent(trained, whole / "runs" / "store"):  # the other one is interrupted while it trains its own
        output, _ = start(whole).communicate(timeout=900)
    expected = results(whole)
    assert set(expected) == {"icu-small-s0-a0.5-b1.0", "gradient-ascent-small-s0-a0.0-b0.0"}, output
    for result in expected.values():
        assert result.status in ("finished", "not_forgotten"), result.reason
        assert result.before.ma >= 0.9
        assert result.after.forget_loss > result.before.forget_loss
    assert "mlflow ui --backend-store-uri sqlite:///" in output
    table = json.loads((whole / "runs" / "t" / "summary.json").read_text())
    assert len(table["trials"]) == 2
    runs = mlflow_runs(whole)
    assert len(runs) == 3
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    for name, result in expected.items():
        assert children[name].data.metrics["ma"] == pytest.approx(result.after.ma)
        assert children[name].info.status == "FINISHED"
    evaluations = evaluated(whole)
    for name, found in evaluations.items():
        assert not found.errors
        assert {"cls/quick_choice_acc", "cls/quick_avg", "dialogue/quick_f1", "ppl/quick_heldout"} <= set(found.after)
        metrics = children[name].data.metrics
        assert {key: metrics[key] for key in found.after} == dict(found.after)
        assert {key: metrics[f"before/{key}"] for key in found.before} == dict(found.before)
        artefacts = {file.path for file in client_of(whole).list_artifacts(children[name].info.run_id, "evaluation")}
        assert artefacts == {"evaluation/documents.parquet"}
    assert len({tuple(found.before.items()) for found in evaluations.values()}) == 1
    assert "What the models can still do" in (whole / "runs" / "t" / "report" / "report.html").read_text()
    no_secret(whole, output)

    # Ctrl-C while the stand-in is trained, SIGTERM while a trial runs, and at last kill -9: each is gone on from.
    storage = str(killed / "runs")

    def epochs_told() -> int:
        # Of both trials: one may be over before the driver hears its signal.
        return sum(len(read_events(TrialPaths.of(storage, "t", i))) for i in trial_ids(storage, "t"))

    said = stopped_by(signal.SIGINT, killed, lambda output: "stand-in small: waiting" in output)
    assert "Interrupted. What was finished is kept" in said
    assert not results(killed)
    said = stopped_by(signal.SIGTERM, killed, lambda output: epochs_told() >= 2)
    assert "Interrupted. What was finished is kept" in said
    so_far = epochs_told()

    process = start(killed)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if epochs_told() > so_far:
            break
        time.sleep(0.1)
    no_secret_of_ray(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    said = process.stdout.read()
    process.wait()
    beat = read_beat(storage, "t")
    assert beat is not None and beat.state_at(time.time()) == "interrupted"
    assert "The driver was ended at once: killed, or" in said and "driver.log. What was finished is kept" in said
    done = {name: (killed / "runs" / "t" / "trials").glob("*/result.json") for name in results(killed)}
    before = {path: path.stat().st_mtime_ns for paths in done.values() for path in paths}
    output, _ = start(killed).communicate(timeout=900)
    again = results(killed)
    assert set(again) == set(expected), output
    for name, result in expected.items():
        assert again[name].after == result.after
        assert again[name].epochs == result.epochs
    assert {name: found.after for name, found in evaluated(killed).items()} == {
        name: found.after for name, found in evaluations.items()
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(mlflow_runs(killed)) == 3
    no_secret(killed, output)
    trials = killed / "runs" / "t" / "trials"
    promised = {"spec.json", "events.jsonl", "generations.jsonl", "samples.jsonl", "result.json"}
    promised |= {"evaluation.json", "documents.parquet", "model"}
    assert {path.name for folder in trials.iterdir() for path in folder.iterdir()} <= promised

    # A trial was killed between its result and the end, and others before: what is left of that goes.
    ended = next(trials.iterdir())
    for name in ("checkpoint/checkpoint_2026/state", ".model-left/model.safetensors", "error.txt"):
        (ended / name).parent.mkdir(parents=True, exist_ok=True)
        (ended / name).touch()

    # Everything is there: a third run starts nothing, touches no result and says the same.
    written = {path: path.stat().st_mtime_ns for path in (killed / "runs" / "t" / "trials").glob("*/result.json")}
    assert len(written) == 2
    # But an evaluation that is gone is made good, from the store, without a trial.
    gone = next((killed / "runs" / "t" / "trials").glob("*/evaluation.json"))
    content = gone.read_bytes()
    gone.unlink()
    third = start(killed)
    output, _ = third.communicate(timeout=600)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert third.returncode == 0, output
    assert "0 trials to run, 2 already done" in output
    assert gone.read_bytes() == content
    assert {path.name for path in ended.iterdir()} <= promised

    # A tracking server's password in the config: it is away, and neither it nor who asks later is told.
    with_password = f"tracking.uri=http://user:{CANARY}@127.0.0.1:9"
    output, _ = start(whole, with_password).communicate(timeout=600)
    assert "MLflow did not answer" in output and "http://127.0.0.1:9" in output
    asked = [
        subprocess.run(
            [sys.executable, "-m", "icu_ray.cli", *command, str(whole / "runs" / "t")],
            env={**os.environ, "MLFLOW_TRACKING_URI": with_password.removeprefix("tracking.uri=")},
            capture_output=True,
            text=True,
        )
        for command in (["sync"], ["status", "--json"])
    ]
    assert [done.returncode for done in asked] == [2, 0]
    no_secret(whole, output, *(done.stdout + done.stderr for done in asked))


@pytest.mark.slow
def test_a_sweep_that_fails_outlives_its_terminal_and_leaves_no_secret(tmp_path: Path) -> None:
    """`icu-ray sweep ... | head -1` of a sweep whose preparation fails, on an encoder that is broken."""
    save_evaluation_model(tmp_path / "model")
    shutil.copytree(bundled_encoder(), tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][100] = float("nan")
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    for name, numbers in (("forget", range(2)), ("pool", range(2, 10))):
        lines = [f'{{"text": "{sentence(number)}"}}\n' for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    records = "data: {source: records, forget: forget.jsonl, pool: pool.jsonl}\n"
    (tmp_path / "c.yaml").write_text(
        "name: t\nmodels: [{name: m, source: ./model, gpus_per_worker: 0}]\nsamples: [0]\ncolumns: {length: 12, "
        f"prefix_start: 3, suffix_start: 6}}\n{records}methods: [{{name: icu, cells: [[0.5, 1.0]]}}]\n"
        "el: {ngram: 2}\n"
        "pairs: {encoder: ./encoder}\nfilter: {encoder: bundled, encoder_layer: 6}\n"
    )
    process = start(tmp_path)
    assert process.stdout is not None
    said = ""
    while "1 trial to run" not in said:
        said += (line := process.stdout.readline())
        assert line, said
    process.stdout.close()
    assert process.wait(timeout=600) == 1
    [result] = results(tmp_path).values()
    assert result.status == "failed" and result.reason.startswith("preparation: pairs.encoder: ")
    assert "its weights are not finite" in result.reason
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"sweep.json", "result.json", "driver.log", "report.html"} <= {path.name for path in files}
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


BENCHMARK = ["data={source: extraction, folder: good, tokenizer: tok}"]
REFUSED: list[tuple[str, list[str], str]] = [
    ("unknown key", ["optim.lrr=1"], "did you mean 'lr'"),
    ("wrong type", ["optim.lr=fast"], "optim.lr: expected a valid number"),
    ("negative weight", ["methods.0.cells=[[-1, 1]]"], "greater than or equal to 0"),
    ("missing file", ["data={source: records, forget: none.jsonl}"], "none.jsonl: no such file"),
    ("empty text", ["data={source: records, forget: empty.jsonl, pool: pool.jsonl}"], "is empty"),
    ("cut parquet", ["data={source: records, forget: cut.parquet}"], "cut.parquet"),
    ("wrong shape", ["data={source: extraction, folder: shape, tokenizer: tok}"], "shape"),
    ("wrong dtype", ["data={source: extraction, folder: dtype, tokenizer: tok}"], "dtype"),
    ("id outside the vocabulary", ["data={source: extraction, folder: ids, tokenizer: tok}"], "token id 5000"),
    ("doc_id out of range", [*BENCHMARK, "data.sample_file=range.csv"], "doc_id 30 is out of range"),
    ("doc_id twice", [*BENCHMARK, "data.sample_file=twice.csv"], "doc_id 3 appears twice"),
    ("pickled", ["data={source: extraction, folder: pickled, tokenizer: tok}"], "pickle"),
    ("no filter encoder", ["filter.encoder=./nowhere"], "filter.encoder: ./nowhere: no such folder"),
    ("too deep a layer", ["filter.encoder_layer=9"], "filter.encoder_layer: expected at most 6"),
    ("a beta of one", ["optim.betas=[0.9, 1.0]"], "less than 1"),
    ("alpha beside cells", ["methods.0.alpha=0.3"], "give either 'cells' or 'alpha' and 'beta'"),
    ("unknown task", ["evaluation.tasks=[quick_chioce]"], "did you mean 'quick_choice'"),
    ("no mirror", ["evaluation.suites=[icu]", "evaluation.mirror=nowhere"], "evaluation.mirror: nowhere: no such"),
    ("quick on other data", ["data={source: records, forget: pool.jsonl}", "evaluation.suites=[quick]"], "quick asks"),
    ("price file", ["resources.max_cost=5", "resources.prices=none.yaml"], "none.yaml"),
    ("cost without prices", ["resources.max_cost=5"], "max_cost needs 'prices'"),
    ("ZeRO-4", ["models.0.zero_stage=4"], "less than or equal to 3"),
    ("offload without ZeRO", ["models.0.offload_optimizer=true"], "needs zero_stage 1, 2 or 3, found zero_stage=0"),
    ("no weights", ["models=[{name: m, source: ./bare}]"], "no config.json"),
    ("too many workers", ["models.0.workers=4000", "train.batch_size=4000"], "needs 4000 workers"),
    ("sample larger than the pool", ["data.sample_size=47"], "sample"),
    ("unwritable storage", ["storage=file.txt/x"], "file.txt"),
    ("no storage", ["storage=''"], "storage: expected a folder, or a URL such as s3://bucket/runs, found ''"),
    ("blank storage", ["storage='file:// '"], "storage: expected a folder, or a URL"),
    ("storage is a link to nothing", ["storage=dangling"], "dangling is a link to nothing, expected a folder"),
    ("sweep is a file", ["storage=.", "name=file.txt"], "file.txt is a file, expected a folder"),
    ("trials are a file", ["storage=.", "name=tok2"], "tok2/trials is a link to nothing, expected a folder"),
    ("name of the store", ["name=store"], "name: 'store' is a name that the storage uses itself"),
    ("name of the database", ["name=MLflow.db"], "name: 'MLflow.db' is a name that the storage uses"),
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    # The quick suite asks about synthetic records alone, and most of what is refused here is other data.
    (folder / "c.yaml").write_text(CONFIG.split("evaluation:")[0])
    (folder / "pool.jsonl").write_text('{"text": "one more text"}\n')
    (folder / "empty.jsonl").write_text('{"text": "good"}\n{"text": "  "}\n')
    (folder / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    (folder / "file.txt").write_text("a file where a folder should be")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "tok2").mkdir()
    (folder / "tok2" / "trials").symlink_to(folder / "nowhere")
    (folder / "bare").mkdir()
    (folder / "tok").mkdir()
    save_byte_tokenizer(folder / "tok", 300)
    arrays = {
        "good": np.full((30, 200), 5, dtype=np.uint16),
        "ids": np.full((30, 200), 5000, dtype=np.uint16),
        "shape": np.zeros((5, 7), dtype=np.uint16),
        "dtype": np.zeros((5, 200), dtype=np.float64),
        "pickled": np.asarray([{"a": 1}], dtype=object),
    }
    for name, array in arrays.items():
        (folder / name).mkdir()
        np.save(folder / name / "train_dataset.npy", array, allow_pickle=True)
        (folder / name / "range.csv").write_text("doc_id,corpus,text\n2,github,a\n30,github,b\n")
        (folder / name / "twice.csv").write_text("doc_id,corpus,text\n3,github,a\n3,github,b\n")
    return folder


@pytest.mark.parametrize(("what", "overrides", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused_before_anything_starts(
    bad: Path,
    what: str,
    overrides: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bad)
    files = sorted(path.name for path in bad.iterdir())
    assert main(["c.yaml", *overrides]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    left = sorted(path.name for path in bad.iterdir() if path.name != "runs")
    assert left == files


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from icu_ray.cli.main import main as cli

    for command in (
        ["sweep"],
        ["plan"],
        ["probe"],
        ["score"],
        ["report"],
        ["sync"],
        ["data", "check"],
        ["data", "fetch"],
    ):
        with pytest.raises(SystemExit) as left:
            cli([*command, "--help"])
        assert left.value.code == 0
        assert "example:" in capsys.readouterr().out


def test_score_and_probe_refuse_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from icu_ray.cli.main import main as cli

    assert cli(["score", str(tmp_path / "none.csv")]) == 2
    assert cli(["probe", "--model", str(tmp_path), "--forget", str(tmp_path / "none.npy")]) == 2
    assert cli(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("icu-ray: ") == 3
