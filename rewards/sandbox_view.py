"""What a sandbox sees of the host, read-only: the interpreter and its standard library, or a compiler.

An installed package is not among it. Everything is found once a process, and handed to bubblewrap as its arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}

_HOW_TO_INSTALL = (
    "install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap), or pass "
    "run_untrusted_code_without_sandbox=True if the code may do to this machine whatever it likes"
)

_FOR_PEOPLE = ("_tkinter", "_curses", "readline", "nis", "_dbm", "_gdbm")
"""Modules that no program of a test uses, whose libraries are many: each one shown costs every run a mount."""


class SandboxError(RuntimeError):
    """The sandbox could not start. Never the program's fault."""


@dataclasses.dataclass(frozen=True)
class View:
    """What a sandbox shows of the host, read-only. private: a folder that only root can enter, or ""."""

    arguments: tuple[str, ...]
    private: str = ""


def tool(name: str) -> str:
    """The path of a program of the host. Raises SandboxError, with how to get it."""
    found = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin")
    if found:
        return found
    if name == "bwrap":
        raise SandboxError(f"bubblewrap (the program bwrap) is not installed: {_HOW_TO_INSTALL}")
    raise SandboxError(f"the program {name} is not installed; it comes with util-linux")


def python() -> str:
    """The interpreter that programs run with: this one's own, outside any virtual environment."""
    return os.path.realpath(str(vars(sys).get("_base_executable") or sys.executable))


@functools.cache
def view_of(show: Literal["python", "compiler"]) -> View:
    """What to show to a Python program, or to a compiler."""
    return _compiler_view() if show == "compiler" else _python_view()


def _python_view() -> View:
    """The interpreter, its standard library without installed packages, and the shared libraries that they load."""
    stdlib = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    programs = [python(), os.path.realpath(tool("prlimit"))]
    binds = [*dict.fromkeys([python(), tool("prlimit")]), str(stdlib)]
    modules = [path for path in sorted((stdlib / "lib-dynload").glob("*.so")) if not path.name.startswith(_FOR_PEOPLE)]
    binds += _shared_libraries([*programs, *map(str, modules)])
    binds += [str(path) for path in [Path("/etc/ld.so.cache")] if path.exists()]
    private = os.path.realpath(sys.base_prefix) if os.geteuid() == 0 and _is_private(stdlib) else ""
    arguments: list[str] = []
    for path in binds:
        source = os.path.realpath(path)
        inside = private and Path(source).is_relative_to(private)
        arguments += ["--ro-bind", "/mnt/" + os.path.relpath(source, private) if inside else source, path]
    for packages in (stdlib / "site-packages", stdlib / "dist-packages"):
        if packages.is_dir():
            arguments += ["--size", "4096", "--tmpfs", str(packages), "--remount-ro", str(packages)]
    return View(tuple(arguments), private)


def _compiler_view() -> View:
    """/usr, where g++, its headers and its libraries are, without /usr/local."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/lib", "/lib32", "/lib64", "/sbin"):
        if os.path.islink(name):
            arguments += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            arguments += ["--ro-bind", name, name]
    if os.path.isdir("/usr/local"):
        arguments += ["--size", "4096", "--tmpfs", "/usr/local", "--remount-ro", "/usr/local"]
    return View(tuple(arguments))


def _is_private(path: Path) -> bool:
    return any(not folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _shared_libraries(files: Sequence[str]) -> list[str]:
    """Paths of all shared libraries, the loader among them, that the files need. ldd(1) runs once for them all."""
    done = subprocess.run(
        [tool("ldd"), *files], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    return sorted(set(re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE)))
