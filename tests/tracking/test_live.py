"""A face followed while it is filmed: the fit where the truth is known, the stream with a guest that is known."""

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from mvp4d.cli import main
from mvp4d.core.driving import load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.heads.transfer import eye_centre
from mvp4d.core.video import VideoWriter
from mvp4d_jax.tracking import live
from mvp4d_jax.tracking.follow import FollowConfig, Follower, OneEuro
from mvp4d_jax.tracking.landmarks import _IRIS, _PAIRS
from mvp4d_jax.tracking.track import track
from tests.tracking.test_solve import FOCAL, SIZE, degrees_between, moving, observe

COUNT, FPS = 50, 25.0


def euro(values, times, cutoff, beta, derivative_cutoff):
    """The one-euro filter as its authors publish it, one number at a time."""

    def alpha(frequency, step):
        tau = 1 / (2 * np.pi * frequency)
        return 1 / (1 + tau / step)

    out, slope = [values[0]], 0.0
    for previous, value, step in zip(out, values[1:], np.diff(times)):
        rate = (value - previous) / step
        slope = alpha(derivative_cutoff, step) * rate + (1 - alpha(derivative_cutoff, step)) * slope
        share = alpha(cutoff + beta * abs(slope), step)
        out.append(share * value + (1 - share) * previous)
    return np.array(out)


def test_the_filter_is_the_published_one():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.06, 60))
    values = rng.normal(size=(60, 2)).cumsum(0) * [0.05, 3.0]
    filtered = OneEuro(np.array([1.0, 0.5]), np.array([2.0, 0.1]))
    ours = np.array([filtered(value, time) for value, time in zip(values, times)])
    for column, (cutoff, beta) in enumerate(((1.0, 2.0), (0.5, 0.1))):
        np.testing.assert_allclose(ours[:, column], euro(values[:, column], times, cutoff, beta, 1.0), rtol=1e-9)


@pytest.fixture(scope="module")
def builtin():
    return load_head("builtin")


@pytest.fixture(scope="module")
def truth(builtin):
    """Two seconds of a turning, speaking head of a person's shape, and its landmarks with 0.7 pixels of noise."""
    seconds = np.arange(COUNT) / FPS
    rotations = np.stack([0.1 * np.sin(3 * seconds), 0.4 * np.sin(2 * seconds), 0.05 * seconds], axis=-1)
    motion = moving(
        builtin,
        rotations,
        {
            "jawOpen": 0.25 - 0.25 * np.cos(9 * seconds),
            "mouthSmileLeft": np.clip(seconds - 1, 0, 0.8),
            "mouthSmileRight": np.clip(seconds - 1, 0, 0.8),
            "browInnerUp": 0.4 * (seconds > 1),
        },
    )
    shape = np.random.default_rng(1).normal(0, 0.5, builtin.shape_count).astype(np.float32)
    return motion, observe(builtin, motion, shape, noise=0.7, iris=True)


def frame_of(seen, index):
    return dataclasses.replace(seen, points=seen.points[index : index + 1], iris=seen.iris[index : index + 1])


@pytest.fixture(scope="module")
def followed(builtin, truth):
    follower = Follower(builtin, focal=FOCAL)
    frames = [follower.step(frame_of(truth[1], index), index / FPS) for index in range(COUNT)]
    return Motion(**{name: np.concatenate([getattr(frame, name) for frame in frames]) for name in ARRAYS}, fps=FPS)


def test_the_fit_follows_the_truth(builtin, truth, followed):
    motion = truth[0]
    assert np.abs(followed.expression - motion.expression).mean() < 0.05
    assert degrees_between(followed.rotation, motion.rotation).mean() < 2.5
    jaw = builtin.expression_names.index("jawOpen")
    assert np.corrcoef(followed.expression[:, jaw], motion.expression[:, jaw])[0, 1] > 0.95
    assert followed.expression.min() >= 0 and followed.expression.max() <= 1
    assert all(np.isfinite(getattr(followed, name)).all() for name in ARRAYS)


