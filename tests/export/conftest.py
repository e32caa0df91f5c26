"""Fixtures of the PyTorch half: one small capture, one small avatar."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings

from export_world import FRAME, look_at, small_config, write_capture  # noqa: E402
from photo_world import SIDE  # noqa: E402

from mvp4d.core.cameras.camera import make_camera  # noqa: E402
from mvp4d.core.capture import Capture  # noqa: E402
from mvp4d.core.capture.motion_file import read_motion  # noqa: E402
from mvp4d_export.avatar import Avatar  # noqa: E402
from mvp4d_export.cameras import camera_matrices  # noqa: E402
from mvp4d_export.dataset import Dataset  # noqa: E402
from mvp4d_export.distill import Distiller  # noqa: E402
from mvp4d_export.fitting import distill  # noqa: E402
from mvp4d_export.rig import Pose  # noqa: E402

FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def egg(tmp_path_factory) -> Path:
    """A capture of 6 views x 6 frames of 48 x 48."""
    return write_capture(tmp_path_factory.mktemp("egg") / "capture")


@pytest.fixture(scope="session")
def sharp(tmp_path_factory) -> Capture:
    """The egg's first frame from 18 sides, twice as sharp as its capture."""
    return Capture.open(write_capture(tmp_path_factory.mktemp("sharp") / "capture", views=18, frames=1, size=SIDE))


@pytest.fixture(scope="session")
def fitted(egg, tmp_path_factory) -> tuple[Path, dict]:
    """An avatar distilled from `egg` with one view and one frame held out, and its report."""
    out = tmp_path_factory.mktemp("avatar") / "avatar"
    fit = Distiller(Dataset.load(Capture.open(egg), hold_views=1, hold_times=1), small_config())
    return out, distill(fit, out)


@pytest.fixture(scope="module")
def cameras():
    viewmats = torch.from_numpy(np.stack([look_at(angle, 0.1) for angle in (0.3, 2.5)]).astype(np.float32))
    focal, centre = np.full(2, 84.0), np.full(2, 24.0)
    return viewmats, torch.from_numpy(camera_matrices(make_camera(viewmats.numpy(), focal, focal, centre, centre))[1])


@pytest.fixture(scope="module")
def truth(fitted, cameras):
    """The avatar's own rendering of one frame, with view-dependent colour in every band."""
    avatar = Avatar.load(fitted[0])
    pose = Pose.of(read_motion(fitted[0] / "motion.npz").motion)[FRAME : FRAME + 1]
    with torch.no_grad():
        return avatar.render(avatar.splats(avatar.vertices(pose)), pose, *cameras, 48, 48, torch.ones(3)).rgb


@pytest.fixture(scope="module")
def chromium():
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if program is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture()
def visit(chromium, tmp_path):
    """Opens a page's text from disk; whatever it complains about or asks the network for fails the test."""
    contexts, complaints = [], []

    def go(text, query="paused&background=ffffff", **options):
        file = tmp_path / "avatar.html"
        file.write_text(text)
        context = chromium.new_context(**{"viewport": {"width": 256, "height": 256}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda request: request.url.startswith(("file:", "blob:")) or complaints.append(request.url))
        tab.goto(f"{file.as_uri()}?{query}")
        tab.wait_for_selector("body.ready", timeout=60_000)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
