"""Whether the methods of a config fit its models and its other keys, asked before anything starts.

check_methods_fit(config); check_answers(config, data)     # UserError: what was asked for, what there is, what to write
"""

from __future__ import annotations

from icu_ray import methods
from icu_ray.config import MethodConfig, ModelConfig, SweepConfig
from icu_ray.data.corpus import DataCheck
from icu_ray.errors import UserError
from icu_ray.methods.base import Method
from icu_ray.plan.models_here import layers_of


def check_methods_fit(config: SweepConfig) -> None:
    """UserError for layers that a model lacks, and for what the kept original model cannot tell."""
    layers = {model.name: layers_of(model, config) for model in config.models if model.unlearn}
    for number, told in enumerate(config.methods):
        for key in ("lr", "filter"):
            if getattr(told, key) is not None and not methods.method_class(told.name).trains:
                raise UserError(f"methods.{number}.{key}: {told.name} trains nothing; leave it out")
        for alpha, beta in methods.cells(told):
            method = methods.get(told.name, alpha=alpha, beta=beta, settings=told.settings, loss=config.loss)
            if told.alpha is not None and "retain" in method.defaults and not method.alpha_counts(told.settings):
                raise UserError(
                    f"methods.{number}.alpha: {told.name} has no retain part with these settings, so alpha would have "
                    "no effect; write settings: {retain: nll}, or leave alpha out"
                )
            _check_step(method, number, told, config)
            _check_fine_tuning(method, number, told, config)
            _check_warmup(method, told, config)
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
                    "prompt_column and completion_column, or messages_column, or data.source=synthetic with "
                    "questions: true"
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


def named_parts(config: SweepConfig) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """By model, what methods name of its parameters: where in the config, and the words."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for number, told in enumerate(config.methods):
        alpha, beta = methods.cells(told)[0]
        parts = methods.get(told.name, alpha=alpha, beta=beta, settings=told.settings).named_parts
        for model in _models_of(told, config) if parts else ():
            found.setdefault(model.name, []).append((f"methods.{number}: {told.name}", parts))
    return found


def _check_warmup(method: Method, told: MethodConfig, config: SweepConfig) -> None:
    """UserError where trials would end before the learning rate has risen."""
    if not method.trains or method.fine_tunes:
        return
    for model in _models_of(told, config):
        own = model.max_epochs is not None
        most = model.max_epochs or config.stop.max_epochs
        if config.optim.warmup_epochs > most:
            where = f"max_epochs of model {model.name}" if own else "stop.max_epochs"
            raise UserError(
                f"optim.warmup_epochs: found {config.optim.warmup_epochs:g}, more than the {most} epochs of a trial "
                f"({where}), so that the learning rate is never reached; expected at most {most}"
            )


def _check_step(method: Method, number: int, told: MethodConfig, config: SweepConfig) -> None:
    """UserError where a step rule could not do what it says."""
    if told.step is None:
        return
    rule, where = told.step.rule, f"methods.{number}.step"
    if not method.trains or method.fine_tunes:
        raise UserError(f"{where}: {method.name} takes no steps of unlearning; leave the step rule out")
    if not method.splits:
        raise UserError(
            f"{where}: rule={rule} takes the forget part and the retain part of a loss separately, and the loss "
            f"of {method.name} is not a sum of such terms; expected a method such as npo, graddiff or simnpo"
        )
    cells = methods.cells(told)
    if rule == "gru" and len(cells) > 1 and len(method.split()[1].terms) < 2:
        raise UserError(
            f"{where}: rule=gru takes only the direction of the retain part, which is one term in {method.name}: its "
            f"weight changes nothing, and there are {len(cells)} cells; keep one"
        )
    for model in _models_of(told, config):
        if model.zero_stage == 3:
            raise UserError(
                f"{where}: rule={rule} needs all gradients on each worker, and with zero_stage=3 model {model.name} "
                "has them divided; expected zero_stage 0 to 2"
            )
        if model.offload_optimizer:
            raise UserError(
                f"{where}: rule={rule} keeps several copies of all weights on the device, where offload_optimizer of "
                f"model {model.name} is to make room; leave it out"
            )
        if rule == "sam" and model.precision == "bf16":
            raise UserError(
                f"{where}: rule=sam moves each weight of model {model.name} by far less than precision=bf16 can tell "
                "apart, so that it would change nothing; expected precision: fp32"
            )


def fine_tuning_said(config: SweepConfig) -> tuple[str, ...]:
    """What counts for nothing for methods that learn first, by their own settings."""
    said = []
    for told in config.methods:
        if methods.method_class(told.name).fine_tunes:
            own = methods.get(told.name, settings=told.settings).settings
            said.append(
                f"{told.shown} learns all targets by its own settings (epochs={own['epochs']}, lr={own['lr']:g}, "
                f"schedule={own['schedule']}), to the end. For it optim.lr, optim.schedule, optim.warmup_epochs, "
                "stop.rule, stop.max_epochs, stop.max_steps, their like at models, and the filter have no effect."
            )
    return tuple(dict.fromkeys(said))


def _check_fine_tuning(method: Method, number: int, told: MethodConfig, config: SweepConfig) -> None:
    """UserError where what a method makes of weights before and after could not be right."""
    if not method.fine_tunes:
        return
    where, what = f"methods.{number}", f"{method.name} computes with weights before and after its fine-tuning"
    if told.lr is not None:
        raise UserError(f"{where}.lr: {method.name} learns by its own setting 'lr'; give it under settings")
    if told.filter is not None:
        raise UserError(f"{where}.filter: {method.name} learns all targets to the end; leave it out")
    if told.stop.rule is not None:
        raise UserError(f"{where}.stop.rule: {method.name} always ends after its setting 'epochs'; leave the rule out")
    if told.stop.max_epochs is not None:
        raise UserError(
            f"{where}.stop.max_epochs: {method.name} always ends after its setting 'epochs'; give it under settings"
        )
    for model in _models_of(told, config):
        if model.zero_stage == 3:
            raise UserError(
                f"{where}: {what}, and with zero_stage=3 model {model.name} has them divided; "
                "expected zero_stage 0 to 2"
            )
        if model.precision == "bf16":
            raise UserError(
                f"{where}: {what}, and precision=bf16 of model {model.name} rounds the small differences away; "
                "expected precision: fp32"
            )
        if model.lora is not None:
            raise UserError(
                f"{where}: {what}, which is not the same with the two factors of an adapter, as model {model.name} "
                "has one; expected a model without lora"
            )


def _models_of(told: MethodConfig, config: SweepConfig) -> list[ModelConfig]:
    """Those that a method runs on."""
    return [m for m in config.models if m.unlearn and (told.models is None or m.name in told.models)]


def _check_logits(method: Method, number: int, config: SweepConfig) -> None:
    ratio = any(term.kind == "logit_ratio" for _, term in method.objective().terms)
    if ratio and config.kl.cache == "probs":
        raise UserError(
            f"methods.{number}: {method.name} with npo_style=muse_logits compares raw scores, which kl.cache=probs "
            "does not keep; set kl.cache to hidden or recompute"
        )
