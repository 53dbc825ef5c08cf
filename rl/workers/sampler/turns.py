"""Trajectories of several turns: what a sampler does with a turn that has ended.

A turn is handed to its environment, and the engine goes on with other samples. When the answer is there, its tokens are
appended to what was sampled, and a new request goes on from all of it; the engine finds the history in its prefix
cache. Tokens in, tokens out: nothing is decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rl.backend import AroundAnswers, SampleParams
from rl.config import ScoringConfig
from rl.environments.episode import Ask, Reply, Start
from rl.environments.processes import EnvironmentProcesses
from rl.environments.rendering import answer_ids
from rl.turns import MODEL, TOOL, Episode, Turn
from rl.types import Rollout, SampleRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Place = tuple[int, int]
"""A sample: its group's address, and its own number."""
Add = Callable[[str, list[int], SampleParams, int, int, tuple[str, ...]], None]
"""(name, token ids, params, seed, most new tokens, texts that end it)."""


@dataclass(slots=True)
class Trajectory:
    """A sample under way. parts: the model's turns, each with the tokens of the answers to it."""

    around: AroundAnswers
    start: Start
    prompt_ids: list[int]
    params: SampleParams
    seed: int
    parts: list[tuple[Rollout, list[int]]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        """The prompt and all that followed."""
        return [*self.prompt_ids, *(i for turn, answer in self.parts for i in (*turn.token_ids_T.tolist(), *answer))]

    @property
    def tokens_left(self) -> int:
        return self.params.max_new_tokens - sum(len(turn.token_ids_T) for turn, _ in self.parts)


class Trajectories:
    """The trajectories of a sampler. add: gives the engine a request, as Sampler._add does."""

    def __init__(self, scoring: ScoringConfig, tokenizer: PreTrainedTokenizerBase, add: Add) -> None:
        self._tokenizer, self._add = tokenizer, add
        self._processes = EnvironmentProcesses(scoring)
        self._all: dict[Place, Trajectory] = {}

    @property
    def waiting(self) -> int:
        """Trajectories that wait for their environment."""
        return len(self._processes.waiting)

    def begin(self, place: Place, request: SampleRequest, params: SampleParams) -> tuple[str, ...]:
        """Remember a sample that an environment answers. Returns the texts that end its turns."""
        assert request.environment is not None
        number, row, own_seed = request.environment
        around = params.environments[number]
        start = Start(around.environment, row, own_seed)
        seed = request.seeds_G[place[1]]
        self._all[place] = Trajectory(around, start, request.prompt_token_ids, params, seed)
        return (*params.stop, *around.stop)

    def has(self, place: Place) -> bool:
        return place in self._all

    def turn_ended(self, place: Place, turn: Rollout) -> None:
        """Hand a turn to its environment."""
        trajectory = self._all[place]
        trajectory.parts.append((turn, []))
        trajectory.turns.append(Turn(MODEL, turn.text))
        ended = len(turn.token_ids_T) and int(turn.token_ids_T[-1]) in trajectory.params.stop_token_ids
        texts = tuple(part.text for part, _ in trajectory.parts)
        last = len(texts) >= trajectory.around.environment.max_turns or trajectory.tokens_left < 1
        cut = turn.finish_reason == "length"
        key = f"{place[0]}.{place[1]}"
        self._processes.ask(Ask(key, trajectory.start, texts, last=last, cut=cut, open=not ended))

    def answered(self, wait_s: float) -> list[tuple[Place, Rollout]]:
        """The trajectories that are over; the others go on. Waits at most wait_s for the first answer."""
        over = []
        for key, reply in self._processes.answered(wait_s):
            group, _, sample = key.partition(".")
            place = int(group), int(sample)
            if reply.over:
                over.append((place, joined(self._all.pop(place), reply)))
            else:
                self._go_on(place, self._all[place], reply)
        return over

    def _go_on(self, place: Place, trajectory: Trajectory, reply: Reply) -> None:
        """Have the next turn of a trajectory sampled."""
        self._append(trajectory, reply)
        turn, params = len(trajectory.parts), trajectory.params
        name, seed = f"{place[0]}.{place[1]}.{turn}", turn_seed(trajectory.seed, turn)
        stop = (*params.stop, *trajectory.around.stop)
        self._add(name, trajectory.token_ids, params, seed, trajectory.tokens_left, stop)

    def _append(self, trajectory: Trajectory, reply: Reply) -> None:
        if not reply.messages:
            return
        around = trajectory.around
        frame = around.tool if reply.messages[0].role == TOOL else around.reply
        texts = [message.text for message in reply.messages]
        ids = answer_ids(texts, frame, around.environment.max_reply_tokens, self._tokenizer)
        trajectory.parts[-1] = (trajectory.parts[-1][0], ids)
        trajectory.turns += reply.messages

    def close(self) -> None:
        self._processes.close()


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn: the sample's own for the first."""
    return seed if not turn else int.from_bytes(hashlib.sha256(f"{seed}:{turn}".encode()).digest()[:4], "big") >> 1


def joined(trajectory: Trajectory, reply: Reply) -> Rollout:
    """The trajectory as one rollout. It ends with the model's last turn, to which no answer was appended.

    Turns of 2 and 1 tokens with 3 of answers between them: sampled_T is [1, 1, 0, 0, 0, 1].
    """
    parts = trajectory.parts
    first, last = parts[0][0], parts[-1][0]
    ids, logprobs, sampled, spans = [], [], [], list[tuple[int, int]]()
    at = 0
    for turn, answer in parts:
        spans += [(at, turn.policy_version), *((at + i, version) for i, version in turn.later_versions)]
        ids += [turn.token_ids_T, np.asarray(answer, np.int32)]
        logprobs += [turn.logprobs_T, np.zeros(len(answer), np.float32)]
        sampled += [np.ones(len(turn.token_ids_T), bool), np.zeros(len(answer), bool)]
        at += len(turn.token_ids_T) + len(answer)
    stopped = last.finish_reason != "length"
    unfinished = stopped and bool(reply.messages) and not reply.fault
    sampled_T = np.concatenate(sampled)
    name = trajectory.around.environment.name
    return replace(
        last,
        token_ids_T=np.concatenate(ids),
        logprobs_T=np.concatenate(logprobs),
        text="\n".join(turn.text for turn, _ in parts),
        finish_reason="turns" if unfinished else last.finish_reason,
        policy_version=first.policy_version,
        later_versions=changes(spans),
        seed=trajectory.seed,
        episode=Episode(name, sampled_T, tuple(trajectory.turns), reply.rewards, reply.fault, reply.timed_out),
    )


def changes(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans behind the first that bring another version. (0, 3), (4, 3), (6, 4) -> (6, 4)."""
    return tuple(here for before, here in itertools.pairwise(spans) if before[1] != here[1])
