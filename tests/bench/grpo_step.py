"""Seconds of one GRPO step, Aha against TRL, in the same settings, alternately. See README.md.

.venv/bin/python tests/bench/grpo_step.py [--model small|smollm2|both] [--rounds N] [--only aha|trl]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from common import BENCH, PHASES, REPO, Settings

from rl.settings.precision import Machine, cpu_unit

HERE = Path(__file__).resolve().parent
TRL_VENV = BENCH / "trl-venv"
TRL_LIST = HERE / "trl-requirements.txt"
ROUNDS = {"small": 3, "smollm2": 1}
STEPS = {"small": 2, "smollm2": 1}
LIMIT_S = {"small": 900, "smollm2": 3600}  # bound on one process
TRL_MICRO_BATCH = {"small": 16, "smollm2": 8}  # README.md
AHA_MICRO_BATCH_TOKENS = {"small": 16384, "smollm2": 4096}


def trl_python() -> Path:
    """TRL's environment, made on first use and again when its list changes."""
    python, stamp = TRL_VENV / "bin" / "python", TRL_VENV / "installed.txt"
    if stamp.exists() and stamp.read_text() == TRL_LIST.read_text():
        return python
    print(f"installing TRL's environment into {TRL_VENV.relative_to(REPO)}", flush=True)
    log = BENCH / "trl-install.log"
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(TRL_LIST)]
    with log.open("w") as stream:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(TRL_VENV)], check=True, stdout=stream)
        # CPU torch comes from where pip is already told to look, or else from the index that launch/setup.sh is told.
        index = os.environ.get("AHA_TORCH_INDEX")
        for extra in ([], *([["--extra-index-url", index]] if index else [])):
            if subprocess.run([*pip, *extra], stdout=stream, stderr=subprocess.STDOUT, timeout=1800).returncode == 0:
                stamp.write_text(TRL_LIST.read_text())
                return python
    raise SystemExit(f"TRL's environment could not be installed: read {log}")


def environment(threads: int) -> dict[str, str]:
    """The same variables for both sides; nobody phones home."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(REPO), str(HERE)]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def run_bounded(command: list[str], log: Path, limit_s: float, env: dict[str, str]) -> None:
    """Run a process of its own group, its output into log. Raises SystemExit when it fails or exceeds limit_s."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=REPO, env=env, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit_s)
        except BaseException as stop:  # also Ctrl-C and SIGTERM: leave nothing running
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(stop, subprocess.TimeoutExpired):
                raise SystemExit(f"{' '.join(command)}: not done after {limit_s} s; read {log}") from None
            raise
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise SystemExit(f"{' '.join(command)}: exit code {code}: {' '.join(last)} (all of it: {log})")


def busy_share(seconds: float = 2.0) -> float:
    """Share of the machine's processor time that others use while this waits."""

    def ticks() -> tuple[int, int]:
        values = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]  # all, idle and waiting for a disk

    (all_before, idle_before), _ = ticks(), time.sleep(seconds)
    all_after, idle_after = ticks()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def wait_for_quiet(limit_s: float) -> float:
    """Wait until others use less than a tenth of the machine, at most limit_s; return the last share seen."""
    end = time.monotonic() + limit_s
    while (share := busy_share()) > 0.1 and time.monotonic() < end:
        time.sleep(5)
    return share


def prepare(model: str, args: argparse.Namespace) -> tuple[Settings, Path]:
    """The model, the prompts and the settings of one benchmark, in .bench/<model>."""
    folder = BENCH / model
    folder.mkdir(parents=True, exist_ok=True)
    base = Settings(model, "", "", "")
    log = folder / "prepare.log"
    command = [
        sys.executable, str(HERE / "prepare.py"), model, str(folder), str(args.prompts), str(base.max_prompt_tokens)
    ]  # fmt: skip
    run_bounded(command, log, 300, environment(args.threads))
    made = json.loads(log.read_text().strip().splitlines()[-1])
    settings = Settings(
        model=f"{model} ({made['parameters'] / 1e6:.1f} M parameters)",
        model_dir=made["model_dir"],
        prompts_file=str(folder / "prompts.jsonl"),
        prompts_source=made["prompts_source"],
        prompts=args.prompts,
        max_new_tokens=args.max_new_tokens,
        threads=args.threads,
        dtype=Machine("cpu", cpu_unit()).dtype if args.dtype == "auto" else args.dtype,
        steps=args.steps or STEPS[model],
        trl_micro_batch=args.trl_micro_batch or TRL_MICRO_BATCH[model],
        trl_weights=args.trl_weights,
        trl_continuous_batching=args.trl_continuous_batching,
        aha_micro_batch_tokens=args.aha_micro_batch_tokens or AHA_MICRO_BATCH_TOKENS[model],
    )
    return settings, folder


