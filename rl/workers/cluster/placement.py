"""What the workers need of the cluster: CPUs and GPUs, a kind of weight transfer, threads, environment variables."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl.config import RunConfig
from rl.types import BadInput
from rl.workers.cluster.ray_calls import QUIET, most_on_one_node, offline

Bundle = dict[str, float]
"""The resources that Ray reserves for one worker: {"CPU": 1, "GPU": 0.5}."""


def transfer_of(cfg: RunConfig, device: str) -> str:
    """How weights reach the samplers: bucket, nccl or ipc. Raises BadInput for nccl and ipc on CPUs."""
    kind = cfg.cluster.weight_transfer
    if kind == "auto":
        return "nccl" if device == "gpu" else "bucket"
    if kind != "bucket" and device == "cpu":
        raise BadInput(f"cluster.weight_transfer={kind} needs GPUs; use bucket or auto")
    return kind


def bundles_of(cfg: RunConfig, device: str, transfer: str) -> list[Bundle]:
    """One bundle for each learner rank, then one for each sampler. With ipc a rank and a sampler share each GPU."""
    cpus = cfg.cluster.cpus_per_worker
    share = 0.5 if transfer == "ipc" else 1.0
    learner = {"CPU": cpus} | ({"GPU": share} if device == "gpu" else {})
    sampler = {"CPU": cpus} | ({"GPU": share * cfg.sampler.tensor_parallel} if device == "gpu" else {})
    bundles = [learner] * cfg.learner.ranks + [sampler] * cfg.sampler.count
    return [{k: v for k, v in b.items() if v} or {"CPU": 0.001} for b in bundles]  # Ray refuses an empty bundle


def refuse_too_small(cfg: RunConfig, bundles: Sequence[Bundle], models: Sequence[Bundle]) -> None:
    """Raise BadInput, with the numbers, if the cluster cannot hold these workers and reward models."""
    have = ray.cluster_resources()
    for kind in ("CPU", "GPU"):
        need = sum(b.get(kind, 0.0) for b in (*bundles, *models))
        if need > have.get(kind, 0.0):
            raise BadInput(
                f"the cluster has {have.get(kind, 0):g} {kind}s, but {cfg.learner.ranks} learner ranks and "
                f"{cfg.sampler.count} samplers {f'and {len(models)} reward models ' if models else ''}need {need:g}"
                "; lower learner.ranks or sampler.count" + (", or cluster.cpus_per_worker" if kind == "CPU" else "")
            )


def threads_of(cfg: RunConfig, places: list[str]) -> tuple[int, int]:
    """(threads of a learner rank, threads of a sampler): as configured, else an even share of a node's cores.

    places: the address of each bundle's node. Learner ranks and samplers of one node may each use all its cores,
    because in synchronous mode the one kind waits while the other works.
    """
    # Only nodes with a worker count: a head node may have no CPUs. The smallest decides, as all get the same number.
    used = [node for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] in places]
    cores = int(min(node["Resources"].get("CPU", 1) for node in used))
    ranks = cfg.learner.ranks
    samplers_at = places[ranks : ranks + cfg.sampler.count]
    return (
        cfg.learner.threads or max(1, cores // most_on_one_node(places[:ranks])),
        cfg.sampler.threads or max(1, cores // most_on_one_node(samplers_at)),
    )


def actor_on(
    cls: type, group: PlacementGroup, index: int, bundle: Bundle, threads: int, env: dict[str, str]
) -> ray.actor.ActorClass:
    """The class as a Ray actor in the group's bundle of this index."""
    return ray.remote(cls).options(
        num_cpus=bundle.get("CPU", 0),
        num_gpus=bundle.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        runtime_env={"env_vars": QUIET | offline() | {"OMP_NUM_THREADS": str(threads)} | env},
    )


def sampler_environment(cfg: RunConfig, device: str) -> dict[str, str]:
    """Environment variables that vLLM reads when it starts."""
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if device == "cpu":
        env |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else samplers of one node bind to the same cores
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(cfg.sampler.kv_cache_gib))),
            "VLLM_TARGET_DEVICE": "cpu",
        }
        if cfg.sampler.enforce_eager:  # even then vLLM would compile a few small functions, which takes seconds
            env["TORCHDYNAMO_DISABLE"] = "1"
    return env
