"""What a worker holds of a model in training and while it is measured: bytes by part, reckoned before anything starts.

    need = memory_of(shape, Use(workers=8, stage=3, precision="bf16", micro_batch=1, length=256))
    need.training, need.measuring         # bytes
    fitting(shape, use, 24e9)             # the first ZeRO stage and the largest micro batch that fit

Weights, gradients, Adam's state and activations are counted as DeepSpeed 0.19 and transformers keep them
(tests/training/test_memory.py compares them with what is really held; docs/how-to/cluster.md says how near that is).
Left out: CUDA's context, what its allocator leaves unused, and the encoder of BERTScore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from icu_ray.plan.model_shapes import ModelShape

BUCKET, LIVE = 500_000_000, 1_000_000_000
"""Numbers of the buffer in which ZeRO collects gradients, if the model has as many, and of the weights that stage 3
keeps gathered: DeepSpeed's defaults (reduce_bucket_size, stage3_max_live_parameters)."""
LOGITS_AT_ONCE, CACHE_BYTES, ON_CPU = 64 * 1024**2, 2 * 1024**3, 1024
"""Bounds of the probe: numbers of scores, bytes of open continuations, tokens and continuations on a CPU
(metrics/kv_cache.py, greedy_decoding.py)."""
USABLE = 0.9
"""Of a GPU's memory: the rest is for CUDA's context and what the allocator leaves unused."""
_SCORES = 12
"""Bytes of each score that is read at once: as the model gives it, its slice, its log-softmax in float32."""


