"""RolloutGroup -> GradedGroup (as each group streams in) -> ScoredGroup (the whole batch, with advantages).

_P prompts, _G samples of a group. A reward that raises costs one sample and is counted, never a run; a reward that
says nothing of most samples stops the run by name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import SupportsFloat

import numpy as np

from rewards import REWARDS
from rewards.types import Score
from rl.advantage import advantages, is_uniform
from rl.config import GRPOConfig, RewardConfig
from rl.types import AhaError, BadInput, GradedGroup, RewardPart, RolloutGroup, ScoredGroup, Verdict

log = logging.getLogger(__name__)

MAX_UNJUDGED_SHARE = 0.5
"""A step in which a reward fails or times out on more than this share of the samples stops the run."""

Function = Callable[..., object]
_RESERVED_NAMES = ("mean", "std")  # metrics of the whole reward: reward/mean, reward/std


class Scorer:
    """The rewards of a run, resolved and ready.

    rewards: each function is a short name of rewards.REWARDS or "module:function", native or in TRL's shape (see
    resolve). names: of the parts, in order: the short name or the function's own, or "module.function" if that is
    taken. Raises BadInput, naming the reward, when one cannot be found.
    """

    def __init__(self, rewards: tuple[RewardConfig, ...], cfg: GRPOConfig) -> None:
        if not rewards:
            raise BadInput("rewards: there are none; add at least one, for example RewardConfig('accuracy')")
        self._cfg = cfg
        self._weights: dict[str, float] = {}
        self._rewards: dict[str, _Reward] = {}
        for reward in rewards:
            name = reward.function.rpartition(":")[2]
            if name in self._rewards or name in _RESERVED_NAMES:
                name = reward.function.replace(":", ".")
            if name in self._rewards:
                raise BadInput(f"rewards: {reward.function!r} is listed twice; add its weights up instead")
            function = resolve(reward.function)
            in_lists = not {"prompts", "completions"}.isdisjoint(_parameters(function))
            self._rewards[name] = _Batched(name, function) if in_lists else _Native(name, function)
            self._weights[name] = reward.weight

    @property
    def names(self) -> list[str]:
        return list(self._rewards)

    def grade(self, group: RolloutGroup) -> GradedGroup:
        """Reward every sample of a group. Never raises on account of a reward function."""
        by_reward = [reward.judge(group) for reward in self._rewards.values()]
        parts_G: list[dict[str, RewardPart]] = []
        rewards_G: list[float] = []
        valid_G: list[bool] = []
        for i in range(len(group.rollouts_G)):
            found = {name: parts[i] for name, parts in zip(self._rewards, by_reward, strict=True)}
            parts = {name: part for name, part in found.items() if part is not None}
            valid = bool(parts) and all(part.verdict.is_judgement for part in parts.values())
            parts_G.append(parts)
            valid_G.append(valid)
            rewards_G.append(self._total(parts) if valid else math.nan)
        return GradedGroup(group, rewards_G, parts_G, valid_G)

    def finish(self, graded_P: Sequence[GradedGroup]) -> list[ScoredGroup]:
        """Advantages over the whole batch, by GRPOConfig.advantage, in the order given.

        Raises AhaError, with three examples, when a reward has no verdict on more than MAX_UNJUDGED_SHARE.
        """
        self._stop_if_silent(graded_P)
        per_reward = self._cfg.advantage == "per_reward"
        scores_PG = [[{n: part.score for n, part in parts.items()} for parts in g.parts_G] for g in graded_P]
        advantages_PG = advantages(
            self._cfg.advantage,
            [g.rewards_G for g in graded_P],
            [g.valid_G for g in graded_P],
            std_eps=self._cfg.std_eps,
            parts_PG=scores_PG if per_reward else None,
            weights=self._weights,
        )
        scored_P: list[ScoredGroup] = []
        for g, scores_G, advantages_G in zip(graded_P, scores_PG, advantages_PG, strict=True):
            uniform = is_uniform(g.rewards_G, g.valid_G, scores_G if per_reward else None)
            scored_P.append(ScoredGroup(g.group, g.rewards_G, g.parts_G, advantages_G, g.valid_G, uniform))
        return scored_P

    def metrics(self, scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
        """A step's numbers, flat. Shares are of all samples (or groups); lengths are in tokens of the completion.

        Means and deviations (population) are over samples that have a verdict; what has none to show is left out.
        """
        samples = [(r, p, ok) for s in scored_P for r, p, ok in zip(s.rewards_G, s.parts_G, s.valid_G, strict=True)]
        if not samples:
            return {"samples/count": 0.0, "samples/invalid": 0.0}
        out = {"samples/count": float(len(samples)), "samples/invalid": float(sum(not ok for *_, ok in samples))}
        rewards = [reward for reward, _, ok in samples if ok]
        if rewards:
            out |= {"reward/mean": float(np.mean(rewards)), "reward/std": float(np.std(rewards))}
        for name in self._rewards:
            parts = [part[name] for _, part, _ in samples if name in part]
            scores = [part.score for part in parts if part.verdict.is_judgement]
            if scores:
                out[f"reward/{name}"] = float(np.mean(scores))
            for verdict in Verdict:
                out[f"verdict/{name}/{verdict}"] = sum(part.verdict == verdict for part in parts) / len(samples)
        if "reward/accuracy" in out:
            out["accuracy"] = out["reward/accuracy"]
        return out | _group_metrics(scored_P) | _length_metrics(scored_P)

    def _total(self, parts: dict[str, RewardPart]) -> float:
        return sum(self._weights[name] * part.score for name, part in parts.items())

    def _stop_if_silent(self, graded_P: Sequence[GradedGroup]) -> None:
        """Raise AhaError, with three examples, for a reward that most samples got no verdict from."""
        samples = [(g.group.prompt.id, i, parts) for g in graded_P for i, parts in enumerate(g.parts_G)]
        most = MAX_UNJUDGED_SHARE * len(samples)
        for name in self._rewards:
            silent = [(p, i, parts[name]) for p, i, parts in samples if name in parts]
            silent = [(p, i, part) for p, i, part in silent if not part.verdict.is_judgement]
            if len(silent) > most:
                # From all over the step: three samples of one group would show one prompt only.
                examples = silent[:: -(-len(silent) // 3)]
                shown = "; ".join(f"prompt {p} sample {i}: {part.verdict}, {part.reason}" for p, i, part in examples)
                raise AhaError(
                    f"reward {name!r} has no verdict on {len(silent)} of {len(samples)} samples of this step (at most "
                    f"{MAX_UNJUDGED_SHARE:.0%} are let pass): {shown}. Mend the reward and start again: the run resumes"
                )
        unrewarded = [p for p, _, parts in samples if not parts]
        if len(unrewarded) > most:
            raise AhaError(
                f"no reward applies to {len(unrewarded)} of {len(samples)} samples of this step, for example of prompt "
                f"{unrewarded[0]}: {', '.join(self.names)} returned None. Each row needs at least one that does"
            )


def _group_metrics(scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
    out = {"groups/count": float(len(scored_P)), "groups/uniform_share": float(np.mean([s.uniform for s in scored_P]))}
    repeated = [len(s.group.rollouts_G) - len({r.token_ids_T.tobytes() for r in s.group.rollouts_G}) for s in scored_P]
    out["samples/duplicate_share"] = sum(repeated) / sum(len(s.group.rollouts_G) for s in scored_P)
    verdicts_PG = [[part["accuracy"].verdict for part in s.parts_G if "accuracy" in part] for s in scored_P]
    judged_PG = [v for v in verdicts_PG if v]
    if judged_PG:
        out["groups/all_correct_share"] = float(np.mean([all(v == Verdict.CORRECT for v in g) for g in judged_PG]))
        out["groups/none_correct_share"] = float(np.mean([all(v != Verdict.CORRECT for v in g) for g in judged_PG]))
    return out


def _length_metrics(scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
    rollouts = [r for s in scored_P for r in s.group.rollouts_G]
    lengths = [len(r.token_ids_T) for r in rollouts]
    logprobs = np.concatenate([r.logprobs_T for r in rollouts])
    out = {
        "rollout/tokens": float(sum(lengths)),
        "rollout/length_mean": float(np.mean(lengths)),
        "rollout/length_p50": float(np.percentile(lengths, 50)),
        "rollout/length_p90": float(np.percentile(lengths, 90)),
        "rollout/length_max": float(max(lengths)),
        "rollout/truncated_share": float(np.mean([r.truncated for r in rollouts])),
    }
    return out | ({"rollout/logprob_mean": float(np.mean(logprobs, dtype=np.float64))} if len(logprobs) else {})


# ------------------------------------------------------------------------------------------ reward functions


def resolve(spec: str) -> Function:
    """The function that a short name or "module:function" names. Raises BadInput with the nearest name."""
    target = REWARDS.get(spec, spec)
    module_name, colon, name = target.partition(":")
    if not colon:
        near = difflib.get_close_matches(spec, REWARDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(REWARDS)}."
        raise BadInput(f"rewards: no reward is named {spec!r}; {hint} One of your own is 'module:function'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(f"rewards: {spec!r}: cannot import {module_name}: {error}") from error
    function = vars(module).get(name)
    if not callable(function):
        near = difflib.get_close_matches(name, [k for k, v in vars(module).items() if inspect.isfunction(v)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"rewards: {spec!r}: {module_name} has no function {name!r}{hint}")
    if inspect.iscoroutinefunction(function):
        raise BadInput(f"rewards: {spec!r} is async; a reward is an ordinary function")
    return function


def _parameters(function: Function) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:  # some builtins tell nothing of their parameters
        return {}


class _Reward:
    """One reward function. judge: a part for each sample of a group, None where the reward does not apply."""

    def __init__(self, name: str, function: Function) -> None:
        self._name, self._function = name, function
        self._parameters = _parameters(function)
        self._traced = False

    def judge(self, group: RolloutGroup) -> list[RewardPart | None]:
        raise NotImplementedError

    def _call(self, args: tuple[object, ...], columns: dict[str, object]) -> object:
        """The function's result, or the exception it raised. It gets the columns it names, or all if it has **."""
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values()):
            columns = {name: value for name, value in columns.items() if name in self._parameters}
        try:
            return self._function(*args, **columns)
        except Exception as error:
            # The user's code may raise anything, and one sample is not worth a run. Nothing is hidden: the sample is
            # left out and counted, the rollout files say why, and finish() stops the run when it is most of a step.
            if not self._traced:
                self._traced = True
                log.warning("reward %r raised; the sample is left out, later ones too", self._name, exc_info=True)
            return error


