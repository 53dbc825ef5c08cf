"""How good `aha plan` is on this machine: predicted learner memory and step time beside measured ones.

python tests/bench/plan_accuracy.py [--only NAME] [--steps 3] [--no-calibrate]

Three random Llamas of 3, 45 and 303 million parameters, ZeRO 1 (one rank) and ZeRO 3 (two ranks, with a reference),
each in real learner actors. Memory: VmHWM of the actor, the largest of its life. Time: the median wall clock of a
training step, after one that is not counted. Beside it stands the actors' processor time a core: what the step would
take if nobody else used the machine. Exit code 1: a prediction is off by more than 15 % (memory) or 25 % (time).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from launch.plan.hardware import GIB, Hardware, calibrated, this_machine  # noqa: E402
from launch.plan.memory import LearnerShape, learner_memory  # noqa: E402
from launch.plan.model import Architecture, read_config  # noqa: E402
from launch.plan.time import Passes, update_time  # noqa: E402
from launch.plan.trial import spec_of, train_here  # noqa: E402
from launch.plan.trial_rank import random_groups, write_model  # noqa: E402
from rl.backend import Task  # noqa: E402
from rl.config import (  # noqa: E402
    ClusterConfig,
    GRPOConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from rl.data.packing import pack  # noqa: E402
from rl.types import PackedBatch  # noqa: E402

MEMORY_BOUND, TIME_BOUND = 0.15, 0.25
PROMPT, COMPLETION, GROUP = 32, 96, 4
"""Every rollout has these lengths."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def llama(
    name: str, vocab: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int
) -> Architecture:
    """Its head is its embedding."""
    return Architecture(
        name, "this bench", "llama", hidden, intermediate, layers, heads, kv_heads, hidden // heads, vocab, tied=True
    )


# Each with the tokens of its micro-batches.
MODELS = (
    (llama("3M", 2048, 192, 512, 6, 3, 3), 2048),
    (llama("45M", 16384, 512, 1536, 12, 8, 2), 2048),
    (llama("303M", 32000, 1024, 2816, 24, 16, 4), 512),
)


@dataclass(frozen=True)
class Case:
    """tokens: of a micro-batch. micro_batches: of each rank in a step."""

    model: Architecture
    tokens: int
    stage: int
    ranks: int
    kl: float
    micro_batches: int = 2

    @property
    def name(self) -> str:
        return f"{self.model.name} ZeRO-{self.stage}"


def cases() -> list[Case]:
    both = ((1, 1, 0.0), (3, 2, 0.001))
    return [Case(model, tokens, stage, ranks, kl) for model, tokens in MODELS for stage, ranks, kl in both]


def config_of(case: Case, folder: Path, dtype: str) -> RunConfig:
    return RunConfig(
        model=ModelConfig(path=str(folder), dtype=dtype),
        grpo=GRPOConfig(kl_coef=case.kl, max_logprob_gap=1000.0, importance="none"),
        learner=LearnerConfig(ranks=case.ranks, zero_stage=case.stage, micro_batch_tokens=case.tokens),
        cluster=ClusterConfig(device="cpu", cpus_per_worker=0.1),
    )


def batch(case: Case, cfg: RunConfig, seed: int) -> list[PackedBatch]:
    count = case.micro_batches * case.tokens // (PROMPT + COMPLETION) * case.ranks // GROUP
    groups = random_groups(count, GROUP, PROMPT, COMPLETION, case.model.vocab, seed)
    return pack(groups, grpo=cfg.grpo, learner=cfg.learner, max_new_tokens=COMPLETION, layout="rows", seed=0)


# ------------------------------------------------------------------------------------------------ measuring


def learner_pids() -> list[int]:
    """Processes of the learner actors that this process started, through Ray."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "LearnerHost" in _read(Path(f"/proc/{child.pid}/cmdline"))]


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # the process has ended meanwhile
        return ""


def status_bytes(pid: int, key: str) -> int:
    """A line of /proc/PID/status, bytes: VmHWM is the largest resident size so far, VmRSS today's."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise SystemExit(f"learner process {pid} ended before it was measured")


def processor_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@dataclass(frozen=True)
class Measured:
    peak: float
    base: float
    seconds: float
    processor_s: float


