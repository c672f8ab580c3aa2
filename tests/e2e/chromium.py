"""A headless Chromium, driven over its debugging pipe: pages, keys, screenshots, and what its console says."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


class Chromium:
    """One window. Errors of pages gather in `problems`."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        (reading, self._out), (self._in, writing) = os.pipe(), os.pipe()
        # High numbers: the browser wants the pipes as 3 and 4
        to_read, to_write = (fcntl.fcntl(descriptor, fcntl.F_DUPFD, 50) for descriptor in (reading, writing))
        command = f'exec "$0" {_FLAGS} --remote-debugging-pipe --user-data-dir="$1" 3<&{to_read} 4>&{to_write}'
        shell = ["bash", "-c", command, CHROMIUM, str(profile)]
        self._process = subprocess.Popen(shell, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
        for descriptor in (reading, writing, to_read, to_write):
            os.close(descriptor)
        self._rest, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.addresses: list[str] = []
        """Of every request."""
        self.events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        request = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._out, json.dumps(request).encode() + b"\0")
        while (found := self._next()).get("id") != self._number:
            pass
        assert "error" not in found, found
        result: dict[str, Any] = found["result"]
        return result

    def wait_for(self, event: str) -> None:
        while event not in self.events:
            self._next()

    def open(self, address: str) -> None:
        self.after_load(lambda: self.call("Page.navigate", url=address))

    def after_load(self, action: Any) -> None:
        """Do something that loads a page, and wait until it is there."""
        self.events.clear()
        action()
        self.wait_for("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        about = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper())), "text": text}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **about)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        method, about = found.get("method", ""), found.get("params", {})
        self.events.append(method)
        if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(about["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.addresses.append(about["request"]["url"])
        return found
