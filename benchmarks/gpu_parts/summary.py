"""The results as Markdown, to be pasted into benchmarks/README.md under the card's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
SIX_OPERATIONS = 6
"""Floating point operations of training a parameter takes for a token."""
COUNTED = ("start", "load", "engine", "train", "validate", "checkpoint", "save")
SWEEPS = ("alone", "stages", "quarter", "offload", "resume")
GOAL = 70
"""Of a trial's time that forward and backward are to have, in percent."""


def summary(results: Json) -> str:
    """Everything that was measured; a step that did not end well has a line that says so."""
    steps: Json = results["steps"]
    sections = [_card(results), _taught(steps.get("teach", {}))]
    sweeps = [name for name in SWEEPS if steps.get(name, {}).get("trials")]
    if sweeps:
        sections += [_trials(steps, sweeps), _where(steps, sweeps), _shares(steps, sweeps)]
    sections += [_sharing(steps), _refused(steps.get("refused", {})), _probes(steps.get("probes", {}))]
    sections += [_memory(steps.get("memory", {})), _largest(steps.get("largest", {}))]
    sections += [_evaluations(steps.get("evaluations", {})), _tofu(steps.get("tofu", {}))]
    sections += [_commands(steps), _not_well(steps)]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any, form: str = ".1f", scale: float = 1.0) -> str:
    """A number, '-' where it was not measured."""
    return "-" if value is None else f"{value * scale:{form}}"


def mega(value: float | None) -> str:
    """Bytes as MB."""
    return shown(value, ",.0f", 1e-6)


def _card(results: Json) -> str:
    card: Json = results["steps"].get("teach", {}).get("card", {})
    machine: Json = results["machine"]
    rates = ", ".join(
        f"{shown(card.get(f'{name}_tflops'))} in {name}"
        for name in ("bf16", "fp32", "tf32")
        if f"{name}_tflops" in card
    )
    other = "a card that was not asked for its name" if results["device"] == "cuda" else f"no card: {machine['cpu']}"
    name = card.get("card", other)
    text = f"### {name}\n\n{machine['python_cores']} cores, torch {machine['torch']}, CUDA {card.get('cuda')}"
    text += f", NCCL {card['nccl']}" if "nccl" in card else ""
    return text + (f". Matrix products, TFLOP/s: {rates}." if rates else ".")


def _taught(found: Json) -> str:
    if not found.get("history"):
        return ""
    last, rows = found["history"][-1], found["rows"]
    return (
        f"The model has {found['parameters'] / 1e6:.1f} million parameters. It was taught {rows['pool']:,} "
        f"{found['texts']} and the {rows['targets']} targets, of {rows['tokens']} tokens each, for "
        f"{last['seconds']:.0f} s ({found['tokens_per_second']:,.0f} tokens a second): MA {100 * last['ma']:.1f} %, "
        f"held-out perplexity {last['ppl_heldout']:.1f}."
    )


def _each(steps: Json, sweeps: Sequence[str]) -> list[tuple[str, Json, Json]]:
    return [(name, steps[name], trial) for name in sweeps for trial in steps[name]["trials"].values()]


def _scores(trial: Json) -> list[str]:
    before, after = trial["before"], trial["after"]
    return [
        str(trial["verdict"] or "none"),
        str(trial["epochs"]),
        f"{shown(before['ma'], scale=100)} to {shown(after['ma'], scale=100)}",
        f"{shown(before['el'], scale=100)} to {shown(after['el'], scale=100)}",
        f"{shown(before['ppl_heldout'])} to {shown(after['ppl_heldout'])}",
    ]


SCORES = ("verdict", "epochs", "MA %", "EL10 %", "held-out perplexity")


def _trials(steps: Json, sweeps: Sequence[str]) -> str:
    rows = []
    for name, step, trial in _each(steps, sweeps):
        card = shown(step.get("gpus_per_worker", 1), "g"), shown(step.get("peak_card_gib"))
        rows.append([f"{name}, {trial['cell']}", *_scores(trial), *card])
    return table(["sweep, cell", *SCORES, "GPU each", "card's peak, GiB"], rows)


