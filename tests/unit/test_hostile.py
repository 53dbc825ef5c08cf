"""Hostile surroundings: a full disk at each kind of write, a folder that may not be written, a wrong clock, no network, a
user without rights, a checkpoint with one flipped byte.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launch.report.reading import read_run
from rl.config import RunConfig, TrackConfig
from rl.context import Context
from rl.recipe import Build, Recipe
from rl.records import provenance
from rl.records.checkpoint import MANIFEST, CheckpointMeta, CheckpointStore
from rl.records.disk_faults import disk_fault, disk_faults_told, size
from rl.records.metrics_file import read_metrics
from rl.records.terminal import log_to
from rl.records.tracker import Tracker
from rl.records.whole_files import append_lines, write_json
from rl.stages.sft import train_sft
from rl.types import AhaError, BadInput, Row, Stopped
from rl.workflow.run import run
from rl.workflow.stage_folders import StageFolders
from tests.unit.recipe_runs import folders, made_up, write_recipe
from tests.unit.test_sft_stage import Learners, context, stream

DISK = 2 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def leave(disk: Path, free: int) -> None:
    """Fill the disk up to so many bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        file.write(b"x" * max(0, shutil.disk_usage(disk).free - free))


# ------------------------------------------------------------------------------------------------ full


class LargeLearners(Learners):
    """Their checkpoints and models take more than a page."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "state").write_bytes(b"s" * 40_000)

    def export(self, folder: Path) -> None:
        super().export(folder)
        (folder / "weights").write_bytes(b"w" * 60_000)


def test_a_disk_that_is_full_at_any_write_is_named_and_the_run_goes_on_once_there_is_room(disk, tokenizer) -> None:
    """A run of 5 steps with every kind of file, started with more room each time, until it ends."""
    reached, said = list[int](), list[str]()
    for free in range(0, DISK, 12 << 10):
        leave(disk, free)
        ctx: Context | None = None
        try:
            with disk_faults_told(disk):
                ctx = context(disk, tokenizer, LargeLearners(), steps=5)
                out = train_sft(ctx, "model", stream(tokenizer))
                break
        except AhaError as error:
            said.append(str(error))
            reached.append(len(read_metrics(disk / "run")))
        finally:
            if ctx is not None:
                ctx.tracker.close()
        assert not list(disk.rglob("*.tmp"))
        assert not list(disk.rglob("*.partial"))
    assert (out / "steps").read_text() == "5"
    assert [r["step"] for r in read_metrics(disk / "run")] == [0, 1, 2, 3, 4]
    assert all(text.startswith(f"the disk is full at {disk}") for text in said), said
    assert all(text.endswith("Make room there; the same command goes on from the last checkpoint") for text in said)
    assert len(set(reached)) >= 3, reached  # it failed before the first step, at a checkpoint, and later


def rows(sources: dict[str, list[Row]]) -> list[Row]:
    return [{"prompt": "x" * 1000, "answer": "2"} for _ in range(500)]


def no_machines(*arguments: object) -> object:
    raise AssertionError("machines were started")


def test_the_runner_names_the_file_that_did_not_fit(disk: Path) -> None:
    recipe = Recipe("r", RunConfig(), (Build("made", "tests.unit.test_hostile:rows"),), str(disk))
    leave(disk, 100 << 10)
    with pytest.raises(AhaError, match=rf"the disk is full at {disk}/r/00-made-\w+/data.jsonl \(0.\d MiB free\)"):
        run(recipe, no_machines, no_machines)  # type: ignore[arg-type]
    (disk / "filler").unlink()
    assert (run(recipe, no_machines, no_machines) / "data.jsonl").is_file()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "learner rank 0 failed: OSError: [Errno 28] No space left on device",
        "learner rank 1 failed: RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
        "learner rank 0 failed: SafetensorError: Error while serializing: I/O error: No space left (os error 28)",
        "database or disk is full",
    ],
)
def test_a_full_disk_is_known_by_what_libraries_say_of_it(tmp_path: Path, text: str) -> None:
    told = disk_fault(AhaError(text), tmp_path)
    assert str(told).startswith(f"the disk is full at {tmp_path} (")
    assert text in str(told)
    assert "a checkpoint takes about 16 bytes for each trained parameter" in str(told)


def test_what_is_needed_is_known_from_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "01-zero-12345678" / "checkpoints" / "grpo", 2)
    partial = store.begin(4)
    (partial / "state").write_bytes(b"x" * 3_000_000)
    store.commit(partial, CheckpointMeta(4, {}, "x", 1, 1, None, {}))
    told = disk_fault(OSError(errno.EDQUOT, "quota"), tmp_path)
    assert "a checkpoint of this run takes 2.9 MiB, and a new one is whole before an older one goes" in str(told)
    assert (size(1_500_000), size(3 << 30)) == ("1.4 MiB", "3.0 GiB")


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), BadInput("No space left on device"), Stopped("x"), OSError(errno.ENOENT, "x"), RuntimeError("[enforce fail at inline_container.cc:307] . file not found: data.pkl"), AhaError("killed"),
     PermissionError(errno.EACCES, "of a socket, without a file")],
)  # fmt: skip
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, disk_faults_told(tmp_path):
        raise error
    assert raised.value is error


def test_the_cause_behind_an_error_counts(tmp_path: Path) -> None:
    failed = AhaError("the stage failed")
    failed.__cause__ = OSError(errno.ENOSPC, "full", "/dev/full")
    assert str(disk_fault(failed, tmp_path)).startswith("the disk is full at /dev/full (")


def test_appended_lines_that_do_not_fit_name_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        append_lines(tmp_path / "a.jsonl", [{"a": 1}])
    assert raised.value.filename == str(tmp_path / "a.jsonl")


def test_a_log_that_cannot_be_written_is_told_once_and_holds_nobody_up(tmp_path: Path, caplog) -> None:
    import logging

    (tmp_path / "log.txt").symlink_to("/dev/full")
    shown = io.StringIO()
    end = log_to(tmp_path / "log.txt", Console(file=shown, width=200))
    for i in range(3):
        logging.getLogger("rl.x").warning("message %d", i)
    end()
    assert shown.getvalue().count("log.txt lacks messages: No space left on device") == 1
    assert [f"message {i}" in shown.getvalue() for i in range(3)] == [True] * 3


# ------------------------------------------------------------------------------------------------ not to be written


def test_a_folder_that_is_read_only_is_refused_before_anything_starts(disk: Path) -> None:
    recipe = Recipe("r", RunConfig(), (Build("made", "tests.unit.test_hostile:rows"),), str(disk))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(BadInput, match=rf"out: {disk}/r cannot be written \(Read-only file system\); name another"):
        run(recipe, no_machines, no_machines)  # type: ignore[arg-type]


def makes_it_read_only(sources: dict[str, list[Row]]) -> list[Row]:
    (folder,) = Path(os.environ["READ_ONLY_SOON"]).glob("00-made-*")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    return rows(sources)


def test_a_folder_that_becomes_read_only_in_a_run_is_named(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READ_ONLY_SOON", str(disk / "r"))
    recipe = Recipe("r", RunConfig(), (Build("made", "tests.unit.test_hostile:makes_it_read_only"),), str(disk))
    said = rf"{disk}/r/00-made-\w+/\S+ cannot be written or read \(Read-only file system\)"
    with pytest.raises(AhaError, match=said):
        run(recipe, no_machines, no_machines)  # type: ignore[arg-type]


@pytest.fixture
def nobody() -> Iterator[None]:
    """As a user without rights."""
    if os.geteuid():
        pytest.skip("only root may become nobody")
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_user_without_rights_is_told_where(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for place in (tmp_path, *tmp_path.parents):
        if place.owner() == "root" and str(place) not in ("/", "/tmp"):
            place.chmod(0o755)
    recipe = Recipe("r", RunConfig(), (Build("made", "tests.unit.test_hostile:rows"),), str(tmp_path))
    done = folders_of(recipe)
    request.getfixturevalue("nobody")
    with pytest.raises(BadInput, match=rf"out: {tmp_path}/r cannot be written \(Permission denied\)"):
        run(recipe, no_machines, no_machines)  # type: ignore[arg-type]
    with pytest.raises(AhaError, match=rf"{done}/\S* cannot be written or read \(Permission denied\). Give this user"):
        with disk_faults_told(tmp_path):
            write_json(done / "stage.json", {})


def folders_of(recipe: Recipe) -> Path:
    """The folder of the recipe's stage, which another user made."""
    planned = StageFolders(recipe).plan()[0]
    planned.folder.mkdir(parents=True)
    return planned.folder


