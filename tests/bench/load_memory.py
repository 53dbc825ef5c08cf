"""Peak memory of a learner's rank while it loads a model under ZeRO-3: whole on one rank, in shards on two.

    .venv/bin/python tests/bench/load_memory.py [--model models/SmolLM2-135M-Instruct] [--dtype bfloat16|float32]

Each rank is a process of its own. Exit code 1 when a rank that loads shards takes more than `aha plan` says: its float32
shards (a tied head's own among them) and three times the largest tensor; or when a load takes less than what stays of it,
which would be a wrong measure.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))
CASES = (("whole", 1), ("shards", 2))
TIMEOUT_S = 600
SLACK = 1.1
"""Of what is allowed: the allocator's, and transformers' own small objects."""


def status_mib(pid: int | str, name: str) -> float:
    """A line of /proc/PID/status that is given in kB, as MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return 0.0  # of a process that has just ended


def run_rank(how: str, rank: int, ranks: int, port: int, args: argparse.Namespace) -> None:
    """One rank, in this process. It prints its process id when it is ready, waits for a line, then loads."""
    import dataclasses

    import torch

    from recipes.tiny import recipe
    from rl.config import LoraConfig
    from rl.model.policy import UNSHARDED
    from rl.workers.learner.learner import Learner
    from rl.workflow.inputs import resolve_model

    signal.alarm(TIMEOUT_S)
    cfg = recipe()
    cfg = dataclasses.replace(
        cfg,
        learner=dataclasses.replace(cfg.learner, zero_stage=3, ranks=ranks, threads=1),
        model=dataclasses.replace(cfg.model, dtype=args.dtype),
    )
    learner = Learner(cfg, rank, "cpu", 1)
    learner.connect("127.0.0.1", port)
    if how == "whole":
        learner.loading = UNSHARDED
    plain = LoraConfig()
    learner._load_policy(resolve_model("recipes.tiny_model:tied"), torch.float32, plain)  # loads the libraries' code
    ctypes.CDLL(None).malloc_trim(0)  # what was freed so far would otherwise hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = status_mib("self", "VmRSS")
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    policy = learner._load_policy(args.model, torch.float32, plain)
    seconds, peak = time.perf_counter() - start, status_mib("self", "VmHWM") - before
    sizes = [vars(p).get("ds_numel", p.numel()) for p in policy.parameters()]
    head = policy.hf.get_input_embeddings().weight if policy.tied_names() else None
    tied = 0 if head is None else vars(head).get("ds_numel", head.numel())
    found = {"peak": peak, "seconds": seconds, "numbers": sum(sizes), "largest": max(sizes), "tied": tied}
    print(json.dumps(found), flush=True)
    sys.stdin.readline()  # no rank leaves while another still loads


def measure(how: str, ranks: int, args: argparse.Namespace) -> list[dict[str, float]]:
    """For each rank: peak (all resident memory) and own (without the checkpoint's mapped pages), MiB above the start."""
    from rl.workers.cluster.ray_calls import free_port

    port = str(free_port())
    env = os.environ | {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    options = ["--model", args.model, "--dtype", args.dtype]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--case", how, str(rank), str(ranks), port, *options],
            env=env, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip

    def watch() -> None:
        while not loaded.is_set():
            for rank, pid in enumerate(pids):
                own[rank] = max(own[rank], status_mib(pid, "RssAnon") - before[rank])
            time.sleep(0.002)

    try:
        pids = [int(_answer(process)["pid"]) for process in started]
        before = [status_mib(pid, "RssAnon") for pid in pids]
        own, loaded = [0.0] * ranks, threading.Event()
        for process in started:
            _say(process)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        answers = [_answer(process) for process in started]
        loaded.set()
        watcher.join()
        found = [answer | {"own": own[rank]} for rank, answer in enumerate(answers)]
        for process in started:
            _say(process)
        return found
    finally:
        for process in started:
            process.kill()
            process.wait()


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next line of JSON; what libraries print is skipped."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"a rank ended before it had loaded: run {' '.join(map(str, process.args))}")  # type: ignore[arg-type]


def report(found: dict[tuple[str, int], list[dict[str, float]]], args: argparse.Namespace) -> list[str]:
    """Print the table; return what is wrong with it."""
    first = found[CASES[0]][0]
    model, largest, head = (4 * first[name] / 2**20 for name in ("numbers", "largest", "tied"))
    print(f"{args.model}, {args.dtype}: {model:.0f} MiB in float32, its largest tensor {largest:.0f} MiB")
    print(f"{'':24}{'own memory':>14}{'with file pages':>18}{'allowed own':>14}{'seconds':>10}")
    faults = []
    for (how, ranks), ranks_R in found.items():
        allowed = SLACK * ((model + head) / ranks + 3 * largest if how == "shards" else model)
        for rank, one in enumerate(ranks_R):
            name = f"{how}, rank {rank} of {ranks}"
            print(
                f"{name:24}{one['own']:>10.0f} MiB{one['peak']:>14.0f} MiB{allowed:>10.0f} MiB{one['seconds']:>10.1f}"
            )
            if one["own"] > allowed:
                faults.append(f"{name} takes {one['own']:.0f} MiB, more than {allowed:.0f} MiB")
            if one["own"] < 0.9 * model / (ranks if how == "shards" else 1):
                faults.append(f"{name} takes only {one['own']:.0f} MiB: the measurement misses memory")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--case", nargs=4, metavar=("HOW", "RANK", "RANKS", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        how, *rest = args.case
        run_rank(how, *(int(text) for text in rest), args)
        return 0
    faults = report({case: measure(*case, args) for case in CASES}, args)
    print("\n".join(f"FAIL: {fault}" for fault in faults) or "ok: a rank takes what the plan says")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
