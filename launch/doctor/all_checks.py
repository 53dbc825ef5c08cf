"""All checks in their order: those without workers, then those that change nothing, at last the killed sampler."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property

from launch.doctor import after_update, durability, nodes, numbers, reward_checks, texts
from launch.doctor.check import Check, Probe, passed, run_probes
from launch.doctor.doctor_backend import DoctorBackend, NodeReport
from launch.doctor.exam import Exam
from launch.doctor.node_probe import versions
from rl.config import RunConfig
from rl.scoring.routing import named
from rl.workflow.inputs import prepare

START, LOAD, LOGPROBS, SAVE, MOVE = "workers start", "weights are sent", "logprobs", "checkpoint is saved", "update"


class AllChecks:
    """All checks of one recipe, which share an exam."""

    def __init__(self, cfg: RunConfig, make_backend: Callable[[RunConfig], DoctorBackend]) -> None:
        """Raises BadInput for what `aha run --check` refuses too."""
        self.cfg = cfg
        self.exam = Exam(cfg, prepare(cfg), make_backend)

    def checks(self) -> Iterator[Check]:
        """Run every check and yield each when it is done. At the end the workers are stopped and the files removed."""
        made = not self.cfg.run_dir.exists()
        self.exam.folder.mkdir(parents=True, exist_ok=True)
        (self.exam.folder / self.exam.token).touch()
        try:
            yield from run_probes(self.probes())
        finally:
            self.exam.close()
            shutil.rmtree(self.exam.folder, ignore_errors=True)
            if made:
                shutil.rmtree(self.cfg.run_dir, ignore_errors=True)

    def probes(self) -> list[Probe]:
        exam, cfg = self.exam, self.cfg
        running, loaded, sampled, moved = (START,), (START, LOAD), (START, LOAD, LOGPROBS), (START, LOAD, MOVE)
        forgets = functools.partial(after_update.old_prompts_forgotten, exam)
        forgotten = Probe("old prompts are forgotten", forgets, (*sampled, MOVE))
        return [
            Probe("template", lambda: texts.template(exam)),
            Probe("end token", lambda: texts.end_token(exam)),
            Probe("the run's checkpoints", lambda: durability.checkpoints_whole(cfg)),
            Probe(START, self.start),
            Probe("versions", lambda: nodes.same_versions(self.reports, versions()), running),
            Probe("ports", lambda: nodes.ports_open(exam.backend.ports()), running),
            Probe("shared memory", lambda: nodes.shared_memory(self.reports, cfg), running),
            Probe("run folder", lambda: nodes.folder_shared(self.reports, cfg), running),
            *(
                Probe(f"reward {name}", lambda name=name, part=part: reward_checks.reward(exam, name, part), running)  # type: ignore[misc]
                for name, part in named(cfg.rewards).items()
            ),
            Probe(LOAD, self.load, running),
            Probe(LOGPROBS, lambda: numbers.logprobs(exam), loaded),
            Probe("samples differ", lambda: texts.samples_differ(exam), loaded),
            Probe("tokenizers agree", lambda: texts.same_text(exam), loaded),
            Probe("sampler stops", lambda: texts.stops(exam), loaded),
            Probe(MOVE, lambda: numbers.parameters_move(exam, self.update), loaded),
            Probe("weights move", lambda: numbers.weights_move(exam, self.update), moved),
            # After an update, because an optimiser that never stepped has no state that could come back.
            Probe(SAVE, self.save, loaded),
            Probe("reference stays", lambda: numbers.reference_stays(exam, self.update), moved),
            Probe("loss", lambda: numbers.loss(exam, self.update), loaded),
            *([forgotten] if cfg.rollout.in_flight else []),
            Probe("weights arrive", lambda: numbers.weights_arrive(exam), loaded),
            Probe("logprobs after the update", lambda: numbers.logprobs(exam), sampled),
            Probe("update is used", lambda: after_update.update_used(exam), (*sampled, MOVE)),
            Probe("checkpoint loads equal", lambda: durability.loads_equal(exam, self.saved), (START, LOAD, SAVE)),
            Probe("flipped byte is found", lambda: durability.flipped_byte_found(exam), (START, LOAD, SAVE)),
            Probe("disks", lambda: nodes.disks(self.reports, cfg, self.saved.num_bytes), (START, LOAD, SAVE)),
            Probe("killed sampler returns", self.kill, loaded),
        ]

    # -------------------------------------------------------------------------------------------- shared by checks

    def start(self) -> Check:
        self.exam.start()
        learner, sampler = self.cfg.learner, self.cfg.sampler
        return passed(f"{learner.ranks} learner rank(s), {sampler.count} sampler(s) and the reward workers answer")

    def load(self) -> Check:
        fingerprint = self.exam.load()
        self.exam.sync()
        return passed(f"model {self.cfg.model.path} ({fingerprint}) is loaded and sent")

    def save(self) -> Check:
        return durability.describe(self.saved)

    def kill(self) -> Check:
        # The learners' weights may have moved since the last sync, and the samplers must get the current ones.
        self.exam.sync()
        return durability.sampler_returns(self.exam)

    @cached_property
    def reports(self) -> list[NodeReport]:
        return self.exam.backend.nodes(self.exam.folder, self.exam.token)

    @cached_property
    def saved(self) -> durability.Saved:
        return durability.save(self.exam)

    @cached_property
    def update(self) -> numbers.Update:
        return numbers.take_update(self.exam)
