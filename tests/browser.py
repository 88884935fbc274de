"""A headless Chromium that tests look at pages with: real clicks and keys, by the protocol of its developer tools."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

QUIET = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "End": (35, ""), "Home": (36, "")}
KEYS |= {"ArrowLeft": (37, ""), "ArrowUp": (38, ""), "ArrowRight": (39, ""), "ArrowDown": (40, "")}


class Browser:
    """One tab of a size. A context manager.

    Attributes:
        said: What pages wrote to the console: errors, warnings, refusals of their policy.
        asked: The addresses of all that was loaded.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, *, phone: bool = False) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("no chromium or chrome is installed")
        self.said: list[str] = []
        self.asked: list[str] = []
        self._count, self._session, self._loaded = 0, "", 0
        to_read, to_write = os.pipe()
        answers, answering = os.pipe()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", *QUIET.split(), "--remote-debugging-pipe"]
        command += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars", "about:blank"]
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, answering)]

        def lay_ends() -> None:  # it takes orders from its descriptor 3 and answers on 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(command, preexec_fn=lay_ends, close_fds=False, stderr=subprocess.DEVNULL)
        for end in (to_read, answering, *ends):
            os.close(end)
        self._orders, self._answers, self._read = os.fdopen(to_write, "wb", 0), os.fdopen(answers, "rb", 0), b""
        (tab,) = [each for each in self.order("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.order("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.order(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.order("Emulation.setDeviceMetricsOverride", **metrics)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._orders.close()  # at which it ends
        self._answers.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def order(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order, and its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._orders.write(
            json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            data = os.read(self._answers.fileno(), 1 << 20)
            assert data, "the browser is gone"
            self._read += data
        line, self._read = self._read.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        happened, details = message.get("method"), message.get("params", {})
        self._loaded += happened == "Page.loadEventFired"
        if happened == "Network.requestWillBeSent":
            self.asked.append(details["request"]["url"])
        if happened in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.said.append(json.dumps(details))
        return message

    def open(self, page: Path) -> None:
        """Open a file, until it is loaded."""
        before = self._loaded
        self.order("Page.navigate", url=page.absolute().as_uri())
        while self._loaded == before:
            self._next()

    def value(self, script: str) -> Any:
        """What an expression is worth in the page; of a promise, what it promised."""
        done = self.order("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def settled(self) -> None:
        """Wait until the page is drawn as it is now."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def click(self, what: str) -> None:
        """Click on the middle of the first element of a CSS selector."""
        find = f"document.querySelector({json.dumps(what)})"
        self.value(f"{find}.scrollIntoView({{block: 'center'}})")
        self.settled()
        box = self.value(f"{find}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)
        self.settled()

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.order("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key of KEYS."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            self.order("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said)
        self.settled()

    def write(self, text: str) -> None:
        """Write where the cursor is."""
        self.order("Input.insertText", text=text)
        self.settled()

    def picture(self, path: Path, *, dark: bool = False) -> None:
        """Save what is in view as PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.order("Emulation.setEmulatedMedia", features=[scheme])
        self.settled()
        path.write_bytes(base64.b64decode(self.order("Page.captureScreenshot", format="png")["data"]))
