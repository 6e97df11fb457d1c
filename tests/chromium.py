"""A headless Chromium, told what to do by its DevTools protocol over two pipes: no driver to install."""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import threading
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
WHY_SKIPPED = f"no Chromium here (looked for {', '.join(NAMES)})"
_QUIET = ("quic", "background-networking", "component-update", "sync", "gpu", "default-apps", "extensions")
# Nothing of Chromium's own leaves the machine either.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    *(f"--disable-{name}" for name in _QUIET),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_WAIT_S = 60.0


class Tab:
    """A page in a browser of its own.

    console  what the page logged, and its errors
    asked    the addresses that the page asked for
    """

    def __init__(self, send, events):
        self.console, self.asked = [], []
        self._send, self._events, self._number, self._session = send, events, 0, None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.do(f"{domain}.enable")

    def do(self, method, **parameters):
        """A command of the protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._send(message | ({"sessionId": self._session} if self._session else {}))
        while (event := self._events.get(timeout=_WAIT_S)).get("id") != self._number:
            self._note(event.get("method"), event.get("params", {}))
        assert "error" not in event, f"{method}: {event}"
        return event["result"]

    def _note(self, method, parameters):
        if method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(a.get("value")) for a in parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])

    def run(self, script):
        """The value of JavaScript in the page; a promise is waited for."""
        found = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script, wait_s=_WAIT_S):
        """Waits until it is true."""
        end_s = time.monotonic() + wait_s
        while not (value := self.run(script)):
            assert time.monotonic() < end_s, f"in {wait_s} s never: {script}\n{self.console}"
            time.sleep(0.03)
        return value

    def open(self, address):
        """Waits until the page is loaded."""
        self.do("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def look(self, width, height, *, is_dark=False, is_phone=False):
        """The size of the window, and the colours that the person likes."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector):
        """With the mouse, in the middle of the element."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, *paths):
        """Files dragged from the desktop onto the page."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)


@contextlib.contextmanager
def tab(folder, *flags):
    """A Tab; the browser's profile is in the folder."""
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    script = f'exec "$@" 3<&{from_us} 4>&{to_us}'
    command = [PATH, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", *flags]
    with open(folder / "chromium.log", "wb") as log:
        browser = subprocess.Popen(["bash", "-c", script, "-", *command], pass_fds=(from_us, to_us), stderr=log)
    os.close(from_us)
    os.close(to_us)
    events: queue.Queue = queue.Queue()
    with open(to_browser, "wb", buffering=0) as writer, open(from_browser, "rb", buffering=0) as reader:
        threading.Thread(target=_listen, args=(reader, events), daemon=True).start()
        opened = Tab(lambda message: writer.write(json.dumps(message).encode() + b"\0"), events)
        try:
            yield opened
        finally:
            browser.terminate()
            browser.wait(_WAIT_S)


def _listen(reader, events):
    """Messages end with a zero byte."""
    rest = b""
    while part := reader.read(2**16):
        *messages, rest = (rest + part).split(b"\0")
        for message in messages:
            events.put(json.loads(message))
