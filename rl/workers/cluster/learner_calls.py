"""The half of RayBackend that calls the learners, with one method for each thing that a stage asks of them, and lets
colocated learners and samplers take turns on their devices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import ray

from rl.config import RunConfig
from rl.types import MicroBatch, PackedBatch, StepStats
from rl.workers.cluster.hardware import Rest, let_go, memory_metrics
from rl.workers.cluster.ray_calls import ActorGone, SyncWatch, Unanswered, collect, silent_nodes
from rl.workers.sampler.sampler import SLEEPERS

if TYPE_CHECKING:
    # Loads DeepSpeed, which the driver does without.
    from rl.workers.learner.learner import Learner

log = logging.getLogger("aha.cluster")
A = TypeVar("A")
T = TypeVar("T")


class LearnerCalls:
    """Every wait is bounded; one that runs out names the workers and the nodes that did not answer.

    learners, samplers: handles of their Ray actors. places: the address of the node of each, the learners' first.
    colocated: learners and samplers share devices. asleep: what samplers have given back to the learners. ahead: the
    learners have trained, or do so, since their weights were sent.
    """

    cfg: RunConfig
    learners: list[ray.actor.ActorHandle]
    samplers: list[ray.actor.ActorHandle]
    places: list[str]
    colocated: bool
    asleep: list[str]
    ahead = False

    def _on_learners(
        self, doing: str, work: Callable[[Learner], T], bound: float | None = None, watch: SyncWatch | None = None
    ) -> list[T]:
        """work(learner), run on every rank at once. Returns each rank's result.

        Ray pickles the function together with every variable that it uses, so it must not use self.
        """
        return self._on_each_learner(doing, lambda learner, _: work(learner), [None] * len(self.learners), bound, watch)

    def _on_each_learner(
        self,
        doing: str,
        work: Callable[[Learner, A], T],
        given_R: Sequence[A],
        bound: float | None = None,
        watch: SyncWatch | None = None,
    ) -> list[T]:
        """work(learner, given_R[rank]), run on every rank. bound: in seconds, by default cluster.step_timeout_s."""
        refs = [h.call.remote(work, given) for h, given in zip(self.learners, given_R, strict=True)]
        return self._wait(refs, self._learner_names, bound or self.cfg.cluster.step_timeout_s, doing, watch=watch)

    def step(self, updates_U: Sequence[PackedBatch]) -> StepStats:
        return self.train(updates_U)()

    def train(self, updates_U: Sequence[PackedBatch]) -> Callable[[], StepStats]:
        self._learners_turn()
        self.ahead = True
        batches_R = [[update.micro_batches_R[rank] for update in updates_U] for rank in range(len(self.learners))]
        doing, bound = "take a training step", self.cfg.cluster.step_timeout_s
        refs = [
            h.call.remote(lambda learner, batches: learner.step(batches), batches)
            for h, batches in zip(self.learners, batches_R, strict=True)
        ]

        def stats() -> StepStats:
            found: StepStats = self._wait(refs, self._learner_names, bound, doing)[0]
            return found

        return stats

    def measure_gap(self, micro_batches_R: list[list[MicroBatch]]) -> tuple[float, float]:
        self._learners_turn()
        doing = "score rollouts"
        return self._on_each_learner(doing, lambda learner, batch: learner.measure_gap(batch), micro_batches_R)[0]

    def score(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        self._learners_turn()
        doing = "score rollouts"
        return self._on_each_learner(doing, lambda learner, batch: learner.score(batch), micro_batches_R)

    def mean_nll(self, micro_batches_R: list[list[MicroBatch]]) -> float:
        self._learners_turn()
        doing = "score held-out examples"
        return self._on_each_learner(doing, lambda learner, batch: learner.mean_nll(batch), micro_batches_R)[0]

    def scores(self, micro_batches_R: list[list[MicroBatch]]) -> list[list[np.ndarray]]:
        self._learners_turn()
        doing = "score held-out pairs"
        return self._on_each_learner(doing, lambda learner, batch: learner.scores(batch), micro_batches_R)

    def save(self, folder: Path) -> None:
        path = str(folder.absolute())
        self._on_learners(f"save into {folder}", lambda learner: learner.save(path))

    def restore(self, folder: Path) -> None:
        self._learners_turn()
        path = str(folder.absolute())
        self._on_learners(f"load {folder}", lambda learner: learner.restore(path))

    def export(self, folder: Path) -> None:
        path = str(folder.absolute())
        self._on_learners(f"export to {folder}", lambda learner: learner.export(path))

    def weights_hash(self) -> str:
        return self._on_learners("hash the weights", lambda learner: learner.weights_hash())[0]

    def parameter_sums(self) -> dict[str, float]:
        """Name -> sum of a parameter's absolute values."""
        return self._on_learners("sum the weights", lambda learner: learner.parameter_sums())[0]

    def memory(self) -> dict[str, float]:
        refs = [h.memory.remote() for h in (*self.learners, *self.samplers)]
        names = [*self._learner_names, *self._sampler_names]
        try:
            held = self._wait(refs, names, self.cfg.cluster.sync_timeout_s, "measure memory")
        except (ActorGone, Unanswered) as error:
            # A metric that fails must not end the run. The next sync or rollout finds out who is gone.
            log.warning("this step's memory is not known: %s", error)
            return {}
        ranks = len(self.learners)
        return memory_metrics("learner", held[:ranks]) | memory_metrics("sampler", held[ranks:])

    # -------------------------------------------------------------------------------------------- turns

    def _learners_turn(self) -> None:
        """Before the learners compute: samplers on their devices give back all memory. Apart, nothing happens."""
        if not self.colocated or not self.samplers or self.asleep == SLEEPERS:
            return
        self._on_samplers([h.sleep.remote() for h in self.samplers], "fall asleep")
        self.asleep = list(SLEEPERS)

    def _wake(self, parts: Sequence[str]) -> None:
        """Wake these parts of all samplers, once every learner rank has given back the memory that it does not need."""
        parts = [part for part in parts if part in self.asleep]
        if not parts:
            return
        self._let_go()
        for part in parts:
            self._on_samplers([h.wake_up.remote(part) for h in self.samplers], f"wake up its {part}")
            self.asleep.remove(part)

    def _let_go(self) -> list[Rest]:
        return self._on_learners("give back memory", lambda _: let_go(), self.cfg.cluster.sync_timeout_s)

    def _on_samplers(self, refs: list[ray.ObjectRef], doing: str) -> None:
        """Wait for all samplers. One that has died is left to the next sync or rollout, which start it again."""
        self._wait(refs, self._sampler_names, self.cfg.cluster.sync_timeout_s, doing, keep_gone=True)

    # -------------------------------------------------------------------------------------------- waits

    @property
    def _learner_names(self) -> list[str]:
        return [f"learner rank {i}{self._on(i)}" for i in range(len(self.learners))]

    @property
    def _sampler_names(self) -> list[str]:
        return [f"sampler {i}{self._on(self.cfg.learner.ranks + i)}" for i in range(len(self.samplers))]

    def _on(self, bundle: int) -> str:
        return f" on node {self.places[bundle]}" if len(set(self.places)) > 1 else ""

    def _wait(
        self,
        refs: list[ray.ObjectRef],
        names: list[str],
        bound: float,
        doing: str,
        *,
        keep_gone: bool = False,
        watch: SyncWatch | None = None,
    ) -> list:
        with self._naming_silent_nodes():
            return collect(refs, names, bound, doing, keep_gone=keep_gone, watch=watch, beside=self)

    def under_way(self) -> list[ray.ObjectRef]:
        """The samplers' calls, which go on beside every wait."""
        return []

    def look_at(self, answered: list[ray.ObjectRef]) -> None:
        """Take in what samplers have answered, and ask them again."""

    @contextmanager
    def _naming_silent_nodes(self) -> Iterator[None]:
        """When a wait in the block runs out, add to its error the nodes that do not answer and the workers on them."""
        try:
            yield
        except Unanswered as error:
            raise Unanswered(f"{error}{self._silent()}") from error

    def _silent(self) -> str:
        return silent_nodes(dict(zip([*self._learner_names, *self._sampler_names], self.places, strict=False)))
