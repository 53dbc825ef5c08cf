"""`aha submit`: runs a recipe as a Ray job and follows it to its end. Ray is imported once a cluster has answered.

The job runs `python -m launch.cli run RECIPE ...` on the head node, in a copy of the folder from which it was
submitted. That copy is deleted later, so the job gets the run folder as an absolute path. The same recipe submitted
again finds the run there and resumes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.package import Package, pack_folder
from launch.reach import Cluster, default_python, reach, token_source
from rl.config import RunConfig
from rl.settings.all_settings import describe
from rl.types import AhaError, BadInput, Stopped

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# What a job gets of this shell's environment without being asked. Ray shows a job's environment to all who hold the
# cluster's token.
FORWARDED = (
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE",
    "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE",
)  # fmt: skip
# Ray kills a job 3 s after it asked it to stop; ours finishes its step and saves.
STOP_WAIT_S = 600
UNDER_WAY = ("PENDING", "RUNNING")


# ------------------------------------------------------------------------------------------------ the cluster


def connect(cluster: Cluster) -> JobSubmissionClient:
    """Ray's client for the cluster."""
    # These variables would win over the address that was asked for.
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # their loggers report every upload and every closed socket
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    with ray_errors(cluster):
        return JobSubmissionClient(cluster.url)


@contextmanager
def ray_errors(cluster: Cluster, job_id: str = "") -> Iterator[None]:
    """Turn errors of Ray into one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise BadInput(f"{cluster.url}: the cluster refused the token ({token_source()})") from error
    except (RuntimeError, OSError) as error:
        if job_id and "404" in str(error):
            raise BadInput(f"{cluster.url}: knows no job {job_id}") from error
        raise AhaError(f"{cluster.url}: {str(error).strip().splitlines()[0][:500]}") from error


# ------------------------------------------------------------------------------------------------ the job


def submit(
    recipe: str,
    cfg: RunConfig,
    overrides: Sequence[str],
    address: str,
    names: Sequence[str],
    python: str,
    *,
    wait: bool,
) -> None:
    """Start the recipe as a job, and follow it if `wait`. Raises AhaError when it fails, Stopped if it was stopped."""
    environment = job_environment(names)
    root = Path.cwd()
    relative = inside(recipe, root)
    cluster = reach(address)
    with tempfile.TemporaryDirectory(prefix="aha-submit-") as folder:
        package = pack_folder(root, Path(folder) / "package.zip", always=[relative])
        print(f"working directory {root}: {package}")
        settled = settle_paths(cfg, package)
        given = [item for item in overrides if item.partition("=")[0].strip() != "out"]
        entrypoint = job_entrypoint(python or default_python(cluster), relative, [*given, *settled])
        client = connect(cluster)
        run_dir = str(Path(settled[0].partition("=")[2]) / cfg.name)
        with ray_errors(cluster):
            refuse_second(client, run_dir)
            job_id = client.submit_job(
                entrypoint=entrypoint,
                submission_id=f"aha-{cfg.name}-{time.strftime('%Y%m%d-%H%M%S')}",
                runtime_env={"working_dir": str(package.path), "env_vars": environment},
                metadata={"aha_run": run_dir},
            )
    print(f"job {job_id}: {entrypoint}")
    print(f"run folder, on the cluster: {run_dir}")
    if wait:
        follow(client, cluster, job_id)
    else:
        print(f"follow it: aha submit --logs {job_id} --address {cluster.url}")


def inside(recipe: str, root: Path) -> str:
    """The recipe's path relative to root. Raises BadInput when it lies outside."""
    path = Path(os.path.abspath(recipe))
    if not path.is_relative_to(root):
        raise BadInput(
            f"{recipe}: a job takes the current folder with it, {root}, and this is outside; cd to its project"
        )
    return str(path.relative_to(root))


def settle_paths(cfg: RunConfig, package: Package) -> list[str]:
    """Overrides with absolute paths, for another working directory: `out=`, and data and models that are not packed."""
    settled = [f"out={package.root / Path(cfg.out).expanduser()}"]
    for key, value, _ in describe(cfg):
        local = key.rsplit(".", 1)[-1] in ("path", "source") and value and not os.path.isabs(value)
        if local and (package.root / value).exists() and not package.holds(value):
            settled.append(f"{key}={package.root / value}")
    return settled


def job_environment(names: Sequence[str]) -> dict[str, str]:
    """The job's environment variables: those of W&B and the Hub, and those asked for as NAME or NAME=value."""
    env = {name: os.environ[name] for name in FORWARDED if os.environ.get(name)}
    for item in names:
        name, given, value = item.partition("=")
        if not given and name not in os.environ:
            raise BadInput(f"--env {name}: is not set here; set it, or give a value: --env {name}=VALUE")
        env[name] = value if given else os.environ[name]
    return env | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}


