"""What is told of a section `audit` before anything starts: attacks that will measure nothing, a model that is none.

remarks = check_audit(config)
"""

from __future__ import annotations

from icu_ray.config import ModelConfig, RecordsData, SweepConfig, SyntheticData
from icu_ray.config.auditing import AuditConfig
from icu_ray.errors import UserError
from icu_ray.models.hub import folder_here, looks_local


def check_nli(audit: AuditConfig, asked: str) -> None:
    """UserError for an NLI model of this machine that is none. asked: the key or option that names it."""
    nli = audit.sample.nli
    if "sample" not in audit.names or nli is None or not looks_local(nli):
        return
    folder = folder_here(nli, None)
    if folder is None or not (folder / "config.json").is_file():
        raise UserError(
            f"{asked}: {nli}: no such model; expected a hub id, or a folder with config.json, weights and tokenizer of "
            "a model of natural language inference"
        )


def check_audit(config: SweepConfig) -> tuple[str, ...]:
    """UserError for an NLI model that cannot be used; a sentence for each attack that finds nothing to do."""
    audit = config.audit
    check_nli(audit, "audit.sample.nli")
    said = []
    without = [model.name for model in config.models if not model.retrained]
    if "depth" in audit.names and without:
        said.append(
            f"audit: depth compares with a retrained model, and there is none of {', '.join(without)} "
            "(models.N.retrained): it is not measured."
        )
    full = [model.name for model in config.models if model.lora is None]
    if "adapter_off" in audit.names and full:
        said.append(f"audit: adapter_off is for adapters, and there is none on {', '.join(full)}: it is not measured.")
    return tuple(said)


def no_controls(config: SweepConfig, model: ModelConfig) -> str | None:
    """Why a model has no control rows; None where it has held-out texts that it has never read.

    Rows that were set aside of what a model may have been trained on are none: it may say them because it knows them.
    """
    data = config.data
    given = data.heldout or (isinstance(data, RecordsData) and data.heldout_rows)
    if not given:
        return "no control rows: there are no held-out texts"
    if model.made_here or isinstance(data, SyntheticData) or (isinstance(data, RecordsData) and data.heldout):
        return None
    where = "data.heldout_rows" if isinstance(data, RecordsData) else "data.heldout"
    instead = "data.heldout, a file, takes texts that it has not" if isinstance(data, RecordsData) else "none are given"
    return f"no control rows: the model may have read the rows that {where} sets aside ({instead})"
