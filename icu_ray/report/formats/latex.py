r"""The main table as LaTeX, in the form of the paper's Table I.

text = to_latex(report)     # a table*; needs booktabs and graphicx
"""

from __future__ import annotations

from icu_ray.report.contents import SCORES, Report, TableCell
from icu_ray.report.formats.wording import standing_of
from icu_ray.report.numbers.rows import Row

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


def escape(text: str) -> str:
    """Text that LaTeX takes literally."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", None: text}[cell.mark]
    if cell.interval:
        text += rf"{{\scriptsize\,{escape(cell.interval)}}}"
    return text + (rf" {{\scriptsize[{escape(cell.paper)}]}}" if cell.paper else "")


def _name(row: Row) -> str:
    return escape(row.label + (f" [{row.variant}]" if row.variant else ""))


def to_latex(report: Report) -> str:
    """One table* with a block a model, best bold, second best underlined, the paper's value in brackets."""
    arrows = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
    columns = (*report.columns, *SCORES)
    headings = " & ".join(rf"{column.latex} {arrows[column.better]}" for column in columns)
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{llrr{'r' * len(columns)}}}",
        r"\toprule",
        rf"Model & Method & $\alpha$ & $\beta$ & {headings} \\",
    ]
    for block in report.blocks:
        lines.append(r"\midrule")
        for place, row in enumerate(block.rows):
            weights = ["" if row.before else "--" if w is None else f"{w:g}" for w in (row.alpha, row.beta)]
            cells = [_cell(cell) for cell in report.cells(block, row)]
            lines.append(" & ".join([escape(block.model) if place == 0 else "", _name(row), *weights, *cells]) + r" \\")
    standing = " ".join(f"{escape(block.model)}: {escape(standing_of(block))}" for block in report.blocks)
    lines += [
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{escape(report.title)}: mean over forget samples, $\pm$ half of the 95\,\% confidence interval. "
        rf"Best \textbf{{bold}}, second best \underline{{underlined}}; in brackets the paper's own value. {standing}}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"
