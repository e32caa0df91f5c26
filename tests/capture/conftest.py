"""Fixtures of the capture tests."""

import shutil
from pathlib import Path

import pytest

from mvp4d.core.capture.cap4d import export_cap4d
from mvp4d.core.capture.format import Capture
from mvp4d.core.capture.gaussian_avatars import export_gaussian_avatars
from tests.capture.toy import make_flame, make_motion, write_capture


@pytest.fixture
def capture_path(tmp_path) -> Path:
    return write_capture(tmp_path / "capture")


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> Path:
    """One sound input of every kind, copied before it is damaged."""
    root = tmp_path_factory.mktemp("originals")
    write_capture(root / "capture", reference=("cam0", 1))
    write_capture(root / "video", images="video", masks=False)
    export_cap4d(Capture.open(root / "capture"), root / "cap4d")
    Capture.open(write_capture(root / "moving", moving=True))
    export_cap4d(Capture.open(root / "moving"), root / "cap4d_moving")
    shutil.copy(root / "cap4d_moving" / "orbit_cam0.npz", root / "cap4d" / "orbit.npz")
    write_capture(root / "flame", head=make_flame(), motion=make_motion(expressions=4))
    export_gaussian_avatars(Capture.open(root / "flame"), root / "ga")
    return root


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A working folder; after the test nothing but the input may lie in it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    left = {path.name for path in work.iterdir()} - {"input", "outside.png", "outside.npz"}
    assert not left, f"something was written: {left}"
    assert not list(tmp_path.rglob("SENTINEL*")), "something was executed"
