"""Search for an answer by steps: beams, and diverse trees. A pure function over two callables; it knows no model.

One round: every node that is kept is continued `expand` times, what is the same twice is merged, the rest is scored,
and the `width` best go on. A node that ends its solution leaves and keeps its score; its place is not filled again, so
that no search gets more tokens for finishing early.

    beam   the `width` best of all continuations of a problem
    dvts   `width` trees of one beam each, from the start (diverse verifier tree search): their beams cannot all descend
           from one lucky first step

All problems go on together, so a round is one large batch. The path of a node (its tree, then which continuation it is
at each depth) is what its seed is made of: a search is the same whatever else is searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Node:
    """A solution, or its beginning. token_ids: without the prompt. sampled: for each, 1 if the model sampled it and 0
    if it was put there. score: NaN where scoring failed, or before it. finished: there is nothing to go on from.
    """

    problem: int
    path: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    sampled: tuple[int, ...] = ()
    text: str = ""
    score: float = math.nan
    finished: bool = False


@dataclass(slots=True)
class Tree:
    """The search of one problem. leaves: the solutions it ended with, by score, the best first. generated: all tokens
    sampled, those of pruned nodes too. asked: lengths of the beginnings that were continued, each once a round. scored:
    lengths of the nodes that were scored. merged: continuations that were there already. rounds: of this problem.
    """

    leaves: list[Node] = field(default_factory=list)
    generated: int = 0
    asked: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    merged: int = 0
    rounds: int = 0


Extend = Callable[[Sequence[Node]], list[list[Node]]]
"""The continuations of each node. A continuation's path is the node's with its own number at the end, its tokens begin
with the node's, and it has no score."""
ScoreNodes = Callable[[Sequence[Node]], list[float]]


def search(
    problems: int, *, kind: str, width: int, max_steps: int, extend: Extend, score: ScoreNodes
) -> list[Tree]:  # fmt: skip
    """A tree for each of problem 0 .. problems - 1. kind: beam or dvts; of dvts each tree has one beam.

    Where width is at least the number of all nodes of a depth, it is exhaustive search.
    """
    roots = range(width) if kind == "dvts" else range(1)
    beams = 1 if kind == "dvts" else width
    trees = [Tree() for _ in range(problems)]
    alive = {(p, root): [Node(p, (root,))] for p in range(problems) for root in roots}
    room = dict.fromkeys(alive, beams)
    for _ in range(max_steps):
        nodes = [node for kept in alive.values() for node in kept]
        if not nodes:
            break
        grown: dict[tuple[int, int], list[Node]] = {at: [] for at in alive}
        for child in _grow(nodes, trees, extend, score):
            grown[child.problem, child.path[0]].append(child)
        for at in alive:
            best = ranked(grown[at])[: room[at]]
            done = [node for node in best if node.finished]
            trees[at[0]].leaves += done
            room[at] -= len(done)
            alive[at] = [node for node in best if not node.finished]
    for (problem, _), kept in alive.items():
        trees[problem].leaves += kept  # max_steps cut them off
    for tree in trees:
        tree.leaves = ranked(tree.leaves)
    return trees


def _grow(nodes: Sequence[Node], trees: Sequence[Tree], extend: Extend, score: ScoreNodes) -> list[Node]:
    """The different continuations of the nodes, with their scores. Counts what they cost."""
    children: list[Node] = []
    for node, own in zip(nodes, extend(nodes), strict=True):
        tree = trees[node.problem]
        tree.asked.append(len(node.token_ids))
        tree.generated += sum(len(child.token_ids) - len(node.token_ids) for child in own)
        children += own
    for problem in {node.problem for node in nodes}:
        trees[problem].rounds += 1
    different = merged(children)
    for sign, counted in ((1, children), (-1, different)):
        for child in counted:
            trees[child.problem].merged += sign
    scored = [replace(node, score=value) for node, value in zip(different, score(different), strict=True)]
    for node in scored:
        trees[node.problem].scored.append(len(node.token_ids))
    return scored


def merged(children: Sequence[Node]) -> list[Node]:
    """The first of those that have the same tokens in one tree of one problem."""
    found: dict[tuple[int, int, tuple[int, ...]], Node] = {}
    for child in children:
        found.setdefault((child.problem, child.path[0], child.token_ids), child)
    return list(found.values())


def ranked(nodes: Sequence[Node]) -> list[Node]:
    """By score, the highest first, failed ones last; of equal ones the earlier path first."""
    return sorted(nodes, key=lambda node: (math.inf if math.isnan(node.score) else -node.score, node.path))


# ------------------------------------------------------------------------------------------------ budget forcing


Continue = Callable[[Sequence[Node], int], list[Node]]
"""(nodes, tokens) -> each with what follows it, up to that many tokens in all; finished where the model ended."""


def cut(nodes: Sequence[Node], go_on: Continue, *, tokens: int, force: tuple[int, ...], answer: int) -> list[Node]:
    """Solutions of at most `tokens` tokens: one that has not ended by then is made to answer. The forced tokens follow,
    and the model has `answer` more (s1, 2501.19393; 2507.14419: most of what budget forcing brings is this).
    """
    out = list(go_on(nodes, tokens))
    late = [i for i, node in enumerate(out) if not node.finished]
    forced = [with_forced(out[i], force) for i in late]
    for i, node in zip(late, go_on(forced, tokens + len(force) + answer) if late else [], strict=True):
        out[i] = replace(node, finished=True)
    return out


def stretch(
    nodes: Sequence[Node],
    go_on: Continue,
    *,
    tokens: int,
    limit: int,
    more: tuple[int, ...],
    times: int,
    open_part: Callable[[Node], Node],
) -> list[Node]:  # fmt: skip
    """Solutions that think for at least `tokens` tokens: one that ends before goes on from where its thought was open,
    with the `more` tokens ("Wait") after it, at most `times` times. limit: the most tokens of a solution.

    open_part: the node without its end, and without what closes its thought and follows that.
    """
    out = list(go_on(nodes, limit))
    early = list(range(len(out)))
    for _ in range(times):
        opened = {i: open_part(out[i]) for i in early if out[i].finished}
        early = [i for i, node in opened.items() if len(node.token_ids) < tokens]
        if not early:
            break
        followed = go_on([with_forced(opened[i], more) for i in early], limit)
        for i, node in zip(early, followed, strict=True):
            out[i] = node
    return out


def with_forced(node: Node, token_ids: tuple[int, ...]) -> Node:
    """The node with tokens after it that it did not sample; it can go on."""
    return replace(
        node,
        token_ids=(*node.token_ids, *token_ids),
        sampled=(*node.sampled, *(0,) * len(token_ids)),
        finished=False,
    )
