"""Whether the Hugging Face Hub can be reached, asked once and before anything is looked for there.

The Hub's own libraries wait half a minute for each file that they look for without a network, and look for several.
"""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session, is_offline_mode, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled

log = logging.getLogger(__name__)

TRIES, PAUSE_S, TIMEOUT_S = 2, 1.0, 10.0


def reach_hub(name: str) -> None:
    """Before a model or dataset is loaded by its name: where that is no path, and no answer comes from the Hub, say so
    and let this process use only what is on its disk already. Asks once in a process.
    """
    if not Path(name).exists() and not is_offline_mode():
        _ask()


@functools.cache
def _ask() -> None:
    for left in reversed(range(TRIES)):
        try:
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
            return
        except httpx2.TransportError as error:
            fault = str(error) or type(error).__name__
        if left:
            time.sleep(PAUSE_S)
    log.warning("%s cannot be reached (%s): only what is on this disk already is used", constants.ENDPOINT, fault)
    set_client_factory(lambda: httpx2.Client(event_hooks={"request": [_refuse]}))


def _refuse(request: httpx2.Request) -> None:
    """The libraries take this error for a missing network at once, and look in their cache."""
    raise OfflineModeIsEnabled(f"{constants.ENDPOINT} cannot be reached")
