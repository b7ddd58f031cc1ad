"""docs/images/architecture.svg: the layers of icu_ray, drawn from the contracts in pyproject.toml that keep them.

python docs/architecture.py      # after a change of a contract or of a package's first sentence; a test compares

A box is a package, with the first sentence of its docstring. Its colour and tag are the library that it may import and
most others may not. Boxes are opaque and what stands between them is grey, so that the picture suits a light page and a
dark one.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path(__file__).parent / "images" / "architecture.svg"
WIDTH, GUTTER, GAP = 800, 30, 18
PADDING, TITLE, LINE = 12, 24, 17
CHARACTER = 6.8
"""Pixels of a character of 12.5 px, on the wide side: fonts differ."""
PLAIN = "#f6f8fa"
TINTS: Mapping[str, str] = {"Ray": "#ddf4ff", "DeepSpeed": "#fff8c5", "MLflow": "#fbefff"}


@dataclass(frozen=True)
class Layer:
    """packages: from left to right. mutual: whether they may import each other."""

    packages: tuple[str, ...]
    mutual: bool


def contracts() -> list[dict[str, Any]]:
    """What import-linter is told."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return found


def layers() -> list[Layer]:
    """From the top down."""
    (contract,) = (each for each in contracts() if each["id"] == "layers")
    return [
        Layer(tuple(package.strip() for package in layer.replace(":", "|").split("|")), ":" in layer)
        for layer in contract["layers"]
    ]


def libraries() -> dict[str, list[str]]:
    """The protected libraries that a package may import, by package."""
    found: dict[str, list[str]] = {}
    for contract in contracts():
        if contract["type"] == "protected":
            for importer in contract["allowed_importers"]:
                found.setdefault(importer.removeprefix("icu_ray."), []).append(contract["name"].split()[0])
    return found


def purpose(package: str) -> str:
    """The first sentence of a package's docstring."""
    path = ROOT / "icu_ray" / package / "__init__.py"
    path = path if path.is_file() else ROOT / "icu_ray" / f"{package}.py"
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not said:
        raise SystemExit(f"{path}: expected a docstring whose first sentence says what the package is for")
    return " ".join(said.split("\n\n")[0].split()).split(". ")[0].removesuffix(".").replace("`", "")


def picture() -> str:
    """The SVG."""
    tags = libraries()
    body: list[str] = []
    top = 4
    drawn = layers()
    for number, layer in zip(range(len(drawn), 0, -1), drawn, strict=True):
        width = (WIDTH - GUTTER - GAP * (len(layer.packages) - 1) - 2) / len(layer.packages)
        columns = int((width - 2 * PADDING) / CHARACTER)
        texts = [textwrap.wrap(purpose(package), columns, break_on_hyphens=False) for package in layer.packages]
        height = PADDING + TITLE + LINE * max(map(len, texts)) + 4
        body.append(f'<text class="n" x="{GUTTER - 10}" y="{top + height / 2 + 5:g}">{number}</text>')
        for place, (package, lines) in enumerate(zip(layer.packages, texts, strict=True)):
            left = GUTTER + place * (width + GAP)
            body += _box(package, lines, tags.get(package, []), left, top, width, height)
            if place and layer.mutual:
                body.append(f'<text class="k" x="{left - GAP / 2:g}" y="{top + height / 2 + 4:g}">↔</text>')
        top += height + 10
    note = "A package imports only lower ones; ↔ joins two that may import each other. A tag names a library."
    body.append(f'<text class="f" x="{GUTTER}" y="{top + 10}">{note}</text>')
    style = (
        "rect{stroke:#8c959f;stroke-width:1}"
        "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12.5px;fill:#1f2328}"
        ".t{font-weight:600;font-size:15px}.g{font-size:11.5px;text-anchor:end;fill:#57606a}"
        ".n,.k,.f{fill:#7d8590}.n{text-anchor:end;font-size:13px}.k{text-anchor:middle;font-size:13px}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 20}" role="img" '
        'aria-label="The packages of icu_ray, layer by layer">'
    )
    return "\n".join([head, f"<style>{style}</style>", *body, "</svg>", ""])


def _box(
    package: str, lines: list[str], tags: list[str], left: float, top: int, width: float, height: int
) -> list[str]:
    tint = TINTS[tags[0]] if tags else PLAIN
    inside = left + PADDING
    parts = [
        f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{height}" rx="6" fill="{tint}"/>',
        f'<text class="t" x="{inside:g}" y="{top + 24}">{package}</text>',
    ]
    if tags:
        parts.append(f'<text class="g" x="{left + width - PADDING:g}" y="{top + 23}">{", ".join(tags)}</text>')
    first = top + PADDING + TITLE + 8
    return parts + [
        f'<text x="{inside:g}" y="{first + LINE * number}">{escape(line)}</text>' for number, line in enumerate(lines)
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
