"""What processes that train or measure import, so that it can be imported once for many of them.

connected(preload=PRELOAD)              # cluster/fork_server.py calls it in the process that it forks
"""

from __future__ import annotations

import os


def preload() -> None:
    """Import what training and measuring need: not Ray, which the workers of one job alone have in common."""
    # Left to itself DeepSpeed would look for GPUs, and CUDA cannot be used in a fork of a process that has looked.
    # Training corrects it (`engine.set_device_environment`).
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import bert_score  # noqa: F401
    import deepspeed  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.dataset
    import pyarrow.parquet  # noqa: F401
    import sacrebleu  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from transformers.models.bert.modeling_bert import BertModel  # noqa: F401
    from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoForCausalLM  # noqa: F401
    from transformers.models.llama.modeling_llama import LlamaForCausalLM  # noqa: F401

    from icu_ray.training import loop  # noqa: F401


PRELOAD = f"{preload.__module__}.{preload.__name__}"
