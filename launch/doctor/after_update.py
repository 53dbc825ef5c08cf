"""The check that an update reaches what the samplers compute, by rl/rollouts/agreement.py's comparison."""

from __future__ import annotations

from launch.doctor.check import Check, failed, passed, skipped
from launch.doctor.exam import Exam
from rl.rollouts.agreement import FEWEST, agreement, score_groups


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
