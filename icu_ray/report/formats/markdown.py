"""A report as Markdown: the same tables and words as the page, for issues and version control.

text = to_markdown(report, figures)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from icu_ray.report.contents import Report, TableCell, state_word
from icu_ray.report.figures.pictures import Picture
from icu_ray.report.formats import audit_words
from icu_ray.report.formats.wording import (
    BENCHMARKS_NOTE,
    BEST_CELLS_HEAD,
    BEST_CELLS_NOTE,
    DISTANCES_NOTE,
    ELSEWHERE_NOTE,
    ORDERS_NOTE,
    SCORES_NOTE,
    TARGETS_NOTE,
    TESTS_NOTE,
    best_cell,
    distance_cells,
    distance_heading,
    main_note,
    p_text,
    standing_of,
    tasks_note,
)
from icu_ray.report.numbers.comparison import BlockScores, Comparison, Order
from icu_ray.report.numbers.elsewhere import elsewhere_text
from icu_ray.report.numbers.rows import Block


def to_markdown(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole report; pictures are linked by their file names beside it."""
    parts = [f"# {escape(report.title)}", escape(report.summary)]
    if report.verdict is not None:
        said = [f"- {what} {escape('; '.join(sentences))}" for what, sentences in report.verdict.lines]
        parts += ["## Verdict", f"**{escape(report.verdict.headline)}**", "\n".join(said)]
    if report.findings:
        parts += ["## What is missing or mixed", "\n".join(f"- {escape(f.text)}" for f in report.findings)]
    parts += ["## Results", main_table(report), *map(escape, report.heldout), main_note(report.blocks)]
    parts += [f"{escape(block.model)}: {standing_of(block)}" for block in report.blocks if standing_of(block)]
    if report.ranked:
        both = zip(report.blocks, report.scores, strict=True)
        parts += ["## Normalised scores", *(_scores(block, s) for block, s in both if s in report.ranked), SCORES_NOTE]
    parts += _audits(report)
    for known in report.benchmarks:
        lines = [[escape(known.label(name)), *map(escape, map(known.text, values))] for name, values in known.every]
        parts += [
            f"## {escape(known.heading)}: {escape(known.model)}",
            pipe_table(["Method", *map(escape, known.columns)], lines),
        ]
        printed = (f"Printed in {known.source}.",) if known.source else ()
        parts.append(" ".join((BENCHMARKS_NOTE, *map(escape, (*printed, *known.notes)))))
    if report.best:
        lines = [[escape(each.model), *map(escape, best_cell(each))] for each in report.best]
        head = ["Model", *map(escape, BEST_CELLS_HEAD)]
        parts += ["## Best cell of each method", pipe_table(head, lines, left=2), BEST_CELLS_NOTE]
    if report.targets:
        lines = [[escape(cell) for cell in row.cells] for row in report.targets]
        parts += ["## Every text, best remembered first", pipe_table(report.target_headings, lines), TARGETS_NOTE]
    if report.tasks:
        parts.append("## What the models can still do")
        for table in report.tasks:
            lines = [
                [escape(name), table.unit(name), *(escape(table.text(name, value)) for value in values)]
                for name, values in table.lines
            ]
            head = ["metric", "unit", *map(escape, table.rows)]
            parts += [f"### {escape(table.model)}", pipe_table(head, lines, left=2)]
        parts.append(tasks_note(report.tasks))
    if report.elsewhere:
        parts.append("## Measured elsewhere")
        for beside in report.elsewhere:
            lines = [[escape(name), *map(elsewhere_text, values)] for name, values in beside.lines]
            head = ["metric", *map(escape, beside.ours), *(f"{escape(label)} (imported)" for label in beside.theirs)]
            parts += [f"### {escape(beside.heading)}", pipe_table(head, lines)]
            parts.append("\n".join(f"- {escape(source)}" for source in beside.sources))
        parts.append(ELSEWHERE_NOTE)
    if report.distances:
        parts.append("## Distance to the retrained model")
        for distances in report.distances:
            lines = [[escape(r.row.name), *map(escape, distance_cells(distances, r))] for r in distances.rows]
            head = [
                "Method",
                "D",
                "told apart",
                "loss difference",
                *(f"{escape(c.heading)} difference" for c in distances.columns),
            ]
            parts += [f"{escape(distance_heading(distances))}.", pipe_table(head, lines)]
        parts.append(DISTANCES_NOTE)
    if report.orders:
        parts += ["## Order of methods compared with the paper's", _orders(report.orders), ORDERS_NOTE]
    if pictures:
        parts.append("## Figures")
        parts += [f"![{escape(p.alt)}]({p.name}.png)\n\n*{escape(p.title)}.* {escape(p.caption)}" for p in pictures]
    if report.tests:
        parts += ["## Paired tests", _tests(report.tests), TESTS_NOTE]
    parts.append("## How each number was obtained")
    for sweep, facts in report.facts:
        parts += [
            f"### {escape(sweep)}",
            pipe_table(["", ""], [[escape(what), escape(value)] for what, value in facts]),
        ]
    parts += [_trials(report), f"Made {escape(report.made)}."]
    return "\n\n".join(parts) + "\n"


