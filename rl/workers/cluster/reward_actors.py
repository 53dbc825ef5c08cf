"""The actors that give rollouts their rewards: reward workers for functions, and one actor for each reward model.

A reward worker bounds and replaces its own processes (rl/scoring/reward_processes.py). A reward model is bounded from
here: when it dies or hangs it is started again and what it was asked is asked again, once; then those samples have
failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl.config import MODEL, RunConfig
from rl.scoring.reward_functions import failed, limit_s
from rl.scoring.routing import is_model, model_path, named
from rl.types import AhaError, BadInput, RewardPart, RewardReport, RolloutGroup, Verdict
from rl.workers.cluster.ray_calls import QUIET, ActorGone, collect, offline, seen_from_anywhere, unwrap

log = logging.getLogger("aha.cluster")

MAX_RESTARTS = 3


class RewardActors:
    """All reward workers and reward models of a run. device: "cpu" or "gpu", for models with device=auto.

    Raises BadInput for a reward model that is to run on a GPU where there is none.
    """

    def __init__(self, cfg: RunConfig, device: str) -> None:
        self.cfg = cfg
        self.parts = named(cfg.rewards) if cfg.rewards else {}
        chosen = {name: reward.model.device for name, reward in self.parts.items() if is_model(reward)}
        self._devices = {name: device if where == "auto" else where for name, where in chosen.items()}
        for name, where in self._devices.items():
            if where == "gpu" and not ray.cluster_resources().get("GPU", 0):
                raise BadInput(
                    f"rewards: {name!r} has model.device=gpu, but the Ray cluster has no GPU; use cpu or auto"
                )
        self.workers: list[ray.actor.ActorHandle] = []
        self.worker_pids: dict[int, int] = {}
        self.models: dict[str, ModelActor] = {}
        self._groups_asked = 0
        self.unanswered = 0
        self._open: list[list[Asked]] = []

    def take_over(self, old: RewardActors) -> None:
        """Go on with the other's reward workers, where they are set up alike. To be called before start()."""
        if old.cfg.scoring == self.cfg.scoring:
            self.workers, old.workers = old.workers, []

    def resources(self) -> list[dict[str, float]]:
        """What each reward model reserves in Ray."""
        return [
            {"CPU": self.cfg.cluster.cpus_per_worker, "GPU": self.parts[name].model.gpus if where == "gpu" else 0.0}
            for name, where in self._devices.items()
        ]

    def start(self) -> None:
        """Start every worker and model side by side."""
        bound = self.cfg.cluster.start_timeout_s
        models = self._make_models()
        loading = [handle.start.remote() for handle in models.values()]
        if len(models) < len(self.parts):
            self._start_workers()
        pids = collect(loading, [f"reward model {name}" for name in models], bound, "load")
        self.models = {
            name: ModelActor(name, handle, pid, limit_s(self.parts[name]), bound)
            for (name, handle), pid in zip(models.items(), pids, strict=True)
        }

    def _make_models(self) -> dict[str, ray.actor.ActorHandle]:
        if not self._devices:
            return {}
        from rl.scoring.reward_model import RewardModel

        cores = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        threads = max(1, cores // len(self._devices))
        handles = {}
        for (name, device), needs in zip(self._devices.items(), self.resources(), strict=True):
            reward = self.parts[name]
            reward = replace(reward, function=MODEL + seen_from_anywhere(model_path(reward)))
            handles[name] = (
                ray.remote(RewardModel)
                .options(
                    num_cpus=needs["CPU"],
                    num_gpus=needs["GPU"],
                    max_restarts=-1,
                    runtime_env={"env_vars": QUIET | offline() | {"OMP_NUM_THREADS": str(threads)}},
                )
                .remote(name, reward, device, threads)
            )
        return handles

    def _start_workers(self) -> None:
        """Start them, or tell those that were taken over of the rewards."""
        self.workers = self.workers or self._make_workers()
        names = [f"reward worker {i}" for i in range(len(self.workers))]
        told = [handle.start.remote(self.cfg.rewards) for handle in self.workers]
        pids = collect(told, names, self.cfg.cluster.start_timeout_s, "start")
        self.worker_pids = dict(enumerate(pids))

    def _make_workers(self) -> list[ray.actor.ActorHandle]:
        """One reward worker a node unless told otherwise. Ray restarts one that dies, and its calls."""
        from rl.scoring.reward_processes import RewardWorker

        cfg = self.cfg
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        return [
            ray.remote(RewardWorker)
            .options(
                num_cpus=0,
                max_concurrency=2 * (cfg.scoring.processes or 16),
                max_restarts=MAX_RESTARTS,
                max_task_retries=MAX_RESTARTS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[i % len(nodes)], soft=True),
                runtime_env={"env_vars": QUIET},
            )
            .remote(cfg.rewards, cfg.scoring)
            for i in range(cfg.scoring.workers or len(nodes))
        ]

    def ask(self, group: RolloutGroup, names: Sequence[str] | None = None) -> Callable[[], RewardReport]:
        """Ask these rewards (None: all) about a group: the functions at the next reward worker, each model at its own.

        The result waits for all of them.
        """
        names = list(self.parts) if names is None else names
        functions = [name for name in names if name not in self.models]
        asked = [self._ask_functions(group, functions)] if functions else []
        asked += [self.models[name].ask(group) for name in names if name in self.models]
        self._open.append(asked)
        self.unanswered = len(self._open)

        def result() -> RewardReport:
            reports = [call.answer() for call in asked]
            self.count()
            parts_G: list[dict[str, RewardPart]] = []
            for i in range(len(group.rollouts_G)):
                found = {name: part for report in reports for name, part in report.parts_G[i].items()}
                parts_G.append({name: found[name] for name in names if name in found})
            return RewardReport(
                parts_G,
                killed=sum(report.killed for report in reports),
                replaced=sum(report.replaced for report in reports),
                truncated=sum(report.truncated for report in reports),
            )

        return result

    def count(self) -> None:
        """Note in `unanswered` how many groups still wait for a reward."""
        calls = {call.ref(): i for i, asked in enumerate(self._open) for call in asked}
        if calls:
            _, late = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            self._open = [self._open[i] for i in sorted({calls[ref] for ref in late})]
        else:
            self._open = []
        self.unanswered = len(self._open)

    def _ask_functions(self, group: RolloutGroup, names: list[str]) -> Asked:
        i = self._groups_asked % len(self.workers)
        self._groups_asked += 1
        # With the rewards: a worker that Ray started again knows those of its own start.
        ref = self.workers[i].call_rewards.remote(group, names, self.cfg.rewards)

        def result() -> RewardReport:
            bound = self.cfg.cluster.reward_timeout_s
            report: RewardReport = collect([ref], [f"reward worker {i}"], bound, "reward a group")[0]
            if report.pid != self.worker_pids[i]:
                self.worker_pids[i] = report.pid
                log.warning("reward worker %d died and was started again; its groups were rewarded again", i)
                return replace(report, replaced=report.replaced + 1)
            return report

        return Asked(lambda: ref, result)

    def close(self) -> None:
        for handle in (*self.workers, *(model.handle for model in self.models.values())):
            ray.kill(handle)
        self.workers, self.models = [], {}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a worker. ref: of its call now, another after a restart. answer: waits for what it says."""

    ref: Callable[[], ray.ObjectRef]
    answer: Callable[[], RewardReport]


class _Call:
    """One group at a reward model. life: in which of the actor's lives it was asked. overtime: it took too long."""

    def __init__(self, group: RolloutGroup) -> None:
        self.group = group
        self.ref: ray.ObjectRef | None = None
        self.life, self.ended, self.overtime = 0, False, False


