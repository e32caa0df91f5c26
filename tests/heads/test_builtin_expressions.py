"""Each of the 52 expressions moves what its name says, in the direction it says, on the side it says."""

from __future__ import annotations

import builtin_regions
import numpy as np
import pytest

from mvp4d.core.heads import load_head
from mvp4d.core.heads.arkit import ARKIT_NAMES

# Landmarks (Multi-PIE numbers; the head's left is picture right) and what they do in millimetres: axis, least signed
# amount. Axes: x to the head's left, y up, z forwards. "-": the mean of the first group minus that of the second.
LEFT_BROW_INNER, LEFT_BROW_OUTER, BROWS_INNER = (22, 23), (24, 25), (21, 22)
LEFT_UPPER_LID, LEFT_LOWER_LID, LEFT_CORNER, RIGHT_CORNER = (43, 44), (46, 47), (54,), (48,)
UPPER_LIP, LOWER_LIP, UPPER_INNER, LOWER_INNER, CHIN = (50, 51, 52), (56, 57, 58), (61, 62, 63), (65, 66, 67), (7, 8, 9)
LEFT_UPPER_LIP, LEFT_LOWER_LIP, NOSE_WING_LEFT = (52, 53), (55, 56), (35,)
LIPS = UPPER_LIP + LOWER_LIP

CLAIMS = {
    "browDownLeft": [(LEFT_BROW_INNER, "y", -4), (LEFT_BROW_INNER, "x", -1.5)],
    "browInnerUp": [(BROWS_INNER, "y", 6)],
    "browOuterUpLeft": [(LEFT_BROW_OUTER, "y", 5)],
    "cheekSquintLeft": [(LEFT_LOWER_LID, "y", 1.0)],
    "eyeBlinkLeft": [(LEFT_UPPER_LID, "y", -4)],
    "eyeLookDownLeft": [(LEFT_UPPER_LID, "y", -1.5)],
    "eyeLookUpLeft": [(LEFT_UPPER_LID, "y", 0.8)],
    "eyeSquintLeft": [(LEFT_LOWER_LID, "y", 1.2), (LEFT_UPPER_LID, "y", -1)],
    "eyeWideLeft": [(LEFT_UPPER_LID, "y", 1.5)],
    "jawForward": [(CHIN, "z", 5), (LOWER_LIP, "z", 4)],
    "jawLeft": [(CHIN, "x", 6)],
    "jawOpen": [(CHIN, "y", -20), (LOWER_INNER, "y", -20)],
    "mouthFunnel": [(LIPS, "z", 6), (UPPER_INNER, "y", 4), (LOWER_INNER, "y", -4), (LEFT_CORNER, "x", -6)],
    "mouthPucker": [(LIPS, "z", 6), (LEFT_CORNER, "x", -9), (RIGHT_CORNER, "x", 9)],
    "mouthLeft": [(LIPS, "x", 7)],
    "mouthDimpleLeft": [(LEFT_CORNER, "x", 4), (LEFT_CORNER, "z", -4)],
    "mouthFrownLeft": [(LEFT_CORNER, "y", -7)],
    "mouthSmileLeft": [(LEFT_CORNER, "y", 6), (LEFT_CORNER, "x", 6)],
    "mouthStretchLeft": [(LEFT_CORNER, "x", 7), (LEFT_CORNER, "y", -4)],
    "mouthLowerDownLeft": [(LEFT_LOWER_LIP, "y", -4)],
    "mouthUpperUpLeft": [(LEFT_UPPER_LIP, "y", 3.5)],
    "mouthPressLeft": [(LEFT_UPPER_LIP, "y", -0.8), (LEFT_LOWER_LIP, "y", 1.0)],
    "mouthRollLower": [(LOWER_LIP, "y", 1.5), (LOWER_LIP, "z", -1.5)],
    "mouthRollUpper": [(UPPER_LIP, "y", -1.2), (UPPER_LIP, "z", -1.2)],
    "mouthShrugLower": [(LOWER_LIP, "y", 3), (LOWER_LIP, "z", 2), (CHIN, "y", 0.5)],
    "mouthShrugUpper": [(UPPER_LIP, "y", 3), (UPPER_LIP, "z", 2)],
    "noseSneerLeft": [(NOSE_WING_LEFT, "y", 3)],
    "tongueOut": [(LOWER_INNER, "y", -4)],
}
OTHERWISE = {"cheekPuff", "eyeLookInLeft", "eyeLookOutLeft", "mouthClose"}  # tested apart
ONE_SIDED = sorted(name for name in ARKIT_NAMES if name.endswith("Left"))


@pytest.fixture(scope="session")
def head():
    return load_head("builtin")


def offset(head, name: str) -> np.ndarray:
    return head.expression_basis[head.expression_names.index(name)]


def landmark_offsets(head, name: str) -> np.ndarray:
    moved = offset(head, name)[head.faces[head.landmark_faces]]
    return np.einsum("kc,kcd->kd", head.landmark_barycentric, moved) * 1000


