"""Three Ray nodes with addresses of their own: learners on two, the sampler on the third."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from recipes.tiny import recipe
from rl.config import RewardConfig, RunConfig
from rl.settings.overrides import to_json
from rl.workers.cluster.ray_calls import most_on_one_node, use_interface_of
from tests.cluster.network import Port, network, why_not
from tests.cluster.nodes import Node, environment, short_folder, wait_for

BOUND_S = 60  # on every wait of these runs but the start
GCS_PORT = 6379
STEPS = 8

# Waits until the cluster has n nodes and all their CPUs are free.
READY = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
deadline = time.monotonic() + 20
while True:
    alive = [n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]]
    if len(alive) == int(sys.argv[2]) and ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]:
        break
    assert time.monotonic() < deadline, (alive, ray.available_resources(), ray.cluster_resources())
    time.sleep(0.5)
"""


@dataclasses.dataclass
class Machine:
    port: Port
    node: Node


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    """Three machines for a cluster and one more that stands alone. Nothing runs on them yet."""
    if reason := why_not():
        pytest.skip(reason)
    Path("/tmp/ray").mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(short_folder()) for _ in range(4)]
        token = secrets.token_hex(16)
        ports = stack.enter_context(network(4))
        machines = []
        for port, folder in zip(ports, folders, strict=True):
            node = Node(port.ip, folder, environment(folder, token), port.namespace)
            stack.callback(node.stop)
            machines.append(Machine(port, node))
        yield machines


def start_head(machine: Machine, cpus: int) -> None:
    machine.node.ray_start(["--head", f"--port={GCS_PORT}", f"--num-cpus={cpus}", "--include-dashboard=false"])


def join(machine: Machine, head: Machine) -> None:
    machine.node.ray_start([f"--address={head.node.ip}:{GCS_PORT}", "--num-cpus=1"])


def wait_until_free(head: Machine, joined: list[Machine]) -> None:
    """Until the head and those that joined it are in the cluster and idle. One that Ray has given up joins again."""
    log = head.node.folder / "ready.log"
    deadline = time.monotonic() + 180
    while True:
        command = [sys.executable, "-c", READY, f"{head.node.ip}:{GCS_PORT}", str(1 + len(joined))]
        if head.node.popen(command, log).wait(90) == 0:
            return
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        for machine in joined:
            if all(process.poll() is not None for process in machine.node.processes):
                machine.node.stop()
                join(machine, head)


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """Two learner ranks and a sampler of one CPU each."""
    tiny = recipe()
    return dataclasses.replace(
        tiny,
        out=str(tmp_path / "runs"),
        rewards=(*tiny.rewards, RewardConfig("tests.integration.helpers:digit_share")),
        scoring=dataclasses.replace(tiny.scoring, workers=1, processes=2),
        sft=dataclasses.replace(tiny.sft, steps=3, examples_per_step=8),
        grpo=dataclasses.replace(tiny.grpo, steps=STEPS, prompts_per_step=4, group_size=4),
        rollout=dataclasses.replace(tiny.rollout, max_new_tokens=24),
        evaluation=dataclasses.replace(
            tiny.evaluation, every=0, samples=1, data=dataclasses.replace(tiny.evaluation.data, limit=4)
        ),
        learner=dataclasses.replace(tiny.learner, ranks=2, threads=1),
        sampler=dataclasses.replace(tiny.sampler, threads=1),
        checkpoint=dataclasses.replace(tiny.checkpoint, every=1),
        cluster=dataclasses.replace(
            tiny.cluster, cpus_per_worker=1.0, step_timeout_s=BOUND_S, sync_timeout_s=BOUND_S,
            rollout_timeout_s=BOUND_S, reward_timeout_s=BOUND_S,
        ),
    )  # fmt: skip


