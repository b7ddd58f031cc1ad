"""A whole sweep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from icu_ray.config.auditing import AuditConfig
from icu_ray.config.benchmarks import Data
from icu_ray.config.cluster import ResourcesConfig, TrackingConfig
from icu_ray.config.data import BenchmarkData, ColumnsConfig, RecordsData, RowsConfig, SyntheticData
from icu_ray.config.measuring import ElConfig, EvalConfig, EvaluationConfig, FilterConfig, GenerateConfig, StopConfig
from icu_ray.config.methods import MethodConfig, SearchConfig
from icu_ray.config.models import ModelConfig
from icu_ray.config.section import Name, Place, Section, Seed
from icu_ray.config.training import (
    AnswersConfig,
    KlConfig,
    LossConfig,
    OptimConfig,
    PairsConfig,
    TokensConfig,
    TrainConfig,
)

_OF_THE_STORAGE = ("store", "mlflow.db", "mlflow.db-journal", "mlflow.db-wal", "mlflow.db-shm", "mlflow_artifacts")
"""What lies in a storage beside the sweeps' folders."""


class SweepConfig(Section):
    """A whole sweep: models x samples x methods' cells, and how each trial is run and judged."""

    name: Name
    """Name of the sweep, of its folder in the storage, and of its MLflow experiment."""
    storage: Place = "./runs"
    """Where everything is written: a folder, or a URL such as s3://bucket/runs."""
    fidelity: Literal["default", "reference", "paper"] = "default"
    """What to follow where the paper and its authors' code differ: the code (reference), the paper, or the code without
    its bugs (default). It sets several keys together; each can be set by itself too."""
    recipe: Literal["icu", "open_unlearning_tofu", "open_unlearning_muse", "rmu_wmdp", "simnpo_paper"] | None = None
    """Train as another paper or framework does: learning rate, epochs, batches, schedule, weight decay, pairs, no
    filter, and settings of methods. Each of these keys can still be set by itself. 'icu-ray explain recipe' says what
    each sets; with --config, and in a dry run, what a config has in its place. Default: ICU's."""
    seed: Seed = 42
    """Seed of what is random in a trial: the order of batches, dropout."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Several seeds in place of `seed`: each cell is run once with each. Default: only `seed`."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """The models of the grid."""
    data: Data
    """The texts: synthetic, the extraction benchmark, your own records, or a benchmark of the field (tofu, muse, wmdp,
    rwku)."""
    samples: Annotated[tuple[Annotated[int, Field(ge=0, le=10**9)], ...], Field(min_length=1)] = (0,)
    """Numbers of the forget samples; each is unlearned in its own trials."""
    columns: ColumnsConfig = ColumnsConfig()
    """Layout of a row in tokens."""
    rows: RowsConfig = RowsConfig()
    """What becomes of texts that are longer than a row."""
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (MethodConfig(),)
    """The methods of the grid with their (alpha, beta) cells."""
    tokens: TokensConfig = TokensConfig()
    """How rows become tokens of a model."""
    pairs: PairsConfig = PairsConfig()
    """How each target gets its pair, the text that goes with it in training."""
    answers: AnswersConfig = AnswersConfig()
    """Second answers to the targets' prompts."""
    loss: LossConfig = LossConfig()
    """What the losses count."""
    kl: KlConfig = KlConfig()
    """How the original model is kept for equation (4)."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    train: TrainConfig = TrainConfig()
    """Batches."""
    filter: FilterConfig = FilterConfig()
    """Iterative refinement: which targets are still to be unlearned."""
    generate: GenerateConfig = GenerateConfig()
    """Generation in filter and probe."""
    el: ElConfig = ElConfig()
    """Extraction likelihood."""
    eval: EvalConfig = EvalConfig()
    """The probe: MA, EL and held-out perplexity."""
    stop: StopConfig = StopConfig()
    """When a trial ends."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What the models can still do."""
    audit: AuditConfig = AuditConfig()
    """Whether what was unlearned is really gone."""
    search: SearchConfig | None = None
    """A search in place of the grid."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    resources: ResourcesConfig = ResourcesConfig()
    """Workers, retries, budget."""

    @field_validator("data", mode="after")
    @classmethod
    def _texts_of_benchmarks(cls, data: Data) -> Data:
        return data.as_records() if isinstance(data, BenchmarkData) else data

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """A resolved config spells every key out but the one that counts for nothing, and can be run again.

        A benchmark is written as its section, not as the files that it stands for.
        """
        tree: dict[str, Any] = write(self)
        if self.seeds is not None:
            tree.pop("seed", None)
        if "data" in tree and isinstance(self.data, RecordsData) and self.data.benchmark is not None:
            tree["data"] = self.data.benchmark.model_dump(mode=info.mode)
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if self.recipe not in (None, "icu") and self.fidelity != "default":
            raise ValueError(
                f"recipe: {self.recipe} is not ICU's way of training, whose details fidelity={self.fidelity} sets; "
                "give one of the two"
            )
        if self.name.casefold() in _OF_THE_STORAGE:  # some disks take STORE for the same folder
            raise ValueError(f"name: '{self.name}' is a name that the storage uses itself; choose another")
        if not self.storage.removeprefix("file://").strip():
            raise ValueError(f"storage: expected a folder, or a URL such as s3://bucket/runs, found '{self.storage}'")
        listed = {"models": [m.name for m in self.models], "samples": self.samples, "seeds": self.all_seeds}
        for what, values in ((what, [str(value) for value in values]) for what, values in listed.items()):
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{what}: listed twice: {', '.join(twice)}")
        if self.seeds is not None and "seed" in self.model_fields_set:
            raise ValueError(f"seed: {self.seed} would have no effect with seeds; give only one of the two")
        if self.el.start is not None and self.el.start + self.el.ngram > self.columns.length:
            raise ValueError(
                f"el.start={self.el.start} leaves no {self.el.ngram}-gram before column {self.columns.length}"
            )
        suffix_length = self.columns.length - self.columns.suffix_start
        if suffix_length < self.el.ngram:
            raise ValueError(f"el.ngram={self.el.ngram} does not fit a suffix of {suffix_length} tokens")
        if self.search is not None:
            self._check_search(self.search)
        self._check_heldout()
        self._check_pairs()
        if self.data.prompted:
            self._check_prompted()
        quick = [name for name in (*self.evaluation.suites, *self.evaluation.tasks) if name.startswith("quick")]
        if quick and not isinstance(self.data, SyntheticData):
            raise ValueError(f"evaluation: {quick[0]} asks about held-out records of data.source=synthetic")
        benchmark = isinstance(self.data, RecordsData) and self.data.benchmark is not None
        if "benchmark" in self.evaluation.suites and not benchmark:
            raise ValueError(
                "evaluation: suite benchmark asks what the benchmark of `data` asks; expected data.source tofu, muse, "
                f"wmdp or rwku, found {self.data.source}"
            )
        by = self.evaluation.conventions
        if by != "defined" and "benchmark" not in self.evaluation.suites:
            given = f"={by}" if isinstance(by, str) else ""
            raise ValueError(f"evaluation.conventions{given} is for suite benchmark, which is not asked for")
        if self.evaluation.membership and "benchmark" not in self.evaluation.suites:
            raise ValueError(
                f"evaluation.membership={','.join(self.evaluation.membership)} is for suite benchmark, which is not "
                "asked for"
            )
        if self.evaluation.paraphrased_questions and "benchmark" not in self.evaluation.suites:
            raise ValueError("evaluation.paraphrased_questions=true is for suite benchmark, which is not asked for")
        if quick and self.data.prompted:
            raise ValueError(f"evaluation: {quick[0]} asks about held-out records, and data.questions has none")
        if (
            self.answers.alternates == "generated"
            and isinstance(self.data, RecordsData)
            and self.data.alternates_column
        ):
            raise ValueError(
                f"answers.alternates=generated has the models invent what data.alternates_column="
                f"{self.data.alternates_column} gives; leave out one of them"
            )
        self._check_shares()
        for model in self.models:
            batch = model.batch_size or self.train.batch_size
            if batch % model.workers:
                raise ValueError(
                    f"model {model.name}: global batch {batch} is not a multiple of {model.workers} workers"
                )
            micro = model.micro_batch
            if micro is not None and (batch // model.workers) % micro:
                raise ValueError(
                    f"model {model.name}: micro_batch {micro} does not divide the {batch // model.workers} samples of "
                    "a worker"
                )
        return self

    def _check_shares(self) -> None:
        """Shares of a GPU beside whole ones, or beside others, would leave rests on GPUs where nothing else fits."""
        claims = {model.gpus: model.name for model in self.models if model.gpus}
        if len(claims) > 1 and min(claims) < 1:
            said = " and ".join(f"{name} with {gpus:g}" for gpus, name in sorted(claims.items())[:2])
            raise ValueError(
                f"models: where trials share a GPU, all models on GPUs need the same gpus_per_worker, found {said}"
            )

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of every cell's trials."""
        return (self.seed,) if self.seeds is None else self.seeds

    def epochs_of(self, model: ModelConfig, method: MethodConfig) -> int:
        """Epochs after which a trial of this method on this model ends: the method's own, the model's, the sweep's."""
        return method.stop.max_epochs or model.max_epochs or self.stop.max_epochs

    def most_epochs(self, model: ModelConfig) -> int:
        """The most that a trial of any method has on this model, for which what its trials draw is prepared."""
        own = [each for each in self.methods if each.models is None or model.name in each.models]
        return max((self.epochs_of(model, each) for each in own), default=model.max_epochs or self.stop.max_epochs)

    @property
    def chats(self) -> bool:
        """Whether rows are written by the models' own chat templates."""
        return isinstance(self.data, RecordsData) and self.data.form.template == "chat"

    def _check_prompted(self) -> None:
        """What rows of prompt and completion, or of chats, do not allow."""
        standins = [model.name for model in self.models if model.standin is not None]
        if self.rows.long == "windows" and standins:
            raise ValueError(
                f"rows.long: model {standins[0]} is a stand-in, which learns only as much of a long completion as a "
                "row holds; use cut or refuse, or a model"
            )
        if self.chats and standins:
            raise ValueError(
                f"data.template: model {standins[0]} is a stand-in, whose tokenizer has no chat template; use "
                "question-answer or plain for rows of prompt and completion, or a model with a chat template"
            )

    def _check_pairs(self) -> None:
        """Where pairs come from, and what an epoch runs over."""
        data, by = self.data, self.pairs.by
        if by == "given":
            if not isinstance(data, RecordsData):
                raise ValueError(f"pairs.by=given: needs data.source=records, found {data.source}; use pairs.by=file")
            if data.pool is None and data.pair_column is None:
                raise ValueError("pairs.by=given: give data.pair_column, or data.pool with a row for each to forget")
            if data.pair_column is None and data.heldout_rows:
                raise ValueError(
                    f"data.heldout_rows={data.heldout_rows} would take the pairs of the last targets away "
                    "(pairs.by=given); set it to 0 and give held-out texts in a file, data.heldout"
                )
        elif isinstance(data, RecordsData) and data.pair_column is not None:
            raise ValueError(f"data.pair_column: is for pairs.by=given, found pairs.by={by}")
        if self.train.anchor == "retain" and (by != "random" or self.pairs.resample == "never"):
            found = f"pairs.by={by}" if by != "random" else "pairs.resample=never"
            raise ValueError(
                f"train.anchor=retain draws a new target for each row of the pool: needs pairs.by=random with "
                f"pairs.resample=epoch, found {found}"
            )

    def _check_heldout(self) -> None:
        """What is asked about held-out texts needs some."""
        data = self.data
        given = data.heldout or (isinstance(data, RecordsData) and data.heldout_rows)
        limits = {f"stop.{key}": getattr(self.stop, key) for key in ("ma", "el")}
        for place, method in enumerate(self.methods):
            limits |= {f"methods.{place}.stop.{key}": getattr(method.stop, key) for key in ("ma", "el")}
        if self.stop.keep == "best" and self.eval.heldout != "epochs":
            raise ValueError("stop.keep=best compares what the epochs cost: set eval.heldout to 'epochs'")
        if self.stop.audited and (self.stop.keep == "best" or self.stop.rule == "epochs"):
            other = "keep=best" if self.stop.keep == "best" else "rule=epochs"
            why = "leaves an earlier epoch's model" if self.stop.keep == "best" else "never ends a trial as forgotten"
            raise ValueError(
                f"stop.audited makes a trial continue until its texts stay gone, but stop.{other} {why}; "
                "leave out one of them"
            )
        for key, value in limits.items():
            if value == "heldout" and not given:
                where = (
                    "data.heldout (a file) or data.heldout_rows" if isinstance(data, RecordsData) else "data.heldout"
                )
                raise ValueError(f"{key}=heldout: there are no held-out texts; give {where}, or a number from 0 to 1")

    def _check_search(self, search: SearchConfig) -> None:
        counts = {"models": len(self.models), "samples": len(self.samples), "methods": len(self.methods)}
        counts["seeds"] = len(self.all_seeds)
        for key, count in counts.items():
            if count != 1:
                raise ValueError(
                    f"search: needs exactly one of {key}, found {count}; search the others in their own sweeps"
                )
        method = self.methods[0]
        if method.cells is not None or isinstance(method.alpha, tuple) or isinstance(method.beta, tuple):
            raise ValueError("search: several cells of methods.0 would have no effect in a search; give one, or none")
        if not search.space:
            raise ValueError("search.space: give ranges of alpha, beta or lr")
        if search.stop_early and self.eval.heldout != "epochs":
            raise ValueError("search.stop_early compares trials at every epoch: set eval.heldout to 'epochs'")