def _where(steps: Json, sweeps: Sequence[str]) -> str:
    teach: Json = steps.get("teach", {})
    rows = []
    for name, _, trial in _each(steps, sweeps):
        seconds, speed = trial["seconds"], trial["train_tokens_per_second"]
        cells = [shown(value) for value in (*(seconds.get(key) for key in COUNTED), trial["uncounted"])]
        rate = teach.get("card", {}).get("bf16_tflops" if trial["cell"].startswith("bf16") else "fp32_tflops")
        used = None
        if speed and rate and teach.get("parameters"):
            used = SIX_OPERATIONS * teach["parameters"] * speed / rate / 1e12
        measured = [shown(trial["wall"]), *cells, shown(speed, ",.0f"), shown(used, ".1f", 100)]
        rows.append([f"{name}, {trial['cell']}", *measured])
    header = ["sweep, cell", "from start to result, s", *COUNTED, "not counted", "training, tokens a second"]
    return table([*header, "of the matrix rate, %"], rows)


def _shares(steps: Json, sweeps: Sequence[str]) -> str:
    """What part of a trial's time each of its parts has; training is forward, backward and Adam's step."""
    parts = (("train",), ("validate",), ("checkpoint", "save"), ("start", "load", "engine"))
    rows = []
    for name, _, trial in _each(steps, sweeps):
        wall, seconds = trial["wall"], trial["seconds"]
        if not wall or not seconds:
            continue
        shares = [sum(seconds.get(key, 0.0) for key in keys) for keys in parts]
        epochs = shares[0] + shares[1]
        cells = [shown(value, ".0f", 100 / wall) for value in (*shares, trial["uncounted"] or 0.0)]
        rows.append([f"{name}, {trial['cell']}", *cells, shown(shares[0] / epochs if epochs else None, ".0f", 100)])
    if not rows:
        return ""
    header = ["share of a trial's time, %", f"training (goal {GOAL})", "measuring", "checkpoints, saving"]
    text = table([*header, "start, loading, engine", "not counted", "training, of it and measuring alone"], rows)
    probed: Json = steps.get("probes", {})
    filters = []
    for case in (name for name in probed if ", " in name):
        cost: Json = probed[case].get("all_rows", {})
        if {"seconds", "beams", "bertscore"} <= cost.keys():
            own = cost["beams"] + cost["bertscore"]
            filters.append(f"{100 * own / (own + cost['seconds']):.0f} % ({case})")
    return text + (f"\n\nOf measuring, by part c, the filter takes {', '.join(filters)}." if filters else "")


def _sharing(steps: Json) -> str:
    quarter: Json = steps.get("quarter", {})
    alone = steps.get("alone", {}).get("makespan") or quarter.get("one_after_the_other")
    shared = quarter.get("makespan")
    if not alone or not shared:
        return ""
    return (
        f"The same two trials one after the other: {alone:.0f} s; at the same time, a quarter of the GPU each: "
        f"{shared:.0f} s; ratio {alone / shared:.2f}."
    )


def _refused(found: Json) -> str:
    last = found.get("said", "").strip().splitlines()
    return f"Not offered, {found['cell']}: `{last[-1]}`" if last else ""


def _probes(found: Json) -> str:
    cases = [name for name in found if ", " in name]
    rows = []
    for name in cases:
        one, ties = found[name], found[name].get("ties", {})
        near = f"{ties['equal']} equal, {ties['within_a_step']} within a step, of {ties['positions']}" if ties else ""
        rows.append(
            [
                name,
                shown(one["ours"], ".2f"),
                shown(one["definition"], ".2f"),
                f"{shown(one['ratio'])}, {shown(one.get('ratio_all'))}",
                f"{shown(one['ma'], '.3f')}, {shown(one['el'], '.3f')}",
                f"{shown(one['definition_ma'], '.3f')}, {shown(one['definition_el'], '.3f')}",
                f"{one['rows_with_another_ma']} and {one['rows_with_another_el']} of {one['rows']}",
                near,
                ", ".join(shown(one["all_rows"].get(key), ".2f") for key in ("seconds", "beams", "bertscore")),
            ]
        )
    header = ["model", "probe, s", "one generate() a prefix, s", "ratio, of all rows", "MA, EL10", "by definition"]
    header += ["rows with another MA, EL", "two highest scores", "all rows: probe, beams, BERTScore, s"]
    return table(header, rows) if rows else ""


