"""Checks of the nodes: versions, ports, shared memory, disks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from launch.doctor.check import Check, Table, failed, passed
from launch.doctor.doctor_backend import NodeReport, Reached
from rl.config import RunConfig

GIB = 1 << 30


def same_versions(reports: Sequence[NodeReport], here: dict[str, str]) -> Check:
    """Every node has the driver's versions of the libraries and of Aha. here: those of the driver."""
    names = ["driver", *(_place(r) for r in reports)]
    columns = [here, *(r.versions for r in reports)]
    differ = [package for package in here if len({column[package] for column in columns}) > 1]
    measured = ", ".join(f"{package} {version}" for package, version in here.items())
    if not differ:
        return passed(f"{len(reports)} node(s) and the driver: {measured}")
    table: Table = (("", *differ), *((n, *(c[p] for p in differ)) for n, c in zip(names, columns, strict=True)))
    odd = [name for name, column in zip(names[1:], columns[1:], strict=True) if column != here]
    return failed(
        f"{', '.join(differ)} differ between the driver and {', '.join(odd)}",
        "the nodes were not set up from the same lock file, or run another checkout of aha ('aha' is a hash of it)",
        "bring every node to the driver's versions, with the same checkout and lock file",
        table,
    )


def _place(report: NodeReport) -> str:
    return f"node {report.address}" + (f" ({', '.join(report.roles)})" if report.roles else "")


def ports_open(reached: Sequence[Reached]) -> Check:
    """The nodes reach one another on free ports, which learners and NCCL need."""
    closed = [r for r in reached if r.fault]
    if closed:
        table = (("from", "to", "why"), *((r.source, r.target, r.fault) for r in closed))
        return failed(
            f"{len(closed)} of {len(reached)} connections between nodes fail: {closed[0].source} to {closed[0].target}",
            "a firewall between the nodes, or an address that the others cannot reach (several network interfaces)",
            "open all ports between the nodes, or start Ray with --node-ip-address of the right network",
            table,
        )
    slowest = max(r.seconds for r in reached)
    return passed(f"{len(reached)} connections on free ports, the slowest in {1000 * slowest:.1f} ms")


def shared_memory(reports: Sequence[NodeReport], cfg: RunConfig) -> Check:
    """Ray's object store has room for the buckets of weights that are sent at the same time."""
    need = 4 * cfg.cluster.bucket_mib << 20
    for r in reports:
        if r.object_store < need:
            return failed(
                f"{_place(r)}: Ray's object store has {_gib(r.object_store)}, four buckets of weights {_gib(need)}",
                "the container has little shared memory (Docker's default is 64 MB), so Ray's store is small",
                "start the container with --shm-size, Ray with --object-store-memory, or lower cluster.bucket_mib",
            )
    least = min(reports, key=lambda r: r.shm_free)
    on_disk = [_place(r) for r in reports if r.shm_total < r.object_store]
    note = (
        f"; on {', '.join(on_disk)} it is larger than that, so Ray keeps it on disk, which is slow" if on_disk else ""
    )
    return passed(
        f"object store {_gib(min(r.object_store for r in reports))} or more, {_gib(need)} needed; /dev/shm has "
        f"{_gib(least.shm_free)} free{note}"
    )


def folder_shared(reports: Sequence[NodeReport], cfg: RunConfig) -> Check:
    """The nodes of the learners see the run's folder, where each rank writes its part of a checkpoint."""
    learners = [r for r in reports if any(role.startswith("learner") for role in r.roles)]
    blind = [_place(r) for r in learners if not r.sees_folder]
    if blind:
        return failed(
            f"{', '.join(blind)} does not see the run's folder {cfg.run_dir.absolute()}",
            "out= is on a disk of the driver's own",
            "set out= to a folder that all nodes share",
        )
    return passed(f"{cfg.run_dir.absolute()} is seen from {len(learners)} node(s) with learners")


def disks(reports: Sequence[NodeReport], cfg: RunConfig, checkpoint_bytes: int) -> Check:
    """The disks have room for the checkpoints of the run: the last n, the best, and the one being written."""
    need = (cfg.checkpoint.keep + 2) * checkpoint_bytes
    learners = [r for r in reports if any(role.startswith("learner") for role in r.roles)]
    free = {_place(r): r.disk_free for r in learners}
    there = cfg.run_dir.absolute()
    while not there.is_dir():
        there = there.parent
    free["driver"] = shutil.disk_usage(there).free
    least = min(free, key=free.__getitem__)
    measured = (
        f"a checkpoint has {checkpoint_bytes / 1e6:.0f} MB; {cfg.checkpoint.keep} last, the best and one being written "
        f"need {need / 1e9:.1f} GB; {least} has {free[least] / 1e9:.1f} GB free"
    )
    if free[least] < need:
        return failed(
            measured,
            "the disk would fill up in the middle of the run",
            "free some space, lower checkpoint.keep, or set out= to a larger disk",
        )
    return passed(measured)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
