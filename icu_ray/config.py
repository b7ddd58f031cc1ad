"""The schema of a sweep's YAML: every key, its default, its bounds, and what is said when it is wrong.

A config is read by `load_config(path, overrides)`: YAML (safe), `base:` files merged below it, `key=value` overrides
on top, the fidelity preset filling what was not set, then strict validation into frozen values. Whatever is wrong
raises `UserError` naming file and key. Nothing here imports Ray or torch, so a plan is printed in a second.

    config = load_config(Path("tune_configs/quickstart.yaml"), ["optim.lr=1e-4"])

The choices of `fidelity` are those where the paper and the authors' code differ (docs: "paper, code, default").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from icu_ray.data.examples import Columns
from icu_ray.errors import UserError, did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StandinConfig(Section):
    """A small GPT-Neo that is trained here until it has memorised the forget samples."""

    size: Literal["small", "medium", "large"] = "small"
    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 2048
    max_epochs: Count = 40
    learning_rate: Positive = 2e-3
    batch_size: Count = 16
    target_repeats: Count = 4
    """How often each forget row stands in one epoch of the training corpus, as duplicated text does on the web."""
    min_memorization: Fraction = 0.9
    """Training goes on until MA on every forget sample reaches this (and EL10 reaches min_extraction)."""
    min_extraction: Fraction = 0.5
    seed: int = 0


class ModelConfig(Section):
    """One causal LM of the grid: a hub id, a local folder, or a stand-in built here."""

    name: Name
    source: str | None = None
    """Hub id or local folder."""
    standin: StandinConfig | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    workers: Count = 1
    gpus_per_worker: Annotated[int, Field(ge=0)] | None = None
    """Default: 0 for stand-ins, 1 otherwise. Never part of a trial's identity."""
    cpus_per_worker: Count = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    offload_optimizer: bool = False
    micro_batch: Count | None = None
    """Samples per forward of one worker; default: the global batch divided by the workers."""
    batch_size: Count | None = None
    """Global batch; default train.batch_size."""
    lr: Positive | None = None
    """Default optim.lr."""
    max_epochs: Count | None = None
    """Default stop.max_epochs."""
    minutes_per_epoch: Positive | None = None
    """Measured minutes of one epoch (training and probe) on this model's workers, for the plan's estimate."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if (self.source is None) == (self.standin is None):
            raise ValueError("give exactly one of 'source' (hub id or folder) and 'standin'")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return 0 if self.standin is not None else 1


class ColumnsConfig(Section):
    """Layout of a row in tokens (section V-B: 100 pre-prefix, 50 prefix, 50 suffix)."""

    length: Annotated[int, Field(ge=4, le=4096)] = 200
    prefix_start: Annotated[int, Field(ge=0)] = 100
    suffix_start: Annotated[int, Field(ge=1)] = 150

    @model_validator(mode="after")
    def _ordered(self) -> ColumnsConfig:
        if not self.prefix_start < self.suffix_start < self.length:
            raise ValueError("must satisfy prefix_start < suffix_start < length")
        return self

    def value(self) -> Columns:
        """The plain value the other rooms use."""
        return Columns(self.length, self.prefix_start, self.suffix_start)


class SyntheticData(Section):
    """Seeded private-looking records made with Faker: needs no download."""

    source: Literal["synthetic"]
    records: Annotated[int, Field(ge=8, le=1_000_000)] = 384
    """Rows of the whole corpus; the forget samples are drawn from it, the rest is the pool."""
    sample_size: Count = 32
    heldout: Count = 64
    """Further rows that no stand-in ever sees, for held-out perplexity."""
    seed: int = 0


class ExtractionData(Section):
    """The LM extraction benchmark: (15000, 200) GPT-2 token rows of the Pile."""

    source: Literal["extraction"]
    folder: str = "data/lm_extraction"
    tokens: str = "train_dataset.npy"
    sample_file: str = "lm_extraction_128_{sample}.csv"
    """The paper's forget samples; rows in ascending doc_id, whatever the file's order."""
    tokenizer: str = "openai-community/gpt2"
    """Hub id or folder of the GPT-2 tokenizer that wrote the rows."""
    draw: Count | None = None
    """When set, each sample is this many rows drawn with the sample number as seed, and no CSV is read."""
    limit: Count | None = None
    """Use only this many rows of the paper's forget sample (the first by doc_id)."""
    pool_rows: Count | None = None
    """Use only this many rows outside the samples (the first by doc_id), for small machines."""
    heldout: Annotated[int, Field(ge=0)] = 0
    """Rows kept out of the pool and of stand-in training (the last by doc_id), for held-out perplexity."""
    corpora: tuple[str, ...] | None = None