@dataclass(frozen=True)
class Use:
    """How a model is trained and measured.

    batch: targets of a step; micro_batch: of one forward of one worker; sides: rows that are read for each of them
    (itself, its pair, a second answer). length: tokens of a row, the last `suffix` of which the model is asked for.
    trainable: parameters that are trained, None: all. cache: what is kept of the original model. beside: distributions
    that a token's loss needs beside the model's; None: one where anything is kept of the original. matrices: gradients
    of the output matrix that are there at one time. chunk: tokens whose scores exist at one time. rows: targets that
    one worker measures, `chunk_measured` at a time; prompts: asked at one time for what the model says, of `prompt`
    tokens, with `beams` beams. kept: float32 copies of what is trained that a step rule holds. began: whether the
    weights before training are kept, and those that are trained are put aside where the model is measured. train: False
    where nothing is trained.
    """

    workers: int = 1
    stage: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int = 8
    micro_batch: int = 1
    length: int = 200
    suffix: int = 50
    sides: int = 2
    checkpointing: bool = False
    trainable: int | None = None
    offload: bool = False
    gpu: bool = True
    cache: Literal["hidden", "probs", "recompute", "none"] = "hidden"
    beside: int | None = None
    matrices: int = 1
    chunk: int = 256
    rows: int = 128
    chunk_measured: int = 64
    prompt: int = 50
    prompts: int = 128
    beams: int = 2
    kept: int = 0
    began: bool = False
    train: bool = True

    @property
    def accumulates(self) -> bool:
        """Whether a step takes several micro batches, so that gradients are there while the next one goes forward."""
        return self.micro_batch * self.workers < self.batch


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker.

    master: float32 copies of bf16 weights (and ZeRO's own of float32 ones). reference: what a batch takes of the
    original model. buffers: of ZeRO, with the weights that stage 3 has gathered. vocabulary: scores of a chunk and the
    output matrix's gradient. backward, step: the most of them that are there at one time when a backward pass begins,
    and when Adam steps; gradients take the place of activations. measured: what measuring takes beside the weights,
    Adam's state and the reference: weights that stage 3 gathers, cached keys and values, scores. main: in main memory
    by offload_optimizer.
    """

    weights: float
    moments: float = 0
    master: float = 0
    reference: float = 0
    gradients: float = 0
    activations: float = 0
    vocabulary: float = 0
    buffers: float = 0
    backward: float = 0
    step: float = 0
    measured: float = 0
    main: float = 0

    @property
    def always(self) -> float:
        """What stays from the first step to the last."""
        return self.weights + self.moments + self.master + self.reference

    @property
    def training(self) -> float:
        """The most of a training step."""
        return self.always + max(self.backward, self.step)

    @property
    def measuring(self) -> float:
        """The most while the model is measured, between epochs."""
        return self.always + self.measured

    @property
    def total(self) -> float:
        """The most of both."""
        return max(self.training, self.measuring)


def memory_of(shape: ModelShape, use: Use) -> Memory:
    """What one worker of this use needs."""
    size = 4 if use.precision == "fp32" else 2
    weights = shape.parameters * size / (use.workers if use.stage == 3 else 1) + shape.masks
    measured = _measured(shape, use, size)
    if not use.train:
        return Memory(weights, measured=measured)
    trained = shape.parameters if use.trainable is None else use.trainable
    own = trained / (use.workers if use.stage else 1)  # what this worker's Adam steps
    began = size * trained if use.began else 0
    moments, master = 8 * own, 4 * own if use.stage or size == 2 else 0
    gradients = size * (own if use.stage >= 2 else trained)
    bucket = size * min(BUCKET, trained) if use.stage else 0
    copies = 4 * trained * use.kept
    gathered = size * min(shape.parameters, LIVE + shape.layer) if use.stage == 3 else 0
    offloaded = use.offload and use.gpu and use.stage > 0
    main = moments + master + 4 * own if offloaded else 0
    if offloaded:
        moments, master, gradients = 0, 0, size * trained if use.stage == 1 else 0
    activations = activations_of(shape, use)
    vocabulary = _vocabulary(shape, use, size, whole=trained == shape.parameters)
    if offloaded:
        step = gradients
    elif use.stage == 0:
        # float32 copies of bf16 gradients, or a flat copy that is averaged with the other workers'.
        step = gradients + max(4 * own if size == 2 else 0, size * min(BUCKET, trained) if use.workers > 1 else 0)
    else:
        # Its share of the gradients, flat and in float32, beside what it is copied from; stage 3 keeps its buffers.
        step = max(gradients, 8 * own) if use.stage < 3 else gradients + bucket + 4 * own
    held = gradients if use.accumulates or use.stage == 3 else 0
    stays = gradients + bucket if use.stage == 3 else 0
    return Memory(
        weights=weights + began,
        moments=moments,
        master=master,
        reference=_reference(shape, use, size),
        gradients=gradients,
        activations=activations,
        vocabulary=vocabulary,
        buffers=bucket + gathered + copies,
        backward=max(held + activations + vocabulary, gradients) + bucket + gathered + copies,
        step=step + copies,
        measured=measured + stays + began,
        main=main,
    )


def fitting(shape: ModelShape, use: Use, room: float) -> Use | None:
    """The use that fits into `room` bytes a worker: the lowest ZeRO stage, at it the largest micro batch, halved as
    often as it must be, and less measured at one time; with more workers where no stage does it. None: not even then.
    """
    workers = use.workers
    while workers == use.workers or (workers <= use.batch and use.batch % workers == 0):
        for stage in range(4) if workers > 1 else (use.stage,):
            micro = min(use.micro_batch, -(-use.batch // workers))
            while micro:
                tried = replace(use, workers=workers, stage=stage, micro_batch=micro)
                if (found := _measured_less(shape, tried, room)) is not None:
                    return found
                micro //= 2
        workers *= 2
    return None


def _measured_less(shape: ModelShape, use: Use, room: float) -> Use | None:
    """The use with `chunk_measured` and `prompts` halved until it fits; None: it does not."""
    while (need := memory_of(shape, use)).total > room:
        if need.training > room or max(use.chunk_measured, use.prompts) == 1:
            return None
        rows, prompts = max(1, use.chunk_measured // 2), max(1, use.prompts // 2)
        use = replace(use, chunk_measured=rows, prompts=prompts)
    return use


@dataclass(frozen=True)
class _Kept:
    """Bytes that a layer keeps of one token for the backward pass, in (fp32, bf16), by what they grow with.

    hidden, mlp: of the widths. queries, keys: of the heads times their width. scores: of heads times the row's length,
    where probabilities of attention are kept (eager). mask: of the row's length (sdpa keeps a mask of a batch with
    pads). expert: of the width, for each expert that a token passes. last: of the width, once, by the last norm.
    """

    hidden: tuple[int, int]
    mlp: tuple[int, int]
    queries: tuple[int, int] = (0, 0)
    keys: tuple[int, int] = (0, 0)
    scores: tuple[int, int] = (0, 0)
    mask: tuple[int, int] = (0, 0)
    expert: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (4, 2)


_PLAIN, _GATED, _SDPA, _EAGER = (8, 4), (16, 8), (4, 2), (4, 6)
_RMS, _RMS_32 = (8, 6), (8, 8)
_LLAMA = _Kept((24, 16), _GATED, (16, 8), mask=_SDPA, last=_RMS)
KEPT: Mapping[str, _Kept] = {
    "gpt2": _Kept((32, 16), _PLAIN, mask=_SDPA),
    "gptj": _Kept((24, 16), _PLAIN, scores=_EAGER),
    "gpt_neo": _Kept((32, 20), _PLAIN, scores=_EAGER),
    "gpt_neox": _Kept((40, 20), _PLAIN, mask=_SDPA),
    "opt": _Kept((32, 16), (4, 2), mask=_SDPA),
    "bloom": _Kept((32, 16), _PLAIN, scores=_EAGER, last=(8, 4)),
    "falcon": _Kept((24, 18), _PLAIN, scores=(4, 4)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _Kept((24, 16), _GATED, (24, 14), (8, 6), mask=_SDPA, last=_RMS),
    "gemma": _Kept((24, 20), _GATED, (16, 8), mask=_SDPA, last=_RMS_32),
    "gemma2": _Kept((40, 36), _GATED, (16, 8), scores=(8, 8), last=_RMS_32),
    "gemma3_text": _Kept((40, 36), _GATED, (24, 16), (8, 8), mask=_SDPA, last=_RMS_32),
    "phi3": _Kept((28, 18), _GATED, (16, 8), mask=_SDPA, last=_RMS),
    "olmo2": _Kept((24, 20), _GATED, (24, 16), (8, 8), mask=_SDPA, last=_RMS_32),
    "mixtral": _Kept((24, 16), _GATED, (16, 8), mask=_SDPA, expert=(8, 4), last=_RMS),
}
"""Counted from what torch saves in transformers 5.23 with torch's own attention (sdpa), or without where a family has
no other: GPT-Neo, GPT-J, Bloom, and Gemma 2 for its capped scores."""


def activations_of(shape: ModelShape, use: Use) -> float:
    """Bytes kept for the backward pass of one micro batch; targets and pairs go through the model together."""
    which, size = (0, 4) if use.precision == "fp32" else (1, 2)
    kept = KEPT[shape.family]
    # Logarithms of attention's sums, the norms' factors, and which experts were chosen.
    small = 4 * shape.heads + 8 + (50 * shape.experts if shape.experts > 1 else 0)
    layer = (
        kept.hidden[which] * shape.hidden
        + (kept.mlp[which] * shape.mlp + kept.expert[which] * shape.hidden) * shape.experts
        + kept.queries[which] * shape.queries
        + kept.keys[which] * shape.keys
        + kept.scores[which] * shape.heads * use.length
        + kept.mask[which] * use.length
        + small
    )
    if shape.family == "phi3" and shape.keys == shape.queries:
        layer += 2 * size * shape.queries  # values are a view of queries, keys and values in one
    layers = shape.layers * size * shape.hidden + layer if use.checkpointing else shape.layers * layer
    return _tokens(use) * (layers + kept.last[which] * shape.hidden)


def _tokens(use: Use) -> int:
    """Of one micro batch."""
    return use.micro_batch * use.sides * use.length


def _vocabulary(shape: ModelShape, use: Use, size: int, whole: bool) -> float:
    """Blocks of scores in float32 (methods/vocabulary_loss.py), the scored states with their gradient, and the output
    matrix's gradient if it is trained."""
    tokens = min(use.chunk, use.micro_batch * use.length)
    blocks = 2 + (use.cache != "none" if use.beside is None else use.beside)
    # In float32 while it is made, then in the precision of the weights.
    gradient = shape.head * (4 + (2 if size == 2 else 0) + size * (use.matrices - 1)) if whole else 0
    return blocks * tokens * shape.vocabulary * 4 + 2 * size * _tokens(use) * shape.hidden + gradient


