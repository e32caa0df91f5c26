"""The viewer serves the avatar's page and poses, to this machine alone; the page itself is tested in test_web.py."""

import dataclasses
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mvp4d.avatar import open_avatar
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion
from mvp4d_export.viewer import Viewer


@pytest.fixture()
def viewer():
    viewer = Viewer("127.0.0.1", 0)
    viewer.show("<title>\N{GREEK SMALL LETTER ALPHA}</title>" + "x" * 100_000)
    yield viewer
    viewer.stop()


def get(viewer, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_a_taken_port_ends_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            Viewer("127.0.0.1", taken.getsockname()[1])
    for host, port, word in (("127.0.0.1", 70_000, "no port"), ("no.such.host.invalid", 8080, "cannot listen")):
        with pytest.raises(UserError, match=word):
            Viewer(host, port)


def test_many_visitors_at_once_get_the_page(viewer):
    idle = [socket.create_connection(("127.0.0.1", viewer.port)) for _ in range(20)]  # who say nothing
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: get(viewer), range(64)))
    for connection in idle:
        connection.close()
    assert {status for status, _, _ in answers} == {200}
    assert {body for _, body, _ in answers} == {viewer.server.page}
    assert answers[0][2]["Content-Type"] == "text/html; charset=utf-8"


def test_other_sites_get_no_answer(viewer):
    """A site whose name is turned towards this machine, files beside the page, and sockets."""
    assert get(viewer, Host="evil.example")[0] == 403
    assert get(viewer, Host=f"localhost:{viewer.port}")[0] == 200
    assert get(viewer, "/../../etc/passwd")[0] == 404
    status, _, headers = get(viewer, Upgrade="websocket", Connection="Upgrade", Origin="http://evil.example")
    assert status == 200 and "Access-Control-Allow-Origin" not in headers and "Upgrade" not in headers
    assert headers["Content-Security-Policy"] == "frame-ancestors 'self'"


# --- poses ----------------------------------------------------------------------------------------------------------
def ask(viewer, origin=None, key="dGhlIHNhbXBsZSBub25jZQ==", **headers):
    """A socket that has asked for poses, and the status line of the answer."""
    connection = socket.create_connection(("127.0.0.1", viewer.port), timeout=20)
    lines = {"Host": f"127.0.0.1:{viewer.port}", "Upgrade": "websocket", "Connection": "Upgrade", **headers}
    lines |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"} | ({"Origin": origin} if origin else {})
    text = "GET /poses HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    connection.sendall(text.encode())
    stream = connection.makefile("rb")
    answer = []
    while (line := stream.readline().strip()) not in (b"",):
        answer.append(line.decode())
    return stream, answer


def hear(stream):
    """Kind and content of the next frame (RFC 6455, 5.2)."""
    first, size = stream.read(2)
    assert first & 0xF0 == 0x80 and size < 127  # whole, unmasked
    if size == 126:
        size = int.from_bytes(stream.read(2), "big")
    return first & 15, stream.read(size)


def pose(value):
    return dataclasses.replace(Motion.still(1, 4), expression=np.full((1, 4), value, np.float32))


def test_poses_reach_every_page(viewer):
    streams = []
    for _ in range(30):
        stream, answer = ask(viewer, f"http://127.0.0.1:{viewer.port}")
        assert answer[0] == "HTTP/1.1 101 Switching Protocols"
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer  # the RFC's own example
        streams.append(stream)
    viewer.pose(pose(0.25))
    for stream in streams:
        kind, data = hear(stream)
        assert kind == 1
        assert json.loads(data) == {
            "expression": [0.25] * 4,
            **{name: [0.0] * 3 for name in ("rotation", "translation", "neck", "jaw")},
            "eyes": [0.0] * 6,
        }
    viewer.server.poses.close()
    assert hear(streams[0])[0] == 8  # told that it is over


def test_a_foreign_pages_socket_is_refused(viewer):
    """A script of another site, a site whose name is turned towards this machine, and a page from disk."""
    here = f"127.0.0.1:{viewer.port}"
    for origin, headers in (
        ("http://evil.example", {}),
        ("http://127.0.0.1:1", {}),
        ("null", {}),
        (None, {}),
        ("http://evil.example", {"Host": "evil.example"}),
        (f"http://{here}.evil.example", {}),
    ):
        assert " 403 " in ask(viewer, origin, **headers)[1][0], origin
    assert " 426 " in ask(viewer, f"http://{here}", Upgrade="h2c")[1][0]
    assert " 101 " in ask(viewer, f"http://{here}")[1][0]


def test_who_does_not_listen_holds_nobody_up(viewer):
    """A visitor that never reads, and one that goes away: the others get the newest pose, and nothing piles up."""
    lazy, _ = ask(viewer, f"http://127.0.0.1:{viewer.port}")
    gone, _ = ask(viewer, f"http://127.0.0.1:{viewer.port}")
    gone.close()
    keen, _ = ask(viewer, f"http://127.0.0.1:{viewer.port}")
    began = time.monotonic()
    for number in range(20_000):
        viewer.pose(pose(number / 20_000))
    assert time.monotonic() - began < 20
    viewer.pose(pose(-1.0))
    while json.loads(hear(keen)[1])["expression"][0] != -1.0:
        pass
    assert not lazy.closed


def test_the_command_serves_the_avatars_page(fitted):
    command = [sys.executable, "-m", "mvp4d.cli", "view", str(fitted[0]), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "http://" in line)
        url = line.split("open ")[1].split(" ")[0]
        text = urllib.request.urlopen(url, timeout=30).read().decode()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert text == open_avatar(fitted[0], device="cpu").page()


def test_a_damaged_avatar_ends_in_one_line(fitted, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "avatar")
    weights = tmp_path / "avatar" / "avatar.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = subprocess.run(
        [sys.executable, "-m", "mvp4d.cli", "view", str(tmp_path / "avatar"), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "avatar.safetensors" in result.stderr and result.stderr.strip().count("\n") == 0