class ModelActor:
    """A reward model in its Ray actor, which answers one group after the other.

    limit_s: for one sample. A group that takes longer than its samples' limits together has timed out, and the actor
    is killed. Raises AhaError only when the actor cannot be started again within start_limit_s.
    """

    def __init__(self, name: str, handle: ray.actor.ActorHandle, pid: int, limit_s: float, start_limit_s: float):
        self.name, self.handle, self.pid = name, handle, pid
        self._limit_s, self._start_limit_s = limit_s, start_limit_s
        self._queue: list[_Call] = []
        self._life = 0
        self._since = 0.0  # when the oldest call in the queue may have begun

    def ask(self, group: RolloutGroup) -> Asked:
        call = _Call(group)
        self._send(call)
        return Asked(lambda: call.ref, lambda: self._answer(call))

    def _send(self, call: _Call) -> None:
        if not self._queue:
            self._since = time.monotonic()
        call.ref, call.life, call.ended = self.handle.score.remote(call.group), self._life, False
        self._queue.append(call)

    def _answer(self, call: _Call) -> RewardReport:
        killed = replaced = 0
        for _ in range(2):
            killed += self._wait_for(call)
            if call.overtime:
                limit = self._limit_s * len(call.group.rollouts_G)
                reason = f"no score within {limit:g} s; the reward model was started again"
                return self._nothing(call, RewardPart(float("nan"), Verdict.TIMED_OUT, reason), killed, replaced)
            try:
                report: RewardReport = unwrap(call.ref, f"reward model {self.name}", 60.0)
            except ActorGone as gone:
                call.ended = False
                if call.life == self._life:
                    replaced += 1
                    log.warning("%s; starting it again", gone)
                    self._start_again()
                continue
            except AhaError as error:  # of the model's code; after one on a GPU the process may be good for nothing
                log.warning("%s; starting it again", error)
                ray.kill(self.handle, no_restart=False)
                self._start_again()
                return self._nothing(call, failed(str(error)), killed, replaced + 1)
            return replace(report, killed=killed, replaced=replaced)
        return self._nothing(call, failed("the reward model died twice over it"), killed, replaced)

    def _wait_for(self, call: _Call) -> int:
        """Wait until the call has ended or is overtime. Returns how often the actor was killed meanwhile."""
        killed = 0
        while not call.overtime:
            if call.life < self._life and not call.ended:
                self._send(call)  # what it was asked in an earlier life is lost
            if call.ended:
                break
            oldest = self._queue[0]
            end = self._since + self._limit_s * len(oldest.group.rollouts_G)
            waiting = {c.ref: c for c in self._queue}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, end - time.monotonic()))
            for ref in ready:
                waiting[ref].ended = True
                self._queue.remove(waiting[ref])
                self._since = time.monotonic()
            if not ready:
                killed += 1
                oldest.overtime = True
                log.warning("reward model %s took too long over a group; starting it again", self.name)
                ray.kill(self.handle, no_restart=False)
                self._start_again()
        return killed

    def _start_again(self) -> None:
        """Wait for the actor's next life. All calls of this one are lost but those that have ended."""
        self._life += 1
        self._queue = []
        end = time.monotonic() + self._start_limit_s
        while True:
            left = max(1.0, end - time.monotonic())
            try:
                self.pid = collect([self.handle.start.remote()], [f"reward model {self.name}"], left, "start again")[0]
                return
            except ActorGone:  # until the old process is gone, calls may still be sent to it
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _nothing(self, call: _Call, part: RewardPart, killed: int, replaced: int) -> RewardReport:
        return RewardReport([{self.name: part}] * len(call.group.rollouts_G), killed=killed, replaced=replaced)
