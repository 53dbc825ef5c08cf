"""launch/exit_codes.py: scripts and SLURM tell a run that failed from one that was stopped by the command's exit code."""

from __future__ import annotations

import pytest

from launch.exit_codes import run_and_exit
from rl.types import AhaError, BadInput, Stopped


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("name=: missing\nseed=x: no number"), 2, "aha: name=: missing\naha: seed=x: no number\n"),
        (AhaError("a sampler died"), 1, "aha: a sampler died\n"),
        (Stopped("stopped after step 3"), 130, "aha: stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "stopped at once; the same command goes on from the last checkpoint\n"),
    ],
    ids=["bad input", "failed", "stopped", "interrupted"],
)
def test_each_kind_of_error_has_its_exit_code_and_plain_lines(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_and_exit(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == said


def test_a_command_that_ends_well_exits_by_itself_and_a_fault_of_aha_keeps_its_traceback() -> None:
    run_and_exit(lambda: None)
    with pytest.raises(ZeroDivisionError):
        run_and_exit(lambda: 1 / 0)
