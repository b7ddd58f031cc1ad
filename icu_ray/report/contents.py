"""A report's contents, ready for any form: tables of text cells, tests, what is missing, how numbers were obtained.

    report = make_report(collect([("runs", "quickstart")]))

Markdown, LaTeX, CSV and the page print these values and decide nothing but their looks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icu_ray.config.keys import written
from icu_ray.report.collect import Collected, ReportedTrial, SweepFolder
from icu_ray.report.numbers.audits import AuditTable, audit_tables, audits_said
from icu_ray.report.numbers.benchmark_tables import BenchmarkTable, benchmark_tables
from icu_ray.report.numbers.best_cells import BestCell, best_cells
from icu_ray.report.numbers.columns import Column
from icu_ray.report.numbers.comparison import BlockScores, Comparison, Order, block_orders, block_scores, block_tests
from icu_ray.report.numbers.distances import DistanceTable, distance_tables
from icu_ray.report.numbers.elsewhere import ElsewhereTable, elsewhere_tables
from icu_ray.report.numbers.epochs_missing import epochs_missing
from icu_ray.report.numbers.heldout import heldout_said
from icu_ray.report.numbers.outcome import outcome
from icu_ray.report.numbers.rows import Block, Mark, Row, make_blocks, rank, shown_columns
from icu_ray.report.numbers.statistics import Estimate
from icu_ray.report.numbers.targets import TargetRow, target_headings, target_rows
from icu_ray.report.numbers.tasks import TaskTable, task_tables
from icu_ray.report.numbers.thresholds import thresholds_said
from icu_ray.report.numbers.unfinished import unfinished
from icu_ray.report.numbers.variants import differing_keys
from icu_ray.report.numbers.worst_rows import WorstRows, worst_rows
from icu_ray.storage.code_version import code_version
from icu_ray.storage.el_names import subscripted
from icu_ray.storage.flat import flatten
from icu_ray.storage.store import content_hash
from icu_ray.storage.verdict import OUTCOME_WORD, Verdict, result_outcome

_STATE_WORD = {
    "broken": "unreadable",
    "not started": "not started",
    "interrupted": "interrupted",
    "running": "still running",
}
SCORES = (
    Column("s_z", "s_z", "$s_z$", "", "higher", 2, meaning="sum of z-scores, bad columns subtracted"),
    Column("s_m", "s_m", "$s_m$", "", "higher", 2, meaning="sum of min-max scores, bad columns subtracted"),
)
NOTHING = "–"
_NO_PART_OF_RESULTS = ("name", "storage", "tracking", "resources")


@dataclass(frozen=True)
class TableCell:
    """A number as printed, its interval ('± 0.4' or ''), its mark, and what the paper prints there ('' for nothing).

    seeds: the deviation over the seeds of a sample ('seeds 0.3' or '').
    """

    text: str
    interval: str = ""
    mark: Mark | None = None
    paper: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class Finding:
    """Something a reader must know before the numbers; kind: 'missing', 'failed', 'broken' or 'mixed'."""

    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """All of it. columns: of the main table, without the scores; facts: how numbers were obtained, by sweep."""

    title: str
    found: Collected
    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    scores: tuple[BlockScores, ...]
    tests: tuple[Comparison, ...]
    orders: tuple[Order, ...]
    findings: tuple[Finding, ...]
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    made: str
    tasks: tuple[TaskTable, ...] = ()
    distances: tuple[DistanceTable, ...] = ()
    targets: tuple[TargetRow, ...] = ()
    best: tuple[BestCell, ...] = ()
    benchmarks: tuple[BenchmarkTable, ...] = ()
    elsewhere: tuple[ElsewhereTable, ...] = ()
    worst: tuple[WorstRows, ...] = ()
    audits: tuple[AuditTable, ...] = ()
    verdict: Verdict | None = None
    """Of a report's only trial."""

    @property
    def target_headings(self) -> tuple[str, ...]:
        """Of the columns of `targets`."""
        return target_headings(self.found)

    @property
    def ranked(self) -> tuple[BlockScores, ...]:
        """Scores worth a table: of two methods they can only be 0 and 1, or minus and plus one."""
        return tuple(scores for scores in self.scores if len(scores.population) + len(scores.left_out) > 2)

    @property
    def planned(self) -> int:
        """Trials that were planned."""
        return sum(trial.planned for trial in self.found.trials)

    @property
    def ended(self) -> int:
        """Planned trials that have a result that counts."""
        return sum(trial.planned and trial.measured is not None for trial in self.found.trials)

    @property
    def summary(self) -> str:
        """What came out, a sentence a model; then how complete this is."""
        models = len(self.blocks)
        said = f"{self.ended} of {self.planned} planned trials have a result, on {models} model{'s' * (models != 1)}"
        said += "." if self.ended == self.planned else "; what is missing is listed below."
        return " ".join(filter(None, [*map(outcome, self.blocks), audits_said(self.audits), said]))

    @property
    def heldout(self) -> tuple[str, ...]:
        """What the models do on held-out texts, a sentence a model; the verdict of an only trial says it already."""
        return () if self.verdict is not None else tuple(filter(None, map(heldout_said, self.blocks)))

    def worst_of(self, model: str, row: str) -> tuple[WorstRows, ...]:
        """The rows that the models of a row of the tables still know best, one value a trial."""
        return tuple(each for each in self.worst if (each.model, each.row) == (model, row))

    @property
    def score_columns(self) -> tuple[Column, ...]:
        """Those of the two scores that any row has, here or in the paper."""
        cells = [self.row_scores(block, row) for block in self.blocks for row in block.rows]
        return tuple(c for c in SCORES if any(each[c.key].text != NOTHING or each[c.key].paper for each in cells))

    @property
    def weighted(self) -> tuple[bool, bool]:
        """Whether any method uses alpha, and whether any uses beta: the columns that are not empty."""
        rows = [row for block in self.blocks for row in block.methods]
        return any(row.alpha is not None for row in rows), any(row.beta is not None for row in rows)

    def weights(self, row: Row) -> list[str]:
        """A row's cells of alpha and beta, of those columns that are not empty."""
        known = zip((row.alpha, row.beta), self.weighted, strict=True)
        return ["" if row.before else NOTHING if w is None else f"{w:g}" for w, shown in known if shown]

    def row_scores(self, block: Block, row: Row) -> dict[str, TableCell]:
        """s_z and s_m of a row of the main table: refused ('–') unless all the paper's columns are there."""
        scores = self.scores[self.blocks.index(block)]
        cells = {}
        for column, values in zip(SCORES, (scores.s_z, scores.s_m), strict=True):
            known = values if scores.complete else {}
            marks = dict(zip(known, rank(column, [Estimate(1, value, None) for value in known.values()]), strict=True))
            paper = "" if row.paper is None else row.paper.printed.get(column.key, "")
            cells[column.key] = TableCell(column.text(known.get(row.name)), "", marks.get(row.name), paper)
        return cells

    def cells(self, block: Block, row: Row) -> tuple[TableCell, ...]:
        """A row of the main table, column by column, then the scores that any row has."""
        scores = self.row_scores(block, row)
        own = (cell_of(row, column) for column in self.columns)
        return (*own, *(scores[column.key] for column in self.score_columns))


