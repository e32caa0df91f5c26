"""Driving motion from other sources, by expression names."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvp4d.core.driving import check_motion, load_motion
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.retarget import canonical_name, retarget
from mvp4d.core.live_link import read_live_link

NAMES = ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft")


def _head(**parts):
    """A head of which these parts alone are asked for."""
    head = object.__new__(HeadModel)
    vars(head).update(parts)
    return head


HEAD = _head(name="builtin", expression_names=NAMES, expression_basis=np.zeros((len(NAMES), 1, 3)))
HEADER = [
    "Timecode",
    "BlendshapeCount",
    "EyeBlinkLeft",
    "EyeBlinkRight",
    "JawOpen",
    "TongueOut",
    "HeadYaw",
    "HeadPitch",
    "HeadRoll",
    "LeftEyeYaw",
    "LeftEyePitch",
    "LeftEyeRoll",
    "RightEyeYaw",
    "RightEyePitch",
    "RightEyeRoll",
]


def _csv(path, rows):
    path.write_text("\n".join([",".join(HEADER), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def recording(tmp_path):
    """Half a second over a full one, at 60 frames a second."""
    rows = []
    for index in range(90):
        second, frame = divmod(30 + index, 60)
        rows.append(
            [
                f"10:20:{second:02d}:{frame:02d}.500",
                61,
                index / 90,
                0.25,
                0.5,
                0.1,
                0.3,
                -0.2,
                0.1,
                0.05,
                0.02,
                0,
                0.06,
                0.01,
                0,
            ]
        )
    return _csv(tmp_path / "take.csv", rows)


def test_live_link_is_read_and_retargeted(recording):
    motion, notice = load_motion(recording, HEAD)
    assert motion.frame_count == 90 and motion.fps == 60
    np.testing.assert_allclose(motion.expression[45], [0.5, 0.5, 0.25, 0], atol=1e-6)
    assert notice == "1 of 4 expressions of the motion have no counterpart in 'builtin'"
    # Yaw about y, then pitch about x, then roll about z: the product of the three single rotations.
    yaw, pitch, roll = (Rotation.from_euler(axis, angle) for axis, angle in (("y", 0.3), ("x", -0.2), ("z", 0.1)))
    np.testing.assert_allclose(motion.rotation[0], (yaw * pitch * roll).as_rotvec(), atol=1e-6)
    for eye, (pitch, yaw) in zip(motion.eyes[0], ((0.02, 0.05), (0.01, 0.06))):
        turned = Rotation.from_euler("y", yaw) * Rotation.from_euler("x", pitch)
        np.testing.assert_allclose(eye, turned.as_rotvec(), atol=1e-6)


def test_names_of_all_spellings_are_one():
    assert len({canonical_name(name) for name in ("EyeBlinkLeft", "eyeBlink_L", "eyeBlinkLeft")}) == 1
    assert canonical_name("eyeBlink_R") != canonical_name("eyeBlink_L")


def test_ict_names_reorder_onto_arkit():
    motion = dataclasses.replace(Motion.still(2, 3), expression=np.array([[0.1, 0.2, 0.3]] * 2, np.float32))
    out, notice = retarget(motion, "ict", ("eyeBlink_R", "jawOpen", "mouthSmile_L"), HEAD)
    np.testing.assert_allclose(out.expression[0], [0.2, 0, 0.1, 0.3], atol=1e-7)
    assert notice == ""


def test_coefficients_without_names_drive_the_pose_alone():
    motion = dataclasses.replace(
        Motion.still(2, 65), expression=np.ones((2, 65), np.float32), jaw=np.full((2, 3), 0.1, np.float32)
    )
    out, notice = retarget(motion, "flame2023-nojaw", (), HEAD)
    assert (out.expression == 0).all() and (out.jaw == np.float32(0.1)).all()
    assert "only head, neck, jaw and eye rotations" in notice


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text.replace("JawOpen", "Jaw"), "JawOpen"),
        (lambda text: text.replace(",0.5,", ",wide,", 1), "is not a number"),
        (lambda text: text.replace(",0.25,", ",nan,"), "not finite"),
        (lambda text: text.splitlines()[0], "no frames"),
    ],
)
def test_damaged_recordings_name_row_and_column(recording, damage, message):
    recording.write_text(damage(recording.read_text()))
    with pytest.raises(UserError, match=message):
        read_live_link(recording)


@pytest.mark.parametrize("name", ["none.npz", "motion.txt"])
def test_unknown_motions_are_refused(tmp_path, name):
    (tmp_path / "motion.txt").write_text("x")
    with pytest.raises(UserError, match=name):
        load_motion(tmp_path / name, HEAD)


def test_a_real_recording_drives_the_builtin_head(shared_data):
    """600 frames of a phone: every ARKit shape that the head has moves it, none by position."""
    from mvp4d.core.heads import load_head

    head = load_head("builtin")
    path = shared_data / "live_link" / "range_of_motion.csv"
    motion, notice = load_motion(path, head)
    columns = path.read_text().splitlines()[0].split(",")
    blink = [float(row.split(",")[columns.index("EyeBlinkLeft")]) for row in path.read_text().splitlines()[1:]]
    np.testing.assert_allclose(motion.expression[:, head.expression_names.index("eyeBlinkLeft")], blink, atol=1e-6)
    assert motion.frame_count == 600 and motion.expression.max() <= 1.01
    assert notice == ""


def test_a_motion_file_names_its_head_and_is_matched_by_name(tmp_path):
    from mvp4d.core.capture.motion_file import write_motion

    source = _head(
        name="other",
        expression_names=("mouthSmile_L", "jawOpen"),
        expression_basis=np.zeros((2, 1, 3)),
        joint_names=("left_eye", "right_eye"),
        joints=np.array([[0, 0.1, 0], [0, 0.1, 0]]),
    )
    motion = dataclasses.replace(Motion.still(2, 2), expression=np.array([[0.1, 0.2]] * 2, np.float32))
    write_motion(tmp_path / "motion.npz", motion, source)
    out, notice = load_motion(
        tmp_path / "motion.npz",
        _head(**vars(HEAD), joint_names=("left_eye", "right_eye"), joints=np.zeros((2, 3))),
    )
    np.testing.assert_allclose(out.expression[0], [0.2, 0, 0, 0.1], atol=1e-7)
    np.testing.assert_allclose(out.translation[0], [0, 0.1, 0], atol=1e-7)  # the eyes are where they were recorded
    assert notice == ""


def test_nameless_expressions_of_another_count_are_refused(tmp_path):
    from mvp4d.core.heads.motion import ARRAYS

    motion = Motion.still(2, 50)
    np.savez(tmp_path / "motion.npz", **{name: getattr(motion, name) for name in ARRAYS}, fps=25.0)
    with pytest.raises(UserError, match="50 expressions without names"):
        load_motion(tmp_path / "motion.npz", HEAD)


def test_a_head_may_be_given_by_its_spec(recording):
    found, notice = load_motion(recording, "builtin")
    expected, _ = load_motion(recording, load_head("builtin"))
    np.testing.assert_array_equal(found.expression, expected.expression)
    assert found.expression.any() and not notice
    with pytest.raises(UserError, match="`head`: 'buildin' is not a head model"):
        load_motion(recording, "buildin")


def test_a_motion_is_checked_against_its_head():
    check_motion(Motion.still(2, HEAD.expression_count), HEAD)
    for expression in (np.zeros((2, HEAD.expression_count - 1)), np.zeros((2, 1, HEAD.expression_count))):
        with pytest.raises(UserError, match=r"^`motion`: has expressions \[2, .*\], head 'builtin' takes \[frames, "):
            check_motion(dataclasses.replace(Motion.still(2, 1), expression=expression), HEAD)