def job_entrypoint(python: str, recipe: str, overrides: Sequence[str]) -> str:
    # exec, because Ray sends the stop signal to the shell too, which would end before the run has saved.
    return "exec " + shlex.join([python, "-m", "launch.cli", "run", recipe, *overrides])


def refuse_second(client: JobSubmissionClient, run_dir: str) -> None:
    """Raise BadInput when another job writes to the same run folder."""
    for job in client.list_jobs():
        if (job.metadata or {}).get("aha_run") == run_dir and job.status.value in UNDER_WAY:
            raise BadInput(
                f"job {job.submission_id} is {job.status.value.lower()} in {run_dir}; follow it with --logs "
                f"{job.submission_id}, stop it with --stop {job.submission_id}, or use another name=..."
            )


# ------------------------------------------------------------------------------------------------ following


def follow(client: JobSubmissionClient, cluster: Cluster, job_id: str) -> None:
    """Print the job's log until it ends. Raises AhaError when it failed, Stopped when it was stopped."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            print(text, end="", flush=True)

    status(client, cluster, job_id)  # raises for an unknown job
    again = f"aha submit --logs {job_id} --address {cluster.url}"
    try:
        with ray_errors(cluster, job_id):
            asyncio.run(tail())
    except AhaError as error:
        raise type(error)(f"{error}\nThe job may go on. Follow it: {again}") from error
    except KeyboardInterrupt:
        raise Stopped(
            f"job {job_id} goes on. Follow it: {again}\nstop it: {again.replace('--logs', '--stop')}"
        ) from None
    ended = settled_status(client, cluster, job_id, 60.0)
    if ended in UNDER_WAY:
        raise AhaError(f"job {job_id}: its log broke off while it is {ended.lower()}. Follow it: {again}")
    if ended == "STOPPED":
        raise Stopped(f"job {job_id} was stopped; the same command goes on from the last checkpoint")
    if ended != "SUCCEEDED":
        with ray_errors(cluster, job_id):
            info = client.get_job_info(job_id)
        if info.driver_exit_code == 2:
            raise BadInput(f"job {job_id} failed with exit code 2: what it was given is wrong; its log above says what")
        why = f"with exit code {info.driver_exit_code}" if info.driver_exit_code is not None else f": {info.message}"
        raise AhaError(f"job {job_id} failed {why}; the same command goes on from the last checkpoint")
    print(f"job {job_id} is done")


def settled_status(client: JobSubmissionClient, cluster: Cluster, job_id: str, bound: float) -> str:
    """Wait, but not for ever, until the job has ended. Returns its status."""
    deadline = time.monotonic() + bound
    while True:
        now = status(client, cluster, job_id)
        if now not in UNDER_WAY or time.monotonic() > deadline:
            return now
        time.sleep(1.0)


def status(client: JobSubmissionClient, cluster: Cluster, job_id: str) -> str:
    with ray_errors(cluster, job_id):
        return str(client.get_job_status(job_id).value)


def print_status(client: JobSubmissionClient, cluster: Cluster, job_id: str) -> None:
    """Print the job's state, since when, its run folder, and its message."""
    with ray_errors(cluster, job_id):
        info = client.get_job_info(job_id)
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((info.start_time or 0) / 1000))
    print(f"{job_id}: {info.status.value.lower()}, started {began}")
    print(f"run folder: {(info.metadata or {}).get('aha_run', 'not one of aha submit')}")
    print(f"command:    {info.entrypoint}")
    if info.message:
        print(f"message:    {info.message.strip().splitlines()[0]}")


def stop(client: JobSubmissionClient, cluster: Cluster, job_id: str) -> None:
    """Ask the job to finish its step and save, and wait until it did. Ray kills it after STOP_WAIT_S."""
    with ray_errors(cluster, job_id):
        status(client, cluster, job_id)
        if not client.stop_job(job_id):
            print(f"{job_id}: {status(client, cluster, job_id).lower()} already")
            return
    print(f"{job_id}: stopping after its step, with a checkpoint; at most {STOP_WAIT_S} s")
    ended = settled_status(client, cluster, job_id, STOP_WAIT_S + 60)
    if ended in UNDER_WAY:
        raise AhaError(f"job {job_id} did not stop within {STOP_WAIT_S + 60} s; it is {ended.lower()}")
    print(f"{job_id}: {ended.lower()}; submitted again, it goes on from the last checkpoint")


def manage(address: str, *, status_of: str, logs_of: str, stop_of: str) -> None:
    """The options --status, --logs and --stop, for a job that exists already."""
    if sum(map(bool, (status_of, logs_of, stop_of))) > 1:
        raise BadInput("--status, --logs and --stop: one at a time")
    cluster = reach(address)
    client = connect(cluster)
    if stop_of:
        stop(client, cluster, stop_of)
    elif logs_of:
        follow(client, cluster, logs_of)
    else:
        print_status(client, cluster, status_of)
