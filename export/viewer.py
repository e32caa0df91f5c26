"""Serves an avatar's page (`mvp4d_export.formats.html`) on this machine: the browser draws.

Each visitor has the whole avatar and their own sliders. A viewer that is driven sends poses, over sockets that hear
nothing. A page of another site gets no answer.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d_export.broadcast import Broadcast

_HERE = ("127.0.0.1", "localhost", "::1")


class Viewer:
    """A server of one page. The address is taken at once, `show` gives it the page."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8080):
        """
        Raises:
          UserError: the address cannot be listened on.
        """
        if not 0 <= port <= 65535:
            raise UserError("`port`", f"{port} is no port", "use 1024 to 65535")
        kind = type("_Server", (_Server,), {"address_family": socket.AF_INET6}) if ":" in host else _Server
        try:
            self.server = kind((host, port), _Handler)
        except OSError as error:
            raise UserError(
                "`port`",
                f"cannot listen on {host}:{port} ({error.strerror or error})",
                "choose another `port` or `host`",
            ) from None
        self.host, self.port = host, self.server.server_address[1]

    def show(self, page: str) -> None:
        """Answers with this page from now on, in threads of its own."""
        self.server.page = page.encode()
        if host_is_local(self.host):
            self.server.names = {
                f"{name}{end}" for name in ("127.0.0.1", "localhost", "[::1]") for end in ("", f":{self.port}")
            }
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pose(self, motion: Motion) -> None:
        """Shows one frame's pose in every page that was made to be driven."""
        parts = {
            name: np.asarray(getattr(motion, name)[0], np.float64).round(4).reshape(-1).tolist() for name in ARRAYS
        }
        self.server.poses.send(json.dumps(parts, allow_nan=False))

    def stop(self) -> None:
        self.server.poses.close()
        self.server.shutdown()
        self.server.server_close()


def host_is_local(host: str) -> bool:
    """Whether an address is one that other machines cannot reach."""
    return host in _HERE


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # visitors that come at once
    page = b""
    names: set[str] | None = None  # that a browser on this machine calls it by; None: any

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.poses = Broadcast()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 30  # seconds that a silent visitor keeps a thread

    def do_GET(self) -> None:
        name = self.headers.get("Host", "")
        if self.server.names is not None and name not in self.server.names:  # another site's name for this machine
            return self.send_error(403)
        if self.path == "/poses":
            return self.server.poses.serve(self)
        if self.path.partition("?")[0] != "/":
            return self.send_error(404)
        self.send_response(200)
        for key, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(self.server.page))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "frame-ancestors 'self'"),
        ):
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *_: object) -> None:
        """Says nothing: the terminal belongs to the user."""
