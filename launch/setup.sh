#!/usr/bin/env bash
# Makes .venv with the locked packages and fetches the small model. A second run only checks: seconds, no network.
#
#   bash launch/setup.sh          set up
#   source launch/setup.sh        set up, and export the variables below in this shell too
#
#   AHA_DEVICE=cpu|gpu            which package list; by default gpu where nvidia-smi works
#   AHA_PYTHON=/path/to/python    which Python makes .venv; by default the first of the usual names that fits
#   AHA_TORCH_INDEX=URL           an extra package index for torch's CPU build; by default pip's own indexes are asked, and
#                                 where they lack it uv, which knows PyTorch's

# Ray, vLLM and Hugging Face report usage unless told not to. Without a network the attempts also cost time.
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

# When sourced, the work runs in a child, so that its options, traps and directory stay out of the caller's shell.
if [[ "${BASH_SOURCE[0]}" != "$0" ]]; then
    bash "${BASH_SOURCE[0]}"
    return
fi

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

readonly root=$PWD
readonly python=.venv/bin/python
readonly uv=uv==0.13.9 # installed only where torch's CPU build is in no index that pip knows
readonly log=.venv/aha-install.log
readonly installing=.venv/.aha-installing # there while packages are being installed; stays when that is interrupted
readonly lock_stamp=.venv/.aha-lock       # "DEVICE LOCK-SHA256 ROOT" of what is installed
readonly sandbox_stamp=.venv/.aha-sandbox # there once bubblewrap has been looked for
readonly card_stamp=.venv/.aha-card       # there once torch has seen a GPU
readonly project_stamp=.venv/.aha-project # the sha256 of the pyproject.toml that `aha` was installed from

say() { printf '[setup %3ds] %s\n' "$SECONDS" "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
sha256() { sha256sum <"$1" | cut -d' ' -f1; }
content() { if [[ -f $1 ]]; then cat "$1"; fi; }

check_machine() { # DEVICE
    local machine
    machine="$(uname -s) $(uname -m)"
    case "$machine" in
        "Linux x86_64") ;;
        "Linux aarch64") [[ $1 == cpu ]] || die "requirements-gpu.lock is for x86-64, this machine is $machine; AHA_DEVICE=cpu installs for CPUs" ;;
        *) die "the lock files are for Linux on x86-64 or Arm, this is $machine; on a Mac, Docker runs launch/cluster/Dockerfile.cpu" ;;
    esac
    command -v g++ >/dev/null || die "g++ was not found; DeepSpeed compiles a small part of itself. On Debian and Ubuntu: apt-get install g++"
}

pick_device() {
    case "${AHA_DEVICE:-}" in
        cpu | gpu) echo "$AHA_DEVICE" ;;
        "") if timeout 30 nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) die "AHA_DEVICE is '$AHA_DEVICE'; it must be cpu or gpu" ;;
    esac
}

find_python() {
    # 3.11 first: the lock files were resolved for it.
    local candidate
    for candidate in ${AHA_PYTHON:+"$AHA_PYTHON"} python3.11 python3.12 python3.13 python3; do
        # Run each rather than look for its name: pyenv leaves commands behind that only print an error.
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            "$candidate" - <<'PYTHON' || die "$candidate lacks venv or its C headers. On Debian and Ubuntu: apt-get install python3-venv python3-dev"
import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PYTHON
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 was found. Install one, or name it: AHA_PYTHON=/path/to/python"
}

make_venv() { # DEVICE
    local installed
    installed=$(content "$lock_stamp")
    # Make it anew when an install was interrupted (a package may be incomplete), when the folder was moved (scripts in
    # it name their Python by path), and when cpu changes to gpu or back (both packages provide the module vllm).
    if [[ ! -e $installing && (-z $installed || ("$installed" == "$1 "* && "$installed" == *" $root")) ]] &&
        "$python" -c "" 2>/dev/null; then
        return
    fi
    local base
    base=$(find_python)
    say "making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv
}

pip_install() { # ARGUMENTS OF pip install, then the number of packages: quiet, but says every 15 s how far it is
    local total=${*: -1} heartbeat status=0
    (
        # Stops when this script ends, however it ends. Its sleep must not keep the script's output open.
        while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            if grep -q '^Installing collected' "$log"; then
                say "unpacking the packages"
            else
                say "collected $(grep -c '^Collecting' "$log" || true) of $total packages"
            fi
        done
    ) &
    heartbeat=$!
    "$python" -m pip install --no-deps --no-compile "${@:1:$#-1}" >"$log" 2>&1 || status=$?
    kill "$heartbeat" || true
    wait "$heartbeat" 2>/dev/null || true
    return "$status"
}

compile_packages() {
    # pip would compile every file on one core, which takes longer than the rest of the install. Left to the first
    # import, every worker would compile the same files at once, and never keep them under PYTHONDONTWRITEBYTECODE.
    # Here all cores compile, and what is never imported is skipped. A file that fails was written for another Python.
    local unused='/(tests?|anthropic|pip)/|/transformers/models/(?!auto/|llama/|qwen)[^/]+/'
    "$python" -m compileall -qq -j 0 -x "$unused" .venv/lib >/dev/null 2>&1 || true
}

