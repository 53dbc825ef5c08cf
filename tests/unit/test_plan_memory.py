"""Memory by term: what ZeRO shards, what activations take, against peaks that were measured; and what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.plan.fit import changes_that_fit
from launch.plan.hardware import GIB, find_hardware, this_machine
from launch.plan.host import PROCESS_GIB, host_memory
from launch.plan.memory import LearnerMemory, LearnerShape, layer_bytes_per_token, learner_memory, sampler_memory
from launch.plan.model import Architecture, find_architecture

QWEN_7B = find_architecture("Qwen/Qwen2.5-7B")
H100 = find_hardware("H100-80G", nodes=2, gpus_per_node=8)
SHAPE = LearnerShape("bfloat16", 1, 8, 8192, 8000, 1024, checkpointing=False, reference=False, packed=True)
P = QWEN_7B.parameters


def terms(memory: LearnerMemory) -> dict[str, float]:
    return {term.name: term.num_bytes for term in memory.terms}


def of(**changes: object) -> dict[str, float]:
    return terms(learner_memory(QWEN_7B, replace(SHAPE, **changes), H100))


def test_zero_1_shards_the_optimiser_and_nothing_else():
    found = of()
    assert found["weights"] == 2 * P
    assert found["gradients"] == 4 * P
    assert found["weights' gradients"] == 2 * P
    assert found["master weights"] == 4 * P / 8
    assert found["Adam moments"] == 8 * P / 8


def test_zero_2_shards_the_gradients_too():
    found = of(zero_stage=2)
    assert found["gradients"] == 4 * P / 8
    assert found["weights"] == 2 * P


def test_zero_3_shards_the_weights_and_the_reference_too():
    found = of(zero_stage=3, reference=True)
    assert found["weights"] == 2 * P / 8
    assert found["reference"] == 2 * P / 8
    assert of(reference=True)["reference"] == 2 * P


def test_without_zero_in_float32_the_weights_are_their_own_master():
    found = of(zero_stage=0, dtype="float32")
    assert found["master weights"] == 0
    assert found["weights"] == found["gradients"] == 4 * P
    assert found["Adam moments"] == 8 * P


def test_a_gpu_allocates_the_whole_reduction_bucket():
    assert of(zero_stage=2)["DeepSpeed's buffers"] == 2 * 500_000_000


def test_loading_holds_the_whole_model_in_float32():
    memory = learner_memory(QWEN_7B, replace(SHAPE, zero_stage=2, ranks=64), H100)
    assert memory.loading == pytest.approx(4 * P + 1.8 * GIB)


def test_zero_3_loads_shards_and_one_tensor_at_a_time_so_that_a_70b_model_can_be_loaded():
    shape = replace(SHAPE, zero_stage=3, ranks=64)
    embedding = 152_064 * 3584
    assert learner_memory(QWEN_7B, shape, H100).loading == pytest.approx(4 * P / 64 + 12 * embedding + 1.8 * GIB)
    large = find_architecture("meta-llama/Llama-3.1-70B")
    with_reference = learner_memory(large, replace(shape, reference=True), H100)
    assert with_reference.loading == pytest.approx(12 * large.parameters / 64 + 12 * 128_256 * 8192 + 1.8 * GIB)
    assert with_reference.loading < with_reference.limit
    assert learner_memory(large, replace(shape, zero_stage=2), H100).loading > 200 * GIB


def test_a_tied_head_has_shards_of_its_own_while_zero_3_loads_it():
    tied, apart = (replace(QWEN_7B, tied=tied, given_parameters=P) for tied in (True, False))
    shape = replace(SHAPE, zero_stage=3, ranks=64)
    more = learner_memory(tied, shape, H100).loading - learner_memory(apart, shape, H100).loading
    assert more == pytest.approx(4 * 152_064 * 3584 / 64)


def test_activations_grow_with_the_tokens_and_recomputing_keeps_little():
    whole, half = of()["activations"], of(tokens=4096)["activations"]
    assert whole == pytest.approx(2 * half)
    assert of(checkpointing=True)["activations"] < whole / 10


def test_a_layer_keeps_what_its_letters_say():
    # D 10, Q 10, K 5, I 20.
    arch = Architecture("t", "here", "llama", 10, 20, 1, 2, 1, 5, 7, tied=True)
    assert layer_bytes_per_token(arch, "bfloat16", on_gpu=True) == 16 * 10 + 4 * 15 + 8 * 20
    assert layer_bytes_per_token(arch, "bfloat16", on_gpu=False) == 26 * 10 + 18 * 10 + 8 * 20
    assert layer_bytes_per_token(arch, "float32", on_gpu=False) == 24 * 10 + 16 * 10 + 16 * 20


def test_adapters_leave_the_frozen_weights_without_an_optimiser():
    found = of(lora=16)
    assert found["Adam moments"] == 8 * QWEN_7B.adapter_parameters(16) / 8
    assert found["weights"] > 2 * P


MEASURED = Architecture("45M", "here", "llama", 512, 1536, 12, 8, 2, 64, 16384, tied=True)


@pytest.mark.parametrize(
    ("stage", "dtype", "reference", "peak_mib"),
    [
        (1, "bfloat16", False, 2628),
        (3, "bfloat16", False, 2841),
        (1, "float32", False, 3050),
        (3, "float32", True, 4009),
    ],
)
def test_peaks_measured_on_one_rank_are_met_within_a_tenth(stage, dtype, reference, peak_mib):
    """VmHWM after three steps of two micro-batches of 2,048 tokens; the process had 395 MiB before it loaded."""
    machine = this_machine()
    machine = replace(machine, memory=replace(machine.memory, base_gib=395 / 1024))
    shape = LearnerShape(dtype, stage, 1, 2048, 1536, 1024, checkpointing=False, reference=reference, packed=False)
    assert learner_memory(MEASURED, shape, machine).peak / (1 << 20) == pytest.approx(peak_mib, rel=0.1)


# ------------------------------------------------------------------------------------------------ sampler


def test_a_gpu_sampler_gives_what_is_left_to_the_cache():
    memory = sampler_memory(
        QWEN_7B, "bfloat16", H100, tensor_parallel=1, gpu_share=0.9, kv_cache_gib=1, max_sequences=256,
        full_length=8192 + 128, mean_length=3000,
    )  # fmt: skip
    cache = 0.9 * 79.6 * GIB - 2 * P - 3 * GIB
    assert memory.peak == pytest.approx(memory.limit)
    assert memory.full_sequences == int(cache // (56 * 1024 * 8320))
    assert memory.mean_sequences == int(cache // (56 * 1024 * 3000))


def test_a_model_larger_than_the_gpu_leaves_no_room_for_a_sequence():
    memory = sampler_memory(
        find_architecture("Qwen/Qwen2.5-32B"), "bfloat16", find_hardware("A40-48G", nodes=1, gpus_per_node=8),
        tensor_parallel=1, gpu_share=0.9, kv_cache_gib=1, max_sequences=256, full_length=1000, mean_length=500,
    )  # fmt: skip
    assert not memory.fits


# ------------------------------------------------------------------------------------------------ what to change


def test_what_is_offered_fits_and_is_the_smallest_change_of_its_kind():
    shape = replace(SHAPE, ranks=8, tokens=16384)
    assert not learner_memory(QWEN_7B, shape, H100).fits
    found = changes_that_fit(QWEN_7B, shape, H100, longest=16384, rollouts_per_update=1024)
    assert found
    for change in found:
        assert change.memory.fits
        assert learner_memory(QWEN_7B, change.shape, H100).peak == change.memory.peak
        assert f"{change.memory.peak / GIB:.0f} of 80 GiB" in change.sentence()
    assert found[0].shape.checkpointing
    assert found[0].shape.ranks == 8  # nobody is sent to buy GPUs while a setting helps


def test_no_change_contains_another_one_that_is_enough():
    found = changes_that_fit(
        QWEN_7B, replace(SHAPE, tokens=16384), H100, longest=1000, rollouts_per_update=1024, most=9
    )
    names = [{knob.partition("=")[0] for knob in change.knobs} for change in found]
    assert len(names) > 1
    assert all(not a <= b for i, a in enumerate(names) for j, b in enumerate(names) if i != j)


def test_more_ranks_are_offered_when_only_they_help():
    arch = find_architecture("Qwen/Qwen2.5-14B")
    shape = replace(SHAPE, zero_stage=3, ranks=2, tokens=4096, checkpointing=True)
    found = changes_that_fit(arch, shape, H100, longest=4096, rollouts_per_update=512)
    assert not learner_memory(arch, shape, H100).fits
    assert found[0].sentence().startswith(f"ZeRO-3 over {found[0].shape.ranks} ranks instead of 2 fits: ")
    half = replace(shape, ranks=found[0].shape.ranks // 2)
    assert not learner_memory(arch, half, H100).fits


def test_nothing_is_offered_when_no_number_of_ranks_can_hold_the_model():
    arch = find_architecture("meta-llama/Llama-3.1-70B")
    assert changes_that_fit(arch, replace(SHAPE, zero_stage=3), H100, longest=2000, rollouts_per_update=8) == []
    found = changes_that_fit(arch, SHAPE, H100, longest=2000, rollouts_per_update=4096)
    assert all("learner.zero_stage=3" in change.knobs for change in found)
    assert found


def test_micro_batches_are_not_cut_below_a_sequence():
    found = changes_that_fit(QWEN_7B, replace(SHAPE, tokens=16384), H100, longest=9000, rollouts_per_update=64, most=9)
    assert all(change.shape.tokens >= 9000 for change in found)


# ------------------------------------------------------------------------------------------------ beside the GPUs


def test_each_rank_of_a_machine_reads_the_float32_model_into_host_memory_up_to_zero_2():
    processes = 8 * PROCESS_GIB * GIB  # a GPU has one process, whether it trains or samples
    for stage in (0, 1, 2):
        found = host_memory(QWEN_7B, replace(SHAPE, zero_stage=stage), H100, samplers=8)
        assert found.num_bytes == 8 * 4 * P + processes
        assert "float32 model of each of 8 ranks" in found.note
    two_machines = host_memory(QWEN_7B, replace(SHAPE, ranks=16), H100, samplers=0)
    assert two_machines.num_bytes == 8 * 4 * P + processes  # the fullest machine holds 8 of the 16 ranks
    two_ranks = host_memory(QWEN_7B, replace(SHAPE, ranks=2), H100, samplers=1)
    assert two_ranks.num_bytes == 2 * 4 * P + 3 * PROCESS_GIB * GIB


def test_under_zero_3_host_memory_holds_a_tensor_and_not_the_model():
    found = host_memory(QWEN_7B, replace(SHAPE, zero_stage=3), H100, samplers=0)
    assert found.num_bytes == 12 * QWEN_7B.largest_tensor + 8 * PROCESS_GIB * GIB
    assert found.num_bytes < 4 * P + 8 * PROCESS_GIB * GIB
