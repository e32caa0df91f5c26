"""Live Link recordings: what we write is read by our reader and by openfacefx; real recordings survive the trip."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core.capture.motion_file import write_motion
from mvp4d.core.heads import load_head
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.resample import resample
from mvp4d.core.live_link import read_live_link, write_live_link

NAMES = tuple(reversed(ARKIT_NAMES))


def make_motion(frames=30, fps=30.0, seed=0):
    rng = np.random.default_rng(seed)
    still = Motion.still(frames, 52, fps)
    walk = np.cumsum(rng.normal(scale=0.03, size=(frames, 9)), 0).astype(np.float32)
    return dataclasses.replace(
        still,
        expression=rng.random((frames, 52)).astype(np.float32),
        rotation=walk[:, :3],
        eyes=walk[:, 3:].reshape(-1, 2, 3),
    )


@pytest.mark.parametrize(("frames", "fps"), [(2, 24.0), (30, 30.0), (100, 50.0), (7, 60.0), (26, 25.0)])
def test_round_trip(tmp_path, frames, fps):
    motion = make_motion(frames, fps)
    assert write_live_link(tmp_path / "a.csv", motion, NAMES) == ""
    found, names = read_live_link(tmp_path / "a.csv")
    assert found.fps == fps
    order = [[name.lower() for name in names].index(name.lower()) for name in NAMES]
    np.testing.assert_allclose(found.expression[:, order], motion.expression, atol=1e-6)
    np.testing.assert_allclose(found.rotation, motion.rotation, atol=1e-6)
    np.testing.assert_allclose(found.eyes, motion.eyes, atol=1e-6)


def test_neck_turns_the_head_and_what_is_lost_is_said(tmp_path):
    motion = make_motion()
    motion = dataclasses.replace(
        motion,
        neck=motion.rotation[::-1].copy(),
        jaw=motion.rotation + 0.1,
        expression=np.concatenate([motion.expression, motion.expression[:, :1]], 1),
    )
    lost = write_live_link(tmp_path / "a.csv", motion, (*NAMES, "earWiggle"))
    assert lost == "Live Link's CSV cannot hold 1 expressions that ARKit does not name and the jaw joint's rotation"
    found, _ = read_live_link(tmp_path / "a.csv")
    expected = Rotation.from_rotvec(motion.rotation) * Rotation.from_rotvec(motion.neck)
    assert (Rotation.from_rotvec(found.rotation) * expected.inv()).magnitude().max() < 1e-5


def test_openfacefx_reads_it(tmp_path):
    reader = pytest.importorskip("openfacefx.importers_csv", reason="openfacefx is not installed")
    motion = make_motion(61, 60.0)
    motion = dataclasses.replace(motion, rotation=motion.rotation * 0, eyes=motion.eyes * 0)
    write_live_link(tmp_path / "a.csv", motion, NAMES)
    track, warnings = reader.read_csv(str(tmp_path / "a.csv"), fps=60.0, epsilon=0.0)
    assert not warnings
    channels = {channel.name.lower(): channel for channel in track.channels}
    for name in ("jawOpen", "tongueOut", "mouthLeft", "mouthRight", "eyeBlinkLeft"):
        keys = channels[name.lower()].keys
        times, values = np.array([key.time for key in keys]), np.array([key.value for key in keys])
        start = times[0]
        ours = motion.expression[:, NAMES.index(name)]
        np.testing.assert_allclose(np.interp(np.arange(61) / 60 + start, times, values), ours, atol=2e-3)


def test_an_odd_rate_is_resampled(tmp_path):
    """Rotation about one axis at constant speed: any rate must read the same speed."""
    frames = 37
    motion = dataclasses.replace(
        Motion.still(frames, 52, 18.0),
        rotation=np.outer(np.arange(frames), [0, 0.02, 0]).astype(np.float32),
        expression=np.tile(np.arange(frames)[:, None] / 100, (1, 52)).astype(np.float32),
    )
    write_live_link(tmp_path / "a.csv", motion, NAMES)
    found, _ = read_live_link(tmp_path / "a.csv")
    assert (found.fps, found.frame_count) == (60.0, 121)
    np.testing.assert_allclose(found.rotation[:, 1], np.arange(121) / 60 * 18 * 0.02, atol=1e-5)
    np.testing.assert_allclose(found.expression[:, 5], np.arange(121) / 60 * 18 / 100, atol=1e-6)
    assert resample(motion, 9.0).frame_count == 19


def test_a_real_recording_survives(tmp_path, shared_data):
    recording = shared_data / "live_link" / "range_of_motion.csv"
    motion, names = read_live_link(recording)
    write_live_link(tmp_path / "a.csv", motion, names)
    with open(recording, newline="") as first, open(tmp_path / "a.csv", newline="") as second:
        theirs, ours = list(csv.reader(first)), list(csv.reader(second))
    assert ours[0] == theirs[0]
    values = [np.array([[float(cell) for cell in row[2:]] for row in rows[1:]]) for rows in (theirs, ours)]
    np.testing.assert_allclose(values[1], values[0], atol=2e-6)


def test_the_command_writes_any_motion(tmp_path, capsys):
    head = load_head("builtin")
    motion = dataclasses.replace(Motion.still(3, 52), translation=np.ones((3, 3), np.float32))
    write_motion(tmp_path / "motion.npz", motion, head)
    assert main(["export", str(tmp_path / "motion.npz"), "--format", "csv", "--out", str(tmp_path / "a.csv")]) == 0
    assert "3 frames at 25 a second (Live Link's CSV cannot hold where the head is)" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "motion.npz"), "--format", "csv", "--out", str(tmp_path / "a.csv")]) == 2
    assert main(["export", str(tmp_path / "none.npz"), "--format", "csv", "--out", str(tmp_path / "b.csv")]) == 2
