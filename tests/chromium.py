"""Chromium without a window, moved through its DevTools protocol over a pair of pipes, so without any other library."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync --no-default-browser-check --mute-audio "
    "--remote-debugging-pipe"
).split()
SECONDS = 60.0


class Browser:
    """One page: `with Browser(folder) as page: page.open(url)`.

    Attributes:
        events: what the browser has told, in order: {"method": .., "params": {..}}.
    """

    def __init__(self, folder: Path):
        assert PROGRAM
        self.events: list[dict[str, Any]] = []
        self.session, self.number, self.unread = None, 0, b""
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        high = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs_in, theirs_out)]
        command = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
        words = ["bash", "-c", command, "bash", PROGRAM, *OPTIONS, f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(
            words, pass_fds=high, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for each in (theirs_in, theirs_out, *high):
            os.close(each)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            told = self.next()
            if told.get("id") == self.number:
                assert "error" not in told, (method, told)
                return told["result"]

    def next(self) -> dict[str, Any]:
        """The next message; events are kept."""
        while b"\0" not in self.unread:
            part = os.read(self.into, 1 << 20)
            assert part, "Chromium ended"
            self.unread += part
        text, _, self.unread = self.unread.partition(b"\0")
        told = json.loads(text)
        if "method" in told:
            self.events.append(told)
        return told

    def seen(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of a kind so far."""
        return [each["params"] for each in self.events if each["method"] == method]

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        told = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression} did not become true; the page says:\n{self.text()}"
            time.sleep(0.05)

    def text(self, selector: str = "body") -> str:
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Press the left button over the middle of an element."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key that is no letter."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def choose(self, selector: str, file: Path) -> None:
        """Press a button that asks for a file, and choose one."""
        self.ask("Page.setInterceptFileChooserDialog", enabled=True)
        before = len(self.seen("Page.fileChooserOpened"))
        self.click(selector)
        while len(self.seen("Page.fileChooserOpened")) == before:
            self.next()
        node = self.seen("Page.fileChooserOpened")[-1]["backendNodeId"]
        self.ask("DOM.setFileInputFiles", files=[str(file)], backendNodeId=node)

    def screenshot(self, file: Path, width: int, height: int, dark: bool = False) -> None:
        """Write a PNG of the page in a window of that size, with what is below it."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(told["data"]))
