"""launch/setup.sh with stand-ins for pip, torch and nvidia-smi: which build it installs, and what it says of the card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEES = "device = 'NVIDIA H200'"
BLIND = "device = ''"
DRIVER = 'case "$1" in -L) echo "GPU 0";; *) echo 470.57;; esac'


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that setup.sh finds in order, but for the packages."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "setup.sh", tmp_path / "launch")
    for name in ("requirements-cpu.lock", "requirements-gpu.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    # pip, compileall and our own modules do nothing; scripts run, with a torch that this test has written.
    real = f'[[ $1 == -m ]] && exit 0; PYTHONPATH="{tmp_path}/fake" exec "{sys.executable}" "$@"'
    program(tmp_path / ".venv" / "bin" / "python", real)
    program(tmp_path / ".venv" / "bin" / "aha", "")
    (tmp_path / ".venv" / ".aha-sandbox").touch()
    program(tmp_path / "bin" / "g++", "")
    return tmp_path


def set_up(folder: Path, torch: str = "", nvidia_smi: str = "", device: str = "") -> subprocess.CompletedProcess[str]:
    """Run setup.sh. torch: the source of the torch that it has installed. nvidia_smi: what that program runs."""
    if torch:
        (folder / "fake").mkdir(exist_ok=True)
        (folder / "fake" / "torch.py").write_text(
            f"{torch}\nclass version: cuda = '13.0'\nclass cuda:\n"
            "    is_available = staticmethod(lambda: bool(device))\n"
            "    get_device_name = staticmethod(lambda index: device)\n"
        )
    if nvidia_smi:
        program(folder / "bin" / "nvidia-smi", nvidia_smi)
    env = {k: v for k, v in os.environ.items() if k != "AHA_DEVICE"} | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    if device:
        env["AHA_DEVICE"] = device
    script = ["bash", str(folder / "launch" / "setup.sh")]
    return subprocess.run(script, env=env, capture_output=True, text=True, timeout=120)


def test_a_card_that_torch_sees_is_named_once(checkout: Path) -> None:
    done = set_up(checkout, SEES, DRIVER)
    assert done.returncode == 0, done.stderr
    assert "torch sees a NVIDIA H200" in done.stdout
    assert "ready: gpu" in done.stdout
    again = set_up(checkout)
    assert again.returncode == 0
    assert "torch sees" not in again.stdout  # it takes seconds to import torch


def test_a_driver_that_is_too_old_for_torch_stops_the_set_up_each_time_with_both_versions(checkout: Path) -> None:
    for _ in range(2):
        done = set_up(checkout, BLIND, DRIVER)
        assert done.returncode == 1
        assert "torch sees no GPU: it was built for CUDA 13.0, and the driver here is 470.57" in done.stderr
        assert "AHA_DEVICE=cpu" in done.stderr
        assert "ready" not in done.stdout


def test_a_login_node_can_install_for_gpus_and_a_machine_with_one_checks_it_later(checkout: Path) -> None:
    done = set_up(checkout, BLIND, "exit 1", device="gpu")
    assert done.returncode == 0, done.stderr
    assert "no GPU (a login node?)" in done.stdout
    assert "ready: gpu" in done.stdout
    later = set_up(checkout, SEES, DRIVER)
    assert "torch sees a NVIDIA H200" in later.stdout


def test_a_machine_without_a_driver_says_that_it_installs_for_cpus_and_how_to_change_it(checkout: Path) -> None:
    done = set_up(checkout, nvidia_smi="exit 1")
    assert done.returncode == 0, done.stderr
    assert "installs for CPUs" in done.stdout
    assert "AHA_DEVICE=gpu" in done.stdout
    assert "AHA_DEVICE=gpu" not in set_up(checkout, nvidia_smi="exit 1").stdout  # there is nothing more to install


def test_cpus_that_were_asked_for_are_installed_without_a_word_about_gpus(checkout: Path) -> None:
    done = set_up(checkout, nvidia_smi=DRIVER, device="cpu")
    assert done.returncode == 0, done.stderr
    assert "GPU" not in done.stdout
    assert "ready: cpu" in done.stdout