def state_word(trial: ReportedTrial) -> str:
    """How a trial stands, in a word or two."""
    return _STATE_WORD[trial.state] if trial.result is None else OUTCOME_WORD[result_outcome(trial.result)]


def cell_of(row: Row, column: Column) -> TableCell:
    """One cell: the mean with its interval, its mark, the paper's value."""
    estimate = row.values.get(column.key)
    paper = "" if row.paper is None else row.paper.printed.get(column.key, "")
    if estimate is None:
        return TableCell(NOTHING, "", None, paper)
    text = column.text(estimate.mean)
    interval = ""
    if estimate.half is not None and not text.startswith(">"):
        interval = f"± {estimate.half:.{column.decimals}f}" if estimate.half < 1e5 else f"± {estimate.half:.0e}"
    spread = "" if estimate.seed_std is None else f"seeds {estimate.seed_std:.{column.decimals}f}"
    return TableCell(text, interval, row.marks.get(column.key), paper, spread)


def _title(found: Collected) -> str:
    """The sweeps' names; of one trial also what was done with which model: a request's sweep has a made-up name."""
    name = " + ".join(dict.fromkeys(sweep.name for sweep in found.sweeps))
    if len(found.trials) != 1:
        return name
    return f"{name}: {found.trials[0].method} on {found.trials[0].model}"


