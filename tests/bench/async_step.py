"""How long a step takes when learner and sampler work at the same time, with a thread each, and who waits for whom.

    .venv/bin/python tests/bench/async_step.py step      # against max(rollout, training) and against their sum
    .venv/bin/python tests/bench/async_step.py tail      # 3 % of the prompts have completions 16 times as long
    .venv/bin/python tests/bench/async_step.py memory    # resident memory at step 50 and at step 500

Each is a series of real runs (Ray, vLLM, DeepSpeed) of the tiny recipe's model without SFT; completions have fixed
lengths, so that all modes do the same work. Results are kept in .bench/async_step; given again, the command goes on
after the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
OUT = ROOT / ".bench" / "async_step"
WARM_UP = 2
"""Steps that are not counted: the first compile and fill the queue."""
LENGTHS = "AHA_BENCH_LENGTHS"
"""SHORT,LONG,EVERY: every EVERY-th draw has completions of LONG tokens, the others of SHORT; EVERY 0: none is long."""
BASE = (
    "sft.steps=0", "evaluation.data.source=", "grpo.prompts_per_step=16", "grpo.group_size=8", "learner.threads=1",
    "sampler.threads=1", "learner.share_prompts=false", "grpo.max_logprob_gap=100", "checkpoint.every=1000",
    "track.gauges=false", "track.rollouts=false",
)  # fmt: skip
SYNCHRONOUS, OVERLAPPED = ("rollout.staleness=0",), ("rollout.staleness=1",)


def asynchronous(staleness: int, cache: str = "recompute") -> tuple[str, ...]:
    return (f"rollout.staleness={staleness}", "rollout.in_flight=true", f"rollout.cache={cache}")


# ------------------------------------------------------------------------------------------------ inside the run


def inside(arguments: Sequence[str]) -> None:
    """`aha` with these arguments, where completions have the lengths that LENGTHS says."""
    from rl.model.pretrained import load_config
    from rl.workers.cluster.ray_backend import RayBackend

    short, long, every = (int(number) for number in os.environ[LENGTHS].split(","))
    submit = RayBackend.submit

    def of_fixed_lengths(self, requests, params, arrived) -> None:  # type: ignore[no-untyped-def]
        words = range(load_config(self.model_path).vocab_size)
        only = tuple(token for token in words if token not in params.stop_token_ids)
        for tokens, is_long in ((short, False), (long, True)):
            some = [r for r in requests if (every > 0 and r.group % every == every - 1) == is_long]
            if some:
                submit(self, some, replace(params, max_new_tokens=tokens, only=only), arrived)

    RayBackend.submit = of_fixed_lengths  # type: ignore[method-assign]
    from launch.cli import main as aha

    sys.argv = ["aha", *arguments]
    aha()


# ------------------------------------------------------------------------------------------------ one run


def run(name: str, settings: Sequence[str], lengths: tuple[int, int, int], steps: int) -> list[dict[str, float]]:
    """The metrics of each GRPO step, the driver's resident GiB (driver_gib) among them."""
    folder, kept = OUT / name, OUT / f"{name}.jsonl"
    if kept.exists():
        return [json.loads(line) for line in kept.read_text().splitlines()]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = ["run", str(ROOT / "recipes" / "tiny.py"), f"out={folder}", f"grpo.steps={steps}", *BASE, *settings]
    words += [f"rollout.max_new_tokens={max(lengths)}"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), LENGTHS: ",".join(map(str, lengths))}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--inside", *words], stdout=log, stderr=log, cwd=ROOT, env=environment
        )
    driver, metrics, held = psutil.Process(process.pid), folder / "tiny" / "metrics.jsonl", dict[int, float]()
    while process.poll() is None:
        done = metrics.read_text().count('"stage": "grpo"') if metrics.exists() else 0
        try:
            held.setdefault(done - 1, driver.memory_info().rss / 2**30)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    if process.wait() != 0:
        raise SystemExit(f"{name} failed; see {folder / 'log'}")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    records = [r | {"driver_gib": held.get(r["step"], 0.0)} for r in records if r["stage"] == "grpo"]
    kept.write_text("".join(json.dumps(r) + "\n" for r in records))
    shutil.rmtree(folder)
    return records


def mean(records: Sequence[dict[str, float]], name: str) -> float:
    return statistics.fmean(r.get(name, 0.0) for r in records[WARM_UP:])


# ------------------------------------------------------------------------------------------------ the three series


def step(options: argparse.Namespace) -> None:
    lengths = (options.short, options.short, 0)
    found = {
        name: run(f"step-{name}", settings, lengths, options.steps)
        for name, settings in (
            ("synchronous", SYNCHRONOUS), ("overlapped", OVERLAPPED), ("asynchronous-1", asynchronous(1)),
            ("asynchronous-2", asynchronous(2)),
        )
    }  # fmt: skip
    plain = found["synchronous"]
    rollout, update = mean(plain, "seconds/rollout"), mean(plain, "seconds/update") + mean(plain, "seconds/sync")
    print(f"\nsynchronous: rollout {rollout:.2f} s, training and sync {update:.2f} s; a thread each\n")
    print("| mode | s a step | of max(rollout, training) | of their sum |\n|---|---:|---:|---:|")
    for name, records in found.items():
        seconds = mean(records, "seconds")
        print(f"| {name} | {seconds:.2f} | {seconds / max(rollout, update):.2f} | {seconds / (rollout + update):.2f} |")


def tail(options: argparse.Namespace) -> None:
    lengths = (options.short, 16 * options.short, 33)
    modes = [("synchronous", SYNCHRONOUS), ("overlapped", OVERLAPPED)]
    modes += [
        (f"asynchronous-{n}-{cache}", asynchronous(n, cache)) for n in (1, 2, 4) for cache in ("recompute", "keep")
    ]
    print(
        "\n| mode | s a step | the learner waits | the sampler idles | age of a token, steps |\n|---|---:|---:|---:|---:|"
    )
    for name, settings in modes:
        records = run(f"tail-{name}", settings, lengths, options.steps)
        seconds = mean(records, "seconds")
        idle = f"{mean(records, 'samplers/idle_share'):.0%}" if name != "synchronous" else ""
        age = mean(records, "rollout/staleness_tokens" if name != "synchronous" else "rollout/staleness_mean")
        print(f"| {name} | {seconds:.2f} | {mean(records, 'seconds/rollout') / seconds:.0%} | {idle} | {age:.2f} |")


def memory(options: argparse.Namespace) -> None:
    steps = max(options.steps, 4)
    records = run(f"memory-{steps}", asynchronous(2), (options.short, options.short, 0), steps)
    print("\n| GiB | " + " | ".join(f"step {n}" for n in (steps // 10, steps)) + " |\n|---|---:|---:|")
    for name in ("driver_gib", "memory/learner_gib", "memory/sampler_gib"):
        early, late = records[steps // 10 - 1], records[-1]
        print(f"| {name} | {early[name]:.3f} | {late[name]:.3f} |")


def main() -> None:
    if "--inside" in sys.argv[:2]:
        inside(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "tail", "memory"))
    parser.add_argument("--steps", type=int, default=0, help="Of each run; by default 12, and 500 for memory.")
    parser.add_argument("--short", type=int, default=12, help="Tokens of a completion that is not long.")
    parser.add_argument("--fresh", action="store_true", help="Forget what was run.")
    options = parser.parse_args()
    options.steps = options.steps or (500 if options.what == "memory" else 12)
    if options.fresh:
        shutil.rmtree(OUT, ignore_errors=True)
    {"step": step, "tail": tail, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
