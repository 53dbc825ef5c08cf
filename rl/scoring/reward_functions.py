"""What a reward function says of rollouts: functions found by name, called, and their results read. No processes here.

A reward that raises costs one sample and is counted. rl/scoring/reward_processes.py runs this where a hung one can be
killed. Axis suffixes: _G samples of a group.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import SupportsFloat

import numpy as np

from rewards import (
    COLUMNS,
    DEFAULT_TIMEOUT_S,
    GUARDS,
    REFERENCE_CHECKS,
    REWARDS,
    ROW_CHECKS,
    STYLE,
    TEXT_ALONE,
    TIMEOUTS_S,
    short_name,
)
from rewards.types import Score
from rewards.watch import hacking_watch
from rl.config import RewardConfig
from rl.scoring.options import ALWAYS, Function, options_of, parameters_of, takes_lists
from rl.scoring.routing import applies_to, applying, is_model, named, unrewarded
from rl.types import BadInput, RewardPart, Rollout, RolloutGroup, Row, ScoredGroup, Verdict

log = logging.getLogger(__name__)

Parts = dict[str, RewardPart]
WATCHED, WATCHED_TAIL = 128, 1500
"""Samples of a step, and characters at the end of each, that watch() reads: the loop waits for it."""


class RewardFunctions:
    """The reward functions of a run, resolved and ready. Reward models are not among them
    (rl/scoring/reward_model_text.py).

    rewards: each function is a short name of rewards.REWARDS or "module:function", native or in TRL's shape (see
    resolve). names: of the functions, in order (see rl.scoring.routing.named). Raises BadInput with a line for each
    reward that cannot be found and for each option that does not fit.
    """

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self.configs = {
            name: reward for name, reward in (named(rewards) if rewards else {}).items() if not is_model(reward)
        }
        self._rewards: dict[str, _RewardFunction] = {}
        faults = []
        for name, reward in self.configs.items():
            try:
                function = resolve(reward.function)
                options = options_of(reward, function)
            except BadInput as error:
                faults.append(str(error))
                continue
            kind = _Batched if takes_lists(function) else _Native
            self._rewards[name] = kind(name, function, options, _settings(reward.function, function))
            self._rewards[name].blames_text = short_name(reward.function) in TEXT_ALONE
        if faults:
            raise BadInput("\n".join(faults))

    @property
    def names(self) -> list[str]:
        return list(self._rewards)

    def units(self, name: str, size: int) -> list[list[int]]:
        """How this reward's calls split a group of `size` samples: one a call, or all for a function of lists."""
        return [list(range(size))] if isinstance(self._rewards[name], _Batched) else [[i] for i in range(size)]

    def limit_s(self, name: str) -> float:
        """Seconds that this reward may take for one sample."""
        return limit_s(self.configs[name])

    def blames_text(self, name: str) -> bool:
        """Whether nothing but the text can make this reward slow (rewards.TEXT_ALONE)."""
        return self._rewards[name].blames_text

    def call(self, name: str, group: RolloutGroup) -> list[RewardPart | None]:
        """A part for each sample of the group, None where the reward does not apply. Never raises on its account."""
        return self._rewards[name].call(group)

    def call_all(self, group: RolloutGroup, names: Sequence[str]) -> list[Parts]:
        """The named rewards' parts of each sample, in this process."""
        return merge(names, [self.call(name, group) for name in names], len(group.rollouts_G))


def limit_s(reward: RewardConfig) -> float:
    """Seconds that a reward may take for one sample."""
    return reward.timeout_s or TIMEOUTS_S.get(short_name(reward.function), DEFAULT_TIMEOUT_S)


def merge(names: Sequence[str], by_reward: Sequence[Sequence[RewardPart | None]], size: int) -> list[Parts]:
    """Parts by reward -> parts by sample; a reward that does not apply to a sample is not in it."""
    rows_G = [{name: parts[i] for name, parts in zip(names, by_reward, strict=True)} for i in range(size)]
    return [{name: part for name, part in row.items() if part is not None} for row in rows_G]


def refuse_style_alone(parts: Mapping[str, RewardConfig], rows: Sequence[Row], source: str) -> None:
    """Raise BadInput for held-out rows that only rewards of style read, where others are for other domains.

    pass@1 counts the first reward that applies: of such a row it would be a rate of format under accuracy's name.
    """
    style = {name for name, reward in parts.items() if short_name(reward.function) in STYLE}
    others = [name for name in parts if name not in style]
    found = [i for i, row in enumerate(rows) if others and set(applying(parts, row, None, 0)) <= style]
    if found:
        reward = parts[others[0]]
        raise BadInput(
            f"{source}: {len(found)} of {len(rows)} rows, the first of them row {found[0] + 1}, get no reward that "
            f"says what is correct: {others[0]!r} is for the domains {', '.join(reward.domains)}, and their column "
            f"{reward.domain_field!r} says {rows[found[0]].get(reward.domain_field)!r}. Give them such a domain"
        )


