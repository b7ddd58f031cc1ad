"""`offload_optimizer`: Adam for main memory is compiled before anything starts, or it is said why not.

Needs: a C++ compiler and ninja.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
import torch
from icu_ray.errors import UserError
from icu_ray.training.engine import set_device_environment
from icu_ray.training.offload import build_cpu_adam

set_device_environment(torch.device("cpu"))
try:
    build_cpu_adam()
except UserError as refused:
    print("refused:", refused)
    sys.exit(2)
from deepspeed.ops.adam import DeepSpeedCPUAdam
mine, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 100)) for _ in range(2))
ours = DeepSpeedCPUAdam([mine], lr=1e-2, betas=(0.9, 0.98), eps=1e-8, adamw_mode=False)
plain = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.98), eps=1e-8)
for step in range(3):
    for parameter, adam in ((mine, ours), (theirs, plain)):
        parameter.grad = torch.sin(parameter.detach() * (step + 1))
        adam.step()
torch.testing.assert_close(mine, theirs)
print("built")
"""


def build(folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "TORCH_EXTENSIONS_DIR": str(folder)}
    environment.pop("CXX", None)
    return subprocess.run(
        [sys.executable, "-c", BUILD], env=environment, capture_output=True, text=True, check=False, timeout=500
    )


def tools(folder: Path, names: tuple[str, ...]) -> str:
    """A PATH with these programs alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path) -> None:
    done = build(tmp_path / "built", tools(tmp_path / "bin", ("ninja", "sh", "uname")))
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("refused:"))
    assert "offload_optimizer: DeepSpeed's Adam for main memory cannot be compiled: there is no compiler 'c++'" in line
    assert "install what is missing of a C++ compiler and ninja" in line and "set offload_optimizer: false" in line


def test_beside_a_gpu_it_needs_no_compiler_of_cuda() -> None:
    """DeepSpeed takes the same builder there, which compiles C++ alone."""
    asked = "from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator\n"
    asked += "builder = CUDA_Accelerator().create_op_builder('CPUAdamBuilder')\n"
    asked += "print(type(builder).__module__, *builder.sources())"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    told = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    module, *sources = told.stdout.splitlines()[-1].split()
    assert module == "deepspeed.ops.op_builder.cpu.cpu_adam"
    assert sources and all(source.endswith(".cpp") for source in sources)


@pytest.mark.slow
def test_it_is_compiled_once_and_steps_as_adam_does(tmp_path: Path) -> None:
    """Also where a process was killed while it compiled, whose lock torch would wait for."""
    lock = tmp_path / "built" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    done = build(tmp_path / "built", os.environ["PATH"])
    assert done.returncode == 0 and "built" in done.stdout, done.stdout + done.stderr
    (library,) = lock.parent.glob("*.so")
    before = library.stat().st_mtime_ns
    lock.touch()
    again = build(tmp_path / "built", os.environ["PATH"])
    assert again.returncode == 0, again.stderr
    assert library.stat().st_mtime_ns == before and not lock.exists()