def test_nothing_looks_ahead(builtin, truth, followed):
    """The first frames come out the same whatever comes later."""
    follower = Follower(builtin, focal=FOCAL)
    for index in range(5):
        frame = follower.step(frame_of(truth[1], index), index / FPS)
        np.testing.assert_allclose(frame.expression[0], followed.expression[index], atol=1e-5)


def test_identity_stands_once_it_is_learned(builtin, truth):
    follower = Follower(builtin, FollowConfig(learn=3), focal=FOCAL)
    shapes = []
    for index in range(6):
        follower.step(frame_of(truth[1], index), index / FPS)
        shapes.append(follower._shared.copy())
    assert np.abs(shapes[1] - shapes[0]).max() > 1e-3
    np.testing.assert_array_equal(shapes[5], shapes[2])


@pytest.mark.parametrize("kind", ["scattered", "one point", "far away"])
def test_landmarks_that_are_no_face_lead_nowhere(builtin, truth, followed, kind):
    """The pose before them is held, and the frames after them are followed again."""
    nonsense = {
        "scattered": np.random.default_rng(0).uniform(0, 600, (1, 68, 2)),
        "one point": np.full((1, 68, 2), 300.0),
        "far away": 1e9 * np.random.default_rng(0).normal(size=(1, 68, 2)),
    }[kind]
    follower, frames = Follower(builtin, focal=FOCAL), []
    for index in range(8):
        seen = frame_of(truth[1], index)
        seen = dataclasses.replace(seen, points=nonsense) if index == 5 else seen
        frames.append(follower.step(seen, index / FPS))
    np.testing.assert_array_equal(frames[5].expression, frames[4].expression)
    np.testing.assert_array_equal(frames[5].rotation, frames[4].rotation)
    assert degrees_between(frames[7].rotation[0], truth[0].rotation[7]) < 4
    assert np.abs(frames[7].expression[0] - truth[0].expression[7]).mean() < 0.08


# --- the stream, with a guest that tells what it is told -------------------------------------------------------------
GUEST = """
import json, struct, sys, time
import numpy as np
facts = json.loads(sys.stdin.buffer.readline())
mesh, wait, code = np.load({mesh!r}), {wait}, {code}
if code and facts["camera"] is not None: sys.exit(code)
number = 0
while True:
    header = sys.stdin.buffer.read(8)
    if len(header) < 8: break
    height, width = struct.unpack("<II", header)
    sys.stdin.buffer.read(height * width * 3)
    if code and number == 3: sys.exit("Error: out of luck")
    time.sleep(wait)
    sys.stdout.buffer.write(struct.pack("<dII", 0, height, width) + mesh[number % len(mesh)].astype("<f4").tobytes())
    sys.stdout.buffer.flush()
    number += 1
"""


@pytest.fixture()
def guest(monkeypatch, truth, tmp_path):
    """A MediaPipe whose landmarks are known: `guest(wait=, code=, lost=)` seconds a picture, exit code, frames lost."""

    def put(wait=0.0, code=0, lost=()):
        mesh = np.full((COUNT, 478, 2), -50.0)
        mesh[:, _PAIRS[:, 0]] = mesh[:, _PAIRS[:, 1]] = truth[1].points
        mesh[:, _IRIS] = truth[1].iris
        mesh[list(lost)] = np.nan
        np.save(tmp_path / "mesh.npy", mesh)
        script = GUEST.format(mesh=str(tmp_path / "mesh.npy"), wait=wait, code=code)

        class Fake:
            @staticmethod
            def start(path, log):
                pipe = subprocess.PIPE
                return subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=log)

            @staticmethod
            def failure(log):
                return UserError("MediaPipe", f"failed: {log.strip()}", "try again")

        monkeypatch.setattr(live, "MEDIAPIPE", Fake)

    return put


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "face.mp4"
    with contextlib.closing(VideoWriter(path, SIZE, FPS)) as writer:
        for _ in range(COUNT):
            writer.add(np.full((*SIZE, 3), 128, np.uint8))
    return path


def test_every_frame_of_a_video_is_recorded(guest, clip, builtin, truth, tmp_path):
    guest()
    out = tmp_path / "drive.csv"
    assert main(["track", "--live", str(clip), "--focal", str(FOCAL), "--out", str(out)]) == 0
    motion, _ = load_motion(out, builtin)
    assert motion.frame_count == COUNT and motion.fps == FPS
    assert np.abs(motion.expression - truth[0].expression).mean() < 0.06