def unrewardable_rows(
    rewards: Sequence[RewardConfig], rows: Sequence[Row], answers: Sequence[str], steps: int = 0
) -> dict[int, str]:
    """Number of the row -> why it gets no verdict: a reward cannot go by its answer or its row, or it gets no reward.

    A verifier would call every sample wrong there. answers: the rows' references. steps: see
    rl.scoring.routing.unrewarded.
    """
    if not rewards:
        return {}
    parts = named(rewards)
    named_checks = [(r, REFERENCE_CHECKS.get(short_name(r.function))) for r in parts.values()]
    of_answers = [(r, resolve(check)) for r, check in named_checks if check]
    of_rows = [
        (r, partial(resolve(ROW_CHECKS[name]), **options_of(r, resolve(r.function))))
        for r in parts.values()
        if (name := short_name(r.function)) in ROW_CHECKS
    ]
    found = unrewarded(parts, rows, steps)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        reasons = [check(answer) for r, check in of_answers if applies_to(r, row)]
        reasons += [check(row) for r, check in of_rows if applies_to(r, row)]
        first = next((reason for reason in reasons if reason is not None), None)
        if first is not None:
            found[i] = str(first)
    return dict(sorted(found.items()))


def watch(scored_P: Sequence[ScoredGroup], names: Sequence[str] = ("accuracy",)) -> dict[str, float]:
    """rewards.watch.hacking_watch over the ends of at most WATCHED samples of a step.

    names: the parts that are rewards.accuracy under some name; other rewards need not read references as it does.
    """
    samples = [
        (r.text[-WATCHED_TAIL:], s.group.prompt.reference, parts[name], r.num_sampled)
        for s in scored_P
        for r, parts in zip(s.group.rollouts_G, s.parts_G, strict=True)
        for name in names
        if name in parts and parts[name].verdict.is_valid and s.group.prompt.reference
    ]
    samples = samples[:: -(-len(samples) // WATCHED) or 1]
    if not samples:
        return {}
    texts, answers, parts, lengths = zip(*samples, strict=True)
    return hacking_watch(texts, answers, [Score(p.score, str(p.verdict), p.reason) for p in parts], lengths)


def _settings(spec: str, function: Function) -> set[str]:
    """Parameters of a built-in reward that no column of a row may fill; of a reward of one's own, GUARDS alone.

    A row that happens to have a column "percent" must not change what accuracy(percent=...) pays.
    """
    if not REWARDS.get(spec, spec).startswith("rewards."):
        return set(GUARDS)
    return set(parameters_of(function)) - ALWAYS - set(COLUMNS.get(short_name(spec), ())) | GUARDS


def resolve(spec: str) -> Function:
    """The function that a short name or "module:function" names. Raises BadInput with the nearest name."""
    target = REWARDS.get(spec, spec)
    module_name, colon, name = target.partition(":")
    if not colon:
        near = difflib.get_close_matches(spec, REWARDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(REWARDS)}."
        raise BadInput(f"rewards: no reward is named {spec!r}; {hint} One of your own is 'module:function'")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"rewards: {spec!r}: cannot import {module_name}: {error}") from error
    function = vars(module).get(name)
    if not callable(function):
        near = difflib.get_close_matches(name, [k for k, v in vars(module).items() if inspect.isfunction(v)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"rewards: {spec!r}: {module_name} has no function {name!r}{hint}")
    if inspect.iscoroutinefunction(function):
        raise BadInput(f"rewards: {spec!r} is async; a reward is an ordinary function")
    return function


class _RewardFunction:
    """One reward function. call: a part for each sample of a group, None where the reward does not apply."""

    def __init__(self, name: str, function: Function, options: dict[str, object], settings: set[str]) -> None:
        self._name, self._function, self._options, self._settings = name, function, options, settings
        self._parameters = parameters_of(function)
        self._traced = False
        self.blames_text = False  # whether what goes wrong with the size of a text is the text's own fault

    def call(self, group: RolloutGroup) -> list[RewardPart | None]:
        raise NotImplementedError

    def _invoke(self, args: tuple[object, ...], columns: dict[str, object]) -> object:
        """The function's result, or the exception it raised. It gets the columns it names, or all if it has **."""
        columns = {name: value for name, value in columns.items() if name not in self._settings} | self._options
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values()):
            columns = {name: value for name, value in columns.items() if name in self._parameters}
        try:
            return self._function(*args, **columns)
        except Exception as error:
            # The user's code may raise anything, and one sample is not worth a run. Nothing is hidden: the sample is
            # left out and counted, the rollout files say why, and finish() stops the run when it is most of a step.
            if not self._traced:
                self._traced = True
                log.warning("reward %r raised; the sample is left out, later ones too", self._name, exc_info=True)
            return error


class _Native(_RewardFunction):
    """f(completion, *, prompt, answer, **columns) -> Score or number, called once a sample."""

    def call(self, group: RolloutGroup) -> list[RewardPart | None]:
        prompt = group.prompt
        columns = {**prompt.columns, "prompt": prompt.for_rewards, "answer": prompt.reference}
        # A column with the name of the completion's own parameter would be passed twice.
        columns.pop(next(iter(self._parameters), ""), None)
        results_G = [
            self._invoke((r.text,), columns | {"completion_tokens": r.num_sampled} | _turns(r))
            for r in group.rollouts_G
        ]
        return [
            too_much(f"{type(result).__name__}: {result}")
            if self.blames_text and isinstance(result, RecursionError | MemoryError | OverflowError)
            else _part(result)
            for result in results_G
        ]


class _Batched(_RewardFunction):
    """TRL's and open-r1's shape: f(prompts, completions, **columns) -> list[float | None], called once a group.

    Every argument is a list with an item a sample. Columns are the row's, with "answer" and "question" added where
    there are none.
    A completion is a text, or [{"role": "assistant", "content": text}] when the row's prompt is a list of messages
    (TRL's rule), or from the first time on that the function fails on texts but not on messages.
    """

    _messages = False

    def call(self, group: RolloutGroup) -> list[RewardPart | None]:
        count = len(group.rollouts_G)
        messages = self._messages or isinstance(group.prompt.row.get("prompt"), list)
        result = self._run(group, messages)
        if isinstance(result, TypeError | IndexError) and not messages:  # what text[0]["content"] raises
            again = self._run(group, True)
            if not isinstance(again, Exception):
                self._messages, result = True, again
        if isinstance(result, Exception):
            return [_part(result)] * count
        if not isinstance(result, list | tuple | np.ndarray) or len(result) != count:
            what = f"{len(result)} scores" if isinstance(result, list | tuple | np.ndarray) else type(result).__name__
            return [failed(f"returned {what}, not a list of {count} scores")] * count
        return [_part(item) for item in result]

    def _run(self, group: RolloutGroup, messages: bool) -> object:
        prompt, rollouts_G = group.prompt, group.rollouts_G
        texts = [r.text for r in rollouts_G]
        own = prompt.row.get("prompt")
        columns: dict[str, object] = {name: [value] * len(texts) for name, value in prompt.columns.items()}
        columns.pop("prompt", None)
        columns.setdefault("answer", [prompt.reference] * len(texts))
        columns["completion_ids"] = [r.at_sampled(r.token_ids_T).tolist() for r in rollouts_G]
        if all(r.episode is not None for r in rollouts_G):
            columns["turns"] = [_turns(r)["turns"] for r in rollouts_G]
        columns["prompts"] = [own if isinstance(own, list) else prompt.for_rewards] * len(texts)
        columns["completions"] = [[{"role": "assistant", "content": t}] for t in texts] if messages else texts
        return self._invoke((), columns)


def _turns(rollout: Rollout) -> dict[str, object]:
    """The column "turns" of a sample with an environment: objects with role, text and name."""
    episode = rollout.episode
    return {} if episode is None else {"turns": [dataclasses.asdict(turn) for turn in episode.turns]}


def _part(result: object) -> RewardPart | None:
    """A function's result as a RewardPart; None (TRL: the reward does not apply to this sample) stays None."""
    if result is None:
        return None
    if isinstance(result, Exception):
        return failed(f"{type(result).__name__}: {result}")
    value, verdict, reason = result if isinstance(result, Score) else (result, None, "")
    if not isinstance(value, SupportsFloat):
        return failed(f"returned {type(value).__name__}, not a number")
    number = float(value)
    if verdict is not None and verdict not in list(Verdict):
        return failed(f"returned the verdict {verdict!r}, which is none of {', '.join(Verdict)}")
    # A bare number carries no verdict: what earns something counts as correct.
    found = Verdict(verdict) if verdict is not None else Verdict.CORRECT if number > 0 else Verdict.WRONG
    if not found.is_valid:
        return RewardPart(math.nan, found, reason)
    return RewardPart(number, found, reason) if math.isfinite(number) else failed(f"returned {number}")


def too_much(reason: str) -> RewardPart:
    """The part of a text that is more work than a reward of TEXT_ALONE does: it is wrong."""
    return RewardPart(0.0, Verdict.WRONG, " ".join(f"too much work: {reason}".split())[:300])


def failed(reason: str) -> RewardPart:
    return RewardPart(math.nan, Verdict.FAILED, " ".join(reason.split())[:300])
