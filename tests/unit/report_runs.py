"""Run folders for the tests of the report, written by the trainer's own tracker."""

from __future__ import annotations

import dataclasses
import io
import math
import random
from pathlib import Path

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rl.config import GRPOConfig, ModelConfig, RewardConfig, RunConfig, TrackConfig
from rl.evaluation.gains import gains
from rl.evaluation.result import EvalResult
from rl.records.summary import Measured, write_summary
from rl.records.tracker import Tracker
from rl.settings.overrides import to_json
from rl.types import Prompt, RewardPart, Rollout, RolloutGroup, ScoredGroup, Verdict

END = "<end>"
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'><svg onload='window.hacked = 3'>",
    "<!--<script>]]>--></style></title></textarea>&lt;b&amp;&#60;",
    "\u202eright to left\u202c \u2066isolated\u2069 \u200b\ufeff",
    "null \x00 bell \x07 escape \x1b[31m delete \x7f",
    "line \u2028 paragraph \u2029 end",
    "@@DATA@@ @@TITLE@@ ${window.hacked = 4} \\u003c/script>",
    "🙂 עברית 中文 a\u0301 \ud83d",
    "",
]


def byte_tokenizer() -> Tokenizer:
    """A token for each byte of UTF-8 (0..255 in no useful order), and END."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def group(tokenizer: Tokenizer, draw: int, texts: list[str], rewards: list[float], prompt: str = "") -> ScoredGroup:
    """A scored group; a NaN reward is a failed verdict. Logprobs fall from 0 along the completion."""
    rollouts_G, parts_G = [], []
    for i, (text, reward) in enumerate(zip(texts, rewards, strict=True)):
        clean = text.encode("utf-8", "replace").decode()
        ids = np.array([*tokenizer.encode(clean).ids, tokenizer.token_to_id(END)], np.int32)
        logprobs = -np.linspace(0, 5, len(ids), dtype=np.float32)
        rollouts_G.append(Rollout(ids, logprobs, text, "stop" if i % 3 else "length", 1.0, 0, 100 * draw + i))
        verdict = Verdict.FAILED if math.isnan(reward) else Verdict.CORRECT if reward > 0.5 else Verdict.WRONG
        reason = "" if verdict == Verdict.CORRECT else f"{text[:40]!r} is not {draw}"
        parts_G.append({"accuracy": RewardPart(reward, verdict, reason), "format": RewardPart(1.0, Verdict.CORRECT)})
    valid_G = [not math.isnan(r) for r in rewards]
    known = [r for r in rewards if not math.isnan(r)]
    mean = sum(known) / len(known) if known else 0.0
    advantages_G = [r - mean if ok else 0.0 for r, ok in zip(rewards, valid_G, strict=True)]
    question = Prompt(draw % 50, draw, [1], prompt or f"What is {draw} + 0?", str(draw), {})
    return ScoredGroup(
        RolloutGroup(question, rollouts_G), rewards, parts_G, advantages_G, valid_G, uniform=len(set(known)) <= 1
    )


def config(folder: Path, seed: int = 1, steps: int = 12) -> RunConfig:
    return RunConfig(
        name=folder.name,
        out=str(folder.parent),
        seed=seed,
        model=ModelConfig(path="models/none"),
        rewards=(RewardConfig("accuracy"), RewardConfig("format", weight=0.2)),
        grpo=GRPOConfig(steps=steps, prompts_per_step=4, group_size=4),
        track=TrackConfig(wandb="off"),
    )


def write_run(
    folder: Path,
    *,
    steps: int = 12,
    done: int | None = None,
    seed: int = 1,
    texts: list[str] | None = None,
    groups: int = 4,
    tokenizer: bool = True,
    summary: bool = True,
) -> Path:
    """A run of `steps` steps that learns, stopped after `done` of them. texts: completions besides the usual ones.

    tokenizer, summary: whether the run has them at its end.
    """
    rng, cfg = random.Random(seed), config(folder, seed, steps)
    tokens = byte_tokenizer()
    done = steps if done is None else done
    with Tracker(folder, cfg.track, name=cfg.name, console=Console(file=io.StringIO())) as track:
        (folder / "resolved.json").write_text(to_json(cfg))
        for step in range(3):
            track.step("sft", step, {"nll": 2.0 - step, "grad_norm": 3.0, "lr": 1e-4, "seconds/update": 0.001})
        for step in range(done + 1):
            if step in (0, steps // 2, steps):
                _evaluate(track, folder, step, step / steps, tokens, rng)
            if step == done:
                break
            skill = 0.2 + 0.6 * step / steps
            scored_P = []
            for i in range(groups):
                right = [1.0, 0.0, *(float(rng.random() < skill) for _ in range(2))] if i else [0.0] * 4
                draw = step * groups + i
                said = [f"<think>{'Wait, ' * rng.randrange(4)}{draw}</think> <answer>{draw}</answer>" for _ in right]
                if texts and i == 1:
                    said = (texts * 4)[4 * (step % max(1, len(texts) // 4)) :][:4]
                scored_P.append(group(tokens, draw, said, right))
            track.step("grpo", step, _metrics(step, steps, skill, scored_P, rng), scored_P)
    if tokenizer:
        (folder / "model").mkdir(exist_ok=True)
        tokens.save(str(folder / "model" / "tokenizer.json"))
    if done == steps and summary:
        first, last = (EvalResult.read(folder / "evals" / f"step_{s:06d}.json") for s in (0, steps))
        write_summary(
            folder, name=cfg.name, model=cfg.model.path, seed=seed, steps=steps, seconds={"rollout": 30.0, "update": 9.0},
            before=Measured(first.pass_at_1, first.stderr, first.greedy),
            after=Measured(last.pass_at_1, last.stderr, last.greedy), gains=gains(first, last), console=Console(file=io.StringIO()),
        )  # fmt: skip
    return folder


def _metrics(step: int, steps: int, skill: float, scored_P: list[ScoredGroup], rng: random.Random) -> dict[str, float]:
    noise = rng.uniform(-0.03, 0.03)
    lengths = [len(r.token_ids_T) for s in scored_P for r in s.group.rollouts_G]
    out = {
        "seconds": 10.0 - 4 * step / steps, "seconds/rollout": 4.0, "seconds/rewards": 0.5, "seconds/update": 1.5,
        "samples/count": 16.0, "samples/invalid": 0.0, "reward/mean": skill + noise + 0.2, "reward/std": 0.4 + noise,
        "reward/accuracy": skill + noise, "reward/format": 1.0, "accuracy": skill + noise, "groups/count": 4.0,
        "groups/uniform_share": 0.25, "groups/all_correct_share": 0.0, "groups/none_correct_share": 0.25,
        "rollout/tokens": float(sum(lengths)), "rollout/length_p50": float(np.median(lengths)),
        "rollout/length_p90": float(np.percentile(lengths, 90)), "rollout/length_max": float(max(lengths)),
        "entropy": 1.0 - 0.8 * step / steps + noise, "kl": 0.01 * step, "clip_share_high": abs(noise) / 10,
        "gap/mean": 0.002 + noise / 100, "gap/max": 0.2, "grad_norm": 1.5 + noise, "loss": noise, "lr": 3e-5,
        "emergence/reflective_words": 2 * skill, "reward/language_consistency": 0.9 + noise, "my/own": float(step),
    }  # fmt: skip
    return out | {f"verdict/accuracy/{v}": share for v, share in (("correct", skill), ("wrong", 1 - skill))}


def _evaluate(track: Tracker, folder: Path, step: int, part: float, tokens: Tokenizer, rng: random.Random) -> None:
    correct_P = [min(1.0, rng.randrange(4) / 4 + part * rng.choice((0.0, 0.5, 0.75))) for _ in range(20)]
    mean = sum(correct_P) / 20
    stderr = math.sqrt(sum((c - mean) ** 2 for c in correct_P) / 19 / 20)
    result = EvalResult(mean, stderr, round(mean * 20) / 20, 0.1, 40.0, correct_P)
    graded_P = [group(tokens, i, [f"answer {i}", f"answer {i + 1}"], [1.0, 0.0]) for i in range(4)]
    track.step("eval", step, result.metrics(), graded_P)
    result.write(folder / "evals" / f"step_{step:06d}.json")


def with_settings(folder: Path, **changes: object) -> None:
    """Write resolved.json again with other GRPO settings."""
    cfg = config(folder)
    (folder / "resolved.json").write_text(
        to_json(dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, **changes)))
    )
