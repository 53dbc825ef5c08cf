"""A run's metrics as Ray gauges, for a Prometheus and Grafana that watch the cluster."""

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
    """A metric's name as Prometheus allows it, with the metric's W&B group in front. Ray adds "ray_" before all.

    ("grpo", "entropy") -> "aha_policy_entropy", ("eval", "pass@1") -> "aha_eval_pass_at_1".
    """
    plain = panel_name(stage, name).replace("@", "_at_")
    return re.sub(r"[^a-zA-Z0-9]+", "_", f"aha_{plain}").strip("_")


class Gauges:
    """One gauge for each metric, with the tags run and stage. A gauge shows its last value until it gets another."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._metric_of: dict[str, str] = {}  # gauge's name -> the metric that it shows

    def set(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics, and the step itself as aha_step.

        Left out: values that are not finite, and a metric whose gauge's name already belongs to another metric.
        """
        if not self._gauges:
            log.info("gauges named ray_aha_... are at %s", metrics_address())
        values = {"aha_step": ("step", float(step))}
        for name, value in metrics.items():
            metric = panel_name(stage, name)
            if math.isfinite(value) and self._metric_of.setdefault(gauge_name(stage, name), metric) == metric:
                values[gauge_name(stage, name)] = (metric, float(value))
        for gauge, (metric, value) in values.items():
            if gauge not in self._gauges:
                self._gauges[gauge] = Gauge(gauge, f"Aha: {metric}", tag_keys=("run", "stage"))
            self._gauges[gauge].set(value, {"run": run, "stage": stage})


def metrics_address() -> str:
    """The URL where Prometheus finds the gauges of this process: that of its node."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