def _audits(report: Report) -> list[str]:
    """What attacks brought back; the words of single rows are in the page alone."""
    if not report.audits:
        return []
    parts = ["## Does it come back?"]
    for table in report.audits:
        parts += [f"### {escape(table.model)}"]
        parts.append("\n".join(f"- {escape(audit_words.audit_said(line))}" for line in table.lines))
        head = ["Model", "thresholds", "came back", *map(escape, map(audit_words.attack_name, table.attacks))]
        lines = [
            [
                escape(line.name),
                audit_words.standing(line),
                audit_words.back_text(line),
                *(escape(audit_words.point_line(line, attack)) for attack in table.attacks),
            ]
            for line in table.lines
        ]
        parts.append(pipe_table(head, lines, left=2))
        said = [audit_words.remark_text(table, remark, names) for remark, names in table.remarks]
        said += [f"not attacked: {', '.join(table.unaudited)}"] if table.unaudited else []
        if said:
            parts += [
                audit_words.MISSING_SAID,
                "\n".join(f"- {escape(each)}" for each in said),
            ]
        if table.numbers:
            lines = [[escape(name), *map(audit_words.number_text, values)] for name, values in table.shown_numbers]
            parts.append(pipe_table(["Number", *(escape(line.name) for line in table.lines)], lines))
    numbers = any(table.numbers for table in report.audits)
    return [*parts, escape(audit_words.AUDIT_NOTE + (f" {audit_words.NUMBERS_NOTE}" if numbers else ""))]


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def escape(text: str) -> str:
    """Text that Markdown and HTML in it take literally, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells that are escaped already, as a table. left: how many columns stand on the left."""
    rule = [":--" if place < left else "--:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    text = {"best": f"**{text}**", "second": f"<u>{text}</u>", None: text}[cell.mark]
    interval = (f" {cell.interval}" if cell.interval else "") + (f" ({cell.seeds})" if cell.seeds else "")
    return text + interval + (f" [{escape(cell.paper)}]".replace("[", r"\[").replace("]", r"\]") if cell.paper else "")


def main_table(report: Report) -> str:
    """Table I's form: one line a model's method."""
    weights = [name for name, shown in zip(("alpha", "beta"), report.weighted, strict=True) if shown]
    columns = (*report.columns, *report.score_columns)
    header = ["Model", "Method", *weights, *(f"{escape(c.heading)} {c.arrow}" for c in columns)]
    rows = []
    for block in report.blocks:
        for row in block.rows:
            label = row.label + (f" [{row.variant}]" if row.variant else "")
            numbers = [_cell(cell) for cell in report.cells(block, row)]
            forgotten, epochs_done = row.counted
            count = "" if forgotten is None else f"{forgotten}/{len(row.trials)}"
            epochs = "" if epochs_done is None else f"{epochs_done:.1f}"
            rows.append([escape(block.model), escape(label), *report.weights(row), *numbers, count, epochs])
    return pipe_table([*header, "forgotten", "epochs"], rows, left=2)


def _scores(block: Block, scores: BlockScores) -> str:
    lines = [f"**{escape(block.model)}**: {escape(scores.title)}"]
    if scores.refused:
        return f"{lines[0]}: {scores.refused}."
    lines[0] += f". Population: the {len(scores.population)} rows {escape(', '.join(scores.population))}."
    if scores.left_out:
        lines[0] += f" Left out, for want of a column: {escape(', '.join(scores.left_out))}."
    name = "" if scores.complete else "partial "
    rows = [[escape(row), f"{scores.s_z[row]:.2f}", f"{scores.s_m[row]:.2f}"] for row in scores.population]
    return lines[0] + "\n\n" + pipe_table(["Method", rf"{name}s\_z ↑", rf"{name}s\_m ↑"], rows)


def _orders(orders: Sequence[Order]) -> str:
    rows = []
    for order in orders:
        names = [escape(", ".join(side)) for side in (order.here, order.paper)]
        rows.append([escape(order.model), escape(order.column), *names, f"{order.agreeing}/{order.pairs}"])
    return pipe_table(["Model", "Metric", "here, best first", "paper", "agreeing"], rows, left=4)


def _tests(tests: Sequence[Comparison]) -> str:
    rows = []
    for item in tests:
        test = item.test
        half = "" if test.half is None else f" ± {test.half:.2f}"
        names = [item.model, f"{item.reference} − {item.other}", item.column, item.level]
        numbers = [f"{test.difference:+.2f}{half}", p_text(test.p_t), p_text(item.p_holm), p_text(test.p_wilcoxon)]
        rows.append([*map(escape, names), str(test.n), *numbers, escape(test.note)])
    header = ["Model", "Difference", "Metric", "Over", "n", "mean", "p (t)", "p (t, Holm)", "p (Wilcoxon)", "note"]
    return pipe_table(header, rows, left=4)


def _trials(report: Report) -> str:
    rows = []
    for trial in report.found.trials:
        result = trial.result
        seconds = "" if result is None else f"{result.seconds.get('total', 0.0):.0f}"
        reason = "" if result is None else result.reason
        rows.append([*map(escape, (trial.name, trial.trial_id, state_word(trial), reason)), str(trial.epochs), seconds])
    return pipe_table(["Trial", "Id", "State", "Why", "Epochs", "Seconds"], rows, left=4)
