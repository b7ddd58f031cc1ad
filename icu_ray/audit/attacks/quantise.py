"""Does a text come back when the model's weights are rounded, as many do before they run a model?

    Quantise(kinds=("int8", "nf4")).run(Target(loaded, material))

Rounding can undo small changes, and unlearning changes weights little (Zhang et al., "Catastrophic failure of LLM
unlearning via quantization", arXiv 2410.16454). The weights of all linear layers but the output layer are rounded and
computed with as before; embeddings, and an output layer tied to them, stay. Activations stay too.

int8 (8 bits): in each output's row the nearest of 255 even steps from -absmax to absmax: bitsandbytes' LLM.int8 without
    what that does to activations and outliers.
nf4 (4 bits): in blocks of 64 weights, row after row, the nearest of 16 levels times the block's absmax (QLoRA, arXiv
    2305.14314, without its second quantisation, that of the absmax values).
bf16 (16 bits): the nearest bfloat16.
fp8 (8 bits): the nearest float8 e4m3, with each matrix's absmax brought to 448, the largest of them.

This is plain arithmetic and not a library, so that it runs without a GPU and is right on a CPU: NF4 codes of
bitsandbytes 0.50 are right there, but its de-quantiser returns other values for matrices than for the same weights in
one dimension.

Q = min(m before / m after, 1), m being the mean over forget rows of exp(-mean loss of the secret): 1 where rounding
brings nothing back ("OpenUnlearning", arXiv 2506.12618).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from icu_ray.audit.asking import asked_all, losses_of, mean_probability, missing_of
from icu_ray.audit.attack import Target
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.recite import cut_secrets
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Kind: TypeAlias = Literal["int8", "nf4", "bf16", "fp8"]
BITS: Mapping[str, int] = {"int8": 8, "nf4": 4, "bf16": 16, "fp8": 8}
NF4_BLOCK = 64
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of a normal distribution, as QLoRA prints them."""
LARGEST_FP8 = 448.0


@dataclass(frozen=True)
class Quantise:
    """kinds: what the weights are rounded to, one kind after the other, each from the weights as they were.

    A copy of the weights that are rounded is kept on the CPU meanwhile. Findings have `loss` in their measures; at
    setting 'as it is' the model was asked with its own weights (budget: the bits of these).
    """

    name: ClassVar[str] = "quantise"
    unit: ClassVar[str] = "bits"
    version: ClassVar[int] = 2
    changes_weights: ClassVar[bool] = False
    brings_back: ClassVar[bool] = True

    kinds: tuple[Kind, ...] = ("int8", "nf4", "bf16", "fp8")

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in BITS:
                raise UserError(f"quantise: kind '{kind}' is none; expected some of {', '.join(get_args(Kind))}")

    def run(self, target: Target) -> AttackResult:
        """`q_KIND` in the numbers; weights are put back bit for bit, also after an error."""
        model = target.loaded.model
        own = 8 * next(model.parameters()).element_size()
        before = asked_all(target.loaded, target.material, "as it is", own)
        target.on_part(1 / (1 + len(self.kinds)))
        known = mean_probability(losses_of(before))
        findings: list[Finding] = list(before)
        numbers: dict[str, float] = {}
        for place, kind in enumerate(self.kinds, 2):
            with quantised(model, kind):
                found = asked_all(target.loaded, target.material, kind, BITS[kind])
            findings += found
            now = mean_probability(losses_of(found))
            if now == now and known == known:
                numbers[f"q_{kind}"] = brought_back(known, now)
            target.on_part(place / (1 + len(self.kinds)))
        cut = cut_secrets(target.material.forget)
        return AttackResult(tuple(findings), numbers, (*_left_out(model), *missing_of(findings), *cut))


def brought_back(before: float, after: float) -> float:
    """Q, 0..1, of how well a model knows the rows before and after."""
    return 1.0 if after <= before else before / after


@contextmanager
def quantised(model: PreTrainedModel, kind: Kind) -> Iterator[None]:
    """The model with rounded weights; outside its own ones, bit for bit."""
    import torch

    weights = _matrices(model)
    kept = [weight.detach().cpu().clone() for weight, _ in weights]
    try:
        with torch.no_grad():
            for weight, turned in weights:
                matrix = weight.T if turned else weight
                rounded_matrix = rounded(matrix, kind)
                weight.copy_(rounded_matrix.T if turned else rounded_matrix)
        yield
    finally:
        with torch.no_grad():
            for (weight, _), values in zip(weights, kept, strict=True):
                weight.copy_(values)


def rounded(matrix: Tensor, kind: Kind) -> Tensor:
    """(outputs, inputs) weights, rounded, in their own dtype; computed in float64."""
    return _ROUNDED[kind](matrix.detach()).to(matrix.dtype)


def _int8(matrix: Tensor) -> Tensor:
    values = matrix.double()
    scale = values.abs().amax(1, keepdim=True) / 127
    return (values / scale.where(scale > 0, 1.0)).round() * scale


def _nf4(matrix: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    flat = matrix.double().flatten()
    blocks = functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64, device=matrix.device)
    codes = torch.bucketize(blocks / scale.where(scale > 0, 1.0), (levels[1:] + levels[:-1]) / 2)
    return (levels[codes] * scale).flatten()[: len(flat)].view(matrix.shape)


def _bf16(matrix: Tensor) -> Tensor:
    return matrix.bfloat16()


def _fp8(matrix: Tensor) -> Tensor:
    import torch

    values = matrix.double()
    scale = values.abs().amax() / LARGEST_FP8
    scale = scale.where(scale > 0, 1.0)
    # What rounding carries above the largest value would become NaN.
    scaled = (values / scale).clamp(-LARGEST_FP8, LARGEST_FP8).float()
    return scaled.to(torch.float8_e4m3fn).double() * scale


_ROUNDED: Mapping[Kind, Callable[[Tensor], Tensor]] = {"int8": _int8, "nf4": _nf4, "bf16": _bf16, "fp8": _fp8}


def _matrices(model: PreTrainedModel) -> list[tuple[Tensor, bool]]:
    """The weights of linear layers but the output layer, each once; True: stored as (inputs, outputs), as GPT-2's."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    seen = _ends_of(model)
    found: list[tuple[Tensor, bool]] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found.append((module.weight, isinstance(module, Conv1D)))
    return found


def _ends_of(model: PreTrainedModel) -> set[int]:
    """Which weights are those of the embeddings and of the output layer, which may be one."""
    named: Any = model
    layers = (named.get_output_embeddings(), named.get_input_embeddings())
    return {id(layer.weight) for layer in layers if layer is not None}


def _left_out(model: PreTrainedModel) -> tuple[str, ...]:
    """A sentence where matrices are in no linear layer, as experts are in some families."""
    known = {id(weight) for weight, _ in _matrices(model)} | _ends_of(model)
    rest = [name for name, weight in model.named_parameters() if weight.dim() > 2 and id(weight) not in known]
    return (f"{len(rest)} weights that are in no linear layer were not rounded, such as {rest[0]}",) if rest else ()
