"""Checks of every reward in the real reward workers: on golden cases, and on the recipe's own rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launch.doctor.check import Check, Table, failed, passed, warned
from launch.doctor.exam import Exam
from launch.doctor.golden import OVER_THE_NETWORK, Golden, golden_cases
from rewards import REWARDS
from rewards.types import excerpt
from rl.config import RewardConfig
from rl.scoring.routing import applies_to
from rl.types import Prompt, RewardPart, Rollout, RolloutGroup, Verdict

ROWS = 3
NONSENSE = ("", "lorem ipsum dolor", "7 " * 200)


def reward(exam: Exam, name: str, cfg: RewardConfig) -> Check:
    """The reward gives golden cases their known scores, and tells the recipe's right answers from nonsense."""
    cases = golden_cases(cfg)
    check = _golden(exam, name, cases)
    if check is not None:
        return check
    own = _own_rows(exam, name, cfg)
    if isinstance(own, Check):
        return own
    golden = f"{len(cases)} golden cases score as they must; " if cases else ""
    return passed(golden + own)


# ------------------------------------------------------------------------------------------------ golden cases


def _golden(exam: Exam, name: str, cases: Sequence[Golden]) -> Check | None:
    """A failed check, or None."""
    wrong: list[tuple[str, ...]] = []
    scores = []
    for case in cases:
        prompt = Prompt(0, 0, [0], "", case.answer, case.row)
        part = _ask(exam, name, prompt, [(case.completion, case.tokens)])[0]
        scores.append(part.score if part is not None else math.nan)
        measured = f"{part.score:g} {part.verdict} {part.reason}" if part is not None else "does not apply"
        right = part is not None and math.isclose(part.score, case.score, abs_tol=1e-6)
        if not right or (case.verdict and part is not None and part.verdict != case.verdict):
            wrong.append((excerpt(case.completion), f"{case.score:g} {case.verdict}", " ".join(measured.split())[:80]))
    if not wrong:
        return None
    table: Table = (("completion", "must be", "is"), *wrong)
    # The score of a failed call is NaN, which is neither right nor wrong.
    alike = len(set(scores)) == 1 and math.isfinite(scores[0])
    return failed(
        f"{len(wrong)} of {len(cases)} golden cases are scored wrong"
        + (f"; all get {scores[0]:g}, right and wrong answers alike" if alike else ""),
        f"{name} is dead: it cannot tell a right answer from a wrong one" if alike else _cause(wrong[0][2], name),
        f"call {name} on the first completion by hand, in the environment of the reward workers",
        table,
    )


def _cause(measured: str, name: str) -> str:
    if Verdict.FAILED in measured or Verdict.TIMED_OUT in measured:
        return f"{name} raises or hangs inside the reward workers: a library is missing there, or a setting is wrong"
    return f"{name}, or a library that it stands on, is not the version that was tested"


# ------------------------------------------------------------------------------------------------ the recipe's own rows


def _own_rows(exam: Exam, name: str, cfg: RewardConfig) -> Check | str:
    """The reward must answer on right answers made from the rows and on nonsense, and must tell them apart."""
    few = 1 if cfg.function in OVER_THE_NETWORK else ROWS
    prompts = [p for p in exam.drawn if applies_to(cfg, p.row)][:few]
    if not prompts:
        return failed(
            f"it applies to none of the first {len(exam.drawn)} rows",
            f"domains={', '.join(cfg.domains)} are rare in {exam.cfg.prompts.source}",
            "look at the rows' domains; with rare ones, shuffle the data",
        )
    parts: list[tuple[str, RewardPart]] = []
    for prompt in prompts:
        texts = [*right_answers(exam, prompt), *NONSENSE]
        answers = _ask(exam, name, prompt, [(text, len(text.split())) for text in texts])
        parts += [(text, part) for text, part in zip(texts, answers, strict=True) if part is not None]
    silent = [(text, part) for text, part in parts if not part.verdict.is_valid]
    if silent:
        text, part = silent[0]
        return failed(
            f"no verdict on {len(silent)} of {len(parts)} completions: {excerpt(text)} {part.verdict}, {part.reason}",
            f"{name} raises or hangs on such a completion" if part.verdict is Verdict.FAILED else f"{name} is too slow",
            "repair the reward: samples without a verdict are not trained on",
        )
    if not parts:
        return failed(
            f"it returned None for all completions of {len(prompts)} rows",
            "the reward does not apply to the recipe's rows: they may lack the column that it looks at",
            "give the reward its own rows (domains=...), or take it out",
        )
    scores = sorted({part.score for _, part in parts})
    measured = f"on {len(parts)} completions of the recipe's own rows it says {_span(scores)}"
    if len(scores) == 1 and cfg.function not in REWARDS:
        return failed(
            f"{measured} to right answers and to nonsense alike",
            f"{name} always returns {scores[0]:g}: it looks for another form of answer, or at another column",
            f"call {name} by hand on {excerpt(parts[0][0])}; a reward that is the same for all trains nothing",
        )
    if cfg.function not in REWARDS and (lenient := _lenient(exam, name, prompts)):
        return warned(f"{measured}; {lenient}", *LENIENT)
    return measured


