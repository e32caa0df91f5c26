"""A photo on the mesh, and the mesh seen again, against pictures mixed by hand."""

import jax
import numpy as np
import pytest

from mvp4d.core.cameras import camera as cameras
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.small.painting import paint_video, painted_maps, vertex_colours
from tests.geometry.test_conditioning import ball_head, moving, rig

SIZE = (32, 24)


def small_rig():
    return cameras.resize(rig(), (128, 96), SIZE)


def test_painted_video_is_the_vertex_colours_seen_from_there():
    """Rasters of twice the size, mixed and averaged by hand; two photos at once; white and no trust off the head."""
    head, motion, views = ball_head(), moving(), small_rig()
    colours = np.random.default_rng(0).uniform(size=(2, head.vertex_count, 4)).astype(np.float32)
    video = paint_video(head, motion, views, SIZE, colours)
    assert video.shape == (2, 2, 5, *SIZE, 4)
    fine = (2 * SIZE[0], 2 * SIZE[1])
    raster = rasterize(cameras.resize(views[1, 0], SIZE, fine), np.asarray(skin(head, motion))[3], head.faces, fine)
    face, weights = np.asarray(raster.face), np.asarray(raster.barycentric)
    for photo in range(2):
        values = (colours[photo][head.faces[face]] * weights[..., None]).sum(-2)
        values[face < 0] = [1, 1, 1, 0]
        expected = values.reshape(SIZE[0], 2, SIZE[1], 2, 4).mean((1, 3))
        np.testing.assert_allclose(video[photo, 1, 3], expected, atol=1e-4)
    np.testing.assert_array_equal(video[0, 0, 0, 0, 0], [1, 1, 1, 0])


@pytest.mark.parametrize("stride", [2, 4])
def test_maps_are_latents_and_the_mean_trust_of_their_frames(stride):
    painted = np.random.default_rng(1).uniform(size=(2, 1 + stride, 16, 8, 4)).astype(np.float32)
    seen = []

    def encode(video: np.ndarray) -> np.ndarray:
        seen.append(video)
        return np.full((2, 2, 2, 1, 3), 7, np.float16)

    maps = painted_maps(painted, encode, ConditioningConfig(temporal_stride=stride))
    np.testing.assert_allclose(seen[0], 2 * painted[..., :3] - 1, atol=1e-6)
    assert maps.shape == (2, 2, 2, 1, 4) and (maps[..., :3] == 7).all()
    for view, row in np.ndindex(2, 2):
        block = painted[view, :, 8 * row : 8 * row + 8, :, 3]
        np.testing.assert_allclose(maps[view, 0, row, 0, 3], block[0].mean(), atol=1e-6)
        np.testing.assert_allclose(maps[view, 1, row, 0, 3], block[1:].mean(), atol=1e-6)


def test_trust_fades_and_what_is_not_seen_is_borrowed_or_filled():
    """An ellipsoid photographed from its left: a photo in one colour gives that colour everywhere; in a striped one the
    right side takes the colours of the left.
    """
    head, motion = ball_head(40, 60), moving()[:1]
    camera = jax.tree.map(lambda array: np.asarray(array)[0], camera_rig("arc:120x2", (64, 64)))
    plain = np.broadcast_to(np.float32([0.2, 0.5, 0.8]), (64, 64, 3))
    colours = vertex_colours(plain, camera, motion, head)
    assert colours.shape == (head.vertex_count, 4)
    np.testing.assert_allclose(colours[:, :3], plain[0, :1].repeat(head.vertex_count, 0), atol=1e-6)
    trust, middle = colours[:, 3], np.abs(head.canonical[:, 1]) < 0.06
    towards = np.asarray(cameras.centre(camera)) / np.linalg.norm(cameras.centre(camera))
    across = head.canonical / [0.08, 0.12, 0.1] ** np.array(2) @ towards
    across /= np.linalg.norm(head.canonical / [0.08, 0.12, 0.1] ** np.array(2), axis=1)  # cosine to the camera
    assert (trust[middle & (across > 0.6)] == 1).all() and (trust[across < 0] == 0).all()
    assert ((trust > 0.05) & (trust < 0.95)).sum() > 10

    stripes = np.zeros((64, 64, 3), np.float32)
    stripes[..., 0] = 0.5 + 0.5 * np.sin(np.arange(64) / 3)[:, None]
    colours = vertex_colours(stripes, camera, motion, head)
    right = np.flatnonzero(trust == 0)
    mirror = np.linalg.norm(head.canonical[:, None] - head.canonical[None, right] * [-1, 1, 1], axis=-1).argmin(0)
    full = trust[mirror] == 1
    assert full.sum() > 50
    np.testing.assert_allclose(colours[right[full], :3], colours[mirror[full], :3], atol=1e-6)
