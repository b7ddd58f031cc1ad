"""icu-ray human: sheets for human raters, and what comes back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command, add_group, positive
from icu_ray.cli.judge import add_sources
from icu_ray.console.verbosity import teller

_say = teller()


def add(commands: Any) -> None:
    """Register the sub-command."""
    parts = add_group(
        commands,
        "human",
        "Let people rate what models wrote, and compare with the judge.",
        "icu-ray human export runs/quickstart --out human --raters 2",
    )
    export = add_command(
        parts,
        "export",
        "Write blinded, shuffled rating sheets: for each rater a page that opens in a browser, and the same as CSV.",
        "icu-ray human export runs/quickstart --out human --raters 2 --per-cell 20",
        _export,
        progress=True,
    )
    add_sources(export)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the sheets and their key")
    export.add_argument(
        "--raters", type=positive, default=2, metavar="N", help="number of people who rate every row (default: 2)"
    )
    export.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="seed of the drawing and of the order of rows (default: 0)",
    )
    export.add_argument(
        "--per-cell", type=positive, metavar="K", help="rows drawn of each method with its weights (default: all)"
    )
    back = add_command(
        parts,
        "import",
        "Check and keep ratings; agreement between raters, correlation with the judge.",
        "icu-ray human import human rater-1.csv rater-2.csv --judge runs/quickstart/judge/judge.jsonl",
        _import,
        progress=True,
    )
    back.add_argument("folder", type=Path, metavar="DIR", help="the folder that export wrote")
    back.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="CSV files from raters (default: none, and what was imported before is compared)",
    )
    back.add_argument(
        "--judge",
        metavar="FILE",
        help="judge.jsonl of 'icu-ray judge' on the same texts, to compare with (default: none)",
    )
    back.add_argument("--json", action="store_true", help="print JSON")


def _export(arguments: argparse.Namespace) -> int:
    from icu_ray.evaluation.ratings.candidates import read_candidates
    from icu_ray.evaluation.ratings.human_sheets import KEY_FILE, export_sheets
    from icu_ray.storage.files import check_writable

    candidates = read_candidates(arguments.sources, arguments.which, arguments.references, _say)
    check_writable(str(arguments.out), key="--out")
    rows = export_sheets(candidates, arguments.out, arguments.raters, arguments.seed, arguments.per_cell, _say)
    cells = len({row.cell for row in rows})
    print(f"{len(rows) // arguments.raters} rows of {cells} cells for each of {arguments.raters} raters")
    print(f"send:  {arguments.out / 'sheets'}/rater-N.html (or rater-N.csv with rubric.txt), one to each rater")
    print(f"keep:  {arguments.out / KEY_FILE}, which says what each row is")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from icu_ray.evaluation.ratings.human import import_ratings, summarise_ratings
    from icu_ray.evaluation.ratings.judge import read_verdicts

    verdicts = None if arguments.judge is None else read_verdicts(arguments.judge)
    if arguments.files:
        new = import_ratings(arguments.folder, arguments.files)
        _say(f"{new} new ratings from {len(arguments.files)} files")
    summary = summarise_ratings(arguments.folder, verdicts)
    if arguments.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _print_summary(summary)
    return 0


def _print_summary(summary: dict[str, Any]) -> None:
    for rater in summary["raters"]:
        print(f"{rater['rater']}: {rater['rated']} of {rater['of']} rows rated")
    print(f"Krippendorff's alpha: ordinal {_number(summary['alpha_ordinal'])}, ", end="")
    print(f"interval {_number(summary['alpha_interval'])}")
    judge = summary["judge"]
    cells = summary["cells"] if judge is None else judge["cell_means"]
    width = max([len("cell"), *(len(cell["cell"]) for cell in cells)])
    print(f"{'cell':<{width}}  {'n':>5}  {'1-8':>5}  {'0-10':>5}  judge")
    for cell in cells:
        score = f"{cell['judge']:>5.2f}" if "judge" in cell else "-"
        print(f"{cell['cell']:<{width}}  {cell['n']:>5}  {cell['rating']:>5.2f}  {cell['rescaled']:>5.2f}  {score}")
    if judge is None:
        return
    for level in ("samples", "cells"):
        for name in ("pearson", "spearman"):
            c = judge[level][name]
            limits = "" if c["low"] is None else f" [{c['low']:.3f}, {c['high']:.3f}]"
            print(f"{name} with the judge over {c['n']} {level}: {_number(c['r'])}{limits}")
    print(f"intervals: {judge['interval']}")


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
