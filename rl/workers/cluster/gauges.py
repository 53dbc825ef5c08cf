"""A run's numbers as Ray gauges, for the Prometheus and Grafana that watch the cluster. Lives where Ray is joined."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping

import ray
from ray.util.metrics import Gauge

from rl.records.metric_groups import panel_name

log = logging.getLogger("aha.cluster")


def gauge_name(stage: str, name: str) -> str:
    """A metric's name in the form that Prometheus takes, in its group of W&B. Ray puts "ray_" in front of it.

    ("grpo", "entropy") -> "aha_policy_entropy", ("eval", "pass@1") -> "aha_eval_pass_at_1".
    """
    plain = panel_name(stage, name).replace("@", "_at_")
    return re.sub(r"[^a-zA-Z0-9]+", "_", f"aha_{plain}").strip("_")


class Gauges:
    """One gauge a metric, made when it first has a value; tags: run and stage. The last value stays until the next."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._of: dict[str, str] = {}

    def set(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics, and the step as aha_step.

        What is not finite is left out, and of two metrics with one gauge's name the second.
        """
        if not self._gauges:
            log.info("gauges named ray_aha_... are at %s", metrics_address())
        values = {"aha_step": ("step", float(step))}
        for name, value in metrics.items():
            metric = panel_name(stage, name)
            if math.isfinite(value) and self._of.setdefault(gauge_name(stage, name), metric) == metric:
                values[gauge_name(stage, name)] = (metric, float(value))
        for gauge, (metric, value) in values.items():
            if gauge not in self._gauges:
                self._gauges[gauge] = Gauge(gauge, f"Aha: {metric}", tag_keys=("run", "stage"))
            self._gauges[gauge].set(value, {"run": run, "stage": stage})


def metrics_address() -> str:
    """The URL at which Prometheus finds this process's gauges: its node's."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
