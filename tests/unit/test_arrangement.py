"""rl/workers/cluster/arrangement.py: which GPU of which node each worker gets."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from rl.config import ClusterConfig, LearnerConfig, RunConfig, SamplerConfig
from rl.types import BadInput
from rl.workers.cluster.arrangement import Arrangement, arrange, gpus_needed, is_colocated, transfer_of


def run_of(ranks: int, samplers: int = 1, width: int = 1, **cluster: str) -> RunConfig:
    sampler = SamplerConfig(count=samplers, tensor_parallel=width)
    return RunConfig(learner=LearnerConfig(ranks=ranks), sampler=sampler, cluster=ClusterConfig(**cluster))


def placed(ranks: int, samplers: int, width: int, gpus_N: list[int], *, colocated: bool = False) -> Arrangement:
    return arrange(run_of(ranks, samplers, width), gpus_N, colocated=colocated)


def homes(arranged: Arrangement) -> tuple[list[int], list[int]]:
    return [seat.bundle for seat in arranged.learners], [seat.bundle for seat in arranged.samplers]


# ------------------------------------------------------------------------------------------------ apart


def test_all_workers_are_on_one_node_where_they_fit_on_one():
    arranged = placed(4, 2, 2, [8, 8])
    assert homes(arranged) == ([0] * 4, [0] * 2)
    assert [seat.gpus for seat in arranged.seats] == [(0,), (1,), (2,), (3,), (4, 5), (6, 7)]


def test_learners_are_packed_and_samplers_are_together_on_nodes_without_learners():
    assert homes(placed(8, 8, 1, [8, 8])) == ([0] * 8, [1] * 8)
    assert homes(placed(6, 4, 1, [8, 8])) == ([0] * 6, [1] * 4)
    assert homes(placed(32, 4, 4, [8] * 6)) == ([0] * 8 + [1] * 8 + [2] * 8 + [3] * 8, [4, 4, 5, 5])


def test_samplers_fill_up_the_learners_node_only_where_they_must():
    arranged = placed(4, 12, 1, [8, 8])
    assert homes(arranged) == ([0] * 4, [0] * 4 + [1] * 8)
    assert [seat.gpus for seat in arranged.samplers[:4]] == [(4,), (5,), (6,), (7,)]


def test_a_samplers_gpus_are_on_one_node_even_if_the_learners_must_be_split():
    learners, samplers = homes(placed(4, 2, 6, [8, 8]))
    assert sorted(samplers) == [0, 1]
    assert sorted(learners) == [0, 0, 1, 1]


def test_on_unequal_nodes_the_learners_take_the_node_that_leaves_the_samplers_room():
    learners, samplers = homes(placed(4, 8, 1, [8, 4]))
    assert len(set(learners)) == len(set(samplers)) == 1
    assert learners[0] != samplers[0]


def test_no_gpu_has_two_workers_and_every_node_is_used_from_its_first_gpu_on():
    for ranks, samplers, width, gpus_N in [(1, 1, 1, [2]), (5, 3, 1, [8]), (8, 1, 8, [8, 8]), (7, 2, 4, [8, 8])]:
        arranged = placed(ranks, samplers, width, gpus_N)
        taken = [(seat.bundle, gpu) for seat in arranged.seats for gpu in seat.gpus]
        assert len(taken) == len(set(taken)) == ranks + samplers * width
        for bundle in range(arranged.bundles):
            assert {gpu for b, gpu in taken if b == bundle} == set(range(arranged.gpus_in(bundle)))


# ------------------------------------------------------------------------------------------------ colocated


def test_each_sampler_has_the_gpus_of_neighbouring_learners():
    arranged = placed(16, 4, 4, [8, 8], colocated=True)
    assert homes(arranged) == ([0] * 8 + [1] * 8, [0, 0, 1, 1])
    for i, sampler in enumerate(arranged.samplers):
        partners = arranged.learners[4 * i : 4 * i + 4]
        assert {p.bundle for p in partners} == {sampler.bundle}
        assert tuple(p.gpus[0] for p in partners) == sampler.gpus
    assert [arranged.gpus_in(b) for b in range(arranged.bundles)] == [8, 8]


@pytest.mark.parametrize(("ranks", "samplers", "width"), [(2, 1, 1), (1, 2, 1), (4, 2, 4)])
def test_what_cannot_pair_is_refused(ranks, samplers, width):
    with pytest.raises(BadInput, match="do not pair"):
        placed(ranks, samplers, width, [8], colocated=True)


def test_on_cpus_colocated_workers_share_a_bundle_and_others_do_not():
    assert homes(placed(2, 2, 1, [])) == ([0, 1], [2, 3])
    assert homes(placed(2, 2, 1, [], colocated=True)) == ([0, 1], [0, 1])


def test_workers_share_devices_by_themselves_where_there_is_one_gpu():
    assert is_colocated(run_of(1), 1)
    assert not is_colocated(run_of(1), 2)
    assert not is_colocated(run_of(1), 0)  # CPUs
    assert not is_colocated(run_of(2, 2), 1)
    assert not is_colocated(run_of(1, 2), 1)
    assert is_colocated(run_of(8, 8, weight_transfer="ipc"), 16)
    assert is_colocated(run_of(8, 8, colocated="true"), 16)
    assert not is_colocated(run_of(1, colocated="false"), 1)
    assert not is_colocated(run_of(1, weight_transfer="nccl"), 1)


def test_weights_go_by_ipc_where_gpus_are_shared():
    assert transfer_of(run_of(1), on_gpu=True, colocated=True) == "ipc"
    assert transfer_of(run_of(1), on_gpu=True, colocated=False) == "nccl"
    assert transfer_of(run_of(1), on_gpu=False, colocated=True) == "bucket"
    assert transfer_of(run_of(1, weight_transfer="bucket"), on_gpu=True, colocated=True) == "bucket"
    with pytest.raises(BadInput, match="needs GPUs"):
        transfer_of(run_of(1, weight_transfer="ipc"), on_gpu=False, colocated=True)


# ------------------------------------------------------------------------------------------------ too few


@pytest.mark.parametrize(
    ("ranks", "samplers", "width", "gpus_N", "said"),
    [
        (
            1,
            1,
            1,
            [1],
            r"has 1 GPU, but 1 learner rank and 1 sampler need 2; .* take turns: cluster.colocated=true needs 1",
        ),
        (8, 9, 1, [8, 8], "need 17; lower learner.ranks or sampler.count$"),
        (1, 1, 16, [8, 8], r"nodes with 8, 8\), but sampler.tensor_parallel=16 needs 16 on one node"),
        (1, 3, 5, [8, 8], "no nodes have room"),
    ],
)
def test_too_few_gpus_are_refused_with_the_numbers_and_what_to_do(ranks, samplers, width, gpus_N, said):
    with pytest.raises(BadInput, match=said):
        placed(ranks, samplers, width, gpus_N)


def test_a_fit_by_number_is_a_fit_by_place_for_single_gpus():
    for ranks, samplers in pairwise(range(1, 10)):
        cfg = run_of(ranks, samplers)
        need = gpus_needed(cfg, colocated=False)
        assert arrange(cfg, [need // 2, need - need // 2], colocated=False).bundles <= 2
        with pytest.raises(BadInput):
            arrange(replace(cfg, sampler=replace(cfg.sampler, count=samplers + 1)), [need], colocated=False)
