"""A headless Chromium that is spoken to through pipes: real keys, real widths, both colour schemes."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page at a time; commands and answers are those of the DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()

        def pass_on() -> None:
            # Chromium reads from 3 and writes to 4, whatever numbers the pipes have here.
            high, low = os.dup(reads), os.dup(writes)
            os.dup2(high, 3)
            os.dup2(low, 4)

        self._process = subprocess.Popen(
            [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=pass_on,
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        self._number, self._kept = 0, b""
        self._session: str | None = None
        while not (pages := [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]):
            time.sleep(0.1)
        found = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = found["sessionId"]
        self.ask("Page.enable")

    def ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._kept:
            more = os.read(self._in, 1 << 20)
            assert more, "the browser is gone"
            self._kept += more
        one, _, self._kept = self._kept.partition(b"\0")
        return json.loads(one)

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said)

    def picture(self, path: Path) -> None:
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "scale": 1, **self.size()})  # fmt: skip
        path.write_bytes(base64.b64decode(found["data"]))

    def size(self) -> dict[str, int]:
        return self.run(
            "({width: document.documentElement.clientWidth, height: document.documentElement.scrollHeight})"
        )

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        self._process.wait(20)
        os.close(self._out)
        os.close(self._in)
