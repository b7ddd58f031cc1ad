"""A report's files: report.html, report.md, table.tex, table.csv, scores.csv, tests.csv; each figure as PNG, SVG, PDF.

written = write_report([("runs", "quickstart")])
print(written.folder)                   # runs/quickstart/report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.pictures import pictures
from icu_ray.report.figures.theme import DARK, FORMATS, LIGHT, render
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.latex import to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.storage.files import join, list_dir, write_atomic
from icu_ray.storage.folders import remove

FOLDER = "report"


@dataclass(frozen=True)
class Written:
    """Where a report lies, and its contents."""

    folder: str
    report: Report
    files: tuple[str, ...]


def write_report(sweeps: Sequence[tuple[str, str]]) -> Written:
    """Read the sweeps' folders and write their report, local or remote.

    One sweep: into <storage>/<sweep>/report. Several: joined, into the first one's report-with-<the others>. Figures
    that an earlier report left and this one does not have are removed. UserError as `collect` raises it.
    """
    sweeps = list(dict.fromkeys(sweeps))
    report = make_report(collect(sweeps))
    (storage, first), others = sweeps[0], [name for _, name in sweeps[1:]]
    folder = join(storage, first, "-with-".join([FOLDER, "-".join(others)]) if others else FOLDER)
    drawn = pictures(report)
    printed = {picture.name: render(picture.draw, LIGHT, tuple(FORMATS)) for picture in drawn}
    light = {name: forms["png"] for name, forms in printed.items()}
    dark = {picture.name: render(picture.draw, DARK)["png"] for picture in drawn if picture.case is None}
    files = {
        "report.html": to_html(report, drawn, light, dark).encode("utf-8", errors="replace"),
        "report.md": to_markdown(report, drawn).encode("utf-8", errors="replace"),
        "table.tex": to_latex(report).encode("utf-8", errors="replace"),
        **csv_tables(report),
        **{f"{name}.{ending}": data for name, forms in printed.items() for ending, data in forms.items()},
    }
    for name, data in files.items():
        write_atomic(join(folder, name), data)
    for name in set(list_dir(folder)) - set(files):
        if name.endswith(tuple(f".{ending}" for ending in FORMATS)):
            remove(join(folder, name))
    return Written(folder, report, tuple(files))
