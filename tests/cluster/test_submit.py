"""`aha submit` and `ray job submit` against a real head node with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Head
from tests.cluster.nodes import BIN, ROOT, wait_for

SETTINGS = (
    "sft.steps=3", "sft.examples_per_step=8", "grpo.steps=24", "grpo.prompts_per_step=4", "grpo.group_size=4",
    "rollout.max_new_tokens=24", "evaluation.samples=1", "evaluation.data.limit=4", "evaluation.every=0",
    "checkpoint.every=1",
)  # fmt: skip


def aha_submit(head: Head, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", "submit", *args, "--address", head.url]
    return subprocess.run(
        command, cwd=ROOT, env=head.node.env | env, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL
    )  # fmt: skip


def grpo_steps(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [r["step"] for r in records if r["stage"] == "grpo"]


def drivers(out: Path) -> list[int]:
    """Processes that run the recipe into this folder: not the shell around them, nor what submitted the job."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
            if f"out={out}" in words and "run" in words and "submit" not in words:
                found.append(int(entry.name))
    return found


def test_a_job_killed_then_stopped_goes_on_each_time_and_is_followed_to_its_end(head: Head, tmp_path: Path) -> None:
    out, log = tmp_path / "runs", tmp_path / "plain.log"
    run = out / "tiny"
    recipe = ["recipes/tiny.py", f"out={out}", *SETTINGS]

    # Submitted with Ray's own command, and killed.
    aha = ["aha"] if (BIN / "aha").exists() else ["python", "-m", "launch.cli"]
    plain = [str(BIN / "ray"), "job", "submit", "--address", head.url, "--working-dir", ".", "--", *aha, "run", *recipe]
    with log.open("w") as file:
        job = subprocess.Popen(plain, cwd=ROOT, env=head.node.env, stdout=file, stderr=file)
    try:
        wait_for(lambda: len(grpo_steps(run)) >= 2 or job.poll() is not None, 300, "two GRPO steps", log)
        assert job.poll() is None, log.read_text()[-3000:]
        (driver,) = drivers(out)
        os.kill(driver, signal.SIGKILL)
        assert job.wait(60) != 0
    finally:
        job.kill()
    before_stop = len(grpo_steps(run))
    assert before_stop < 24

    # Submitted by aha: it goes on, refuses a second job in the same folder, and stops with a checkpoint when asked.
    done = aha_submit(head, *recipe, "--no-wait")
    assert done.returncode == 0, done.stderr
    assert re.search(r"left out: .*\.venv/ \(git ignores it\)", done.stdout)
    found = re.search(r"job (aha-tiny-\S+):", done.stdout)
    assert found
    job_id = found[1]
    second = aha_submit(head, *recipe)
    assert second.returncode == 2
    assert f"job {job_id} is" in second.stderr
    wait_for(lambda: len(grpo_steps(run)) >= before_stop + 2, 300, "two more GRPO steps", run / "log.txt")
    state = aha_submit(head, "--status", job_id)
    assert f"{job_id}: running" in state.stdout
    assert str(run) in state.stdout
    stopped = aha_submit(head, "--stop", job_id)
    assert stopped.returncode == 0, stopped.stderr
    assert f"{job_id}: stopped" in stopped.stdout
    logs = aha_submit(head, "--logs", job_id)
    assert logs.returncode == 130
    assert "resuming grpo after step" in logs.stdout
    assert "stopping after this step with a checkpoint" in logs.stdout
    steps = grpo_steps(run)
    assert len(steps) < 24
    # The checkpoint of the last step is there: nothing is done again.
    checkpoints = [int(p.name.rsplit("_", 1)[-1]) for p in (run / "checkpoints" / "grpo").iterdir() if p.is_dir()]
    assert max(checkpoints) == len(steps)

    # The same command again, to the end.
    done = aha_submit(head, *recipe)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"resuming grpo after step {len(steps)}" in done.stdout
    assert re.search(r"job aha-tiny-\S+ is done", done.stdout)
    assert grpo_steps(run) == list(range(24))
    assert json.loads((run / "summary.json").read_text())["steps"] == 24


def test_a_job_that_fails_says_so_with_its_exit_code_and_its_log(head: Head, tmp_path: Path) -> None:
    done = aha_submit(head, "recipes/tiny.py", f"out={tmp_path}", "rollout.max_new_tokens=9000")
    assert done.returncode == 2
    assert "rollout.max_new_tokens=9000 leaves no room" in done.stdout
    assert "exit code 2" in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_TOKEN": "wrong"}, "refused the token (from RAY_AUTH_TOKEN)"),
        ({"RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "wants a token and there is none here"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled is set here"),
    ],
)
def test_a_missing_or_wrong_token_is_named(head: Head, env: dict[str, str], said: str) -> None:
    done = aha_submit(head, "recipes/tiny.py", **env)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_job_is_named(head: Head) -> None:
    done = aha_submit(head, "--status", "aha-nothing")
    assert (done.returncode, "knows no job aha-nothing" in done.stderr) == (2, True)
