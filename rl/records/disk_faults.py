"""A disk that is full or may not be written: known by the error, and told with the folder and with what is needed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl.records.checkpoint import MANIFEST
from rl.types import AhaError, BadInput, Stopped

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL_TEXTS = (
    os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "os error 28", "database or disk is full",
    "PytorchStreamWriter failed writing", "unexpected pos ",
)  # fmt: skip
"""How libraries, and workers on other nodes, tell of a full disk without an errno. The last two are torch.save's."""

GO_ON = "the same command goes on from the last checkpoint"


@contextmanager
def disk_faults_told(folder: Path) -> Iterator[None]:
    """Raise AhaError, with what to do, when the block fails because a disk is full or may not be written.

    folder: of the run, for errors that name no file.
    """
    try:
        yield
    except Exception as error:
        told = disk_fault(error, folder)
        if told is None:
            raise
        raise told from error


def disk_fault(error: Exception, folder: Path, then: str = GO_ON) -> AhaError | None:
    """What to tell the user of an error that a disk causes; None for every other.

    then: what the user does once that is mended.
    """
    if isinstance(error, BadInput | Stopped):
        return None
    link: BaseException | None = error
    while link is not None:
        number, name = (link.errno, link.filename) if isinstance(link, OSError) else (None, None)
        place = Path(name) if isinstance(name, str) else folder
        if number in FULL or (not isinstance(link, OSError) and any(text in str(link) for text in FULL_TEXTS)):
            said = "" if isinstance(link, OSError) else f": {' '.join(str(link).split())[-200:]}"
            return AhaError(f"{_full(place)}{said}; {_needed(folder)}. Make room there; {then}")
        if number in FORBIDDEN and isinstance(name, str):
            return AhaError(
                f"{place} cannot be written or read ({os.strerror(number or 0)}). Give this user the right, or name "
                f"another folder; {then}"
            )
        link = link.__cause__
    return None


def _full(place: Path) -> str:
    there = next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))
    return f"the disk is full at {place} ({size(shutil.disk_usage(there).free)} free)"


def _needed(folder: Path) -> str:
    """What a checkpoint of the folder's run takes, or takes about where there is none to go by."""
    manifests = [p for stages in ("", "*/") for p in folder.glob(f"{stages}checkpoints/*/step_??????/{MANIFEST}")]
    if not manifests:
        return "a checkpoint takes about 16 bytes for each trained parameter"
    largest = max(sum(p.stat().st_size for p in m.parent.rglob("*") if p.is_file()) for m in manifests)
    return f"a checkpoint of this run takes {size(largest)}, and a new one is whole before an older one goes"


def size(number: int) -> str:
    """1_500_000 -> "1.4 MiB" """
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
