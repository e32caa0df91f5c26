"""Faces that move in their own way: how far from the rig, where not at all, and what a capture says of it."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture import Capture
from mvp4d.core.errors import UserError
from mvp4d_jax.studio.motions import EXPRESSIONS, VISEMES, make_motion, pose_vector
from mvp4d_jax.studio.own_motion import own_motion
from mvp4d_jax.studio.produce import Order, make_capture
from mvp4d_jax.studio.studio import Studio, builtin_head
from mvp4d_jax.studio.traits import draw_identity, random_for

SIZE = 48
PEOPLE = (3, 6, *(pytest.param(number, marks=pytest.mark.slow) for number in (10_001, 11_001, 11_007)))
POSES = EXPRESSIONS | VISEMES
BLINK = {"eyeBlink*": 1.0}


@functools.lru_cache
def person(number):
    """The plain head of a person and their own motion."""
    head = builtin_head().personalise(draw_identity(number, builtin_head().shape_count).shape)
    return head, own_motion(head, number, 1.0)


def offsets(number, expression):
    """[F, N, 3] metres for coefficients [F, E], by the plain rig and by the person. Joints at rest: a sum of shapes."""
    head, own = person(number)
    plain = np.tensordot(expression, np.asarray(head.expression_basis), 1)
    return plain, np.tensordot(own.coefficients(expression), np.asarray(own.rig.expression_basis), 1)


def pose(number, weights):
    """Plain and own vertices [N, 3] of a pose by name."""
    head, _ = person(number)
    expression = pose_vector(head.expression_names, weights)[None]
    return [np.asarray(head.template) + moved[0] for moved in offsets(number, expression)]


def vertices_of(head, *parts):
    chosen = np.isin(head.face_parts, [head.part_names.index(part) for part in parts])
    return np.unique(np.asarray(head.faces)[chosen])


def gaps(head, vertices, pairs):
    """Metres from the lower to the upper landmark of every pair; below zero where they overlap."""
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]
    marks = np.einsum("kc,kcd->kd", np.asarray(head.landmark_barycentric), vertices[corners])
    return np.array([marks[upper, 1] - marks[lower, 1] for upper, lower in pairs])


def test_amount_zero_is_the_rig_to_the_bit():
    head, _ = person(6)
    own = own_motion(head, 6, 0.0)
    count = head.expression_count
    np.testing.assert_array_equal(own.rig.expression_basis[:count], head.expression_basis)
    assert not own.rig.expression_basis[count:].any()


@pytest.mark.parametrize("number", PEOPLE)
def test_rig_misses_a_person_by_as_much_as_trackers_miss_people(number):
    """In an expressive performance: 0.7 to 2 mm on average where the face moves, several millimetres at most."""
    head, _ = person(number)
    motion = make_motion(head.expression_names, 100, kind="expressive", seed=random_for(number, "motion"))
    face = vertices_of(head, "skin", "lips", "nostrils")
    plain, own = (moved[:, face] for moved in offsets(number, motion.expression))
    moving = np.linalg.norm(plain, axis=-1) > 0.002
    error = np.linalg.norm(own - plain, axis=-1)
    assert 0.0007 < error[moving].mean() < 0.002
    assert 0.0015 < np.percentile(error[moving], 95) < 0.005
    assert error.max() < 0.010


def test_neutral_face_and_lids_are_the_rigs(short_haired):
    head, own = person(6)
    lids = vertices_of(head, "lid_lining", "lashes", "sclera", "iris", "pupil")
    plain, moved = pose(6, EXPRESSIONS["laugh"] | BLINK)
    np.testing.assert_allclose(moved[lids], plain[lids], rtol=0, atol=1e-7)
    assert np.abs(moved - plain).max() > 0.002
    assert not own.coefficients(np.zeros((1, head.expression_count))).any()
    rig, still = camera_rig("arc:30x1", (SIZE, SIZE)), short_haired.motion(1, "still")
    moving = Studio(6, own_motion=1.0)
    np.testing.assert_array_equal(moving.render(still, rig, SIZE)[0], short_haired.render(still, rig, SIZE)[0])


@pytest.mark.parametrize("number", PEOPLE)
def test_eyes_still_close(number):
    pairs = ((37, 41), (38, 40), (43, 47), (44, 46))
    head, _ = person(number)
    assert gaps(head, np.asarray(head.template), pairs).min() > 0.005
    for weights in (BLINK, EXPRESSIONS["surprise"] | BLINK | {"eyeWide*": 0.0}, EXPRESSIONS["smile"] | BLINK):
        plain, own = pose(number, weights)
        assert gaps(head, own, pairs).max() < max(gaps(head, plain, pairs).max(), 0.0) + 0.0001


@pytest.mark.parametrize("number", PEOPLE)
def test_lips_meet_and_part_as_the_rigs_do(number):
    """Hardly further into each other than the rig's own; open stays open; closing undoes opening."""
    pairs = ((61, 67), (62, 66), (63, 65))
    head, _ = person(number)
    for weights in POSES.values():
        plain, own = (gaps(head, vertices, pairs) for vertices in pose(number, weights))
        assert (own > np.minimum(plain, 0.0) - 0.0015).all(), weights
        assert (own > 0.5 * plain)[plain > 0.005].all(), weights
    _, closed = pose(number, {"jawOpen": 0.8, "mouthClose": 0.8})
    np.testing.assert_allclose(gaps(head, closed, pairs), gaps(head, np.asarray(head.template), pairs), atol=0.0003)


