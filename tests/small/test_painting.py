"""A photo on the mesh, and the mesh seen again, against pictures mixed by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from mvp4d.core.cameras import camera as cameras
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.heads.mesh import vertex_normals
from mvp4d.core.heads.motion import Motion
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


def plates():
    """A square of 6 cm, 5 cm before one of 14 cm, vertices 2 mm apart: head, and [N] which are of the near one."""
    head, grids = ball_head(76, 136), []
    for half, depth in ((0.03, 0.05), (0.07, 0.0)):
        side = np.arange(-half, half + 1e-9, 0.002)
        x, y = np.meshgrid(side, side)
        index = np.arange(x.size).reshape(x.shape)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
        corners = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
        grids.append((np.stack([x.ravel(), y.ravel(), np.full(x.size, depth)], -1), corners))
    (near, front), (far, back) = grids
    points = np.concatenate([near, far, np.repeat(far[:1], head.vertex_count - len(near) - len(far), 0)])
    faces = np.concatenate([front, back + len(near)]).astype(np.int32)
    points = points.astype(np.float32)
    chosen = np.arange(len(points)) < len(near)
    parts = np.zeros(len(faces), np.uint8)
    return dataclasses.replace(
        head, canonical=points, template=points, faces=faces, face_uvs=faces, face_parts=parts
    ), chosen


def test_nothing_is_taken_from_beside_an_outline_before_something_else():
    """Within 5 mm of a near square's edges neither it nor what is seen past it is trusted; the picture's rim is."""
    (head, near), motion = plates(), Motion.still(1, 1)
    camera = jax.tree.map(lambda array: np.asarray(array)[0], camera_rig("arc:0x1", (256, 256)))
    trust = vertex_colours(np.zeros((256, 256, 3), np.float32), camera, motion, head)[:, 3]
    points = head.template
    inward = 0.03 - np.abs(points[:, :2]).max(1)  # of the near square's edges
    assert (trust[near & (inward < 0.003)] == 0).all() and (trust[near & (inward > 0.009)] == 1).all()
    eye = np.asarray(cameras.centre(camera), np.float64)
    shadow = 0.03 * eye[2] / (eye[2] - 0.05)  # the edges' place on the far square, seen from the camera
    outward = np.abs(points[:, :2]).max(1) - shadow
    assert (trust[~near & (outward < 0.002)] == 0).all()
    drawn = np.isin(np.arange(len(points)), head.faces)
    assert (trust[~near & drawn & (outward > 0.009)] == 1).all()  # its own outline is before nothing


def test_nothing_is_taken_from_where_a_photo_shows_no_person():
    head, motion = ball_head(40, 60), moving()[:1]
    camera = jax.tree.map(lambda array: np.asarray(array)[0], camera_rig("arc:0x1", (64, 64)))
    plain, alpha = np.full((64, 64, 3), 0.5, np.float32), np.ones((64, 64), np.float32)
    whole = vertex_colours(plain, camera, motion, head)[:, 3]
    alpha[:, :32] = 0
    cut = vertex_colours(plain, camera, motion, head, alpha)[:, 3]
    column = np.asarray(cameras.project(camera, np.asarray(skin(head, motion))[0])[0])[:, 0]
    np.testing.assert_array_equal(cut[column > 34.5], whole[column > 34.5])
    assert (cut[column < 32] == 0).all() and (whole[column < 32] > 0).any()


def test_what_a_photo_shows_of_a_surface_that_turns_away_is_not_spread_over_it():
    """An ellipsoid whose outline is black in the photo, where hair or a collar would be: no vertex turns black."""
    head, motion = ball_head(80, 120), moving()[:1]
    camera = jax.tree.map(lambda array: np.asarray(array)[0], camera_rig("arc:0x1", (128, 128)))
    vertices, direction = np.asarray(skin(head, motion))[0], np.asarray(cameras.centre(camera))
    raster = rasterize(camera, vertices, head.faces, (128, 128))
    normals = vertex_normals(vertices, np.asarray(head.faces)) @ (direction / np.linalg.norm(direction))
    face, weights = np.asarray(raster.face), np.asarray(raster.barycentric)
    cosine = np.where(face >= 0, (normals[np.asarray(head.faces)[face]] * weights).sum(-1), 0)
    photo = np.where(cosine[..., None] < 0.2, 0.0, 0.7).astype(np.float32).repeat(3, -1)
    colours = vertex_colours(photo, camera, motion, head, fitted=True)
    np.testing.assert_array_equal(colours[:, 3], vertex_colours(photo, camera, motion, head)[:, 3])
    assert ((colours[:, 3] > 0) & (normals < 0.2)).sum() > 20  # so that their own colour counted for something
    assert colours[:, :3].min() > 0.6
