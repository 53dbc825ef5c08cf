"""The checks that an update reaches what the samplers compute: by rl/rollouts/agreement.py's comparison and, where
weights change in mid-sample, by two groups of one prompt around an update.
"""

from __future__ import annotations

import numpy as np

from launch.doctor.check import Check, failed, passed, skipped
from launch.doctor.exam import SAMPLES, Exam
from rl.context import sample_seed
from rl.data.versions import versions_T
from rl.rollouts.agreement import FEWEST, agreement, score_groups
from rl.types import Rollout, RolloutGroup, SampleRequest


def update_used(exam: Exam) -> Check:
    """The samples after the update, of the same seeds as those before it, moved as the learner's logprobs did.

    To run after the check of the logprobs, which took both.
    """
    old_G, new_G = ([r for group in groups for r in group.rollouts_G] for groups in (exam.earlier, exam.groups))
    learner_PG = score_groups(exam.backend.score, exam.cfg, exam.backend.layout, exam.groups)
    found = agreement(old_G, new_G, [logprobs_T for group in learner_PG for logprobs_T in group])
    if found.common < FEWEST:
        return skipped(f"only {found.common} tokens were drawn alike before and after the update")
    measured = (
        f"on {found.common} tokens drawn before and after the update, it moved the learner's logprobs by "
        f"{found.moved:.1e} nats, and the sampler's are {found.missed:.1e} from them (medians)"
    )
    if found.fault(exam.cfg, exam.earlier_gap):
        return failed(
            f"{measured}; before the update they differed by {exam.earlier_gap:.1e} in the mean",
            "part of the update does not reach what the sampler computes with, although every tensor arrived: a head "
            "or experts that keep their old weights, or that are packed a second time in the wrong way",
            "look at what the sampler's engine does with weights that are loaded again (rl/workers/sync/"
            "vllm_transfer.py), one kind of layer at a time",
        )
    return passed(measured)


def old_prompts_forgotten(exam: Exam) -> Check:
    """A prompt that was cached before an update, and is sampled again after it while the first samples still run, is
    computed with the new weights.

    For recipes with rollout.in_flight. To run after an update and before its weights are sent.
    """
    first: dict[int, list[Rollout]] = {}
    seeds_G = [sample_seed(exam.cfg.seed, "doctor", "around", i) for i in range(SAMPLES)]
    requests = [SampleRequest(i, p.token_ids, seeds_G) for i, p in enumerate(exam.prompts_P)]
    longest = exam.params(max_new_tokens=exam.cfg.rollout.max_new_tokens)
    exam.backend.submit(requests, longest, first.__setitem__)
    exam.sync()
    second = dict(exam.backend.rollouts(requests, exam.params()))
    while len(first) < len(requests):
        exam.backend.pump()
    groups_P = [RolloutGroup(exam.prompts_P[i], second[i]) for i in sorted(second)]
    learner_PG = score_groups(exam.backend.score, exam.cfg, exam.backend.layout, groups_P)
    sampled = np.concatenate([r.logprobs_T for group in groups_P for r in group.rollouts_G])
    scored = np.concatenate([logprobs_T for group in learner_PG for logprobs_T in group])
    gap = float(np.abs(sampled - scored).mean())
    mixed = sum(len(set(versions_T(r).tolist())) > 1 for rollouts_G in first.values() for r in rollouts_G)
    measured = (
        f"an update found {mixed} of {len(requests) * SAMPLES} samples half drawn; the same prompts, sampled after it, "
        f"differ from the learner by {gap:.1e} nats in the mean, over {len(sampled)} tokens"
    )
    if not gap <= exam.cfg.gap_limit:
        return failed(
            f"{measured}; the limit is {exam.cfg.gap_limit:g}",
            "they read keys and values that the old weights left in the prefix cache: while requests run, vLLM empties "
            "it only when it is told to preempt them",
            "look at adopt_version and at cache_salt in rl/workers/sampler/sampler.py",
        )
    return passed(measured)
