"""Kills parts of a small run at many moments, and checks that each time the same command ends with the same weights.

    .venv/bin/python tests/bench/kill_matrix.py                     # 98 runs and the undisturbed one: two hours
    .venv/bin/python tests/bench/kill_matrix.py --victims driver,sampler --moments sync --signals KILL

Every run is the real one (Ray, vLLM, DeepSpeed) in a folder of its own. A run passes when it ends by itself with the
weights of the undisturbed run, or ends in a named error (for a stop that was asked of the driver: with exit code 130)
within its bound, and the same command, given again, ends with those weights. Results are kept in .bench/kill_matrix;
given again, the command goes on after the last run.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".bench" / "kill_matrix"
PROCESSES = {
    "learner": "ray::LearnerHost",
    "sampler": "ray::SamplerHost",
    "reward worker": "ray::RewardWorker",
    "raylet": "raylet/raylet",
    "head": "gcs/gcs_server",
}
"""What the command line of a victim holds. The driver is the command itself, a reward process a reward worker's child."""
VICTIMS = ("driver", *PROCESSES, "reward process")
MOMENTS = {"start": 1, "rollout": 2, "step": 2, "sync": 3, "save": 2, "evaluation": 2, "end": 1}
"""At which occurrence of a phase of GRPO the victim is killed; the third sync is the one after the second step."""
SIGNALS = ("KILL", "TERM")
MARK = "AHA_KILL_MATRIX"
"""An environment variable that all processes of a case inherit, by which those that stay behind are known."""
BOUND_S = 600
"""No run may take longer, killed or not."""
SETTINGS = (
    "sft.steps=6", "sft.examples_per_step=16", "grpo.steps=4", "grpo.prompts_per_step=4", "grpo.group_size=4",
    "evaluation.every=2", "evaluation.data.limit=8", "evaluation.samples=2", "checkpoint.every=2",
    "rollout.max_new_tokens=32", "cluster.sync_timeout_s=120", "cluster.rollout_timeout_s=120",
    "cluster.step_timeout_s=120", "track.gauges=false",
    # After so little SFT no answer is right: with another reward there is something to learn, and weights move.
    "rewards.0.function=tests.integration.helpers:digit_share",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    victim: str
    moment: str
    signal: str

    @property
    def name(self) -> str:
        return f"{self.victim}-{self.moment}-{self.signal}".replace(" ", "_")


@dataclass(frozen=True)
class Outcome:
    """code: of the run that was disturbed. said: its last line. passed: with the weights of the undisturbed run."""

    name: str
    code: int
    said: str
    seconds: float
    again: bool
    left_behind: int
    passed: bool
    why: str


# ------------------------------------------------------------------------------------------------ inside the run


def inside(marks: str, arguments: Sequence[str]) -> None:
    """`aha` with these arguments, which writes when it enters and leaves each phase of GRPO into the file marks."""
    sys.path.insert(0, str(ROOT))
    from rl.rollouts.queue import RolloutQueue
    from rl.stages import grpo
    from rl.workers.cluster.ray_backend import RayBackend

    file = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def marked(owner: object, name: str, phase: str) -> None:
        function = vars(owner)[name]

        def call(*args: object, **kwargs: object) -> object:
            os.write(file, f"{time.monotonic()} enter {phase}\n".encode())
            try:
                return function(*args, **kwargs)
            finally:
                os.write(file, f"{time.monotonic()} leave {phase}\n".encode())

        setattr(owner, name, call)

    for owner, name, phase in (
        (RayBackend, "start", "start"), (RolloutQueue, "take", "rollout"), (grpo, "evaluate_once", "evaluation"),
        (RayBackend, "sync_weights", "sync"), (grpo, "train_grpo", "grpo"),
    ):  # fmt: skip
        marked(owner, name, phase)
    for name, phase in (("step", "step"), ("save", "save"), ("export", "end")):
        setattr(RayBackend, name, vars(_parents(RayBackend)[name])[name])
        marked(RayBackend, name, phase)
    from launch.cli import main

    sys.argv = ["aha", *arguments]
    main()


def _parents(kind: type) -> dict[str, type]:
    """Which class of the kind's ancestors defines each name."""
    return {name: cls for cls in reversed(kind.__mro__) for name in vars(cls)}


def moments_in(marks: Path) -> list[tuple[float, str, str]]:
    """(second, "enter" or "leave", phase) of all that has happened, of GRPO alone but for the start."""
    lines = [line.split() for line in marks.read_text().splitlines()] if marks.exists() else []
    found = [(float(second), kind, phase) for second, kind, phase in (line for line in lines if len(line) == 3)]
    begun = next((i for i, (_, kind, phase) in enumerate(found) if (kind, phase) == ("enter", "grpo")), len(found))
    return [mark for i, mark in enumerate(found) if i > begun or mark[2] == "start"]


# ------------------------------------------------------------------------------------------------ one case


def command(folder: Path) -> list[str]:
    run = ["run", str(ROOT / "recipes" / "tiny.py"), f"out={folder}", *SETTINGS]
    return [sys.executable, __file__, "--inside", str(folder / "marks"), *run]


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "marks").unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), MARK: str(folder)}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command(folder), stdout=log, stderr=log, cwd=ROOT, env=environment, process_group=0)


