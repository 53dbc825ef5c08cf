#!/usr/bin/env bash
# Sets up .venv, then runs the unit tests, the sandbox's, those of GPU code with stand-ins, and the integration tests
# (real Ray, vLLM and DeepSpeed).
#
#   bash launch/test.sh [--all] [pytest arguments ...]        for example: bash launch/test.sh -k resume
#
# --all adds what takes longer: whole recipes killed and resumed, Ray jobs, and clusters of three nodes (as root, in
# network namespaces).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/setup.sh
source launch/setup.sh

suites=(tests/unit tests/sandbox tests/gpu tests/integration)
chosen=(-m "not slow")
if [[ "${1:-}" == --all ]]; then
    shift
    suites+=(tests/cluster)
    chosen=()
fi
readonly no_tests_collected=5 # pytest's exit code
failed=0
empty=0
for suite in "${suites[@]}"; do
    printf '\n[test %3ds] %s\n' "$SECONDS" "$suite"
    status=0
    side_by_side=(-n "$(nproc)" --maxprocesses 4)
    # Their workers mostly wait for one thing or another while they start: two files at a time, a cluster for each.
    [[ $suite == tests/integration ]] && side_by_side=(-n 2 --dist loadfile)
    # Nodes in network namespaces, and jobs: one after the other. Importing vLLM takes longer than the tests that do.
    [[ $suite == tests/cluster || $suite == tests/gpu ]] && side_by_side=()
    # A failed unit test does not hide what the integration tests have to say.
    .venv/bin/python -m pytest "$suite" "${side_by_side[@]}" "${chosen[@]}" --timeout 900 --durations 8 "$@" || status=$?
    if ((status == no_tests_collected)); then
        # A filter may select tests of one suite only.
        empty=$((empty + 1))
    elif ((status != 0)); then
        failed=1
    fi
done

if ((empty == ${#suites[@]})); then
    echo "test: no test was selected" >&2
    failed=1
fi
printf '[test %3ds] %s\n' "$SECONDS" "$( ((failed)) && echo failed || echo passed)"
exit "$failed"