class _Native(_Reward):
    """f(completion, *, prompt, answer, **columns) -> Score or number, called once a sample."""

    def judge(self, group: RolloutGroup) -> list[RewardPart | None]:
        columns = {**group.prompt.row, "prompt": group.prompt.text, "answer": group.prompt.reference}
        # A column with the name of the completion's own parameter would be passed twice.
        columns.pop(next(iter(self._parameters), ""), None)
        return [_part(self._call((r.text,), columns)) for r in group.rollouts_G]


class _Batched(_Reward):
    """TRL's and open-r1's shape: f(prompts, completions, **columns) -> list[float | None], called once a group.

    Every argument is a list with an item a sample. Columns are the row's, with "answer" added where there is none.
    A completion is a text, or [{"role": "assistant", "content": text}] when the row's prompt is a list of messages
    (TRL's rule), or from the first time on that the function fails on texts but not on messages.
    """

    _messages = False

    def judge(self, group: RolloutGroup) -> list[RewardPart | None]:
        count = len(group.rollouts_G)
        messages = self._messages or isinstance(group.prompt.row.get("prompt"), list)
        result = self._run(group, messages)
        if isinstance(result, TypeError | IndexError) and not messages:  # what text[0]["content"] raises
            again = self._run(group, True)
            if not isinstance(again, Exception):
                self._messages, result = True, again
        if isinstance(result, Exception):
            return [_part(result)] * count
        if not isinstance(result, list | tuple | np.ndarray) or len(result) != count:
            what = f"{len(result)} scores" if isinstance(result, list | tuple | np.ndarray) else type(result).__name__
            return [_failed(f"returned {what}, not a list of {count} scores")] * count
        return [_part(item) for item in result]

    def _run(self, group: RolloutGroup, messages: bool) -> object:
        prompt, rollouts_G = group.prompt, group.rollouts_G
        texts = [r.text for r in rollouts_G]
        own = prompt.row.get("prompt")
        columns: dict[str, object] = {name: [value] * len(texts) for name, value in prompt.row.items()}
        columns.pop("prompt", None)
        columns.setdefault("answer", [prompt.reference] * len(texts))
        columns["completion_ids"] = [r.token_ids_T.tolist() for r in rollouts_G]
        columns["prompts"] = [own if isinstance(own, list) else prompt.text] * len(texts)
        columns["completions"] = [[{"role": "assistant", "content": t}] for t in texts] if messages else texts
        return self._call((), columns)


def _part(result: object) -> RewardPart | None:
    """A function's result as a RewardPart; None (TRL: the reward does not apply to this sample) stays None."""
    if result is None:
        return None
    if isinstance(result, Exception):
        return _failed(f"{type(result).__name__}: {result}")
    value, verdict, reason = result if isinstance(result, Score) else (result, None, "")
    if not isinstance(value, SupportsFloat):
        return _failed(f"returned {type(value).__name__}, not a number")
    number = float(value)
    if verdict is not None and verdict not in list(Verdict):
        return _failed(f"returned the verdict {verdict!r}, which is none of {', '.join(Verdict)}")
    # A bare number carries no verdict: what earns something counts as correct.
    found = Verdict(verdict) if verdict is not None else Verdict.CORRECT if number > 0 else Verdict.WRONG
    if not found.is_judgement:
        return RewardPart(math.nan, found, reason)
    return RewardPart(number, found, reason) if math.isfinite(number) else _failed(f"returned {number}")


def _failed(reason: str) -> RewardPart:
    return RewardPart(math.nan, Verdict.FAILED, " ".join(reason.split())[:300])
