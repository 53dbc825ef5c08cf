"""Kills a small run with overlapped or asynchronous rollouts at random moments of its GRPO, saves and syncs included, and
checks that the same command then ends as it should.

    .venv/bin/python tests/bench/async_kills.py --mode overlapped --kills 20
    .venv/bin/python tests/bench/async_kills.py --mode asynchronous --staleness 2 --kills 20

Overlapped: the final weights are those of an undisturbed run. Asynchronous: the rollout files say that each draw was
trained on exactly once and in order, with the seeds of synchronous mode, and that no first token was older than the
bound. Every run is the real one (Ray, vLLM, DeepSpeed). Results are kept in .bench/async_kills; given again, the command
goes on after the last kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rl.context import sample_seed  # noqa: E402
from tests.bench.kill_matrix import BOUND_S, MARK, finish, last_line, left_behind, weights  # noqa: E402

OUT = ROOT / ".bench" / "async_kills"
STEPS, PROMPTS, SAMPLES, SEED = 8, 4, 4, 1
SETTINGS = (
    "sft.steps=6", "sft.examples_per_step=16", f"grpo.steps={STEPS}", f"grpo.prompts_per_step={PROMPTS}",
    f"grpo.group_size={SAMPLES}", "evaluation.every=4", "evaluation.data.limit=8", "evaluation.samples=2",
    "checkpoint.every=1", "rollout.max_new_tokens=48", "cluster.sync_timeout_s=120", "cluster.rollout_timeout_s=120",
    "cluster.step_timeout_s=120", "track.gauges=false", f"seed={SEED}",
    # After so little SFT no answer is right: with another reward there is something to learn, and weights move.
    "rewards.0.function=tests.integration.helpers:digit_share",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """after: seconds of GRPO before the kill. step: finished steps at that moment. why: "" when it passed."""

    number: int
    after: float
    step: int
    weights: str
    why: str


# ------------------------------------------------------------------------------------------------ what the files say


def audit(run: Path, steps: int, prompts: int, staleness: int, seed: int) -> str:
    """What is wrong with the rollout files of a finished run whose groups were all trained on; "" when nothing is."""
    import pyarrow.parquet as pq

    draws: list[int] = []
    for step in range(steps):
        path = run / "rollouts" / f"step_{step:06d}.parquet"
        if not path.exists():
            return f"step {step} left no rollouts"
        rows = pq.read_table(path, columns=["draw", "sample", "seed", "policy_version", "tokens"]).to_pylist()
        draws += dict.fromkeys(row["draw"] for row in rows)
        twice = [key for key, count in Counter((row["draw"], row["sample"]) for row in rows).items() if count > 1]
        if twice:
            return f"step {step}: draw {twice[0][0]}, sample {twice[0][1]} was trained on more than once"
        for row in rows:
            where = f"step {step}, draw {row['draw']}, sample {row['sample']}"
            if row["seed"] != sample_seed(seed, "grpo", row["draw"], row["sample"]):
                return f"{where}: its seed is {row['seed']}, not that of synchronous mode"
            if not 0 <= step - row["policy_version"] <= staleness:
                return f"{where}: first token from version {row['policy_version']}, older than {staleness}"
    wanted = list(range(steps * prompts))
    if draws != wanted:
        odd = sorted((Counter(draws) - Counter(wanted)) + (Counter(wanted) - Counter(draws)))
        return f"draws {odd or 'in another order'} were not trained on exactly once, in order"
    return ""


def oldest(run: Path) -> Counter[int]:
    """Age of the first token, in steps -> how many samples."""
    import pyarrow.parquet as pq

    ages: Counter[int] = Counter()
    for path in sorted((run / "rollouts").glob("step_*.parquet")):
        versions = pq.read_table(path, columns=["policy_version"])["policy_version"].to_pylist()
        ages.update(int(path.stem.removeprefix("step_")) - version for version in versions)
    return ages


# ------------------------------------------------------------------------------------------------ runs


def start(folder: Path, mode: tuple[str, ...]) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.cli", "run", "recipes/tiny.py", f"out={folder}", *SETTINGS, *mode]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), MARK: str(folder)}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment, process_group=0)


def weights_in(folder: Path) -> str:
    """A hash of a model's weights, as kill_matrix.weights has it of a run's."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def begun(folder: Path) -> bool:
    return (folder / "tiny" / "evals" / "step_000000.json").exists()


