"""What every stage works with: its settings, inputs, machines and folder, and the user's wish to stop."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from rl.backend import AroundAnswers, Backend, RewardWorkers, SampleParams, Task
from rl.config import DataConfig, OptimConfig, RunConfig
from rl.data.templates import end_token_ids
from rl.environments.rendering import around_answers
from rl.environments.routing import environment_of
from rl.records.checkpoint import CheckpointMeta, CheckpointStore, check_meta, refuse_fewer_steps
from rl.records.tracker import Tracker
from rl.stage import MAKES_MODEL, MAKES_REWARD_MODEL, Recipe, Reference, Stage
from rl.types import AhaError, BadInput, Prompt, SampleRequest, Stopped

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from rl.data.sft_examples import ExampleStream
    from rl.data.streams import PromptStream
    from rl.scoring.scorer import Scorer

log = logging.getLogger(__name__)


class Resumable(Protocol):
    """A data stream whose position a checkpoint keeps, and what else a resumed run needs of it."""

    def state(self) -> dict[str, int]: ...

    def restore(self, state: dict[str, int]) -> None: ...

    def save(self, checkpoint: Path) -> None: ...


class Stop:
    """The user's wish to stop. The first Ctrl-C finishes the step, saves and stops; the second stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("this step will be finished and saved, then the run stops; Ctrl-C again stops it at once")

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        old = signal.signal(signal.SIGINT, self), signal.signal(signal.SIGTERM, self)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, old[0])
            signal.signal(signal.SIGTERM, old[1])


@dataclass
class Inputs:
    """What a run reads from outside, loaded and checked before any machine is started. What it does not need is empty
    or None.

    stream: GRPO's prompts. prompts: each training prompt once, for stages that sample them without GRPO.
    """

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    stream: PromptStream | None
    prompts: list[Prompt]
    eval_prompts: list[Prompt]
    sft_stream: ExampleStream | None
    sft_held_out: ExampleStream | None
    scorer: Scorer | None


