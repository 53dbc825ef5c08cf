"""Finds a Ray cluster that takes jobs: the address of its dashboard, its token, its version. Loads no Ray."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from rl.types import BadInput

HTTP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """A Ray dashboard that answered."""

    url: str

    @property
    def is_local(self) -> bool:
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


def reach(address: str) -> Cluster:
    """Ask the dashboard for its version, with the token. Raises BadInput when no job can be sent there."""
    url = dashboard_url(address)
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    token = read_token()
    if mode == "token":
        # Anyone who reaches a cluster without a token can run anything on it.
        if _get(url, None) == 200:
            raise BadInput(
                f"{url}: this cluster takes jobs from anybody who reaches it. Start Ray with RAY_AUTH_MODE=token on "
                "every node; or, where that is meant, set RAY_AUTH_MODE=disabled here"
            )
        if not token:
            raise BadInput(
                f"{url}: the cluster wants a token and there is none here. On its head node `ray get-auth-token` "
                "prints it; put it into ~/.ray/auth_token, or a file named by RAY_AUTH_TOKEN_PATH, or RAY_AUTH_TOKEN"
            )
    status = _get(url, token if mode == "token" else None)
    if status in (401, 403) and mode != "token":
        raise BadInput(f"{url}: the cluster wants its token, and RAY_AUTH_MODE={mode} is set here; unset it")
    if status in (401, 403):
        raise BadInput(
            f"{url}: the cluster refused the token ({token_source()}); on its head node `ray get-auth-token` prints "
            "the right one"
        )
    if status != 200:
        raise BadInput(f"{url}: answered with HTTP {status}; is this a Ray dashboard?")
    return Cluster(url)


def dashboard_url(address: str) -> str:
    """The URL of the dashboard. Raises BadInput for other kinds of Ray address."""
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port not in (6379, 10001)
    except ValueError:  # the port is not a number
        fits = False
    if not fits:
        raise BadInput(f"--address {address}: give the address of Ray's dashboard, for example http://127.0.0.1:8265")
    return url.rstrip("/")


def read_token() -> str:
    """The cluster's token, from the places where Ray looks for it; "" when there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else ""


def token_source() -> str:
    """Where read_token found it, in words."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "from RAY_AUTH_TOKEN"
    return f"from {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"


def _get(url: str, token: str | None) -> int:
    """The HTTP status of the list of jobs. Raises BadInput when nothing answers, or another version of Ray does."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(f"{url}/api/version", headers=headers)
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:
            theirs = str(json.load(response)["ray_version"])
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise BadInput(
            f"{url}: no Ray cluster answers there ({reason}). On the head node: RAY_AUTH_MODE=token ray start --head; "
            "from elsewhere, first: ssh -L 8265:localhost:8265 HEAD"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{url}: what answers there is not Ray's dashboard") from error
    if theirs != version("ray"):
        raise BadInput(f"{url}: the cluster runs Ray {theirs}, here is {version('ray')}; use one version")
    return 200


def default_python(cluster: Cluster) -> str:
    """On this machine, the Python that runs this; on another, the first on the PATH with which Ray was started."""
    return sys.executable if cluster.is_local else "python"
