"""What does a grid save by making what its trials share only once?

    python benchmarks/shared_work.py [--json]

A grid of 2 forget samples x 4 (alpha, beta) cells on a tiny stand-in, one epoch a trial: once as one sweep, and once as
eight sweeps of one trial with a storage of their own each. `made` counts stand-ins, embeddings, pairs, rows, references
and measurements of the original model.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from table import machine, print_table
from tiny_sweep import TINY, python

SAMPLES, ALPHAS, BETAS = (0, 1), (0.5, 1.0), (0.5, 1.0)


def run(folder: Path, name: str, samples: list[int], cells: list[list[float]]) -> tuple[float, int]:
    """Seconds of a sweep, and how many artefacts it made."""
    config = {**TINY, "name": name, "samples": samples, "methods": [{"name": "icu", "cells": cells}]}
    folder.mkdir()
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    began = time.perf_counter()
    python("-m", "icu_ray.sweep", "c.yaml", folder=folder)
    seconds = time.perf_counter() - began
    log = (folder / "runs" / name / "logs" / "driver.log").read_text()
    return seconds, len(re.findall(r"icu_ray\.sweep\.prepare made: ", log))


def measure() -> list[dict[str, Any]]:
    cells = [[a, b] for a in ALPHAS for b in BETAS]
    with tempfile.TemporaryDirectory(prefix="icu_shared_") as name:
        root = Path(name)
        ours, made = run(root / "grid", "grid", list(SAMPLES), cells)
        alone = [
            run(root / f"alone{sample}-{number}", "alone", [sample], [cell])
            for sample in SAMPLES
            for number, cell in enumerate(cells)
        ]
    other, made_alone = sum(seconds for seconds, _ in alone), sum(count for _, count in alone)
    return [
        {
            "case": f"{len(SAMPLES)} samples x {len(cells)} cells",
            "ours": ours,
            "other": other,
            "ratio": other / ours,
            "made": made,
            "made_alone": made_alone,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure()
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    print_table(rows, {"case": "", "other": ".1f", "ours": ".1f", "ratio": ".1f", "made_alone": "d", "made": "d"})


if __name__ == "__main__":
    main()
