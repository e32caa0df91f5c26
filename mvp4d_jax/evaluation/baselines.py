"""Two baselines any model must beat: showing the photo again, and painting the photo onto the fitted mesh."""

from __future__ import annotations

import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.small.painting import paint_video, vertex_colours


def repeat_reference(reference: np.ndarray, views: int, frames: int) -> np.ndarray:
    """The reference image [H, W, 3] for every view and frame: [V, F, H, W, 3]."""
    return np.broadcast_to(reference, (views, frames, *reference.shape))


def project_reference(
    reference: np.ndarray,
    reference_camera: Camera,
    reference_motion: Motion,
    head: HeadModel,
    motion: Motion,
    cameras: Camera,
) -> np.ndarray:
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
    colours = vertex_colours(reference, reference_camera, reference_motion, head)
    return paint_video(head, motion, cameras, reference.shape[:2], colours[None])[0, ..., :3]
