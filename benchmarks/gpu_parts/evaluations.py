"""Nine tasks of lm-eval by the project's actors, as many on the GPU as the model leaves room for, beside lm-eval alone.

evaluation.py, one floor up, measures the same on a CPU with a model of its own, and does the comparing.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from evaluation import THREADS, differences, plain, timed

from gpu_parts.setting import Setting, environment
from icu_ray.cluster.runtime import connected
from icu_ray.data.actor_pool import Pool
from icu_ray.evaluation.stage.actors import default_pool
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.stage.run import evaluate_models
from icu_ray.evaluation.suites import NINE, Options, open_tasks
from icu_ray.models.subjects import Subject
from icu_ray.storage.store import Store

DOCUMENTS, BATCH = 50, 32
"""Of each task, and lm-eval's rows of a forward on a GPU."""


def measure(setting: Setting) -> None:
    """The part. Imports, and Ray's start, belong to neither side."""
    on_gpu, mirror = setting.device == "cuda", Path(setting.mirror)
    limit = 2 if setting.tiny else DOCUMENTS
    folder = Path(setting.work) / "evaluations"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ |= environment(setting.device) | {"HF_DATASETS_CACHE": str(folder / "cache")}
    found: dict[str, Any] = {"tasks": len(NINE), "documents": limit}
    options = Options(mirror=mirror, limit=limit)
    subject = Subject("model", str(setting.model), "benchmark")
    open_tasks(("copa",), Options(mirror=mirror, limit=1))[0].load()  # pays for lm-eval's imports
    torch.set_num_threads(THREADS)
    with contextlib.redirect_stderr(io.StringIO()):
        how = {"device": "cuda", "batch": BATCH} if on_gpu else {}
        alone, found["lm_eval"] = timed(lambda: plain(setting.model, mirror, limit, **how))
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    setting.save("evaluations", found)
    with connected(cpus=None if on_gpu else THREADS):
        pool = default_pool([subject]) if on_gpu else Pool(THREADS)

        def ours() -> list[Evaluation]:
            return evaluate_models([subject], open_tasks(NINE, options), Store(str(folder / "store")), pool=pool)

        evaluations, found["ours"] = timed(ours)
    failed = [f"{each.task}: {each.error}" for each in evaluations if each.error]
    if failed:
        found["error"] = "; ".join(failed)
    else:
        worst, others = differences(evaluations, alone)
        found |= {"loglikelihoods_differ_by": worst, "other_accuracies": others}
    found |= {"actors": pool.actors, "gpu_each": pool.gpus, "ratio": found["lm_eval"] / found["ours"]}
    setting.save("evaluations", found)
