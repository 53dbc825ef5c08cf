"""No file or function of rl/ or launch/ outgrows what a reader can take in, and the path to the gradient stays short."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS, SUFFIXES = ("rl", "launch"), (".py", ".js", ".sh", ".css", ".yaml")
MOST_OF_A_FILE, MOST_OF_A_FUNCTION, MOST_OF_THE_PATH = 350, 60, 1_500
"""Lines, empty ones and docstrings included."""
LONGER_FILES = {"rl/config.py"}
LONGER_FUNCTIONS: set[str] = set()
"""What is longer today. These lists only shrink: a new entry is no mend."""
READING_PATH = ("rl/algorithms", "rl/data/packing.py", "rl/stages/grpo.py", "rl/rollouts/queue.py")
"""Read after GRPOConfig and the constants that it uses, these say what a GRPO step computes."""


def sources() -> dict[str, str]:
    files = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES)
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def long_files(files: dict[str, str]) -> set[str]:
    return {path for path, text in files.items() if len(text.splitlines()) > MOST_OF_A_FILE}


def long_functions(files: dict[str, str]) -> set[str]:
    """ "path:name" of each function and method with too many lines, its decorators aside."""
    return {
        f"{path}:{node.name}"
        for path, text in files.items()
        if path.endswith(".py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MOST_OF_A_FUNCTION
    }


def settings_lines(config: str) -> int:
    """Lines of GRPOConfig and of the module's constants that it names."""
    tree = ast.parse(config)
    group = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "GRPOConfig")
    named = {node.id for node in ast.walk(group) if isinstance(node, ast.Name)}
    constants = [n for n in tree.body if isinstance(n, ast.Assign) and {ast.unparse(t) for t in n.targets} & named]
    return sum(node.end_lineno - node.lineno + 1 for node in [group, *constants])


def path_lines(files: dict[str, str]) -> int:
    on_it = [text for path, text in files.items() if path.startswith(READING_PATH)]
    return settings_lines(files["rl/config.py"]) + sum(len(text.splitlines()) for text in on_it)


def test_no_file_is_too_long():
    assert long_files(sources()) == LONGER_FILES


def test_no_function_is_too_long():
    assert long_functions(sources()) == LONGER_FUNCTIONS


def test_the_reading_path_is_short():
    assert path_lines(sources()) <= MOST_OF_THE_PATH


def test_what_is_blown_up_is_found():
    files = sources() | {"rl/types.py": "\n" * 351, "launch/cli.py": "def f():\n" + "    g()\n" * 60}
    assert long_files(files | {"launch/report/dom.js": "\n" * 351}) - LONGER_FILES == {
        "rl/types.py",
        "launch/report/dom.js",
    }
    assert long_functions(files) - LONGER_FUNCTIONS == {"launch/cli.py:f"}
    files["rl/algorithms/advantage.py"] += "\n" * 1_500
    assert path_lines(files) == path_lines(sources()) + 1_500


def test_the_settings_of_the_path_are_a_class_and_its_constants():
    config = 'A = (\n    "x",\n)\nB = 1\n\n\nclass GRPOConfig:\n    """Doc."""\n\n    kind: str = knob(A)\n\n\nclass C:\n    b = B\n'
    assert settings_lines(config) == 3 + 4