def test_in_real_time_nothing_is_old(guest, clip, builtin):
    """A guest that is slower than the video: frames are left out, and what is shown is at most one look old."""
    guest(wait=0.07)
    ages, times = [], []
    with contextlib.closing(live.follow(live.open_source(clip), builtin, focal=FOCAL)) as poses:
        for pose in poses:
            ages.append(time.monotonic() - pose.came)
            times.append(pose.time)
    assert 5 < len(times) < 0.8 * COUNT
    assert (np.diff(times) > 0).all() and times[-1] > 0.8 * COUNT / FPS
    assert np.median(ages[1:]) < 0.5  # with a queue the last would be 1.5 s old; benchmarks/live.py measures the delay


def test_without_a_face_the_pose_is_held_and_said_once(guest, clip, builtin, capsys):
    guest(lost=range(10, 45))
    poses = list(live.follow(live.open_source(clip), builtin, paced=False, focal=FOCAL))
    assert [pose.found for pose in poses] == [not 10 <= index < 45 for index in range(COUNT)]
    for pose in poses[10:45]:
        np.testing.assert_array_equal(pose.motion.expression, poses[9].motion.expression)
    assert capsys.readouterr().err.count("no face in") == 1
    assert np.abs(poses[0].motion.translation).max() == 0  # the place is told from where the head was first


def test_a_video_without_a_face_is_one_line(guest, clip, tmp_path, capsys):
    guest(lost=range(COUNT))
    assert main(["track", "--live", str(clip), "--out", str(tmp_path / "drive.npz")]) == 2
    assert "no face was found" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "drive.npz").exists()


@pytest.mark.parametrize(
    "code, source, word",
    [(3, 0, "cannot be opened"), (4, 0, "has stopped"), (1, None, "out of luck")],
)
def test_a_guest_that_ends_is_one_line(guest, clip, builtin, code, source, word):
    guest(code=code)
    source = live.open_source(clip) if source is None else source
    with pytest.raises(UserError, match=word):
        list(live.follow(source, builtin, paced=False, focal=FOCAL))