def measure(model: str, args: argparse.Namespace) -> dict[str, object]:
    """Run one model's rounds, alternately; returns the report that print_table reads."""
    settings, folder = prepare(model, args)
    settings_file = folder / "settings.json"
    settings.write(settings_file)
    print("\n" + "\n".join([*settings.in_words(), f"the CPU's bfloat16 unit: {cpu_unit() or 'none'}"]), flush=True)
    sides = [args.only] if args.only else ["aha", "trl"]
    interpreters = {"aha": sys.executable, "trl": ""}
    if "trl" in sides:
        interpreters["trl"] = str(trl_python())
    runs: dict[str, list[dict]] = {side: [] for side in sides}  # type: ignore[type-arg]
    for round_number in range(1, (args.rounds or ROUNDS[model]) + 1):
        for side in sides:
            result = folder / f"{side}-{round_number}.json"
            result.unlink(missing_ok=True)
            command = [interpreters[side], str(HERE / f"{side}_side.py"), str(settings_file), str(result)]
            busy = wait_for_quiet(args.wait_for_quiet)
            run_bounded(command, result.with_suffix(".log"), args.limit or LIMIT_S[model], environment(args.threads))
            runs[side].append({**json.loads(result.read_text()), "busy_before": busy, "busy_after": busy_share()})
            totals = ", ".join(f"{step['seconds']['total']:.1f}" for step in runs[side][-1]["steps"])
            others = max(runs[side][-1][key] for key in ("busy_before", "busy_after"))
            remark = f"; OTHERS USED {others:.0%} OF THE MACHINE, do not trust this" if others > 0.1 else ""
            print(f"  round {round_number}, {side}: {totals} s a step{remark}", flush=True)
    return {
        "model": model,
        "settings": json.loads(settings_file.read_text()),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "bfloat16 unit": cpu_unit() or "none",
        },
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "summary": {side: summarise(runs[side], settings) for side in sides},
        "runs": runs,
    }


def summarise(results: list[dict], settings: Settings) -> dict[str, object]:  # type: ignore[type-arg]
    """Medians over all measured steps of one side. Raises SystemExit when the sides did not do the work they should."""
    steps = [step for result in results for step in result["steps"]]
    for step in steps:
        if not step["grad_norm"] > 0:
            raise SystemExit(f"{results[0]['side']}: a measured step had gradient norm {step['grad_norm']}")
        if step["trained_rollouts"] < 0.9 * settings.rollouts:
            raise SystemExit(f"{results[0]['side']}: only {step['trained_rollouts']} of {settings.rollouts} trained")
    median = statistics.median
    return {
        "seconds": {phase: median(step["seconds"][phase] for step in steps) for phase in (*PHASES, "total")},
        "range": [min(step["seconds"]["total"] for step in steps), max(step["seconds"]["total"] for step in steps)],
        "detail": {part: median(step["detail"].get(part, 0.0) for step in steps) for part in steps[0]["detail"]},
        "completion_tokens": median(step["completion_tokens"] for step in steps),
        "trained_rollouts": median(step["trained_rollouts"] for step in steps),
        "steps": len(steps),
        "peak_rss_mib": max(result["peak_rss_mib"] for result in results),
        "versions": results[0]["versions"],
        "notes": results[0]["notes"],
        "ratios": {name: median(result["ratios"][name] for result in results) for name in results[0]["ratios"]},
    }


def print_table(report: dict) -> None:  # type: ignore[type-arg]
    """Seconds a step by phase, both sides and the ratio."""
    summary = report["summary"]
    sides = list(summary)
    print(f"\n{report['settings']['model']}: seconds per step, median of {summary[sides[0]]['steps']}")
    both = len(sides) == 2
    print(f"{'':10}" + "".join(f"{side:>10}" for side in sides) + (f"{'TRL/Aha':>10}" if both else ""))
    for phase in (*PHASES, "total"):
        values = [summary[side]["seconds"][phase] for side in sides]
        ratio = f"{values[1] / values[0]:>10.1f}" if both and values[0] >= 0.005 and values[1] >= 0.005 else ""
        print(f"{phase:10}" + "".join(f"{value:>10.2f}" for value in values) + ratio)
    if both:
        aha, trl = ([s["seconds"]["total"] for run in report["runs"][side] for s in run["steps"]] for side in sides)
        print(f"ratio of totals, slowest and fastest pairing: {min(trl) / max(aha):.1f} to {max(trl) / min(aha):.1f}")
    for side in sides:
        s = summary[side]
        tokens, seconds = s["completion_tokens"], s["seconds"]
        parts = ", ".join(f"{name} {value:.2f}" for name, value in s["detail"].items())
        print(
            f"{side}: {tokens:.0f} tokens sampled ({tokens / seconds['rollout']:.0f}/s), {s['trained_rollouts']:.0f} "
            f"rollouts trained, totals {s['range'][0]:.1f} to {s['range'][1]:.1f} s, peak of its main process {s['peak_rss_mib']:.0f} MiB; "
            f"{'; '.join(s['notes'])}\n     parts: {parts}\n     "
            + ", ".join(f"{name} {version}" for name, version in s["versions"].items())
        )
        for name, value in s["ratios"].items():
            print(f"     {name}: {value:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=("small", "smollm2", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=0, help="processes per side (default: small 3, smollm2 1)")
    parser.add_argument("--only", choices=("aha", "trl"), default="", help="measure one side")
    parser.add_argument("--steps", type=int, default=0, help="measured steps a process (default: small 2, smollm2 1)")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="compute precision of both sides"
    )
    parser.add_argument("--trl-micro-batch", type=int, default=0, help="rollouts in one forward and backward of TRL")
    parser.add_argument(
        "--trl-weights", choices=("float32", "bfloat16"), default="float32", help="TRL's master weights"
    )
    parser.add_argument("--trl-continuous-batching", action="store_true", help="TRL's other way to generate")
    parser.add_argument("--aha-micro-batch-tokens", type=int, default=0)
    parser.add_argument("--wait-for-quiet", type=float, default=60, help="wait so long for an idle machine, seconds")
    parser.add_argument("--limit", type=float, default=0, help="bound on one process, seconds")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # so that run_bounded ends its process
    BENCH.mkdir(exist_ok=True)
    for model in ("small", "smollm2") if args.model == "both" else (args.model,):
        report = measure(model, args)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = BENCH / f"grpo_step-{model}-{stamp}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print_table(report)
        print(f"written to {path.relative_to(REPO)}", flush=True)


if __name__ == "__main__":
    main()
