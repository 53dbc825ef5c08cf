"""Places workers on Ray clusters whose GPUs are only said to exist, and prints where each worker is.

python -m tests.integration.fake_gpus NODES SETTINGS...

NODES: JSON list, each node's GPUs. SETTINGS: JSON lists of overrides, one for each run; with "start" in front workers are
started too, and say themselves what they see. One line of JSON for each run: {"transfer": kind, "workers": [[node, GPUs],
...], "seen": the same from the workers}, learners first, or {"error": text}.
"""

from __future__ import annotations

import json
import os
import sys

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from rl.config import RunConfig
from rl.settings.overrides import apply_overrides
from rl.types import BadInput
from rl.workers.cluster.ray_backend import RayBackend
from rl.workers.cluster.ray_calls import QUIET


class Worker:
    """Stands where a learner or a sampler would."""

    def sees(self) -> tuple[str, str]:
        """(Ray's id of its node, the GPUs that CUDA would show it)."""
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def placed(settings: list[str], number_of: dict[str, int]) -> dict[str, object]:
    """Where every worker of such a run is. number_of: Ray's id of a node -> its number in the cluster."""
    start = settings[:1] == ["start"]
    cfg = apply_overrides(RunConfig(), ["model.dtype=bfloat16", "cluster.cpus_per_worker=0.1", *settings[start:]])
    try:
        backend = RayBackend(cfg)
    except BadInput as error:
        return {"error": str(error)}
    reserved = backend.reserved
    home = placement_group_table(reserved.group)["bundles_to_node_id"]
    out: dict[str, object] = {
        "transfer": backend.transfer,
        "workers": [
            [number_of[home[seat.bundle]], ",".join(reserved.gpu_ids[seat.bundle][gpu] for gpu in seat.gpus)]
            for seat in reserved.arranged.seats
        ],
    }
    if start:
        workers = [reserved.actor(Worker, i, 1, {}).remote() for i in range(len(reserved.arranged.seats))]
        seen = ray.get([worker.sees.remote() for worker in workers], timeout=120)
        out["seen"] = [[number_of[node], gpus] for node, gpus in seen]
        for worker in workers:
            ray.kill(worker)
    backend.close()
    return out


def main() -> None:
    os.environ |= QUIET
    cluster = Cluster()
    number_of = {}
    for number, gpus in enumerate(json.loads(sys.argv[1])):
        node = cluster.add_node(num_cpus=4, num_gpus=gpus, object_store_memory=1 << 27, include_dashboard=False)
        number_of[node.node_id] = number
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        for settings in sys.argv[2:]:
            print(json.dumps(placed(json.loads(settings), number_of)), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
