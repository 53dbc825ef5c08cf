"""A headless Chromium for tests, driven through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType

FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage", "host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
WAIT_S = 60


def missing() -> str:
    """Why there is no browser here, or ""."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed: apt-get install chromium chromium-driver" if absent else ""


class Browser:
    """One page at a time. Names resolve to nothing, so that a page which needs the network fails."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [shutil.which("chromedriver") or "", "--port=0"]
        self._driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._driver.stdout is not None
        line = next(line for line in self._driver.stdout if "started successfully on port" in line)
        self._url = f"http://127.0.0.1:{line.rstrip().rstrip('.').rsplit(' ', 1)[-1]}"
        options = {
            "args": [*FLAGS, f"user-data-dir={self._profile.name}"],
            "binary": shutil.which("chromium"),
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        assert isinstance(answer, dict)
        self._url += f"/session/{answer['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=WAIT_S)
            self._profile.cleanup()

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._call("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script: str) -> object:
        """What the script returns; it may await."""
        body = f"const done = arguments[0]; (async () => {{ {script} }})().then(done, (e) => done('failed: ' + e));"
        return self._call("POST", "/execute/async", {"script": body, "args": []})

    def devtools(self, command: str, **params: object) -> object:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def console(self) -> list[str]:
        """Messages since the last call, warnings and worse."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        assert isinstance(entries, list)
        return [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        answer = self.devtools(
            "Page.captureScreenshot", captureBeyondViewport=whole, **(self._whole() if whole else {})
        )
        assert isinstance(answer, dict)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _whole(self) -> dict[str, object]:
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight];")
        assert isinstance(size, list)
        return {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}

    def _call(self, method: str, path: str, body: object = None) -> object:
        data = None if method == "DELETE" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read())["value"]
