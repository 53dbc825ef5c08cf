"""What an environment adds to a row's question, found before the run: its tools, and what reset() tells the player.

reset() is called once for each row, so that rows that lack a column or make it fail are named before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl.config import EnvironmentConfig, ScoringConfig
from rl.environments.definition import RESET, Definition
from rl.environments.episode import Ask, Start
from rl.environments.processes import EnvironmentProcesses
from rl.environments.routing import environment_of
from rl.turns import PromptExtras
from rl.types import BadInput, Row


def prompt_extras(
    environments: Sequence[EnvironmentConfig],
    rows: Sequence[Row],
    seed_of: Callable[[int], int],
    scoring: ScoringConfig,
    where: Callable[[int], str],
) -> list[PromptExtras]:
    """One for each row, in order; none at all without environments. seed_of, where: of the row with that number.

    Raises BadInput with the row for a column that reset() lacks and for a row on which it fails.
    """
    if not environments:
        return []
    definitions = [Definition(cfg) for cfg in environments]
    tools = [d.schemas() if d.reads_calls and d.cfg.call == "tools" else [] for d in definitions]
    numbers = [environment_of(environments, row) for row in rows]
    opened: dict[int, str] = {}
    processes = EnvironmentProcesses(scoring)
    try:
        for i, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            if number is None or RESET not in definitions[number].own:
                continue
            definition = definitions[number]
            if missing := definition.missing_columns(row):
                raise BadInput(f"{where(i)}: no field {missing[0]!r}, which reset() of {definition.name} wants")
            processes.ask(Ask(str(i), Start(environments[number], row, seed_of(i)), ()))
        while processes.waiting:
            for key, reply in processes.answered(wait_s=60.0):
                if reply.fault:
                    raise BadInput(f"{where(int(key))}: environment {_name(definitions, numbers, key)}: {reply.fault}")
                opened[int(key)] = "".join(message.text for message in reply.messages)
    finally:
        processes.close()
    return [
        PromptExtras() if number is None else PromptExtras(tuple(tools[number]), opened.get(i, ""))
        for i, number in enumerate(numbers)
    ]


def _name(definitions: Sequence[Definition], numbers: Sequence[int | None], key: str) -> str:
    number = numbers[int(key)]
    assert number is not None
    return definitions[number].name


def refuse_unused_environments(environments: Sequence[EnvironmentConfig], rows: Sequence[Row], source: str) -> None:
    """Raise BadInput for an environment that no row of the training data has."""
    used = {environment_of(environments, row) for row in rows} if environments else set()
    for i, environment in enumerate(environments):
        if i not in used:
            there = sorted({str(row.get(environment.domain_field)) for row in rows})[:10]
            raise BadInput(
                f"environments: {environment.name} is for no row of {source}: it is for the domains "
                f"{', '.join(environment.domains) or '(all)'}, column {environment.domain_field!r} says "
                f"{', '.join(there)}, and a row has the first environment that is for its domain"
            )
