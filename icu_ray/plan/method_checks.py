"""Whether the methods of a config fit its models and its other keys, asked before anything starts.

check_methods_fit(config); check_answers(config, data)     # UserError: what was asked for, what there is, what to write
"""

from __future__ import annotations

from icu_ray import methods
from icu_ray.config import SweepConfig
from icu_ray.data.corpus import DataCheck
from icu_ray.errors import UserError
from icu_ray.methods.base import Method
from icu_ray.plan.model_memory import layers_of


def check_methods_fit(config: SweepConfig) -> None:
    """UserError for layers that a model lacks, and for what the kept original model cannot tell."""
    layers = {model.name: layers_of(model, config) for model in config.models if model.unlearn}
    for number, told in enumerate(config.methods):
        for alpha, beta in methods.cells(told):
            method = methods.get(told.name, alpha=alpha, beta=beta, settings=told.settings, loss=config.loss)
            for model, count in layers.items():
                if count is not None and (told.models is None or model in told.models):
                    _check_layers(method, number, model, count)
            _check_logits(method, number, config)


def check_answers(config: SweepConfig, data: DataCheck) -> None:
    """UserError where a method needs second answers that the data does not have."""
    for number, told in enumerate(config.methods):
        for alpha, beta in methods.cells(told):
            method = methods.get(told.name, alpha=alpha, beta=beta, settings=told.settings)
            if not method.needs_alternates or method.answers is None:
                continue
            known = [sample.answers for sample in data.samples.values()]
            if any(not answers for answers in known):
                raise UserError(
                    f"methods.{number}: {method.name} teaches other answers to the prompts of the targets, and texts "
                    f"of data.source={config.data.source} have none here; expected data.source=records with "
                    "prompt_column and completion_column, or messages_column"
                )
            if method.answers == "alternates" and config.answers.alternates == "generated":
                continue
            if any(method.answers not in answers for answers in known):
                raise UserError(
                    f"methods.{number}: {method.name} takes each target's own other answers, and the forget file has "
                    "no column of them; name it as data.alternates_column, or have the model invent them: "
                    "answers.alternates=generated"
                )


def _check_layers(method: Method, number: int, model: str, count: int) -> None:
    for layer in method.named_layers:
        if layer >= count:
            raise UserError(
                f"methods.{number}: {method.name} names layer {layer}, and model {model} has {count}; expected 0 to "
                f"{count - 1}: see the method's settings {', '.join(key for key in method.settings if 'layer' in key)}"
            )


def _check_logits(method: Method, number: int, config: SweepConfig) -> None:
    ratio = any(term.kind == "logit_ratio" for _, term in method.objective().terms)
    if ratio and config.kl.cache == "probs":
        raise UserError(
            f"methods.{number}: {method.name} with npo_style=muse_logits compares raw scores, which kl.cache=probs "
            "does not keep; set kl.cache to hidden or recompute"
        )
