"""What every stage works with."""

from __future__ import annotations

import hashlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rl.backend import Backend, SampleParams
from rl.config import RunConfig
from rl.data.templates import end_token_ids
from rl.records.checkpoint import CheckpointMeta, CheckpointStore, check_meta
from rl.records.tracker import Tracker
from rl.types import AhaError

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
