"""The command `icu-ray`: thin doors to the rooms. Each sub-command has --help with an example.

Exit codes: 0 done; 1 some trials failed; 2 the input was refused before anything ran; 130 interrupted, resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.version import __version__

Parsers = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; the process's exit code."""
    # Progress bars and advice of libraries are not part of what this command says.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except UserError as error:
        print(f"icu-ray: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("icu-ray: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="icu-ray", description="Iterative contrastive unlearning of language models on Ray."
    )
    parser.add_argument("--version", action="version", version=f"icu-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sweep(commands)
    _add_plan(commands)
    _add_probe(commands)
    _add_score(commands)
    _add_report(commands)
    _add_sync(commands)
    _add_data(commands)
    return parser


def _command(commands: Any, name: str, summary: str, example: str, run: Callable[[argparse.Namespace], int]) -> Any:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_sweep(commands: Any) -> None:
    parser = _command(
        commands,
        "sweep",
        "Run a grid of trials, or go on with it where it stopped.",
        "icu-ray sweep tune_configs/extraction_small.yaml optim.lr=1e-4",
        _sweep,
    )
    parser.add_argument("config", nargs="?", help="YAML file or name of a shipped config (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys to set, e.g. optim.lr=1e-5")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")


def _sweep(arguments: argparse.Namespace) -> int:
    from icu_ray.sweep import main as sweep

    given = [arguments.config] if arguments.config is not None else []
    return sweep([*given, *arguments.overrides, *(["--dry-run"] if arguments.dry_run else [])])


def _add_plan(commands: Any) -> None:
    parser = _command(
        commands,
        "plan",
        "Print what a sweep would run: trials, status, resources, estimate. Starts nothing.",
        "icu-ray plan tune_configs/paper.yaml --json",
        _plan,
    )
    parser.add_argument("config", nargs="?", help="YAML file or name of a shipped config (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _plan(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from icu_ray.plan import plan_json
    from icu_ray.planning import find_config, plan_config
    from icu_ray.report.plan_table import print_plan

    name, overrides = split_config([arguments.config or "", *arguments.overrides])
    plan = plan_config(find_config(name), overrides, dry_run=True)
    if arguments.json:
        print(plan_json(plan))
    else:
        print_plan(plan, Console(width=None if sys.stdout.isatty() else 140))
    return 0


def split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """A leading config name, if the first argument is none of the form key=value, and the overrides."""
    given = [argument for argument in arguments if argument]
    if given and "=" not in given[0]:
        return given[0], given[1:]
    return None, given


def _add_probe(commands: Any) -> None:
    parser = _command(
        commands,
        "probe",
        "Forget loss, memorisation accuracy and extraction likelihood of any causal LM on any forget file.",
        "icu-ray probe --model EleutherAI/gpt-neo-125m --forget records.jsonl --json",
        _probe,
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help="folder or hub id of a causal LM")
    parser.add_argument(
        "--forget", required=True, type=Path, metavar="FILE", help=".npy of token ids, or .jsonl, .csv, .parquet"
    )
    parser.add_argument("--tokenizer", metavar="NAME", help="who wrote the .npy's ids, when not the model's tokenizer")
    parser.add_argument("--el-start", type=_positive, default=150, help="first prefix length of EL (default 150)")
    parser.add_argument("--ngram", type=_positive, default=10, help="n of EL's n-grams (default 10)")
    parser.add_argument("--length", type=_positive, default=200, help="tokens a text is cut to (default 200)")
    parser.add_argument("--text-column", default="text", help="column of the texts (default 'text')")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU when there is one)")
    parser.add_argument("--revision", help="revision of a hub model")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model's folder brings")
    parser.add_argument("--json", action="store_true", help="print JSON, with every sample's values")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return value


def _probe(arguments: argparse.Namespace) -> int:
    from icu_ray.probing import probe_files, probe_json
    from icu_ray.results import finite

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    result = probe_files(
        arguments.model,
        arguments.forget,
        tokenizer=arguments.tokenizer,
        el_start=arguments.el_start,
        ngram=arguments.ngram,
        length=arguments.length,
        text_column=arguments.text_column,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        revision=arguments.revision,
        say=say if sys.stderr.isatty() else lambda line: None,
    )
    if arguments.json:
        print(json.dumps(finite(probe_json(result, arguments.ngram))))
        return 0
    assert result.el_mean is not None
    print(f"samples      {len(result.ids)}")
    print(f"MA           {100 * result.ma_mean:.2f} %")
    print(f"EL{arguments.ngram:<10} {100 * result.el_mean:.2f} %")
    print(f"forget loss  {result.forget_loss_mean:.4f}")
    return 0


def _add_score(commands: Any) -> None:
    parser = _command(
        commands,
        "score",
        "Normalised scores s_z and s_m of the rows of a results table.",
        "icu-ray score table.csv --json   # columns row,el10,ma,bert,entropy,cls,dia,ppl_pile,ppl_wikitext,gpt",
        _score,
    )
    parser.add_argument("table", type=Path, metavar="TABLE.csv")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _score(arguments: argparse.Namespace) -> int:
    from icu_ray.metrics.scores import normalised_scores, read_score_table

    scores = normalised_scores(read_score_table(arguments.table))
    if arguments.json:
        print(json.dumps([{"row": s.row, "s_z": s.s_z, "s_m": s.s_m} for s in scores], ensure_ascii=False))
        return 0
    width = max(len(score.row) for score in scores)
    print(f"{'row':<{width}}  {'s_z':>7}  {'s_m':>7}")
    for score in scores:
        print(f"{score.row:<{width}}  {score.s_z:>7.2f}  {score.s_m:>7.2f}")
    print(f"population: the {len(scores)} rows of {arguments.table}; scores compare these rows only")
    return 0


def _add_report(commands: Any) -> None:
    parser = _command(
        commands,
        "report",
        "Tables of a finished or unfinished sweep, from its folder.",
        "icu-ray report runs/quickstart",
        _report,
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the sweep's folder: <storage>/<name>")


def _report(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from icu_ray.report.tables import print_tables, summarise, write_tables
    from icu_ray.results import trial_ids

    storage, sweep = split_sweep(arguments.sweep)
    if not trial_ids(storage, sweep):
        raise UserError(f"{arguments.sweep}: holds no trials; expected the folder of a sweep, <storage>/<name>")
    summary = summarise(storage, sweep)
    folder = write_tables(summary)
    print_tables(summary, Console(width=None if sys.stdout.isatty() else 140))
    print(f"\ntrials.csv, cells.csv and summary.json are in {folder}")
    return 0


def split_sweep(folder: str) -> tuple[str, str]:
    """(storage, sweep name) of a sweep's folder, a path or URL."""
    storage, _, name = folder.rstrip("/").rpartition("/")
    return storage or ".", name


def _add_sync(commands: Any) -> None:
    parser = _command(
        commands,
        "sync",
        "Send to MLflow what a sweep's storage holds and the server does not.",
        "MLFLOW_TRACKING_URI=http://mlflow:5000 icu-ray sync runs/quickstart",
        _sync,
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the sweep's folder: <storage>/<name>")


def _sync(arguments: argparse.Namespace) -> int:
    from icu_ray.results import read_beat, read_sweep, trial_ids
    from icu_ray.tracking import sync_sweep, tracking_uri, without_secrets

    storage, sweep = split_sweep(arguments.sweep)
    if not trial_ids(storage, sweep):
        raise UserError(f"{arguments.sweep}: holds no trials; expected the folder of a sweep, <storage>/<name>")
    known, beat = read_sweep(storage, sweep), read_beat(storage, sweep)
    configured = None if known is None else (known.config.get("tracking") or {}).get("uri")
    uri = tracking_uri(storage, configured)
    over = beat is None or beat.state_at(time.time()) != "running"
    try:
        sent = sync_sweep(storage, sweep, uri, over=over)
    except Exception as error:  # MLflow, its database and its HTTP library each have their own
        first = without_secrets(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        raise UserError(
            f"MLflow at {without_secrets(uri)} did not take the runs: {first}; nothing is lost, the same command sends "
            "what is missing (MLFLOW_TRACKING_URI names the server)"
        ) from error
    print(f"{without_secrets(uri)}: {sent} metric values of {sweep} sent; everything in storage is there now")
    return 0


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="Get and check the data of experiments.")
    parts = data.add_subparsers(required=True, metavar="COMMAND")
    fetch = _command(
        parts,
        "fetch",
        "Download the benchmark's public files, checked and continued; without a network: what to put where.",
        "icu-ray data fetch --folder data",
        _data_fetch,
    )
    fetch.add_argument("--folder", type=Path, default=Path("data"), help="where the files go (default: data)")
    check = _command(
        parts,
        "check",
        "Validate the data of a config and count it; starts nothing.",
        "icu-ray data check tune_configs/extraction_small.yaml",
        _data_check,
    )
    check.add_argument("config", nargs="?")
    check.add_argument("overrides", nargs="*", metavar="key=value")


def _data_fetch(arguments: argparse.Namespace) -> int:
    from icu_ray.data.fetch import fetch_data

    fetch_data(arguments.folder, print)
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    from icu_ray.config_file import load_config
    from icu_ray.data.sources import check_data
    from icu_ray.planning import find_config

    name, overrides = split_config([arguments.config or "", *arguments.overrides])
    check = check_data(load_config(find_config(name), overrides))
    for sample, counts in check.samples.items():
        print(f"sample {sample}: {counts.targets} targets, {counts.pool} rows in the pool")
    print(f"held out: {check.heldout} rows; fingerprint {check.fingerprint[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
