"""The project from Python, for notebooks and scripts: three functions, whose results are pandas frames.

    from icu_ray.api import probe, sweep, unlearn

    probe("EleutherAI/gpt-neo-125m", "records.jsonl")                       # one row a text
    done = unlearn("EleutherAI/gpt-neo-125m", forget="my.jsonl", retain="others.jsonl", out="unlearned")
    done.scores, done.texts                                                 # before and after; one row a text
    run = sweep("quickstart", {"samples": [0], "optim.lr": 1e-4})
    run.trials, run.cells, run.epochs                                       # one row a trial, a cell, an epoch

Arguments are called as the options of `icu-ray probe`, `icu-ray unlearn` and `icu-ray sweep`, overrides as the config's
keys. What is wrong with the input raises `icu_ray.errors.UserError` before anything starts. MA and EL are fractions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icu_ray.requests.wording import python_call, with_arguments_named

if TYPE_CHECKING:
    import pandas as pd

    from icu_ray.plan.grid import Plan
    from icu_ray.storage.trial_files import TrialPaths
    from icu_ray.storage.verdict import Verdict


@dataclass(frozen=True)
class SweepFrames:
    """A sweep as storage holds it.

    folder: <storage>/<name>. exit_code: as the command's: 0 all trials ended, 1 some failed, 130 interrupted; None
    after a dry run. plan: one row a planned trial, with what was estimated before. trials: one row a trial that has
    ended, with the columns of trials.csv. cells: one row a model, method and (alpha, beta), mean and standard deviation
    over its samples, or over the seeds of a single one (column over), as cells.csv. epochs: one row an epoch of a
    trial; epoch 0 is the original model.
    """

    folder: str
    exit_code: int | None
    plan: pd.DataFrame
    trials: pd.DataFrame
    cells: pd.DataFrame
    epochs: pd.DataFrame


@dataclass(frozen=True)
class UnlearnFrames:
    """A deletion request.

    folder: `out`; the model lies in folder / "model". verdict: the answer, as the command prints it (success, headline,
    lines, cost, texts). success: whether the model has forgotten at an acceptable cost; forgotten: whether MA and EL
    fell below the thresholds, whatever that cost; reason: why the trial ended, '' where it did not. exit_code: as the
    command's, 0 for a success alone. scores: two rows, `before` and `after`; with
    a suite its metrics stand there too, such as cls/avg. texts: one row a text to forget: id, prompt, reference, what
    the model said before and after, MA, EL, BERTScore, BLEU, its pair, and its subject where subject_column names
    one. epochs: one row an epoch. subjects: one row a subject: how many texts it has, how many of them are forgotten,
    and whether all are; empty without subject_column. next_tries: after what was no success, why and what to try:
    ("...", {"beta": 8.0, "optim.lr": 5e-05}), the most promising first; all but beta belong into overrides.
    """

    folder: Path
    forgotten: bool
    reason: str
    exit_code: int
    scores: pd.DataFrame
    texts: pd.DataFrame
    epochs: pd.DataFrame
    verdict: Verdict | None = None
    success: bool = False
    subjects: pd.DataFrame | None = None
    next_tries: tuple[tuple[str, Mapping[str, float | int | str]], ...] = ()


def probe(
    model: str | Path,
    forget: str | Path,
    *,
    tokenizer: str | None = None,
    el_start: int | None = None,
    ngram: int = 10,
    length: int = 200,
    text_column: str = "text",
    prompt_column: str | None = None,
    completion_column: str | None = None,
    messages_column: str | None = None,
    template: Literal["plain", "question-answer", "chat"] | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> pd.DataFrame:
    """How much a model remembers of a file: one row a text with id, ma, el10 (el<ngram>) and forget_loss.

    model: folder or hub id of a causal LM. forget: .npy of (N, L) token ids, or .jsonl, .json, .csv, .tsv or
    .parquet of texts, or a data set such as "hub:locuslab/TOFU#forget01". el_start: tokens of EL's shortest prompt, 150
    where none are given; of rows with prompts EL begins with the completion. The frame's `attrs` hold the
    means over the file, under the same names, and n. MA and EL are those of section IV-D3.
    """
    import pandas as pd

    from icu_ray.services.probe import probe_files, probe_json

    result = probe_files(
        str(model),
        Path(forget),
        tokenizer=tokenizer,
        el_start=el_start,
        ngram=ngram,
        length=length,
        columns={
            "text_column": text_column,
            "prompt_column": prompt_column,
            "completion_column": completion_column,
            "messages_column": messages_column,
            "template": template,
        },
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    means = probe_json(result, ngram)
    frame = pd.DataFrame(means.pop("per_sample"))
    frame.attrs.update(means)
    return frame


@with_arguments_named
def unlearn(
    model: str | Path = "standin",
    *,
    out: str | Path,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    heldout: str | Path | None = None,
    text_column: str = "text",
    prompt_column: str | None = None,
    completion_column: str | None = None,
    messages_column: str | None = None,
    template: Literal["plain", "question-answer", "chat"] | None = None,
    id_column: str | None = None,
    subject_column: str | None = None,
    method: str | None = None,
    alpha: float = 0.5,
    beta: float | None = None,
    length: int | None = None,
    workers: int = 1,
    gpus: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    suite: Sequence[str] = (),
    mirror: str | Path | None = None,
    audit: Sequence[str] = (),
    also_check: Sequence[str | Path] = (),
    request_id: str | None = None,
    asked_by: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> UnlearnFrames:
    """Make one model forget the texts of a file; model, record, report and targets.csv are left in `out`.

    The same call again finds the request done, or goes on with it. audit: attacks that ask whether the texts come back.
    overrides: config keys, such as {"optim.lr": 1e-5}.
    """
    given = dict(locals())
    import pandas as pd

    from icu_ray.errors import without_secrets
    from icu_ray.requests.record import Asked
    from icu_ray.requests.subjects import subjects_json
    from icu_ray.requests.unlearn import unlearn as carry_out

    command = without_secrets(python_call("icu_ray.api.unlearn", unlearn, given))
    done = carry_out(
        str(model),
        forget=_text(forget),
        out=out,
        asked=Asked(command, request_id, asked_by, tuple(str(file) for file in also_check)),
        retain=_text(retain),
        heldout=_text(heldout),
        text_column=text_column,
        prompt_column=prompt_column,
        completion_column=completion_column,
        messages_column=messages_column,
        template=template,
        id_column=id_column,
        subject_column=subject_column,
        method=method,
        alpha=alpha,
        beta=beta,
        length=length,
        workers=workers,
        gpus=gpus,
        precision=precision,
        suites=suite,
        mirror=_text(mirror),
        audit=tuple(audit),
        overrides=_written(overrides),
    )
    result, paths = done.result, done.paths
    return UnlearnFrames(
        done.folder,
        done.forgotten,
        "" if result is None else result.reason,
        done.command_code,
        pd.DataFrame.from_dict(done.scores(), orient="index"),
        _texts_frame(paths, done.subjects),
        _epochs_frame({} if result is None or paths is None else {result.name: paths}),
        done.verdict,
        done.success,
        pd.DataFrame(subjects_json(done.by_subject)),
        tuple((each.why, each.changes) for each in done.next_tries),
    )


def sweep(
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    wait: bool = False,
) -> SweepFrames:
    """Run a grid of trials, or go on with it where it stopped.

    Of a sweep that is done nothing is trained again; its tables and report are written anew, and MLflow is told what
    it lacks. Losing Ray while trials run, or a second interruption, ends this process at once (os._exit): a notebook's
    kernel with all its variables. What was finished is in storage, and the same call goes on from there.

    config: a YAML file, the name of a shipped config (None: quickstart), or the keys themselves as a mapping.
    overrides: dotted keys, such as {"optim.lr": 1e-5, "models.0.workers": 2}. dry_run: plan and start nothing; the
    frames then hold what earlier runs left. wait: where another driver runs this sweep, wait for its end.
    """
    from icu_ray.config.file import apply_override, load_config, resolve_config
    from icu_ray.config.shipped import find_config
    from icu_ray.plan.planning import plan_sweep

    if isinstance(config, Mapping):
        tree = dict(config)
        for override in _written(overrides):
            tree = apply_override(tree, override)
        plan = plan_sweep(resolve_config(tree, "sweep(config)"), dry_run=dry_run)
    else:
        plan = plan_sweep(load_config(find_config(_text(config)), _written(overrides)), dry_run=dry_run)
    if dry_run:
        return _sweep_frames(plan, None)
    from icu_ray.sweep.run import run_sweep

    return _sweep_frames(plan, run_sweep(plan, wait=wait))


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _written(overrides: Mapping[str, Any] | None) -> list[str]:
    """key=value as the command line has it: JSON is YAML."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def _sweep_frames(plan: Plan, exit_code: int | None) -> SweepFrames:
    import pandas as pd

    from icu_ray.plan.grid import trials_now
    from icu_ray.report.numbers.summary import cell_rows, summarise, trial_rows
    from icu_ray.report.terminal.plan_table import plan_json
    from icu_ray.storage.files import join
    from icu_ray.storage.trial_files import TrialPaths

    storage, name = plan.config.storage, plan.config.name
    planned = json.loads(plan_json(plan))["trials"]
    parameters = [row.pop("hyperparameters") for row in planned]
    rows = [{**row, **each} for row, each in zip(planned, parameters, strict=True)]
    trials = trials_now(plan)
    summary = summarise(storage, name, [(trial.trial_id, trial.name) for trial in trials])
    header, found = trial_rows(summary)
    cells_header, cells = cell_rows(summary)
    return SweepFrames(
        join(storage, name),
        exit_code,
        pd.DataFrame(rows),
        pd.DataFrame(found, columns=header),
        pd.DataFrame(cells, columns=cells_header),
        _epochs_frame({trial.name: TrialPaths.of(storage, name, trial.trial_id) for trial in trials}),
    )


def _epochs_frame(trials: Mapping[str, TrialPaths]) -> pd.DataFrame:
    """events.jsonl of trials by name: trial, epoch, active, scores, loss_<term>, seconds_<part>."""
    import pandas as pd

    from icu_ray.storage.el_names import plain
    from icu_ray.storage.trial_files import read_events, read_spec

    rows = []
    for name, paths in trials.items():
        for record in read_events(paths, read_spec(paths)):
            row = {"trial": name, "epoch": record.epoch, "active": record.active, **plain(record.scores)}
            row |= {f"loss_{term}": value for term, value in record.loss.items()}
            rows.append(row | {f"seconds_{part}": value for part, value in record.seconds.items()})
    return pd.DataFrame(rows)


def _texts_frame(paths: TrialPaths | None, subjects: Mapping[str, str] | None = None) -> pd.DataFrame:
    import pandas as pd

    from icu_ray.storage.el_names import plain
    from icu_ray.storage.trial_files import read_samples, read_spec

    samples = () if paths is None else read_samples(paths, read_spec(paths))
    rows = [plain(sample) for sample in samples]
    return pd.DataFrame([row | {"subject": subjects.get(row["id"])} for row in rows] if subjects else rows)
