"""Odd environments: standard streams that are closed, full, or know ASCII only, a folder that is gone, a device that is
not there. The same result and exit code, or one line; no traceback."""

import os
import subprocess
import sys

import pytest

from mvp4d.core.cameras.path import CameraPath
from tests.capture.toy import make_cameras


def _shell(words: str, **environment: str) -> subprocess.CompletedProcess:
    command = f"'{sys.executable}' -m mvp4d.cli {words}"
    return subprocess.run(
        ["bash", "-c", command], env={**os.environ, **environment}, text=True, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("--help", 0), ("nosuch", 2), ("validate nosuch", 2)])
def test_closed_streams(words, code, closed):
    done = _shell(f"{words} {closed}")
    assert done.returncode == code and not done.stdout
    assert done.stderr.count("\n") == (1 if code and "2>" not in closed else 0)


def test_an_error_does_not_go_to_standard_output():
    done = _shell("validate nosuch 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_the_number_of_a_closed_stream_goes_to_no_file(tmp_path):
    """What a library writes to standard error would otherwise land in the file that is written."""
    program = (
        "import os, sys; from mvp4d.cli import _open_standard_streams as start; start(); "
        "handle = open(sys.argv[1], 'wb'); os.write(2, b'log'); os.write(1, b'log')"
    )
    subprocess.run(
        ["bash", "-c", f'\'{sys.executable}\' -c "$0" "$1" <&- >&- 2>&-', program, tmp_path / "x"], check=True
    )
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(("words", "code", "told"), [("--version", 2, True), ("nosuch", 2, False)])
def test_a_full_standard_output(words, code, told):
    done = _shell(f"{words} >/dev/full")
    assert done.returncode == code and done.stderr.count("\n") == 1
    assert ("standard output: no space left" in done.stderr) == told


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("words", ["nosuch", "validate nosuch", "render --bogus"])
def test_a_full_standard_error(words):
    assert _shell(f"{words} 2>/dev/full").returncode == 2


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    path = tmp_path / "é.npz"
    CameraPath(make_cameras(1, 5)[0], (12, 10), 25.0).save(path)
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = _shell(f"validate '{path}'", **plain)
    assert done.returncode == 0 and "camera path, 5 frames" in done.stdout, done.stderr


def test_a_page_is_the_same_on_a_machine_of_another_encoding(tmp_path):
    """Its text was read and written as the locale says: in ASCII a traceback, in Latin-1 other letters."""
    program = (
        "import sys; from pathlib import Path; from mvp4d_export.formats.html import assemble; "
        "Path(sys.argv[1]).write_bytes(assemble('Gr\\xfc\\xdfe', '').encode())"
    )
    pages = []
    for locale in ("C", "C.UTF-8"):
        out = tmp_path / locale
        plain = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        subprocess.run([sys.executable, "-c", program, out], env={**os.environ, **plain}, check=True)
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_a_working_directory_that_is_gone(tmp_path):
    """Relative paths mean nothing there, and a numeric library that looks for its parts by them ends the process."""
    done = subprocess.run(
        ["bash", "-c", f"mkdir gone; cd gone; rmdir ../gone; '{sys.executable}' -m mvp4d.cli validate x"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "mvp4d validate: the folder that you are in does not exist any more; go to another (cd)\n"


@pytest.mark.parametrize("platform", ["bogus", "cuda"])
def test_a_platform_that_the_machine_lacks(tmp_path, platform):
    from mvp4d.core.host import has_accelerator

    if has_accelerator():
        pytest.skip("the machine may have it")
    out = tmp_path / "x"
    done = _shell(f"studio --cameras orbit:360x1 --frames 1 --size 16 --out '{out}'", JAX_PLATFORMS=platform)
    *_, line = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"mvp4d studio: JAX_PLATFORMS={platform}: JAX finds no such device")
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
