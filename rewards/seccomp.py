"""The system calls that a sandbox refuses, as a filter for the kernel (seccomp(2))."""

from __future__ import annotations

import platform
import struct

# Calls that would get round a limit (memory that no limit counts) or touch another process or the mounts: ptrace,
# shmget, semget, msgget, mount, umount2, unshare, setns, memfd_create, bpf, userfaultfd, perf_event_open, keyctl,
# add_key, request_key, process_vm_readv, process_vm_writev. The last row has one number on every machine:
# io_uring_setup, open_tree, move_mount, fsopen, fsmount, pidfd_getfd, mount_setattr, memfd_secret.
_REFUSED = {
    "x86_64": (101, 29, 64, 68, 165, 166, 272, 308, 319, 321, 323, 298, 250, 248, 249, 310, 311),
    "aarch64": (117, 194, 190, 186, 40, 39, 97, 268, 279, 280, 282, 241, 219, 217, 218, 270, 271),
}
_REFUSED_EVERYWHERE = (425, 428, 429, 430, 432, 438, 442, 447)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def seccomp_filter() -> bytes:
    """A classic BPF program (linux/filter.h) that answers the refused calls with EPERM; b"" on other machines.

    Another architecture's calls (32-bit ones on x86_64) and the x32 numbers are refused as a whole.
    """
    machine = platform.machine()
    if machine not in _REFUSED:
        return b""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
    calls = (*_REFUSED[machine], *_REFUSED_EVERYWHERE)
    code = [(load, 0, 0, 4), (equal, 0, len(calls) + 3, _AUDIT_ARCH[machine])]
    code += [(load, 0, 0, 0), (at_least, len(calls) + 1, 0, 0x40000000)]
    code += [(equal, len(calls) - i, 0, call) for i, call in enumerate(calls)]
    code += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *step) for step in code)
