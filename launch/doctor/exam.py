"""What the checks share: the started backend, and what was sampled on it. _G samples, _R ranks, _P prompts."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from launch.doctor.doctor_backend import DoctorBackend
from rl.backend import SampleParams, Task
from rl.config import GRPOConfig, OptimConfig, RunConfig
from rl.context import Inputs, sample_seed
from rl.data.packing import pack
from rl.data.templates import end_token_ids
from rl.types import MicroBatch, PackedBatch, Prompt, RolloutGroup, SampleRequest, ScoredGroup

DRAWN = 32
"""Prompts drawn from the recipe's data."""
PROMPTS, SAMPLES, NEW_TOKENS = 4, 8, 64
"""What is sampled at most: a few hundred tokens show what is wrong as well as a million."""
TEMPERATURE = 0.7
"""At temperature 1 raw and processed logprobs are the same, so the checks sample at another."""
LEARNING_RATE = 1e-4
"""Of the one update that moves weights: far above float32's resolution, and small enough to leave a model a model."""
ANY_GAP = 1e9
"""The learner must not stop at a gap that the doctor is about to measure."""


class Exam:
    """The recipe that is checked.

    folder: for the doctor's own files, inside the run's folder. groups: the rollouts sampled last. earlier: those
    before, of the same prompts and seeds. gap: mean |sampler - learner| logprob of the groups, nats; earlier_gap: of
    those before. version: of the weights. drawn: prompts of the recipe's data. prompts_P: those that are sampled.
    """

    def __init__(self, cfg: RunConfig, inputs: Inputs, make_backend: Callable[[RunConfig], DoctorBackend]) -> None:
        self.cfg, self.inputs, self._make_backend = cfg, inputs, make_backend
        self.folder = cfg.run_dir / "doctor"
        self.token = f"seen-{secrets.token_hex(4)}"
        self.stop_token_ids = tuple(end_token_ids(inputs.tokenizer))
        self.backend: DoctorBackend
        self.started = False
        self.drawn = draw(inputs)
        self.prompts_P = self.drawn[:PROMPTS]
        self.groups: list[RolloutGroup] = []
        self.earlier: list[RolloutGroup] = []
        self.gap = self.earlier_gap = math.nan
        self.version = 0

    # -------------------------------------------------------------------------------------------- machines

    def start(self) -> None:
        """Start the workers on the recipe's model."""
        grpo = replace(self.cfg.grpo, max_logprob_gap=ANY_GAP)
        self.backend = self._make_backend(replace(self.cfg, grpo=grpo))
        self.started = True
        self.backend.start(self.inputs.model_path, self.inputs.context_length)

    def load(self) -> str:
        """Set up the learners so that the first update moves the weights a little, and later ones leave them alone."""
        return self.backend.load(Task(self.inputs.model_path, self.grpo.optim, 2, self.grpo, self.inputs.model_path))

    def sync(self) -> None:
        self.version += 1
        self.backend.sync_weights(self.version)

    def close(self) -> None:
        if self.started:
            self.started = False
            self.backend.close()

    @property
    def grpo(self) -> GRPOConfig:
        """The recipe's GRPO settings, changed for exact measurements: each ratio is 1 and every sample counts."""
        optim = self.cfg.grpo.optim
        still = replace(
            optim, lr=LEARNING_RATE, schedule="linear", final_lr_share=0.0, warmup_steps=0, weight_decay=0.0
        )
        assert isinstance(still, OptimConfig)
        return replace(
            self.cfg.grpo,
            updates_per_step=1,
            uniform_groups="keep",
            overlong="keep",
            old_logprobs="learner",
            importance="none",
            ref_refresh_steps=0,
            optim=still,
        )

    # -------------------------------------------------------------------------------------------- sampling

    @property
    def temperature(self) -> float:
        """The recipe's temperature, or another when it is too near 1 to tell raw logprobs from scaled ones."""
        own = self.cfg.rollout.temperature
        return own if abs(own - 1.0) > 0.1 else TEMPERATURE

    def params(self, **changes: object) -> SampleParams:
        """How the recipe samples, but with top_p=1: the learner cannot know what a smaller one cuts off."""
        params = SampleParams(
            temperature=self.temperature,
            top_p=1.0,
            max_new_tokens=min(self.cfg.rollout.max_new_tokens, NEW_TOKENS),
            stop=self.cfg.rollout.stop,
            stop_token_ids=self.stop_token_ids,
        )
        return replace(params, **changes)  # type: ignore[arg-type]

    def sample(self, params: SampleParams, samples: int) -> list[RolloutGroup]:
        """Sample `samples` completions of each prompt, each with its own seed, in the order of the prompts."""
        prompts_P = self.prompts_P
        requests = [
            SampleRequest(i, p.token_ids, [sample_seed(self.cfg.seed, "doctor", i, j) for j in range(samples)])
            for i, p in enumerate(prompts_P)
        ]
        found = dict(self.backend.rollouts(requests, params))
        return [RolloutGroup(prompts_P[i], found[i]) for i in sorted(found)]

    def sample_groups(self) -> list[RolloutGroup]:
        """Sample groups as the recipe does, and keep them in self.groups."""
        self.earlier, self.earlier_gap, self.gap = self.groups, self.gap, math.nan
        self.groups = self.sample(self.params(), min(self.cfg.grpo.group_size, SAMPLES))
        return self.groups

    # -------------------------------------------------------------------------------------------- micro-batches

    def pack(self, groups: Sequence[RolloutGroup], budget: int, advantages: Sequence[float]) -> PackedBatch:
        """Pack one update of these groups, of at most `budget` tokens. The samples get the advantages in turn."""
        scored, at = [], 0
        for group in groups:
            n = len(group.rollouts_G)
            given = [advantages[(at + i) % len(advantages)] for i in range(n)]
            scored.append(ScoredGroup(group, given, [{}] * n, given, [True] * n, False))
            at += n
        learner = replace(self.cfg.learner, micro_batch_tokens=budget)
        limit = self.cfg.rollout.max_new_tokens
        return pack(scored, grpo=self.grpo, learner=learner, max_new_tokens=limit, layout=self.backend.layout, seed=0)[
            0
        ]

    def micro_batches(self, groups: Sequence[RolloutGroup]) -> list[list[MicroBatch]]:
        """The micro-batches of all samples, by rank."""
        return self.pack(groups, self.cfg.learner.micro_batch_tokens, [1.0]).micro_batches_R

    @property
    def store(self) -> Path:
        """The folder of the doctor's own checkpoint."""
        return self.folder / "checkpoints"


def draw(inputs: Inputs) -> list[Prompt]:
    """The prompts to sample: those of training, or else of evaluation, or else the beginnings of SFT examples."""
    if inputs.stream is not None:
        return inputs.stream.take(DRAWN)
    if inputs.prompts or inputs.eval_prompts:
        return [replace(p, draw=i) for i, p in enumerate((inputs.prompts or inputs.eval_prompts)[:DRAWN])]
    assert inputs.sft_stream is not None
    openings = []
    for i, example in enumerate(inputs.sft_stream.take(DRAWN)):
        # All of a document is learnt, but sampling needs something before it.
        learnt = max(1, example.loss_mask_T.index(1))
        openings.append(Prompt(i, i, example.token_ids[:learnt], "", "", {}))
    return openings
