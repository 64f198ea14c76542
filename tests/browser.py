"""Headless Chromium for tests of what is read in a browser, spoken to through two pipes (DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OFF = ("quic", "background-networking", "component-update", "sync", "gpu", "default-apps", "extensions")


class Browser:
    """One page.

    Attributes:
        requests: addresses that the page has asked for.
        console: what the page, or the browser about the page, has written to the console.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb", buffering=0), os.fdopen(back, "rb")
        self._number, self._session, self._unread = 0, "", b""
        self.requests: list[str] = []
        self.console: list[str] = []
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of a size, in light or dark, and wait until all of it is there."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self._loaded = False
        self._call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._read()

    def run(self, script: str) -> Any:
        """What a script in the page comes to; a promise is waited for."""
        done = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self._unread:
            part = self._back.read1()
            assert part, "Chromium has ended"
            self._unread += part
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Log.entryAdded":
                self.console.append(about["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.console.append(json.dumps(about))
            case "Page.loadEventFired":
                self._loaded = True
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium with its profile in a folder. Skips the test where there is none, but fails it in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        reason = "no Chromium on this machine (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    from_us, to, back, from_it = *os.pipe(), *os.pipe()

    def connect() -> None:
        """In the child: Chromium reads from 3 and writes to 4."""
        ends = os.dup(from_us), os.dup(from_it)
        for end, number in zip(ends, (3, 4), strict=True):
            os.dup2(end, number)

    command = [program, "--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars"]
    command += [*(f"--disable-{name}" for name in _OFF), f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, preexec_fn=connect, pass_fds=(3, 4, from_us, from_it), close_fds=True
    )
    os.close(from_us)
    os.close(from_it)
    watch = threading.Timer(120, process.kill)  # one that hangs shall not hang the tests
    watch.start()
    try:
        yield Browser(to, back)
    finally:
        watch.cancel()
        process.kill()
        process.wait()