class RecordsData(Section):
    """A user's own texts: .jsonl, .csv or .parquet with a text column."""

    source: Literal["records"]
    forget: str
    """File of the texts to forget; may contain {sample}."""
    pool: str | None = None
    """File of the remaining texts, from which pairs are taken; may be left out for methods without pairs."""
    heldout: str | None = None
    text_column: str = "text"
    id_column: str | None = None


Data = Annotated[SyntheticData | ExtractionData | RecordsData, Field(discriminator="source")]


class MethodConfig(Section):
    """One method and its cells: every alpha with every beta, or the listed [alpha, beta] cells."""

    name: Name = "icu"
    label: Name | None = None
    """Shown in tables in place of the name, for example 'gradient-ascent'."""
    alpha: Weight | tuple[Weight, ...] = 0.5
    beta: Weight | tuple[Weight, ...] = 1.0
    cells: tuple[tuple[Weight, Weight], ...] | None = None
    settings: dict[str, float | int | str | bool] = {}
    """What this method alone understands, for example {"beta_dpo": 0.1}."""

    def grid(self) -> tuple[tuple[float, float], ...]:
        """The (alpha, beta) cells in their written order."""
        if self.cells is not None:
            return self.cells
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        betas = self.beta if isinstance(self.beta, tuple) else (self.beta,)
        return tuple((a, b) for a in alphas for b in betas)


class TokensConfig(Section):
    """How source rows become rows of a model's vocabulary (spec: re-tokenisation)."""

    retokenize: Literal["auto", "always"] = "auto"
    cleanup: bool = False
    alignment: Literal["fixed", "reference"] = "fixed"
    columns_of: Literal["auto", "source", "model"] = "auto"
    """Whose tokens the columns count: the source's (GPT-2), or the model's own; auto: the model's own for stand-ins."""


class PairsConfig(Section):
    """Analogous data (section IV-B2, V-D): the nearest neighbour of each target in the pool."""

    pool: Literal["remaining"] = "remaining"
    metric: Literal["cosine"] = "cosine"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id, folder, or 'bundled' for the copy of all-MiniLM-L6-v2 that is installed as a package."""
    max_ngram_overlap: Fraction | None = None
    """Refuse neighbours sharing more than this fraction of the target's 10-grams (None: keep all, as the authors)."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 10
    shards: Count | None = None
    actors: Count = 1
    batch_size: Count = 64


class LossConfig(Section):
    """Which tokens are scored and how they are averaged (equations 1, 3, 4)."""

    span: Literal["all", "prefix_suffix", "suffix"] = "all"
    reduction: Literal["token_mean", "sum", "seq_mean"] = "token_mean"
    kl: Literal["kl", "reference_ce"] = "kl"
    kl_positions: Literal["all", "span"] = "all"
    chunk: Count = 2048
    """Tokens whose vocabulary-wide scores exist at one time."""
    joint_forward: bool = True
    """Targets and pairs go through the model together; two forwards give the same numbers."""


class KlConfig(Section):
    """How the original model enters equation (4)."""

    cache: Literal["hidden", "probs", "recompute"] = "hidden"


class OptimConfig(Section):
    """Adam as in the authors' code: no weight decay, no schedule, no clipping."""

    lr: Positive = 5e-6
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: Positive = 1e-8


class TrainConfig(Section):
    """How samples become batches."""

    batch_size: Count = 8
    empty_batch: Literal["skip", "momentum"] = "skip"
    batching: Literal["slots", "repack"] = "slots"


class FilterConfig(Section):
    """Iterative unlearning refinement (section IV-D): which samples count as forgotten."""

    rule: Literal["or", "and"] = "or"
    sticky: bool = False
    at_start: bool = True
    prompt: Literal["prefix", "full"] = "prefix"
    bertscore: Fraction = 0.3
    bleu: Fraction = 0.01
    encoder: str = "google-bert/bert-base-uncased"
    """BERT encoder of BERTScore: hub id, folder, or 'bundled'."""
    encoder_layer: Count | None = 9
    beams: Count = 2
    strip_special: bool = True
    batch_size: Count = 128


