"""The hardware of a plan: from the table in gpus.toml, from this machine, or measured here with --calibrate."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rl.settings.precision import HALF, Machine, cpu_unit
from rl.types import AhaError, BadInput

TABLE = Path(__file__).with_name("gpus.toml")
CALIBRATION_TIMEOUT_S = 120
GIB = float(1 << 30)


@dataclass(frozen=True)
class Efficiency:
    """Which shares of the peak rates a run reaches, and the times that do not depend on the amount of work."""

    train_flops: float
    prefill_flops: float
    decode_flops: float
    decode_bandwidth: float
    copy_bandwidth: float
    wire: float
    decode_step_s: float
    decode_layer_eager_s: float
    decode_layer_graph_s: float
    decode_sequence_s: float
    sample_entry_s: float
    bucket_s: float
    sync_s: float


@dataclass(frozen=True)
class MemoryModel:
    """Memory beside the model's: libraries, and what the allocator keeps (a share of the temporary tensors).

    asleep_gib: what a sampler still holds of its GPU while it sleeps.
    """

    base_gib: float
    slack_share: float
    sampler_base_gib: float
    asleep_gib: float = 0.0


@dataclass(frozen=True)
class Hardware:
    """One device (a GPU, or a machine's CPU) and how many there are. Rates in FLOP/s and bytes/s."""

    name: str
    kind: str
    source: str
    memory_gib: float
    bf16: float
    fp32: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    nodes: int
    devices_per_node: int
    efficiency: Efficiency
    memory: MemoryModel
    cores: int = 0
    measured: bool = False
    """The rates were measured now, and what else a plan needs may be."""

    @property
    def on_gpu(self) -> bool:
        return self.kind == "gpu"

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_per_node

    @property
    def machine(self) -> Machine:
        """The kind of machine, which decides model.dtype=auto."""
        return Machine(self.kind, "" if self.on_gpu else cpu_unit())

    def flops(self, dtype: str) -> float:
        return self.bf16 if dtype in HALF else self.fp32

    def wire(self, ranks: int) -> float:
        """Bytes per second that each of this many ranks sends in a ring, inside a node or between nodes.

        Between nodes, NCCL lays rings through all network cards at once, so a ring gets the rate of all cards together.
        """
        between = min(self.link_bandwidth, self.network_bandwidth * self.devices_per_node)
        return (self.link_bandwidth if ranks <= self.devices_per_node else between) * self.efficiency.wire


@cache
def table() -> dict:
    return tomllib.loads(TABLE.read_text())


def gpu_names() -> list[str]:
    return list(table()["gpus"])


def sources() -> dict[str, str]:
    """Where each share and time comes from: 'gpu train_flops' -> text."""
    return {
        f"{kind} {name.removesuffix('_source')}": text
        for section in ("efficiency", "memory")
        for kind, values in table()[section].items()
        for name, text in values.items()
        if name.endswith("_source")
    }


def find_hardware(name: str, *, nodes: int, gpus_per_node: int, calibrate: bool = False) -> Hardware:
    """name: a GPU of the table, or 'cpu' for this machine's processor. Raises BadInput on an unknown name."""
    if min(nodes, gpus_per_node) < 1:
        raise BadInput(f"--nodes={nodes} --gpus-per-node={gpus_per_node}: both must be at least 1")
    if name == "cpu":
        machine = this_machine(nodes)
        return calibrated(machine) if calibrate else machine
    if calibrate:
        raise BadInput(f"--calibrate measures this machine's processor, not a {name}; use it with --gpu cpu")
    gpus = {known.lower(): known for known in gpu_names()}
    if name.lower() not in gpus:
        near = difflib.get_close_matches(name.lower(), gpus, n=1, cutoff=0.2)
        hint = f"; did you mean {gpus[near[0]]}?" if near else ""
        raise BadInput(
            f"--gpu {name}: not in launch/plan/gpus.toml, which has {', '.join(gpus.values())} and cpu{hint}"
        )
    known = gpus[name.lower()]
    row = table()["gpus"][known]
    return Hardware(
        name=known,
        kind="gpu",
        source=row["source"],
        memory_gib=row["memory_gib"],
        bf16=row["bf16"] * 1e12,
        fp32=row["fp32"] * 1e12,
        memory_bandwidth=row["memory_gbs"] * 1e9,
        link_bandwidth=row["link_gbs"] * 1e9,
        network_bandwidth=row["network_gbs"] * 1e9,
        nodes=nodes,
        devices_per_node=gpus_per_node,
        efficiency=_efficiency("gpu"),
        memory=_memory("gpu"),
    )


def this_machine(nodes: int = 1) -> Hardware:
    """This machine's CPU: its cores and memory as the system reports them, with rates per core from the table."""
    row, cores = table()["cpu"], len(os.sched_getaffinity(0))
    bf16 = row["bf16_a_core"] if cpu_unit() else row["bf16_a_core_without_unit"]
    return Hardware(
        name=f"this machine, {cores} core{'s' if cores > 1 else ''}",
        kind="cpu",
        source=row["source"],
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        bf16=bf16 * cores * 1e12,
        fp32=row["fp32_a_core"] * cores * 1e12,
        memory_bandwidth=row["copy_gbs"] * 1e9,
        link_bandwidth=row["copy_gbs"] * 1e9,
        network_bandwidth=1.25e9,
        nodes=nodes,
        devices_per_node=1,
        efficiency=_efficiency("cpu"),
        memory=_memory("cpu"),
        cores=cores,
    )


def calibrated(machine: Hardware) -> Hardware:
    """The same with rates measured now, in another process, because this one loads no torch. Takes seconds.

    Raises AhaError when the process fails or takes longer than CALIBRATION_TIMEOUT_S.
    """
    command = [sys.executable, "-m", "launch.plan.calibrate", str(machine.cores)]
    try:
        done = subprocess.run(
            command, cwd=TABLE.parents[2], capture_output=True, text=True, timeout=CALIBRATION_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise AhaError(f"--calibrate: nothing measured within {CALIBRATION_TIMEOUT_S} s; plan without it") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise AhaError(f"--calibrate: the measuring process failed ({last}); plan without it") from error
    rates = json.loads(done.stdout.splitlines()[-1])
    load = os.getloadavg()[0]
    busy = f"; {load:.0f} other processes wanted {machine.cores} cores meanwhile" if load > machine.cores + 1 else ""
    return replace(
        machine,
        source=f"measured now: {rates['bf16'] / 1e9:,.0f} GFLOP/s in bf16, {rates['fp32'] / 1e9:,.0f} in float32, "
        f"copies {rates['copy'] / 1e9:.1f} GB/s{busy}",
        bf16=rates["bf16"],
        fp32=rates["fp32"],
        memory_bandwidth=rates["copy"],
        link_bandwidth=rates["copy"],
        measured=True,
    )


def _efficiency(kind: str) -> Efficiency:
    return Efficiency(**{k: v for k, v in table()["efficiency"][kind].items() if not k.endswith("_source")})


def _memory(kind: str) -> MemoryModel:
    return MemoryModel(**{k: v for k, v in table()["memory"][kind].items() if not k.endswith("_source")})
