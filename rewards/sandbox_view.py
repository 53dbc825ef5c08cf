"""What a sandbox sees of the host, read-only: the interpreter and its standard library, or a compiler.

An installed package is among it only by request. Everything is found once a process, and handed to bubblewrap as its
arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",  # of numpy: a thread's buffers count as memory
}  # fmt: skip
PACKAGES = "/packages"
"""Where the sandbox shows packages."""

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
    """What a sandbox shows of the host, read-only. private: folders, or files, of it that only root can reach."""

    arguments: tuple[str, ...]
    private: tuple[str, ...] = ()


def places_of(private: tuple[str, ...]) -> list[str]:
    """Where what is private in a view is put before bubblewrap starts: one takes /mnt itself, which saves time."""
    return ["/mnt"] if len(private) == 1 else [f"/mnt/{i}" for i in range(len(private))]


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
def view_of(show: Literal["python", "compiler"], packages: tuple[str, ...] = ()) -> View:
    """What to show to a Python program, or to a compiler. packages: installed ones, for Python."""
    return _compiler_view() if show == "compiler" else _python_view(packages)


@functools.cache
def package_paths(name: str) -> tuple[Path, ...]:
    """The folder or file of an installed package, and the folder with its libraries. Raises SandboxError."""
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ImportError:
        spec = None
    if spec is None:
        raise SandboxError(f"packages: {name!r} is not installed for {sys.executable}; install it, or take it out")
    folders = list(spec.submodule_search_locations or ())
    found = Path(os.path.realpath(folders[0] if folders else str(spec.origin)))
    libraries = found.parent / f"{name}.libs"
    return (found, libraries) if libraries.is_dir() else (found,)


def _python_view(packages: tuple[str, ...]) -> View:
    """The interpreter, its standard library without installed packages, and the shared libraries that they load."""
    stdlib = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    programs = [python(), os.path.realpath(tool("prlimit"))]
    added = [path for name in packages for path in package_paths(name)]
    binds = {path: path for path in [python(), tool("prlimit"), str(stdlib)]}
    modules = [path for path in sorted((stdlib / "lib-dynload").glob("*.so")) if not path.name.startswith(_FOR_PEOPLE)]
    theirs = [str(library) for path in added if path.is_dir() for library in path.rglob("*.so*")]
    libraries = _shared_libraries([*programs, *map(str, modules), *theirs])
    binds |= {path: path for path in libraries if not any(Path(path).is_relative_to(p.parent) for p in added)}
    binds |= {str(path): str(path) for path in [Path("/etc/ld.so.cache")] if path.exists()}
    binds |= {f"{PACKAGES}/{path.name}": str(path) for path in added}
    roots = {os.path.realpath(sys.base_prefix): stdlib} | {str(path): path.parent for path in added}
    private = tuple(root for root, path in roots.items() if os.geteuid() == 0 and _is_private(path))
    places = places_of(private)
    arguments: list[str] = []
    for shown, path in binds.items():
        source = os.path.realpath(path)
        for root, place in zip(private, places, strict=True):
            if Path(source).is_relative_to(root):
                source = os.path.normpath(f"{place}/" + os.path.relpath(source, root))
                break
        arguments += ["--ro-bind", source, shown]
    for folder in (stdlib / "site-packages", stdlib / "dist-packages"):
        if folder.is_dir():
            arguments += ["--size", "4096", "--tmpfs", str(folder), "--remount-ro", str(folder)]
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
