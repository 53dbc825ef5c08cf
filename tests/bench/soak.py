"""Runs 2,000 GRPO steps of the tiny recipe, and shows what grows: memory, open files, threads, object store, disk.

    .venv/bin/python tests/bench/soak.py                 # about an hour; the same command goes on after a stop
    .venv/bin/python tests/bench/soak.py --steps 300     # minutes

A process has leaked when its memory at the end exceeds that at step 100 (--first) by more than a tenth and 64 MiB, or when it
holds more than 8 open files or threads more. Files of a run grow with its steps on purpose; they are shown per step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".bench" / "soak"
MIB = 1 << 20
SETTINGS = (
    "sft.steps=20", "grpo.prompts_per_step=4", "grpo.group_size=4", "rollout.max_new_tokens=32",
    "evaluation.every=200", "evaluation.data.limit=16", "checkpoint.every=50",
    # After so little SFT hardly an answer is right: with another reward every step has something to learn.
    "rewards.0.function=tests.integration.helpers:digit_share",
)  # fmt: skip
ROLES = {
    "driver": r"launch\.cli run",
    "learner": r"ray::LearnerHost",
    "sampler": r"ray::SamplerHost|EngineCore",
    "reward worker": r"ray::RewardWorker",
    "reward process": r"spawn_main|forkserver",
    "raylet": r"raylet/raylet",
    "head": r"gcs/gcs_server",
}


@dataclass(frozen=True)
class Held:
    """What the processes of one role hold together. memory: resident, in MiB."""

    processes: int
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Snapshot:
    """After a step. object_store: MiB of shared memory that it has used. disk: MiB, by folder. step_seconds: median of the last 50 steps."""

    step: int
    held: dict[str, Held]
    object_store: float
    disk: dict[str, float]
    step_seconds: float


def held_by(processes: Sequence[psutil.Process]) -> dict[str, Held]:
    sums: dict[str, list[float]] = {}
    for process in processes:
        try:
            line = " ".join(process.cmdline()) or process.name()
            role = next((role for role, pattern in ROLES.items() if re.search(pattern, line)), "")
            if role:
                one = (1, process.memory_info().rss / MIB, process.num_fds(), process.num_threads())
                sums[role] = [a + b for a, b in zip(sums.get(role, [0] * 4), one, strict=True)]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return {role: Held(int(n), memory, int(files), int(threads)) for role, (n, memory, files, threads) in sums.items()}


def disk_of(folder: Path) -> dict[str, float]:
    """MiB of each entry of the run folder, the biggest first."""
    sizes = {}
    for entry in folder.iterdir():
        files = [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]
        sizes[entry.name] = sum(f.stat().st_size for f in files) / MIB
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def records(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [r for r in (json.loads(line) for line in lines if line.endswith("}")) if r["stage"] == "grpo"]


def object_store_used(processes: Sequence[psutil.Process]) -> float:
    """MiB of shared memory that Ray's raylets hold: the pages of the object store that were ever used."""
    raylets = [p for p in processes if re.search(ROLES["raylet"], " ".join(p.cmdline()))]
    return float(sum(p.memory_info().shared for p in raylets)) / MIB


def snapshot(step: int, run: psutil.Process, folder: Path) -> Snapshot:
    everything = [run, *run.children(recursive=True)]
    seconds = sorted(r["seconds"] for r in records(folder)[-50:])
    return Snapshot(
        step, held_by(everything), object_store_used(everything), disk_of(folder), seconds[len(seconds) // 2]
    )


def watch(steps: int, first: int) -> list[Snapshot]:
    """Run, or go on, and take a snapshot at the first step that counts, then every tenth of the run."""
    folder, kept = OUT / "tiny", OUT / "snapshots.json"
    at = sorted(n for n in {first, *(i * steps // 10 for i in range(1, 10)), steps - 2} if first <= n < steps)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    run = [
        sys.executable,
        "-m",
        "launch.cli",
        "run",
        str(ROOT / "recipes" / "tiny.py"),
        f"out={OUT}",
        f"grpo.steps={steps}",
    ]
    found: list[Snapshot] = []
    with (OUT / "log").open("ab") as log:
        process = subprocess.Popen([*run, *SETTINGS], stdout=log, stderr=log, cwd=ROOT, env=environment)
        while process.poll() is None:
            done = len(records(folder)) if folder.exists() else 0
            if at and done >= at[0]:
                at = [step for step in at if step > done]
                found.append(snapshot(done, psutil.Process(process.pid), folder))
                kept.write_text(json.dumps([asdict(s) for s in found], indent=1))
                print(line(found[-1]), flush=True)
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}; see {OUT / 'log'}")
    return found


def line(s: Snapshot) -> str:
    memory = ", ".join(f"{role} {held.memory:,.0f}" for role, held in s.held.items())
    return f"step {s.step}: MiB {memory}, object store {s.object_store:,.0f}; {s.step_seconds:.2f} s a step"


def leaks(first: Snapshot, last: Snapshot) -> list[str]:
    out = []
    for role, now in last.held.items():
        then = first.held.get(role, Held(0, 0.0, 0, 0))
        if now.memory > 1.1 * then.memory + 64:
            out.append(f"{role}: memory {then.memory:,.0f} -> {now.memory:,.0f} MiB")
        out += [
            f"{role}: {what} {a} -> {b}"
            for what, a, b in (("open files", then.files, now.files), ("threads", then.threads, now.threads))
            if b > a + 8
        ]
    if last.object_store > first.object_store + 64:
        out.append(f"object store: {first.object_store:,.0f} -> {last.object_store:,.0f} MiB")
    return out


def table(found: Sequence[Snapshot]) -> str:
    first, last = found[0], found[-1]
    rows = [f"| | step {first.step} | step {last.step} |", "|---|---:|---:|"]
    for role in last.held:
        a, b = first.held.get(role, Held(0, 0.0, 0, 0)), last.held[role]
        rows += [
            f"| {role} ({b.processes}): resident MiB | {a.memory:,.0f} | {b.memory:,.0f} |",
            f"| open files, threads | {a.files}, {a.threads} | {b.files}, {b.threads} |",
        ]
    rows.append(f"| object store, MiB | {first.object_store:,.0f} | {last.object_store:,.0f} |")
    rows.append(f"| seconds a step (median of 50) | {first.step_seconds:.2f} | {last.step_seconds:.2f} |")
    for name, size in list(last.disk.items())[:4]:
        rows.append(
            f"| disk: {name}, KiB a step | {1024 * first.disk.get(name, 0) / first.step:,.1f} | {1024 * size / last.step:,.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--first", type=int, default=100, help="The step with which the end is compared.")
    options = parser.parse_args()
    if options.steps < 2 * options.first:
        parser.error(f"--steps: at least {2 * options.first}, twice --first")
    OUT.mkdir(parents=True, exist_ok=True)
    found = watch(options.steps, options.first)
    if not found:
        raise SystemExit("the run is complete; to run it again, delete .bench/soak")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "launch.cli", "report", str(OUT / "tiny")], check=True, cwd=ROOT)
    print(f"\n{table(found)}\n\naha report on it: {time.perf_counter() - begun:.1f} s.", end=" ")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores.")
    grown = leaks(found[0], found[-1])
    print("Nothing grew." if not grown else "GREW: " + "; ".join(grown))
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
