"""Which rewards a row gets, and from which step on. The driver decides; the workers do what they are told.

A reward with domains is for the rows whose domain column names one of them; a reward with from_step counts from that
GRPO step on (R1's last stage: rule rewards for mathematics and code, preference models for the rest, those late).
A reward that does not apply to a sample is not in its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rewards import REWARDS, short_name
from rl.config import MODEL, EnvironmentConfig, RewardConfig, RewardModelConfig
from rl.types import BadInput, Row

ACCURACY = "accuracy"
_RESERVED_NAMES = ("mean", "std")  # metrics of the whole reward: reward/mean, reward/std


def is_model(reward: RewardConfig) -> bool:
    return reward.function.startswith(MODEL)


def model_path(reward: RewardConfig) -> str:
    """The folder or Hub id of a reward model."""
    return reward.function.removeprefix(MODEL)


def named(rewards: Sequence[RewardConfig]) -> dict[str, RewardConfig]:
    """The parts of the reward by name, in order.

    A name is the reward's own, else the function's ("accuracy") or the last part of a model's path, else, where that
    is taken, all of it ("module.function"). Raises BadInput for a name given twice and for settings of another kind.
    """
    if not rewards:
        raise BadInput("rewards: there are none; add at least one, for example RewardConfig('accuracy')")
    parts: dict[str, RewardConfig] = {}
    for reward in rewards:
        name = reward.name or (
            Path(model_path(reward)).name.removeprefix("@") if is_model(reward) else reward.function.rpartition(":")[2]
        )
        if not reward.name and (name in parts or name in _RESERVED_NAMES):
            name = reward.function.replace(":", ".").replace("/", ".")
        if name in parts:
            raise BadInput(
                f"rewards: {reward.name or reward.function!r} is listed twice; add its weights up instead, or give "
                "each a name of its own"
            )
        if name in _RESERVED_NAMES or "/" in name:
            raise BadInput(f"rewards: {name!r} cannot be a name: it may hold no '/' and be none of mean, std")
        _refuse_settings_of_another_kind(name, reward)
        parts[name] = reward
    return parts


def _refuse_settings_of_another_kind(name: str, reward: RewardConfig) -> None:
    if is_model(reward) and not model_path(reward):
        raise BadInput(f"rewards: {reward.function!r} names no model; write model:FOLDER_OR_HUB_ID")
    if is_model(reward) and reward.options:
        raise BadInput(f"rewards: {name!r} is a reward model: it has no options; its settings are those of model")
    if not is_model(reward) and reward.model != RewardModelConfig():
        raise BadInput(f"rewards: {name!r} is a function: the settings of model are for function=model:... only")


def accuracies(rewards: Sequence[RewardConfig]) -> list[str]:
    """Names of the parts whose "correct" means equal to the reference answer, in order.

    Of the built-in rewards that is accuracy, whatever its name. A function of one's own is taken at its word.
    """
    return [name for name, reward in named(rewards).items() if _is_accuracy(name, reward)] if rewards else []


def _is_accuracy(name: str, reward: RewardConfig) -> bool:
    built_in = short_name(reward.function)
    return built_in == ACCURACY if built_in in REWARDS else name == ACCURACY and not is_model(reward)


# ------------------------------------------------------------------------------------------------ rows and steps


def applies_to(reward: RewardConfig | EnvironmentConfig, row: Row) -> bool:
    """Whether the row's domain is one of a reward's or an environment's; a column may hold one domain or several."""
    return not reward.domains or not set(reward.domains).isdisjoint(_domains(reward, row))


def first_step(reward: RewardConfig, steps: int) -> int:
    """The GRPO step from which a reward counts, of `steps`: from_step 30 -> 30; -25 of 100 -> 75, of 10 -> 0."""
    return reward.from_step if reward.from_step >= 0 else max(0, steps + reward.from_step)


def applying(parts: Mapping[str, RewardConfig], row: Row, step: int | None, steps: int) -> list[str]:
    """Names of the parts that a row gets at a step of `steps`; None: whatever the step (evaluation)."""
    return [
        name
        for name, reward in parts.items()
        if applies_to(reward, row) and (step is None or step >= first_step(reward, steps))
    ]


def refuse_late(parts: Mapping[str, RewardConfig], steps: int) -> None:
    """Raise BadInput for a reward that would never count in a run of `steps` steps."""
    for name, reward in parts.items():
        if steps and first_step(reward, steps) >= steps:
            raise BadInput(
                f"rewards: {name!r} counts from step {reward.from_step} on, but grpo.steps={steps}: it never would; "
                "lower from_step, or count from the end with a negative one"
            )


def unrewarded(parts: Mapping[str, RewardConfig], rows: Sequence[Row], steps: int) -> dict[int, str]:
    """Number of each row that gets no reward at the first of `steps` -> why. Later steps only add rewards.

    steps 0: the rows are not trained on, so the step does not matter.
    """
    found: dict[int, str] = {}
    for i, row in enumerate(rows):
        if applying(parts, row, 0 if steps else None, steps):
            continue
        late = {n: first_step(parts[n], steps) for n in applying(parts, row, None, steps)}
        if late:
            first = min(late, key=late.__getitem__)
            found[i] = f"no reward applies before step {late[first]}, when {first!r} begins"
        else:
            column = next(reward.domain_field for reward in parts.values() if reward.domains)
            found[i] = f"no reward applies: its {column!r} is {row.get(column)!r}"
    return found


def refuse_unused(parts: Mapping[str, RewardConfig], rows: Sequence[Row], source: str) -> None:
    """Raise BadInput for a reward whose domains no row of the training data is in: most likely misspelt."""
    for name, reward in parts.items():
        if any(applies_to(reward, row) for row in rows):
            continue
        there = sorted({domain for row in rows for domain in _domains(reward, row)})
        shown = f"says {', '.join(there[:10])}" if there else "is not there"
        raise BadInput(
            f"rewards: {name!r} is for the domains {', '.join(reward.domains)}, but no row of {source} is in one: its "
            f"column {reward.domain_field!r} {shown}"
        )


def _domains(reward: RewardConfig | EnvironmentConfig, row: Row) -> list[str]:
    value = row.get(reward.domain_field)
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [str(item) for item in values]
