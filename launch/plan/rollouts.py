"""How long sampling takes: lengths are drawn from a distribution and decoded in a simulated sampler. numpy only.

A decoding step reads the weights and the KV cache of its sequences, and computes one token of each. So a step with a
few long rollouts at the end (the tail) takes nearly as long as one with a full batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.plan.hardware import Hardware
from launch.plan.model import Architecture
from rl.settings.precision import bytes_per_number
from rl.types import BadInput


@dataclass(frozen=True)
class Lengths:
    """Completion lengths: lognormal with this median and sigma (of the logarithm), cut at `limit` tokens.

    prompt: mean tokens of a prompt. assumed: the median was not given and is a share of the limit.
    """

    median: float
    sigma: float
    limit: int
    prompt: float
    assumed: bool = True

    def draw(self, count: int, seed: int) -> np.ndarray:
        """`count` lengths in tokens, from 1 to limit; equal seeds give equal lengths."""
        drawn = np.random.default_rng(seed).lognormal(np.log(self.median), self.sigma, count)
        return np.clip(np.rint(drawn), 1, self.limit).astype(np.int64)

    def mean(self) -> float:
        return float(self.draw(20_000, 0).mean())

    def truncated_share(self) -> float:
        """The share of completions that the limit cuts."""
        return float((self.draw(20_000, 0) >= self.limit).mean())


MEDIAN_SHARE, SIGMA, PROMPT_TOKENS = 0.35, 0.7, 128.0


def assumed_lengths(limit: int, *, median: float = 0, sigma: float = 0, prompt: float = 0, room: int = 0) -> Lengths:
    """Lengths with defaults: a median of 0.35 of the limit, sigma 0.7, prompts of 128 tokens.

    room: limit of prompt and completion together, 0 for none; the default prompt is shortened to fit.
    Raises BadInput on a median above the limit.
    """
    if median > limit or median < 0 or sigma < 0 or prompt < 0:
        raise BadInput(
            f"lengths: a median of {median:g} (at most max_new_tokens={limit}), sigma {sigma:g} and prompts of "
            f"{prompt:g} tokens must be positive"
        )
    assumed_prompt = min(PROMPT_TOKENS, max(8.0, float(room - limit))) if room else PROMPT_TOKENS
    return Lengths(median or MEDIAN_SHARE * limit, sigma or SIGMA, limit, prompt or assumed_prompt, not median)


@dataclass(frozen=True)
class Decoder:
    """The cost of a sampler's steps. step_s(n, k): seconds of a step with n sequences and k tokens of cache."""

    weights_s: float
    cache_s_per_token: float
    compute_s_per_sequence: float
    fixed_s: float
    sequence_s: float
    prefill_s_per_token: float

    def step_s(self, sequences: float, cached_tokens: float) -> float:
        reading = self.weights_s + self.cache_s_per_token * cached_tokens
        return max(reading, self.compute_s_per_sequence * sequences) + self.fixed_s + self.sequence_s * sequences


def make_decoder(
    arch: Architecture, dtype: str, hw: Hardware, *, tensor_parallel: int, eager: bool, seeded: bool = True
) -> Decoder:
    """A decoder from the stated rates. Tensor parallelism divides reading and computing, and adds two reductions per
    layer.

    seeded: each sample has its own random generator (sampler.seeded). A mixture of experts reads all of its weights.
    """
    e, tp = hw.efficiency, tensor_parallel
    width = float(bytes_per_number(dtype))
    head_width = width if hw.on_gpu else 4.0
    layers = arch.parameters - 2 * arch.embedding if arch.given_active else arch.active
    read = width * layers + head_width * arch.embedding
    operations = 2.0 * arch.active + 2.0 * arch.embedding
    bandwidth = hw.memory_bandwidth * e.decode_bandwidth * tp
    per_layer = e.decode_layer_eager_s if eager else e.decode_layer_graph_s
    reductions = 2 * arch.layers * 15e-6 if tp > 1 else 0.0
    return Decoder(
        weights_s=read / bandwidth,
        cache_s_per_token=width * arch.kv_values_per_token / bandwidth,
        compute_s_per_sequence=operations / (hw.flops(dtype) * e.decode_flops * tp),
        fixed_s=e.decode_step_s + per_layer * arch.layers + reductions,
        sequence_s=e.decode_sequence_s + (e.sample_entry_s * arch.vocab if seeded else 0.0),
        prefill_s_per_token=2.0 * arch.active / (hw.flops(dtype) * e.prefill_flops * tp),
    )


@dataclass(frozen=True)
class RolloutTime:
    """Seconds of one step's sampling. alone_s: those of the tail, with fewer than a tenth of the slots busy."""

    seconds: float
    prefill_s: float
    alone_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def simulate(
    decoder: Decoder, lengths_N: np.ndarray, *, prompt: float, group: int, samplers: int, slots: int,
    shared_prefix: bool,
) -> RolloutTime:  # fmt: skip
    """Decode these rollouts. Groups go to the samplers in turn, a free slot takes the next rollout, and the time is
    that of the slowest sampler.

    lengths_N: completion lengths, group after group. slots: sequences that a sampler decodes at once.
    """
    groups = [lengths_N[i : i + group] for i in range(0, len(lengths_N), group)]
    prefilled = prompt * (1 if shared_prefix else group) * decoder.prefill_s_per_token
    worst, prefill, alone = 0.0, 0.0, 0.0
    for s in range(samplers):
        mine = groups[s::samplers]
        if not mine:
            continue
        seconds, tail = _decode(decoder, np.concatenate(mine).tolist(), prompt, slots)
        seconds += prefilled * len(mine)
        if seconds > worst:
            worst, prefill, alone = seconds, prefilled * len(mine), tail
    return RolloutTime(worst, prefill, alone, int(lengths_N.sum()))


def _decode(decoder: Decoder, lengths: Sequence[int], prompt: float, slots: int) -> tuple[float, float]:
    """(seconds, those with fewer than a tenth of the slots busy). Jumps from the end of one sequence to the next."""
    ends: list[int] = []  # the step at which each running sequence ends
    step, seconds, alone, at = 0, 0.0, 0.0, 0
    cached = 0.0
    few = max(1, min(slots, len(lengths)) // 10)
    while at < len(lengths) or ends:
        while at < len(lengths) and len(ends) < slots:
            heapq.heappush(ends, step + int(lengths[at]))
            cached += prompt
            at += 1
        running, steps = len(ends), ends[0] - step
        # The cache grows by one token per sequence and step. This is its mean over these steps.
        spent = steps * decoder.step_s(running, cached + running * steps / 2)
        seconds, step, cached = seconds + spent, ends[0], cached + running * steps
        if running <= few:
            alone += spent
        while ends and ends[0] == step:
            heapq.heappop(ends)
            # Which sequence ended is not tracked, so each counts with the mean length.
            cached -= cached / (len(ends) + 1)
    return seconds, alone
