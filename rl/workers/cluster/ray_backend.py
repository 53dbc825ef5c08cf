"""RayBackend: starts learners, samplers and rewards, syncs weights, collects rollouts and replaces dead samplers.

The calls of the learners are in learner_calls.py, those of the samplers in sampler_calls.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import ray

from rl.backend import Task
from rl.config import RunConfig
from rl.model.pretrained import refuse_head_size
from rl.settings.precision import HALF, Machine, cpu_unit, settle
from rl.types import (
    AhaError,
    BadInput,
    Hardware,
    Queue,
    RewardReport,
    RolloutGroup,
    SyncReport,
)
from rl.workers.cluster.actors import LearnerHost, RaySyncClient, SamplerHost
from rl.workers.cluster.arrangement import is_colocated, refuse_turns, transfer_of
from rl.workers.cluster.gauges import Gauges
from rl.workers.cluster.hardware import hardware_of
from rl.workers.cluster.placement import (
    gpus_of_nodes,
    refuse_too_small,
    sampler_environment,
    threads_of,
)
from rl.workers.cluster.ray_calls import (
    ActorGone,
    SyncWatch,
    find_device,
    models_seen_from_anywhere,
    seen_from_anywhere,
    start_ray,
)
from rl.workers.cluster.reservation import Reservation
from rl.workers.cluster.reward_actors import MAX_RESTARTS, RewardActors
from rl.workers.cluster.sampler_calls import SamplerCalls
from rl.workers.cluster.share import Share
from rl.workers.cluster.work_queue import Sampling
from rl.workers.sync.buckets import SamplerConnection

log = logging.getLogger("aha.cluster")
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""For a learner on a CPU: malloc keeps up to 1 GiB of what was freed. Else the system maps and clears every large
activation anew, in each layer of each micro-batch, which took a fifth of an update's processor time.
"""


