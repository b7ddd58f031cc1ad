"""The pictures of a report: which ones its trials allow, with their words, and their PNG files.

for picture in pictures(report): png = render(picture.draw, LIGHT)["png"]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from icu_ray.report.contents import Report
from icu_ray.report.figures.audit import came_back, comes_back
from icu_ray.report.figures.benchmark_tradeoff import benchmark_panels, benchmark_tradeoff
from icu_ray.report.figures.case_study import Case, choose_cases, draw_case, epoch_case
from icu_ray.report.figures.curves import active, curved, forgetting
from icu_ray.report.figures.epochs import epoch_measures, every_measure
from icu_ray.report.figures.evaluated_epochs import evaluated_epochs, evaluated_measures
from icu_ray.report.figures.theme import Theme
from icu_ray.report.figures.tradeoff import ablation, ablations, forgetting_columns, grids, heat_maps, traded, tradeoff
from icu_ray.report.numbers.audits import AuditTable
from icu_ray.report.numbers.rows import Block

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_NOT_EVALUATED = (
    " The evaluation asks models once their trial has ended, so its measures have no curve; with "
    "evaluation.when=epochs they have."
)


@dataclass(frozen=True)
class Picture:
    """One figure. alt: what a reader who cannot see it is told; case: the texts it shows, if it is a case study."""

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]
    case: Case | None = None


def pictures(report: Report) -> tuple[Picture, ...]:
    """Every figure for which there is something to draw."""
    found = []
    if any(curved(block) for block in report.blocks):
        found += [
            Picture(
                "forgetting",
                "Forgetting curves",
                "Thick: mean of a row, in which a trial that has stopped keeps its last value; thin: its trials, where "
                "there is room. Dotted: the thresholds of the sweep (methods with rules of their own are named below).",
                "Line charts of memorisation accuracy and extraction likelihood by epoch. " + _numbers(report, "ma"),
                lambda theme: forgetting(report, theme),
            ),
            Picture(
                "active",
                "Active targets",
                "Targets not yet forgotten after each epoch, mean of a row; iterative refinement trains only on these.",
                "Line charts of the number of active targets by epoch. " + _last_active(report),
                lambda theme: active(report, theme),
            ),
        ]
        found += [_measures_picture(report, block) for block in report.blocks if curved(block)]
        found += [_evaluated_picture(report, block) for block in report.blocks if evaluated_measures(block)]
    if any(traded(block) for block in report.blocks):
        measures = " and ".join(c.heading.removesuffix(" (%)") for c in forgetting_columns(report.blocks))
        found.append(
            Picture(
                "tradeoff",
                "Forgetting against utility",
                "Small: trials; large: mean. Lower left is better; no row beats those on the Pareto front in both. "
                "The cross is the model before unlearning, the star the retrained one where there is one. "
                "A perplexity ratio of 1 means that nothing was lost on texts that nobody asked to forget.",
                f"Scatter plots of {measures} after unlearning against held-out perplexity. "
                + _numbers(report, "ppl_ratio"),
                lambda theme: tradeoff(report, theme),
            )
        )
    if benchmark_panels(report):
        found.append(
            Picture(
                "benchmark-tradeoff",
                "Forgetting against utility, as the benchmark measures them",
                "Small: trials; large: mean. Upper left is better; no row beats those on the Pareto front in both. The "
                "cross is the model before unlearning, the star the retrained one where there is one: what lies to "
                "the left of the star knows less than a model that never read the texts. Hollow: imported, measured by "
                "another framework.",
                "Scatter plots of a benchmark's measures of forgetting against its measure of utility. The values "
                "are in the benchmark's table and in tasks.csv.",
                lambda theme: benchmark_tradeoff(report, theme),
            )
        )
    found += [_audit_picture(report, table) for table in report.audits if came_back(table)]
    if any(grids(block) for block in report.blocks):
        found.append(
            Picture(
                "heat_maps",
                "Weights α and β",
                "Means after unlearning; lower is better in all of them, and dark is low. Cells that were not run are "
                "empty.",
                "Heat maps over alpha and beta. " + _numbers(report, "ma"),
                lambda theme: heat_maps(report, theme),
            )
        )
    if any(ablations(block) for block in report.blocks):
        found.append(
            Picture(
                "ablation",
                "What each loss is worth",
                "ICU with and without its learning and divergence losses. Whiskers: 95 % intervals of at least three "
                "values, cut where they are wider than the panel; of two values the points themselves.",
                "Bar charts of ICU's ablations. " + _numbers(report, "ma"),
                lambda theme: ablation(report, theme),
            )
        )
    for block in report.blocks:
        for number, case in enumerate(choose_cases(block), start=1):
            found.append(_case_picture(block, case, str(number)))
        by_epoch = epoch_case(block)
        if by_epoch is not None:
            found.append(_case_picture(block, by_epoch, "epochs"))
    return tuple(found)


def _measures_picture(report: Report, block: Block) -> Picture:
    names = ", ".join(measure.heading for measure in epoch_measures(block))
    return Picture(
        f"epochs-{_file_name(block.model)}",
        f"Every measure by epoch: {block.model}",
        "A line is a trial, its mark the last epoch. Dotted: the original model; dashed: the retrained one where there "
        "is one; means over forget samples. Terms of a loss are means over the epoch's steps."
        + ("" if evaluated_measures(block) else _NOT_EVALUATED),
        f"Small line charts by epoch, a line a trial, of {names}. The values are in events.jsonl of each trial.",
        lambda theme: every_measure(block, report, theme),
    )


def _evaluated_picture(report: Report, block: Block) -> Picture:
    names = ", ".join(measure.heading for measure in evaluated_measures(block))
    return Picture(
        f"evaluated-epochs-{_file_name(block.model)}",
        f"What the evaluation measures by epoch: {block.model}",
        "A line is a trial, a mark an evaluated epoch. Dotted: the original model; dashed: the retrained one where "
        "there is one. Forget quality is drawn by its logarithm. A trial without models of its epochs has no line.",
        f"Small line charts by epoch, a line a trial, of {names}. The values are in epochs.csv.",
        lambda theme: evaluated_epochs(block, report, theme),
    )


def _audit_picture(report: Report, table: AuditTable) -> Picture:
    each = [(line.name, line.audit) for line in table.lines]
    said = ", ".join(f"{n} {'not known' if a.share is None else f'{a.back} of {a.total}'}" for n, a in each)
    return Picture(
        f"audit-{_file_name(table.model)}",
        f"What comes back: {table.model}",
        "A panel an attack; a point is the worst setting that took no more than its budget, mean over a row's trials. "
        "Dotted: the original model; dashed: the retrained one, where there is one; broad and grey: control rows, "
        "which no model has read (mean over the models). For bits, less is the stronger attack. What comes back as "
        "often as control rows is drawn too, though it does not count as back.",
        f"Line charts of the rows that attacks brought back, by what the attack took. Rows back in all: {said}. The "
        "values are in audit.csv.",
        lambda theme: comes_back(table, report, theme),
    )


def _file_name(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model)


def _case_picture(block: Block, case: Case, number: str) -> Picture:
    return Picture(
        f"case-{_file_name(block.model)}-{number}",
        f"Case: {case.model}, target {case.target} of sample {case.sample}",
        f"{case.chosen[0].upper()}{case.chosen[1:]}. Marked: runs of three or more words that the reference has, and "
        "names and numbers of the reference that the prompt does not give away.",
        "The prompt, the reference and what each method's model says, as text in the page.",
        partial(draw_case, case),
        case,
    )


def _numbers(report: Report, key: str) -> str:
    """The chart's end values in words."""
    parts = []
    for block in report.blocks:
        column = next((column for column in report.columns if column.key == key), None)
        if column is None:
            continue
        said = [f"{r.name} {column.text(v.mean)}" for r in block.rows if (v := r.values[key]) is not None]
        parts.append(f"{block.model}, {column.heading}: {', '.join(said)}.")
    return " ".join(parts)


def _last_active(report: Report) -> str:
    parts = []
    for block in report.blocks:
        said = []
        for row in block.methods:
            last = [trial.history[-1].active for trial in row.trials if trial.history]
            if last:
                said.append(f"{row.name} {sum(last) / len(last):.1f}")
        parts.append(f"{block.model}, at the end: {', '.join(said)}.")
    return " ".join(parts)
