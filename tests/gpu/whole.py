"""A whole run on the card, with Ray, vLLM and DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.gpu.report import Figures, Skipped, require


def tiny_recipe(device: str) -> Figures:
    """recipes/tiny.py learns on the card: SFT, weight syncs, sampling, GRPO, checkpoints."""
    missing = [name for name in ("ray", "vllm", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"out={folder}", "grpo.steps=2", "sft.steps=20", "evaluation.data.limit=8"]
        settings += (
            ["model.dtype=bfloat16", "cluster.device=gpu", "cluster.weight_transfer=ipc"] if device == "cuda" else []
        )
        start = time.monotonic()
        command = [sys.executable, "-m", "launch.cli", "run", "recipes/tiny.py", *settings]
        done = subprocess.run(command, capture_output=True, text=True)
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        require(done.returncode == 0, f"aha run ended with {done.returncode}: {' '.join(last)}")
        rows = [json.loads(line) for line in (Path(folder) / "tiny" / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["gap_mean"] for row in rows if "gap_mean" in row]
    return {"seconds": time.monotonic() - start, "steps with a gap": len(gaps), "largest mean gap, nats": max(gaps)}
