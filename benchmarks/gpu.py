"""What does the project do on a GPU, and what does it cost there?

    python benchmarks/gpu.py --data DIR --tokenizer DIR --keep DIR [--mirror DIR] [--tofu DIR] [--parts a,b] [--out DIR]
    python benchmarks/gpu.py --device cpu --tiny

a: a GPT-Neo of the 125M's shape is taught here until it recites a forget sample, then unlearned by the main job in fp32
and bf16, at ZeRO stages 0 to 3. b: where the time of those trials went. c: the probe beside one generate() per prefix.
d: memory of a step; the largest model that fits, by the plan and by what was seen. e: trials that share the GPU beside
the same one after the other; evaluation beside lm-eval alone. f: SmolLM2 learns TOFU and unlearns forget10. offload:
trials with Adam in main memory. commands: icu-ray probe, doctor and evaluate. resume: a killed driver.

Nothing is read from the network. Each step of a part is a process of its own; results.json and table.md are written
after every one, and a step that fails, or for which too little of the budget is left, says so there. --keep: a folder
for the model, which a second run then takes over, and for the trials; without, both are gone at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from gpu_parts.runner import LETTERS, run_one, run_steps
from gpu_parts.setting import Setting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers on made-up records")
    parser.add_argument("--parts", default=",".join(LETTERS), help="which, by their letters (default: all)")
    parser.add_argument("--budget", type=float, default=360.0, help="seconds for all of it (default 360)")
    parser.add_argument("--data", default="", help="folder of the LM extraction benchmark (default: made-up records)")
    parser.add_argument("--tokenizer", default="", help="folder of the GPT-2 tokenizer that goes with --data")
    parser.add_argument(
        "--mirror", default="", help="folder of rows of evaluation tasks, as `icu-ray data mirror` writes"
    )
    parser.add_argument("--tofu", default="", help="folder with TOFU's forget10.json and retain90.json")
    parser.add_argument("--keep", type=Path, help="folder that keeps the model for a second run")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder of the results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, not as a table")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_one(arguments.step[0], Setting.of(arguments.step[1]))
        return 0
    parts = [part.strip() for part in arguments.parts.split(",") if part.strip()]
    for part in parts:
        if part not in LETTERS:
            parser.error(f"--parts {part}: expected some of {', '.join(LETTERS)}")
    if bool(arguments.data) != bool(arguments.tokenizer):
        parser.error("--data and --tokenizer go together: the rows are tokens of that tokenizer")
    there = torch.cuda.is_available()
    if arguments.device == "cuda" and not there:
        parser.error("--device cuda: torch finds no GPU here; on a CPU use --device cpu --tiny")
    device = arguments.device or ("cuda" if there else "cpu")
    tiny = arguments.tiny or (arguments.device is None and not there)
    if tiny and not arguments.tiny:
        print("no GPU here: the tiny setting on the CPU", file=sys.stderr)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = arguments.keep.resolve() if arguments.keep else Path(tempfile.mkdtemp(prefix="icu_ray_gpu_"))
    work.mkdir(parents=True, exist_ok=True)
    given = (arguments.data, arguments.tokenizer, arguments.mirror, arguments.tofu)
    folders = [str(Path(each).resolve()) if each else "" for each in given]
    setting = Setting(device, tiny, str(out), str(work), *folders, time.time() + arguments.budget)
    try:
        results = run_steps(setting, parts, say=lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        if not arguments.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(results) if arguments.json else (out / "table.md").read_text(encoding="utf-8"))
    return 1 if any(step["state"] in ("failed", "cut off") for step in results["steps"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
