"""The maps of a reference and of the views to make, where the photo is painted onto the head."""

import dataclasses

import jax
import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera, project
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.clean_views import PhotoViews
from mvp4d_jax.sampling.plan import Window
from mvp4d_jax.sampling.shot import crop_reference, draw_window, make_reference
from tests.geometry.test_conditioning import ball_head
from tests.small_world import SIZE, ball, motion

CONFIG = ConditioningConfig(painted=3, image_to_latent=1, supersampling=1)


def encode(video: np.ndarray) -> np.ndarray:
    """An autoencoder without loss: the frame that a latent frame ends with."""
    return video[:, ::4]


def samples(maps: np.ndarray) -> np.ndarray:
    """[..., h, w, Cc] -> the painted photo [..., h, w, 3] in [-1, 1]."""
    return maps[..., CONFIG.parts["painted"]][..., :-1]


def test_reference_and_views_show_the_photo():
    """A photo that turns from green to red along x comes back from its own camera; from a side one end shows more."""
    head, rig, still = ball_head(40, 60), camera_rig("arc:40x3", (SIZE, SIZE)), Motion.still(1, 1)
    photo = np.zeros((SIZE, SIZE, 3), np.float32)
    photo[..., 0] = np.linspace(0, 1, SIZE)
    photo[..., 1] = 1 - photo[..., 0]
    camera = jax.tree.map(lambda array: np.asarray(array)[1], rig)
    reference = make_reference(photo, camera, still, head, encode, CONFIG)
    views = Camera(**{name: np.asarray(getattr(rig, name))[:, None] for name in FIELDS})
    maps = draw_window(head, Motion.still(5, 1), views, (SIZE, SIZE), CONFIG, reference, encode)  # [V, L, h, w, Cc]
    assert reference.colours.shape == (head.vertex_count, 4)
    own = samples(reference.conditioning)
    drawn = (own != 1).any(-1)
    assert drawn.mean() > 0.05
    away = np.linalg.norm(np.moveaxis(np.mgrid[:SIZE, :SIZE], 0, -1) - np.argwhere(drawn).mean(0), axis=-1)
    inner = away < 0.6 * away[drawn].max()
    assert inner.sum() > 50
    np.testing.assert_allclose(own[inner], 2 * photo[inner] - 1, atol=0.05)
    redder = (samples(maps[:, 0])[..., 0] - samples(maps[:, 0])[..., 1]).sum((1, 2))
    assert redder[0] * redder[2] < 0 and abs(redder[1]) < min(abs(redder[0]), abs(redder[2]))


def test_photos_as_clean_views_keep_their_place_to_the_head():
    """Whatever the head does, its surface lands in the still crop where it lay in the photo."""
    head, own, driving = ball(), motion(2), motion(4)
    driving = dataclasses.replace(
        driving,
        rotation=np.float32([[0, 0, 0], [0.1, 0.5, 0], [0, -0.4, 0.2], [0.3, 0, 0]]),
        translation=np.float32([[0, 0, 0], [0.02, 0, 0.1], [0, 0.1, 0], [0.05, 0, 0]]),
    )
    rig = camera_rig("orbit:360x8", (64, 64))
    cameras = Camera(**{name: np.asarray(getattr(rig, name))[[0, 1]] for name in FIELDS})
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 255, (64, 64, 4), np.uint8) for _ in range(2))
    views = PhotoViews(Portrait(photos, cameras, own, head, 0), SIZE, 1.2)
    ((shown, moved),) = views.shown(driving)
    crop, still, _ = crop_reference(views.portrait.on_background(1), cameras[1], own[slice(1, 2)], head, SIZE, 1.2)
    wanted, _ = project(still, np.asarray(skin(head, own[slice(1, 2)]), np.float64)[0])
    vertices = np.asarray(skin(head, shown), np.float64)
    for frame in range(4):
        pixels, _ = project(moved[0, frame], vertices[frame])
        np.testing.assert_allclose(pixels, wanted, atol=1e-3)
    np.testing.assert_allclose(shown.rotation, driving.rotation)
    frames = views.frames(Window(0, 4, 0, 1))
    assert frames.shape == (1, 4, SIZE, SIZE, 3) and views.views == (1,)
    np.testing.assert_allclose(frames[0, 3], 2 * crop - 1, atol=1e-6)
