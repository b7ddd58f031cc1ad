"""What MLflow's pages show beside the numbers: descriptions of experiment, sweep and trial, and two saved views.

    tags = experiment_tags("1", created=1_700_000_000_000)   # of the experiment, where it does not have them
    note = sweep_note("runs/quickstart", "#/experiments/1/runs/ID/artifacts", sweep, read_bytes(".../cells.csv"))

The saved views are MLflow 3.17's own ("Views" on the page of runs): an experiment tag with the page's state as JSON.
"Trials" is a table of the trials, least damage first; "Curves" draws the trials' metrics by epoch.
"""

from __future__ import annotations

import colorsys
import csv
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icu_ray.storage.el_names import PAPER_NGRAM, config_ngram, plain
from icu_ray.storage.results import Sweep, TrialResult, TrialSpec
from icu_ray.storage.verdict import OUTCOME_WORD, Verdict, result_outcome

NOTE_TAG, COLOR_TAG = "mlflow.note.content", "mlflow.runColor"
TRIAL_TAG = "icu_ray.trial_id"
SIGNATURE = "*Kept up to date by icu_ray; remove this line to write here yourself.*"
_VIEW_TAG = "mlflow.sharedViewState."
_TRIALS, _CURVES = "icu-ray-trials", "icu-ray-curves"
_TAG_COLUMNS = ("model", "method", "sample", "alpha", "beta", "lr", "seed", "status")
_METRIC_COLUMNS = ("ppl_heldout_ratio", "after/bertscore_f1", "after/entropy", "epochs")
_CURVE_METRICS = ("active_samples", "ppl_heldout", "forget_loss", "entropy")
_MOST_CELLS = 40
"""Rows of a sweep's table: an MLflow tag holds 8,000 characters."""
_WEIGHTS = (("α", "alpha"), ("β", "beta"), ("lr", "lr"), ("seed", "seed"))


def experiment_tags(experiment: str, created: int, ngrams: Iterable[int] = (PAPER_NGRAM,)) -> dict[str, str]:
    """Tags of an experiment of sweeps: its description, its saved views. created: Unix milliseconds. ngrams: n of EL.

    Every n has a column and a curve of its own.
    """
    els = [f"el{ngram}" for ngram in sorted(set(ngrams))]
    return {
        NOTE_TAG: _experiment_note(experiment, els),
        _VIEW_TAG + _CURVES: _view("Curves", _curves_state(els), created),
        _VIEW_TAG + _TRIALS: _view("Trials", _trials_state(els), created + 1),  # the newest view stands first
    }


def tag_ngrams(tag: str) -> set[int]:
    """Each n of EL that a tag of an experiment names."""
    return {int(found) for found in re.findall(r"\bel([1-9][0-9]{0,8})\b", tag)}


def trials_page(experiment: str) -> str:
    """Where, behind a server's address, the trials are listed; without it MLflow opens its page of traces."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={_TRIALS}"


def _experiment_note(experiment: str, els: Sequence[str]) -> str:
    named = ", ".join(f"`{el}`" for el in els)
    grams = " and ".join(f"{el[2:]}-grams" for el in els)
    runs = trials_page(experiment).removesuffix(_TRIALS)
    return f"""Machine unlearning of language models with icu_ray. Each sweep is a run, each of its trials (a model, a \
forget sample, a method and its α, β) a child run of it.

Saved views: [Trials]({runs}{_TRIALS}), least damage first; [Curves]({runs}{_CURVES}&compareRunsMode=CHART), by epoch.

| metric | meaning |
|---|---|
| `ma`, {named} | memorisation accuracy, extraction likelihood of {grams} on the forget sample, 0 to 1, by epoch |
| `active_samples` | targets (texts to forget) that are not yet forgotten, by epoch |
| `came_back` | part of the targets that a cheap attack brings back, by epoch, where that was asked |
| `ppl_heldout`, `ppl_heldout_ratio` | perplexity on texts nobody asked to forget; after divided by before |
| `before/…`, `after/…` | the original model, the unlearned model |
| `cls/…`, `dialogue/…`, `ppl/…` | what the unlearned model can still do, where it was evaluated |
| `loss/…` | terms of equation (6), by epoch |
| `epoch/…` | what the evaluation measures, by epoch (`evaluation.when=epochs`) |

