"""Clusters of the tests in this folder. Each starts `ray start` processes of its own and ends them."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster.nodes import Node, environment, free_ports, short_folder, wait_for


@pytest.fixture(scope="session", autouse=True)
def _end_what_was_started_also_on_sigterm() -> Iterator[None]:
    """Else a runner that gives up on the tests would leave namespaces and raylets behind."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, old)


@dataclass
class Head:
    """One node with a dashboard that takes jobs from holders of its token."""

    node: Node
    url: str


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with short_folder() as folder:
        env = environment(folder, secrets.token_hex(16))
        node = Node("127.0.0.1", folder, env)
        gcs, dashboard, agent, agent_grpc, client, metrics = free_ports(6)
        try:
            node.ray_start(
                [
                    "--head", f"--port={gcs}", "--num-cpus=4", f"--temp-dir={folder}/ray", "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
                    f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}",
                    f"--metrics-export-port={metrics}",
                ]
            )  # fmt: skip
            log = folder / "start.log"
            wait_for(lambda: log.exists() and "Ray runtime started" in log.read_text(), 120, "ray start", log)
            yield Head(node, f"http://127.0.0.1:{dashboard}")
        finally:
            node.stop()
