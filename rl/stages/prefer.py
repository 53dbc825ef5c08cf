"""Preference pairs: two samples of a prompt, and which is better, by an LLM judge or by a rule of the recipe.

    compared.jsonl  one line per prompt: its pairs that were compared, each with the reason for dropping it ("": kept)
    data.jsonl      one row per kept pair: the prompt's row, with chosen and rejected
    yield.json      counts by reason; they add up to the pairs compared

Each pair is compared in both orders, and dropped when the two disagree, because LLM judges favour a position (Zheng et
al., 2306.05685, section 4.1). R1 asks four times in random order (Nature, Methods).

Lengths are balanced: equally many pairs where the chosen response is the longer and the shorter one. The seed picks
which surplus pairs are left out. Without this, a reward model learns to score length (Singhal et al., 2310.03716,
section 4, balance their pairs in the same way). The length is that of the part that the reward model will read
(cfg.scores): thousands of words of thinking would hide the length of the summary.

A line is written whole. After a kill, prompts that have a line are not compared again.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

import numpy as np

from rewards.extract import opens_thinking
from rewards.llm_judge import llm_pairwise, shown
from rl.config import PreferConfig, knob
from rl.context import StageRun, Stop, sample_seed
from rl.data.preference_pairs import OPENED
from rl.data.rows import python_function
from rl.records.whole_files import append_lines, cut_partial_line, whole_lines, write_json, write_rows
from rl.rollouts.teacher import NO_ANSWER, NO_THOUGHT
from rl.scoring.reward_model_text import read_part
from rl.stage import MAKES_DATA, Recipe, Stage
from rl.stages.sample_files import PromptLine, read_samples
from rl.stages.selection import category, without_spacing
from rl.types import AhaError, BadInput, Row, Stopped

log = logging.getLogger(__name__)

TIE, ORDER, SILENT = "tie", "the order decided", "no verdict"


@dataclass(frozen=True)
class Prefer(Stage):
    """Preference pairs from samples, by an LLM judge or a rule. Output: rows of prompt, chosen, rejected, domain."""

    prefer: PreferConfig = knob(PreferConfig, "The samples, the judge, and which pairs are kept.")

    makes = frozenset({MAKES_DATA})
    counts_in = "yield.json"

    @property
    def balances(self) -> str:
        return self.prefer.scores if self.prefer.balance_lengths else ""

    def row_sources(self) -> Iterator[str]:
        yield from (self.prefer.function, *self.prefer.samples)

    def faults(self, recipe: Recipe) -> Iterator[str]:
        cfg = self.prefer
        if not cfg.samples:
            yield "prefer.samples: name at least one stage that samples"
        if bool(cfg.function) == bool(cfg.base_url):
            yield "prefer: set function (a rule) or base_url (a judge), one of the two"
        if cfg.base_url and not cfg.judge:
            yield "prefer.judge: name the judge's model"
        if -1 < cfg.temperature < 0:
            yield f"prefer.temperature={cfg.temperature:g}: 0 or more, or -1 to leave it to the endpoint"
        try:
            _fields(cfg.extra)
        except BadInput as error:
            yield str(error)
        if cfg.function and ":" not in cfg.function:
            yield f"prefer.function={cfg.function}: expected 'module:function'"

    def run(self, at: StageRun) -> None:
        files = [at.path(text, "samples.jsonl") for text in self.prefer.samples]
        prefer(at.folder, self.prefer, files, at.seed, at.stop)


class Pair(NamedTuple):
    """Two samples of a prompt to compare."""

    prompt_id: int
    first: str
    second: str
    line: PromptLine


class ComparedPair(TypedDict):
    """One pair in compared.jsonl. reason: "" when one response won, else why none did: a kind, a colon, the details."""

    chosen: str
    rejected: str
    reason: str


class ComparedLine(TypedDict):
    """One line of compared.jsonl. prompt_id: the prompt's number among those that have samples."""

    prompt_id: int
    row: Row
    pairs: list[ComparedPair]


class Opinion(NamedTuple):
    """lead: 1 when the first is better, -1 the second, 0 neither. reason: why neither."""

    lead: int
    reason: str = ""


Compare = Callable[[Sequence[Pair]], list[Opinion]]


def prefer(folder: Path, cfg: PreferConfig, files: Sequence[str], seed: int, stop: Stop) -> Path:
    """Compare samples of each prompt in these samples.jsonl files and keep balanced pairs. Returns data.jsonl. Resumes.

    Samples of one question in several files are compared with one another. Raises BadInput when no pair is left, and
    AhaError when the judge has no verdict on most pairs of a chunk, which is then not written.
    """
    prompts = _merged(files)
    path = folder / "compared.jsonl"
    if (old := folder / "judged.jsonl").exists():
        old.rename(path)  # an earlier version gave the file this name
    cut_partial_line(path)
    done = {line["prompt_id"] for line in read_compared(path)}
    missing = [i for i in range(len(prompts)) if i not in done]
    if done:
        log.info("resuming: %d of %d prompts are compared", len(done), len(prompts))
    compare = _rule(cfg.function) if cfg.function else _llm(cfg)
    for at in range(0, len(missing), cfg.chunk_prompts):
        chunk = missing[at : at + cfg.chunk_prompts]
        append_lines(path, _compare_chunk(cfg, {i: prompts[i] for i in chunk}, compare, seed))
        log.info("%d of %d prompts are compared", len(done) + at + len(chunk), len(prompts))
        if stop.requested and at + cfg.chunk_prompts < len(missing):
            raise Stopped(f"stopped after {len(done) + at + len(chunk)} prompts; the same command goes on from there")
    return write_pairs(folder, cfg, seed)


