"""Two baselines any model must beat: showing the photo again, and painting the photo onto the fitted mesh."""

from __future__ import annotations

import numpy as np

from mvp4d_jax.geometry.cameras import FIELDS, Camera
from mvp4d_jax.geometry.painting import vertex_colours
from mvp4d_jax.geometry.rasterize import interpolate, rasterize
from mvp4d_jax.heads.model import HeadModel
from mvp4d_jax.heads.motion import Motion
from mvp4d_jax.heads.skinning import skin

SUPERSAMPLING = 2


def repeat_reference(reference: np.ndarray, views: int, frames: int) -> np.ndarray:
    """The reference image [H, W, 3] for every view and frame: [V, F, H, W, 3]."""
    return np.broadcast_to(reference, (views, frames, *reference.shape))


def project_reference(reference: np.ndarray, reference_camera: Camera, reference_motion: Motion, head: HeadModel,
                      motion: Motion, cameras: Camera) -> np.ndarray:
    """Paints the photo onto the mesh and renders it: visible texture, mirrored where unseen, filled behind.

    Args:
      reference: [H, W, 3] float in [0, 1].
      reference_camera: one camera, unbatched.
      reference_motion: the head's pose in the photo, one frame.
      head: personalised rig.
      motion: F frames to render.
      cameras: [V, 1] or [V, F].

    Returns:
      [V, F, H, W, 3] float32 in [0, 1], on white.
    """
    colours = vertex_colours(reference, reference_camera, reference_motion, head)[:, :3]
    size = reference.shape[:2]
    fine = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    vertices = np.asarray(skin(head, motion))  # [F, N, 3]
    views = np.asarray(cameras.fx).shape[0]
    frames = vertices.shape[0]
    out = np.empty((views, frames, *size, 3), np.float32)
    for view in range(views):
        fields = {name: np.asarray(getattr(cameras, name))[view] for name in FIELDS}  # [F' ...]
        camera = Camera(fields["world_to_camera"], *(fields[name] * SUPERSAMPLING for name in FIELDS[1:]))
        raster = rasterize(camera, vertices, head.faces, fine)
        picture = np.asarray(interpolate(raster, head.faces, colours, background=1.0))  # [F, 2H, 2W, 3]
        out[view] = picture.reshape(frames, size[0], SUPERSAMPLING, size[1], SUPERSAMPLING, 3).mean((2, 4))
    return out
