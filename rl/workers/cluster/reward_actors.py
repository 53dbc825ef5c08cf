"""The actors that give rollouts their rewards: reward workers for functions, and one actor for each reward model.

A reward worker limits the time of its own processes and replaces those that die (rl/scoring/reward_processes.py). A
reward model is watched from here: when it dies or hangs it is started again, and groups that got no answer are sent
again, once. After a second death the group's samples have failed.
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
from rl.workers.cluster.ray_calls import (
    QUIET,
    ActorGone,
    Beside,
    collect,
    offline,
    seen_from_anywhere,
    unwrap,
    wait_for_any,
)

log = logging.getLogger("aha.cluster")

MAX_RESTARTS = 3


class RewardActors:
    """All reward workers and reward models of a run.

    device: "cpu" or "gpu", for models with device=auto. beside: what goes on while a group's rewards are waited for.
    unanswered: groups that still waited for a reward when they were last counted. Raises BadInput for a reward model
    that is to run on a GPU where there is none.
    """

    def __init__(self, cfg: RunConfig, device: str, beside: Beside | None = None) -> None:
        self.cfg, self.device, self.beside = cfg, device, beside
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
        self._pending: list[list[PendingReport]] = []  # one list for each group

    def take_over(self, old: RewardActors) -> None:
        """Keep the reward workers of the stage before, if their settings are the same. Call it before start()."""
        if old.cfg.scoring == self.cfg.scoring:
            self.workers, old.workers = old.workers, []

    def resources(self) -> list[dict[str, float]]:
        """The CPUs and GPUs that Ray reserves for each reward model."""
        return [
            {"CPU": self.cfg.cluster.cpus_per_worker, "GPU": self.parts[name].model.gpus if where == "gpu" else 0.0}
            for name, where in self._devices.items()
        ]

    def start(self) -> None:
        """Start every worker and model side by side."""
        bound = self.cfg.cluster.start_bound_s(self.device)
        models = self._make_models()
        loading = [handle.start.remote() for handle in models.values()]
        if len(models) < len(self.parts):
            self._start_workers()
        pids = collect(loading, [f"reward model {name}" for name in models], bound, "load")
        self.models = {
            name: ModelActor(name, handle, pid, limit_s(self.parts[name]), bound, self.beside)
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
        """Start the reward workers. Those that were taken over only get the new rewards."""
        self.workers = self.workers or self._make_workers()
        names = [f"reward worker {i}" for i in range(len(self.workers))]
        refs = [handle.start.remote(self.cfg.rewards) for handle in self.workers]
        pids = collect(refs, names, self.cfg.cluster.start_bound_s(self.device), "start")
        self.worker_pids = dict(enumerate(pids))

    def _make_workers(self) -> list[ray.actor.ActorHandle]:
        """scoring.workers of them, by default one on each node. Ray restarts one that dies and repeats its calls."""
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
        """Ask these rewards (None: all) about a group: functions at the next reward worker, each model at its actor.

        Returns a function that waits for all answers and joins them into one report.
        """
        names = list(self.parts) if names is None else names
        functions = [name for name in names if name not in self.models]
        pending = [self._ask_functions(group, functions)] if functions else []
        pending += [self.models[name].ask(group) for name in names if name in self.models]
        self._pending.append(pending)
        self.unanswered = len(self._pending)

        def result() -> RewardReport:
            reports = [report.wait() for report in pending]
            self.count_unanswered()
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

    def count_unanswered(self) -> None:
        """Set `unanswered` to the number of groups that still wait for a reward."""
        group_of = {report.ref(): i for i, pending in enumerate(self._pending) for report in pending}
        late = ray.wait(list(group_of), num_returns=len(group_of), timeout=0)[1] if group_of else []
        self._pending = [self._pending[i] for i in sorted({group_of[ref] for ref in late})]
        self.unanswered = len(self._pending)

    def _ask_functions(self, group: RolloutGroup, names: list[str]) -> PendingReport:
        i = self._groups_asked % len(self.workers)
        self._groups_asked += 1
        # The rewards travel with every call: a worker that Ray started again only knows those of its first start.
        ref = self.workers[i].call_rewards.remote(group, names, self.cfg.rewards)

        def result() -> RewardReport:
            bound = self.cfg.cluster.reward_timeout_s
            names = [f"reward worker {i}"]
            report: RewardReport = collect([ref], names, bound, "reward a group", beside=self.beside)[0]
            if report.pid != self.worker_pids[i]:
                self.worker_pids[i] = report.pid
                log.warning("reward worker %d died and was started again; its groups were rewarded again", i)
                return replace(report, replaced=report.replaced + 1)
            return report

        return PendingReport(lambda: ref, result)

    def close(self) -> None:
        for handle in (*self.workers, *(model.handle for model in self.models.values())):
            ray.kill(handle)
        self.workers, self.models = [], {}


@dataclass(frozen=True, slots=True)
class PendingReport:
    """An answer that has not arrived. ref: the call that will bring it; a restart replaces it. wait: waits for it."""

    ref: Callable[[], ray.ObjectRef]
    wait: Callable[[], RewardReport]


class _Call:
    """One group at a reward model.

    restarts: of the actor, when the group was sent. finished: the call returned or raised. timed_out: it took too long.
    """

    def __init__(self, group: RolloutGroup) -> None:
        self.group = group
        self.ref: ray.ObjectRef | None = None
        self.restarts, self.finished, self.timed_out = 0, False, False


class ModelActor:
    """A reward model in its Ray actor, which scores one group after the other.

    limit_s: for one sample. A group of 8 samples has timed out after 8 * limit_s; then the actor is killed, because a
    call that hangs cannot be stopped otherwise, and Ray starts it again. Raises AhaError only when that takes longer
    than start_limit_s.
    """

    def __init__(
        self,
        name: str,
        handle: ray.actor.ActorHandle,
        pid: int,
        limit_s: float,
        start_limit_s: float,
        beside: Beside | None = None,
    ) -> None:
        self.name, self.handle, self.pid, self._beside = name, handle, pid, beside
        self._limit_s, self._start_limit_s = limit_s, start_limit_s
        self._queue: list[_Call] = []
        self._restarts = 0
        self._since = 0.0  # the oldest call in the queue cannot have begun before this time

    def ask(self, group: RolloutGroup) -> PendingReport:
        call = _Call(group)
        self._send(call)
        return PendingReport(lambda: call.ref, lambda: self._answer(call))

    def _send(self, call: _Call) -> None:
        if not self._queue:
            self._since = time.monotonic()
        call.ref, call.restarts, call.finished = self.handle.score.remote(call.group), self._restarts, False
        self._queue.append(call)

    def _answer(self, call: _Call) -> RewardReport:
        """The model's report. Where it has none, a report that says why each sample failed."""
        killed = replaced = 0
        for _ in range(2):
            killed += self._wait_for(call)
            if call.timed_out:
                limit = self._limit_s * len(call.group.rollouts_G)
                reason = f"no score within {limit:g} s; the reward model was started again"
                return self._same_for_all(call, RewardPart(float("nan"), Verdict.TIMED_OUT, reason), killed, replaced)
            try:
                report: RewardReport = unwrap(call.ref, f"reward model {self.name}", 60.0)
            except ActorGone as gone:
                call.finished = False
                if call.restarts == self._restarts:  # else somebody who waited for another group started it again
                    replaced += 1
                    log.warning("%s; starting it again", gone)
                    self._start_again()
                continue
            except AhaError as error:  # raised by the model's code; after a CUDA error its process cannot go on
                log.warning("%s; starting it again", error)
                ray.kill(self.handle, no_restart=False)
                self._start_again()
                return self._same_for_all(call, failed(str(error)), killed, replaced + 1)
            return replace(report, killed=killed, replaced=replaced)
        return self._same_for_all(
            call, failed("the reward model died twice while it scored this group"), killed, replaced
        )

    def _wait_for(self, call: _Call) -> int:
        """Wait until the call has finished or timed out. Returns how often the actor was killed meanwhile."""
        killed = 0
        while not call.timed_out:
            if call.restarts < self._restarts and not call.finished:
                self._send(call)  # the restart lost it
            if call.finished:
                break
            oldest = self._queue[0]
            end = self._since + self._limit_s * len(oldest.group.rollouts_G)
            waiting = {c.ref: c for c in self._queue}
            ready = wait_for_any(list(waiting), end - time.monotonic(), self._beside)
            for ref in ready:
                waiting[ref].finished = True
                self._queue.remove(waiting[ref])
                self._since = time.monotonic()
            if not ready:
                killed += 1
                oldest.timed_out = True
                log.warning("reward model %s took too long over a group; starting it again", self.name)
                ray.kill(self.handle, no_restart=False)
                self._start_again()
        return killed

    def _start_again(self) -> None:
        """Wait until Ray has restarted the actor. Calls that had not finished are lost."""
        self._restarts += 1
        self._queue = []
        end = time.monotonic() + self._start_limit_s
        while True:
            left = max(1.0, end - time.monotonic())
            try:
                self.pid = collect([self.handle.start.remote()], [f"reward model {self.name}"], left, "start again")[0]
                return
            except ActorGone:  # Ray may still have sent this call to the old process
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _same_for_all(self, call: _Call, part: RewardPart, killed: int, replaced: int) -> RewardReport:
        return RewardReport([{self.name: part}] * len(call.group.rollouts_G), killed=killed, replaced=replaced)