def _merged(files: Sequence[str]) -> list[PromptLine]:
    """The prompts of all files in order, each question once with all its samples. Raises BadInput for no prompt."""
    found: dict[str, PromptLine] = {}
    for file in files:
        for line in sorted(read_samples(Path(file)), key=lambda line: line["prompt_id"]):
            question = str(line["row"].get("prompt", line["prompt"]))
            if question in found:
                found[question]["samples"] += line["samples"]
            else:
                found[question] = line
    if not found:
        raise BadInput(f"prefer.samples: no samples in {', '.join(files)}")
    return list(found.values())


def _compare_chunk(
    cfg: PreferConfig, prompts: Mapping[int, PromptLine], compare: Compare, seed: int
) -> list[ComparedLine]:
    pairs = [pair for i, line in prompts.items() for pair in candidates(i, line, cfg.pairs_per_prompt, seed)]
    opinions = compare(pairs)
    silent = [o for o in opinions if o.reason.startswith(SILENT)]
    if 2 * len(silent) > len(opinions):
        raise AhaError(f"the judge has no verdict on {len(silent)} of {len(opinions)} pairs: {silent[0].reason}")
    lines: dict[int, ComparedLine] = {
        i: {"prompt_id": i, "row": line["row"] | _opening(line), "pairs": []} for i, line in prompts.items()
    }
    for pair, (lead, reason) in zip(pairs, opinions, strict=True):
        chosen, rejected = (pair.second, pair.first) if lead < 0 else (pair.first, pair.second)
        lines[pair.prompt_id]["pairs"].append({"chosen": chosen, "rejected": rejected, "reason": reason})
    return list(lines.values())


def candidates(prompt_id: int, line: PromptLine, count: int, seed: int) -> list[Pair]:
    """`count` pairs (0: all) of the prompt's distinct samples. The seed draws them and the order within each.

    Requests that failed are not samples.
    """
    answered = [s["text"] for s in line["samples"] if category(s.get("reason", "")) not in (NO_ANSWER, NO_THOUGHT)]
    texts = list({without_spacing(text): text for text in answered}.values())
    dice = np.random.default_rng(sample_seed(seed, "prefer", prompt_id))
    pairs = list(itertools.combinations(texts, 2))
    order = dice.permutation(len(pairs))[: count or None]
    flips = dice.random(len(order)) < 0.5
    drawn = [pairs[i][::-1] if flip else pairs[i] for i, flip in zip(order, flips, strict=True)]
    return [Pair(prompt_id, first, second, line) for first, second in drawn]


def _opening(line: PromptLine) -> Row:
    return {OPENED: True} if opens_thinking(line["prompt"]) else {}


# ------------------------------------------------------------------------------------------------ who compares


def _rule(spec: str) -> Compare:
    """The recipe's own function, called with both orders."""
    function = python_function(spec)

    def compare(pairs: Sequence[Pair]) -> list[Opinion]:
        return [
            agreed(_sign(ask(p.first, p.second, p)), -_sign(ask(p.second, p.first, p))) for p in pairs
        ]  # fmt: skip

    def ask(first: str, second: str, pair: Pair) -> float:
        columns = {**pair.line["row"], "answer": pair.line["answer"]}
        return float(cast(float, function(first, second, **columns)))

    return compare


def _llm(cfg: PreferConfig) -> Compare:
    """The judge behind the endpoint (rewards/llm_judge.py), which is shown what follows the thinking."""

    def compare(pairs: Sequence[Pair]) -> list[Opinion]:
        others = [shown(p.second, p.line["prompt"]) for p in pairs]
        asked = [i for i, p in enumerate(pairs) if others[i] and shown(p.first, p.line["prompt"])]
        scores = llm_pairwise(
            [pairs[i].line["prompt"] for i in asked], [pairs[i].first for i in asked], [others[i] for i in asked],
            base_url=cfg.base_url, model=cfg.judge, question=[_question(pairs[i].line) for i in asked],
            api_key_env=cfg.api_key_env, timeout_s=cfg.timeout_s, retries=cfg.retries, cache=cfg.cache,
            max_tokens=cfg.max_tokens, temperature=cfg.temperature if cfg.temperature >= 0 else None,
            response_format=cfg.response_format, extra=_fields(cfg.extra),
        )  # fmt: skip
        opinions = [Opinion(0, "no summary: there is nothing after the thinking")] * len(pairs)
        for i, score in zip(asked, scores, strict=True):
            opinions[i] = _opinion(score.value, score.reason)
        return opinions

    return compare


