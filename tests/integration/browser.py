"""A headless Chromium for tests, driven by selenium."""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage", "host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 60


def program() -> str:
    """The browser's path, "" where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


def missing() -> str:
    """Why there is no browser here, or ""."""
    absent = [] if program() else ["chromium"]
    absent += [] if shutil.which("chromedriver") else ["chromedriver"]
    return f"{' and '.join(absent)} not installed: apt-get install chromium chromium-driver" if absent else ""


class Browser:
    """One page at a time. Names resolve to nothing, so that a page which needs the network fails."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = program()
        for flag in (*FLAGS, f"user-data-dir={self._profile.name}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # With the driver's path selenium looks for none by itself, for which it would ask the network.
        self._driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self._driver.set_script_timeout(WAIT_S)
        self._driver.set_page_load_timeout(WAIT_S)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._driver.quit()
        self._profile.cleanup()

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._driver.get(path.resolve().as_uri())

    def run(self, script: str) -> object:
        """What the script returns; it may await."""
        body = f"const done = arguments[0]; (async () => {{ {script} }})().then(done, (e) => done('failed: ' + e));"
        return self._driver.execute_async_script(body)

    def devtools(self, command: str, **params: object) -> dict[str, object]:
        return self._driver.execute_cdp_cmd(command, params)

    def console(self) -> list[str]:
        """Messages since the last call, warnings and worse."""
        return [e["message"] for e in self._driver.get_log("browser") if e["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        answer = self.devtools(
            "Page.captureScreenshot", captureBeyondViewport=whole, **(self._whole() if whole else {})
        )
        path.write_bytes(base64.b64decode(str(answer["data"])))

    def _whole(self) -> dict[str, object]:
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight];")
        assert isinstance(size, list)
        return {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}
