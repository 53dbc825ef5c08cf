"""What flows between the samplers and environments: the turns of a trajectory, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MODEL, PLAYER, TOOL = "assistant", "user", "tool"
"""Who speaks in a turn: the model, an environment that replies to its text, or a tool that answers its call."""


@dataclass(frozen=True, slots=True)
class Turn:
    """role: MODEL, PLAYER or TOOL. name: of the tool."""

    role: str
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class PromptExtras:
    """What an environment adds to a question. tools: as chat templates take them. opening: put after the question."""

    tools: tuple[dict[str, object], ...] = ()
    opening: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """How a sample went with its environment, by the environment's name.

    sampled_T: bool (T,), True at those of the rollout's tokens that the model sampled. turns: the model's included.
    rewards: what get_reward said, one number or one a turn; empty where the environment has no get_reward. fault: why
    the sample says nothing, "" when nothing went wrong. timed_out: the fault is that the environment took too long.
    """

    environment: str
    sampled_T: np.ndarray
    turns: tuple[Turn, ...]
    rewards: tuple[float, ...] = ()
    fault: str = ""
    timed_out: bool = False
