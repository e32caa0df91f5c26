"""Triangulation in closed form; consistency on a textured plane whose true reprojection error is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from mvp4d.core.cameras.camera import Camera
from mvp4d_jax.evaluation.reprojection import consistency, projection_matrix, triangulate

SIZE, FOCAL = 128, 160.0


def _rig(angles):
    """Cameras on an arc of 1 m around the origin, looking at it; [V, 1]."""
    matrices = []
    for angle in np.radians(angles):
        position = np.array([np.sin(angle), 0, np.cos(angle)])
        forward, up = -position, np.array([0.0, 1, 0])
        right = np.cross(forward, up)
        rotation = np.stack([right, -up, forward])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ position
        matrices.append(matrix)
    full = np.full((len(angles), 1), 1.0)
    return Camera(np.stack(matrices)[:, None], full * FOCAL, full * FOCAL, full * SIZE / 2, full * SIZE / 2)


def _plane_pictures(cameras, shift):
    """A textured plane z = 0 seen by each camera; `shift` [V] slides its texture in metres."""
    texture = gaussian_filter(np.random.default_rng(0).uniform(size=(400, 400)), 3)
    texture = (texture - texture.min()) / np.ptp(texture)
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    pictures = []
    for view in range(len(shift)):
        matrix = projection_matrix(cameras, (view, 0))
        homography = np.linalg.inv(matrix[:, [0, 1, 3]])
        x, y, w = np.einsum("ij,jhw->ihw", homography, np.stack([u, v, np.ones_like(u)]))
        rows, columns = (y / w + 0.5) * 400, (x / w + shift[view] + 0.5) * 400
        pictures.append(np.repeat(map_coordinates(texture, [rows, columns], order=3, mode="nearest")[..., None], 3, -1))
    return np.clip(pictures, 0, 1)


def test_triangulation_recovers_points():
    rng = np.random.default_rng(0)
    cameras = _rig([-20, 25])
    world = rng.uniform(-0.1, 0.1, size=(10, 3))
    matrices = np.stack([projection_matrix(cameras, (view, 0)) for view in range(2)])
    projected = np.einsum("vij,kj->kvi", matrices, np.c_[world, np.ones(10)])
    np.testing.assert_allclose(triangulate(projected[..., :2] / projected[..., 2:], matrices), world, atol=1e-9)


def test_consistent_views_have_subpixel_error_and_inconsistent_ones_do_not():
    cameras = _rig([-10, 0, 10])
    good = consistency(_plane_pictures(cameras, [0, 0, 0]), cameras)
    assert good.matches > 50 and good.error < 0.4
    # Texture that slides vertically between views cannot be explained by depth; 0.01 m is 1.6 px at 1 m.
    slid = _plane_pictures(cameras, [0, 0, 0])
    slid[1] = np.roll(slid[1], 2, axis=0)
    bad = consistency(slid, cameras)
    assert bad.error > good.error + 0.5


def test_pictures_without_structure_give_no_matches():
    result = consistency(np.ones((2, 64, 64, 3)), _rig([-10, 10]))
    assert result.matches == 0 and np.isnan(result.error)


@pytest.mark.parametrize("angle", [0, 35, 170])
def test_projection_matrix_puts_the_target_in_the_middle(angle):
    matrix = projection_matrix(_rig([angle]), (0, 0))
    x, y, w = matrix @ [0, 0, 0, 1]
    assert (x / w, y / w) == pytest.approx((SIZE / 2, SIZE / 2))
