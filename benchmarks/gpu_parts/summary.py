"""The results as Markdown, to be pasted into benchmarks/README.md under the card's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
SIX_OPERATIONS = 6
"""Floating point operations of training a parameter takes for a token."""
COUNTED = ("start", "load", "engine", "train", "validate", "checkpoint", "save")


def summary(results: Json) -> str:
    """Everything that was measured; a step that did not end well has a line that says so."""
    steps: Json = results["steps"]
    sections = [_card(results), _taught(steps.get("teach", {}))]
    sweeps = [name for name in ("alone", "shared", "offload", "half", "resume") if steps.get(name, {}).get("trials")]
    if sweeps:
        sections += [_trials(steps, sweeps), _where(steps, sweeps)]
    sections += [_sharing(steps), _refused(steps.get("refused", {})), _probes(steps.get("probes", {}))]
    sections += [_memory(steps.get("memory", {})), _commands(steps), _not_well(steps)]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any, form: str = ".1f", scale: float = 1.0) -> str:
    """A number, '-' where it was not measured."""
    return "-" if value is None else f"{value * scale:{form}}"


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


def _trials(steps: Json, sweeps: Sequence[str]) -> str:
    rows = []
    for name, step, trial in _each(steps, sweeps):
        before, after = trial["before"], trial["after"]
        rows.append(
            [
                f"{name}, {trial['cell']}",
                str(trial["verdict"] or "none"),
                str(trial["epochs"]),
                f"{shown(before['ma'], scale=100)} to {shown(after['ma'], scale=100)}",
                f"{shown(before['el'], scale=100)} to {shown(after['el'], scale=100)}",
                f"{shown(before['ppl_heldout'])} to {shown(after['ppl_heldout'])}",
                shown(step.get("gpus_per_worker", 1), "g"),
                shown(step.get("peak_card_gib")),
            ]
        )
    header = [
        "sweep, cell",
        "verdict",
        "epochs",
        "MA %",
        "EL10 %",
        "held-out perplexity",
        "GPU each",
        "card's peak, GiB",
    ]
    return table(header, rows)


def _where(steps: Json, sweeps: Sequence[str]) -> str:
    teach: Json = steps.get("teach", {})
    rows = []
    for name, _, trial in _each(steps, sweeps):
        wall, seconds = trial["wall"], trial["seconds"]
        shares = [seconds.get(key) for key in COUNTED] + [trial["uncounted"]]
        cells = ["-" if value is None or not wall else f"{value:.1f} ({100 * value / wall:.0f} %)" for value in shares]
        speed = trial["train_tokens_per_second"]
        rate = teach.get("card", {}).get("bf16_tflops" if trial["cell"].startswith("bf16") else "fp32_tflops")
        used = None
        if speed and rate and teach.get("parameters"):
            used = SIX_OPERATIONS * teach["parameters"] * speed / rate / 1e12
        rows.append([f"{name}, {trial['cell']}", shown(wall), *cells, shown(speed, ",.0f"), shown(used, ".1f", 100)])
    header = ["sweep, cell", "from start to result, s", *COUNTED, "not counted", "training, tokens a second"]
    return table([*header, "of the matrix rate, %"], rows)


def _sharing(steps: Json) -> str:
    alone, half = (steps.get(name, {}).get("makespan") for name in ("alone", "half"))
    if not alone or not half:
        return ""
    return (
        f"The same two trials one after the other: {alone:.0f} s; at the same time, half of the GPU each: "
        f"{half:.0f} s; ratio {alone / half:.2f}."
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
                shown(one["ratio"]),
                f"{shown(one['ma'], '.3f')}, {shown(one['el'], '.3f')}",
                f"{shown(one['definition_ma'], '.3f')}, {shown(one['definition_el'], '.3f')}",
                f"{one['rows_with_another_ma']} and {one['rows_with_another_el']} of {one['rows']}",
                near,
                ", ".join(shown(one["all_rows"].get(key), ".2f") for key in ("seconds", "beams", "bertscore")),
            ]
        )
    header = ["model", "probe, s", "one generate() a prefix, s", "ratio", "MA, EL10", "by definition"]
    header += ["rows with another MA, EL", "two highest scores", "all rows: probe, beams, BERTScore, s"]
    return table(header, rows) if rows else ""


def _memory(found: Json) -> str:
    rows = [
        [f"{step['shape']}, {step['form']}, {step['dtype']}"]
        + ["-" if step.get(key) is None else f"{step[key] / 1e6:,.0f}" for key in ("weights", "cache_batch", "step")]
        + ["-" if step.get("with_adam") is None else f"{step['with_adam'] / 2**30:.1f}", step.get("error", "")]
        for step in found.get("steps", ())
    ]
    if not rows:
        return ""
    header = ["step of 8 pairs x 200 tokens", "weights, MB", "cache of the batch, MB", "above that, MB"]
    text = table([*header, "with Adam's moments, GiB", "error"], rows)
    if "gradients_differ_by" in found:
        text += f"\n\nGradients of both forms differ by {found['gradients_differ_by']:.0e} of the largest."
    return f"{text} Largest shape that fits: {found['estimate']}."


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
