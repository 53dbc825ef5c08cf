"""A run's folder belongs to one process at a time. Two would write one metrics.jsonl and each other's checkpoints.

<folder>/.lock           locked by the system while the process lives; a kill frees it
<folder>/.lock.holder    which process that is, for the message to the next
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rl.records.whole_files import write_whole
from rl.types import BadInput

log = logging.getLogger(__name__)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for the block.

    Raises BadInput when another process holds it, on this machine or where the folder is shared, and when it cannot be
    written.
    """
    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".lock.holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        write_whole(holder, f"pid {os.getpid()} on {socket.gethostname()}")
    except Timeout:
        who = f" ({holder.read_text(encoding='utf-8')})" if holder.is_file() else ""
        raise BadInput(
            f"another aha run{who} is at work in {folder}; wait for it, or use another name=... If that process is "
            f"gone and the file system did not notice, delete {folder / '.lock'}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise _unwritable(folder, error) from error
        log.warning("%s: this file system has no locks; see that no other aha run is at work there", folder)
    try:
        yield
    finally:
        lock.release()


def refuse_unwritable(folder: Path) -> None:
    """Raise BadInput when the folder cannot be made or written. Leaves nothing behind."""
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir()
                made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        for path in reversed(made):
            with suppress(OSError):  # another process has written there
                path.rmdir()


def _unwritable(folder: Path, error: OSError) -> BadInput:
    return BadInput(f"out: {folder} cannot be written ({error.strerror}); name another folder with out=...")
