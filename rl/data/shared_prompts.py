"""Which sequences lie together where a group's prompt is computed once (rl/model/shared_prompts.py).

A prompt here is (number of the group, how many first tokens all of its sequences have).
"""

from __future__ import annotations

from collections.abc import Sequence

NO_GROUP = (-1, 0)
"""The prompt of a sequence that shares none."""


def group_parts(
    lengths: Sequence[int], prompts: Sequence[tuple[int, int]], budget: int
) -> tuple[list[list[int]], list[int]]:
    """(sequences that are computed together, as indices; the tokens of each such part, the prompt counted once).

    A group of more than `budget` tokens is cut, and each part computes the prompt. Each sequence without a group is a
    part.

    Budget 10, lengths 6, 4, 5 with prompt (0, 2), length 5 with prompt (1, 2) -> [[0, 1], [2], [3]] of 8, 5 and 5.
    """
    members: dict[int, list[int]] = {}
    for i, (group, _) in enumerate(prompts):
        members.setdefault(-1 - i if group < 0 else group, []).append(i)
    parts: list[list[int]] = []
    costs: list[int] = []
    for whole in members.values():
        for at, i in enumerate(whole):
            own = lengths[i] - prompts[i][1]
            if at and costs[-1] + own <= budget:
                parts[-1].append(i)
                costs[-1] += own
            else:
                parts.append([i])
                costs.append(lengths[i])
    return parts, costs


def shared_tokens(prompts: Sequence[tuple[int, int]]) -> list[int]:
    """How many first tokens each sequence shares with the one before it: its prompt's, if that is of the same group.

    Prompts (0, 3), (0, 3), (1, 5), NO_GROUP, NO_GROUP -> [0, 3, 0, 0, 0].
    """
    befores = [NO_GROUP, *prompts]
    return [prompt[1] if prompt == before else 0 for prompt, before in zip(prompts, befores, strict=False)]
