"""Conditioning maps against values worked out pixel by pixel in numpy."""

import dataclasses

import jax
import numpy as np
import pytest

from mvp4d.core.cameras import camera as cameras
from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.conditioning import (
    ConditioningConfig,
    draw_conditioning,
    encode_positions,
)
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin

SIZE, FRAMES, VIEWS = (128, 96), 5, 2


def ball_head(rows=16, columns=20):
    """An ellipsoid with a nose, one expression that pushes the front out, and a neck joint."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, rows), np.arange(columns) / columns * 2 * np.pi, indexing="ij")
    unit = np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], -1)
    unit = unit.reshape(-1, 3)
    template = (unit * [0.08, 0.12, 0.1] * (1 + 0.2 * np.maximum(unit[:, 2:], 0) ** 8)).astype(np.float32)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1], np.roll(index, -1, 1)[:-1], index[1:], np.roll(index, -1, 1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    count = len(template)
    push = np.zeros((1, count, 3), np.float32)
    push[0, :, 2] = 0.02 * np.maximum(unit[:, 2], 0)
    weights = np.zeros((count, 2), np.float32)
    weights[:, 1] = 1
    return HeadModel(
        "ball",
        template,
        template,
        faces.astype(np.int32),
        np.zeros((count, 2), np.float32),
        faces.astype(np.int32),
        np.zeros(len(faces), np.uint8),
        np.zeros((0, count, 3), np.float32),
        push,
        np.zeros((0, count, 3), np.float32),
        np.array([[0, -0.1, 0]] * 2, np.float32),
        np.zeros((0, 2, 3), np.float32),
        np.zeros((1, 2, 3), np.float32),
        weights,
        np.zeros(1, np.int32),
        np.full((1, 3), 1 / 3, np.float32),
        (),
        ("push",),
        ("root", "neck"),
        (-1, 0),
        ("skin",),
    )


def moving():
    motion = Motion.still(FRAMES, 1)
    motion.expression[:, 0] = [0, 0.3, 0.5, 0.8, 1.0]
    motion.translation[:, 0] = [0, 0.004, 0.009, 0.015, 0.02]
    motion.rotation[:, 1] = np.linspace(0, 0.3, FRAMES)
    return motion


def rig():
    still = camera_rig(f"arc:70x{VIEWS}", SIZE)
    return Camera(*(getattr(still, name)[:, None] for name in FIELDS))


@pytest.fixture(scope="module")
def drawn():
    head, motion, views = ball_head(), moving(), rig()
    config = ConditioningConfig()
    mask = np.array([[1.0, 0.0], [0.0, 0.0]])
    outside = np.zeros((VIEWS, 1, *SIZE))
    outside[1, :, :, :20] = 1
    maps = draw_conditioning(head, motion, views, SIZE, config, views[1, 0], reference_mask=mask, outside=outside)
    return head, motion, views, config, np.asarray(maps)


def reference_values(head, motion, views, view, frame, values):
    """Values [N, A] painted at twice the latent resolution, unmasked where nothing is, with the raster's faces."""
    fine = (SIZE[0] // 4, SIZE[1] // 4)
    camera = cameras.resize(views[view, 0], SIZE, fine)
    raster = rasterize(camera, np.asarray(skin(head, motion))[frame], head.faces, fine, cull_backfaces=True)
    face, weights = np.asarray(raster.face), np.asarray(raster.barycentric)
    return (values[head.faces[np.maximum(face, 0)]] * weights[..., None]).sum(-2), face >= 0, camera


def average(values):
    return values.reshape(values.shape[0] // 2, 2, values.shape[1] // 2, 2, -1).mean((1, 3))


def test_channels():
    config = ConditioningConfig()
    assert config.channels == 56
    assert list(config.parts) == ["pose", "expression", "rays", "reference", "crop", "motion", "painted"]
    assert config.parts["painted"] == slice(56, 56)
    shown = dataclasses.replace(config, painted=12)
    assert shown.parts["painted"] == slice(56, 69) and shown.channels == 69
    paired = dataclasses.replace(shown, temporal_stride=2)
    assert paired.channels == 65


def test_pose_map(drawn):
    head, motion, views, config, maps = drawn
    assert maps.shape == (VIEWS, 2, 16, 12, 56)
    centred = head.canonical - head.canonical.mean(0)
    normalised = centred / np.abs(centred).max()
    for view, latent, frame in ((0, 0, 0), (1, 1, 4)):
        position, seen, _ = reference_values(head, motion, views, view, frame, normalised)
        channels = [
            function(2.0**octave * position[..., axis]) * seen
            for axis in range(3)
            for function in (np.sin, np.cos)
            for octave in range(7)
        ]
        expected = average(np.stack(channels, -1))
        np.testing.assert_allclose(maps[view, latent, ..., config.parts["pose"]], expected, atol=2e-4)
        assert (np.abs(expected).sum(-1) > 0).mean() > 0.2
    point = np.array([[0.3, -0.7, 1.0]], np.float32)
    encoded = np.asarray(encode_positions(point, 7))[0]
    np.testing.assert_allclose(encoded[:7], np.sin(2.0 ** np.arange(7) * 0.3), atol=1e-5)
    np.testing.assert_allclose(encoded[21:28], np.cos(2.0 ** np.arange(7) * -0.7), atol=1e-5)


def test_expression_map_is_offset_in_head_space(drawn):
    head, motion, views, config, maps = drawn
    expression = maps[..., config.parts["expression"]]
    assert not expression[:, 0].any()  # frame 0 is neutral; head rotation does not count as expression
    values, seen, _ = reference_values(head, motion, views, 0, 4, head.expression_basis[0] / 0.0104)
    np.testing.assert_allclose(expression[0, 1], average(values * seen[..., None]), atol=1e-4)
    assert expression[0, 1, ..., 2].max() > 1


def test_rays_are_in_the_reference_cameras_axes(drawn):
    _, _, views, config, maps = drawn
    rays = maps[..., config.parts["rays"]]
    np.testing.assert_allclose(rays[:, 0], rays[:, 1], atol=1e-6)
    # The reference camera's own central ray is its z axis; the other camera's is turned by the 70 degrees between them.
    middle = rays[:, 0, 7:9, 5:7].mean((1, 2))
    np.testing.assert_allclose(middle[1], [0, 0, 1], atol=2e-2)
    np.testing.assert_allclose(middle[0] @ middle[1], np.cos(np.deg2rad(70)), atol=1e-2)
    corner = rays[1, 0, 0, 0]
    camera = views[1, 0]
    expected = np.array([(4 - camera.cx) / camera.fx, (4 - camera.cy) / camera.fy, 1])
    np.testing.assert_allclose(corner, expected / np.linalg.norm(expected), atol=1e-4)


def test_masks(drawn):
    *_, config, maps = drawn
    reference, crop = maps[..., config.parts["reference"]], maps[..., config.parts["crop"]]
    assert (reference[0, 0] == 1).all() and not reference[0, 1].any() and not reference[1].any()
    np.testing.assert_allclose(crop[1, :, :, :, 0], np.tile([1, 1, 0.5] + [0] * 9, (2, 16, 1)))
    assert not crop[0].any()


def test_motion_is_displacement_in_latent_pixels(drawn):
    head, motion, views, config, maps = drawn
    movement = maps[..., config.parts["motion"]]
    assert not movement[:, 0].any()  # the first latent frame is a single video frame
    world = np.asarray(skin(head, motion))
    for view in range(VIEWS):
        pixels = [cameras.project(views[view, 0], world[frame].astype(float))[0] / 8 for frame in range(FRAMES)]
        others = np.concatenate([pixels[frame] - pixels[4] for frame in (1, 2, 3)], axis=-1)
        values, seen, _ = reference_values(head, motion, views, view, 4, others)
        np.testing.assert_allclose(movement[view, 1], average(values * seen[..., None]), atol=2e-3)
    assert np.abs(movement[:, 1]).max() > 0.2


def test_two_frames_a_latent_frame(drawn):
    """Frame 4 looks the same whether four frames or two lead to it; of the displacements that of frame 3 is left."""
    head, motion, views, config, maps = drawn
    paired = dataclasses.replace(config, temporal_stride=2)
    drawn_in_pairs = np.asarray(draw_conditioning(head, motion, views, SIZE, paired, views[1, 0]))
    assert drawn_in_pairs.shape == (VIEWS, 3, *maps.shape[2:4], 52)
    still = slice(0, config.parts["rays"].stop)
    np.testing.assert_allclose(drawn_in_pairs[:, [0, 2], ..., still], maps[..., still], atol=1e-6)
    np.testing.assert_allclose(
        drawn_in_pairs[:, 2, ..., paired.parts["motion"]], maps[:, 1, ..., config.parts["motion"]][..., -2:], atol=1e-6
    )


def test_moving_cameras_inside_jit_and_bad_shapes(drawn):
    head, motion, views, config, _ = drawn
    tracked = Camera(*(np.repeat(getattr(views, name), FRAMES, axis=1) for name in FIELDS))
    compiled = jax.jit(lambda m, c: draw_conditioning(head, m, c, SIZE, config, jax.tree.map(lambda a: a[1, 0], c)))
    moved = np.asarray(compiled(motion, tracked))
    plain = np.asarray(draw_conditioning(head, motion, views, SIZE, config, views[1, 0]))
    np.testing.assert_allclose(moved, plain, atol=1e-4)
    with pytest.raises(UserError, match="multiple of 8"):
        draw_conditioning(head, motion, views, (100, 96), config, views[0, 0])
    with pytest.raises(UserError, match="cameras"):
        draw_conditioning(head, motion, views[:, 0], SIZE, config, views[0, 0])
    with pytest.raises(UserError, match="whole latent frames"):
        draw_conditioning(head, dataclasses.replace(motion[:4]), views, SIZE, config, views[0, 0])