def weights(folder: Path, model: str = "model") -> str:
    """A hash of the final weights, "" where there are none. model: or of "sft", before GRPO."""
    files = sorted((folder / "tiny" / model).glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16] if files else ""


def victim_of(driver: psutil.Process, victim: str) -> psutil.Process | None:
    if victim == "driver":
        return driver
    found = {}
    for process in driver.children(recursive=True):
        try:
            found[process] = " ".join(process.cmdline()) or process.name()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    if victim != "reward process":
        return next((process for process, line in found.items() if PROCESSES[victim] in line), None)
    worker = next((process for process, line in found.items() if PROCESSES["reward worker"] in line), None)
    return next(
        (p for p in found if worker is not None and "resource_tracker" not in found[p] and worker in p.parents()), None
    )


def disturb(process: subprocess.Popen[bytes], case: Case, marks: Path, delay: float) -> str:
    """Wait for the moment and send the signal. Returns "" or why it was not sent."""
    deadline, driver = time.monotonic() + BOUND_S, psutil.Process(process.pid)
    while sum(kind == "enter" and phase == case.moment for _, kind, phase in moments_in(marks)) < MOMENTS[case.moment]:
        if process.poll() is not None or time.monotonic() > deadline:
            return f"the moment never came (exit code {process.returncode})"
        time.sleep(0.005)
    time.sleep(delay)
    while process.poll() is None and time.monotonic() < deadline:
        if victim := victim_of(driver, case.victim):
            victim.send_signal(signal.Signals[f"SIG{case.signal}"])
            return ""
        time.sleep(0.02)
    return f"there was no {case.victim} to kill"


