"""launch/setup.sh with stand-ins for pip, uv, torch and nvidia-smi: what it installs from where, and what it says."""

from __future__ import annotations

import os
import re
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
    real = f'[[ $1 == -m ]] && {{ echo "$@" >>"{tmp_path}/calls"; exit 0; }}; PYTHONPATH="{tmp_path}/fake" exec "{sys.executable}" "$@"'
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


# ------------------------------------------------------------------------------------------------ torch's CPU build

LACKS = "ERROR: Could not find a version that satisfies the requirement torch (from versions: 2.12.0, 2.13.0)"
NONE = "ERROR: Could not find a version that satisfies the requirement torch (from versions: none)"
NO_MATCH = "ERROR: No matching distribution found for torch==2.13.0+cpu"


def pip_and_uv(checkout: Path, *, index_has_torch: bool = False, says: str = LACKS, uv_fails: bool = False) -> Path:
    """Stand-ins that write what they are asked into the file returned. An extra index has torch in any case."""
    asked = checkout / "asked"
    program(
        checkout / ".venv" / "bin" / "python",
        f"""
        [[ $1 == -m ]] || exec "{sys.executable}" "$@"
        case "$2 $3 $4" in
            "pip config get") [[ $5 == global.proxy ]] && echo "http://proxy.example:3128" && exit 0; exit 1 ;;
            "uv pip install") echo "$* cert=$SSL_CERT_FILE proxy=$HTTPS_PROXY" >>"{asked}"; exit {int(uv_fails)} ;;
            "pip install "*)
                echo "$*" >>"{asked}"
                [[ "$*" == *"=2.13.0+cpu"* && "$*" != *--extra-index-url* && {int(index_has_torch)} == 0 ]] || exit 0
                echo "{says}"; echo "{NO_MATCH}"; exit 1 ;;
        esac
        """,
    )
    return asked


def calls(asked: Path) -> list[str]:
    return [line.removeprefix("-m ") for line in asked.read_text().splitlines() if "editable" not in line]


def test_an_index_that_has_the_cpu_build_is_used_and_uv_is_not_fetched(checkout: Path) -> None:
    asked = pip_and_uv(checkout, index_has_torch=True)
    done = set_up(checkout, device="cpu")
    assert done.returncode == 0, done.stderr
    assert calls(asked) == [
        "pip install --no-deps --no-compile torch==2.13.0+cpu",
        "pip install --no-deps --no-compile -r requirements-cpu.lock",
    ]


def test_where_pip_finds_no_cpu_build_uv_fetches_it_with_the_machines_proxy_and_certificates(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "HTTPS_PROXY", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CERT", "/our/certificates.pem")
    asked = pip_and_uv(checkout)
    done = set_up(checkout, device="cpu")
    assert done.returncode == 0, done.stderr
    _, uv, torch, rest = calls(asked)
    assert uv.startswith("pip install --no-deps --no-compile uv==")
    assert torch == (
        "uv pip install --python .venv/bin/python --no-deps --torch-backend=cpu torch==2.13.0+cpu "
        "cert=/our/certificates.pem proxy=http://proxy.example:3128"
    )
    assert rest == "pip install --no-deps --no-compile -r requirements-cpu.lock"
    assert "fetching it from PyTorch's with uv" in done.stdout


def test_an_index_that_the_user_names_is_the_only_one_asked(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHA_TORCH_INDEX", "https://mirror.example/cpu")
    asked = pip_and_uv(checkout)
    done = set_up(checkout, device="cpu")
    assert done.returncode == 0, done.stderr
    assert calls(asked) == [
        f"pip install --no-deps --no-compile --extra-index-url https://mirror.example/cpu {what}"
        for what in ("torch==2.13.0+cpu", "-r requirements-cpu.lock")
    ]


def test_a_build_that_uv_does_not_find_either_ends_the_set_up_with_what_to_do(checkout: Path) -> None:
    asked = pip_and_uv(checkout, uv_fails=True)
    done = set_up(checkout, device="cpu")
    assert done.returncode == 1
    assert "neither in pip's indexes nor in PyTorch's" in done.stderr
    assert "AHA_TORCH_INDEX" in done.stderr
    assert not any("requirements-cpu.lock" in call for call in calls(asked))


def test_a_machine_without_a_network_is_not_sent_to_uv(checkout: Path) -> None:
    asked = pip_and_uv(checkout, says=NONE)
    done = set_up(checkout, device="cpu")
    assert done.returncode == 1
    assert "is there a network?" in done.stderr
    assert len(calls(asked)) == 1


def test_the_gpu_build_is_never_looked_for_in_pytorchs_cpu_index(checkout: Path) -> None:
    asked = pip_and_uv(checkout)
    lock = checkout / "requirements-gpu.lock"
    lock.write_text(lock.read_text().replace("torch==2.13.0", "torch==2.13.0+cpu.not"))
    done = set_up(checkout, device="gpu", nvidia_smi="exit 1")
    assert done.returncode == 1
    assert "pip could not install torch===2.13.0+cpu.not" in done.stderr
    assert len(calls(asked)) == 1


# ------------------------------------------------------------------------------------------------ other machines


@pytest.mark.parametrize(
    ("machine", "device", "said"),
    [
        ("Linux aarch64", "cpu", ""),
        ("Linux aarch64", "gpu", "AHA_DEVICE=cpu"),
        ("Darwin arm64", "cpu", "Dockerfile.cpu"),
        ("Linux riscv64", "cpu", "x86-64 or Arm"),
    ],
)
def test_a_machine_for_which_nothing_is_built_is_told_what_it_can_do(
    checkout: Path, machine: str, device: str, said: str
) -> None:
    system, processor = machine.split()
    program(checkout / "bin" / "uname", f"[[ $1 == -s ]] && echo {system} || echo {processor}")
    done = set_up(checkout, nvidia_smi="exit 1", device=device)
    assert (done.returncode == 0) == (not said)
    assert said in done.stderr


@pytest.mark.parametrize(("device", "sign"), [("gpu", "==="), ("cpu", "==")])
def test_a_cpu_build_of_torch_that_pip_knows_too_is_never_taken_for_the_gpu_build(
    checkout: Path, device: str, sign: str
) -> None:
    done = set_up(checkout, SEES, DRIVER, device=device)
    assert done.returncode == 0, done.stderr
    pip = [call.split() for call in (checkout / "calls").read_text().splitlines() if call.startswith("-m pip install")]
    (torch,) = [word for call in pip for word in call if word.startswith("torch=")]
    assert re.fullmatch(rf"torch{sign}[0-9][^=]*", torch)
    (lock,) = [checkout / call[call.index("-r") + 1] for call in pip if "-r" in call]
    pins = [line for line in lock.read_text().splitlines() if re.match(r"torch[a-z]*=", line)]
    assert pins
    assert all(re.match(rf"torch[a-z]*{sign}[0-9]", pin) for pin in pins)
    plain = (checkout / f"requirements-{device}.lock").read_text()
    assert lock.read_text().replace("===", "==") == plain
