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


def gpu_ids_of(group: PlacementGroup, bundles: Sequence[Bundle], bound: float) -> list[list[str]]:
    """Which GPUs Ray reserved for each bundle, under the names that CUDA_VISIBLE_DEVICES takes.

    Asked of Ray by a task that takes the whole bundle for a moment, since the workers themselves ask Ray for no GPU:
    Ray cannot give the same GPU to two workers when one of them has several.
    """
    asked = [i for i, bundle in enumerate(bundles) if bundle.get("GPU")]
    ask = ray.remote(_visible_gpus)
    refs = [
        ask.options(
            num_cpus=0,
            num_gpus=bundles[i]["GPU"],
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            runtime_env={"env_vars": QUIET},
        ).remote()
        for i in asked
    ]
    found = dict(zip(asked, collect(refs, [f"bundle {i}" for i in asked], bound, "say which GPUs it has"), strict=True))
    return [found.get(i, []) for i in range(len(bundles))]


def _visible_gpus() -> list[str]:
    ids = [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids()["GPU"]]
    return sorted(ids, key=lambda gpu: (len(gpu), gpu))  # "10" after "9"


def describe(arranged: Arrangement, nodes: Sequence[str], ids: Sequence[Sequence[str]]) -> list[str]:
    """One line for each worker on GPUs. nodes, ids: of each bundle, its node's address and its GPUs."""
    lines = []
    for kind, seats in (("learner rank", arranged.learners), ("sampler", arranged.samplers)):
        for i, seat in enumerate(seats):
            gpus = ", ".join(ids[seat.bundle][gpu] for gpu in seat.gpus)
            lines.append(f"{kind} {i} on GPU {gpus} of node {nodes[seat.bundle]}")
    return lines


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
