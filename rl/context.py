"""What every stage works with: settings, inputs, machines, the folder that keeps its work, and how it is stopped."""

from __future__ import annotations

import dataclasses
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
from typing import TYPE_CHECKING

from rl.backend import Backend, RewardWorkers, SampleParams
from rl.config import DataConfig, RunConfig
from rl.data.templates import end_token_ids
from rl.records.checkpoint import CheckpointMeta, CheckpointStore, check_meta
from rl.records.tracker import Tracker
from rl.stage import MAKES_MODEL, MAKES_REWARD_MODEL, Recipe, Reference, Stage
from rl.types import AhaError, BadInput, Prompt

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from rl.data.sft_examples import ExampleStream
    from rl.data.streams import PromptStream
    from rl.scoring.scorer import Scorer

log = logging.getLogger(__name__)


class Stop:
    """Ctrl-C once: finish the step, save, stop. Twice: at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after this step with a checkpoint; Ctrl-C again stops at once")

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
    """All that a run needs and that can be wrong, loaded and checked before any machine is started.

    stream: for GRPO. prompts: each training prompt once, where they are sampled without GRPO. What a run does not need
    is empty or None.
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
    """A run under way. seconds: phase -> seconds spent, also before a resume. evaluated: told of each evaluation.

    machines: None for a stage that starts none; backend is for all others.
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
            raise AhaError(f"{self.cfg.name}: this stage has no machines of its own")
        return self.machines

    @property
    def run_dir(self) -> Path:
        return self.cfg.run_dir

    @contextmanager
    def timed(self, phase: str) -> Iterator[dict[str, float]]:
        """Add the block's seconds to the run's phase; yields a dict that holds them afterwards."""
        start, out = time.perf_counter(), {phase: 0.0}
        try:
            yield out
        finally:
            out[phase] = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + out[phase]

    def sample_params(self, *, temperature: float, top_p: float, max_new_tokens: int) -> SampleParams:
        return SampleParams(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            stop=self.cfg.rollout.stop,
            stop_token_ids=tuple(end_token_ids(self.tokenizer)),
        )

    # -------------------------------------------------------------------------------------------- checkpoints

    def store(self, stage: str) -> CheckpointStore:
        return CheckpointStore(self.run_dir / "checkpoints" / stage, self.cfg.checkpoint.keep)

    def save(self, stage: str, step: int, cursor: dict[str, int], fingerprint: str, score: float | None = None) -> None:
        """Write a checkpoint after `step` finished steps."""
        with self.timed("save"):
            store = self.store(stage)
            partial = store.begin(step)
            self.backend.save(partial)
            learner = self.cfg.learner
            meta = CheckpointMeta(
                step, cursor, fingerprint, learner.ranks, learner.zero_stage, score, dict(self.seconds)
            )
            store.commit(partial, meta)

    def resume(self, stage: str, fingerprint: str) -> CheckpointMeta | None:
        """Load the stage's newest checkpoint into the learners, if there is one."""
        found = self.store(stage).latest()
        if found is None:
            return None
        path, meta = found
        learner = self.cfg.learner
        check_meta(meta, path, fingerprint=fingerprint, ranks=learner.ranks, zero_stage=learner.zero_stage)
        self.backend.restore(path)
        self.seconds = dict(meta.seconds)
        log.info("resuming %s after step %d from %s", stage, meta.step, path)
        return meta


def sample_seed(run_seed: int, *parts: int | str) -> int:
    """A seed in 0..2^31-1 that depends on all its parts: the same for the same sample in a resumed run."""
    text = ":".join(str(part) for part in (run_seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass
class StageRun:
    """A stage at work, handed to Stage.run.

    folder: where it keeps its work; model_folder: where it puts the model that it makes. folders: of all stages, by
    name. inputs and context: of a stage that runs a model; others have none. make_local_rewards(cfg): the rewards of a
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
        """The file or folder that a reference names, `default` in the stage's folder; other texts are left alone.

        Raises BadInput when the stage has not made it.
        """
        ref = Reference.parse(text)
        if ref is None:
            return text
        path = self.folders[ref.stage] / (ref.file or default)
        if not path.exists():
            makes = self.recipe[ref.stage].makes
            what = "model" if makes & {MAKES_MODEL, MAKES_REWARD_MODEL} and not ref.file else path.name
            raise BadInput(f"stage {self.stage.name}: {text}: stage {ref.stage} has made no {what} in {path.parent}")
        return str(path)

    def resolved(self, data: DataConfig) -> DataConfig:
        """The rows' settings, a reference to an earlier stage replaced by its file."""
        return dataclasses.replace(data, source=self.path(data.source, "data.jsonl"))

    def keep_model(self) -> None:
        """Write the learners' weights to model_folder in Hugging Face format, whole or not at all."""
        with self.ctx.timed("export"):
            final, partial = self.model_folder, self.model_folder.with_name(f"{self.model_folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            self.ctx.backend.export(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