class GenerateConfig(Section):
    """Whether generation is told which tokens are padding."""

    mask: bool = True


class ElConfig(Section):
    """Extraction likelihood."""

    ngram: Count = 10
    start: Annotated[int, Field(ge=1)] | None = None
    """First prefix length; default: the suffix's start (150), the authors' choice; 1 is Jang et al.'s."""
    denominator: Literal["label", "generation"] = "label"
    batch_cut: int | None = None
    """Reproduce generate()'s whole-batch end-of-text cut for batches of this size (the authors': 8)."""


class EvalConfig(Section):
    """How the probe runs."""

    span: Literal["all", "prefix_suffix"] = "all"
    chunk: Count = 64
    """Sequences whose key/value rows are held at one time."""
    el: Literal["always", "decision"] = "always"
    """'decision': EL is decoded only where it can change the stopping decision, and at the end."""


class StopConfig(Section):
    """When a trial ends (sections IV-D, V-D)."""

    rule: Literal["and", "or"] = "and"
    ma: Fraction = 0.5994
    el: Fraction = 0.0499
    on_empty: bool = True
    max_epochs: Count = 50


class TrackingConfig(Section):
    """MLflow; the server's address comes from MLFLOW_TRACKING_URI when that is set."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


class ResourcesConfig(Section):
    """What the sweep may use of the cluster; no part of any trial's identity."""

    max_workers: Count | None = None
    """Training workers of all running trials together; default: what the cluster has."""
    max_concurrent: Count | None = None
    retries: Annotated[int, Field(ge=0)] = 2
    """Times a trial is continued from its checkpoint after a failure of a worker or node."""
    keep_models: bool = True


FIDELITY_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "reference": {
        "loss": {"span": "all", "reduction": "token_mean", "kl": "reference_ce", "kl_positions": "all"},
        "tokens": {"retokenize": "always", "cleanup": False, "alignment": "reference"},
        "filter": {"rule": "or", "sticky": False, "at_start": True, "prompt": "prefix", "strip_special": False},
        "generate": {"mask": False},
        "el": {"denominator": "label", "batch_cut": 8},
        "train": {"empty_batch": "momentum", "batching": "slots"},
        "stop": {"rule": "and", "on_empty": True},
    },
    "paper": {
        "loss": {"span": "prefix_suffix", "reduction": "sum", "kl": "kl", "kl_positions": "span"},
        "filter": {"rule": "and", "sticky": True, "at_start": False, "prompt": "prefix", "strip_special": True},
        "eval": {"span": "prefix_suffix"},
        "el": {"denominator": "generation"},
        "train": {"empty_batch": "skip", "batching": "repack"},
        "stop": {"rule": "and", "on_empty": True},
    },
}