install_torch() { # REQUIREMENT, then pip's options
    if pip_install "${@:2}" "$1" 1; then
        return
    fi
    if grep -q 'from versions: none' "$log"; then
        die "pip reaches no package registry (is there a network?); see $log"
    fi
    # PyPI has torch for GPUs alone. A mirror or an extra index of this machine may have the CPU build; if not, uv knows
    # where PyTorch keeps it.
    if grep -q 'No matching distribution found for torch' "$log" && [[ $1 == *+cpu && -z ${AHA_TORCH_INDEX:-} ]]; then
        say "pip's indexes have no $1; fetching it from PyTorch's with uv"
        if pip_install "$uv" 1 && uv_install "$1"; then
            return
        fi
        tail -n 20 "$log" >&2
        die "$1 was found neither in pip's indexes nor in PyTorch's (the end of $log is above). Where a mirror has it, set AHA_TORCH_INDEX to the mirror's address and run this again"
    fi
    tail -n 20 "$log" >&2
    die "pip could not install $1; the end of $log is above"
}

uv_install() { # REQUIREMENT: with the certificates and the proxy that pip is set to, which uv does not read by itself
    local certificates proxy
    certificates=${PIP_CERT:-$("$python" -m pip config get global.cert 2>/dev/null || true)}
    proxy=${PIP_PROXY:-$("$python" -m pip config get global.proxy 2>/dev/null || true)}
    env ${certificates:+"SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}"} ${proxy:+"HTTPS_PROXY=${HTTPS_PROXY:-$proxy}"} \
        "$python" -m uv pip install --python "$python" --no-deps --torch-backend=cpu "$1" >>"$log" 2>&1
}

install_packages() { # DEVICE
    local lock=requirements-$1.lock wanted
    wanted="$1 $(sha256 "$lock") $root"
    if [[ "$(content "$lock_stamp")" == "$wanted" ]]; then
        return
    fi
    local index=() count torch list
    if [[ -n ${AHA_TORCH_INDEX:-} ]]; then
        index=(--extra-index-url "$AHA_TORCH_INDEX")
    fi
    count=$(grep -c '^[a-z]' "$lock")
    list=$lock
    if [[ $1 == gpu ]]; then
        # "===" is this version to the letter: where pip also knows CPU builds of torch, "==" takes 2.13.0+cpu for 2.13.0.
        list=.venv/aha-exact.lock
        sed -E 's/^(torch[a-z]*)==/\1===/' "$lock" >"$list"
    fi
    torch=$(grep '^torch==' "$list")
    rm -f "$lock_stamp"
    touch "$installing"
    if [[ $1 == cpu && -z ${AHA_DEVICE:-} ]]; then
        say "no NVIDIA driver works here, so this installs for CPUs. For machines with GPUs that share this folder: AHA_DEVICE=gpu"
    fi
    say "installing $count packages from $lock (a few minutes the first time; log in $log)"
    # torch first: when it cannot be found, the error comes before gigabytes of other packages have been fetched.
    install_torch "$torch" "${index[@]}"
    if ! pip_install "${index[@]}" -r "$list" "$count"; then
        tail -n 20 "$log" >&2
        die "pip could not install $lock; the end of $log is above"
    fi
    say "compiling bytecode"
    compile_packages
    rm -f "$installing"
    echo "$wanted" >"$lock_stamp"
    say "installed $count packages"
}

check_card() { # that the installed torch can use the GPU: a driver may be too old for its CUDA
    if [[ -e $card_stamp ]]; then
        return
    fi
    local found driver
    found=$("$python" - <<'PYTHON'
import torch
print("a " + torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"none, for CUDA {torch.version.cuda}")
PYTHON
    ) || die "the installed torch cannot be imported; the reason is above"
    if [[ $found == "a "* ]]; then
        say "torch sees ${found}"
        touch "$card_stamp"
        return
    fi
    driver=$(timeout 30 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || driver=""
    if [[ -n $driver ]]; then
        die "torch sees no GPU: it was built ${found#none, }, and the driver here is $driver. Update the driver, or install for CPUs: AHA_DEVICE=cpu"
    fi
    say "this machine has no GPU (a login node?), so nothing could be checked. Run this once on a machine that has one"
}

install_project() {
    local wanted
    wanted=$(sha256 pyproject.toml)
    if [[ "$(content "$project_stamp")" == "$wanted" && -x .venv/bin/aha ]]; then
        return
    fi
    # Without build isolation: it would fetch setuptools, and the lock file has it already.
    if ! "$python" -m pip install --quiet --no-deps --no-build-isolation --editable . >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "pip could not install this folder; the end of $log is above"
    fi
    echo "$wanted" >"$project_stamp"
    say "installed aha"
}

ensure_sandbox() { # the code reward runs programs in bubblewrap: install it if that is possible, else say how
    if command -v bwrap >/dev/null || [[ -e $sandbox_stamp ]]; then
        return
    fi
    touch "$sandbox_stamp"
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        say "installing bubblewrap, the sandbox of the code reward"
        local apt=(timeout 120 env DEBIAN_FRONTEND=noninteractive apt-get -qq)
        if "${apt[@]}" install -y bubblewrap >>"$log" 2>&1 ||
            { "${apt[@]}" update >>"$log" 2>&1 && "${apt[@]}" install -y bubblewrap >>"$log" 2>&1; }; then
            return
        fi
    fi
    say "bubblewrap was not found; only the code reward needs it. On Debian and Ubuntu: apt-get install bubblewrap"
}

device=$(pick_device)
check_machine "$device"
make_venv "$device"
install_packages "$device"
if [[ $device == gpu ]]; then
    check_card
fi
install_project
ensure_sandbox
if [[ ! -d models/SmolLM2-135M-Instruct ]]; then
    say "fetching SmolLM2-135M-Instruct (under a minute, once)"
fi
"$python" -m launch.fetch_model >/dev/null || die "the model could not be fetched; the reason is above"
say "ready: $device, $("$python" --version)"