# ------------------------------------------------------------------------------------------------ the clock


@pytest.mark.parametrize("jump", [-(10**9), 10**9], ids=["back", "forward"])
def test_a_clock_that_jumps_changes_no_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    real, jumped = time.time, [0]
    monkeypatch.setattr(time, "time", lambda: real() + jumped[0])
    with Tracker(tmp_path, TrackConfig(wandb="off"), name="x", console=Console(file=io.StringIO())) as track:
        track.begin("grpo", 4)
        for step in range(4):
            jumped[0] = jump * (step >= 2)
            track.step("grpo", step, {"loss": 1.0})
    assert all(0 <= float(str(r["seconds"])) < 60 for r in read_metrics(tmp_path))
    assert all(0 <= r.seconds < 60 for r in read_run(tmp_path).records)


def test_a_wrong_clock_loses_no_finished_stage(tmp_path: Path) -> None:
    """Folders whose times are those of 1970, and later than today's."""
    recipe = made_up(tmp_path)
    write_recipe(recipe)
    for number, folder in enumerate(folders(recipe).values()):
        for file in (folder / "stage.json", folder / provenance.FILE):
            os.utime(file, (number, number) if number % 2 else (4e9, 4e9))
    assert {p.state for p in StageFolders(recipe).plan()} == {"done"}