def _memory(found: Json) -> str:
    rows = [
        [f"{step['shape']}, {step['form']}, {step['dtype']}"]
        + [mega(step.get(key)) for key in ("weights", "cache_batch", "step", "plan")]
        + [shown(step.get("with_adam"), ".1f", 2**-30), step.get("error", "")]
        for step in found.get("steps", ())
    ]
    if not rows:
        return ""
    header = [
        "step of 8 pairs x 200 tokens",
        "weights, MB",
        "cache of the batch, MB",
        "above that, MB",
        "by a plan, MB",
    ]
    text = table([*header, "with Adam's moments, GiB", "error"], rows)
    if "gradients_differ_by" in found:
        text += f"\n\nGradients of both forms differ by {found['gradients_differ_by']:.0e} of the largest."
    return text


def _largest(found: Json) -> str:
    if not found.get("plan"):
        return ""
    yes = {True: "yes", False: "no"}
    rows = []
    for each in found["plan"]:
        need = mega(each["training"]), mega(each["measuring"])
        rows.append([each["model"], shown(each["parameters"], ".2f", 1e-9), *need, yes[each["fits"]]])
    header = ["bf16, ZeRO 0, batch 8 x 200, by a plan", "parameters, 10^9", "training, MB", "measuring, MB", "fits"]
    text = table(header, rows)
    where = "this card's" if found["card_is_here"] else "a card's"
    text += f"\n\nA plan leaves a tenth of {where} {found['card_bytes'] / 1e9:.0f} GB free. Real steps:\n\n"
    tried = []
    for each in found["steps"]:
        seen = (mega(each.get(key)) for key in ("plan", "start", "step"))
        tried.append([each["model"], yes[each["fits"]], *seen, each.get("error", "")])
    return text + table(
        ["model", "fits, by the plan", "plan, MB", "peak of start, MB", "of a step, MB", "error"], tried
    )


def _evaluations(found: Json) -> str:
    if "ours" not in found:
        return ""
    row = [
        f"{found['tasks']} tasks, {found['documents']} documents each",
        shown(found["lm_eval"]),
        shown(found["ours"]),
    ]
    row += [shown(found["ratio"], ".2f"), f"{found['actors']}, {shown(found['gpu_each'], '.2f')}"]
    text = table(["case", "lm-eval alone, s", "ours, s", "ratio", "actors, GPU each"], [row])
    if "loglikelihoods_differ_by" in found:
        others = ", ".join(found["other_accuracies"]) or "none"
        text += f"\n\nLog-likelihoods differ by {found['loglikelihoods_differ_by']:.0e} of their value at most; tasks "
        text += f"with another accuracy: {others}."
    return text


def _tofu(found: Json) -> str:
    if not found.get("trials") and not found.get("trained"):
        return ""
    lines = [[f"training the {name}", *[""] * len(SCORES), f"{s / 60:.1f}"] for name, s in found["trained"].items()]
    lines += [
        [method, *_scores(trial), shown(trial["wall"], ".1f", 1 / 60)] for method, trial in found["trials"].items()
    ]
    return table(["chat model on questions", *SCORES, "minutes"], lines)


def _commands(steps: Json) -> str:
    lines = []
    for name in ("probe-command", "doctor", "evaluate"):
        found = steps.get(name, {})
        if "command_seconds" in found:
            told = ", ".join(f"{key} {found[key]}" for key in ("n", "ma", "el10", "forget_loss") if key in found)
            code = f"exit code {found['exit_code']}"
            lines.append(
                f"- `icu-ray {name.removesuffix('-command')}`: {found['command_seconds']:.1f} s, {code} {told}"
            )
    return "\n".join(line.rstrip() for line in lines)


def _not_well(steps: Json) -> str:
    lines = []
    for name, found in steps.items():
        if found["state"] != "done":
            why = str(found.get("error") or found.get("why") or "").strip().splitlines()
            lines.append(
                f"- {name}: {found['state']} after {found['step_seconds']:.0f} s{': ' + why[-1] if why else ''}"
            )
    return "Not measured, or not whole:\n\n" + "\n".join(lines) if lines else ""