class SweepConfig(Section):
    """A whole sweep: models x samples x methods' cells, and how each trial is run and judged."""

    name: Name
    storage: str = "./runs"
    fidelity: Literal["default", "reference", "paper"] = "default"
    seed: int = 42
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    data: Data
    samples: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    columns: ColumnsConfig = ColumnsConfig()
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (MethodConfig(),)
    tokens: TokensConfig = TokensConfig()
    pairs: PairsConfig = PairsConfig()
    loss: LossConfig = LossConfig()
    kl: KlConfig = KlConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    filter: FilterConfig = FilterConfig()
    generate: GenerateConfig = GenerateConfig()
    el: ElConfig = ElConfig()
    eval: EvalConfig = EvalConfig()
    stop: StopConfig = StopConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        for what, values in (("models", [m.name for m in self.models]), ("samples", list(self.samples))):
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{what}: {', '.join(twice)} stands there twice")
        if self.el.start is not None and self.el.start + self.el.ngram > self.columns.length:
            raise ValueError(
                f"el.start={self.el.start} leaves no {self.el.ngram}-gram before column {self.columns.length}"
            )
        suffix_length = self.columns.length - self.columns.suffix_start
        if suffix_length < self.el.ngram:
            raise ValueError(f"el.ngram={self.el.ngram} does not fit a suffix of {suffix_length} tokens")
        for model in self.models:
            batch = model.batch_size or self.train.batch_size
            if batch % model.workers:
                raise ValueError(f"model {model.name}: global batch {batch} is not a multiple of {model.workers} workers")
            micro = model.micro_batch
            if micro is not None and (batch // model.workers) % micro:
                raise ValueError(
                    f"model {model.name}: micro_batch {micro} does not divide {batch // model.workers} samples per worker"
                )
        return self


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 5e-6 as a number and refuses a key given twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = str(key_node.value)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; UserError with line and column when it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with its `base:` files merged below it (deeply; lists are replaced)."""
    return _read_with_base(path, ())


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: 'base' leads back to a file already read: {' -> '.join(map(str, seen))}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"config {path}: no such file{did_you_mean(str(path), known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read: {error}") from error
    value = parse_yaml(text, f"config {path}")
    if not isinstance(value, dict):
        raise UserError(f"config {path}: expected a mapping of keys, found {type(value).__name__}")
    base = value.pop("base", None)
    if base is None:
        return value
    if not isinstance(base, str):
        raise UserError(f"config {path}: base: expected a file name, found {base!r}")
    return merge(_read_with_base(path.parent / base, (*seen, path.resolve())), value)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings merge, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def apply_override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """`tree` with one dotted 'key=value' set (the value read as YAML; list items by number: models.0.workers=2)."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}': expected key=value, for example optim.lr=1e-5")
    value = parse_yaml(text, f"override '{override}'")
    return _set(tree, key.split("."), value, override)


def _set(node: Any, keys: Sequence[str], value: Any, override: str) -> Any:
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise UserError(f"override '{override}': expected an item number below {len(node)}, found '{head}'")
        items = list(node)
        items[int(head)] = _set(items[int(head)], rest, value, override)
        return items
    if node is not None and not isinstance(node, Mapping):
        raise UserError(f"override '{override}': '{head}' is below a plain value, not a section")
    tree = dict(node or {})
    tree[head] = _set(tree.get(head), rest, value, override)
    return tree


def load_config(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read, merge, override, fill by fidelity preset and validate; UserError on anything wrong."""
    tree = read_yaml(path)
    for override in overrides:
        tree = apply_override(tree, override)
    return resolve_config(tree, f"config {path}")


def resolve_config(tree: Mapping[str, Any], where: str) -> SweepConfig:
    """Validate a plain tree after putting the fidelity preset below it."""
    fidelity = tree.get("fidelity", "default")
    preset = FIDELITY_PRESETS.get(fidelity, {}) if isinstance(fidelity, str) else {}
    try:
        # JSON mode keeps strictness (no "3" for 3) and still turns lists into tuples.
        text = json.dumps(merge(preset, tree), allow_nan=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: holds a value that is no number, text, list or mapping: {error}") from error
    try:
        return SweepConfig.model_validate_json(text)
    except ValidationError as error:
        raise UserError(_explain(error, where)) from error


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors(include_url=False):
        location = [part for part in item["loc"] if part not in ("synthetic", "extraction", "records")]
        key = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            lines.append(f"{where}: {key}: unknown key{did_you_mean(str(location[-1]), known)}; known: {', '.join(known)}")
            continue
        found = item.get("input")
        shown = "" if item["type"] in ("missing", "value_error") else f", found {_brief(found)}"
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {key + ': ' if key else ''}{message}{shown}")
    return "\n".join(dict.fromkeys(lines))


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at `location`, found by walking the schema's annotations."""
    current: list[Any] = [SweepConfig]
    for part in location:
        if isinstance(part, int):
            continue
        following: list[Any] = []
        for model in current:
            if part in model.model_fields:
                following += _sections(model.model_fields[part].annotation)
            elif "source" in model.model_fields:
                following.append(model)
        tagged = [m for m in current if _tag(m) == part]
        current = tagged or following or current
    return sorted({name for model in current for name in model.model_fields})


def _sections(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _sections(argument)]


def _tag(model: Any) -> str | None:
    field = model.model_fields.get("source")
    arguments = getattr(field.annotation, "__args__", ()) if field is not None else ()
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], str) else None