# ------------------------------------------------------------------------------------------------ no network


@pytest.mark.parametrize("key", ["model.path", "prompts.source"])
def test_without_a_network_what_is_on_the_hub_is_named(tmp_path: Path, key: str) -> None:
    """In a process of its own: the Hub's library reads its variables once. It waits for none of the library's retries."""
    code = (
        "from launch.recipes import load\nfrom rl.workflow.inputs import prepare\nfrom rl.types import BadInput\n"
        f"try:\n    prepare(load('recipes/tiny.py', [{key + '=nobody/has-this'!r}]))\n"
        "except BadInput as error:\n    print('refused:', error)\n"
    )
    nowhere = dict.fromkeys(("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    env = os.environ | nowhere | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, timeout=300)
    assert "refused: " in done.stdout, done.stderr[-2000:]
    assert "nobody/has-this" in done.stdout
    assert "\n" not in done.stdout.strip()
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "Retrying in" not in done.stderr


# ------------------------------------------------------------------------------------------------ checkpoints


def test_a_flipped_bit_in_any_byte_of_any_file_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    partial = store.begin(6)
    (partial / "engine").mkdir()
    (partial / "engine" / "weights.bin").write_bytes(bytes(range(64)))
    (partial / "rank_0.pt").write_bytes(b"state")
    final = store.commit(partial, CheckpointMeta(6, {"draws": 6}, "abc", 1, 1, None, {"rollout": 1.0}))
    assert store.fault(final) == ""
    files = [path for path in final.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"weights.bin", "rank_0.pt", "meta.json", MANIFEST}
    for path in files:
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert store.fault(final), (path.name, at, json.dumps(whole[at : at + 1].decode("latin-1")))
        path.write_bytes(whole)
    assert store.fault(final) == ""
