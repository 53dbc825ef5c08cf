"""Packs the files that a job needs, from the folder in which it is submitted, into a zip. Loads nothing heavy."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.types import BadInput

MAX_FILE = 10 << 20  # bytes; code is smaller, and Ray carries the package to every node
MAX_PACKAGE = 400 << 20  # bytes; Ray's own limit is 512 MiB
NO_GIT_SKIPS = {"runs", "models", "wandb", "node_modules", "__pycache__", "venv", "build"}


@dataclass(frozen=True)
class Package:
    """A zip of code. files: what it holds; left_out: what it does not, with reasons. Paths are relative to root."""

    root: Path
    path: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    num_bytes: int

    def holds(self, relative: str) -> bool:
        """Whether the zip holds a file, or anything of a folder."""
        name = os.path.normpath(relative)
        return any(f == name or f.startswith(name + os.sep) for f in self.files)

    def __str__(self) -> str:
        text = f"{len(self.files)} files, {self.num_bytes / 2**20:.1f} MiB"
        return text + (f"; left out: {', '.join(self.left_out)}" if self.left_out else "; nothing was left out")


def pack_folder(root: Path, to: Path, always: Sequence[str] = ()) -> Package:
    """Zip root's files into `to`, without those that git ignores or that are over 10 MiB, but with those in `always`.

    Equal files give equal bytes, so that Ray uploads a package once. Raises BadInput when it is too large.
    """
    names, left_out = _listed(root)
    wanted: list[str] = []
    total = 0
    for name in sorted({*names, *always}):
        path = root / name
        if not path.is_file():  # deleted but still known to git, a link to a folder, a submodule
            continue
        size = path.stat().st_size
        if size > MAX_FILE and name not in always:
            left_out.append(f"{name} ({size / 2**20:.0f} MiB)")
            continue
        wanted.append(name)
        total += size
    if total > MAX_PACKAGE:
        raise BadInput(
            f"{root}: its files are {total / 2**20:.0f} MiB, and a job may take {MAX_PACKAGE >> 20} MiB with it; "
            "let git ignore data and results, or submit from the folder of the code"
        )
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in wanted:
            info = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the clock
            info.external_attr = ((root / name).stat().st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, (root / name).read_bytes())
    return Package(root, to, tuple(wanted), tuple(left_out), to.stat().st_size)


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """(files to pack, what is left out): git decides in a checkout, and names elsewhere."""
    git = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        listed = subprocess.run([*git, "-co", "--exclude-standard"], capture_output=True, timeout=60)
        ignored = subprocess.run([*git, "-oi", "--exclude-standard", "--directory"], capture_output=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return _walked(root)
    if listed.returncode or ignored.returncode:
        return _walked(root)
    left_out = [f"{name} (git ignores it)" for name in _split(ignored.stdout) if "__pycache__" not in name]
    return _split(listed.stdout), left_out


def _split(names: bytes) -> list[str]:
    return [os.fsdecode(name) for name in names.split(b"\0") if name]


def _walked(root: Path) -> tuple[list[str], list[str]]:
    files: list[str] = []
    left_out: list[str] = []
    for folder, subfolders, names in os.walk(root):
        skipped = [s for s in subfolders if s in NO_GIT_SKIPS or s.startswith(".")]
        subfolders[:] = sorted(set(subfolders) - set(skipped))
        here = Path(folder).relative_to(root)
        left_out += [f"{here / s}/ (by its name)" for s in sorted(skipped) if s != "__pycache__"]
        files += [str(here / name) for name in names]
    return files, left_out
