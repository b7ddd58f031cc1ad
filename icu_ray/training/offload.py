"""`offload_optimizer`: DeepSpeed's Adam for main memory, compiled before anything needs it.

    build_cpu_adam()        # a minute at a machine's first use, two seconds later; UserError says what is missing

It lies in torch's folder of compiled extensions (TORCH_EXTENSIONS_DIR), for all later trials of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shlex
import shutil
from pathlib import Path

from icu_ray.errors import UserError, without_secrets

_MOST_CHARACTERS = 300


class CannotCompile(UserError):
    """reason: what went wrong. remedy: what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"offload_optimizer: DeepSpeed's Adam for main memory cannot be compiled: {reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


def build_cpu_adam() -> None:
    """Compile it, or load what was compiled; CannotCompile where that fails."""
    from deepspeed.ops.op_builder import CPUAdamBuilder
    from torch.utils import cpp_extension

    try:
        folder = Path(cpp_extension._get_build_directory(CPUAdamBuilder.NAME, verbose=False))
        with (folder / ".icu_ray").open("w") as own, contextlib.redirect_stdout(io.StringIO()):
            # torch's own lock is a file, on which all later processes wait for ever if its maker was killed. This one
            # ends with its process; whoever holds it knows that the file is of nobody.
            fcntl.flock(own, fcntl.LOCK_EX)
            (folder / "lock").unlink(missing_ok=True)
            CPUAdamBuilder().load(verbose=False)
    except Exception as error:  # of DeepSpeed, torch, ninja or the linker
        # It runs on the processor alone: also beside a GPU no CUDA compiler is asked for.
        remedy = "install what is missing of a C++ compiler and ninja on each node, or set offload_optimizer: false"
        raise CannotCompile(_reason(error), remedy) from error


def _reason(error: Exception) -> str:
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    if shutil.which(compiler) is None:
        return f"there is no compiler '{compiler}'"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror:|not found|No such file|cannot find", line)]
    said = without_secrets((telling or lines or [repr(error)])[0]).removesuffix(".")
    return said if len(said) <= _MOST_CHARACTERS else said[:_MOST_CHARACTERS] + "..."
