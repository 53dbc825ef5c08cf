"""Rollouts in a simulated sampler, updates and syncs: against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from launch.plan.hardware import find_hardware, this_machine
from launch.plan.memory import LearnerShape
from launch.plan.model import find_architecture
from launch.plan.rollouts import Decoder, Lengths, assumed_lengths, make_decoder, simulate
from launch.plan.time import Passes, sync_time, update_time
from rl.types import BadInput

H100 = find_hardware("H100-80G", nodes=2, gpus_per_node=8)
QWEN_7B = find_architecture("Qwen/Qwen2.5-7B")
SHAPE = LearnerShape("bfloat16", 1, 8, 8192, 8000, 1024, checkpointing=False, reference=False, packed=True)
WORK = Passes(tokens=1e6, scored=9e5, mean_length=2000, forwards=0, updates=1, micro_batches=16)
ONE_SECOND = Decoder(0.0, 0.0, 0.0, fixed_s=1.0, sequence_s=0.0, prefill_s_per_token=0.0)


def decode(decoder: Decoder, lengths: list[int], *, slots: int, samplers: int = 1, prompt: float = 0.0) -> float:
    time = simulate(
        decoder, np.array(lengths), prompt=prompt, group=1, samplers=samplers, slots=slots, shared_prefix=True
    )
    assert time.tokens == sum(lengths)
    return time.seconds


@pytest.mark.parametrize(("slots", "seconds"), [(2, 4), (1, 6), (8, 4)])
def test_the_longest_rollout_decides_when_all_fit_and_the_sum_when_one_does(slots, seconds):
    assert decode(ONE_SECOND, [2, 4], slots=slots) == seconds


def test_a_free_slot_takes_the_next_rollout():
    # Slot a: 3 then 1; slot b: 2 then 2.
    assert decode(ONE_SECOND, [3, 2, 2, 1], slots=2) == 4


def test_samplers_share_the_groups_and_the_slowest_counts():
    assert decode(ONE_SECOND, [5, 1, 1, 1], slots=1, samplers=2) == 6
    assert decode(ONE_SECOND, [1, 5, 1, 1], slots=1, samplers=2) == 6


def test_the_cache_that_is_read_grows_with_every_token():
    # One sequence with a prompt of 10: 10.5 tokens on average in its first step, 11.5, 12.5.
    reader = Decoder(0.0, 1.0, 0.0, fixed_s=0.0, sequence_s=0.0, prefill_s_per_token=0.0)
    assert decode(reader, [3], slots=1, prompt=10) == pytest.approx(10.5 + 11.5 + 12.5)


def test_a_step_waits_for_reading_or_computing_whichever_is_longer():
    decoder = Decoder(2.0, 0.0, 1.0, fixed_s=0.5, sequence_s=0.25, prefill_s_per_token=0.0)
    assert decoder.step_s(1, 0) == 2.0 + 0.5 + 0.25
    assert decoder.step_s(4, 0) == 4.0 + 0.5 + 1.0


def test_a_group_prefills_its_prompt_once_with_a_prefix_cache():
    prefiller = Decoder(0.0, 0.0, 0.0, fixed_s=0.0, sequence_s=0.0, prefill_s_per_token=1.0)
    run = {"prompt": 7.0, "group": 4, "samplers": 1, "slots": 4}
    assert simulate(prefiller, np.ones(4, int), **run, shared_prefix=True).seconds == 7
    assert simulate(prefiller, np.ones(4, int), **run, shared_prefix=False).seconds == 28


def test_the_tail_is_the_time_with_few_slots_busy():
    # 19 rollouts of 10 tokens and one of 100: 90 of 100 steps have one of twenty slots busy.
    time = simulate(
        ONE_SECOND, np.array([10] * 19 + [100]), prompt=0, group=1, samplers=1, slots=20, shared_prefix=True
    )
    assert (time.seconds, time.alone_s) == (100, 90)


def test_lengths_have_their_median_end_at_the_limit_and_repeat_with_their_seed():
    lengths = Lengths(median=400, sigma=0.7, limit=1000, prompt=100)
    drawn = lengths.draw(20_000, seed=3)
    assert np.median(drawn) == pytest.approx(400, rel=0.02)
    assert drawn.max() == 1000
    # P(lognormal > limit) = 1 - Phi(ln(1000 / 400) / 0.7) = 1 - Phi(1.309) = 0.095
    assert lengths.truncated_share() == pytest.approx(0.095, abs=0.01)
    assert (drawn == lengths.draw(20_000, seed=3)).all()
    assert (drawn != lengths.draw(20_000, seed=4)).any()


def test_a_median_above_the_limit_is_refused():
    with pytest.raises(BadInput, match="median of 2000"):
        assumed_lengths(1000, median=2000)


def test_prompts_are_assumed_to_leave_room_for_the_completion():
    assert assumed_lengths(40, room=64).prompt == 24
    assert assumed_lengths(40).prompt == 128


def test_decoding_reads_the_weights_and_the_cache():
    decoder = make_decoder(QWEN_7B, "bfloat16", H100, tensor_parallel=1, eager=False)
    weights = 2 * (QWEN_7B.active + QWEN_7B.embedding)
    assert decoder.weights_s == pytest.approx(weights / (0.6 * 3350e9))
    assert decoder.cache_s_per_token == pytest.approx(56 * 1024 / (0.6 * 3350e9))
    split = make_decoder(QWEN_7B, "bfloat16", H100, tensor_parallel=2, eager=False)
    assert split.weights_s == pytest.approx(decoder.weights_s / 2)
    assert split.fixed_s > decoder.fixed_s


# ------------------------------------------------------------------------------------------------ update


def test_forward_and_backward_take_six_operations_a_weight_and_token():
    layers = 1e6 * (2 * QWEN_7B.active + 28 * 2 * 3584 * 2000)
    head = 9e5 * 2 * QWEN_7B.embedding
    expected = (3 * layers + 4 * head) / (8 * 0.35 * 989e12)
    assert update_time(QWEN_7B, SHAPE, WORK, H100).gradient_s == pytest.approx(expected)


def test_recomputing_adds_one_forward_of_the_layers():
    plain = update_time(QWEN_7B, SHAPE, WORK, H100).gradient_s
    recomputed = update_time(QWEN_7B, replace(SHAPE, checkpointing=True), WORK, H100).gradient_s
    assert recomputed - plain == pytest.approx(QWEN_7B.layer_flops(1e6, 2000) / (8 * 0.35 * 989e12))


def test_a_reference_and_old_logprobs_each_cost_a_forward_without_gradients():
    one = update_time(QWEN_7B, SHAPE, replace(WORK, forwards=1), H100)
    two = update_time(QWEN_7B, SHAPE, replace(WORK, forwards=2), H100)
    assert two.forward_only_s == pytest.approx(2 * one.forward_only_s)
    assert 0 < one.forward_only_s < one.gradient_s / 3


def test_twice_the_ranks_compute_twice_as_fast_on_gpus_and_not_on_one_cpu():
    wider = replace(SHAPE, ranks=16)
    gain = update_time(QWEN_7B, SHAPE, WORK, H100).gradient_s / update_time(QWEN_7B, wider, WORK, H100).gradient_s
    assert gain == pytest.approx(2)
    machine = this_machine()
    one, two = (update_time(QWEN_7B, replace(SHAPE, ranks=r), WORK, machine).gradient_s for r in (1, 2))
    assert one == two


def test_one_rank_sends_nothing_and_zero_3_gathers_the_weights_in_every_micro_batch():
    assert update_time(QWEN_7B, replace(SHAPE, ranks=1), WORK, H100).communication_s == 0
    ring = 7 / 8 / (0.7 * 450e9)
    reduced_and_gathered = 3 * 2 * QWEN_7B.parameters * ring
    once = update_time(QWEN_7B, SHAPE, WORK, H100).communication_s
    assert once == pytest.approx(reduced_and_gathered)
    every = update_time(QWEN_7B, replace(SHAPE, zero_stage=3), WORK, H100).communication_s
    assert every == pytest.approx(16 * reduced_and_gathered)


# ------------------------------------------------------------------------------------------------ sync


def test_a_sync_carries_every_parameter_in_compute_precision():
    sync = sync_time(QWEN_7B, SHAPE, H100, way="nccl", bucket_mib=64, samplers=4)
    assert sync.num_bytes == 2 * QWEN_7B.parameters
    assert sync.wire_s == pytest.approx(2 * QWEN_7B.parameters / (0.7 * 400e9))  # 12 GPUs: two nodes
    assert sync.seconds > sync.wire_s


def test_on_a_cpu_a_tied_head_travels_too():
    arch = find_architecture("HuggingFaceTB/SmolLM2-135M")
    sync = sync_time(arch, replace(SHAPE, ranks=1), this_machine(), way="bucket", bucket_mib=64, samplers=1)
    assert sync.num_bytes == 2 * (arch.parameters + arch.embedding)
