"""rl/records/folder_lock.py: a run's folder belongs to one process at a time; a killed one gives it back."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from launch.recipes import load_run
from rl.config import RunConfig
from rl.recipe import Build, Recipe
from rl.records.folder_lock import held, refuse_unwritable
from rl.types import BadInput
from rl.workflow.run import layout_of, run
from rl.workflow.stage_folders import StageFolders

HOLD = "import sys, time\nfrom pathlib import Path\nfrom rl.records.folder_lock import held\nwith held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def no_machines(*arguments: object) -> object:
    raise AssertionError("machines were started")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is working in tmp_path / "runs" / "r"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "runs" / "r")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_of_one_folder_is_refused_and_told_who_is_at_work(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    folder = tmp_path / "runs" / "r"
    said = rf"another aha run \(pid {holder.pid} on {socket.gethostname()}\) is working in {folder}"
    staged = Recipe("r", RunConfig(), (Build("made", "recipes.r1_preferences:greetings"),), str(tmp_path / "runs"))
    with pytest.raises(BadInput, match=said):
        run(staged, no_machines, no_machines)  # type: ignore[arg-type]
    one = load_run("recipes/tiny.py", [f"out={tmp_path / 'runs'}", "name=r"])
    with pytest.raises(BadInput, match=rf"{said}.*delete {folder}/\.lock"):
        run(one, no_machines)  # type: ignore[arg-type]
    assert [p.state for p in StageFolders(staged).plan()] == ["new"]  # looking needs no lock
    StageFolders(staged).check(StageFolders(staged).plan())
    assert "is new" in layout_of(one).describe(layout_of(one).plan())


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(tmp_path / "runs" / "r"):
        pass


def test_the_folder_is_free_again_after_a_run_that_ended_or_failed(tmp_path: Path) -> None:
    staged = Recipe("r", RunConfig(), (Build("made", "recipes.r1_preferences:greetings"),), str(tmp_path / "runs"))
    assert run(staged, no_machines, no_machines).is_dir()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError), held(staged.folder):
        raise RuntimeError
    started = time.monotonic()
    with held(staged.folder):
        pass
    assert time.monotonic() - started < 5


def test_a_file_system_without_locks_is_told_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", without)
    with caplog.at_level(logging.WARNING), held(tmp_path):
        assert "has no locks" in caplog.text


@pytest.mark.parametrize("place", ["/proc/none/r", "file/r", "file"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_starts(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    folder = Path(tmp_path, place)
    for refused in (refuse_unwritable, lambda path: held(path).__enter__()):
        with pytest.raises(BadInput, match=rf"out: {folder} cannot be written"):
            refused(folder)


def test_looking_whether_a_folder_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    refuse_unwritable(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
