"""Verdicts per second of the rewards, each alone in one process and through a reward worker's processes; texts per
second of the search for contamination.

What runs alone is measured in processor time, the rest by the clock.

    .venv/bin/python tests/bench/rewards_throughput.py [--data ../shared/data]

Needs GSM8K, MATH-500 and MGSM under --data; what is not there is left out. The sandbox needs bubblewrap.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from rewards.accuracy import accuracy
from rewards.code import code_accuracy
from rewards.language import language_consistency
from rewards.types import Score
from rl.config import RewardConfig, ScoringConfig
from rl.data.contamination import find_contamination
from rl.types import Prompt, Rollout, RolloutGroup
from tests.unit.hostile_answers import GOLDS, HOSTILE

REPO = Path(__file__).resolve().parents[2]
Case = tuple[str, str]  # completion, reference
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=REPO.parent / "shared" / "data")
    data = parser.parse_args().data
    print(f"{'':40}{'a second':>10}{'wanted':>10}{'cases':>8}")
    if (data / "gsm8k").is_dir():
        cases = gsm8k(data / "gsm8k" / "test.jsonl")
        report("accuracy, GSM8K", alone(lambda c: accuracy(c[0], answer=c[1]), cases), 5000, len(cases))
        report("accuracy, GSM8K, reward worker", through_worker(cases), None, len(cases))
    if (data / "math500").is_dir():
        rows = [json.loads(line) for line in (data / "math500" / "math500.jsonl").read_text().splitlines()]
        golds = [row["answer"] for row in rows]
        own = [(row["solution"], row["answer"]) for row in rows]
        others = [(f"\\boxed{{{golds[i - 1]}}}", gold) for i, gold in enumerate(golds)]
        accuracy(r"\boxed{\sqrt{2}}", answer=r"\sqrt{3}")  # imports mpmath
        report(
            "accuracy, MATH-500, right and wrong", alone(lambda c: accuracy(c[0], answer=c[1]), own + others), 500, 1000
        )
    hostile()
    if (data / "mgsm").is_dir():
        texts = mgsm(data / "mgsm")
        language_consistency(texts[0], target="en")  # loads the classifier
        found = alone(lambda text: language_consistency(text, target="en"), texts)
        report("language_consistency, MGSM", found, 1500, len(texts))
        if (data / "math500").is_dir():
            texts = [row["solution"] for row in rows]
            for name, target in (("formulas", "en"), ("formulas, none given", "")):
                found = alone(lambda text, target=target: language_consistency(text, target=target), texts)
                report(f"language_consistency, {name}", found, None, len(texts))
    if (data / "gsm8k").is_dir():
        contamination(data / "gsm8k")
    if shutil.which("bwrap"):
        report("code_accuracy, four at once", sandbox(120), 30, 120)


def report(name: str, found: float, wanted: float | None, cases: int) -> None:
    print(f"{name:40}{found:>10,.0f}{wanted or '':>10}{cases:>8}", flush=True)


def contamination(folder: Path) -> None:
    """GSM8K's test problems, and problems of a few words, looked for in its training set."""
    tests, training = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()] for name in ("test", "train")
    )
    texts = [f"{row['question']} {row['answer']}" for row in training]
    short = [f"What is {i} + {i + 3}?" for i in range(500)]
    for name, problems in (("GSM8K", [row["question"] for row in tests]), ("short problems", short)):
        start = time.process_time()
        find_contamination(problems, texts)
        report(f"contamination, {name}", len(texts) / (time.process_time() - start), None, len(texts))


def hostile() -> None:
    """Answers made to take long, each against several references: none may take a second."""
    slowest = {f"{answer[:40]} for {gold}": seconds(answer, gold) for answer in HOSTILE for gold in GOLDS}
    case = max(slowest, key=slowest.__getitem__)
    report("accuracy, hostile answers, slowest", 1 / slowest[case], 1, len(slowest))


def seconds(answer: str, gold: str) -> float:
    start = time.process_time()
    accuracy(f"<answer>{answer}</answer>", answer=gold)
    return time.process_time() - start


def alone(reward: Callable[[T], Score], cases: Sequence[T]) -> float:
    start = time.process_time()
    for case in cases:
        reward(case)
    return len(cases) / (time.process_time() - start)


def through_worker(cases: list[Case]) -> float:
    """Groups of 8 samples, many at once, as the loop sends them."""
    from rl.scoring.reward_processes import RewardWorker

    worker = RewardWorker((RewardConfig("accuracy"),), ScoringConfig(processes=os.cpu_count() or 1))
    worker.start()
    groups = []
    for i in range(0, len(cases), 8):
        rollouts_G = [
            Rollout(np.zeros(1, np.int32), np.zeros(1, np.float32), text, "stop", 1.0, 0, 0)
            for text, _ in cases[i : i + 8]
        ]
        groups.append(RolloutGroup(Prompt(i, i, [1], "", cases[i][1], {}), rollouts_G))
    with ThreadPoolExecutor(8) as threads:
        start = time.perf_counter()
        list(threads.map(lambda group: worker.call_rewards(group, ["accuracy"]), groups))
        seconds = time.perf_counter() - start
    worker.close()
    return len(cases) / seconds


def sandbox(runs: int) -> float:
    program = "Here it is.\n```python\nprint(int(input()) + 1)\n```"
    tests = [{"input": "1", "output": "2"}, {"input": "41", "output": "42"}]
    code_accuracy(program, tests=tests)  # finds what to show of this machine, once a process
    with ThreadPoolExecutor(4) as threads:
        start = time.perf_counter()
        scores = list(threads.map(lambda _: code_accuracy(program, tests=tests), range(runs)))
        seconds = time.perf_counter() - start
    if any(score.value != 1.0 for score in scores):
        raise SystemExit(f"a right program did not pass: {scores[0]}")
    return runs / seconds


def gsm8k(path: Path) -> list[Case]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (f"<think>{row['answer']}</think> <answer>{row['answer'].rsplit('####')[-1].strip()}</answer>", row["answer"])
        for row in rows
    ]


def mgsm(folder: Path) -> list[str]:
    """The questions of every language, and the worked exemplars' texts."""
    texts = [line.split("\t")[0] for path in sorted(folder.glob("*.tsv")) for line in path.read_text().splitlines()]
    tree = ast.parse((folder / "exemplars.py").read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return texts + [text for text in strings if len(text) > 40]


if __name__ == "__main__":
    main()