@pytest.mark.parametrize(
    "words, said",
    [
        (["none.mp4", "--out", "a.csv"], "no such file; give a video, or a camera's number"),
        (["12345678901234567890", "--out", "a.csv"], "cameras are numbered from 0"),
        (["0", "--out", "a.txt"], "no motion"),
        (["0", "1", "--out", "a.csv"], "follows one source"),
        (["0", "--out", "a.csv", "--face", "2"], "takes no --face"),
        (["0", "--out", "a.csv", "--matte", "none"], "takes no --matte"),
        (["0", "--out", "a.csv", "--same-person"], "takes no --same-person"),
        (["0", "--out", "a.csv", "--most", "6"], "takes no --most"),
    ],
)
def test_what_cannot_be_followed_is_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["track", "--live", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_camera_that_is_not_there_is_refused_before_anything_is_opened(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "VIDEO", str(tmp_path / "video"))
    monkeypatch.setattr(live.sys, "platform", "linux")
    (tmp_path / "video1").touch()
    assert live.open_source("1") == 1
    assert main(["view", str(tmp_path / "avatar"), "--drive", "0"]) == 2
    assert "camera 0: is not there" in capsys.readouterr().err


def test_a_viewer_looks_at_what_drives_it_first(tmp_path, capsys):
    for source in (tmp_path / "none.mp4", tmp_path):
        assert main(["view", str(tmp_path / "avatar"), "--drive", str(source)]) == 2
        error = capsys.readouterr().err
        assert source.name in error and error.count("\n") == 1


def test_a_cameras_poses_are_recorded_evenly(builtin):
    """Uneven times become 30 frames a second, up to Ctrl-C; before the first face its pose is taken."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.08, 40))
    still = Motion.still(1, builtin.expression_count)

    def poses():
        for index, moment in enumerate(times):
            motion = dataclasses.replace(still, expression=np.full_like(still.expression, 0.1 * moment))
            yield live.Pose(moment, 0.0, motion, index >= 4)
        raise KeyboardInterrupt

    motion = live.record(poses(), 0)
    assert motion.fps == 30.0 and motion.frame_count == int((times[-1] - times[0]) * 30) + 1
    wanted = times[0] + np.arange(motion.frame_count) / 30
    late = wanted >= times[4]
    np.testing.assert_allclose(motion.expression[late, 0], 0.1 * wanted[late], atol=1e-5)
    np.testing.assert_allclose(motion.expression[wanted <= times[3], 0], 0.1 * times[4], atol=1e-6)


def test_a_pose_is_carried_about_the_eyes(builtin):
    """On a head whose origin lies elsewhere, the eyes' midpoint moves as on the head that was fitted."""
    shift = np.float32([0.01, -0.05, 0.02])
    other = dataclasses.replace(builtin, name="ict", joints=np.asarray(builtin.joints) + shift)
    turn = np.float32([[0.2, -0.4, 0.1]])
    motion = dataclasses.replace(
        Motion.still(1, builtin.expression_count), rotation=turn, translation=np.float32([[0.01, 0.02, 0.03]])
    )
    carried, notice = live.carry(motion, builtin, other)
    turned = Rotation.from_rotvec(turn[0])
    moved = [turned.apply(eye_centre(head)) - eye_centre(head) for head in (builtin, other)]
    ours, theirs = moved[1] + carried.translation[0], moved[0] + motion.translation[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert notice == ""


# --- with MediaPipe itself ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mediapipe():
    try:
        return live.MEDIAPIPE.python()
    except UserError as error:
        pytest.skip(f"MediaPipe cannot be had here: {error}")


@pytest.mark.slow
def test_a_real_face_moves_as_in_the_offline_fit(mediapipe, builtin, tmp_path):
    """Two seconds of a photo that is turned and moved: expressions within 0.1 of the fit that sees all frames."""
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.astronaut()).crop((80, 0, 380, 300)).resize((256, 256))
    with contextlib.closing(VideoWriter(tmp_path / "v.mp4", (256, 256), 25.0, crf=10)) as writer:
        for index in range(COUNT):
            turned = photo.rotate(10 * np.sin(index / 6), Image.Resampling.BICUBIC, translate=(index / 5, 0))
            writer.add(np.asarray(turned))
    source = live.open_source(tmp_path / "v.mp4")
    ours = live.record(live.follow(source, builtin, paced=False), source)
    theirs = track(source, builtin)[0].motion
    assert np.abs(ours.expression - theirs.expression).mean() < 0.1
    assert degrees_between(ours.rotation, theirs.rotation).mean() < 5


@pytest.mark.slow
def test_the_guest_reads_a_camera(mediapipe, tmp_path, monkeypatch):
    """OpenCV opens a file as it opens a camera: landmarks come until it stops, which is said."""
    data = pytest.importorskip("skimage.data")
    with contextlib.closing(VideoWriter(tmp_path / "v.mp4", (512, 512), 25.0)) as writer:
        for _ in range(30):
            writer.add(data.astronaut())
    start = live.MEDIAPIPE.start
    seen = []

    class Camera:
        failure = live.MEDIAPIPE.failure

        @staticmethod
        def start(script, log):
            process = start(script, log=log)
            process.stdin.write(b'{"live": true, "camera": "%s"}\n' % str(tmp_path / "v.mp4").encode())
            process.stdin.flush()
            return process

    monkeypatch.setattr(live, "MEDIAPIPE", Camera)
    with (
        tempfile.TemporaryFile("w+") as log,
        contextlib.closing(live._Stream(0, True, False, log)) as stream,
        pytest.raises(UserError, match="camera 0: has stopped"),
    ):
        for glimpse in stream:
            seen.append(glimpse)
    assert seen and all(glimpse.image_size == (512, 512) and np.isfinite(glimpse.mesh).all() for glimpse in seen)
    assert 170 < seen[-1].mesh[:, 0].mean() < 280 and 60 < seen[-1].mesh[:, 1].mean() < 180  # where her face is
    assert 0 < time.monotonic() - seen[-1].came < 10