@dataclasses.dataclass
class Run:
    """`aha run` in a process on the head machine."""

    cfg: RunConfig
    log: Path
    process: subprocess.Popen[bytes]

    def steps(self) -> list[int]:
        path = self.cfg.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [r["step"] for r in records if r["stage"] == "grpo"]

    def wait(self, bound: float) -> int:
        return self.process.wait(bound)

    def weights(self) -> dict[str, str]:
        with safe_open(self.cfg.run_dir / "model" / "model.safetensors", "np") as file:
            return {name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() for name in file.keys()}  # noqa: SIM118


def start_run(head: Machine, cfg: RunConfig, folder: Path, number: int) -> Run:
    file, log = folder / f"{cfg.name}.json", folder / f"{cfg.name}-{number}.log"
    file.write_text(to_json(cfg))
    command = [sys.executable, "-m", "launch.cli", "run", str(file)]
    return Run(cfg, log, head.node.popen(command, log, {"RAY_ADDRESS": f"{head.node.ip}:{GCS_PORT}"}))


def test_the_interface_of_an_address_is_found_and_one_that_the_user_named_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    use_interface_of("203.0.113.77")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    use_interface_of("127.0.0.1")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"


def test_threads_are_shared_among_the_workers_of_the_fullest_node() -> None:
    assert most_on_one_node(["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]) == 3
    assert most_on_one_node(["10.0.0.1", "10.0.0.2"]) == 1


def test_three_nodes_give_the_weights_of_one_also_after_a_cut_link_that_is_named(
    machines: list[Machine], cfg: RunConfig, tmp_path: Path
) -> None:
    *cluster, alone = machines
    head = cluster[0]

    start_head(alone, cpus=3)
    wait_until_free(alone, [])
    one = start_run(alone, dataclasses.replace(cfg, name="one"), tmp_path, 0)
    assert one.wait(300) == 0, one.log.read_text()[-3000:]
    alone.node.stop()

    start_head(head, cpus=1)
    for machine in cluster[1:]:
        join(machine, head)
    wait_until_free(head, cluster[1:])
    first = start_run(head, dataclasses.replace(cfg, name="three"), tmp_path, 0)
    try:
        wait_for(lambda: len(first.steps()) >= 2 or first.process.poll() is not None, 300, "two steps", first.log)
        assert first.process.poll() is None, first.log.read_text()[-3000:]
        logged = (first.cfg.run_dir / "log.txt").read_text()
        places = dict(re.findall(r"(learner rank \d|sampler \d) on node ([\d.]+)", logged))
        assert sorted(places) == ["learner rank 0", "learner rank 1", "sampler 0"]
        assert len(set(places.values())) == 3, places

        # The head holds the driver; cut off a learner that is elsewhere.
        actor, address = next((a, n) for a, n in sorted(places.items()) if n != head.node.ip)
        (lost,) = [m for m in cluster if m.node.ip == address]
        lost.port.cut()
        cut_at = time.monotonic()
        code = first.wait(BOUND_S + 30)
        elapsed = time.monotonic() - cut_at
    finally:
        for machine in cluster:
            machine.port.mend()
    said = first.log.read_text()[-3000:]
    assert code == 1, said
    # Either the bound is over first, or Ray has given the node up by then.
    node = re.escape(address)
    assert re.search(rf"node {node} \({actor}\) does not answer: its link|{actor} on node {node} died", said), said
    # The wait that ran when the link went, at most one short one before it, and the end of the process.
    assert elapsed < BOUND_S + 10
    assert len(first.steps()) < STEPS

    # Ray may have given the node up meanwhile; then its `ray start` ends, and is run again.
    wait_until_free(head, cluster[1:])
    again = start_run(head, first.cfg, tmp_path, 1)
    assert again.wait(300) == 0, again.log.read_text()[-3000:]
    assert "resuming grpo after step" in again.log.read_text()
    assert again.steps() == list(range(STEPS))
    assert again.weights() == one.weights()
    norms = [
        json.loads(x)["grad_norm"]
        for x in (again.cfg.run_dir / "metrics.jsonl").read_text().splitlines()
        if '"grpo"' in x
    ]
    assert min(norms) > 0, "the weights did not move, so equal ones would prove nothing"
