"""Firefox driven through Marionette, its own remote control: JSON messages with their length before them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PREFERENCES = """
user_pref("webgl.force-enabled", true);
user_pref("media.autoplay.default", 0);
user_pref("app.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("extensions.update.enabled", false);
"""


class Firefox:
    """One Firefox with an empty profile in `folder`; a context. On a screen in memory (Xvfb) where there is one:
    headless Firefox has no WebGL without a GPU."""

    def __init__(self, program: str, folder: Path, size: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "user.js").write_text(PREFERENCES + f'user_pref("marionette.port", {port});\n')
        environment = {**os.environ, "LIBGL_ALWAYS_SOFTWARE": "1"}
        self.processes = []
        if shutil.which("Xvfb"):
            screen = subprocess.Popen(
                ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x1200x24"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self.processes.append(screen)
            environment["DISPLAY"] = f":{int(screen.stdout.readline())}"
        else:
            environment["MOZ_HEADLESS"] = "1"
        self.processes.append(
            subprocess.Popen(
                [program, "--no-remote", "--marionette", "--profile", str(folder)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        self.count, self.buffer = 0, b""
        try:
            self.socket = self._connect(port)
            self._read()  # its greeting
            self.call("WebDriver:NewSession", {})
            self.call("WebDriver:SetTimeouts", {"script": 120_000})
            self._fit(size)
        except BaseException:
            self.close()
            raise

    def _connect(self, port: int) -> socket.socket:
        for _ in range(120):
            try:
                return socket.create_connection(("127.0.0.1", port), 180)
            except OSError:
                time.sleep(0.5)
        raise TimeoutError("Firefox does not answer")

    def _read(self) -> Any:
        while b":" not in self.buffer:
            self.buffer += self.socket.recv(1 << 16)
        length, _, rest = self.buffer.partition(b":")
        while len(rest) < int(length):
            rest += self.socket.recv(1 << 20)
        self.buffer = rest[int(length) :]
        return json.loads(rest[: int(length)])

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        self.count += 1
        message = json.dumps([0, self.count, name, arguments]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(f"{name}: {error['message']}")
        return result.get("value", result)

    def _fit(self, size: int) -> None:
        """Makes the page `size` pixels wide and high."""
        outer, inner = "return [outerWidth, outerHeight]", "return [innerWidth, innerHeight]"
        self.call("WebDriver:SetWindowRect", {"width": size + 100, "height": size + 200})
        frame = [a - b for a, b in zip(self.script(outer), self.script(inner))]
        self.call("WebDriver:SetWindowRect", {"width": size + frame[0], "height": size + frame[1]})

    def open(self, url: str) -> None:
        self.call("WebDriver:Navigate", {"url": url})

    def script(self, text: str, *arguments: Any) -> Any:
        """Runs a function's body in the page; what it returns, a promise's value included."""
        wrapped = (
            "const done = arguments[arguments.length - 1]; const given = [...arguments].slice(0, -1);"
            "(async function () { " + text + " }).apply(null, given).then(done, (e) => done('error: ' + e));"
        )
        return self.call("WebDriver:ExecuteAsyncScript", {"script": wrapped, "args": list(arguments), "sandbox": None})

    def picture(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.call("WebDriver:TakeScreenshot", {"full": False}))

    def close(self) -> None:
        if hasattr(self, "socket"):
            self.socket.close()
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)

    def __enter__(self) -> Firefox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
