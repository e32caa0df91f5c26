"""The maps of a reference and of the views to make, where the photo is painted onto the head."""

import dataclasses

import jax
import numpy as np

from mvp4d_jax.geometry.cameras import FIELDS, Camera
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.geometry.rigs import camera_rig
from mvp4d_jax.sampling.shot import draw_window, make_reference
from tests.small_world import SIZE, ball, motion

CONFIG = ConditioningConfig(painted=True, supersampling=8)  # as many samples as pixels


def encode(video: np.ndarray) -> np.ndarray:
    return np.zeros((*video.shape[:2], SIZE // 8, SIZE // 8, 4), np.float32)


def samples(maps: np.ndarray) -> np.ndarray:
    """[h, w, Cc] -> the painted samples as a picture [H, W, 3]."""
    h, w = maps.shape[:2]
    values = maps[..., CONFIG.parts["painted"]][..., :-1].reshape(h, w, 8, 8, 3)
    return values.transpose(0, 2, 1, 3, 4).reshape(8 * h, 8 * w, 3)


def test_reference_and_views_show_the_photo():
    """A photo that turns from green to red along x comes back from its own camera; from a side one end shows more."""
    head, rig, still = ball(), camera_rig("arc:40x3", (SIZE, SIZE)), motion(1)
    photo = np.zeros((SIZE, SIZE, 3), np.float32)
    photo[..., 0] = np.linspace(0, 1, SIZE)
    photo[..., 1] = 1 - photo[..., 0]
    camera = jax.tree.map(lambda array: np.asarray(array)[1], rig)
    reference = make_reference(photo, camera, still, head, encode, CONFIG)
    views = Camera(**{name: np.asarray(getattr(rig, name))[:, None] for name in FIELDS})
    moved = dataclasses.replace(motion(5), rotation=np.zeros((5, 3), np.float32))
    maps = draw_window(head, moved, views, (SIZE, SIZE), CONFIG, reference)  # [V, L, h, w, Cc]
    assert reference.colours.shape == (1, head.vertex_count, 4)
    own = samples(np.asarray(reference.conditioning))
    drawn = (own != 0).any(-1)
    assert drawn.mean() > 0.05
    away = np.linalg.norm(np.moveaxis(np.mgrid[:SIZE, :SIZE], 0, -1) - np.argwhere(drawn).mean(0), axis=-1)
    inner = away < 0.6 * away[drawn].max()
    assert inner.sum() > 50
    np.testing.assert_allclose(own[inner], 2 * photo[inner] - 1, atol=0.05)
    redder = [(samples(maps[view, 0])[..., 0] - samples(maps[view, 0])[..., 1]).sum() for view in range(3)]
    assert redder[0] * redder[2] < 0 and abs(redder[1]) < min(abs(redder[0]), abs(redder[2]))
