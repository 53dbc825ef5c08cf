"""rl/evaluation/search.py: searches over scripted continuations and scores, without a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rl.evaluation.search import Node, Tree, cut, ranked, search, stretch

DEPTH, EXPAND = 3, 2


def extend(nodes: Sequence[Node], expand: int = EXPAND, depth: int = DEPTH) -> list[list[Node]]:
    """Continuation j of a node adds one token, j; a node of `depth` tokens is finished."""
    return [
        [
            replace(
                node, path=(*node.path, j), token_ids=(*node.token_ids, j), sampled=(*node.sampled, 1), score=math.nan,
                finished=len(node.token_ids) + 1 == depth,
            )
            for j in range(expand)
        ]
        for node in nodes
    ]  # fmt: skip


def worth(ids: tuple[int, ...]) -> float:
    """A number for each beginning that is the same for no two of one length: no greedy path finds the best."""
    return (sum((5 * i + 3) * (7 if t else 2) for i, t in enumerate(ids)) * 37 + 11 * len(ids)) % 101 / 101


def score(nodes: Sequence[Node]) -> list[float]:
    return [worth(node.token_ids) for node in nodes]


def run(
    width: int, kind: str = "beam", problems: int = 2, scorer: Callable[..., list[float]] = score, steps: int = 9
) -> list[Tree]:
    return search(problems, kind=kind, width=width, max_steps=steps, extend=extend, score=scorer)


def test_a_wide_enough_search_is_exhaustive():
    everything = sorted(itertools.product(range(EXPAND), repeat=DEPTH), key=lambda ids: -worth(ids))
    for tree in run(width=EXPAND**DEPTH):
        assert [leaf.token_ids for leaf in tree.leaves] == everything
        assert [leaf.score for leaf in tree.leaves] == [worth(ids) for ids in everything]
        assert all(leaf.finished for leaf in tree.leaves)


def test_a_beam_keeps_the_best_beginnings_of_each_round():
    kept = [()]
    for _ in range(DEPTH):
        grown = sorted(((*ids, j) for ids in kept for j in range(EXPAND)), key=lambda ids: -worth(ids))
        kept = grown[:2]
    found = run(width=2)
    assert [[leaf.token_ids for leaf in tree.leaves] for tree in found] == [kept, kept]
    assert found == run(width=2)


def test_a_tree_of_one_beam_is_blind_to_the_others():
    asked = []

    def biased(nodes: Sequence[Node]) -> list[float]:
        asked.extend(nodes)
        return [worth(node.token_ids) + node.path[0] for node in nodes]  # the later tree is better everywhere

    (tree,) = run(width=2, kind="dvts", problems=1, scorer=biased)
    assert sorted(leaf.path[0] for leaf in tree.leaves) == [0, 1]
    assert len(asked) == 2 * EXPAND * DEPTH


def test_tokens_add_up_to_all_that_was_sampled_and_scored():
    (tree,) = run(width=2, problems=1)
    # Rounds of 1, 2 and 2 nodes, two continuations of one token each; the second round merges nothing.
    assert (tree.generated, tree.rounds, tree.merged) == (10, 3, 0)
    assert sorted(tree.asked) == [0, 1, 1, 2, 2]
    assert sorted(tree.scored) == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_what_is_sampled_twice_is_scored_once_and_paid_for_twice():
    def alike(nodes: Sequence[Node]) -> list[list[Node]]:
        return [
            [replace(child, token_ids=(*node.token_ids, 7)) for child in own]
            for node, own in zip(nodes, extend(nodes), strict=True)
        ]

    (tree,) = search(1, kind="beam", width=4, max_steps=9, extend=alike, score=score)
    assert (tree.merged, tree.generated, len(tree.scored)) == (3, 6, 3)
    assert [leaf.path for leaf in tree.leaves] == [(0, 0, 0, 0)]


def test_a_finished_solution_leaves_and_its_place_is_not_filled():
    def early(nodes: Sequence[Node]) -> list[list[Node]]:
        return [[replace(c, finished=c.finished or c.token_ids == (1,)) for c in own] for own in extend(nodes)]

    sizes: list[int] = []

    def counted(nodes: Sequence[Node]) -> list[float]:
        sizes.append(len(nodes))
        return [1.0 if node.token_ids == (1,) else worth(node.token_ids) / 2 for node in nodes]

    (tree,) = search(1, kind="beam", width=2, max_steps=9, extend=early, score=counted)
    assert sizes == [2, 2, 2]
    assert tree.leaves[0].token_ids == (1,)
    assert len(tree.leaves) == 2


def test_a_score_that_failed_costs_one_candidate_and_no_tree():
    def failing(nodes: Sequence[Node]) -> list[float]:
        return [math.nan if node.token_ids[0] == 0 else worth(node.token_ids) for node in nodes]

    (tree,) = run(width=2, problems=1, scorer=failing)
    assert all(leaf.token_ids[0] == 1 for leaf in tree.leaves[:1])
    (blind,) = run(width=2, problems=1, scorer=lambda nodes: [math.nan] * len(nodes))
    assert [leaf.token_ids for leaf in blind.leaves] == [(0, 0, 0), (0, 0, 1)]
    assert [
        n.path for n in ranked([Node(0, (1,), score=math.nan), Node(0, (2,), score=-9.0), Node(0, (0,), score=-9.0)])
    ] == [(0,), (2,), (1,)]


def test_what_the_number_of_steps_cuts_off_is_a_leaf_that_did_not_finish():
    (tree,) = run(width=2, problems=1, steps=2)
    assert [(len(leaf.token_ids), leaf.finished) for leaf in tree.leaves] == [(2, False), (2, False)]
    assert tree.rounds == 2


# ------------------------------------------------------------------------------------------------ budgets


def model(ends_at: int, *, speed: int = 100) -> Callable[[Sequence[Node], int], list[Node]]:
    """Goes on with tokens 1 and ends with a 9 once it has `ends_at` tokens that are 1."""

    def go_on(nodes: Sequence[Node], tokens: int) -> list[Node]:
        out = []
        for node in nodes:
            new = list(node.token_ids)
            while len(new) < tokens and new.count(1) < ends_at:
                new.append(1)
            ended = len(new) < tokens
            new += [9] * ended
            sampled = (*node.sampled, *(1,) * (len(new) - len(node.token_ids)))
            out.append(replace(node, token_ids=tuple(new), sampled=sampled, finished=ended))
        return out

    return go_on


def test_a_solution_over_its_budget_is_made_to_answer_and_the_forced_tokens_are_not_the_models():
    late, early = cut(
        [Node(0, (0, 0)), Node(0, (0, 1), (1, 1, 1, 1), (1,) * 4)], model(6), tokens=5, force=(7, 8), answer=2
    )
    assert late.token_ids == (1, 1, 1, 1, 1, 7, 8, 1, 9)
    assert late.sampled == (1, 1, 1, 1, 1, 0, 0, 1, 1)
    assert late.finished
    (in_time,) = cut([Node(0, (0, 0))], model(3), tokens=5, force=(7, 8), answer=2)
    assert (in_time.token_ids, in_time.sampled) == ((1, 1, 1, 9), (1, 1, 1, 1))
    assert early.finished


def test_a_thought_that_closes_before_its_budget_goes_on_from_where_it_was_open():
    def open_part(node: Node) -> Node:
        keep = node.token_ids[:-1] if node.token_ids[-1] == 9 else node.token_ids
        return replace(node, token_ids=keep, sampled=node.sampled[: len(keep)])

    (found,) = stretch([Node(0, (0, 0))], model(2), tokens=5, limit=20, more=(7,), times=8, open_part=open_part)
    # It ends after two; each "Wait" (7) is followed by its end at once, until five tokens are there.
    assert found.token_ids == (1, 1, 7, 7, 7, 9)
    assert found.sampled == (1, 1, 0, 0, 0, 1)
    (once,) = stretch([Node(0, (0, 0))], model(2), tokens=5, limit=20, more=(7,), times=1, open_part=open_part)
    assert once.token_ids == (1, 1, 7, 9)
    (enough,) = stretch([Node(0, (0, 0))], model(6), tokens=5, limit=20, more=(7,), times=8, open_part=open_part)
    assert enough.token_ids == (1,) * 6 + (9,)
    (limited,) = stretch([Node(0, (0, 0))], model(9), tokens=50, limit=6, more=(7,), times=8, open_part=open_part)
    assert (limited.token_ids, limited.finished) == ((1,) * 6, False)


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_stretching_ends_at_the_limit(limit: int):
    (found,) = stretch(
        [Node(0, (0, 0))],
        model(2),
        tokens=99,
        limit=limit,
        more=(7, 7),
        times=8,
        open_part=lambda n: replace(n, token_ids=n.token_ids[:-1], sampled=n.sampled[:-1]),
    )
    assert not found.finished
    assert found.token_ids[:2] == (1, 1)
