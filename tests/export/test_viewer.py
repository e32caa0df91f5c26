"""The viewer in a real headless browser: the page opens, a slider is moved, the picture changes."""

import os
import shutil
import socket
import time

import numpy as np
import pytest
from PIL import Image

from mvp4d.core.capture.motion_file import read_motion
from mvp4d.core.errors import UserError
from mvp4d_export.avatar import Avatar
from mvp4d_export.viewer import check_free

FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-dev-shm-usage",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_taken_port_ends_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            check_free("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="no port"):
        check_free("127.0.0.1", 0)


@pytest.fixture()
def viewer(fitted):
    from mvp4d_export.viewer import Viewer

    avatar = Avatar.load(fitted[0])
    viewer = Viewer(avatar, read_motion(fitted[0] / "motion.npz").motion, port=free_port())
    viewer.start()
    yield viewer
    viewer.stop()


def test_controls_pose_the_avatar(viewer):
    """What the sliders say is what the rig gets; the server listens on this machine alone."""
    assert viewer.server.get_host() == "127.0.0.1"
    viewer.frame.value = 2
    motion = read_motion_of(viewer)
    np.testing.assert_allclose(viewer.pose().expression[0].numpy(), motion.expression[2], atol=1e-6)
    viewer.expressions["jawOpen"].value = 0.5
    viewer.angles["neck turn"].value = 0.3
    viewer.angles["gaze sideways"].value = -0.2
    pose = viewer.pose()
    assert abs(float(pose.expression[0, 0]) - motion.expression[2, 0] - 0.5) < 1e-6
    assert abs(float(pose.neck[0, 1]) - 0.3) < 1e-6
    np.testing.assert_allclose(pose.eyes[0, :, 1].numpy(), -0.2, atol=1e-6)
    viewer.follow.value = False
    assert float(viewer.pose().rotation.abs().max()) == 0


def read_motion_of(viewer):
    return viewer.motion


def test_browser_shows_the_avatar_and_a_slider_changes_the_picture(viewer, tmp_path):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 640, "height": 480})
        page.goto(f"http://127.0.0.1:{viewer.server.get_port()}")
        before = settled(page, tmp_path / "before.png", lambda picture: dark(picture) > 1500)
        moved = move_slider(page, "neck turn", "0.8")
        assert moved, "no input belongs to the slider 'neck turn'"
        deadline = time.monotonic() + 60
        while abs(float(viewer.angles["neck turn"].value) - 0.8) > 1e-3 and time.monotonic() < deadline:
            page.wait_for_timeout(200)
        assert abs(float(viewer.angles["neck turn"].value) - 0.8) < 1e-3
        after = settled(page, tmp_path / "after.png", lambda picture: changed(before, picture) > 300)
        browser.close()
    assert changed(before, after) > 300


def move_slider(page, label, value):
    """Types a value into the number box beside a slider, as a person would."""
    row = page.locator(f"xpath=//*[normalize-space(text())='{label}']/ancestor::*[.//input][1]")
    box = row.locator("input").last
    if not box.count():
        return False
    box.fill(value)
    box.press("Enter")
    return True


def settled(page, path, accept, seconds=90):
    """The scene's part of a screenshot, taken again until it is accepted."""
    deadline = time.monotonic() + seconds
    while True:
        page.wait_for_timeout(500)
        page.screenshot(path=path)
        picture = np.asarray(Image.open(path).convert("RGB")).astype(int)[:, :300]
        if accept(picture) or time.monotonic() > deadline:
            return picture


def dark(picture):
    return int((picture.sum(-1) < 450).sum())


def changed(a, b):
    return int((np.abs(a - b).max(-1) > 40).sum())
