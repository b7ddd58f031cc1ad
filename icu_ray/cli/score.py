"""icu-ray score: normalised scores of a results table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "score",
        "Normalised scores s_z and s_m of the rows of a results table.",
        "icu-ray score table.csv --json   # columns row,el10,ma,bert,entropy,cls,dia,ppl_pile,ppl_wikitext,gpt",
        _score,
    )
    parser.add_argument(
        "table", type=Path, metavar="TABLE.csv", help="one row per method; the columns are those of the example below"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (default: a table)")


def _score(arguments: argparse.Namespace) -> int:
    from icu_ray.metrics.scores import normalised_scores
    from icu_ray.services.score import read_score_table

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
