"""Words that every form of a report shares: how its tables are to be read."""

from __future__ import annotations

from collections.abc import Sequence

from icu_ray.report.numbers.best_cells import BestCell
from icu_ray.report.numbers.columns import PPL_RATIO
from icu_ray.report.numbers.distances import DistanceRow, DistanceTable
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.report.numbers.statistics import WILCOXON_PAIRS, Estimate
from icu_ray.report.numbers.tasks import TaskTable
from icu_ray.report.numbers.worst_rows import WORST

_MAIN_NOTE = (
    "Mean over forget samples ± half of the 95 % confidence interval (Student's t), where there are at least three of "
    "them. Of several seeds each sample's mean counts, and 'seeds' is the deviation over the seeds of a "
    "sample; of a single sample, the seeds are what counts. Best bold, second best underlined, among the methods of "
    "one model as printed. "
)
_PAPER_NOTE = (
    "In brackets, or after 'paper': what the paper prints for that row (for a stand-in's only cell of ICU, whatever "
    "its weights, that of alpha = 0.5, beta = 1). "
)
_FORGOTTEN_NOTE = (
    "'Forgotten' counts trials that reached the thresholds, within the cost limit if there is one, with a model that "
    "has not collapsed; trials that failed are in no mean. '–': not measured, or no score because one of the paper's "
    "nine columns was not measured."
)
SCORES_NOTE = (
    "Each column is normalised over the population, the methods of one model without the model before unlearning; "
    "columns that should be low are subtracted. Scores compare rows of one population and nothing else. A perplexity "
    "above 1000 enters as 1000, as in the paper. The scores do not know the limit on cost: a model that unlearning has "
    "ruined may have the best one. Read them together with the perplexity ratio."
)
ORDERS_NOTE = (
    "Methods from best to worst by what was measured here and by what the paper prints. Agreeing: pairs of methods in "
    "the same order in both, of the pairs that the paper's printed values tell apart."
)
DISTANCES_NOTE = (
    "The retrained model was trained in the same way without the texts to forget: what exact unlearning would leave "
    "(of a published one its publisher says so). "
    "D: largest distance between the distributions of the texts' losses under the two models, 0 for equal ones "
    "(two-sample Kolmogorov-Smirnov test). 'told apart': trials in which the test tells the two apart, p < 0.05. "
    "Differences are the model minus the retrained one, in the unit of the column. A loss above 0 says that the model "
    "finds the texts less likely than a model that never read them, which gives away that they were forgotten; below 0 "
    "it still knows something of them. A test that tells nothing apart is no proof of equality: with few texts only a "
    "large D is seen."
)
BENCHMARKS_NOTE = (
    "Names and values are the benchmark's own: fractions and p-values, none in per cent. forget_quality is the p-value "
    "of a test that tries to tell the model from the retrained one by its truth ratios: a small one says that they "
    "differ, a large one that so many rows do not show it, which is no proof that nothing is known any more. Over "
    "several trials it is 10 to the mean of its logarithm. It and "
    "privleak are not computed where no retrained model was evaluated. Printed rows are of the model of that name; "
    "data, seeds and versions differ. Imported rows are what another framework measured."
)
WORST_NOTE = (
    f"At most {WORST} rows of each trial, those that its model still knows best first. Of a benchmark: the rows that "
    "are to be forgotten, by the highest of probability, extraction strength and ROUGE after unlearning, which are "
    "fractions. Of other data: the targets, by MA and then EL. Large: after unlearning. A row is known because of the "
    "forgotten texts only where the retrained model, which never read them, has a lower number. Marked: runs of three "
    "or more words that the true answer has, and names and numbers of it that the question does not give away. A long "
    "text opens whole."
)
BEST_CELLS_NOTE = (
    "Of each method's cells the one with the highest 'forget cheaply': minus ten times what MA and EL are above their "
    "thresholds, minus the logarithm of the ratio of held-out perplexity, which is also what a search maximises. "
    "Where it is known for all cells of a model what the audit brought back, ten times that part of the texts is "
    "subtracted as well (audited). "
    "It was chosen by these very trials, so methods are compared by it fairly only on another forget sample."
)
ELSEWHERE_NOTE = (
    "Read with 'icu-ray import' from the files of another framework, in the units of those files: probabilities and "
    "ROUGE are fractions. A metric of ours is shown next to one of the same name. Texts, prompts and the tokens that "
    "count may differ, so these rows are in no ranking, score or test. Ours of exact_memorization is MA, which counts "
    "the last token of a text too, unless the evaluation has measured it by its own name."
)
TARGETS_NOTE = (
    "BERTScore and BLEU compare what the model says after the prompt now with the text. The filter, "
    "equation (5), calls this continuation unlike the text when either is under its threshold, and then does not train "
    "on the text. The verdict looks at MA and EL: forgotten, or still above a threshold; all texts together by their "
    "means."
)
TESTS_NOTE = (
    "Difference of the first method minus the second in the metric's unit, ± half of its 95 % interval; intervals and "
    "tests need three pairs. Over forget samples: pairs of the same sample, each a mean over the seeds that both "
    "methods have. Over seeds, of a single sample: pairs of the same seed, which do not say how another sample would "
    "do. p (t): paired t-test; Holm: adjusted for the number of rows compared in that metric; Wilcoxon: signed-rank "
    "test, which needs "
    f"{WILCOXON_PAIRS} pairs to fall below 0.05. Tests over targets pair the single texts of those samples, each once, "
    "with its mean over those seeds: they say whether these trained models differ, not whether another sample or seed "
    "would show it again."
)