LENIENT = (
    "a lenient verifier: it does not compare the answer with the row's. A reward of form or style does so by right",
    "read which wrong answers it pays, and compare with the reference as a whole (rewards/accuracy.py does)",
)


def _lenient(exam: Exam, name: str, prompts: Sequence[Prompt]) -> str:
    """What shows that wrong answers are paid like right ones, and nonsense is not; "" when they are not."""
    paid = ""
    for prompt in prompts:
        other = next((p for p in exam.drawn if p.reference and p.reference != prompt.reference), None)
        if not prompt.reference or other is None:
            return ""
        right, wrong, nonsense = (
            _scores(exam, name, prompt, texts)
            for texts in (right_answers(exam, prompt), [*right_answers(exam, other), _all_of(exam)], NONSENSE[:2])
        )
        if not max(wrong) >= max(right) > max(nonsense):
            return ""
        paid = f"it pays {max(wrong):g} for {other.reference!r} or many answers where {prompt.reference!r} is right"
    return paid


def _scores(exam: Exam, name: str, prompt: Prompt, texts: Sequence[str]) -> list[float]:
    parts = _ask(exam, name, prompt, [(text, len(text.split())) for text in texts])
    return [part.score for part in parts if part is not None and part.verdict.is_valid] or [0.0]


def _all_of(exam: Exam) -> str:
    """A completion that names the answers of many rows, so that the right one stands somewhere in it."""
    return f"<answer>{', '.join(dict.fromkeys(p.reference for p in exam.drawn if p.reference))}</answer>"


def right_answers(exam: Exam, prompt: Prompt) -> list[str]:
    """Completions with the row's own right answer in the usual forms, the SFT target first where there is one."""
    gold, row = prompt.reference, prompt.row
    target = row.get(exam.cfg.sft.data.target_field)
    texts = [str(target)] if isinstance(target, str) else []
    if gold:
        texts += [
            f"<think>\nLet me see.\n</think>\n<answer>{gold}</answer>",
            f"Let me see.\n</think>\n<answer>{gold}</answer>",
            f"<think>\nLet me see.\n</think>\nThe answer is \\boxed{{{gold}}}.",
            gold,
        ]
    return texts or ["<think>\nLet me see.\n</think>\n<answer>yes</answer>"]


def _span(scores: Sequence[float]) -> str:
    return f"{scores[0]:g}" if len(scores) == 1 else f"from {scores[0]:g} to {scores[-1]:g}"


def _ask(exam: Exam, name: str, prompt: Prompt, completions: Sequence[tuple[str, int]]) -> list[RewardPart | None]:
    """The workers' verdicts on completions, which come with their lengths in tokens."""
    rollouts_G = [
        Rollout(np.zeros(n, np.int32), np.zeros(n, np.float32), text, "stop", 1.0, 0, 0) for text, n in completions
    ]
    report = exam.backend.ask_rewards(RolloutGroup(prompt, rollouts_G), [name])()
    return [parts.get(name) for parts in report.parts_G]