def make_report(found: Collected) -> Report:
    """Put everything together."""
    blocks = make_blocks(found)
    columns = shown_columns(blocks)
    code = code_version()
    worst, unread = worst_rows(blocks)
    return Report(
        title=_title(found),
        found=found,
        blocks=blocks,
        columns=columns,
        scores=tuple(block_scores(block) for block in blocks),
        tests=tuple(test for block in blocks for test in block_tests(block)),
        orders=tuple(order for block in blocks for order in block_orders(block)),
        findings=(*(Finding("broken", text) for text in unread), *_findings(found)),
        facts=tuple((f"{sweep.storage}/{sweep.name}", tuple(_facts(sweep, found.trials))) for sweep in found.sweeps),
        made=f"{time.strftime('%Y-%m-%d %H:%M %Z')} by icu_ray {code['version']} {str(code['commit'])[:12]}",
        tasks=task_tables(blocks),
        distances=distance_tables(blocks, columns),
        targets=target_rows(found),
        best=best_cells(blocks),
        benchmarks=benchmark_tables(blocks, found.configs, found.imported),
        elsewhere=elsewhere_tables(found, blocks),
        worst=worst,
        audits=audit_tables(blocks),
        verdict=found.trials[0].verdict if len(found.trials) == 1 else None,
    )


def _findings(found: Collected) -> list[Finding]:
    findings = [Finding("broken", text) for text in found.broken]
    for trial in found.trials:
        if trial.state == "failed" and trial.result is not None:
            findings.append(Finding("failed", f"{trial.name}: failed: {trial.result.reason}"))
        elif trial.state in ("interrupted", "running"):
            word = _STATE_WORD[trial.state]
            far = f"{trial.epochs} epochs so far" if trial.epochs else "no epoch yet"
            findings.append(Finding("missing", f"{trial.name}: {word}, {far}"))
        elif trial.state == "not started":
            findings.append(Finding("missing", f"{trial.name}: not started"))
        elif trial.result is not None and trial.result.before is not None and trial.result.before.el_unmeasured:
            said = f"{trial.result.before.el_unmeasured} texts are too short for {subscripted(trial.ngram)}"
            findings.append(Finding("missing", f"{trial.name}: {said}; no mean has them"))
        if cut := _texts_cut(trial):
            findings.append(Finding("missing", f"{trial.name}: {cut}"))
        for task, error in (trial.evaluation.errors if trial.evaluation else {}).items():
            findings.append(Finding("failed", f"{trial.name}: not evaluated on {task}: {error}"))
    findings += [Finding("missing", text) for text in unfinished(found)]
    for sweep in found.sweeps:
        extra = [trial for trial in found.trials if trial.sweep == sweep.name and not trial.planned]
        if extra:
            names = ", ".join(trial.name for trial in extra)
            text = f"{sweep.storage}/{sweep.name} holds {len(extra)} trials of an earlier config, in rows too: {names}"
            findings.append(Finding("mixed", text))
    findings += [Finding("missing", text) for sweep in found.sweeps for text in epochs_missing(sweep, found.trials)]
    return findings + [Finding("mixed", text) for text in _mixed(found)]


def _texts_cut(trial: ReportedTrial) -> str:
    """How many of a user's texts were longer than a row, and which; '' where none was, or nothing is known of it."""
    data = {} if trial.provenance is None else trial.provenance.config.get("data")
    if not isinstance(data, Mapping) or data.get("source") != "records":
        return ""  # other sources cut their rows out of longer texts
    cut = sorted(((each.cut_tokens or 0, each.id) for each in trial.samples), reverse=True)
    cut = [item for item in cut if item[0]]
    named = ", ".join(f"{name} ({tokens} tokens)" for tokens, name in cut[:5])
    more = f" and {len(cut) - 5} more" if len(cut) > 5 else ""
    what = f"{len(cut)} of {len(trial.samples)} texts are longer than a row"
    return f"{what}; their ends were neither forgotten nor measured: {named}{more}" if cut else ""


def _mixed(found: Collected) -> list[str]:
    """Keys in which the configs of the trials differ, with the values."""
    configs = [trial.provenance.config for trial in found.trials if trial.provenance is not None] + list(found.configs)
    flat = [
        {key: value for key, value in flatten(config).items() if key.split(".")[0] not in _NO_PART_OF_RESULTS}
        for config in configs
        if config
    ]
    lines = []
    # A model or method that only some configs have is one difference, not one for each of its keys.
    whole = {name for section in ("models", "methods") for name in _not_in_all(configs, section)}
    lines += [f"configs differ in {name}: some have it, some do not" for name in sorted(whole)]
    for key in differing_keys(flat):
        if any(key.startswith(f"{name}.") for name in whole):
            continue
        values = dict.fromkeys(written(tree[key]) if key in tree else "nothing" for tree in flat)
        shown = " / ".join(value if len(value) <= 120 else value[:117] + "..." for value in values)
        lines.append(f"configs differ in {key}: {shown}")
    return lines


