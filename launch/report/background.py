"""Writes reports while a run goes on: in another process, one at a time, at low priority.

A report that fails does not disturb the run: the log says so once, and the run goes on.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

log = logging.getLogger(__name__)
LONGEST_S = 300.0
"""Seconds that one report may take."""


class Reports:
    """Call it with a folder to write that folder's report; it returns at once. Call finish() when the run is over.

    Calls made while a report is being written become one more report after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Path | None = None
        self._thread: threading.Thread | None = None
        self._said = False

    def __call__(self, folder: Path) -> None:
        with self._lock:
            self._waiting = folder
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
                self._thread.start()

    def finish(self, folder: Path) -> None:
        """Write the last report, and print where it is or that it failed."""
        self.wait()
        if self._write(folder):
            print(f"The report: {folder / 'report.html'}")

    def wait(self) -> None:
        """Wait until no report is being written; at most 2 * LONGEST_S."""
        thread = self._thread
        if thread is not None:
            thread.join(2 * LONGEST_S)

    def _work(self) -> None:
        while True:
            with self._lock:
                folder, self._waiting = self._waiting, None
                if folder is None:
                    self._thread = None
                    return
            self._write(folder)

    def _write(self, folder: Path) -> bool:
        """Write the report. Returns whether that worked."""
        command = [sys.executable, "-m", "launch.cli", "report", str(folder)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                timeout=LONGEST_S, preexec_fn=lambda: os.nice(19), start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            why = str(error)
        else:
            if done.returncode == 0:
                return True
            said = done.stderr.strip().splitlines()
            why = said[-1].removeprefix("aha: ") if said else f"exit code {done.returncode}"
        if not self._said:
            self._said = True
            log.warning("no report of %s was written (%s); aha report %s tries again", folder, why, folder)
        return False