def main_note(blocks: Sequence[Block]) -> str:
    """How the main table is to be read; of the paper's values where there are any."""
    beside = any(row.paper is not None for block in blocks for row in block.rows)
    return _MAIN_NOTE + (_PAPER_NOTE if beside else "") + _FORGOTTEN_NOTE


def tasks_note(tables: Sequence[TaskTable]) -> str:
    """How tables of tasks are to be read: what concerns the metrics that they have."""
    names = [metric for table in tables for metric, _ in table.lines]
    said = ["Means over the trials of a row, in the unit that is given next to the metric."]
    if any("_icu" in name for name in names):
        said.append(
            "Names with _icu are asked and scored as the paper's authors did, others as lm-evaluation-harness defines "
            "them."
        )
    if any("quick_" in name for name in names):
        said.append("Tasks with quick_ ask about held-out ones of the made-up records.")
    if "ppl/quick_heldout" in names:
        said.append(
            "ppl/quick_heldout is not the held-out PPL above: it scores whole texts, each after a beginning-of-text "
            "token. Held-out PPL scores rows of the length that was trained on, whose first token has nothing before "
            "it and is not scored."
        )
    return " ".join(said)


def distance_heading(table: DistanceTable) -> str:
    """What stands above a table of distances: the model, and what its tests can see."""
    if table.visible is None:
        return f"{table.model}: losses of single texts are not kept in these results, so there is no test"
    least = f"D must be about {min(table.visible, 1):.2f} or more to be distinguished from chance"
    return f"{table.model}: with {table.texts} texts, {least}"


def distance_cells(table: DistanceTable, row: DistanceRow) -> list[str]:
    """A row's cells: D with its interval, how many trials are told apart, and the differences."""
    below, known = row.told_apart
    only = row.distances[0].p if known == 1 and len(row.distances) == 1 else None
    told = "–" if not known else f"p = {p_text(only)}" if only is not None else f"{below} of {known}"
    cells = [_mean_text(row.mean([each.ks for each in row.distances]), 2, sign=False), told]
    cells.append(_mean_text(row.mean([each.loss for each in row.distances]), 2, sign=True))
    for column in table.columns:
        values = [each.differences[column.key] for each in row.distances]
        cells.append(_mean_text(row.mean(values), column.decimals, sign=True))
    return cells


def _mean_text(value: Estimate | None, decimals: int, sign: bool) -> str:
    if value is None:
        return "–"
    kind = "e" if abs(value.mean) >= 1e5 else "f"
    text = f"{value.mean:+.{decimals}{kind}}" if sign else f"{value.mean:.{decimals}{kind}}"
    return text if value.half is None else f"{text} ± {value.half:.{decimals}{'e' if value.half >= 1e5 else 'f'}}"


BEST_CELLS_HEAD = ("Method and cell", "cells tried", "forgotten", "MA %", "held-out PPL ratio", "forget cheaply")


def best_cell(each: BestCell) -> list[str]:
    """A row of the table of best cells, after its model."""
    row = each.row
    ma, ratio = row.values["ma"], row.values[PPL_RATIO.key]
    return [
        row.name,
        str(each.cells),
        f"{row.forgotten}/{len(row.trials)}",
        "–" if ma is None else f"{ma.mean:.1f}",
        "–" if ratio is None else f"{ratio.mean:.2f}",
        f"{each.objective:.2f}" + (" (audited)" if each.audited else ""),
    ]


def standing_of(block: Block) -> str:
    """Which of the paper's models a block is set beside, and whether it is that model; '' where none."""
    if block.size is None:
        return "a stand-in built here; the paper has no such model." if block.standin else ""
    if block.standin:
        what = f"a stand-in built here for the paper's {block.size} model"
        return f"{what}: the order of its methods may be compared with the paper's, its values not."
    return f"the paper's {block.size} model."


def repeated_said(rows: Sequence[Row]) -> str:
    """What the means of these rows are over: 'forget samples', 'seeds of one forget sample', or both words."""
    found = {row.over for row in rows if len(row.units) > 1} or {"forget samples"}
    return " or ".join({"seeds": "seeds of one forget sample"}.get(over, over) for over in sorted(found))


def p_text(value: float | None) -> str:
    """A p value with three figures at most; '–' where no test could be made."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
