"""Performances: in range, smooth, as fast as people are, and the same at every frame rate."""

import numpy as np
import pytest

from mvp4d.cli import main
from mvp4d.core.capture.fit import Fit
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS
from mvp4d.validation import validate
from mvp4d_jax.studio.motions import EXPRESSIONS, KINDS, VISEMES, at_rest_at_ends, make_motion, pose_vector
from mvp4d_jax.studio.produce import Order, write_motion
from mvp4d_jax.studio.studio import builtin_head


@pytest.fixture(scope="module")
def names():
    return builtin_head().expression_names


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_and_smoothness(names, kind):
    motion = make_motion(names, 500, kind=kind, seed=3)
    assert motion.expression.shape == (500, len(names))
    assert motion.expression.min() >= 0 and motion.expression.max() <= 1
    turn = motion.rotation + motion.neck
    assert np.abs(turn).max() < 1.5
    step = np.abs(np.diff(turn, axis=0)).max() * 25
    assert step < 4.0  # radians a second
    assert np.abs(np.diff(motion.translation, axis=0)).max() * 25 < 0.15
    assert np.abs(motion.eyes).max() <= 0.46
    blink = [place for place, name in enumerate(names) if "Blink" in name]
    rest = np.delete(motion.expression, blink, axis=1)
    assert np.abs(np.diff(rest, axis=0)).max() < 0.55
    if kind != "still":
        assert motion.expression.max() > 0.3 and np.abs(turn).max() > 0.02


def test_same_performance_at_every_frame_rate(names):
    slow, fast = make_motion(names, 50, fps=25.0, seed=9), make_motion(names, 100, fps=50.0, seed=9)
    # Speech and reactions are drawn until the clip ends; both clips end within one frame of each other.
    np.testing.assert_allclose(fast.rotation[::2], slow.rotation, atol=1e-6)
    np.testing.assert_allclose(fast.eyes[::2], slow.eyes, atol=1e-6)
    np.testing.assert_allclose(fast.expression[::2], slow.expression, atol=1e-5)


def test_blinks_last_as_long_as_blinks_do(names):
    fps = 500.0
    motion = make_motion(names, int(60 * fps), kind="turning", fps=fps, seed=1)
    lid = motion.expression[:, names.index("eyeBlinkLeft")] > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lid.astype(int), [0]])))
    lengths = np.diff(edges.reshape(-1, 2), axis=1)[:, 0] / fps
    lengths = lengths[1:-1]
    assert 10 <= len(lengths) <= 40
    assert lengths.min() > 0.13 and lengths.max() < 0.41


def test_saccades_are_fast_and_fixations_still(names):
    motion = make_motion(names, 5000, fps=500.0, seed=2)
    speed = np.linalg.norm(np.diff(motion.eyes[:, 0], axis=0), axis=1) * 500
    assert np.percentile(speed, 70) < 0.05 and speed.max() > 1.0  # radians a second


def test_every_named_pose_exists_on_the_head(names):
    for pose in (*VISEMES.values(), *EXPRESSIONS.values()):
        for name in pose:
            for side in ("Left", "Right") if "*" in name else ("",):
                assert name.replace("*", side) in names
    vector = pose_vector(names, {"mouthSmile*": 0.5})
    assert vector.sum() == 1.0 and vector[names.index("mouthSmileLeft")] == 0.5


def test_a_performance_may_begin_and_end_at_rest(names):
    motion, blink = make_motion(names, 100, seed=1), names.index("eyeBlinkLeft")
    motion.expression[3:7, blink] = 0.9
    rested = at_rest_at_ends(motion, names)
    for name in ARRAYS:
        was, now = getattr(motion, name), getattr(rested, name)
        assert not now[[0, -1]].any()
        np.testing.assert_array_equal(now[10:-10], was[10:-10])  # 0.4 s at 25 frames a second
        assert (np.abs(now) <= np.abs(was)).all()
    np.testing.assert_array_equal(rested.expression[2:-2, blink], motion.expression[2:-2, blink])
    assert motion.expression[0].max() > 0.3  # there is something to leave out
    assert not at_rest_at_ends(motion[:1], names).expression.any()
    short = at_rest_at_ends(motion[20:30], names)  # 0.36 s, of which each passage takes 0.12
    np.testing.assert_array_equal(short.neck[3:7], motion.neck[23:27])
    assert not short.neck[[0, -1]].any()


def test_mistakes(names):
    with pytest.raises(UserError, match="dance"):
        make_motion(names, 5, kind="dance")
    with pytest.raises(UserError, match="frames"):
        make_motion(names, 0)


def test_a_motion_alone_touches_no_device(tmp_path, monkeypatch):
    def touched(*_):
        raise AssertionError("a device is used")

    monkeypatch.setattr("jax.device_put", touched)
    monkeypatch.setattr("jax.devices", touched)
    path = write_motion(tmp_path / "drive.npz", 7, Order("orbit:360x1", frames=3))
    assert Fit.load(path).motion.frame_count == 3


@pytest.mark.parametrize(
    "words, where",
    [
        (["--sheet", "sheets", "--identity", "7"], "--identity: has no part in contact sheets"),
        (["--sheet", "sheets", "--out", "x"], "--out: has no part in contact sheets"),
        (["--out", "a.npz", "--motion-only", "--from-rest", "--frames", "2"], "--frames: 2, from rest to rest"),
        (["--out", "set", "--identities", "0:2", "--overwrite"], "--overwrite: is for one capture"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(words, where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["studio", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mvp4d studio: {where}") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_says_how_much_it_holds(tmp_path, capsys):
    assert main(["studio", "--out", str(tmp_path / "a.npz"), "--motion-only", "--frames", "1", "--views", "1"]) == 0
    assert validate(tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'}: motion, kept as a fit without an identity, of head 'builtin', 1 frame at 25 fps, "
        "52 expression coefficients, 1 camera (128 x 128)"
    )