class RayBackend(SamplerCalls):
    """Implements rl.backend.Backend on a Ray cluster, with one actor for each learner rank and each sampler.

    version: of the weights that the samplers have, -1 for none. restarts: of samplers. places: the node of each worker.
    colocated: learners and samplers share devices.
    """

    def __init__(self, cfg: RunConfig) -> None:
        self.num_ranks = cfg.learner.ranks
        self.started_ray = start_ray(cfg)
        self.device = find_device(cfg)
        self.cfg = cfg = settle(cfg, Machine(self.device, cpu_unit()))[0]
        self.layout = cfg.learner.layout_on(gpu=self.device == "gpu")
        gpus_N = gpus_of_nodes(self.device)
        self.colocated = is_colocated(cfg, sum(gpus_N))
        self.transfer = transfer_of(cfg, on_gpu=self.device == "gpu", colocated=self.colocated)
        refuse_turns(cfg, colocated=self.colocated)
        if self.colocated:
            log.info(
                "learners and samplers share devices and take turns (cluster.colocated); weights go by %s",
                self.transfer,
            )
        self.learners: list[ray.actor.ActorHandle] = []
        self.samplers: list[ray.actor.ActorHandle] = []
        self.reward_actors = RewardActors(cfg, self.device, beside=self)
        self.model_path, self.context_length = "", 0
        self.gauges = Gauges()
        self.version, self.sent = -1, SyncReport(-1, 0, 0, 0, 0, 0.0)
        self.work = Sampling(cfg, lambda: self.samplers, lambda: self.version)
        self.asleep: list[str] = []
        self.share = Share(cfg)
        self.restarts = 0
        self.places: list[str] = []
        models, bound = self.reward_actors.resources(), cfg.cluster.start_bound_s(self.device)
        with self._naming_silent_nodes():
            self.reserved = Reservation(cfg, gpus_N, models, bound, colocated=self.colocated)
        self.places = self.reserved.places
        self.learner_threads, self.sampler_threads = threads_of(cfg, self.places)

    # -------------------------------------------------------------------------------------------- start

    def start(self, model_path: str, context_length: int, *, samplers: bool = True) -> None:
        """Start all workers side by side. samplers=False leaves out samplers and rewards, for tests of the learners."""
        cfg, bound = self.cfg, self.cfg.cluster.start_bound_s(self.device)
        if self.device == "cpu" and samplers:
            refuse_head_size(model_path)
        self.model_path, self.context_length = seen_from_anywhere(model_path), context_length
        env = {"DS_ACCELERATOR": "cpu"} | KEEP_MEMORY if self.device == "cpu" else {}
        self.learners = [
            self.reserved.actor(LearnerHost, rank, self.learner_threads, env).remote(
                cfg, rank, self.device, self.learner_threads
            )
            for rank in range(cfg.learner.ranks)
        ]
        self.with_samplers = samplers
        if samplers and not self.colocated:
            self.samplers = [self._new_sampler(i) for i in range(cfg.sampler.count)]
        if samplers and cfg.rewards:
            self.reward_actors.start()
        endpoints = self._wait([h.endpoint.remote() for h in self.learners], self._learner_names, bound, "start")
        # All ranks meet at rank 0's node, and later the samplers meet it there.
        address, port, _ = endpoints[0]
        self._on_learners("join the process group", lambda learner: learner.connect(address, port), bound)
        self._await_samplers()
        if len(set(self.places)) > 1:
            log.info(", ".join([*self._learner_names, *self._sampler_names]))

    def _await_samplers(self) -> None:
        pings = [h.ping.remote() for h in self.samplers]
        self._wait(pings, self._sampler_names, self.cfg.cluster.start_bound_s(self.device), "start")

    def _start_colocated_samplers(self) -> None:
        """Start them in the memory that learners with their model leave, and again when a later model leaves less."""
        if not self.share.shrinks(self._let_go()) and self.samplers:
            return
        for handle in self.samplers:
            ray.kill(handle)
        self.samplers = [self._new_sampler(i) for i in range(self.cfg.sampler.count)]
        self._await_samplers()
        self.asleep = []

    def adopt(self, cfg: RunConfig) -> None:
        refuse_turns(cfg, colocated=self.colocated)
        same = (cfg.rewards, cfg.scoring) == (self.cfg.rewards, self.cfg.scoring)
        self.cfg = cfg
        if not same or not self.reward_actors.parts:
            old, self.reward_actors = self.reward_actors, RewardActors(cfg, self.device, beside=self)
            self.reward_actors.take_over(old)
            old.close()
            refuse_too_small(cfg, self.reserved.bundles, self.reward_actors.resources())
            if cfg.rewards:
                self.reward_actors.start()

    def _new_sampler(self, index: int) -> ray.actor.ActorHandle:
        cfg, env = self.cfg, sampler_environment(self.cfg, self.device)
        actor = self.reserved.actor(SamplerHost, cfg.learner.ranks + index, self.sampler_threads, env)
        cfg = self.share.given_to(cfg, colocated=self.colocated)
        return actor.remote(cfg, index, self.model_path, self.context_length, self.device, self.transfer)

    def load(self, task: Task) -> str:
        self._learners_turn()
        task = models_seen_from_anywhere(task)
        fingerprints = self._on_learners("load the model", lambda learner: learner.load(task))
        self._choose_layout(task)
        if task.reward is None and self.with_samplers:  # no sampler can run a reward model
            if self.colocated:
                self._start_colocated_samplers()
            self._connect_learners_to(range(len(self.samplers)))
        return fingerprints[0]

    def _choose_layout(self, task: Task) -> None:
        """How the loaded task's sequences are laid out: "shared" where a group's prompt is computed once."""
        learner, gpu = self.cfg.learner, self.device == "gpu"
        self.layout = learner.layout_on(gpu=gpu)
        if task.grpo is None or not learner.shares_on(gpu=gpu):
            return
        why_not = self._on_learners("say whether prompts can be shared", lambda learner: learner.why_not_shared())[0]
        if gpu and self.cfg.model.dtype not in HALF:
            why_not = why_not or f"on GPUs there is no kernel for {self.cfg.model.dtype}"
        if why_not and learner.share_prompts == "true":
            raise BadInput(f"learner.share_prompts=true: {why_not}; use auto or false")
        if why_not:
            log.info("each sample computes its group's prompt anew: %s", why_not)
        else:
            self.layout = "shared"
            log.info("the learner computes each group's prompt once (learner.share_prompts=%s)", learner.share_prompts)

    # -------------------------------------------------------------------------------------------- weights

    def _connect_learners_to(self, samplers: Sequence[int]) -> None:
        """From now on the learners send their weights to these samplers."""
        bound, gpus_each = self.cfg.cluster.sync_timeout_s, self.cfg.sampler.tensor_parallel
        client = RaySyncClient(
            [self.samplers[i] for i in samplers],
            [self._sampler_names[i] for i in samplers],
            bound,
            pass_over_dead=self._revives_samplers,
            gpus_each=gpus_each,
            # With ipc the learner writes its next tensors where the samplers read the last ones.
            under_way=0 if self.transfer == "ipc" else 2,
        )
        endpoint = self.learners[0].endpoint.remote()  # a new port: the last connection may hold its own for a while
        address, _, port = self._wait([endpoint], self._learner_names[:1], bound, "name a free port")[0]
        bucket_bytes, gpus = self.cfg.cluster.bucket_mib << 20, len(samplers) * gpus_each
        adapters = self._take_adapters(samplers)
        connection = SamplerConnection(self.transfer, client, address, port, gpus, bucket_bytes, adapters)
        watch = self._sync_watch(samplers)
        doing = "connect to the samplers"
        self._on_learners(doing, lambda learner: learner.connect_samplers(connection), bound, watch)

    def _take_adapters(self, samplers: Sequence[int]) -> bool:
        """Whether these samplers run LoRA adapters apart from the base. One that has died will do as the others do."""
        if not self.cfg.model.lora.rank or self.cfg.cluster.lora_sync == "merged":
            return False
        refs = [self.samplers[i].takes_adapters.remote() for i in samplers]
        names, bound = [self._sampler_names[i] for i in samplers], self.cfg.cluster.sync_timeout_s
        answers = self._wait(refs, names, bound, "say whether it takes adapters", keep_gone=True)
        return all(answer for answer in answers if not isinstance(answer, ActorGone))

    def _sync_watch(self, samplers: Sequence[int]) -> SyncWatch | None:
        """What to watch while learners wait for samplers. With buckets the learner itself hears of their errors."""
        if self._revives_samplers:
            return None
        return SyncWatch([self.samplers[i] for i in samplers], [self._sampler_names[i] for i in samplers])

    def sync_weights(self, version: int) -> SyncReport:
        start = time.perf_counter()
        self._wake(["weights"])
        with self.work.holding():
            report = self._send_weights(version, range(len(self.samplers)))
            self.version, self.ahead, self.sent = version, False, report
        self.work.top_up_all()
        return replace(report, seconds=time.perf_counter() - start)

    def _send_weights(self, version: int, samplers: Sequence[int]) -> SyncReport:
        """Send the weights to these samplers, and compare what they received with what was sent.

        The learners must be connected to them. One that died before or during the sync is started again.
        """
        bound = self.cfg.cluster.sync_timeout_s
        doing = f"send weights version {version}"
        report = self._on_learners(
            doing, lambda learner: learner.send_weights(version), bound, self._sync_watch(samplers)
        )[0]
        names = [self._sampler_names[i] for i in samplers]
        refs = [self.samplers[i].adopt_version.remote(version, self.cfg.rollout.running_at_sync) for i in samplers]
        arrived = self._wait(refs, names, bound, f"adopt weights version {version}", keep_gone=True)
        for i, name, found in zip(samplers, names, arrived, strict=True):
            if isinstance(found, ActorGone):
                self._revive(i, found, version)
            elif found != (report.checksum, report.num_tensors):
                raise AhaError(
                    f"weight sync {version}: {name} holds {found[1]} tensors with checksum {found[0]:x}, the learner "
                    f"sent {report.num_tensors} with {report.checksum:x}; its rollouts would come from wrong weights"
                )
        return report

    @property
    def _revives_samplers(self) -> bool:
        """Whether a sampler that dies is started again. With nccl and ipc a new one cannot join the connected ones."""
        return self.transfer == "bucket"

    def _revive(self, i: int, gone: ActorGone, version: int) -> None:
        """Start a dead sampler again and send it the weights, which are those of this version."""
        self.restarts += 1
        if self.restarts > MAX_RESTARTS or not self._revives_samplers:
            raise AhaError(f"{gone}; resume with the same command")
        log.warning("sampler %d died (%s); starting it again", i, gone)
        self.samplers[i] = self._new_sampler(i)
        bound = self.cfg.cluster.start_bound_s(self.device)
        self._wait([self.samplers[i].ping.remote()], [f"sampler {i}"], bound, "start again")
        self.reserved.find_places()  # if its node died too, Ray has put it on another
        self.places = self.reserved.places
        # Only to this sampler: the others have these weights, and may be in the middle of a completion.
        self._connect_learners_to([i])
        self._send_weights(version, [i])
        self._connect_learners_to(range(len(self.samplers)))

    # -------------------------------------------------------------------------------------------- rewards

    def ask_rewards(self, group: RolloutGroup, names: Sequence[str] | None = None) -> Callable[[], RewardReport]:
        """Ask these rewards (None: all) about a group. Returns a function that waits for their report."""
        wait = self.reward_actors.ask(group, names)

        def report() -> RewardReport:
            with self._naming_silent_nodes():
                return wait()

        return report

    # -------------------------------------------------------------------------------------------- what is shown

    def publish(self, run: str, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if self.cfg.track.gauges:
            self.gauges.set(run, stage, step, metrics)

    def queue(self) -> Queue:
        return Queue(self.work.queue.waiting, self.work.queue.sampling, self.reward_actors.unanswered)

    def hardware(self) -> Hardware:
        return hardware_of(ray.nodes(), self.reserved.nodes, self.reserved.bundles, self.reward_actors.resources())

    def close(self) -> None:
        for handle in (*self.learners, *self.samplers):
            ray.kill(handle)
        self.reward_actors.close()
        self.learners, self.samplers = [], []
        self.reserved.release()
        if self.started_ray:
            ray.shutdown()
