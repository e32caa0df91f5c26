"""Cameras as the rasteriser takes them: world-to-camera matrices and intrinsics."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.rigs import camera_rig


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """V cameras: viewmats [V, 4, 4] world to camera (OpenCV axes), Ks [V, 3, 3] pixels, float32.

    `moving`: one camera that moves with the frames, rather than V cameras that stand still.
    """

    viewmats: np.ndarray
    Ks: np.ndarray
    moving: bool


def camera_path(spec: str, image_size: tuple[int, int], frames: int) -> CameraPath:
    """Cameras of a spec (`mvp4d.core.cameras.rigs`) for pictures of (H, W) pixels and a motion of `frames` frames.

    Raises:
      UserError: the spec cannot be read, or its file is no camera path.
    """
    camera = camera_rig(spec, image_size, frames)
    moving = len(camera.batch_shape) == 2
    return CameraPath(*camera_matrices(camera[0] if moving else camera), moving)


def camera_matrices(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera [..., 4, 4] and intrinsics [..., 3, 3] of cameras [...], float32."""
    Ks = np.zeros((*camera.batch_shape, 3, 3), np.float32)
    Ks[..., 0, 0], Ks[..., 1, 1], Ks[..., 0, 2], Ks[..., 1, 2] = camera.fx, camera.fy, camera.cx, camera.cy
    Ks[..., 2, 2] = 1
    return np.asarray(camera.world_to_camera, np.float32), Ks
