"""Is what a rejection stage of recipes/r1_mini.py kept right, in one language and never twice, and do its counts add up?

    .venv/bin/python tests/check_picks.py STAGE_FOLDER [...]

Shares no code with the rewards, the filters or the stage: the sum or the reversal is worked out here from the prompt,
and a language is known by the words of its own phrases. Prints every fault and ends with 1 when there is one.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

WORDS = {
    "en": {"first", "we", "add", "to", "the", "number", "and", "get", "digits", "are", "from", "end", "read"},
    "de": {"zuerst", "legen", "wir", "zu", "der", "zahl", "dazu", "und", "haben", "die", "ziffern", "von", "lesen"},
}
FORM = re.compile(r"<think>(.+?)</think>\s*<answer>(.+?)</answer>", re.DOTALL)


def faults(folder: Path) -> list[str]:
    """What is wrong with the stage's data.jsonl, samples.jsonl and yield.json, a line each."""
    rows, prompts = (_lines(folder / name) for name in ("data.jsonl", "samples.jsonl"))
    found = [f"row {i}: {why}" for i, row in enumerate(rows) if (why := _fault(row["prompt"], row["target"]))]
    twice = Counter((row["prompt"], " ".join(row["target"].split())) for row in rows)
    found += [f"{count} times: {prompt!r} {target!r}" for (prompt, target), count in twice.items() if count > 1]
    told = json.loads((folder / "yield.json").read_text(encoding="utf-8"))
    reasons = Counter(sample["reason"].split(":")[0] for prompt in prompts for sample in prompt["samples"])
    if dict(reasons) != told["by_reason"]:
        found.append(f"yield.json says {told['by_reason']}, samples.jsonl {dict(reasons)}")
    if sum(reasons.values()) != told["samples"] or reasons["kept"] != len(rows):
        found.append(f"{told['samples']} samples and {len(rows)} rows, but {dict(reasons)}")
    return found


def _fault(prompt: str, target: str) -> str:
    numbers = re.findall(r"\d+", prompt)
    right = numbers[0][::-1] if len(numbers) == 1 else str(sum(map(int, numbers)))
    match = FORM.fullmatch(target.strip())
    if match is None:
        return f"not in the form: {target!r}"
    if match[2].strip() != right:
        return f"{prompt!r} is {right}, not {match[2]!r}"
    language = "en" if prompt.startswith(("What", "reverse")) else "de"
    strange = set(re.findall(r"[^\W\d_]+", match[1].lower())) & WORDS["de" if language == "en" else "en"]
    return f"{sorted(strange)} in {language}: {target!r}" if strange else ""


def _lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    bad = False
    for folder in map(Path, sys.argv[1:]):
        found = faults(folder)
        bad |= bool(found)
        print(f"{folder.name}: {len(_lines(folder / 'data.jsonl'))} rows, {len(found)} faults")
        print(*found[:20], sep="\n", end="\n" if found else "")
    sys.exit(1 if bad or len(sys.argv) < 2 else 0)


if __name__ == "__main__":
    main()
