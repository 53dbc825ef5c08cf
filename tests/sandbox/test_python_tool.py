"""The python tool in its sandbox."""

from __future__ import annotations

import pytest

from rewards.tools import python


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("print(6 * 7)", "42"),
        ("print(1)\n1 / 0", "1\nError: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "Error: it ended with status 3"),
        ("open('/etc/passwd')", "Error: FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'"),
        ("import os; print(len(os.listdir('/tmp')))", "0"),
    ],
)
def test_a_program_gives_what_it_prints_and_how_it_failed(code, says):
    assert python(code) == says


def test_a_program_without_an_end_is_stopped():
    assert "Error: stopped at its limit of " in python("while True: pass")


def test_what_a_program_prints_is_bounded():
    assert len(python("while True: print('x' * 1000)")) < 5_000
