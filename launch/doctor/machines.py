"""RayBackend with the calls of `aha doctor`, which run inside the workers' own processes."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch.doctor.doctor_backend import NodeReport, Reached, SyncedTensors
from launch.doctor.node_probe import NodeProbe
from rl.model.lora import plain_weights
from rl.settings.precision import torch_dtype
from rl.workers.cluster.ray_backend import RayBackend
from rl.workers.cluster.ray_calls import QUIET
from rl.workers.sync.buckets import tensor_checksum

if TYPE_CHECKING:
    from rl.workers.learner.learner import Learner
    from rl.workers.sampler.sampler import Sampler

PROBE_LIMIT_S = 60.0


class RayDoctorBackend(RayBackend):
    """RayBackend and launch.doctor.doctor_backend.DoctorBackend."""

    @property
    def revives(self) -> bool:
        return self._revives_samplers

    # -------------------------------------------------------------------------------------------- nodes

    def nodes(self, folder: Path, token: str) -> list[NodeReport]:
        probes = self._probes()
        return self._ask_probes(probes, [p.report.remote(str(folder.absolute()), token) for p in probes], "report")

    def ports(self) -> list[Reached]:
        probes = self._probes()
        listening = self._ask_probes(probes, [p.listen.remote() for p in probes], "listen on a free port")
        pairs = sorted({(i, j) for i in range(len(probes)) for j in (0, (i + 1) % len(probes))})
        refs = [probes[i].reach.remote(*listening[j]) for i, j in pairs]
        return self._wait(refs, [f"node {i}" for i, _ in pairs], PROBE_LIMIT_S, "connect to another")

    def _probes(self) -> list[ray.actor.ActorHandle]:
        """A probe on every node, in the order of the addresses. Probes end when their handles are gone."""
        names = [*self._learner_names, *(f"sampler {i}" for i in range(self.cfg.sampler.count))]
        homes, seat_of = placement_group_table(self.reserved.group)["bundles_to_node_id"], self.reserved.arranged.seats
        nodes = sorted((n for n in ray.nodes() if n["Alive"]), key=lambda n: (n["NodeManagerAddress"], n["NodeID"]))
        return [
            ray.remote(NodeProbe)
            .options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                runtime_env={"env_vars": QUIET},
            )
            .remote(
                node["NodeManagerAddress"],
                tuple(name for i, name in enumerate(names) if homes[seat_of[i].bundle] == node["NodeID"]),
                int(node["Resources"].get("object_store_memory", 0)),
            )
            for node in nodes
        ]

    def _ask_probes(self, probes: list[ray.actor.ActorHandle], refs: list[ray.ObjectRef], doing: str) -> list:
        return self._wait(refs, [f"node {i}" for i in range(len(probes))], PROBE_LIMIT_S, doing)

    # -------------------------------------------------------------------------------------------- learners

    def master_sums(self) -> dict[str, float]:
        return self._on_learners("sum the master weights", lambda learner: learner.master_sums())[0]

    def reference_sums(self) -> dict[str, float]:
        return self._on_learners("sum the reference's weights", lambda learner: learner.reference_sums())[0]

    # -------------------------------------------------------------------------------------------- samplers

    def synced_tensors(self) -> list[SyncedTensors]:
        self._wake(["weights"])
        learner, ends = self._on_learners("take checksums", learner_checksums)[0]
        refs = [h.__ray_call__.remote(sampler_checksums, ends, self.cfg.model.dtype) for h in self.samplers]
        answers = self._wait(refs, self._sampler_names, self.cfg.cluster.sync_timeout_s, "take checksums")
        return [SyncedTensors(learner, received, resident) for received, resident in answers]

    def kill_sampler(self, index: int) -> None:
        ray.kill(self.samplers[index])


# ------------------------------------------------------------------------------------------------ inside a learner


def learner_checksums(learner: Learner) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """(checksum by name, the shapes of those parameters that a sampler keeps as they are: embedding, head, vectors).

    The names are those of the model's files, read off the model, so that a sender which forgets a parameter is found.
    """
    hf = learner.policy.hf
    dtype = torch_dtype(learner.cfg.model.dtype)
    outer = (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight)
    disk = learner.disk_names()
    first = {id(weight.base): weight.name for weight in plain_weights(hf)}
    kept = {disk.renamed(first[id(p)]) for p in outer}
    checksums: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    apart = itertools.chain(learner.base_parameters(), learner.adapter_parameters())
    for name, tensor in apart if learner.adapters_apart else learner.full_parameters():
        checksums[name] = tensor_checksum(tensor.to(dtype))
        if name in kept or tensor.dim() == 1:
            shapes[name] = tuple(tensor.shape)
    for alias, p in hf.named_parameters(remove_duplicate=False):  # a tied head shares the embedding's tensor
        if p is outer[1] and alias.replace(".base_layer.", ".") != first.get(id(p), ""):
            name, other = disk.renamed(first[id(p)]), disk.renamed(alias)
            checksums[other], shapes[other] = checksums[name], shapes[name]
    return checksums, shapes


# ------------------------------------------------------------------------------------------------ inside a sampler


def sampler_checksums(
    sampler: Sampler, shapes: dict[str, tuple[int, ...]], dtype: str
) -> tuple[dict[str, int], dict[str, int]]:
    """(received, resident) of SyncedTensors, of the first tensor-parallel rank."""
    received = sampler.llm.collective_rpc(received_checksums)[0]
    return received, sampler.llm.collective_rpc(partial(resident_checksums, shapes=shapes, dtype=dtype))[0]


def received_checksums(worker) -> dict[str, int]:  # type: ignore[no-untyped-def]
    """Runs inside a vLLM worker: name -> checksum of each tensor of the last update."""
    return dict(worker.weight_transfer_engine.tally.by_name)


def resident_checksums(worker, shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, int]:  # type: ignore[no-untyped-def]
    """Runs inside a vLLM worker: name -> checksum of what its model holds now, as it travels (dtype).

    shapes: name -> the learner's shape. vLLM pads the vocabulary, so rows beyond it are left out. Parameters that the
    sampler holds under another name or shape (fused, sharded or repacked layers) are not in the answer.
    """
    found = {}
    for name, parameter in worker.get_model().named_parameters(remove_duplicate=False):
        shape = shapes.get(name)
        if shape is None or len(parameter) < shape[0] or tuple(parameter.shape[1:]) != shape[1:]:
            continue
        found[name] = tensor_checksum(parameter.data[: shape[0]].to(torch_dtype(dtype)))
    return found