def test_every_expression_is_accounted_for():
    sided = {name for name in ARKIT_NAMES if not name.endswith("Right")}
    assert sided == set(CLAIMS) | OTHERWISE


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_expression_moves_what_it_names(head, name):
    moved = landmark_offsets(head, name)
    for group, axis, least in CLAIMS[name]:
        amount = moved[list(group), "xyz".index(axis)].mean()
        assert amount * np.sign(least) >= abs(least), f"{group} {axis}: {amount:.2f} mm"


@pytest.mark.parametrize("left", ONE_SIDED)
def test_right_mirrors_left(head, left):
    right = left.replace("Left", "Right")
    mirrored = offset(head, left)[builtin_regions.mirror_map()] * [-1, 1, 1]
    assert np.allclose(offset(head, right), mirrored, atol=1e-7)
    if left in ("jawLeft", "mouthLeft"):
        return
    far = head.template[:, 0] < -0.03
    assert np.abs(offset(head, left)[far]).max() < 0.15 * np.abs(offset(head, left)).max()


@pytest.mark.parametrize("name", [name for name in ARKIT_NAMES if not name.endswith(("Left", "Right"))])
def test_two_sided_expressions_are_symmetric(head, name):
    mirrored = offset(head, name)[builtin_regions.mirror_map()] * [-1, 1, 1]
    assert np.allclose(offset(head, name), mirrored, atol=1e-7)


def test_expressions_differ_from_each_other_and_are_seen(head):
    flat = head.expression_basis.reshape(52, -1).astype(float)
    assert np.linalg.norm(head.expression_basis, axis=2).max(1).min() > 0.0025  # every one moves something by 2.5 mm
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    close = unit @ unit.T - np.eye(52)
    assert close.max() < 0.93
    assert np.linalg.matrix_rank(unit, tol=0.02) == 52


def test_gaze_takes_the_pupil_where_it_says(head):
    pupil = np.unique(head.faces[head.face_parts == head.part_names.index("pupil")])
    left = pupil[head.template[pupil, 0] > 0]
    for name, axis, least in (("Down", 1, -4), ("Up", 1, 3.5), ("In", 0, -4), ("Out", 0, 4)):
        amount = offset(head, f"eyeLook{name}Left")[left, axis].mean() * 1000
        assert amount * np.sign(least) >= abs(least), name


def test_cheeks_puff_out(head):
    sides = head.template * np.where(head.template[:, :1] < 0, [-1, 1, 1], 1)
    distance = np.linalg.norm(sides - [0.043, -0.064, 0.085], axis=1)
    cheek = builtin_regions.piece_mask("skin") & (distance < 0.012)
    outwards = offset(head, "cheekPuff")[cheek] * np.sign(head.template[cheek, :1])
    assert cheek.sum() > 10
    assert outwards[:, 0].mean() > 0.004 and offset(head, "cheekPuff")[cheek, 2].mean() > 0.004


def test_tongue_comes_out_past_the_lips(head):
    tongue = builtin_regions.piece_mask("tongue")
    out = head.template + offset(head, "tongueOut")
    lips = builtin_regions.lip_mask() == 1
    assert out[tongue, 2].max() > out[lips, 2].max() + 0.008
    assert np.abs(offset(head, "jawOpen")[tongue]).max() > 0.01  # and it follows the jaw


def test_mouth_close_shuts_an_open_jaw(head):
    upper, lower = builtin_regions.lip_lines()
    middle = slice(len(upper) // 2 - 6, len(upper) // 2 + 7)
    opened = head.template + offset(head, "jawOpen")
    gap = opened[upper[middle], 1] - opened[lower[middle], 1]
    assert gap.max() > 0.022
    closed = opened + offset(head, "mouthClose")
    assert (closed[upper[middle], 1] - closed[lower[middle], 1]).max() < 0.12 * gap.max()


def test_smile_and_brows_leave_the_rest_alone(head):
    still = builtin_regions.piece_mask("eye", "upper_teeth", "lower_teeth", "ear") | (head.template[:, 1] < -0.17)
    for name in ("mouthSmileLeft", "browInnerUp", "browDownLeft", "cheekPuff", "mouthPucker", "noseSneerLeft"):
        assert np.abs(offset(head, name)[still]).max() < 1e-6, name


def test_lids_stay_in_front_of_the_eyeball(head):
    """Half way and all the way through a blink, a squint and a look down, no lid vertex sinks into the eyeball."""
    centre, radius = head.joints[3], 0.0121
    rim = builtin_regions.eyelid_lines()[0].ravel()
    for name in ("eyeBlinkLeft", "eyeSquintLeft", "eyeLookDownLeft", "eyeWideLeft", "browDownLeft", "cheekSquintLeft"):
        for amount in (0.5, 1.0):
            moved = head.template[rim] + amount * offset(head, name)[rim]
            assert np.linalg.norm(moved - centre, axis=1).min() > radius + 0.0001, (name, amount)
