r"""The main table as LaTeX, in the form of the paper's Table I; then benchmarks' tables, and what was imported.

text = to_latex(report)     # table* environments, each no larger than a page; needs booktabs and graphicx
"""

from __future__ import annotations

from collections.abc import Sequence

from icu_ray.report.contents import Report, TableCell
from icu_ray.report.formats import audit_words
from icu_ray.report.formats.wording import repeated_said, standing_of
from icu_ray.report.numbers.audits import AuditTable
from icu_ray.report.numbers.benchmark_tables import BenchmarkTable
from icu_ray.report.numbers.columns import Column
from icu_ray.report.numbers.elsewhere import ElsewhereTable, elsewhere_text
from icu_ray.report.numbers.rows import Block, Row

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "₁": r"$_1$",
    "₀": r"$_0$",
}


_BEGIN = (r"\begin{table*}", r"\centering", r"\sbox2{\small\setlength{\tabcolsep}{3pt}%")
_FITTED = (
    r"\ifdim\wd2>1.5\textwidth\sbox2{\rotatebox{90}{\usebox2}}\fi",
    r"\ifdim\wd2>\textwidth\sbox2{\resizebox{\textwidth}{!}{\usebox2}}\fi",
    r"\ifdim\dimexpr\ht2+\dp2\relax>0.8\textheight\sbox2{\resizebox*{!}{0.8\textheight}{\usebox2}}\fi",
    r"\usebox2",
)
"""What stands in box 2, on its side where it is far too wide, and smaller where it is wider or higher than a page.

graphicx does it, which every LaTeX has."""
ROWS = 40
"""Rows of one table: more would be too small to read where a page holds them."""


def escape(text: str) -> str:
    """Text that LaTeX takes literally."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", None: text}[cell.mark]
    if cell.interval:
        text += rf"{{\scriptsize\,{escape(cell.interval)}}}"
    return _stacked("t", text, rf"{{\scriptsize[{escape(cell.paper)}]}}") if cell.paper else text


def _stacked(line: str, *lines: str) -> str:
    """Lines below one another in one cell. line: t or b, the first or the last one stands in the line of its row."""
    return rf"\begin{{tabular}}[{line}]{{@{{}}r@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _heading(column: Column) -> str:
    arrow = {"lower": r"$\downarrow$", "higher": r"$\uparrow$", "unchanged": ""}[column.better]
    name, _, unit = column.latex.rpartition(" ")
    return _stacked("b", name, f"{unit} {arrow}") if name else f"{unit} {arrow}"


def _name(row: Row) -> str:
    return escape(row.label + (f" [{row.variant}]" if row.variant else ""))


def to_latex(report: Report) -> str:
    """Tables with a block a model, best bold, second best underlined, the paper's value in brackets.

    A table holds at most ROWS rows, and is made smaller where it is wider or higher than a page, never larger.
    """
    parts: list[list[tuple[Block, int, Row]]] = [[]]
    for block in report.blocks:
        if parts[-1] and len(parts[-1]) + len(block.rows) > ROWS:
            parts.append([])
        for place, row in enumerate(block.rows):
            if len(parts[-1]) == ROWS:
                parts.append([])
            parts[-1].append((block, place, row))
    tables = [_table(report, part, number, len(parts)) for number, part in enumerate(parts, start=1)]
    tables += [text for audits in report.audits for text in _audits(report, audits)]
    tables += [_benchmark(report, table) for table in report.benchmarks]
    tables += [text for table in report.elsewhere for text in _elsewhere(report, table)]
    return "\n".join([r"% needs \usepackage{booktabs,graphicx}", *tables]) + "\n"


def _benchmark(report: Report, table: BenchmarkTable) -> str:
    """A benchmark's own table of one model, with printed and imported rows below ours."""
    parts = (table.rows, table.printed, table.imported)
    lines = [
        [(escape(table.label(name)), *map(escape, map(table.text, values))) for name, values in part] for part in parts
    ]
    title = f"{report.title}: {table.heading}"
    printed = f" Printed in {table.source}." if table.printed else ""
    imported = " Imported: measured by another framework." if table.imported else ""
    caption = escape(" ".join((f"{title}, {table.model}.{printed}{imported}", *table.notes)))
    return _floating(("Method", *map(escape, table.columns)), list(filter(None, lines)), caption)


