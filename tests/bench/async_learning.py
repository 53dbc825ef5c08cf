"""What is learnt from rollouts that are some steps old, with each correction: held-out accuracy after training.

    .venv/bin/python tests/bench/async_learning.py                                # the quickstart: 26 runs
    .venv/bin/python tests/bench/async_learning.py --recipe recipes/countdown.py --seeds 1,2
    .venv/bin/python tests/bench/async_learning.py --staleness 0,4 --corrections none,sampler --seeds 1

staleness 0 is synchronous, 1 overlapped, more asynchronous. Corrections: none (the learner's logprobs and no weight,
which `aha run` refuses), truncate and mask (the learner's logprobs, importance weights up to 2), sampler (the sampler's
logprobs in the ratio). Every run is a real one. Results are kept in .bench/async_learning; given again, the command goes
on after the last run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
OUT = ROOT / ".bench" / "async_learning"
CORRECTIONS = {
    "none": ("grpo.old_logprobs=learner", "grpo.importance=none"),
    "truncate": ("grpo.old_logprobs=learner", "grpo.importance=token_truncate"),
    "mask": ("grpo.old_logprobs=learner", "grpo.importance=token_mask"),
    "sampler": ("grpo.old_logprobs=sampler", "grpo.importance=none"),
}


def inside(arguments: Sequence[str]) -> None:
    """`aha` with these arguments, which does not refuse what is known to collapse: that is to be seen."""
    from rl.settings import config_checks

    config_checks._staleness_faults = lambda cfg: []
    from launch.cli import main as aha

    sys.argv = ["aha", *arguments]
    aha()


def mode(staleness: int) -> tuple[str, ...]:
    return (f"rollout.staleness={staleness}", f"rollout.in_flight={str(staleness > 1).lower()}")


def accuracies(run: Path) -> dict[int, float]:
    """Steps -> held-out pass@1."""
    files = sorted((run / "evals").glob("step_*.json"))
    return {int(f.stem.removeprefix("step_")): json.loads(f.read_text())["pass_at_1"] for f in files}


def outcome(recipe: str, staleness: int, correction: str, seed: int, more: Sequence[str]) -> dict[str, float | str]:
    """pass@1 before and after, or why there is none."""
    name = f"{Path(recipe).stem}-{staleness}-{correction}-{seed}"
    folder, kept = OUT / name, OUT / f"{name}.json"
    if kept.exists():
        found: dict[str, float | str] = json.loads(kept.read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    words = ["run", recipe, f"out={folder}", "name=run", f"seed={seed}", "track.gauges=false", *mode(staleness)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--inside", *words, *CORRECTIONS[correction], *more]
    with (folder / "log").open("ab") as log:
        code = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=environment, check=False).returncode
    scores = accuracies(folder / "run")
    found = {
        "before": scores.get(0, 0.0),
        "after": scores[max(scores)] if scores else 0.0,
        "steps": max(scores, default=0),
    }
    if code:
        lines = (folder / "log").read_text(errors="replace").splitlines()
        found["failed"] = next((line for line in reversed(lines) if "aha: " in line), f"exit code {code}")
    kept.write_text(json.dumps(found))
    shutil.rmtree(folder)
    return found


def cell(found: Sequence[dict[str, float | str]]) -> str:
    """Mean of the seeds and the two ends; which failed."""
    good = [100 * float(f["after"]) for f in found if "failed" not in f]
    failed = len(found) - len(good)
    said = f"{statistics.fmean(good):.1f} ({min(good):.1f} to {max(good):.1f})" if good else ""
    return said + (f" {failed} failed" if failed else "")


def main() -> None:
    if "--inside" in sys.argv[:2]:
        inside(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.py")
    parser.add_argument("--staleness", default="0,1,2,4")
    parser.add_argument("--corrections", default=",".join(CORRECTIONS))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("more", nargs="*", help="Further settings, as grpo.steps=20.")
    options = parser.parse_args()
    ages = [int(number) for number in options.staleness.split(",")]
    seeds = [int(number) for number in options.seeds.split(",")]
    OUT.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[int, str], list[dict[str, float | str]]] = {}
    corrections = options.corrections.split(",")
    for seed, staleness, correction in itertools.product(seeds, ages, corrections):
        # On fresh rollouts all of the learner's corrections are one and the same.
        own = correction if staleness or correction == "sampler" else "truncate"
        result = outcome(options.recipe, staleness, own, seed, options.more)
        found.setdefault((staleness, correction), []).append(result)
        print(f"seed {seed}, staleness {staleness}, {correction}: {json.dumps(result)}", flush=True)
    print(f"\nheld-out pass@1 after training, %, mean over seeds {options.seeds} (smallest to largest)\n")
    print(f"| staleness | {' | '.join(corrections)} |\n|---|{'---|' * len(corrections)}")
    for staleness in ages:
        print(f"| {staleness} | {' | '.join(cell(found[staleness, c]) for c in corrections)} |")


if __name__ == "__main__":
    main()