@dataclass
class Context:
    """What a stage works with while it runs a model.

    seconds: phase -> seconds spent, those before a resume included. evaluated(folder) is called after each evaluation.
    machines: None for a stage that starts none. All others use `backend`.
    """

    cfg: RunConfig
    machines: Backend | None
    tokenizer: PreTrainedTokenizerBase
    tracker: Tracker
    stop: Stop
    context_length: int
    evaluated: Callable[[Path], None] = lambda run_dir: None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def backend(self) -> Backend:
        if self.machines is None:
            raise AhaError(f"{self.cfg.name}: this stage starts no learners or samplers")
        return self.machines

    @property
    def run_dir(self) -> Path:
        return self.cfg.run_dir

    @contextmanager
    def timed(self, phase: str) -> Iterator[dict[str, float]]:
        """Add the block's seconds to the phase. Yields {phase: seconds}, which is filled in when the block ends."""
        start, out = time.perf_counter(), {phase: 0.0}
        try:
            yield out
        finally:
            out[phase] = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + out[phase]

    @functools.cached_property
    def around(self) -> tuple[AroundAnswers, ...]:
        """The environments, with the tokens around their answers."""
        template = (self.cfg.prompts if self.cfg.prompts.source else self.cfg.evaluation.data).template
        return around_answers(self.cfg.environments, template, self.tokenizer)

    def load_to_sample(self, model_path: str) -> None:
        """Load a model that is not trained, and send its weights to the samplers as version 0."""
        with self.timed("load"):
            self.backend.load(Task(model_path, OptimConfig(), 0))
        with self.timed("sync"):
            self.backend.sync_weights(version=0)

    def sample_params(self, *, temperature: float, top_p: float, max_new_tokens: int) -> SampleParams:
        return SampleParams(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            stop=self.cfg.rollout.stop,
            stop_token_ids=tuple(end_token_ids(self.tokenizer)),
            environments=self.around,
        )

    # -------------------------------------------------------------------------------------------- checkpoints

    def store(self, stage: str) -> CheckpointStore:
        return CheckpointStore(self.run_dir / "checkpoints" / stage, self.cfg.checkpoint.keep)

    def save(self, stage: str, step: int, stream: Resumable, fingerprint: str, score: float | None = None) -> None:
        """Write a checkpoint after `step` finished steps."""
        with self.timed("save"):
            store = self.store(stage)
            partial = store.begin(step)
            learner = self.cfg.learner
            meta = CheckpointMeta(
                step, stream.state(), fingerprint, learner.ranks, learner.zero_stage, score, dict(self.seconds)
            )
            with _removed_when_it_fails(partial):
                self.backend.save(partial)
                stream.save(partial)
                store.commit(partial, meta)

    def resume(self, stage: str, fingerprint: str, stream: Resumable, total: int) -> int:
        """Load the stage's newest checkpoint, if there is one, into the learners and the stream. Returns its steps.

        Raises BadInput when those are more than the `total` that the settings ask for.
        """
        found = self.store(stage).latest()
        if found is None:
            return 0
        path, meta = found
        refuse_fewer_steps(self.run_dir, stage, meta.step, total)
        learner = self.cfg.learner
        check_meta(meta, path, fingerprint=fingerprint, ranks=learner.ranks, zero_stage=learner.zero_stage)
        self.backend.restore(path)
        stream.restore(meta.cursor)
        self.seconds = dict(meta.seconds)
        log.info("resuming %s after step %d from %s", stage, meta.step, path)
        return meta.step

    def finish_step(
        self, stage: str, done: int, total: int, stream: Resumable, fingerprint: str, score: float | None = None
    ) -> None:
        """Save after `done` of `total` steps, when that is due. Raises Stopped when the user asked for a stop."""
        stop = self.stop.requested and done < total
        if stop or done == total or done % self.cfg.checkpoint.every == 0:
            self.save(stage, done, stream, fingerprint, score)
        if stop:
            raise Stopped(f"stopped after {stage} step {done} of {total}; the same command goes on from there")

    def export(self, folder: Path) -> None:
        """Write the learners' weights to the folder as a Hugging Face model, whole or not at all."""
        with self.timed("export"):
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            with _removed_when_it_fails(partial):
                self.backend.export(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


@contextmanager
def _removed_when_it_fails(partial: Path) -> Iterator[None]:
    """Remove a half-written folder when the block fails: on a full disk, what else is written needs its room."""
    try:
        yield
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sample_seed(run_seed: int, *parts: int | str) -> int:
    """A seed in 0..2^31-1 that depends on all the parts, so that a resumed run samples the same."""
    text = ":".join(str(part) for part in (run_seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def sample_request(cfg: RunConfig, group: int, prompt: Prompt, seeds_G: list[int]) -> SampleRequest:
    """Samples of a prompt, with the environment that its row has."""
    number = environment_of(cfg.environments, prompt.row)
    environment = None if number is None else (number, prompt.row, game_seed(cfg.seed, prompt.id))
    return SampleRequest(group, prompt.token_ids, seeds_G, environment)


def game_seed(run_seed: int, row: int) -> int:
    """The seed of an environment's random numbers: all samples of a row play the same game."""
    return sample_seed(run_seed, "game", row)


@dataclass
class StageRun:
    """What Stage.run is given.

    folder: where the stage keeps its work. model_folder: where it puts the model that it makes. folders: those of all
    stages, by name. inputs, context: None for a stage that runs no model. make_local_rewards(cfg): the rewards of a
    stage without machines.
    """

    recipe: Recipe
    stage: Stage
    folder: Path
    model_folder: Path
    folders: Mapping[str, Path]
    stop: Stop
    make_local_rewards: Callable[[RunConfig], RewardWorkers]
    inputs: Inputs | None = None
    context: Context | None = None

    @property
    def seed(self) -> int:
        return self.recipe.base.seed

    @property
    def ctx(self) -> Context:
        if self.context is None:
            raise AhaError(f"stage {self.stage.name}: runs no model")
        return self.context

    def path(self, text: str, default: str) -> str:
        """The file or folder that a reference names. Any other text is returned as it is.

        A reference that names no file means `default` in that stage's folder. Raises BadInput when it is not there.
        """
        ref = Reference.parse(text)
        if ref is None:
            return text
        path = self.folders[ref.stage] / (ref.file or default)
        if not path.exists():
            makes = self.recipe[ref.stage].makes
            what = "model" if makes & {MAKES_MODEL, MAKES_REWARD_MODEL} and not ref.file else path.name
            raise BadInput(f"stage {self.stage.name}: {text}: stage {ref.stage} made no {what} in {path.parent}")
        return str(path)

    def resolved(self, data: DataConfig) -> DataConfig:
        """The data's settings with the file in place of a reference to an earlier stage."""
        return dataclasses.replace(data, source=self.path(data.source, "data.jsonl"))