def _audits(report: Report, table: AuditTable) -> list[str]:
    """What attacks brought back from the models of one block, at most ROWS lines a table."""
    head = ["Model", "thresholds", "came back", *(escape(audit_words.attack_name(name)) for name in table.attacks)]
    lines = []
    for line in table.lines:
        cells = [escape(audit_words.standing(line)), escape(audit_words.back_text(line))]
        for attack in table.attacks:
            small = [rf"{{\scriptsize {escape(said)}}}" for said in audit_words.point_details(line, attack)]
            text = escape(audit_words.point_text(line, attack))
            cells.append(_stacked("t", text, *small) if small else text)
        lines.append([escape(line.name), *cells])
    said = (
        f"{report.title}: rows that attacks brought back from {table.model}, of each attack at its worst setting and "
        "budget. Control rows were never read; p: Fisher's exact test, one-sided."
    )
    return [_floating(head, [lines[at : at + ROWS]], escape(said)) for at in range(0, len(lines), ROWS)]


def _elsewhere(report: Report, table: ElsewhereTable) -> list[str]:
    """What was imported beside ours: metrics down, rows across, at most ROWS lines a table."""
    head = ["Metric", *map(escape, table.ours), *(escape(f"{label} (imported)") for label in table.theirs)]
    lines = [(escape(name), *map(escape, map(elsewhere_text, values))) for name, values in table.lines]
    said = f"{report.title}: measured elsewhere, {table.heading}. In no ranking or test. {'; '.join(table.sources)}."
    return [_floating(head, [lines[at : at + ROWS]], escape(said)) for at in range(0, len(lines), ROWS)]


def _floating(head: Sequence[str], parts: Sequence[Sequence[Sequence[str]]], caption: str) -> str:
    """A table of escaped cells, made smaller where it is too large, with a rule before each part."""
    return "\n".join(
        [
            *_BEGIN,
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            *(line for part in parts for line in (r"\midrule", *(" & ".join(cells) + r" \\" for cells in part))),
            r"\bottomrule",
            r"\end{tabular}}%",
            *_FITTED,
            rf"\caption{{{caption}}}",
            r"\end{table*}",
        ]
    )


def _table(report: Report, part: Sequence[tuple[Block, int, Row]], number: int, parts: int) -> str:
    columns = (*report.columns, *report.score_columns)
    weights = [name for name, shown in zip((r"$\alpha$", r"$\beta$"), report.weighted, strict=True) if shown]
    headings = ["Model", "Method", *weights, *map(_heading, columns)]
    lines = [
        *_BEGIN,
        rf"\begin{{tabular}}{{ll{'r' * (len(headings) - 2)}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
    ]
    model = None
    for block, place, row in part:
        if block.model != model:
            lines.append(r"\midrule")
        name = escape(block.model) + (" (continued)" if place else "") if block.model != model else ""
        model = block.model
        cells = [*map(escape, report.weights(row)), *(_cell(cell) for cell in report.cells(block, row))]
        lines.append(" & ".join([name, _name(row), *cells]) + r" \\")
    shown = {block.model: standing_of(block) for block, _, _ in part}
    standing = " ".join(f"{escape(name)}: {escape(said)}" for name, said in shown.items() if said)
    repeated = repeated_said([row for _, _, row in part if not row.before])
    title = escape(report.title) + (f" ({number} of {parts})" if parts > 1 else "")
    lines += [
        r"\bottomrule",
        r"\end{tabular}}%",
        *_FITTED,
        rf"\caption{{{title}: mean over {repeated}, $\pm$ half of the 95\,\% confidence interval ($n \geq 3$). "
        rf"Best \textbf{{bold}}, second best \underline{{underlined}}; in brackets below, the paper's own value. "
        rf"{standing}}}",
        r"\end{table*}",
    ]
    return "\n".join(lines)
