"""The compute precision that a machine is fast in: what model.dtype=auto becomes. Importing it loads no torch.

Most CPUs multiply bfloat16 matrices three times slower than float32 ones; those with a bfloat16 unit are three times
faster. GPUs that train models have such units.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rl.config import ClusterConfig, RunConfig
from rl.types import BadInput

if TYPE_CHECKING:
    import torch

AUTO = "auto"
BFLOAT16, FLOAT16, FLOAT32 = "bfloat16", "float16", "float32"
HALF = (BFLOAT16, FLOAT16)
"""The precisions of two bytes. Their learners keep a float32 copy of the weights."""
CPU_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of /proc/cpuinfo, the fastest unit first; "bf16" is Arm's."""
CPUINFO = Path("/proc/cpuinfo")
DEVICES = Path("/dev")


@dataclass(frozen=True)
class Machine:
    """What workers run on. device: cpu or gpu. unit: the bfloat16 unit that all its CPUs have, "" for none."""

    device: str
    unit: str = ""

    @property
    def dtype(self) -> str:
        """What model.dtype=auto becomes here."""
        return BFLOAT16 if self.device == "gpu" or self.unit else FLOAT32

    @property
    def reason(self) -> str:
        """Why, as the end of a sentence."""
        if self.device == "gpu":
            return "the workers run on GPUs"
        return f"this CPU has a bfloat16 unit ({self.unit})" if self.unit else "this CPU has no bfloat16 unit"


def bytes_per_number(dtype: str) -> int:
    """ "bfloat16" -> 2, "float32" -> 4."""
    return 2 if dtype in HALF else 4


def torch_dtype(dtype: str) -> torch.dtype:
    """ "bfloat16" -> torch.bfloat16. The only table from the names in settings to torch's types."""
    import torch  # here: the command line answers before torch could be loaded

    return {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16, FLOAT32: torch.float32}[dtype]


def bfloat16_unit(cpuinfo: str) -> str:
    """The fastest unit that every processor of /proc/cpuinfo's text has; "" for none.

    "flags : fpu avx512_bf16" -> "avx512_bf16"
    """
    flags = [set(line.split()) for line in re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)]
    shared = set.intersection(*flags) if flags else set()
    return next((unit for unit in CPU_UNITS if unit in shared), "")


def cpu_unit() -> str:
    """The bfloat16 unit of this machine's CPUs; "" for none, or where the system does not tell."""
    return bfloat16_unit(CPUINFO.read_text(encoding="utf-8", errors="replace")) if CPUINFO.is_file() else ""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that its processes may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    return any(DEVICES.glob("nvidia[0-9]*")) or (DEVICES / "dxg").exists()  # dxg: under Windows


def this_machine(cluster: ClusterConfig) -> Machine:
    """What workers would run on if they were started on this machine."""
    gpu = has_gpu() if cluster.device == "auto" else cluster.device == "gpu"
    return Machine("gpu") if gpu else Machine("cpu", cpu_unit())


def joins_cluster(cluster: ClusterConfig) -> bool:
    """Whether the workers run on a cluster that is there already, whose machines may be others than this one."""
    return bool(cluster.address or os.environ.get("RAY_ADDRESS"))


def settle(cfg: RunConfig, machine: Machine, begun_in: str = "") -> tuple[RunConfig, str]:
    """(the config with a dtype in place of auto, one line that says what was chosen and why).

    begun_in: the precision that the run's folder was begun in, which it keeps whatever the machine. Raises BadInput for
    float16 without a GPU: DeepSpeed trains in it on GPUs alone.
    """
    asked = cfg.model.dtype
    if asked == AUTO:
        dtype = begun_in or machine.dtype
        why = "what was begun goes on in its precision" if begun_in else machine.reason
        line = f"model.dtype=auto is {dtype}: {why}"
    else:
        dtype, line = asked, f"model.dtype={asked}"
    if dtype == FLOAT16 and machine.device != "gpu":
        raise BadInput("model.dtype=float16 trains on GPUs alone; use model.dtype=auto")
    if dtype == BFLOAT16 and machine.device == "cpu" and not machine.unit:
        line += "; this CPU has no bfloat16 unit, so a step takes several times as long as in float32"
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype)), line