@pytest.mark.parametrize("number", PEOPLE)
def test_lips_stay_in_front_of_the_teeth(number):
    """Depth of every lip vertex before the nearest tooth vertex in the frontal view, where one is near."""
    head, _ = person(number)
    lips, teeth = vertices_of(head, "lips"), vertices_of(head, "upper_teeth", "lower_teeth")
    for name in ("smile", "grin", "laugh", "pucker", "roll", "wide open", "disgust"):
        clearance = []
        for vertices in pose(number, EXPRESSIONS[name]):
            apart = np.linalg.norm(vertices[lips][:, None, :2] - vertices[teeth][None, :, :2], axis=-1)
            near = apart.min(1) < 0.0012
            clearance.append((vertices[lips, 2] - vertices[teeth[apart.argmin(1)], 2])[near].min(initial=0.1))
        plain, own = clearance
        assert own > min(plain, 0.0) - 0.001, (name, plain, own)


def test_jaw_takes_the_teeth_along():
    """Bone does not bend: the lower teeth keep their distance to each other's neighbours, scaled by the jaw's gain."""
    head, _ = person(6)
    teeth = vertices_of(head, "lower_teeth")
    plain, own = (moved[0, teeth] for moved in offsets(6, pose_vector(head.expression_names, {"jawOpen": 1.0})[None]))
    gain = np.linalg.norm(own) / np.linalg.norm(plain)
    np.testing.assert_allclose(own, gain * plain, atol=1e-6)
    assert abs(gain - 1) > 0.005
    for part in ("upper_teeth", "sclera", "tongue"):
        vertices = vertices_of(head, part)
        plain, own = (
            moved[0, vertices] for moved in offsets(6, pose_vector(head.expression_names, EXPRESSIONS["smile"])[None])
        )
        np.testing.assert_array_equal(own, plain)


def test_sides_differ_but_resemble_each_other():
    head, own = person(6)
    points = np.asarray(head.canonical)
    mirror = cKDTree(points * np.array([-1, 1, 1])).query(points)[1]
    shapes = own.rig.expression_basis
    left, right = (shapes[head.expression_names.index(f"mouthSmile{side}")] for side in ("Left", "Right"))
    plain = np.asarray(head.expression_basis)[head.expression_names.index("mouthSmileLeft")]
    mirrored = right[mirror] * np.array([-1, 1, 1])
    moving = np.linalg.norm(plain, axis=-1) > 0.002
    assert 0.0003 < np.linalg.norm(left - mirrored, axis=-1)[moving].mean() < 0.003
    first, second = (left - plain)[moving].ravel(), (mirrored - plain)[moving].ravel()
    assert np.corrcoef(first, second)[0, 1] > 0.3


def test_same_number_same_face_and_others_differ():
    head, own = person(6)
    np.testing.assert_array_equal(own_motion(head, 6, 1.0).rig.expression_basis, own.rig.expression_basis)
    other = own_motion(head, 3, 1.0)
    plain = np.asarray(head.expression_basis)
    deviations = [face.rig.expression_basis[: len(plain)] - plain for face in (own, other)]
    assert abs(np.corrcoef(deviations[0].ravel(), deviations[1].ravel())[0, 1]) < 0.5


def test_capture_ships_the_plain_rig(tmp_path, short_haired):
    order = Order("orbit:360x1", frames=2, size=SIZE, motion="expressive", own_motion=1.0)
    make_capture(tmp_path / "own", 6, order, quiet=True)
    make_capture(tmp_path / "plain", 6, dataclasses.replace(order, own_motion=0.0), quiet=True)
    own, plain = Capture.open(tmp_path / "own"), Capture.open(tmp_path / "plain")
    for name in ("head.npz", "motion.npz", "cameras.npz"):
        with np.load(tmp_path / "own" / name) as first, np.load(tmp_path / "plain" / name) as second:
            assert first.files == second.files
            for array in first.files:
                np.testing.assert_array_equal(first[array], second[array])
    np.testing.assert_array_equal(own.head.expression_basis, short_haired.head.expression_basis)
    assert own.info.extra["own_motion"] == 1.0 and "own_motion" not in plain.info.extra
    assert np.abs(own.frames(0).astype(int) - plain.frames(0)).max() > 20
    with pytest.raises(UserError, match="own_motion"):
        make_capture(tmp_path / "never", 6, dataclasses.replace(order, own_motion=-0.5))
