"""The figures of docs/how-to/requests.md, which requests_over_time.py draws (`--figure`); it is no benchmark itself.

Over the number of requests, a line for each way: the highest mean MA that one request so far has, held-out perplexity
over the original's, and processor seconds of all requests so far.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {
    "icu": ("ICU, one by one, lr 5e-4", "#9ecae1", "o"),
    "icu@1e-4": ("ICU, one by one, lr 1e-4", "#1b6ca8", "o"),
    "npo@2e-4": ("NPO, one by one, lr 2e-4", "#c8553d", "s"),
    "drawn@1e-4": ("ICU, pairs drawn from all kept texts, one by one", "#6a994e", "^"),
    "lora@1e-3": ("ICU, an adapter each, one by one", "#d9a441", "v"),
    "batched": ("ICU, five requests a run", "#d65f9b", "P"),
    "original": ("ICU from the original each time", "#6b4c9a", "D"),
    "icu@5e-5": ("ICU, one by one, lr 5e-5", "#1b6ca8", "o"),
    "drawn@5e-5": ("ICU, pairs drawn, one by one", "#6a994e", "^"),
    "batched_drawn@5e-5": ("ICU, pairs drawn, five requests a run", "#d65f9b", "P"),
    "original_batched_drawn@5e-5": ("ICU, pairs drawn, from the original every five", "#6b4c9a", "D"),
    "together": ("ICU, all in one run", "black", "*"),
    "together_drawn@5e-5": ("ICU, pairs drawn, all in one run", "black", "*"),
    "retrained": ("retrained without the texts", "grey", "X"),
}


def series(rows: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    found = [row for row in rows if row["way"] == way]
    return found[-1:] if way.startswith("together") else sorted(found, key=lambda row: row["request"])


def draw(told: dict[str, Any], target: Path) -> None:
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "icu_ray", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), layout="constrained")
    for way, (name, colour, marker) in STYLES.items():
        found = series(told["rows"], way)
        if not found:
            continue
        numbers = [row["request"] for row in found]
        line = "-" if len(found) > 1 else ""
        seconds = list(accumulate(row["cpu"] for row in told["rows"] if row["way"] == way))[-len(found) :]
        panels = ([100 * row["worst MA"] for row in found], [row["ppl"] for row in found], seconds)
        for axis, values in zip(axes, panels, strict=True):
            look = {"color": colour, "marker": marker, "markersize": 3.5 if line else 9}
            axis.plot(numbers, values, line, label=name, **look)
    for axis, height in ((axes[0], 100 * told["limits"]["ma"]), (axes[1], 1.5)):
        axis.axhline(height, color="grey", linestyle=":", linewidth=1)
    axes[1].set_ylim(0.7, 300)  # what is above is broken
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("")
    titles = (
        "highest MA of one request so far, %\n(dotted: threshold)",
        "held-out perplexity / original's\n(dotted: a ledger's limit)",
        "processor seconds so far",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("requests so far")
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=130)
