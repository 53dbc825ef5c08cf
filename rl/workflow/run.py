"""The runner. It keeps stages that are done, resumes those that were begun, and runs again those that changed.

A RunConfig is a recipe of an SFT and a GRPO stage in one folder (rl/workflow/one_folder.py). The stages of a Recipe
have a folder each (rl/workflow/stage_folders.py). The workers serve one stage after another while the model's shape and
the workers' settings stay the same.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from rl.backend import Backend, RewardWorkers
from rl.config import RunConfig
from rl.context import Context, Inputs, StageRun, Stop
from rl.model.pretrained import load_config
from rl.records.disk_faults import disk_faults_told
from rl.records.folder_lock import held
from rl.records.tracker import Tracker
from rl.scoring.reward_processes import LocalRewardWorker
from rl.stage import Recipe
from rl.types import Hardware, Stopped
from rl.workflow.one_folder import OneFolder
from rl.workflow.plan import DONE, Layout, Planned
from rl.workflow.stage_folders import StageFolders

log = logging.getLogger(__name__)
MakeBackend = Callable[[RunConfig], Backend]
MakeLocalRewards = Callable[[RunConfig], RewardWorkers]
OF_ONE_FILE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
"""Settings in a model's config.json that say something of its file only: the workers choose their own precision."""


def layout_of(made: RunConfig | Recipe) -> Layout:
    """How the stages of a run or of a recipe lie on disk."""
    return StageFolders(made) if isinstance(made, Recipe) else OneFolder(made)


def run(
    made: RunConfig | Recipe,
    make_backend: MakeBackend,
    make_local_rewards: MakeLocalRewards = LocalRewardWorker,
    *,
    prepare_machines: Callable[[], object] = lambda: None,
    progressed: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Run or resume every stage that is not done. Returns the run's summary.json, or the last stage's folder.

    make_backend(cfg) makes a stage's machines. prepare_machines() is called once, before the first of them: it starts
    what they share.
    make_local_rewards(cfg) starts the rewards of a stage without machines.
    progressed(folder) is called after each stage and each evaluation; it must return at once.
    Raises BadInput for whatever is wrong before anything starts, and when another process is at work in the folder;
    AhaError when a disk is full.
    """
    layout = layout_of(made)
    layout.check(layout.plan())
    machines = Machines(make_backend, make_local_rewards, prepare_machines)
    with held(layout.recipe.folder), disk_faults_told(layout.recipe.folder):
        return _run(layout, machines, progressed)


def _run(layout: Layout, machines: Machines, progressed: Callable[[Path], None]) -> Path:
    planned = layout.plan()
    started = time.monotonic()
    if not layout.begin(planned):
        return layout.end(planned, 0.0)
    try:
        with Stop().listening() as stop:
            todo = [p for p in planned if p.state != DONE]
            for _, together in itertools.groupby(todo, key=lambda p: p.folder):
                with _Folder(layout, planned, machines, stop, progressed) as folder:
                    for p in together:
                        layout.announce(planned.index(p), planned, time.monotonic() - started)
                        folder.run(p)
                        progressed(layout.recipe.folder)
                        if stop.requested and p is not planned[-1]:
                            raise Stopped(f"stopped after stage {p.stage.name}; the same command goes on from there")
    finally:
        machines.close()
    return layout.end(planned, time.monotonic() - started)


class Machines:
    """The workers. They are kept as long as the next stage can use them too."""

    def __init__(self, make: MakeBackend, make_local_rewards: MakeLocalRewards, prepare: Callable[[], object]) -> None:
        self._make, self.make_local_rewards, self._prepare = make, make_local_rewards, prepare
        self._backend: Backend | None = None
        self._signature = ""

    def ready(self, cfg: RunConfig, inputs: Inputs) -> Backend:
        """Workers for this stage: those of the stage before, given the new rewards, or new ones."""
        signature = _signature(cfg, inputs)
        if self._backend is not None and signature == self._signature:
            self._backend.adopt(cfg)
            return self._backend
        self.close()
        log.info("starting %d learner rank(s) and %d sampler(s)", cfg.learner.ranks, cfg.sampler.count)
        self._prepare()
        self._backend, self._signature = self._make(cfg), signature
        self._backend.start(inputs.model_path, inputs.context_length)
        return self._backend

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._backend, self._signature = None, ""


def _signature(cfg: RunConfig, inputs: Inputs) -> str:
    """A hash of what must be equal to keep the workers: the model's shape, the tokenizer, and the workers' settings.

    Of the loaded config and tokenizer, because their files differ in what does not matter (versions, names of folders).
    """
    shape = load_config(inputs.model_path).to_dict()
    tokenizer = inputs.tokenizer
    parts = [
        {name: value for name, value in sorted(shape.items()) if name not in OF_ONE_FILE},
        sorted(tokenizer.get_vocab().items()), tokenizer.all_special_tokens, tokenizer.chat_template,
        cfg.model.dtype, cfg.model.lora, cfg.learner, cfg.sampler, cfg.cluster, cfg.seed, cfg.grpo.max_logprob_gap,
        inputs.context_length,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Folder(ExitStack):
    """Runs the stages that share a folder. They share one tracker, and those that run a model share one context."""

    def __init__(
        self, layout: Layout, planned: Iterable[Planned], machines: Machines, stop: Stop,
        progressed: Callable[[Path], None],
    ) -> None:  # fmt: skip
        super().__init__()
        self._layout, self._machines, self._stop, self._progressed = layout, machines, stop, progressed
        self._folders = {p.stage.name: p.folder for p in planned}
        self._context: Context | None = None
        self._held = Hardware(1, {})  # a stage without machines runs on this node

    def run(self, p: Planned) -> None:
        """Run or resume a stage. The file that marks it as done is written last."""
        started = time.perf_counter()
        self._layout.open(p)
        at = StageRun(
            self._layout.recipe, p.stage, p.folder, p.model_folder, self._folders, self._stop,
            self._machines.make_local_rewards,
        )  # fmt: skip
        if p.stage.runs_model:
            cfg = self._layout.config(at)
            at.inputs = self._layout.inputs(at, cfg)
            at.context = self._context = self._ready(p, cfg, at.inputs, started)
        p.stage.run(at)
        self._layout.finish(at, self._held, time.perf_counter() - started)

    def _ready(self, p: Planned, cfg: RunConfig, inputs: Inputs, started: float) -> Context:
        """The context of the stage's folder, with the machines that the stage needs."""
        known = self._context
        tracker = known.tracker if known else Tracker(p.folder, cfg.track, name=self._layout.tracker_name(p))
        if known is None:
            self.enter_context(tracker)
        backend = self._machines.ready(cfg, inputs) if p.stage.uses_machines else None
        if known is not None:
            return known
        tracker.start(self._layout.begun(p))
        if backend is not None:
            tracker.attach(backend.publish, backend.queue)
            self._held = backend.hardware()
        ctx = Context(
            cfg, backend, inputs.tokenizer, tracker, self._stop, inputs.context_length,
            lambda run_dir: self._progressed(self._layout.recipe.folder),
        )  # fmt: skip
        ctx.seconds["start"] = time.perf_counter() - started
        return ctx
