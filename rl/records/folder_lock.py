"""Keeps a run's folder to one process at a time. Two would mix their metrics.jsonl and their checkpoints.

<folder>/.lock           locked by the operating system while the process lives; a kill frees it
<folder>/.lock.holder    names that process, for the message to the next one
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
    """Make the folder and lock it during the block.

    Raises BadInput when another process holds the lock (on this machine or on one that shares the folder), and when the
    folder cannot be written.
    """
    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".lock.holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        write_whole(holder, f"pid {os.getpid()} on {socket.gethostname()}")
    except Timeout:
        who = f" ({holder.read_text(encoding='utf-8', errors='replace')})" if holder.is_file() else ""
        raise BadInput(
            f"another aha run{who} is working in {folder}; wait for it, or use another name=... If that process is "
            f"gone and the file system did not notice, delete {folder / '.lock'}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise _unwritable(folder, error) from error
        log.warning("%s: this file system has no locks; make sure that no other aha run works there", folder)
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
            with suppress(OSError):  # not empty: another process has written there
                path.rmdir()


def _unwritable(folder: Path, error: OSError) -> BadInput:
    return BadInput(f"out: {folder} cannot be written ({error.strerror}); name another folder with out=...")
