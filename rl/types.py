"""What flows through the trainer. Each stage returns a different type, so that an unscored group cannot be trained on.

Axis suffixes, for ragged containers too:
    _P  prompts of a step            _G  samples of one group (one prompt)
    _T  tokens                       _S  sequences of a micro-batch
    _R  learner ranks                _U  optimiser updates of a step
    _N  tokens that have cached logprobs, _K of them each
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from rl.turns import Episode

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, object]
"""One dataset row: column name to value."""


class AhaError(Exception):
    """A failure that the user can act on. Its text is one line: what, where, what to do."""


class BadInput(AhaError):
    """Wrong input, found before anything expensive started. The command line exits with code 2."""


class Stopped(AhaError):
    """The user asked for a clean stop, and the state is saved. The command line exits with code 130."""


class Verdict(StrEnum):
    """What a reward found. TIMED_OUT and FAILED say nothing of the answer: such samples are not trained on."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @property
    def is_valid(self) -> bool:
        """Whether it says something of the answer."""
        return self not in (Verdict.TIMED_OUT, Verdict.FAILED)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, ready to sample from.

    id is the row's number in its dataset; draw counts prompts handed out since the run began (unique in a run).
    text is what the model continues; question is the row's, without template. Where an instruction or worked examples
    are put with it: asked is the question so put, bare_text the text without them.
    """

    id: int
    draw: int
    token_ids: list[int]
    text: str
    reference: str
    row: Row
    question: str = ""
    asked: str = ""
    bare_text: str = ""

    @property
    def for_rewards(self) -> str:
        """The text without what was added to the question: an answer in an example is no answer in the question."""
        return self.bare_text or self.text

    @property
    def columns(self) -> Row:
        """The row's columns, with the question under that name where it has none of it."""
        return {"question": self.question, **self.row}


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One group to sample: a prompt, how many samples, a seed for each. group is the reply's address. environment: the
    number, among SampleParams.environments, of the one that answers the model, the row that it gets, and its seed."""

    group: int
    prompt_token_ids: list[int]
    seeds_G: list[int]
    environment: tuple[int, Row, int] | None = None


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """A model's K likeliest next tokens at each of N tokens. ids_NK: int32. logprobs_NK: float32, nats."""

    ids_NK: np.ndarray
    logprobs_NK: np.ndarray


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion, exactly as the sampler emitted it.

    token_ids_T: int32 (T,), the stop token included when the sampler stopped on it.
    logprobs_T: float32 (T,), of the sampled tokens after temperature (and top-p), nats.
    finish_reason: "stop", "length" (cut at the limit) or "turns" (no turn was left).
    episode: of its environment, if it had one, whose answers are among the tokens, with logprob 0, and not in text.
    policy_version: of the weights that sampled the first token. later_versions: (first token, version) of later ones.
    top: the likeliest tokens at each one, where SampleParams.top_logprobs asks for them.
    """

    token_ids_T: np.ndarray
    logprobs_T: np.ndarray
    text: str
    finish_reason: str
    temperature: float
    policy_version: int
    seed: int
    top: TopLogprobs | None = None
    later_versions: tuple[tuple[int, int], ...] = ()
    episode: Episode | None = None

    @property
    def truncated(self) -> bool:
        return self.finish_reason in ("length", "turns")

    @property
    def num_sampled(self) -> int:
        """Tokens that the model sampled, which alone lengths and denominators count."""
        return len(self.token_ids_T) if self.episode is None else int(self.episode.sampled_T.sum())

    def at_sampled(self, values_T: np.ndarray) -> np.ndarray:
        """Of values that tokens have, those of the sampled tokens."""
        return values_T if self.episode is None else values_T[self.episode.sampled_T]


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """G samples of one prompt."""

    prompt: Prompt
    rollouts_G: list[Rollout]


@dataclass(frozen=True, slots=True)
class RewardPart:
    """What one reward function said of one sample. score is unweighted, and NaN when the verdict is not valid."""

    score: float
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RewardReport:
    """What the reward workers say of one group. parts_G: one dict (reward name -> RewardPart) a sample.

    killed: calls that exceeded their limit. replaced: processes that died and whose work was done again.
    truncated: responses that a reward model read without their end. pid: of the worker.
    """

    parts_G: list[dict[str, RewardPart]]
    killed: int = 0
    replaced: int = 0
    truncated: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class GradedGroup:
    """A group with its rewards, before the advantage: that may need the whole batch.

    rewards_G: weighted sum of the parts, NaN where invalid. parts_G: one dict (reward name -> RewardPart) a sample; a
    reward that does not apply to the sample is not in it. valid_G: every part's verdict is valid, and there is one.
    """

    group: RolloutGroup
    rewards_G: list[float]
    parts_G: list[dict[str, RewardPart]]
    valid_G: list[bool]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with its rewards and advantages.

    rewards_G: weighted sum of the parts, NaN where invalid. parts_G: one dict (reward name -> RewardPart) a sample.
    advantages_G: one number a sample, used for each of its tokens. valid_G: False leaves a sample out of the loss.
    uniform: every valid sample has the same reward, so the group says nothing about which sample is better.
    """

    group: RolloutGroup
    rewards_G: list[float]
    parts_G: list[dict[str, RewardPart]]
    advantages_G: list[float]
    valid_G: list[bool]
    uniform: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One SFT example. loss_mask_T is 1 on the tokens that are learnt (answer and stop token), else 0.

    teacher: a teacher's cached logprobs, one position a learnt token (rl/data/teacher_logprobs.py).
    """

    token_ids: list[int]
    loss_mask_T: list[int]
    teacher: TopLogprobs | None = None


@dataclass(slots=True)
class MicroBatch:
    """Whole sequences laid end to end; a sequence is never split. All arrays are (T,) unless said otherwise.

    token_ids_T: prompt and completion tokens. positions_T: 0, 1, 2 ... restarting with each sequence.
    lengths_S: tokens of each sequence. loss_mask_T: 1 where the token was sampled (or is learnt), else 0.
    loss_weight_T: what one token's loss is multiplied by before summing over all tokens, micro-batches and ranks:
        the loss's denominator, counted once by the packer. 0 where loss_mask_T is 0.
    advantages_T, sampler_logprobs_T: at sampled tokens, else 0. temperature_T: of the sampler, 1 for SFT.
    labels_T: for a reward model, 1 (good) or 0 at the tokens that its scores are read off; else 0.
    completion_lengths_S: masked-in tokens of each sequence.
    teacher: cached logprobs, one position a masked-in token, in their order.
    fresh_T: 1 at tokens that were sampled by the very weights that are trained; None: all were.
    shared_S: in the layout "shared", how many of a sequence's first tokens are those of the last sequence before it
        with 0 here, and are computed there alone; None in other layouts.
    """

    token_ids_T: np.ndarray
    positions_T: np.ndarray
    lengths_S: np.ndarray
    completion_lengths_S: np.ndarray
    loss_mask_T: np.ndarray
    loss_weight_T: np.ndarray
    advantages_T: np.ndarray
    labels_T: np.ndarray
    sampler_logprobs_T: np.ndarray
    temperature_T: np.ndarray
    teacher: TopLogprobs | None = None
    shared_S: np.ndarray | None = None
    fresh_T: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)

    @property
    def num_shared(self) -> int:
        """Tokens that are not computed, because another sequence has them too."""
        return 0 if self.shared_S is None else int(self.shared_S.sum())

    @property
    def sequence_T(self) -> np.ndarray:
        """int64 (T,): the number of each token's sequence, 0 .. S-1. Lengths [2, 3] -> [0, 0, 1, 1, 1]."""
        import numpy as np  # here: the command line answers before numpy could be loaded

        return np.repeat(np.arange(len(self.lengths_S), dtype=np.int64), self.lengths_S)

    @property
    def row_tokens(self) -> int:
        """Tokens computed in rows: each sequence padded to the longest or, in the layout "shared", without padding."""
        if self.shared_S is not None:
            return self.num_tokens - self.num_shared
        return int(self.lengths_S.max()) * len(self.lengths_S) if len(self.lengths_S) else 0


