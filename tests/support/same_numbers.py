"""One of several workers that train the same three steps by every ZeRO stage and micro batch; see `main`.

python tests/support/same_numbers.py RANK WORKERS MEETING_FILE OUT
"""

from __future__ import annotations

import copy
import sys

import numpy as np
import torch

from icu_ray.training.engine import set_device_environment
from tests.support.stage3_case import divide_everything
from tests.support.training_case import case, one_epoch

STAGES = (0, 1, 2, 3)
MICRO_BATCHES = (1, 3, None)
"""Rows that a worker takes at once; None: all of its share."""
ROWS, STEPS = 12, 3


def main() -> None:
    """Leaves parameters and losses by (stage, micro batch) in OUT.RANK."""
    rank, workers = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    divide_everything()
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=workers)
    found, (model, data) = {}, case(count=ROWS)
    for stage in STAGES:
        for micro in MICRO_BATCHES:
            how: dict[str, object] = {"zero_stage": stage, "micro_batch": micro}
            made = one_epoch(np.ones(ROWS, dtype=bool), rank, workers, drawn=(copy.deepcopy(model), data), **how)
            found[f"{stage} {micro}"] = {key: made[key] for key in ("parameters", "losses", "steps")}
    torch.save(found, f"{sys.argv[4]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
