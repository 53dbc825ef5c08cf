#!/usr/bin/env bash
# Installs the programs that read saved models in tests/integration/test_readers.py, each in a folder of its own under
# .venv/readers, where nothing of Aha's finds them. Run again, it only checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for list in tests/readers/*.txt; do
    folder=.venv/readers/$(basename "$list" .txt)
    if cmp -s "$list" "$folder/installed.txt"; then
        continue
    fi
    rm -rf "$folder"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" -r "$list"
    cp "$list" "$folder/installed.txt"
done
