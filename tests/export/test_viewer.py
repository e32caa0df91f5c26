"""The viewer serves the avatar's page, to this machine alone; the page itself is tested in test_web.py."""

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from mvp4d.api import open_avatar
from mvp4d.core.errors import UserError
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
