"""RolloutGroup -> GradedGroup (as each group streams in) -> ScoredGroup (the whole batch, with advantages).

_P prompts, _G samples of a group. A reward that raises costs one sample and is counted, never a run; a reward that
says nothing of most samples stops the run by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rewards import short_name
from rl.algorithms.advantage import advantages, is_uniform
from rl.config import EnvironmentConfig, GRPOConfig, RewardConfig
from rl.scoring.reward_functions import Parts, RewardFunctions, watch
from rl.scoring.routing import ACCURACY, accuracies, applying, is_model, named, refuse_late
from rl.turns import MODEL
from rl.types import AhaError, BadInput, GradedGroup, Prompt, RewardPart, Rollout, RolloutGroup, ScoredGroup, Verdict

ENVIRONMENT = "environment"
"""Name of the part of the reward that environments give."""
MANY_PROMPTS = 4
"""A reward for some domains that fails on this many prompts of a step is dead, however few rows they are."""


class Scorer:
    """Rewards to advantages: weighs the parts of each sample, finds advantages over the batch, counts verdicts."""

    def __init__(
        self,
        rewards: tuple[RewardConfig, ...],
        cfg: GRPOConfig,
        *,
        max_unjudged_share: float = 0.5,
        environments: Sequence[EnvironmentConfig] = (),
    ) -> None:
        self._cfg, self._max_unjudged_share = cfg, max_unjudged_share
        self._parts = named(rewards) if rewards or not environments else {}
        refuse_late(self._parts, cfg.steps)
        if cfg.uniform_by and cfg.uniform_by not in self._parts:
            raise BadInput(f"grpo.uniform_by={cfg.uniform_by}: the rewards are {', '.join(self._parts)}")
        self.functions = RewardFunctions(rewards)
        self._weights = {name: reward.weight for name, reward in self._parts.items()}
        if environments:
            self._weights[ENVIRONMENT] = environments[0].weight  # that of all: rl/settings/config_checks.py
        self.accuracies = accuracies(rewards)
        self._watched = [name for name in self.accuracies if short_name(self._parts[name].function) == ACCURACY]

    @property
    def names(self) -> list[str]:
        """Of the parts, in order, those that do not apply yet included."""
        return list(self._weights)

    @property
    def models(self) -> dict[str, RewardConfig]:
        """The parts that are reward models, by name."""
        return {name: reward for name, reward in self._parts.items() if is_model(reward)}

    def applying(self, prompt: Prompt, step: int | None = None) -> list[str]:
        """Names of the rewards that a prompt's samples get at a GRPO step (None: whatever the step), in order."""
        return applying(self._parts, prompt.row, step, self._cfg.steps)

    def deciding(self, prompt: Prompt) -> str:
        """Name of the part that says whether a prompt's samples are correct: its first reward, else its environment."""
        return next(iter(self.applying(prompt)), ENVIRONMENT if ENVIRONMENT in self._weights else "")

    def grade(self, group: RolloutGroup, parts_G: list[Parts] | None = None) -> GradedGroup:
        """The group with its rewards. parts_G: what the reward workers said; None asks the functions here and now."""
        if parts_G is None:
            names = self.applying(group.prompt)
            models = [name for name in names if name not in self.functions.configs]
            if models:
                raise AhaError(f"reward {models[0]!r} is a model; only the backend can ask it")
            parts_G = self.functions.call_all(group, names)
        parts_G = [parts | episode_part(r) for parts, r in zip(parts_G, group.rollouts_G, strict=True)]
        valid_G = [bool(parts) and all(part.verdict.is_valid for part in parts.values()) for parts in parts_G]
        totals = [self._total(parts) if ok else math.nan for parts, ok in zip(parts_G, valid_G, strict=True)]
        return GradedGroup(group, totals, parts_G, valid_G)

    def finish(self, graded_P: Sequence[GradedGroup]) -> list[ScoredGroup]:
        """Advantages over the whole batch, by GRPOConfig.advantage, in the order given.

        Raises AhaError as stop_if_silent does.
        """
        self.stop_if_silent(graded_P)
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
            uniform = is_uniform(g.rewards_G, g.valid_G, self._telling(scores_G))
            scored_P.append(ScoredGroup(g.group, g.rewards_G, g.parts_G, advantages_G, g.valid_G, uniform))
        return scored_P

    def _telling(self, scores_G: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]] | None:
        """The scores by which a group is uniform; None: their weighted sum."""
        by = self._cfg.uniform_by
        if by and any(by in scores for scores in scores_G):
            return [{name: s for name, s in scores.items() if name == by} for scores in scores_G]
        if self._cfg.advantage == "per_reward":  # one of weight 0 is only looked at
            return [{name: s for name, s in scores.items() if self._weights[name]} for scores in scores_G]
        return None

    def metrics(self, scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
        """A step's numbers, flat. Lengths are in tokens of the completion.

        Means and deviations (population) are over samples that have a verdict. A reward's verdicts are shares of the
        samples that it applies to; applied/<name> says what share of all those are, where it is not all of them. What
        has none to show is left out.
        """
        samples = [(r, p, ok) for s in scored_P for r, p, ok in zip(s.rewards_G, s.parts_G, s.valid_G, strict=True)]
        if not samples:
            return {"samples/count": 0.0, "samples/invalid": 0.0}
        out = {"samples/count": float(len(samples)), "samples/invalid": float(sum(not ok for *_, ok in samples))}
        rewards = [reward for reward, _, ok in samples if ok]
        if rewards:
            out |= {"reward/mean": float(np.mean(rewards)), "reward/std": float(np.std(rewards))}
        for name in self.names:
            out |= _part_metrics(name, [part[name] for _, part, _ in samples if name in part], len(samples))
        return (
            out
            | _accuracy_metrics(scored_P, self.accuracies)
            | _group_metrics(scored_P)
            | _length_metrics(scored_P)
            | watch(scored_P, self._watched)
        )

    def _total(self, parts: Parts) -> float:
        return sum(self._weights[name] * part.score for name, part in parts.items())

    def stop_if_silent(self, graded_P: Sequence[GradedGroup]) -> None:
        """Raise AhaError, with three examples, for a reward without a verdict on more than max_unjudged_share.

        That is a share of all samples of the step; of those that the reward applies to, when MANY_PROMPTS prompts or
        more got none. Raises also when no reward applies to such a share.
        """
        samples = [(g.group.prompt.id, i, parts) for g in graded_P for i, parts in enumerate(g.parts_G)]
        share = self._max_unjudged_share
        for name in self.names:
            asked = [(p, i, parts[name]) for p, i, parts in samples if name in parts]
            silent = [(p, i, part) for p, i, part in asked if not part.verdict.is_valid]
            routed = len(silent) > share * len(asked) and len({p for p, *_ in silent}) >= MANY_PROMPTS
            if len(silent) > share * len(samples) or routed:
                # From all over the step: three samples of one group would show one prompt only.
                examples = silent[:: -(-len(silent) // 3)]
                shown = "; ".join(f"prompt {p} sample {i}: {part.verdict}, {part.reason}" for p, i, part in examples)
                raise AhaError(
                    f"reward {name!r} has no verdict on {len(silent)} of {len(asked) if routed else len(samples)} "
                    f"samples of this step (at most {share:.0%} are let pass, scoring.max_unjudged_share): {shown}. "
                    "Mend the reward and start again: the run resumes"
                )
        unrewarded = [p for p, _, parts in samples if not parts]
        if len(unrewarded) > share * len(samples):
            raise AhaError(
                f"no reward applies to {len(unrewarded)} of {len(samples)} samples of this step, for example of prompt "
                f"{unrewarded[0]}: {', '.join(self.names)} returned None. Each row needs at least one that does"
            )


def episode_part(rollout: Rollout) -> Parts:
    """What a sample's environment says: the sum of its get_reward. Nothing where it has none, and did not fail."""
    episode = rollout.episode
    if episode is None or not (episode.fault or episode.rewards):
        return {}
    if episode.fault:
        verdict = Verdict.TIMED_OUT if episode.timed_out else Verdict.FAILED
        return {ENVIRONMENT: RewardPart(math.nan, verdict, f"{episode.environment}: {episode.fault}")}
    total = sum(episode.rewards)
    return {ENVIRONMENT: RewardPart(total, Verdict.CORRECT if total > 0 else Verdict.WRONG)}


def _part_metrics(name: str, parts: Sequence[RewardPart], count: int) -> dict[str, float]:
    """One reward's numbers in a step of `count` samples, of which it applies to `parts`."""
    out = {f"applied/{name}": len(parts) / count} if len(parts) < count else {}
    scores = [part.score for part in parts if part.verdict.is_valid]
    if scores:
        out[f"reward/{name}"] = float(np.mean(scores))
    if parts:
        out |= {f"verdict/{name}/{v}": sum(part.verdict == v for part in parts) / len(parts) for v in Verdict}
    return out


def _group_metrics(scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
    out = {"groups/count": float(len(scored_P)), "groups/uniform_share": float(np.mean([s.uniform for s in scored_P]))}
    repeated = [len(s.group.rollouts_G) - len({r.token_ids_T.tobytes() for r in s.group.rollouts_G}) for s in scored_P]
    out["samples/duplicate_share"] = sum(repeated) / sum(len(s.group.rollouts_G) for s in scored_P)
    return out


def _accuracy_metrics(scored_P: Sequence[ScoredGroup], names: Sequence[str]) -> dict[str, float]:
    """What a step's samples say of the reference answers. names: see rl.scoring.routing.accuracies; of several parts of
    a sample the first counts.
    """
    found_PG = [[next(p[n] for n in names if n in p) for p in s.parts_G if set(names) & set(p)] for s in scored_P]
    scores = [part.score for parts_G in found_PG for part in parts_G if part.verdict.is_valid]
    out = {"accuracy": float(np.mean(scores))} if scores else {}
    asked_PG = [[part.verdict for part in parts_G] for parts_G in found_PG if parts_G]
    if asked_PG:
        out["groups/all_correct_share"] = float(np.mean([all(v == Verdict.CORRECT for v in g) for g in asked_PG]))
        out["groups/none_correct_share"] = float(np.mean([all(v != Verdict.CORRECT for v in g) for g in asked_PG]))
    return out


def _length_metrics(scored_P: Sequence[ScoredGroup]) -> dict[str, float]:
    rollouts = [r for s in scored_P for r in s.group.rollouts_G]
    lengths = [r.num_sampled for r in rollouts]
    logprobs = np.concatenate([r.at_sampled(r.logprobs_T) for r in rollouts])
    out = {
        "rollout/tokens": float(sum(lengths)),
        "rollout/length_mean": float(np.mean(lengths)),
        "rollout/length_p50": float(np.percentile(lengths, 50)),
        "rollout/length_p90": float(np.percentile(lengths, 90)),
        "rollout/length_max": float(max(lengths)),
        "rollout/truncated_share": float(np.mean([r.truncated for r in rollouts])),
    }
    if turns := [sum(turn.role == MODEL for turn in r.episode.turns) for r in rollouts if r.episode is not None]:
        out["rollout/turns_mean"] = float(np.mean(turns))
    return out | ({"rollout/logprob_mean": float(np.mean(logprobs, dtype=np.float64))} if len(logprobs) else {})
