"""The exact probe beside the definition, one generate() per prefix, in fp32 and bf16; and what ties do in bf16."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probe import plain
from transformers import PreTrainedModel

from gpu_parts.setting import Setting
from icu_ray.data.examples import TokenRows
from icu_ray.data.tokens import specials_of
from icu_ray.metrics.bertscore import bertscore
from icu_ray.metrics.generation import decode_candidates, generate_candidates
from icu_ray.metrics.probe import probe
from icu_ray.models.loading import LoadedModel, load_model
from icu_ray.services.probe import token_rows

ROWS = 4
"""Of the definition: 1.6 to 2.2 s each on an H100, in four cases."""
TIE_ROWS = 64
BF16_BITS = 8
"""Significant bits of a bf16 number, the leading one included."""


def compare(setting: Setting) -> None:
    """The part: ROWS targets in both precisions, and all targets by the probe alone.

    The definition takes each row by itself, so its time grows with them; ratio_all compares it with the probe of all.
    """
    found: dict[str, Any] = {}
    every_row = np.load(setting.forget)
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        loaded = load_model(str(setting.model), dtype=dtype)  # type: ignore[arg-type]
        model = loaded.model.to(setting.device)  # type: ignore[arg-type]
        specials = specials_of(loaded.tokenizer)
        # The definition, as it is written down, takes pads for text.
        ids = every_row[every_row[:, 0] != specials.pad_id]

        vocabulary = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
        file, start = Path("forget.npy"), setting.suffix_start
        every = token_rows(ids, vocabulary, specials.pad_id, specials.eos_id, file, start)
        some = token_rows(ids[:ROWS], vocabulary, specials.pad_id, specials.eos_id, file, start)
        # A model that recites everything gives the probe nothing to decode; this one errs, as in mid-trial.
        for state in ("recites", "errs"):
            if state == "errs":
                _shake(model)
            one = _both(setting, model, some, ids[:ROWS])
            if precision == "bf16":
                one["ties"] = _ties(model, ids[:TIE_ROWS])
            one["all_rows"] = {"rows": len(every), "seconds": _best(setting, model, every)}
            one["ratio_all"] = one["definition"] / one["rows"] * len(every) / one["all_rows"]["seconds"]
            one["all_rows"] |= _filter(setting, loaded, every)
            found[f"{precision}, {state}"] = one
            setting.save("probes", found)
        del loaded, model


def _both(setting: Setting, model: PreTrainedModel, rows: TokenRows, ids: np.ndarray) -> dict[str, Any]:
    ours = probe(model, rows)
    seconds = _best(setting, model, rows)
    started = time.perf_counter()
    ma, el = plain(model, ids, setting.suffix_start)
    other = time.perf_counter() - started
    assert ours.el is not None
    return {
        "rows": len(rows),
        "ours": seconds,
        "definition": other,
        "ratio": other / seconds,
        "ma": ours.ma_mean,
        "el": ours.el_mean,
        "definition_ma": float(ma.mean()),
        "definition_el": float(el.mean()),
        "rows_with_another_ma": int((~np.isclose(ma, ours.ma, atol=1e-12)).sum()),
        "rows_with_another_el": int((~np.isclose(el, ours.el, atol=1e-12)).sum()),
    }


def _filter(setting: Setting, loaded: LoadedModel, rows: TokenRows) -> dict[str, float]:
    """Seconds of the filter's two costs on all rows, after a round that does not count."""
    suffixes = rows.input_ids[:, setting.suffix_start :]
    references = decode_candidates(loaded.tokenizer, suffixes, True)
    found = {}
    for _ in range(2):
        started = time.perf_counter()
        said = generate_candidates(
            loaded.model,
            rows.prompt_ids,
            rows.prompt_mask,
            max_new_tokens=suffixes.shape[1],
            pad_id=rows.pad_id,
            eos_id=rows.eos_id,
            guesses=suffixes,
        )
        searched = time.perf_counter()
        texts = decode_candidates(loaded.tokenizer, said, True)
        bertscore(texts, references, encoder="bundled", layer=6, device=loaded.model.device)
        found = {"beams": searched - started, "bertscore": time.perf_counter() - searched}
    return found


def _best(setting: Setting, model: PreTrainedModel, rows: TokenRows) -> float:
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        probe(model, rows)
        if setting.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@torch.no_grad()
def _shake(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    for weights in model.parameters():
        if weights.dim() == 2:
            noise = torch.randn(weights.shape, device=weights.device)
            weights += (0.25 * float(weights.float().std()) * noise).to(weights.dtype)


@torch.inference_mode()
def _ties(model: PreTrainedModel, ids: np.ndarray) -> dict[str, int]:
    """Positions whose two highest scores are equal, or at most one step of bf16 apart; where one is the truth."""
    tokens = torch.from_numpy(ids).to(model.device)
    scores, chosen = model(input_ids=tokens, use_cache=False).logits[:, :-1].topk(2)
    first, second = scores[..., 0].float(), scores[..., 1].float()
    step = torch.exp2(torch.floor(torch.log2(first.abs().clamp_min(1e-30))) - (BF16_BITS - 1))
    equal, near = first == second, first - second <= step
    truth = (chosen == tokens[:, 1:, None]).any(-1)
    return {
        "positions": int(first.numel()),
        "equal": int(equal.sum()),
        "within_a_step": int(near.sum()),
        "equal_and_one_is_the_truth": int((equal & truth).sum()),
        "within_a_step_and_one_is_the_truth": int((near & truth).sum()),
    }
