#!/usr/bin/env bash
# Ray on machines that are reached by ssh: the first becomes the head, the others join it.
#
#   bash launch/cluster/start-ray.sh 10.0.0.1 10.0.0.2 10.0.0.3
#   aha submit RECIPE --address http://127.0.0.1:8265 ...      on the head; from elsewhere: ssh -L 8265:localhost:8265
#   bash launch/cluster/start-ray.sh --stop 10.0.0.1 10.0.0.2 10.0.0.3
#
# Name the machines by the addresses over which they are to talk (with several interfaces: the fast ones). On each, this
# repository is at the same path, with its .venv (bash launch/setup.sh). The head makes the token; it is copied to all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly port=6379
ssh_options=(-o BatchMode=yes -o ConnectTimeout=20)
remote() { # ADDRESS COMMAND: runs the command on that machine, in this folder, with .venv active
    # shellcheck disable=SC2029 # the folder's name is filled in here on purpose
    ssh "${ssh_options[@]}" "$1" "cd ${PWD@Q} && source .venv/bin/activate && export RAY_AUTH_MODE=token && $2"
}

if [[ ${1:-} == --stop ]]; then
    for machine in "${@:2}"; do
        remote "$machine" "ray stop" || echo "start-ray: $machine: not stopped" >&2
    done
    exit
fi
(($# > 0)) || { echo "usage: bash launch/cluster/start-ray.sh [--stop] HEAD [MACHINE ...]" >&2; exit 2; }

head=$1
token=$(remote "$head" "ray get-auth-token --generate >/dev/null && cat ~/.ray/auth_token")
remote "$head" "ray start --head --port=$port --node-ip-address=$head --dashboard-host=127.0.0.1"
for machine in "${@:2}"; do
    # Through the pipe: a token in the command would show in the list of processes.
    printf '%s' "$token" | remote "$machine" \
        "mkdir -p ~/.ray && (umask 077 && cat >~/.ray/auth_token) && ray start --address=$head:$port --node-ip-address=$machine"
done
echo "Ray runs on $# machines. On $head: aha submit RECIPE --address http://127.0.0.1:8265"
