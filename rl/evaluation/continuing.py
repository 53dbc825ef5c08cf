"""Beginnings of solutions, continued by the samplers as they were sampled: tokens in, tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl.backend import SampleParams
from rl.context import Context, sample_seed
from rl.data.few_shot import before
from rl.evaluation.search import Node
from rl.scoring.step_ends import decoder
from rl.types import AhaError, Prompt, Rollout, SampleRequest


class Continuing:
    """params: as whole samples are drawn; its stop texts end a solution. purpose: what the seeds are for, so that two
    uses do not draw alike. ends: stop texts that no solution includes.
    """

    def __init__(self, ctx: Context, params: SampleParams, purpose: str, ends: tuple[str, ...] = ()) -> None:
        self._ctx, self._params, self._purpose, self._ends = ctx, params, purpose, ends
        self.decode = decoder(ctx.tokenizer)

    def sample(
        self, prompts_P: Sequence[Prompt], nodes: Sequence[Node], params: SampleParams, count: int
    ) -> list[list[Node]]:
        """`count` continuations of each node, in one call of the samplers. Node.problem: the number of its prompt.

        Seeds come from the prompt's id, the node's path and its length. Raises AhaError when some never come back.
        """
        seed = self._ctx.cfg.seed
        requests = []
        for i, node in enumerate(nodes):
            prompt = prompts_P[node.problem]
            place: list[int | str] = [self._purpose, prompt.id, *node.path, len(node.token_ids)]
            seeds_G = [sample_seed(seed, *place, j) for j in range(count)]
            requests.append(SampleRequest(i, [*prompt.token_ids, *node.token_ids], seeds_G))
        found: dict[int, list[Rollout]] = dict(self._ctx.backend.rollouts(requests, params))
        if len(found) < len(nodes):
            raise AhaError(f"{len(nodes) - len(found)} of {len(nodes)} beginnings never came back from the samplers")
        return [[self._child(node, j, r) for j, r in enumerate(found[i])] for i, node in enumerate(nodes)]

    def _child(self, node: Node, number: int, rollout: Rollout) -> Node:
        """The node with what was sampled after it. finished: by an end token, or by a stop text of the samples, which
        may have begun in the step before.
        """
        new = [int(i) for i in rollout.token_ids_T]
        ended = bool(new) and new[-1] in self._params.stop_token_ids
        ids = (*node.token_ids, *new)
        text = self.decode(ids[:-1] if ended else ids)
        stopped = any(stop in text[max(0, len(node.text) - len(stop)) :] for stop in self._params.stop)
        return Node(
            node.problem, (*node.path, number), ids, (*node.sampled, *(1,) * len(new)), text,
            finished=ended or stopped or not new,
        )  # fmt: skip

    def rollout(self, node: Node) -> Rollout:
        """The node as a sample, for rewards. It is no sample of the policy alone, so its tokens have no logprobs: the
        packer refuses to train on it.
        """
        ids = np.asarray(node.token_ids, np.int32)
        ended = bool(node.token_ids) and node.token_ids[-1] in self._params.stop_token_ids
        reason = "stop" if ended or any(stop in node.text for stop in self._params.stop) else "length"
        text = before(node.text, self._ends)
        return Rollout(ids, np.full(len(ids), np.nan, np.float32), text, reason, self._params.temperature, 0, 0)
