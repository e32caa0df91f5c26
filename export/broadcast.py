"""One message at a time to any number of browsers, over WebSockets (RFC 6455) that only ever send."""

from __future__ import annotations

import base64
import hashlib
import http.server
import struct
import threading

_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of the protocol
_ALIVE = 10.0  # seconds after which a silent connection is tried


class Broadcast:
    """The newest message. Who is slow gets newer ones instead of a queue: nothing piles up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame, self._number, self._open = b"", 0, True

    def send(self, text: str) -> None:
        """Hands a message to all that listen."""
        with self._changed:
            self._frame, self._number = _frame(1, text.encode()), self._number + 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answers a browser's request for a socket, and sends until it goes away.

        A page of another origin is refused: what its script may ask for, the browser says in `Origin`.
        """
        headers = handler.headers
        if headers.get("Origin", "").partition("://")[2] != headers.get("Host", ""):
            return handler.send_error(403)
        key = headers.get("Sec-WebSocket-Key", "")
        if headers.get("Upgrade", "").lower() != "websocket" or not key:
            return handler.send_error(426)
        handler.close_connection = True
        accept = base64.b64encode(hashlib.sha1(key.encode("latin-1", "replace") + _KEY).digest()).decode()
        lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")  # 1.0 will not do
        try:
            handler.wfile.write("\r\n".join((*lines, f"Sec-WebSocket-Accept: {accept}", "", "")).encode())
            self._feed(handler)
        except OSError:
            pass  # the browser went away

    def _feed(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        number = 0
        while True:
            with self._changed:
                if self._open and self._number == number:
                    self._changed.wait(_ALIVE)
                frame, fresh, alive = self._frame, self._number != number, self._open
                number = self._number
            handler.wfile.write(_frame(8, b"") if not alive else frame if fresh else _frame(9, b""))
            if not alive:
                return


def _frame(kind: int, data: bytes) -> bytes:
    """A whole, unmasked frame: 1 text, 8 close, 9 ping."""
    size = len(data)
    length = struct.pack(">B", size) if size < 126 else struct.pack(">BH", 126, size)
    if size > 65535:
        raise ValueError(f"a message of {size} bytes")
    return bytes([0x80 | kind]) + length + data
