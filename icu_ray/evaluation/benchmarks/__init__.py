"""The field's benchmarks: which rows each has, what it asks, how answers are generated, what is reported.

    tofu = BENCHMARKS["tofu"]
    for each in tofu.splits["forget10"].sets:              # or sets_of(config.data.benchmark)
        rows = set_rows(config.data.benchmark, each)       # [{"question": ..., "answer": ...}]

`definition.py` has the values, `tofu.py`, `muse.py`, `wmdp.py` and `rwku.py` one benchmark each, `rows.py` reads the
rows of a set from a folder or the hub, `fetch.py` writes that folder (`icu-ray data fetch tofu`). `tasks.py`
makes tasks of the sets, `derived.py` numbers that need several of them or the retrained model, from documents that
`documents.py` reads. `published.py` says which models its makers have published. What a config reads to train on is
config/benchmarks.py, how a question becomes tokens data/prompt_styles.py. Only tables are read; no code of a data set
is run.
"""

from __future__ import annotations

from collections.abc import Mapping

from icu_ray.evaluation.benchmarks.definition import Benchmark
from icu_ray.evaluation.benchmarks.muse import MUSE
from icu_ray.evaluation.benchmarks.rwku import RWKU
from icu_ray.evaluation.benchmarks.tofu import TOFU
from icu_ray.evaluation.benchmarks.wmdp import WMDP

BENCHMARKS: Mapping[str, Benchmark] = {each.name: each for each in (TOFU, MUSE, WMDP, RWKU)}
"""By the name that `data.source` has."""
