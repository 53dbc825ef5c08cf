#!/usr/bin/env bash
# From a bare machine to a trained model: sets up .venv, then runs the laptop recipe.
#
#   bash launch/quickstart.sh [key=value ...]        settings are passed to `aha run`; the same command resumes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/setup.sh
source launch/setup.sh
exec .venv/bin/aha run recipes/quickstart.py "$@"
