"""icu-ray judge: the GPT judge on what models wrote."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command
from icu_ray.console.verbosity import teller, verbosity
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from icu_ray.evaluation.ratings.judge import Cost

_say = teller()
_OVERRIDE = re.compile(r"[a-z_]+=.*", re.DOTALL)


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "judge",
        "Rate what models wrote 0 to 10 by the paper's GPT judge, at any OpenAI-compatible endpoint.\n"
        "The key comes only from the environment: OPENAI_API_KEY, or the variable that api_key_env names.",
        "icu-ray judge runs/quickstart usd_per_million_input=10 usd_per_million_output=30 --dry-run\n"
        "  icu-ray judge runs/quickstart base_url=http://localhost:8000/v1 model=my-model api_key_env=null",
        _judge,
        progress=True,
    )
    add_sources(parser, "; key=value sets a config key, e.g. model=gpt-4o")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings of the judge (default: built in)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: next to the source)")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="where paid answers are kept (default: the store)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what it would cost, and ask nothing (default: ask)"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_sources(parser: Any, more: str = "") -> None:
    """What icu-ray judge and icu-ray human export both read."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder of a sweep or trial, or a .jsonl, .json, .csv, .tsv or .parquet of id, prompt, reference, "
        f"candidate{more}",
    )
    parser.add_argument(
        "--which",
        choices=("before", "after", "both"),
        default="both",
        help="texts written before unlearning, after it, or both (default: both)",
    )
    parser.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="file of id, prompt, reference, for sources that hold id and candidate only (default: none)",
    )


def _judge(arguments: argparse.Namespace) -> int:
    from icu_ray.config import JudgeConfig
    from icu_ray.config.file import load_section
    from icu_ray.evaluation.ratings.candidates import read_candidates
    from icu_ray.evaluation.ratings.judge import estimate_cost, judge_candidates, write_judgement
    from icu_ray.evaluation.ratings.judge_answers import AnswerStore, read_answers
    from icu_ray.evaluation.ratings.judge_client import read_key
    from icu_ray.storage.files import check_writable

    overrides = [text for text in arguments.sources if _OVERRIDE.fullmatch(text)]
    sources = [text for text in arguments.sources if text not in overrides]
    if not sources:
        raise UserError("judge: no source; expected the folder of a sweep or trial, or a file, before key=value")
    config = load_section(JudgeConfig, arguments.config, overrides, "judge")
    candidates = read_candidates(sources, arguments.which, arguments.references, _say)
    out, answers = _places(sources, arguments.out, arguments.answers)
    estimate = estimate_cost(candidates, config, read_answers(answers))
    cells = len({candidate.cell for candidate in candidates})
    _say(
        f"{len(candidates)} candidates in {cells} cells; {estimate.requests} requests to {config.model} are needed: "
        f"about {_tokens(estimate)}"
    )
    if arguments.dry_run:
        if arguments.json:
            print(json.dumps({"candidates": len(candidates), "cells": cells, "estimate": vars(estimate)}))
        return 0
    key = read_key(config)
    check_writable(str(out))
    with AnswerStore(answers) as store, _Progress(len(candidates)) as progress:
        judgement = judge_candidates(candidates, config, key, store, progress.update)
    summary = write_judgement(str(out), judgement, config)
    if arguments.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _print_summary(summary)
    _say(f"paid now: {judgement.paid.requests} answers, {_tokens(judgement.paid)}; judge.jsonl is in {out}")
    if judgement.stopped is not None:
        raise judgement.stopped
    return 1 if summary["unjudged"] else 0


def _places(sources: list[str], out: Path | None, answers: Path | None) -> tuple[Path, Path]:
    """Folder of the results, file of the paid answers; the sweeps of one storage share theirs."""
    from icu_ray.data.table_files import READERS
    from icu_ray.storage.files import local_path

    first = local_path(sources[0])
    if out is None:
        if first is None or len(sources) > 1:
            raise UserError("judge: --out DIR is needed with several sources or a remote one")
        out = first.parent / f"{first.stem}-judge" if sources[0].lower().endswith(READERS) else first / "judge"
    if answers is None:
        answers = out / "answers.jsonl"
        if first is not None and not sources[0].lower().endswith(READERS):
            folder = first.absolute()
            sweep = folder.parent.parent if folder.parent.name == "trials" else folder
            answers = sweep.parent / "store" / "judge" / "answers.jsonl"
    return out, answers


def _tokens(cost: Cost) -> str:
    money = "no price given" if cost.usd is None else f"{cost.usd:.4f} USD"
    return f"{cost.input_tokens} + {cost.output_tokens} tokens ({money})"


def _print_summary(summary: dict[str, Any]) -> None:
    width = max(len("all"), *(len(cell["cell"]) for cell in summary["cells"]))
    print(f"{'cell':<{width}}  {'mean':>5}  {'n':>5}  unjudged")
    for row in [*summary["cells"], {"cell": "all", **summary}]:
        mean = "-" if row["mean"] is None else f"{row['mean']:.2f}"
        print(f"{row['cell']:<{width}}  {mean:>5}  {row['n']:>5}  {row['unjudged'] or ''}".rstrip())
    for row in summary["unjudged_rows"][:20]:
        print(f"unjudged: {row['id']}: {row['reason']}")
    if len(summary["unjudged_rows"]) > 20:
        print(f"and {len(summary['unjudged_rows']) - 20} more, in summary.json")


class _Progress:
    """A bar with the time left on a terminal, a line for each tenth elsewhere; both on standard error."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._told = 0
        self._bar = Progress(
            TextColumn("judging"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[paid]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal or verbosity() == "quiet",
        )
        self._task = self._bar.add_task("judging", total=total, paid="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, paid: Cost) -> None:
        """Told after every row."""
        self._bar.update(self._task, completed=done, paid="" if paid.usd is None else f"{paid.usd:.2f} USD")
        if self._bar.disable and paid.requests and done * 10 // total > self._told:
            self._told = done * 10 // total
            _say(f"{done}/{total} judged")