Steps are epochs; 0 is before unlearning. Trials to search for, for example:

```
tags.method = 'icu' and metrics.`after/ma` < 0.6
tags.status = 'not_forgotten'
```

Tags: `model`, `method`, `sample`, `alpha`, `beta`, `seed`, `status` (`finished`: forgotten; `not_forgotten`; `failed`),
`verdict` (`success`, `not_forgotten`, `too_costly`, `collapsed`, `failed`).
"""


def _view(name: str, state: Mapping[str, Any], created: int) -> str:
    text = json.dumps({"startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [], **state})
    return json.dumps({"name": name, "createdAt": created, "updatedAt": created, "state": text})


def _page_state(els: Sequence[str]) -> dict[str, Any]:
    # Sorted by anything but the time of creation, MLflow lists trials without their sweep above them.
    return {
        "searchFilter": f"tags.`{TRIAL_TAG}` != ''",
        "modelVersionFilter": "All Runs",
        "groupBy": None,
        "columnOrder": [],
        "columnWidths": {},
        "selectedColumns": [
            *(f"tags.`{name}`" for name in _TAG_COLUMNS),
            *(f"metrics.`{name}`" for name in ("after/ma", *(f"after/{el}" for el in els), *_METRIC_COLUMNS)),
        ],
    }


def _trials_state(els: Sequence[str]) -> dict[str, Any]:
    return _page_state(els) | {"orderByKey": "metrics.`ppl_heldout_ratio`", "orderByAsc": True}


def _curves_state(els: Sequence[str]) -> dict[str, Any]:
    section = "icu-ray-by-epoch"
    axis = {"lineSmoothness": 0, "xAxisKey": "step", "selectedXAxisMetricKey": ""}
    charts = [
        {
            "uuid": f"icu-ray-{metric}",
            "type": "LINE",
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "runsCountToCompare": 20,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "range": {},
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
            **axis,
        }
        for metric in ("ma", *els, *_CURVE_METRICS)
    ]
    named = {"uuid": section, "name": "By epoch", "display": True, "isReordered": False, "deleted": False}
    return _page_state(els) | {
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "runsHiddenMode": "FIRST_20_RUNS",
        "hideEmptyCharts": True,
        "compareRunSections": [named | {"isGenerated": False}],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
        "globalLineChartConfig": axis,
    }


def trial_colors(sweep: Sweep) -> dict[str, str]:
    """A colour for each trial by its id, far from its neighbours': MLflow's own, by run id, often give two the same."""
    turns = (0.618034 * place % 1 for place in range(len(sweep.trials)))  # the golden section never comes back near
    shades = itertools.cycle((0.4, 0.5, 0.28))
    colors = (colorsys.hls_to_rgb(turn, shade, 0.7) for turn, shade in zip(turns, shades, strict=False))
    return {
        trial.trial_id: "#" + "".join(f"{round(255 * part):02x}" for part in color)
        for trial, color in zip(sweep.trials, colors, strict=True)
    }


def sweep_note(folder: str, files: str, sweep: Sweep | None, cells: bytes | None) -> str:
    """A sweep's description: what it is, the means of its cells (cells.csv) once there are any, how to go on with it.

    folder: where it lies, without secrets. files: the address of its run's artefacts in the UI.
    """
    intro = "Each trial is a child run."
    if sweep is not None:
        intro = f"{len(sweep.trials)} trials, each a child run."
        stop = sweep.config.get("stop") or {}
        if "ma" in stop and "el" in stop:
            ma, el = (_limit(stop[key]) for key in ("ma", "el"))
            joined = "or" if stop.get("rule") == "or" else "and"
            rule = f"MA {ma} {joined} EL{config_ngram(sweep.config) or PAPER_NGRAM} {el}"
            intro += f" A forget sample counts as forgotten when {rule}, if its method has no rule of its own."
    parts = [intro]
    if cells is not None:
        links = (("Report", "report/report.html"), ("trials.csv", "trials.csv"), ("cells.csv", "cells.csv"))
        parts += [" · ".join(f"[{name}]({files}/{path})" for name, path in links), _cells_table(cells)]
    parts += [
        "The command that started this sweep continues it where it stopped. To see how far it is, and to write its "
        "report:",
        f"```\nicu-ray status {shlex.quote(folder)}\nicu-ray report {shlex.quote(folder)}\n```",
        SIGNATURE,
    ]
    return "\n\n".join(parts)


def _limit(value: float | str) -> str:
    return "≤ the mean of the held-out texts" if isinstance(value, str) else f"< {100 * value:.2f} %"


def _cells_table(cells: bytes) -> str:
    rows = list(csv.DictReader(io.StringIO(cells.decode())))
    # The columns of EL by the header of cells.csv, in which each n has its own.
    ngrams = re.findall(r"\bel([0-9]+)_after_pct_mean\b", cells.decode().partition("\n")[0]) or [str(PAPER_NGRAM)]
    el = "".join(f" EL{ngram} % |" for ngram in ngrams)
    lines = [
        f"| model | method | alpha | beta | MA % |{el} held-out PPL ratio | forgotten |",
        f"|---|---|--:|--:|--:|{'--:|' * len(ngrams)}--:|--:|",
    ]
    for row in rows[:_MOST_CELLS]:
        means = [_mean(row, f"{name}_after_pct", 1) for name in ("ma", *(f"el{n}" for n in ngrams))]
        what = [_literal(row["model"]), _literal(row["method"]), f"{float(row['alpha']):g}", f"{float(row['beta']):g}"]
        values = [*what, *means, _mean(row, "ppl_ratio", 2), f"{row['forgotten']}/{row['trials']}"]
        lines.append(f"| {' &emsp;| '.join(values)} |")  # MLflow's own tables leave no room between columns
    if len(rows) > _MOST_CELLS:
        lines += ["", f"and {len(rows) - _MOST_CELLS} cells more in cells.csv"]
    return "\n".join(lines)


def _mean(row: Mapping[str, str], name: str, decimals: int) -> str:
    mean, deviation = (row.get(f"{name}_{part}") for part in ("mean", "std"))
    if not mean:
        return "–"
    return f"{float(mean):.{decimals}f}" + (f" ± {float(deviation):.{decimals}f}" if deviation else "")


def trial_note(spec: TrialSpec, result: TrialResult | None, verdict: Verdict | None = None) -> str:
    """A trial's description: what is run and, once it is over, how it ended with its scores before and after."""
    weights = spec.hyperparameters
    made = ", ".join(f"{name} = {weights[key]}" for name, key in _WEIGHTS if key in weights)
    parts = [f"{_literal(spec.method)} on {_literal(spec.model)}, forget sample {spec.sample}; {made}."]
    if result is not None:
        if verdict is None:
            why = f": {_literal(result.reason[:1000])}" if result.reason else ""
            parts.append(f"**{OUTCOME_WORD[result_outcome(result)]}**{why}")
        else:
            parts.append(f"**{_literal(verdict.headline[:1000])}**")
            said = [f"- {what} {_literal('; '.join(sentences))}" for what, sentences in verdict.lines]
            parts.append("\n".join(said))
        before, after = (plain(side) if side else {} for side in (result.before, result.after))
        lines = [
            f"| `{name}` &emsp;| {before[name]:.4g} &emsp;| {after[name]:.4g} |"
            for name in before
            if before[name] is not None and after.get(name) is not None
        ]
        if lines:
            parts.append("\n".join(["| | before | after |", "|---|--:|--:|", *lines]))
            parts.append("What the model wrote for each text, before and after: the artefact `samples.json`.")
    return "\n\n".join([*parts, SIGNATURE])


def _literal(text: str) -> str:
    """Text that Markdown, its tables and HTML take as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split())).replace("&", "&amp;")
