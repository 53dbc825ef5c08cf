"""Checks one NVIDIA GPU in under ten minutes: what of Aha can be shown on a single card.

    python -m tests.gpu                    all checks on the card; a report in tests-gpu.json
    python -m tests.gpu --device cpu       the same code on a CPU, as far as it means something there
    python -m tests.gpu --only head,models

It needs torch and transformers. Checks that need DeepSpeed, vLLM or Ray are skipped where these are not installed. Each
check runs in a process of its own: after a CUDA error a process cannot go on, and one that hangs is stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.gpu.report import Outcome, Report, Skipped

LIMIT_S = 570.0
CHECKS = {
    "versions": ("tests.gpu.kernels:versions", 60),
    "attention": ("tests.gpu.kernels:attention", 60),
    "shared_prompts": ("tests.gpu.kernels:shared_prompts", 60),
    "head": ("tests.gpu.kernels:head", 60),
    "checksums": ("tests.gpu.kernels:checksums", 40),
    "models": ("tests.gpu.models:layouts", 90),
    "ipc": ("tests.gpu.processes:ipc", 60),
    "learner": ("tests.gpu.training:zero_stages", 180),
    "streams": ("tests.gpu.training:other_stream", 90),
    "reward_model": ("tests.gpu.models:reward_model", 60),
    "speed": ("tests.gpu.models:speed", 90),
    "sampler": ("tests.gpu.whole:sampler", 150),
    "recipe": ("tests.gpu.whole:tiny_recipe", 240),
}
"""Name -> (function, seconds that it may take), in the order in which they run."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="", help="names of checks, separated by commas: " + ", ".join(CHECKS))
    parser.add_argument("--out", default="tests-gpu.json", help="where the report is written")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        Path(args.out).write_text(json.dumps(run_here(args.child, args.device)))
        return 0
    names = args.only.split(",") if args.only else list(CHECKS)
    unknown = sorted(set(names) - set(CHECKS))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: the checks are {', '.join(CHECKS)}")
    if args.device == "cuda" and not has_card():
        print(
            "no GPU: torch sees no CUDA device here, so nothing was checked. On a machine with a card, run this again; "
            "--device cpu runs the checks' own code on a CPU"
        )
        return 2
    report = Report(Path(args.out), args.device)
    for name in names:
        report.add(run_apart(name, args.device, LIMIT_S - (time.monotonic() - report.started)))
    print(f"\n{report.summary()}; {args.out}")
    return 1 if report.count("failed") else 0


def has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def run_apart(name: str, device: str, left_s: float) -> Outcome:
    """Run a check in a process of its own, for at most its limit and the time that is left."""
    limit = min(CHECKS[name][1] * (1 if device == "cuda" else 5), left_s)
    if limit < 5:
        return Outcome(name, "skipped", reason=f"the ten minutes are over; run it with --only {name}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "tests.gpu", "--child", name, "--device", device, "--out", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return Outcome(name, "failed", time.monotonic() - start, reason=f"did not end within {limit:.0f} s")
        seconds = time.monotonic() - start
        if not out.exists():
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            return Outcome(name, "failed", seconds, reason=f"its process died: {last[0]}")
        found = json.loads(out.read_text())
    return Outcome(name, found["status"], seconds, found["figures"], found["reason"])


def run_here(name: str, device: str) -> dict[str, object]:
    """Run a check in this process. A check's errors are what this command is there to report."""
    module, function = CHECKS[name][0].split(":")
    try:
        figures = getattr(importlib.import_module(module), function)(device)
    except Skipped as skipped:
        return {"status": "skipped", "figures": {}, "reason": str(skipped)}
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {"status": "failed", "figures": {}, "reason": reason}
    return {"status": "passed", "figures": figures, "reason": ""}


if __name__ == "__main__":
    sys.exit(main())
