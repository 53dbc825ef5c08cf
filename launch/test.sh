#!/usr/bin/env bash
# Sets up .venv, then runs the unit tests, the sandbox's, those of GPU code with stand-ins, and the integration tests
# (real Ray, vLLM and DeepSpeed).
#
#   bash launch/test.sh [--all] [pytest arguments ...]        for example: bash launch/test.sh -k resume
#
# --all adds the tests that take longer: whole recipes killed and resumed, Ray jobs, and clusters of three nodes (as
# root, in network namespaces).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/setup.sh
source launch/setup.sh

# The report's tests drive a real browser. It is installed where that may be; without it they are skipped.
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && ! command -v chromedriver >/dev/null; then
    echo "[test ${SECONDS}s] installing chromium for the report's tests"
    apt=(timeout 300 env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 ||
        echo "test: chromium could not be installed; the tests in a browser are skipped" >&2
fi

suites=(tests/unit tests/sandbox tests/gpu tests/integration)
chosen=(-m "not slow")
if [[ "${1:-}" == --all ]]; then
    shift
    suites+=(tests/cluster)
    chosen=()
fi
bash tests/readers/install.sh || echo "test: the readers of saved models could not be installed; their tests are skipped" >&2
readonly no_tests_collected=5 # pytest's exit code
failed=0
empty=0
for suite in "${suites[@]}"; do
    printf '\n[test %3ds] %s\n' "$SECONDS" "$suite"
    status=0
    side_by_side=(-n "$(nproc)" --maxprocesses 4)
    # Most of their time goes into waiting for workers to start: two files at a time, each with its own cluster.
    [[ $suite == tests/integration ]] && side_by_side=(-n 2 --dist loadfile)
    # These start nodes in network namespaces, and Ray jobs, or import vLLM, which takes longer than the tests that do.
    [[ $suite == tests/cluster || $suite == tests/gpu ]] && side_by_side=()
    # The suites after a failed one run too, so that one run shows all failures.
    .venv/bin/python -m pytest "$suite" "${side_by_side[@]}" "${chosen[@]}" --timeout 900 --durations 8 "$@" || status=$?
    if ((status == no_tests_collected)); then
        # A filter such as -k may select tests of one suite only.
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