def _fields(extra: str) -> dict[str, object]:
    """The further fields of a request. Raises BadInput for what is no JSON object."""
    try:
        found = json.loads(extra or "{}")
    except ValueError as error:
        raise BadInput(f"prefer.extra={extra}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f'prefer.extra={extra}: expected a JSON object, as {{"reasoning_effort": "low"}}')
    return found


def _opinion(value: float, reason: str) -> Opinion:
    """From llm_pairwise's score: 1 or 0 when both orders agree, 0.5 for a tie; a reason when the orders differ."""
    if math.isnan(value):
        return Opinion(0, f"{SILENT}: {reason}")
    if reason:
        return Opinion(0, ORDER)
    return Opinion(1) if value == 1 else Opinion(-1) if value == 0 else Opinion(0, TIE)


def agreed(in_order: int, swapped: int) -> Opinion:
    """One opinion from the two orders, where 1 means the first sample in both. 1, 1 -> 1; 1, -1 and 1, 0 -> 0."""
    if in_order != swapped:
        return Opinion(0, ORDER)
    return Opinion(in_order, "" if in_order else TIE)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _question(line: PromptLine) -> str:
    return str(line["row"].get("prompt", line["prompt"]))


# ------------------------------------------------------------------------------------------------ what is kept


def read_compared(path: Path) -> Iterator[ComparedLine]:
    """The whole lines of a compared.jsonl."""
    return whole_lines(path)


def write_pairs(folder: Path, cfg: PreferConfig, seed: int) -> Path:
    """Write data.jsonl and yield.json from compared.jsonl. Raises BadInput when no pair is left."""
    lines = sorted(read_compared(folder / "compared.jsonl"), key=lambda line: line["prompt_id"])
    fates: Counter[str] = Counter()
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for line in lines:
        for pair in line["pairs"]:
            row = line["row"] | {"chosen": pair["chosen"], "rejected": pair["rejected"]}
            row |= {"domain": cfg.domain} if cfg.domain else {}
            key = tuple(without_spacing(str(row[name])) for name in ("prompt", "chosen", "rejected"))
            fate = pair["reason"].partition(":")[0] or ("duplicate" if key in seen else "")
            seen.add(key)
            if fate:
                fates[fate] += 1
            else:
                rows.append(row)
    kept = balanced(rows, seed, cfg.scores) if cfg.balance_lengths else list(range(len(rows)))
    fates |= Counter({"surplus in length": len(rows) - len(kept)}) if len(kept) < len(rows) else Counter()
    fates["kept"] = len(kept)
    report = {
        "prompts": len(lines), "pairs": fates.total(), "by_fate": fates,
        "mean_words": {
            "before": _mean_words(rows, cfg.scores), "kept": _mean_words([rows[i] for i in kept], cfg.scores)
        },
    }  # fmt: skip
    write_json(folder / "yield.json", report)
    log.info("%d pairs: %s", fates.total(), ", ".join(f"{count} {fate}" for fate, count in fates.items()))
    if not kept:
        raise BadInput(f"prefer: no pair is left ({', '.join(f'{n} {fate}' for fate, n in fates.items() if n)})")
    write_rows(folder / "data.jsonl", [rows[i] for i in kept])
    return folder / "data.jsonl"


def balanced(rows: Sequence[Row], seed: int, scores: str = "response") -> list[int]:
    """Indices of the rows to keep: those of equal length, and equally many with a longer and with a shorter chosen one.

    Lengths are characters of the scored part; each domain is balanced by itself. Example: differences of +5, +1, -2
    and 0 keep one of the first two, and the last two.
    """
    kept: list[int] = []
    domains = list(dict.fromkeys(str(row.get("domain", "")) for row in rows))
    for number, domain in enumerate(domains):
        mine = [i for i, row in enumerate(rows) if str(row.get("domain", "")) == domain]
        lead = {i: len(_scored(rows[i], "chosen", scores)) - len(_scored(rows[i], "rejected", scores)) for i in mine}
        sides = [[i for i in mine if lead[i] > 0], [i for i in mine if lead[i] < 0]]
        count = min(map(len, sides))
        dice = np.random.default_rng([seed, number])
        for side in sides:
            kept += [side[int(j)] for j in dice.permutation(len(side))[:count]]
        kept += [i for i in mine if lead[i] == 0]
    return sorted(kept)


def _scored(row: Row, name: str, scores: str) -> str:
    return read_part(str(row[name]), scores, bool(row.get(OPENED)))


def _mean_words(rows: Sequence[Row], scores: str) -> dict[str, float]:
    return {
        name: float(np.mean([len(_scored(row, name, scores).split()) for row in rows])) if rows else 0.0
        for name in ("chosen", "rejected")
    }