def _reference(shape: ModelShape, use: Use, size: int) -> float:
    """The rows of a micro batch, moved to the device, and what stays there: the frozen output matrix or model."""
    tokens = use.micro_batch * use.length
    if use.cache == "hidden":
        return size * (shape.head + tokens * shape.hidden)
    if use.cache == "probs":
        return 4 * tokens * shape.vocabulary
    if use.cache == "recompute":
        # Stage 3 divides it too, but for the output matrix.
        return size * (shape.parameters / use.workers + shape.head if use.stage == 3 else shape.parameters)
    return 0


def _measured(shape: ModelShape, use: Use, size: int) -> float:
    """Gathered weights, the larger of the caches of probe and beams, and the scores that are read at once."""
    column = 2 * size * shape.keys * shape.layers
    rows = min(use.rows, use.chunk_measured)
    continued = rows * use.suffix * (1 if use.gpu else ON_CPU / max(ON_CPU, rows * use.suffix))
    probe = column * rows * use.length + min(CACHE_BYTES, column * continued * use.suffix)
    asked = min(use.rows, use.prompts)
    beams = column * asked * (use.prompt + use.suffix + use.beams * use.suffix)
    beams += _SCORES * asked * use.beams * shape.vocabulary
    most = LOGITS_AT_ONCE if use.gpu else min(LOGITS_AT_ONCE, ON_CPU * shape.vocabulary)
    scores = min(max(most, use.length * shape.vocabulary), rows * use.length * shape.vocabulary)
    whole = size * shape.parameters if use.stage == 3 else 0
    return whole + max(probe + _SCORES * scores, beams)