def finish(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code, or None when the run had to be ended after its bound."""
    try:
        return process.wait(BOUND_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def left_behind(folder: Path) -> int:
    """How many processes of the case are still there 20 s after its run has ended."""
    end = time.monotonic() + 20
    while (count := sum(belongs(process, folder) for process in psutil.process_iter())) and time.monotonic() < end:
        time.sleep(0.5)
    return count


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def last_line(folder: Path) -> str:
    lines = [line for line in (folder / "log").read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def examine(case: Case, expected: str, durations: dict[str, float], seed: int) -> Outcome:
    folder, rng = OUT / case.name, random.Random(f"{seed} {case.name}")
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.monotonic()
    process = start(folder)
    why = disturb(process, case, folder / "marks", rng.random() * durations[case.moment])
    code = finish(process)
    said, left = last_line(folder), left_behind(folder)
    again = not why and code not in (0, None)
    if code is None:
        why = f"it neither ended nor failed within {BOUND_S} s"
    elif again:
        asked = case.victim == "driver"
        named = code in (1, 2, 130) and "aha: " in said
        if not named and not (asked and case.signal == "KILL" and code == -signal.SIGKILL):
            why = f"exit code {code} without a named error"
        process = start(folder)
        second = finish(process)
        if second != 0:
            why = f"run again, it ended with {second}: {last_line(folder)}"
    if not why and weights(folder) != expected:
        why = f"weights {weights(folder) or 'missing'} instead of {expected}"
    if not why and left:
        why = f"{left} processes were left behind"
    passed = not why
    if passed:
        shutil.rmtree(folder)
    return Outcome(case.name, -1000 if code is None else code, said, time.monotonic() - begun, again, left, passed, why)


# ------------------------------------------------------------------------------------------------ all cases


def undisturbed() -> tuple[str, dict[str, float]]:
    """(the weights' hash, the usual length of each phase in seconds)."""
    folder, kept = OUT / "undisturbed", OUT / "undisturbed.json"
    if kept.exists():
        saved = json.loads(kept.read_text())
        return saved["weights"], saved["durations"]
    shutil.rmtree(folder, ignore_errors=True)
    if finish(start(folder)) != 0:
        raise SystemExit(f"the undisturbed run failed: {last_line(folder)}; see {folder / 'log'}")
    if not weights(folder):
        raise SystemExit(f"the undisturbed run left no weights in {folder}, so nothing can be compared with them")
    if weights(folder) == weights(folder, "sft"):
        raise SystemExit("GRPO did not move the weights, so equal weights would prove nothing")
    durations: dict[str, list[float]] = collections.defaultdict(list)
    entered: dict[str, float] = {}
    for second, kind, phase in moments_in(folder / "marks"):
        if kind == "enter":
            entered[phase] = second
        elif phase in entered:
            durations[phase].append(second - entered.pop(phase))
    means = {phase: sum(values) / len(values) for phase, values in durations.items()}
    kept.write_text(json.dumps({"weights": weights(folder), "durations": means}))
    return weights(folder), means


def cases(options: argparse.Namespace) -> Iterator[Case]:
    chosen = (options.victims.split(","), options.moments.split(","), options.signals.split(","))
    for names, known in zip(chosen, (VICTIMS, tuple(MOMENTS), SIGNALS), strict=True):
        if unknown := [name for name in names if name not in known]:
            raise SystemExit(f"{', '.join(unknown)}: unknown; there are {', '.join(known)}")
    for moment, victim, kind in itertools.product(chosen[1], chosen[0], chosen[2]):
        yield Case(victim, moment, kind)


def table(outcomes: Sequence[Outcome]) -> str:
    """Victims by moments: of how many runs how many passed."""
    by = {outcome.name: outcome for outcome in outcomes}
    head = ["victim", *MOMENTS]
    rows = [f"| {' | '.join(head)} |", "|---" + "|---:" * len(MOMENTS) + "|"]
    for victim in VICTIMS:
        found = [[by[n] for s in SIGNALS if (n := Case(victim, m, s).name) in by] for m in MOMENTS]
        cells = [f"{sum(o.passed for o in of)} of {len(of)}" if of else "" for of in found]
        rows.append(f"| {victim} | {' | '.join(cells)} |")
    resumed = sum(o.again for o in outcomes)
    rows.append(
        f"\n{sum(o.passed for o in outcomes)} of {len(outcomes)} passed; {len(outcomes) - resumed} went on by themselves, "
        f"{resumed} ended in a named error or as asked and were given the same command again. "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores."
    )
    return "\n".join(rows)


def main() -> None:
    if "--inside" in sys.argv[:2]:
        inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", default=",".join(VICTIMS), help="Some of: " + ", ".join(VICTIMS))
    parser.add_argument("--moments", default=",".join(MOMENTS), help="Some of: " + ", ".join(MOMENTS))
    parser.add_argument("--signals", default=",".join(SIGNALS), help="Some of: KILL, TERM")
    parser.add_argument("--seed", type=int, default=1, help="Of the moments inside a phase.")
    parser.add_argument("--limit", type=int, default=10**9, help="Stop after so many runs; the same command goes on.")
    parser.add_argument("--again", action="store_true", help="Forget the runs that did not pass, and run them again.")
    parser.add_argument("--fresh", action="store_true", help="Forget all that was run, and begin anew.")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / "outcomes.jsonl"
    done = [Outcome(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    if options.again:
        done = [outcome for outcome in done if outcome.passed]
        kept.write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in done))
    expected, durations = undisturbed()
    print(f"undisturbed: weights {expected}", flush=True)
    todo = [case for case in cases(options) if case.name not in {outcome.name for outcome in done}]
    for i, case in enumerate(todo[: options.limit], 1):
        outcome = examine(case, expected, durations, options.seed)
        done.append(outcome)
        with kept.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        verdict = "passed" if outcome.passed else f"FAILED: {outcome.why}"
        print(f"{i}/{len(todo)} {case.name}: {verdict}; {outcome.seconds:.0f} s; it said: {outcome.said}", flush=True)
    print(table(done))
    sys.exit(0 if all(outcome.passed for outcome in done) else 1)


if __name__ == "__main__":
    main()