def measure(case: Case, cfg: RunConfig, steps: int) -> Measured:
    """Start the learners, train, and read their memory and time."""
    from rl.workers.cluster.ray_backend import RayBackend

    backend = RayBackend(cfg)
    try:
        backend.start(cfg.model.path, 256, samplers=False)
        pids = learner_pids()
        if len(pids) != case.ranks:
            raise SystemExit(f"{case.name}: found {len(pids)} learner processes, not {case.ranks}")
        base = max(status_bytes(pid, "VmRSS") for pid in pids)
        backend.load(Task(cfg.model.path, OptimConfig(lr=1e-5), 100, cfg.grpo))
        backend.step(batch(case, cfg, 0))
        seconds, processor = [], []
        for seed in range(1, steps + 1):
            data = batch(case, cfg, seed)
            before, begin = sum(processor_seconds(pid) for pid in pids), time.perf_counter()
            backend.step(data)
            seconds.append(time.perf_counter() - begin)
            processor.append(sum(processor_seconds(pid) for pid in pids) - before)
        peak = max(status_bytes(pid, "VmHWM") for pid in pids)
    finally:
        backend.close()
    cores = len(os.sched_getaffinity(0))
    return Measured(float(peak), float(base), statistics.median(seconds), statistics.median(processor) / cores)


def predict(case: Case, cfg: RunConfig, hw: Hardware) -> tuple[float, float]:
    """(bytes at the peak of a rank, seconds of a step)."""
    arch = read_config(Path(cfg.model.path))
    total = case.tokens * case.micro_batches * case.ranks
    scored_share = COMPLETION / (PROMPT + COMPLETION)
    shape = LearnerShape(
        dtype=cfg.model.dtype, zero_stage=case.stage, ranks=case.ranks, tokens=case.tokens,
        scored=int(case.tokens * scored_share), chunk=cfg.learner.logprob_chunk_tokens, checkpointing=False,
        reference=case.kl > 0, packed=False,
    )  # fmt: skip
    work = Passes(
        tokens=total, scored=total * scored_share, mean_length=PROMPT + COMPLETION, forwards=int(case.kl > 0),
        updates=1, micro_batches=case.micro_batches,
    )  # fmt: skip
    spec = spec_of(arch, shape, work.mean_length, scored_share, hw)
    trial = train_here(spec) if spec else None
    return learner_memory(arch, shape, hw).peak, update_time(arch, shape, work, hw, trial).seconds


# ------------------------------------------------------------------------------------------------ main


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="how a case's name begins, for example 45M")
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="compute precision")
    options.add_argument("--no-calibrate", action="store_true", help="take the rates of launch/plan/gpus.toml")
    args = options.parse_args()
    os.chdir(REPO)
    hw = this_machine() if args.no_calibrate else calibrated(this_machine())
    print(f"{hw.name}: {hw.source}; load {os.getloadavg()[0]:.1f}", flush=True)
    dtype = hw.machine.dtype if args.dtype == "auto" else args.dtype
    chosen = [case for case in cases() if case.name.startswith(args.only)]
    worst_memory, worst_time, rows = 0.0, 0.0, []
    print(f"{'':16}{'memory, MiB':>31}{'step, s':>44}\n{'case':16}{'predicted':>10}{'measured':>10}{'ratio':>8}{'base':>8}"
          f"{'predicted':>12}{'measured':>10}{'ratio':>8}{'processor':>11}{'ratio':>8}{'load':>7}", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for case in chosen:
            folder = Path(scratch) / case.model.name
            if not folder.exists():
                write_model(case.model, folder)
            cfg = dataclasses.replace(config_of(case, folder, dtype), out=scratch)
            memory, seconds = predict(case, cfg, hw)
            seen = measure(case, cfg, args.steps)
            of_memory, of_time, of_processor = memory / seen.peak, seconds / seen.seconds, seconds / seen.processor_s
            mib = GIB / 1024
            print(
                f"{case.name:16}{memory / mib:>10,.0f}{seen.peak / mib:>10,.0f}{of_memory:>8.2f}{seen.base / mib:>8,.0f}"
                f"{seconds:>12.2f}{seen.seconds:>10.2f}{of_time:>8.2f}{seen.processor_s:>11.2f}{of_processor:>8.2f}"
                f"{os.getloadavg()[0]:>7.1f}", flush=True,
            )  # fmt: skip
            rows.append(
                {"case": case.name, "predicted_bytes": memory, "predicted_s": seconds} | dataclasses.asdict(seen)
            )
            worst_memory, worst_time = max(worst_memory, abs(of_memory - 1)), max(worst_time, abs(of_time - 1))
    print(f"largest error: memory {worst_memory:.0%} (bound {MEMORY_BOUND:.0%}), time {worst_time:.0%} "
          f"(bound {TIME_BOUND:.0%})")  # fmt: skip
    print(json.dumps(rows))
    sys.exit(int(worst_memory > MEMORY_BOUND or worst_time > TIME_BOUND))


if __name__ == "__main__":
    main()
