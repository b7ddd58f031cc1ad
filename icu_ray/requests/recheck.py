"""Makes the record of a request, with what its models are asked once more: earlier texts, the first original.

    record = make_record(asked, config, trial_paths, scores, verdict)
    found = also_checked("earlier.jsonl", {"before": "my-model", "after": "unlearned/model"}, config, limits)
    perplexity, why_not = perplexity_of_first(first_original, heldout, config)

The models are loaded in this process, on a GPU where it sees one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData, RowForm, SweepConfig
from icu_ray.data.examples import Examples
from icu_ray.data.records import Record, examples_of, read_records
from icu_ray.data.sources import load_corpus
from icu_ray.errors import UserError
from icu_ray.plan.text_lengths import lengths_in
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.requests.record import (
    Asked,
    Ended,
    against_first,
    content_sha256,
    earlier_record,
    read_record,
    request_record,
    thresholds_told,
)
from icu_ray.requests.row_length import layout
from icu_ray.storage.results import finite
from icu_ray.storage.thresholds import Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_result, read_samples, read_spec

KEY = "--also-check"
_FILES = {
    "source",
    "forget",
    "pool",
    "pool_rows",
    "heldout",
    "heldout_rows",
    "id_column",
    "pair_column",
    "alternates_column",
    "paraphrases_column",
    "subject_column",
}


def make_record(
    asked: Asked,
    config: SweepConfig,
    paths: TrialPaths,
    scores: Mapping[str, Mapping[str, float | None]],
    verdict: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole record of a request whose trial has ended.

    What an earlier record of the same unlearned model tells of other texts stays in it.
    """
    result = read_result(paths)
    assert result is not None
    folder = Path(paths.model) if Path(paths.model).is_dir() else None
    source = config.models[0].source
    earlier = earlier_record(source, None if result.provenance is None else result.provenance.model)
    corpus = load_corpus(config)
    own = config.methods[0].stop.model_dump(exclude_none=True)
    asked_for = config.stop.model_copy(update=own)
    limits = result.thresholds or thresholds_of(asked_for, result.before, config.el.ngram)
    spec = read_spec(paths)
    ended = Ended(spec, result, read_samples(paths, spec), scores, folder)
    told = thresholds_told(limits)
    record = request_record(asked, config, corpus, ended, verdict=verdict, thresholds=told, earlier=earlier)
    known = read_record(Path(paths.root).parents[1])
    same = known is not None and known["model"] == record["model"]
    if earlier is not None:
        if same and known is not None and known["cost"]["first_original"]["perplexity"] is not None:
            against_first(record, known["cost"]["first_original"]["perplexity"])
        else:
            against_first(record, *perplexity_of_first(record["first_original"], corpus.heldout, config))
    found = {each["file"]: each for each in known["also_checked"]} if same and known is not None else {}
    models = {"before": source, "after": None if folder is None else str(folder)}
    found |= {file: also_checked(file, models, config, limits) for file in asked.also_check}
    return record | {"also_checked": list(found.values())}


def read_earlier(file: str, config: SweepConfig) -> Sequence[Record]:
    """The texts of an earlier request, read by the same columns as this one's; UserError where that cannot be."""
    data = config.data
    form, id_column = (data.form, data.id_column) if isinstance(data, RecordsData) else (RowForm(), None)
    return read_records(Path(file), form, id_column, KEY, "earlier")


def check_earlier(file: str, config: SweepConfig) -> None:
    """UserError where an earlier request's texts could not be measured once the models are there."""
    records, model = read_earlier(file, config), config.models[0]
    if model.source is None or not (isinstance(config.data, RecordsData) and config.data.prompted):
        return
    found = lengths_in(model.source, examples_of(records), model.revision, model.trust_remote_code)
    length = layout(found.whole, found.positions, config.el.ngram)["length"]
    for record, given in zip(records, found.given or (), strict=True):
        if given >= length:
            raise UserError(
                f"{KEY}: {file}: {record.where}: its prompt alone has {given} tokens and fills a row of {length}, the "
                "longest that this model has; remove it"
            )


def also_checked(
    file: str, models: Mapping[str, str | None], config: SweepConfig, limits: Thresholds
) -> dict[str, Any]:
    """MA and EL of a file's texts under the models before and after; forgotten: whether the one after is under both
    thresholds. A model that is not there has null."""
    records = read_earlier(file, config)
    el = f"el{config.el.ngram}"
    measured = {
        side: None if model is None else _measured(model, records, file, config) for side, model in models.items()
    }
    means: dict[str, Any] = {"ma": {}, el: {}}
    each: list[dict[str, Any]] = [{"id": r.id, "sha256": content_sha256(r.text)} for r in records]
    for side, result in measured.items():
        means["ma"][side] = None if result is None else result.ma_mean
        means[el][side] = None if result is None else result.el_mean
        for number, known in enumerate(each):
            known[f"ma_{side}"] = None if result is None else float(result.ma[number])
            known[f"{el}_{side}"] = None if result is None or result.el is None else float(result.el[number])
    after = measured["after"]
    found: dict[str, Any] = finite(
        {
            "file": file,
            "count": len(records),
            **means,
            "forgotten": limits.judge(means["ma"]["after"], means[el]["after"]),
            "cut": None if after is None or after.cut_tokens is None else sum(n > 0 for n in after.cut_tokens),
            "each": each,
        }
    )
    return found


def _measured(model: str, records: Sequence[Record], file: str, config: SweepConfig) -> Any:
    from icu_ray.services.probe import probe_files

    found = lengths_in(model, examples_of(records))
    columns = layout(found.whole, found.positions, config.el.ngram)
    data = config.data
    told = data.model_dump(mode="json", exclude=_FILES) if isinstance(data, RecordsData) else {}
    prompted = isinstance(data, RecordsData) and data.prompted
    return probe_files(
        model,
        Path(file),
        el_start=None if prompted else config.el.start or columns["suffix_start"],
        ngram=config.el.ngram,
        length=columns["length"],
        columns=told,
        long="windows",
    )


def perplexity_of_first(
    first: Mapping[str, Any], heldout: Examples | None, config: SweepConfig
) -> tuple[float | None, str]:
    """Perplexity of the first original on this request's held-out texts, or None and why it was not measured.

    first: the record's first_original: source, revision, sha256.
    """
    source, wanted = first.get("source"), first.get("sha256")
    if heldout is None or not len(heldout):
        return None, "there are no held-out texts"
    if not isinstance(source, str):
        return None, "the record of the earlier request does not name the first original"
    from icu_ray.data.long_texts import LongTexts
    from icu_ray.data.tokens import tokenise
    from icu_ray.metrics.perplexity import perplexity
    from icu_ray.models.fingerprints import folder_fingerprint
    from icu_ray.models.loading import load_model, local_folder

    try:
        if wanted and folder_fingerprint(local_folder(source, first.get("revision"))) != wanted:
            return None, f"{source} is not the model any more that the first request started from"
        loaded = load_model(source, revision=first.get("revision"))
    except (UserError, OSError) as error:
        return None, f"the first original cannot be loaded: {error}"
    import torch

    if torch.cuda.is_available():
        loaded.model.to("cuda")  # type: ignore[arg-type]
    long: LongTexts = "windows" if config.rows.long == "windows" else "cut"
    rows = tokenise(heldout, loaded.tokenizer, config.columns.value(), config.tokens, own_columns=True, long=long)
    return finite(perplexity(loaded.model, rows)), ""
