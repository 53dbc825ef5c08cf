"""How far the accuracy reward agrees with labelled answers, refuses near misses, and keeps the property of its tests.

    .venv/bin/python tests/bench/verdicts.py [--data ../shared/data] [--pairs 10000] [--seed 18]
    .venv/bin/python tests/bench/verdicts.py --against math-verify      # another verifier's word on the same answers

Needs GSM8K, MATH-500, AIME and MGSM under --data; what is not there is left out. Exits with 1 when a labelled answer is
refused, or a near miss or a changed expression is paid.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rewards.accuracy import accuracy, check_reference, reference_answer
from rewards.extract import final_answers, normalise
from rewards.quantities import parse_number
from tests.unit.made_expressions import pairs

REPO = Path(__file__).resolve().parents[2]
Row = tuple[str, str, str]  # question, a solution or an answer in tags, reference
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=REPO.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=10_000, help="random pairs, half of them equal")
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--against", choices=["math-verify"], help="compare with another verifier, and nothing else")
    args = parser.parse_args()
    if args.against:
        against_math_verify(args.data)
        return
    wrong: list[str] = []
    reasons: Counter[str] = Counter()
    print(f"{'':44}{'agree':>8}{'of':>8}{'slowest s':>12}")
    for name, rows in sets(args.data):
        report(f"{name}: labelled answers paid", [(*row, True) for row in rows], wrong)
        report(f"{name}: near misses refused", [case for row in rows for case in near_misses(row)], wrong)
        refused = [f"{gold}: {reason}" for _, _, gold in rows if (reason := check_reference(gold))]
        reasons.update(_kind(check_reference(gold)) for _, _, gold in rows)
        print(
            f"{name + ': references accepted':44}{len(rows) - len(refused):>8}{len(rows):>8}",
            *refused[:SHOWN],
            sep="\n  ",
        )
    made = [
        ("", f"<answer>{answer}</answer>", gold, equal) for gold, answer, equal in islice(pairs(args.seed), args.pairs)
    ]
    report("random expressions: equal ones paid", [case for case in made if case[3]], wrong)
    report("random expressions: others refused", [case for case in made if not case[3]], wrong)
    print("references by reason:", *(f"  {count:>6}  {reason}" for reason, count in reasons.most_common()), sep="\n")
    print("\n".join(wrong[:SHOWN]))
    raise SystemExit(1 if wrong else 0)


def report(name: str, cases: list[tuple[str, str, str, bool]], wrong: list[str]) -> None:
    agree, slowest = 0, 0.0
    for question, completion, gold, paid in cases:
        began = time.perf_counter()
        score = accuracy(completion, prompt=question, answer=gold)
        slowest = max(slowest, time.perf_counter() - began)
        agree += (score.value == 1) == paid
        if (score.value == 1) != paid:
            wrong.append(f"{name}: {gold!r}: {completion[-80:]!r}: {score}")
    print(f"{name:44}{agree:>8}{len(cases):>8}{slowest:>12.3f}", flush=True)


def _kind(reason: str | None) -> str:
    """A reason without what it says of one text: quoted parts and numbers."""
    return re.sub(r"[0-9]+", "N", re.sub(r"'[^']*'", "'..'", reason)) if reason else "accepted"


def against_math_verify(data: Path) -> None:
    """Every reference against itself, every labelled answer and every near miss: both verdicts, and where they differ.

    The label says who is right: labelled answers and references are right, near misses are wrong.
    """
    from math_verify import parse, verify  # an independent check: no reward uses it

    print(f"{'':44}{'both':>8}{'of':>8}{'ours right':>12}{'theirs right':>14}")
    for name, rows in sets(data):
        differ: Counter[str] = Counter()
        kinds = {
            "labelled answers": [(*row, True) for row in rows],
            "references": [(question, _tags(reference_answer(gold)), gold, True) for question, _, gold in rows],
            "near misses": [case for row in rows[:500] for case in near_misses(row)],
        }
        for kind, cases in kinds.items():
            both = ours_right = theirs_right = 0
            for question, completion, gold, paid in cases:
                ours = accuracy(completion, prompt=question, answer=gold).value == 1
                given = final_answers(completion, opened=False).answers[-1]
                theirs = bool(verify(parse(f"${reference_answer(gold)}$"), parse(f"${given}$")))
                both += ours == theirs
                ours_right += ours == paid
                theirs_right += theirs == paid
                if ours != theirs:
                    right = "ours" if ours == paid else "theirs"
                    differ[f"{right} right: {reference_answer(gold)!r}, answer {given[:60]!r}"] += 1
            print(f"{f'{name}: {kind}':44}{both:>8}{len(cases):>8}{ours_right:>12}{theirs_right:>14}", flush=True)
        print("\n".join(f"  {text}" for text in differ))


def near_misses(row: Row) -> Iterator[tuple[str, str, str, bool]]:
    """Answers that a careless verifier pays: a digit more, another sign, the next number, a rounding, a wrong power."""
    question, _, gold = row
    text = normalise(reference_answer(gold))
    number = parse_number(text)
    if number is None:
        texts = [f"{text} + 1", f"-({text})", f"2({text})", f"{text} or 7", rf"\approx {text}"]
    else:
        value = number.value
        changed = [value + 1, value - 1, value * 10, value / 10, -value or Fraction(5), value + Fraction(1, 10**18)]
        texts = [written(other) for other in changed if other != value] + [f"{text}1", f"{text} {text}", f"{text}, 7"]
    for other in texts:
        yield question, f"<answer>{other}</answer>", gold, False


def written(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def sets(data: Path) -> Iterator[tuple[str, list[Row]]]:
    for name in ("train", "test"):
        path = data / "gsm8k" / f"{name}.jsonl"
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            yield f"GSM8K {name}", [(r["question"], _tags(r["answer"].rsplit("####", 1)[1]), r["answer"]) for r in rows]
    path = data / "math500" / "math500.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield "MATH-500", [(r["problem"], r["solution"], r["answer"]) for r in rows]
    path = data / "aime" / "aime24.json"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield "AIME 2024", [(r["problem"], _tags(r["expected_answer"]), r["expected_answer"]) for r in rows]
    for path in sorted((data / "mgsm").glob("*.tsv")):
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
        yield f"MGSM {path.stem[-2:]}", [(question, _tags(answer), answer) for question, answer in lines]


def _tags(answer: str) -> str:
    return f"<think>so</think> <answer>{answer.strip()}</answer>"


if __name__ == "__main__":
    main()
