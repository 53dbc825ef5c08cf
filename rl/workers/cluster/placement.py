"""What the workers need of the cluster: CPUs and GPUs, threads, environment variables."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from rl.config import RunConfig
from rl.types import BadInput
from rl.workers.cluster.arrangement import Arrangement
from rl.workers.cluster.ray_calls import most_on_one_node

Bundle = dict[str, float]
"""The resources that Ray reserves for the workers of one node, or for one worker: {"CPU": 1, "GPU": 2}."""


def gpus_of_nodes(device: str) -> list[int]:
    """The number of GPUs of each node that has some; empty when the workers run on CPUs."""
    counts = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    return [count for count in counts if count] if device == "gpu" else []


def bundles_of(cfg: RunConfig, arranged: Arrangement) -> list[Bundle]:
    """The resources of each bundle of the arrangement."""
    homes = [seat.bundle for seat in arranged.seats]
    bundles = [
        {"CPU": homes.count(i) * cfg.cluster.cpus_per_worker, "GPU": float(arranged.gpus_in(i))}
        for i in range(arranged.bundles)
    ]
    return [{k: v for k, v in b.items() if v} or {"CPU": 0.001} for b in bundles]  # Ray refuses an empty bundle


def refuse_too_small(cfg: RunConfig, bundles: Sequence[Bundle], models: Sequence[Bundle]) -> None:
    """Raise BadInput, with the numbers, if the cluster cannot hold these workers and reward models."""
    have = ray.cluster_resources()
    for kind in ("CPU", "GPU"):
        need = sum(b.get(kind, 0.0) for b in (*bundles, *models))
        if need > have.get(kind, 0.0):
            of_models = sum(b.get(kind, 0.0) for b in models)
            raise BadInput(
                f"the cluster has {have.get(kind, 0):g} {kind}s, but {cfg.learner.ranks} learner ranks and "
                f"{cfg.sampler.count} samplers {f'and {len(models)} reward models ' if models else ''}need {need:g}"
                "; lower learner.ranks or sampler.count"
                + (", or cluster.cpus_per_worker" if kind == "CPU" else "")
                + (", or run reward models with model.device=cpu" if kind == "GPU" and of_models else "")
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
