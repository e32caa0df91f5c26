"""The Capture format: what is written is what is read; an interrupted writer leaves nothing half done."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from mvp4d.core.cameras.camera import FIELDS
from mvp4d.core.capture import Capture, CaptureWriter, validate
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS
from tests.capture.toy import FRAMES, SIZE, VIEWS, make_cameras, make_motion, make_pixels, make_rig, write_capture


@pytest.mark.parametrize("moving", [False, True])
def test_round_trip(tmp_path, moving):
    path = write_capture(tmp_path / "c", moving=moving, reference=("cam1", 2), source="test", extra={"seed": 3})
    capture = Capture.open(path)
    rgb, alpha = make_pixels()
    cameras, motion, rig = make_cameras(frames=FRAMES if moving else 1), make_motion(), make_rig()
    for view in range(VIEWS):
        np.testing.assert_array_equal(capture.frames(view), rgb[view])
        np.testing.assert_array_equal(capture.frames(f"cam{view}", slice(1, 4, 2)), rgb[view, 1:4:2])
        for frame in range(FRAMES):
            np.testing.assert_array_equal(capture.frame(view, frame), rgb[view, frame])
            np.testing.assert_array_equal(capture.mask(view, frame), alpha[view, frame])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(capture.cameras, name), getattr(cameras, name))
        np.testing.assert_array_equal(
            getattr(capture.camera("cam2", 3), name), getattr(cameras, name)[2, 3 if moving else 0]
        )
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(capture.motion, name), getattr(motion, name))
    np.testing.assert_array_equal(capture.head.expression_basis, rig.expression_basis)
    assert capture.head.joint_names == rig.joint_names and capture.head.name == "toy"
    assert (capture.reference, capture.fps, capture.info.source, capture.info.extra) == (
        ("cam1", 2),
        24.0,
        "test",
        {"seed": 3},
    )
    assert "3 views x 4 frames" in validate(path)


def test_video_capture_reads_any_frame(tmp_path):
    """H.264 is lossy: smooth pictures that differ by frame come back to a few grey levels, and in order."""
    size, frames = (32, 48), 9
    ramp = np.linspace(0, 60, 48)[None, :, None] + np.zeros((32, 1, 3))
    pictures = [np.uint8(ramp + 20 * frame) for frame in range(frames)]
    with CaptureWriter(
        tmp_path / "v",
        head=make_rig(),
        motion=make_motion(frames),
        cameras=make_cameras(1),
        names=["front"],
        image_size=size,
        masks=False,
        images="video",
    ) as writer:
        for frame, picture in enumerate(pictures):
            writer.add("front", frame, picture)
    capture = Capture.open(tmp_path / "v")
    everything = capture.frames(0)
    assert everything.shape == (frames, *size, 3)
    assert np.abs(everything.astype(int) - np.stack(pictures)).max() <= 6
    np.testing.assert_array_equal(capture.frame(0, 7), everything[7])
    np.testing.assert_array_equal(capture.frames(0, slice(2, 8, 3)), everything[2:8:3])
    with pytest.raises(UserError, match="has no masks"):
        capture.mask(0, 0)
    validate(tmp_path / "v")


def test_floating_point_pictures_are_rounded(tmp_path):
    with CaptureWriter(
        tmp_path / "c", head=make_rig(), motion=make_motion(1), cameras=make_cameras(1), names=["a"], image_size=SIZE
    ) as writer:
        writer.add(0, 0, np.full((*SIZE, 3), 0.5, np.float32), np.full(SIZE, 1.5, np.float32))
    capture = Capture.open(tmp_path / "c")
    assert (capture.frame(0, 0) == 128).all() and (capture.mask(0, 0) == 255).all()


def test_an_error_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="stop"),
        CaptureWriter(
            tmp_path / "c",
            head=make_rig(),
            motion=make_motion(),
            cameras=make_cameras(),
            names=list("abc"),
            image_size=SIZE,
            masks=False,
        ) as writer,
    ):
        writer.add(0, 0, np.zeros((*SIZE, 3), np.uint8))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_missing_frames_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="11 frames were never added"),
        CaptureWriter(
            tmp_path / "c",
            head=make_rig(),
            motion=make_motion(),
            cameras=make_cameras(),
            names=list("abc"),
            image_size=SIZE,
            masks=False,
        ) as writer,
    ):
        writer.add(0, 0, np.zeros((*SIZE, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_overwriting_is_asked_for(capture_path, tmp_path):
    before = {path: path.read_bytes() for path in capture_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already there"):
        write_capture(capture_path)
    with (
        pytest.raises(RuntimeError),
        CaptureWriter(
            capture_path,
            head=make_rig(),
            motion=make_motion(),
            cameras=make_cameras(),
            names=list("abc"),
            image_size=SIZE,
            masks=False,
            overwrite=True,
        ) as writer,
    ):
        writer.add(0, 0, np.zeros((*SIZE, 3), np.uint8))
        raise RuntimeError
    assert before == {path: path.read_bytes() for path in capture_path.rglob("*") if path.is_file()}
    write_capture(capture_path, masks=False, overwrite=True)
    assert not Capture.open(capture_path).has_masks
    other = tmp_path / "photos"
    other.mkdir()
    (other / "precious.txt").write_text("do not lose me")
    with pytest.raises(UserError, match="not overwritten"):
        write_capture(other, overwrite=True)
    assert (other / "precious.txt").read_text() == "do not lose me"


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_writer_leaves_the_old_capture_or_none(tmp_path, existing):
    """SIGKILL in the middle of writing, which no cleanup code survives."""
    path = tmp_path / "c"
    if existing:
        write_capture(path)
    script = textwrap.dedent(f"""
        import numpy as np, time
        from mvp4d.core.capture import CaptureWriter
        from tests.capture.toy import SIZE, make_cameras, make_motion, make_rig
        with CaptureWriter({str(path)!r}, head=make_rig(), motion=make_motion(), cameras=make_cameras(),
                           names=list("abc"), image_size=SIZE, masks=False, overwrite=True) as writer:
            for frame in range(3):
                writer.add(0, frame, np.zeros((*SIZE, 3), np.uint8))
            print("writing", flush=True)
            time.sleep(60)
    """)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.readline().strip() == "writing"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if existing:
        assert "3 views x 4 frames" in validate(path)
    else:
        assert not path.exists()
    write_capture(path, overwrite=True)
    validate(path)
