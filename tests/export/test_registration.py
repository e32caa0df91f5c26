"""Photos laid on the fitted head's lips and lids."""

import dataclasses

import numpy as np
import pytest

from mvp4d.core.cameras.camera import Camera, look_at, project
from mvp4d.core.heads import load_head
from mvp4d_export.registration import MOST, displacements, laid_on, on_head

SIZE, PITCH = 160, 0.0005


def points_of(head) -> np.ndarray:
    """[68, 3] Multi-PIE's points of a head at rest."""
    corners = head.template[head.faces[head.landmark_faces]]
    return (corners * head.landmark_barycentric[..., None]).sum(1)


@pytest.fixture(scope="module")
def head():
    return load_head("builtin").personalise(np.zeros(0, np.float32))


@pytest.fixture(scope="module")
def own(head) -> np.ndarray:
    """[68, 2] pixels of a head seen from the front, its mouth's middle in the picture's."""
    flat = points_of(head)[:, :2] * [1, -1] / PITCH
    return flat - flat[48:68].mean(0) + SIZE / 2


def blob(place: np.ndarray) -> np.ndarray:
    """[SIZE, SIZE, 1] a Gaussian of 3 pixels at a place [2]."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / 18)[..., None].astype(np.float32)


def middle(picture: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.array([(columns * picture[..., 0]).sum(), (rows * picture[..., 0]).sum()]) / picture.sum()


def test_points_move_to_lines_and_corners_to_corners(own):
    seen = own + [1.5, -2.0]
    moved = displacements(own, seen)
    np.testing.assert_allclose(moved[[36, 39, 42, 45, 48, 54, 60, 64]], [[1.5, -2.0]] * 8, atol=1e-9)
    assert np.isnan(moved[:36]).all()
    # slid along its own lines, a mouth has not moved but at its corners
    slid = own.copy()
    slid[61:64] += 0.3 * (own[62:65] - own[61:64])
    assert (
        np.linalg.norm(displacements(own, slid)[61:64], axis=1).max() < 0.15 * np.linalg.norm(slid - own, axis=1).max()
    )


def test_a_raised_corner_comes_down_and_little_else_moves(own):
    seen = own.copy()
    seen[[48, 60]] += [0, -4.0]  # 2 mm
    facing = np.ones(68, bool)
    at = laid_on(blob(seen[48]), own, seen, facing, PITCH)
    np.testing.assert_allclose(middle(at), own[48], atol=0.8)
    for place in (own[54], own[33], own[8]):  # the other corner, the nose, the chin
        there = blob(place.clip(0, SIZE))
        assert np.linalg.norm(middle(laid_on(there, own, seen, facing, PITCH)) - middle(there)) < 0.1
    assert (laid_on(at, own, seen, np.zeros(68, bool), PITCH) == at).all()


def test_it_has_a_limit(own):
    seen = own + [0, 60.0]
    picture = blob(own[62] + [0, MOST / PITCH])
    moved = laid_on(picture, own, seen, np.ones(68, bool), PITCH)
    assert moved[tuple(own[62, ::-1].astype(int))][0] > 0.8  # from no further away than that


def test_on_a_head(head):
    """A photo with dots where it says that its mouth's corners are has them at the head's."""
    camera = Camera(look_at(np.array([0.1, 0, 1.0]), np.zeros(3)), *(np.float64(x) for x in (1500, 1500, 150, 150)))
    points, _ = project(camera, points_of(head))
    seen = np.asarray(points) + [2.0, 3.0]
    photo = np.full((300, 300, 4), 255, np.uint8)
    rows, columns = np.mgrid[:300, :300] + 0.5
    for place in seen[[48, 54]]:
        photo[np.hypot(columns - place[0], rows - place[1]) < 4, :3] = 0
    found = on_head(photo, camera, head, head.template, np.array([0.0, 0, 1]), seen)
    dark = 255.0 - found[..., 0]
    for place in np.asarray(points)[[48, 54]]:
        near = dark * (np.hypot(columns - place[0], rows - place[1]) < 12)
        np.testing.assert_allclose(
            [(near * columns).sum() / near.sum(), (near * rows).sum() / near.sum()], place, atol=0.8
        )
    assert (found[..., 3] == 255).all()
    assert on_head(photo, camera, head, head.template, np.array([0.0, 0, 1]), np.full((68, 2), np.nan)) is photo
    bare = dataclasses.replace(head, landmark_faces=head.landmark_faces[:0])
    assert on_head(photo, camera, bare, head.template, np.array([0.0, 0, 1]), seen) is photo
