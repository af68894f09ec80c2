"""A page in a headless Chromium, driven over its own protocol by a pipe: clicks, keys, sizes, and what it reports."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


class Page:
    """One tab of a browser of its own, which ends with the ``with`` block.

    :attr:`events` holds what the page reported: console messages, exceptions, requests.
    """

    def __init__(self, profile: Path, timeout: float = 120):
        self.profile, self.timeout, self.events, self.number, self.rest = profile, timeout, [], 0, b""

    def __enter__(self):
        theirs, self.to = os.pipe()
        self.back, out = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command = [PROGRAM, *options, f"--user-data-dir={self.profile}", "about:blank"]
        redirect = f'exec "$0" "$@" 3<&{theirs} 4>&{out}'  # the pipes that Chromium expects
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, *command],
            pass_fds=(theirs, out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(out)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)  # the browser and all that it started
        self.process.wait()
        os.close(self.to)
        os.close(self.back)

    def call(self, method, **params):
        """The result of a command of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self.next(deadline)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def next(self, deadline):
        """The next message of the browser; events are kept."""
        while b"\0" not in self.rest:
            os.set_blocking(self.back, False)
            try:
                part = os.read(self.back, 1 << 16)
                assert part, "the browser is gone"
                self.rest += part
            except BlockingIOError:
                assert time.monotonic() < deadline, "the browser does not answer"
                time.sleep(0.02)
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, path, width, dark):
        """Show a file in a window of that width, in light or dark colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + self.timeout
        while "Page.loadEventFired" not in [name for name, _ in self.events]:
            self.next(deadline)

    def run(self, script):
        """The value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key):
        """Press a key, as a person does."""
        text = {"Enter": "\r", " ": " "}.get(key)
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)
