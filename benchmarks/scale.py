"""How do seconds and memory of a plan and of the pairing grow with the rows: x1, x10, x100?

    python benchmarks/scale.py [--json] [--times N ...] [--keep FOLDER]

x1 are 100 rows to forget and a pool of 10,000; x100 are 10,000 and 1,000,000. Each row is a question with an answer of
about 60 words together, made up by a seeded generator, in a Parquet file. Each case runs in a process of its own:

plan    `icu-ray sweep CONFIG --dry-run` of a model with a tokenizer, so that prompts are counted in its tokens
pairs   data.sources.load_corpus and data.pairing.find_pairs on a Ray started here, one actor. The encoder is a
        stand-in: the mean of one random vector of 64 numbers for each word, which sentence-transformers loads as any
        other. So what is measured is all that stands around the encoder.

`file` is the size of the files. `peak` is the most resident memory of the process that reads, `own` that without pages
of files and of Ray's object store, which the system may take back. `actors` is the most memory of its own that an
embedding or searching actor had. `start` is what the same process has before it opens a file, and is in `peak`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FORGET, POOL = 100, 10_000
WORDS, WIDTH, VOCABULARY = 60, 64, 5000
MIB = 2**20
ACTORS = (b"Embedder)", b"MapBatches(ShardSearch)")


def words() -> list[str]:
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return ["".join(random.choice(letters, size=random.integers(3, 9))) + str(n) for n in range(VOCABULARY)]


def write_rows(file: Path, rows: int, seed: int) -> None:
    """Questions of 12 words and answers of 48, drawn word by word; written 10,000 at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random, known = np.random.default_rng(seed), np.array(words(), dtype=object)
    schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for start in range(0, rows, 10_000):
            drawn = known[random.integers(VOCABULARY, size=(min(10_000, rows - start), WORDS))]
            columns = [[" ".join(row) for row in drawn[:, part]] for part in (slice(0, 12), slice(12, None))]
            writer.write_table(pa.table(columns, schema=schema))


def write_models(folder: Path) -> None:
    """A tokenizer with a model's config, and the encoder that stands in; both know each word."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    known = {word: number for number, word in enumerate(["<pad>", "<eos>", "a", *words()])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder / "model"
    )
    shape = GPT2Config(vocab_size=len(known), n_embd=16, n_layer=1, n_head=1, n_positions=256)
    GPT2LMHeadModel(shape).save_pretrained(folder / "model")
    vectors = np.random.default_rng(0).standard_normal((len(known), WIDTH)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu").save(
        str(folder / "encoder")
    )


def write_config(folder: Path, times: int) -> Path:
    """The rows of one size and a config of them; what is there already stays."""
    for part, rows, seed in (("forget", FORGET * times, 1), ("pool", POOL * times, 2)):
        file = folder / f"{part}-{times}.parquet"
        if not file.exists():
            write_rows(file, rows, seed)
    config = {
        "name": f"scale-{times}",
        "storage": str(folder / "runs"),
        "data": {
            "source": "records",
            "forget": str(folder / f"forget-{times}.parquet"),
            "pool": str(folder / f"pool-{times}.parquet"),
            "prompt_column": "question",
            "completion_column": "answer",
        },
        "columns": {"length": 64, "prefix_start": 16, "suffix_start": 32},
        "models": [{"name": "small", "source": str(folder / "model")}],
        "pairs": {"encoder": str(folder / "encoder"), "batch_size": 256, "actors": 1},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        "tracking": {"enabled": False},
    }
    file = folder / f"scale-{times}.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def status(name: str, process: str = "self") -> float:
    """MiB of a line of a process's status."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 / MIB for line in lines if line.startswith(f"{name}:")), 0.0)


class Watch:
    """The most memory of its own (MiB) that this process had, and that an actor had."""

    def __init__(self) -> None:
        self.own = self.actors = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.own = max(self.own, status("RssAnon"))
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if any(name in (folder / "cmdline").read_bytes() for name in ACTORS):
                        self.actors = max(self.actors, status("RssAnon", folder.name))
                except OSError:
                    continue


@contextmanager
def ray_here() -> Iterator[None]:
    import ray

    with tempfile.TemporaryDirectory(prefix="icu", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


def plan(config: Path) -> dict[str, Any]:
    """In this process, as the command does it; what it prints goes to stderr."""
    from icu_ray.cli.main import main as command
    from icu_ray.plan import planning  # noqa: F401 - before the first count

    start = status("VmRSS")
    with Watch() as watch:
        clock, processor = time.perf_counter(), time.process_time()
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            shown, sys.stdout = sys.stdout, nowhere
            try:
                code = command(["sweep", str(config), "--dry-run"])
            finally:
                sys.stdout = shown
        assert not code, code
        seconds = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - processor}
    return {**seconds, "start": start, "peak": status("VmHWM"), "own": watch.own, "actors": None}


def pairs(config: Path) -> dict[str, Any]:
    from icu_ray.config.file import load_config
    from icu_ray.data.pairing import find_pairs
    from icu_ray.data.sources import load_corpus
    from icu_ray.storage.store import Store

    asked = load_config(config)
    with ray_here(), tempfile.TemporaryDirectory() as store:
        start = status("VmRSS")
        with Watch() as watch:
            clock, processor = time.perf_counter(), time.process_time()
            corpus = load_corpus(asked)
            read = time.perf_counter() - clock
            found = find_pairs(corpus, [0], asked.pairs, asked.columns.value(), own_columns=True, store=Store(store))
            seconds = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - processor, "read": read}
        assert len(found[0]) == len(corpus.targets[0])
        return {**seconds, "start": start, "peak": status("VmHWM"), "own": watch.own, "actors": watch.actors}


CASES = {"plan": plan, "pairs": pairs}


def measured(case: str, config: Path) -> dict[str, Any]:
    """A case in a process of its own."""
    known = [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, known)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--case", case, str(config)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100], metavar="N", help="default: 1 10 100")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the files are made, or are already")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case, config = arguments.case
        print(json.dumps(CASES[case](Path(config))))
        return
    from table import machine, print_table

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="icu_ray_scale_") as place:
        folder = arguments.keep or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "encoder").exists():
            write_models(folder)
        for case in arguments.cases:
            first: dict[str, Any] = {}
            for times in arguments.times:
                config = write_config(folder, times)
                size = sum((folder / f"{part}-{times}.parquet").stat().st_size for part in ("forget", "pool")) / MIB
                found = measured(case, config)
                first = first or found
                rows.append(
                    {
                        "case": f"{case} x{times}",
                        "rows": (FORGET + POOL) * times,
                        "file": size,
                        **found,
                        "ratio": found["seconds"] / first["seconds"],
                        "memory": found["peak"] / first["peak"],
                    }
                )
                print(f"{case} x{times}: {found}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    columns = {
        "case": "", "rows": ",", "file": ",.0f", "seconds": ".1f", "read": ".1f", "cpu": ".1f", "ratio": ".1f",
        "start": ",.0f", "peak": ",.0f", "own": ",.0f", "actors": ",.0f", "memory": ".1f",
    }  # fmt: skip
    print_table(rows, columns)


if __name__ == "__main__":
    main()
