"""How the `aha` command ends: the exit code and the lines that its user sees for each kind of error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rl.records.disk_faults import disk_fault
from rl.types import AhaError, BadInput, Stopped

FAILED, BAD_INPUT, STOPPED = 1, 2, 130
"""130 is what a shell reports of a program that Ctrl-C ended."""


def run_and_exit(command: Callable[[], object]) -> None:
    """Run the command. Any other error than these is a fault of Aha, and its traceback is shown."""
    try:
        command()
    except BadInput as error:
        _exit(error, BAD_INPUT)
    except Stopped as stopped:
        _exit(stopped, STOPPED)
    except AhaError as error:
        _exit(error, FAILED)
    except OSError as error:
        told = disk_fault(error, Path(), "then give the command again")
        if told is None:
            raise
        _exit(told, FAILED)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(STOPPED)


def _exit(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        print(f"aha: {line}", file=sys.stderr)
    sys.exit(code)