def steps_done(folder: Path) -> int:
    return len(list((folder / "tiny" / "rollouts").glob("step_*.parquet")))


def wait_until_begun(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + BOUND_S
    while not begun(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"GRPO never began: {last_line(folder)}; see {folder / 'log'}")
        time.sleep(0.02)


def undisturbed(name: str, mode: tuple[str, ...]) -> tuple[str, float]:
    """(the weights' hash, seconds from the first evaluation to the end)."""
    folder, kept = OUT / name / "undisturbed", OUT / name / "undisturbed.json"
    if kept.exists():
        saved = json.loads(kept.read_text())
        return saved["weights"], saved["seconds"]
    shutil.rmtree(folder, ignore_errors=True)
    process = start(folder, mode)
    wait_until_begun(process, folder)
    since = time.monotonic()
    if finish(process) != 0:
        raise SystemExit(f"the undisturbed run failed: {last_line(folder)}; see {folder / 'log'}")
    seconds = time.monotonic() - since
    if weights(folder) == weights_in(folder / "tiny" / "sft"):
        raise SystemExit("GRPO did not move the weights, so equal weights would prove nothing")
    kept.write_text(json.dumps({"weights": weights(folder), "seconds": seconds}))
    return weights(folder), seconds


def killed(number: int, name: str, mode: tuple[str, ...], staleness: int, seconds: float, seed: int) -> Outcome:
    folder = OUT / name / f"kill_{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    after = random.Random(f"{seed} {name} {number}").random() * seconds
    process = start(folder, mode)
    wait_until_begun(process, folder)
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step, why = steps_done(folder), ""
    if left := left_behind(folder):
        why = f"{left} processes were left behind"
    if (code := finish(start(folder, mode))) != 0:
        why = f"run again, it ended with {code}: {last_line(folder)}"
    why = why or audit(folder / "tiny", STEPS, PROMPTS, staleness, SEED)
    return Outcome(number, after, step, weights(folder), why)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("overlapped", "asynchronous"), default="overlapped")
    parser.add_argument("--staleness", type=int, default=1, help="With asynchronous: the bound.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="Of the moments.")
    options = parser.parse_args()
    in_flight = options.mode == "asynchronous"
    staleness = options.staleness if in_flight else 1
    mode = (f"rollout.staleness={staleness}", f"rollout.in_flight={str(in_flight).lower()}")
    name = f"{options.mode}-{staleness}"
    (OUT / name).mkdir(parents=True, exist_ok=True)
    expected, seconds = undisturbed(name, mode)
    print(f"undisturbed: weights {expected}, GRPO {seconds:.0f} s", flush=True)
    kept = OUT / name / "outcomes.jsonl"
    done = [Outcome(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    for number in range(len(done), options.kills):
        outcome = killed(number, name, mode, staleness, seconds, options.seed)
        if not in_flight and not outcome.why and outcome.weights != expected:
            outcome = Outcome(**asdict(outcome) | {"why": f"weights {outcome.weights} instead of {expected}"})
        done.append(outcome)
        with kept.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        said = f"FAILED: {outcome.why}" if outcome.why else "passed"
        print(f"{number}: killed {outcome.after:.1f} s into GRPO, {outcome.step} steps done: {said}", flush=True)
        if not outcome.why:
            ages = dict(sorted(oldest(OUT / name / f"kill_{number:03d}" / "tiny").items()))
            print(f"   age of the first tokens, steps -> samples: {ages}", flush=True)
            shutil.rmtree(OUT / name / f"kill_{number:03d}")
    passed = sum(not outcome.why for outcome in done)
    print(f"{options.mode}, staleness {staleness}: {passed} of {len(done)} passed")
    sys.exit(0 if passed == len(done) else 1)


if __name__ == "__main__":
    main()
