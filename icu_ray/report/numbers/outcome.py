"""What came out on one model, in a sentence or two: the first thing a reader wants to know.

outcome(block)      # "On 125m, icu (0.5, 1) forgot in 5 of 5 trials at the least cost: MA 95.0 % to 51.5 %, ..."
"""

from __future__ import annotations

from icu_ray.report.numbers.columns import HELDOUT, PPL_RATIO
from icu_ray.report.numbers.rows import Block, Row


def outcome(block: Block) -> str:
    """The method that forgot in every trial at the least cost; where none did, in the most of them; '' for no method.

    Methods of fewer trials than another are not compared with it.
    """
    known = [row for row in block.methods if row.values["ma"] is not None]
    if not known:
        return ""
    whole = [row for row in known if row.forgotten == len(row.trials)]
    if whole:
        count = max(len(row.trials) for row in whole)
        whole = [row for row in whole if len(row.trials) == count]
        best = min(whole, key=_cost)
        cheapest = " at the least cost" if len(whole) > 1 and best.values[PPL_RATIO.key] is not None else ""
        return (
            f"On {block.model}, {best.name} forgot in {count} of {count} trials{cheapest}: {_told(block, best)}."
            + _yardstick(block)
        )
    gold = next((row for row in block.rows if row.gold and row.values["ma"] is not None), None)
    # Without a gold standard less is better; with one a model that knows less than it gives the texts away.
    away = 0.0 if gold is None else _ma(gold)
    best = max(known, key=lambda row: (row.forgotten / len(row.trials), -abs(_ma(row) - away)))
    to = "" if gold is None else " to the retrained model"
    nearest = f"{best.name} came nearest{to}, with {best.forgotten} of {len(best.trials)}: {_told(block, best)}"
    return f"On {block.model}, no method forgot in every trial; {nearest}." + _yardstick(block)


def _yardstick(block: Block) -> str:
    """What the gold standard measures, where there is one: where a perfect method would end."""
    gold = next((row for row in block.rows if row.gold), None)
    columns = (*(c for c in block.columns if c.key == "ma"), *block.el_columns)
    known = [(c.heading.split()[0], gold.values[c.key]) for c in columns] if gold is not None else []
    said = [f"{name} {value.mean:.1f} %" for name, value in known if value is not None]
    return f" The same model, trained without the texts, has {' and '.join(said)}." if said else ""


def _cost(row: Row) -> tuple[float, float]:
    ratio = row.values[PPL_RATIO.key]
    return (float("inf") if ratio is None else ratio.mean), _ma(row)


def _ma(row: Row) -> float:
    found = row.values["ma"]
    return 0.0 if found is None else found.mean


def _told(block: Block, row: Row) -> str:
    """Forgetting from before to after, and what became of texts that nobody asked to forget."""
    before = next((each for each in block.rows if each.before), None)
    said = []
    for column in (*(c for c in block.columns if c.key == "ma"), *block.el_columns):
        now, then = row.values[column.key], None if before is None else before.values[column.key]
        if now is not None:
            name = column.heading.split()[0]
            said.append(
                f"{name} " + (f"{now.mean:.1f} %" if then is None else f"{then.mean:.1f} % to {now.mean:.1f} %")
            )
    ratio, heldout = row.values[PPL_RATIO.key], row.values[HELDOUT.key]
    if ratio is not None and heldout is not None:
        said.append(f"perplexity on held-out texts {ratio.mean:.2f} times as high ({heldout.mean:.1f})")
    else:
        said.append("perplexity on held-out texts not measured")
    return ", ".join(said)
