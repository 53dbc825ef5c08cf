"""Tests of code as a row gives them: read, and refused where no program could pass them."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rewards.code_agent import frame
from rewards.code_compare import MAX_DIGITS, long_integer, same_value
from rewards.types import excerpt

OUTPUT_BYTES = 1 << 20
"""Of one test: what a program may print, or a function return."""
INPUT_BYTES = 16 << 20
"""Of one test: no file in the sandbox is larger."""

TAGS = {"python": ("python", "py", "python3"), "c++": ("c++", "cpp", "cc", "cxx")}
"""Language -> what a fence, or a row, calls it."""

_FUNCTIONAL = (("testtype", "functional"), ("type", "function_call"), ("test_type", "functional"))
"""Other projects' marks on tests whose input is a function's arguments, a line each."""
_PATH = re.compile(r"[A-Za-z_]\w*(?:\(\))?(?:\.[A-Za-z_]\w*)*")


def read_tests(tests: object) -> tuple[str, list[Any]]:
    """The form ("io", "call" or "check") and the cases: (input, output), (arguments, expected), or check programs.

    '[{"input": "1", "output": "2"}]' -> ("io", [("1", "2")]). Raises ValueError.
    """
    if isinstance(tests, str):
        with contextlib.suppress(json.JSONDecodeError):  # a program, not JSON: looked at next
            tests = read_json(tests)
    if isinstance(tests, str) and "def check(" in tests:
        return "check", [tests]
    if isinstance(tests, Sequence) and not isinstance(tests, str) and tests and all(isinstance(t, dict) for t in tests):
        if all({"input", "output"} <= test.keys() for test in tests):
            return "io", [_texts(number, test) for number, test in enumerate(tests, start=1)]
        if all({"call", "expected"} <= test.keys() for test in tests):
            calls = [read_json(test["call"]) if isinstance(test["call"], str) else test["call"] for test in tests]
            if all(isinstance(call, list | dict) for call in calls):
                return "call", [(call, test["expected"]) for call, test in zip(calls, tests, strict=True)]
    raise ValueError(
        'tests: neither a list of {"input", "output"}, nor one of {"call": [...], "expected"}, nor a program with '
        f"check(candidate): {excerpt(shown(tests))}"
    )


def _texts(number: int, test: Mapping[str, object]) -> tuple[str, str]:
    """A test's input and output. Raises ValueError where one is no text: what would it be on stdin?"""
    if test.get("fn_name") or any(test.get(name) == value for name, value in _FUNCTIONAL):
        raise ValueError(
            f"tests: test {number} is for a function, but has an input for stdin; give its arguments and its result "
            'instead: {"call": [...], "expected": ...}'
        )
    texts = []
    for name in ("input", "output"):
        value = test[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(
                f"tests: the {name} of test {number} is a {type(value).__name__}, not a text: {excerpt(shown(value))}; "
                'join lines with "\\n", or give a function\'s arguments as {"call": [...], "expected": ...}'
            )
        texts.append(str(value))
    return texts[0], texts[1]


def read_json(text: str) -> Any:
    """json.loads, with whole numbers as long as rewards.code_compare.MAX_DIGITS. Raises ValueError."""
    try:
        return json.loads(text, parse_int=long_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def language_of(value: object) -> str:
    """ "python" for nothing, "c++" for "cpp" or "C++". Raises ValueError for another language."""
    name = str(value or "python").strip().lower()
    for language, names in TAGS.items():
        if name in names:
            return language
    raise ValueError(f"language: {value!r} is none of {', '.join(TAGS)}")


# ------------------------------------------------------------------------------------------------ before a run


def check_row(row: Mapping[str, object], *, packages: Collection[str] = (), **settings: object) -> str | None:
    """Why no program can pass the tests of a row, whatever it does; None when one might.

    {"tests": [{"input": "[1]", "output": "1"}], "entry_point": "f"} -> its function would be read as a program

    settings: the reward's; one with a column's name goes before the column, as it does in the reward.
    """
    row = {**row, **settings}
    entry_point, setup = str(row.get("entry_point") or ""), str(row.get("setup") or "")
    checker = str(row.get("checker") or "")
    try:
        kind, cases = read_tests(row.get("tests"))
        language = language_of(row.get("language"))
    except ValueError as error:
        return str(error)
    if kind == "io" and entry_point:
        return (
            f"tests: they are of a program from stdin to stdout, but entry_point={entry_point!r} asks for a function; "
            'give its arguments and result as {"call": [...], "expected": ...}, or leave entry_point empty'
        )
    if kind != "io" and not _PATH.fullmatch(entry_point):
        return f"entry_point: {entry_point!r} names no function, and the tests call one"
    if kind != "io" and language != "python":
        return f"language: the tests call a function, which only Python programs can be asked for, not {language}"
    if checker and kind != "io":
        return "checker: it is for what programs print; a check program looks at what functions return"
    programs = {"checker": checker} | ({"setup": setup} if language == "python" else {})
    programs |= {"tests": cases[0]} if kind == "check" else {}
    for name, program in programs.items():
        if reason := _cannot_run(program, packages, "" if name == "setup" or not program else "check"):
            return f"{name}: {reason}"
    if kind == "check":
        return None
    for number, (given, expected) in enumerate(cases, start=1):
        reason = _io_reason(given, expected) if kind == "io" else _call_reason(given, expected)
        if reason:
            return f"tests: test {number}: {reason}"
    return None


def _cannot_run(program: str, packages: Collection[str], function: str) -> str:
    """Why a program of the row cannot run in the sandbox, "" where it may. function: what it must define."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not compile: {error}"
    if function and not any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree)):
        return f"it defines no {function}()"
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in (name.partition(".")[0] for name in names):
            if name not in sys.stdlib_module_names and name not in packages:
                return (
                    f"it imports {name}, which the sandbox does not show; where it is installed, the setting "
                    f'packages=["{name}"] shows it'
                )
    return ""


def _io_reason(given: str, expected: str) -> str:
    if len(expected.encode(errors="replace")) > OUTPUT_BYTES:
        return f"its output has more than the {OUTPUT_BYTES} bytes that a program may print"
    if len(given.encode(errors="replace")) > INPUT_BYTES:
        return f"its input has more than the {INPUT_BYTES} bytes that a file may have"
    return ""


def _call_reason(given: object, expected: object) -> str:
    try:
        frame(given)
    except ValueError:
        return f"its arguments are no plain values: {excerpt(shown(given))}"
    try:
        text = json.dumps(_shortened(expected))
        if len(text) > OUTPUT_BYTES:
            return f"its expected value has more than the {OUTPUT_BYTES} bytes that a function may return"
        if same_value(read_json(text), _shortened(expected)):
            return ""
    except (TypeError, ValueError, RecursionError) as error:
        return f"its expected value is none that can be compared: {error}"
    return f"its expected value is none that a function's result, as JSON, can equal: {excerpt(shown(expected))}"


def _shortened(value: object) -> object:
    """The value with a text in place of each whole number that is too long to be written. Raises ValueError where one
    is too long to be read.
    """
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, int) and value.bit_length() > 13_000:
        digits = int(value.bit_length() * 0.30103) + 1
        if digits > MAX_DIGITS:
            raise ValueError(f"it has a number of {digits} digits; at most {MAX_DIGITS} are read")
        return f"<a number of {digits} digits>"
    return value


def shown(value: object) -> str:
    """For a message: JSON where it can be."""
    try:
        return json.dumps(_shortened(value))
    except (TypeError, ValueError, RecursionError):
        return f"<a {type(value).__name__}>" if isinstance(value, int | list | dict) else str(value)