def _not_in_all(configs: Sequence[Mapping[str, Any]], section: str) -> set[str]:
    """'models.1.3b' and the like: named entries of a section that only some configs have."""
    named: list[set[str]] = [
        {f"{section}.{item.get('label') or item['name']}" for item in config.get(section, ())}
        for config in configs
        if config
    ]
    if not named:
        return set()
    first, *others = named
    return first.union(*others) - first.intersection(*others)


def _facts(sweep: SweepFolder, trials: Sequence[ReportedTrial]) -> list[tuple[str, str]]:
    """How a sweep's numbers were obtained: pairs of what and its value."""
    own = [trial for trial in trials if trial.sweep == sweep.name]
    facts: list[tuple[str, str]] = []
    config: Mapping[str, Any] = {}
    if sweep.record is not None:
        config = sweep.record.config
        kept = {key: value for key, value in config.items() if key not in _NO_PART_OF_RESULTS}
        facts.append(("config hash", f"{content_hash(kept)[:16]} (without {', '.join(_NO_PART_OF_RESULTS)})"))
        facts.append(("fidelity", str(config.get("fidelity", "?"))))
        if config.get("recipe") is not None:
            facts.append(("recipe", str(config["recipe"])))
        facts.append(("started", time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.record.started))))
    if sweep.state:
        facts.append(("driver", sweep.state))
    made = [trial.provenance for trial in own if trial.provenance is not None]
    code = dict.fromkeys(f"{p.version} {p.commit[:12]}{' with local changes' * p.dirty}" for p in made)
    facts.append(("code version", "; ".join(code) or "not recorded"))
    facts.append(("data", "; ".join(dict.fromkeys(p.data[:16] for p in made if p.data)) or "not recorded"))
    hashes = dict.fromkeys((t.model, t.provenance.model[:16]) for t in own if t.provenance and t.provenance.model)
    if hashes:
        facts.append(("original models", "; ".join(f"{model} {digest}" for model, digest in hashes)))
    facts += _published(own, config)
    packages = dict.fromkeys(", ".join(f"{k} {v}" for k, v in p.packages.items()) for p in made if p.packages)
    if packages:
        facts.append(("packages", "; ".join(packages)))
    facts.append(("forget samples and seeds", _units(own)))
    evaluated = [trial.evaluation for trial in own if trial.evaluation is not None]
    if evaluated:
        tasks = dict.fromkeys(f"{name} {digest[:8]}" for each in evaluated for name, digest in each.tasks.items())
        count = sum(trial.measured is not None for trial in own)
        facts.append(("evaluated", f"{len(evaluated)} of {count} trials on {', '.join(tasks)}"))
    if told := thresholds_said(config):
        facts.append(("forgotten when", told))
    return facts


def _published(trials: Sequence[ReportedTrial], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which published models stand in the rows 'retrained', none of which was trained here."""
    named = {model.get("name"): model.get("retrained") for model in config.get("models", ())}
    said = []
    for trial in trials:
        known = trial.settings.get("retrained")
        if isinstance(known, Mapping) and isinstance(named.get(trial.model), str):
            version = known.get("revision") or str(known.get("content") or known.get("gguf") or "")[:16]
            said.append(f"{trial.model}: {named[trial.model]}{f' ({version})' if version else ''}")
    return [("retrained models, published", "; ".join(dict.fromkeys(said)))] if said else []


def _units(trials: Sequence[ReportedTrial]) -> str:
    units = sorted({trial.unit for trial in trials if trial.model != "?"}, key=str)
    lines = []
    for unit in units:
        members = [trial for trial in trials if trial.unit == unit]
        there = sum(trial.measured is not None for trial in members)
        seed = "" if unit[1] is None else f" (seed {unit[1]})"
        missing = "" if there == len(members) else f", {len(members) - there} missing"
        lines.append(f"sample {unit[0]}{seed}: {there} of {len(members)} trials{missing}")
    return "; ".join(lines) or "none"
