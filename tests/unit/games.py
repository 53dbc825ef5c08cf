"""Environments for tests: a game of text, one written in TRL's shape, and tools that misbehave."""

from __future__ import annotations

import os
import random
import re
import sys
import time


class Guess:
    """Higher or lower. `number` is a column of the row."""

    def __init__(self, guesses: int = 7) -> None:
        self.left, self.won = guesses, False

    def reset(self, number: int, **row: object) -> str | None:
        self.number = number
        return None

    def reply(self, text: str) -> str | None:
        found = re.search(r"\d+", text)
        self.left, self.won = self.left - 1, bool(found) and int(found[0]) == self.number
        if self.won or not self.left:
            return None
        return "Say a number." if not found else "higher" if int(found[0]) < self.number else "lower"

    def get_reward(self) -> float:
        return float(self.won)


class Counter:
    """As TRL's documentation writes environments: reset(**kwargs), tools with docstrings, get_reward()."""

    def reset(self, **kwargs) -> str | None:  # type: ignore[no-untyped-def]
        self.counter = 0
        self.target = kwargs["target"]
        return f"The counter is at 0. Bring it to {self.target}."

    def increment(self, step: int) -> int:
        """
        Increment the internal counter.

        Args:
            step: Value to add to the counter.

        Returns:
            The updated counter value.
        """
        if step == 0:
            raise ValueError("a step of 0 changes nothing")
        self.counter += step
        return self.counter

    def get_reward(self) -> list[float]:
        return [0.25, float(self.counter == self.target)]


class Dice:
    """Random, and with state: a replay must repeat it."""

    def reset(self, **row: object) -> None:
        self.seen = [random.randint(1, 10**9)]

    def reply(self, text: str) -> str:
        if text == "die" and not os.path.exists(self.seen_file(text)):
            open(self.seen_file(text), "w").close()
            os._exit(3)
        self.seen.append(random.randint(1, 10**9))
        return " ".join(map(str, self.seen))

    def seen_file(self, text: str) -> str:
        """Where it is noted that the process has died once."""
        return os.environ.get("AHA_TEST_DIED", "/nonexistent/died")


class Silent:
    """Neither reply() nor a tool."""

    def get_reward(self) -> float:
        return 1.0


class Untyped:
    def look(self, place):  # type: ignore[no-untyped-def]
        """Look at a place.

        Args:
            place: Where.
        """
        return place

    def undocumented(self, place: str) -> str:
        return place


class Failing:
    def __init__(self, where: str = "reset") -> None:
        self.where = where

    def reset(self, **row: object) -> None:
        if self.where == "reset":
            raise RuntimeError("no board")

    def reply(self, text: str) -> str:
        if self.where == "reply":
            raise RuntimeError("no answer")
        return "go on"

    def get_reward(self) -> object:
        return {"nan": float("nan"), "text": "much", "none": None, "list": []}[self.where]


def hostile(kind: str) -> object:
    """Misbehave.

    Args:
        kind: How.
    """
    if kind == "sleep":
        time.sleep(600)
    elif kind == "flood":
        print("x" * 10_000_000)
        sys.stderr.write("x" * 10_000_000)
        return "x" * 10_000_000
    elif kind == "raise":
        raise RuntimeError("\udc80 broken")
    elif kind == "half":
        return "caf\udce9"
    elif kind == "exit":
        sys.exit(1)
    elif kind == "kill":
        os.kill(os.getpid(), 9)
    elif kind == "str":
        return Unprintable()
    elif kind == "none":
        return None
    return "fine"


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("cannot be shown")


def python(code: str) -> str:
    """Run a program.

    Args:
        code: The program.
    """
    return f"ran {code.strip()}"


def two(a: int, b: int) -> int:
    """Add.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def ones(completion: str, **columns: object) -> float:
    """A reward that all samples earn."""
    return 1.0


def says_42(completion: str, **columns: object) -> float:
    """Whether the model wrote it."""
    return float("42" in completion)


def turns_of_tools(completion: str, turns: list[dict[str, str]]) -> float:
    """How many turns are answers of tools."""
    return float(sum(turn["role"] == "tool" and turn["text"] == "42" for turn in turns))
