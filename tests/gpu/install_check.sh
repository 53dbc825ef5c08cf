#!/usr/bin/env bash
# Installs requirements-gpu.lock into an empty environment, here also on a machine without a GPU, and imports there torch,
# vLLM, DeepSpeed, transformers and every module of Aha. It takes about 12 GB of disk, which it gives back at the end.
#
#   bash tests/gpu/install_check.sh [FOLDER]      FOLDER: where the environment is made; by default a temporary one
#
#   AHA_PYTHON=/path/to/python    which Python makes it; by default python3.11
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=${1:-$(mktemp -d)}
readonly folder
readonly python=$folder/venv/bin/python
trap 'rm -rf "$folder/venv" "$folder/exact.lock"' EXIT

say() { printf '[install %4ds] %s\n' "$SECONDS" "$*"; }

"${AHA_PYTHON:-python3.11}" -m venv --clear "$folder/venv"
say "installing $(grep -c '^[a-z]' requirements-gpu.lock) packages"
# "===" is this version to the letter: where pip also knows CPU builds of torch, "==" takes 2.13.0+cpu for 2.13.0.
sed -E 's/^(torch[a-z]*)==/\1===/' requirements-gpu.lock >"$folder/exact.lock"
"$python" -m pip install --quiet --no-deps --no-cache-dir --no-compile --disable-pip-version-check -r "$folder/exact.lock"
say "installed: $(du -sh "$folder/venv" | cut -f 1)"
"$python" -m pip check --disable-pip-version-check || say "pip check found the above; the imports say whether it matters"
# Without the workstation's own packages, and where vLLM and DeepSpeed look for a GPU they find what there is.
env -u PYTHONPATH "$python" - <<'PYTHON'
import importlib, importlib.metadata, pkgutil, sys, time, traceback

sys.path.insert(0, ".")
failed = []


def load(name: str) -> None:
    start = time.monotonic()
    try:
        importlib.import_module(name)
    except BaseException as error:  # whatever an import does, the others are tried too
        traceback.print_exc()
        failed.append(f"{name}: {type(error).__name__}: {error}")
    if "." not in name:
        print(f"{name} {importlib.metadata.version(name)}: {time.monotonic() - start:.0f} s", flush=True)


for name in ("torch", "transformers", "deepspeed", "vllm", "ray", "peft"):
    load(name)
ours = [m.name for p in ("rl", "rewards", "recipes", "launch") for m in pkgutil.walk_packages([p], f"{p}.")]
for name in ours:
    load(name)
import torch

print(f"{len(ours)} modules of Aha; torch {torch.__version__}, CUDA {torch.version.cuda}, card: {torch.cuda.is_available()}")
if torch.version.cuda is None:
    failed.append("torch: a build for CPUs")
print("\n".join(["failed:", *failed]) if failed else "all were imported")
sys.exit(bool(failed))
PYTHON
say "passed"