@dataclass(slots=True)
class PackedBatch:
    """The data of one optimiser update: the same number of micro-batches on every rank.

    num_loss_tokens: masked-in tokens in all micro-batches. num_sequences: rollouts (or examples) that the
    denominator counts, those left out of the computation for having no gradient included. shared_by: neighbouring
    ranks that have the same micro-batches, and each a slice of their tokens.
    """

    micro_batches_R: list[list[MicroBatch]]
    num_loss_tokens: int
    num_sequences: int
    num_skipped: int = 0
    shared_by: int = 1

    @property
    def num_tokens(self) -> int:
        return sum(mb.num_tokens for rank in self.micro_batches_R[:: self.shared_by] for mb in rank)

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that are padding, when each sequence is a row of its own."""
        micro_batches = [mb for rank in self.micro_batches_R[:: self.shared_by] for mb in rank]
        rows = sum(mb.row_tokens for mb in micro_batches)
        return 1.0 - sum(mb.num_tokens - mb.num_shared for mb in micro_batches) / rows if rows else 0.0

    @property
    def shared_share(self) -> float:
        """Share of the tokens that are not computed, because they are in a prompt that others of the group share."""
        shared = sum(mb.num_shared for rank in self.micro_batches_R[:: self.shared_by] for mb in rank)
        return shared / self.num_tokens if self.num_tokens else 0.0


@dataclass(slots=True)
class StepStats:
    """What one call of Learner.step reports, the same on every rank.

    loss: the optimised number, mean over updates. metrics: name -> value, token means unless the name says otherwise.
    gap_mean, gap_max: |sampler - learner logprob| before the first update, nats; NaN when nothing was measured.
    skipped_updates: updates left out because of a non-finite gradient. seconds: phase -> seconds. still: names of
    trained tensors in which the last update changed nothing.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    gap_mean: float = float("nan")
    gap_max: float = float("nan")
    updates: int = 0
    skipped_updates: int = 0
    tokens: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    still: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One weight sync. checksum: over every tensor sent; the samplers' must equal it."""

    version: int
    checksum: int
    num_tensors: int
    num_buckets: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a stage holds. nodes: of its learners and samplers. gpus: by model, with reward models'; {} on CPUs."""

    nodes: int
    gpus: dict[str, float]


@dataclass(frozen=True, slots=True)
class Queue:
    """Groups under way now. waiting: for a sampler. sampling: at one. awaiting_rewards: sampled."""

    waiting: int = 0
    sampling: int = 0
    awaiting_rewards: int = 0
