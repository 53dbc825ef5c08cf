"""Searches with the samplers and a scorer: rl/evaluation/search.py's callables, batched over problems, and resumed.

    evals/partial/search-<hash>.jsonl    a line for each problem that is finished; the hash is of all it comes from

A search goes through the problems in chunks; after a kill, finished problems are not searched again. Tokens in, tokens
out: what was sampled is continued as it was sampled.
Axis suffixes: _P problems.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rl.backend import SampleParams
from rl.config import SearchConfig
from rl.context import Context
from rl.evaluation import resumable
from rl.evaluation.continuing import Continuing
from rl.evaluation.search import Node, Tree, cut, search, stretch
from rl.records.whole_files import append_lines, cut_partial_line, whole_lines
from rl.types import Prompt, RewardReport, Rollout, RolloutGroup, Stopped

log = logging.getLogger(__name__)
CHUNK_NODES = 4096
"""Nodes of one round: what a kill loses is at most the search of so many."""
CACHED_BLOCK = {"cpu": 128, "gpu": 16}
"""Tokens of a block of vLLM's prefix cache: of a beginning that is continued, what fills no block is read again."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search of one problem came to. rollouts: its solutions, the best first (budgets: the samples, in order).

    scores: theirs. generated, read_again, scored: tokens sampled, of prompts and beginnings that the samplers read, and
    that the scorer read.
    """

    rollouts: list[Rollout]
    scores: list[float]
    generated: int
    read_again: int
    scored: int
    merged: int = 0


class Searcher:
    """Runs one search over problems, with the samplers' current weights. params: as the samples are drawn.

    purpose: what the seeds are for, so that two uses do not draw alike. ends: stop texts that no solution includes.
    """

    def __init__(
        self, ctx: Context, cfg: SearchConfig, params: SampleParams, purpose: str, ends: tuple[str, ...] = ()
    ) -> None:
        self._ctx, self._cfg, self._params = ctx, cfg, params
        self._samplers = Continuing(ctx, params, purpose, ends)
        self._decode = self._samplers.decode

    def run(self, prompts_P: Sequence[Prompt], version: int, *, may_stop: bool = False) -> list[Found]:
        """What is found for each problem, in order. Resumes. may_stop: raise Stopped between two chunks when the user
        asked for it.
        """
        name = self._hash(prompts_P, version, self._ctx.backend.sent.checksum)
        self._params = replace(self._params, salt=name)  # it is the same whatever was cached before it
        path = resumable.folder(self._ctx.run_dir) / f"search-{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_partial_line(path)
        done = {int(line["problem"]): _read(line) for line in whole_lines(path)}
        missing = [i for i in range(len(prompts_P)) if i not in done]
        if done:
            log.info("search %s: %d of %d problems are searched", self._cfg.label, len(done), len(prompts_P))
        size = max(1, CHUNK_NODES // (self._cfg.width * self._cfg.expand))
        for at in range(0, len(missing), size):
            chunk = missing[at : at + size]
            found = self.find([prompts_P[i] for i in chunk])
            append_lines(path, [_line(i, one) for i, one in zip(chunk, found, strict=True)])
            done |= dict(zip(chunk, found, strict=True))
            if may_stop and self._ctx.stop.requested and len(done) < len(prompts_P):
                raise Stopped(f"stopped after {len(done)} of {len(prompts_P)} problems; the same command goes on there")
        return [done[i] for i in range(len(prompts_P))]

    def find(self, prompts_P: Sequence[Prompt]) -> list[Found]:
        """Search these problems together."""
        return self._by_steps(prompts_P) if self._cfg.by_steps else self._by_budget(prompts_P)

    # ---------------------------------------------------------------------------------------- steps

    def _by_steps(self, prompts_P: Sequence[Prompt]) -> list[Found]:
        cfg, limit = self._cfg, self._params.max_new_tokens

        def extend(nodes: Sequence[Node]) -> list[list[Node]]:
            room = limit - min(len(node.token_ids) for node in nodes)
            params = replace(
                self._params, stop=(*self._params.stop, *cfg.step), max_new_tokens=min(cfg.max_step_tokens, room)
            )
            grown = self._samplers.sample(prompts_P, nodes, params, cfg.expand)
            return [[self._within(child, limit) for child in own] for own in grown]

        trees = search(
            len(prompts_P), kind=cfg.kind, width=cfg.width, max_steps=cfg.max_steps, extend=extend,
            score=lambda nodes: self._score(prompts_P, nodes),
        )  # fmt: skip
        return [self._found(prompt, tree) for prompt, tree in zip(prompts_P, trees, strict=True)]

    def _within(self, node: Node, limit: int) -> Node:
        """The node, cut and at its end where it has more tokens than `limit`; at its end also with just as many."""
        if len(node.token_ids) < limit:
            return node
        if len(node.token_ids) == limit:
            return replace(node, finished=True)
        ids = node.token_ids[:limit]
        return replace(node, token_ids=ids, sampled=node.sampled[:limit], text=self._decode(ids), finished=True)

    def _found(self, prompt: Prompt, tree: Tree) -> Found:
        length = len(prompt.token_ids)
        block = CACHED_BLOCK["gpu" if self._ctx.cfg.cluster.device == "gpu" else "cpu"]
        again = sum(read_again(length + asked, block) for asked in tree.asked if asked)
        return Found(
            [self._samplers.rollout(node) for node in tree.leaves],
            [node.score for node in tree.leaves],
            tree.generated,
            length + again,
            sum(length + scored for scored in tree.scored),
            tree.merged,
        )

    def _score(self, prompts_P: Sequence[Prompt], nodes: Sequence[Node]) -> list[float]:
        """The scorer's number for each node; NaN where it failed or took too long."""
        by_problem: dict[int, list[int]] = {}
        for i, node in enumerate(nodes):
            by_problem.setdefault(node.problem, []).append(i)
        waiting: list[tuple[list[int], Callable[[], RewardReport]]] = []
        for problem, own in by_problem.items():
            group = RolloutGroup(prompts_P[problem], [self._samplers.rollout(nodes[i]) for i in own])
            waiting.append((own, self._ctx.backend.ask_rewards(group, [self._cfg.scorer])))
        scores = [math.nan] * len(nodes)
        for own, result in waiting:
            for i, parts in zip(own, result().parts_G, strict=True):
                part = parts.get(self._cfg.scorer)
                scores[i] = part.score if part is not None and part.verdict.is_valid else math.nan
        return scores

    # ---------------------------------------------------------------------------------------- budgets

    def _by_budget(self, prompts_P: Sequence[Prompt]) -> list[Found]:
        cfg = self._cfg
        starts = [Node(p, (0, i)) for p in range(len(prompts_P)) for i in range(cfg.expand)]
        if cfg.kind == "cut":
            force = self._ids(cfg.force)
            ended = cut(starts, self._to_total(prompts_P), tokens=cfg.tokens, force=force, answer=cfg.answer_tokens)
        else:
            ended = stretch(
                starts, self._to_total(prompts_P), tokens=cfg.tokens,
                limit=max(self._params.max_new_tokens, cfg.tokens), more=self._ids(cfg.more), times=cfg.times,
                open_part=self._open_part,
            )  # fmt: skip
        found = []
        for p, prompt in enumerate(prompts_P):
            own = [node for node in ended if node.problem == p]
            generated = sum(sum(node.sampled) for node in own)
            forced = sum(len(node.sampled) for node in own) - generated
            rollouts = [self._samplers.rollout(node) for node in own]
            found.append(Found(rollouts, [math.nan] * len(own), generated, len(prompt.token_ids) + forced, 0))
        return found

    def _to_total(self, prompts_P: Sequence[Prompt]) -> Callable[[Sequence[Node], int], list[Node]]:
        def go_on(nodes: Sequence[Node], tokens: int) -> list[Node]:
            params = replace(self._params, max_new_tokens=max(1, max(tokens - len(node.token_ids) for node in nodes)))
            out = []
            for node, (child,) in zip(nodes, self._samplers.sample(prompts_P, nodes, params, 1), strict=True):
                kept = child.token_ids[: max(tokens, len(node.token_ids))]
                ended = child.finished and len(kept) == len(child.token_ids)
                text = child.text if ended else self._decode(kept)
                out.append(
                    replace(child, path=node.path, token_ids=kept, sampled=child.sampled[: len(kept)], text=text,
                            finished=ended)
                )  # fmt: skip
            return out

        return go_on

    def _open_part(self, node: Node) -> Node:
        """The node up to where its thought is closed, or up to its end token."""
        ids = node.token_ids
        if ids and ids[-1] in self._params.stop_token_ids:
            ids = ids[:-1]
        text = self._decode(ids)
        at = text.find(self._cfg.close) if self._cfg.close else -1
        if at >= 0:
            longest = bisect.bisect_right(range(len(ids) + 1), at, key=lambda i: len(self._decode(ids[:i])))
            ids = ids[: longest - 1]
        return replace(node, token_ids=ids, sampled=node.sampled[: len(ids)], text=self._decode(ids))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._ctx.tokenizer.encode(text, add_special_tokens=False))

    def _hash(self, prompts_P: Sequence[Prompt], version: int, weights: int) -> str:
        run = self._ctx.cfg
        made_by = version, weights, run.seed, asdict(run.model), asdict(run.sampler), [asdict(r) for r in run.rewards]
        asked = asdict(self._cfg), asdict(replace(self._params, salt="")), [asdict(prompt) for prompt in prompts_P]
        parts = [made_by, asked]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def read_again(tokens: int, block: int) -> int:
    """Of a beginning with so many tokens, those that a prefix cache of whole blocks does not hold. The last token is
    always read, for it gives the next one. 300, 128 -> 44; 256, 128 -> 128.
    """
    return tokens - (tokens - 1) // block * block


def _line(problem: int, found: Found) -> dict[str, object]:
    rollouts = [
        {"ids": r.token_ids_T.tolist(), "text": r.text.encode("utf-8", "replace").decode(), "reason": r.finish_reason,
         "temperature": r.temperature, "version": r.policy_version}
        for r in found.rollouts
    ]  # fmt: skip
    scores = [None if math.isnan(score) else score for score in found.scores]
    return {
        "problem": problem, "rollouts": rollouts, "scores": scores, "generated": found.generated,
        "read_again": found.read_again, "scored": found.scored, "merged": found.merged,
    }  # fmt: skip


def _read(line: Mapping[str, Any]) -> Found:
    rollouts = [
        Rollout(np.asarray(r["ids"], np.int32), np.full(len(r["ids"]), np.nan, np.float32), r["text"], r["reason"],
                r["temperature"], r["version"], 0)
        for r in line["rollouts"]
    ]  # fmt: skip
    scores = [math.nan if score is None else float(score) for score in line["scores"]]
    return Found(rollouts, scores, line["generated"], line["read_again"], line["scored"], line["merged"])
