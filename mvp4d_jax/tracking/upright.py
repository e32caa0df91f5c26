"""Which way up a head is: photos that lie on their side or are upside down are turned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import BROWS, CHIN
from mvp4d.core.progress import say
from mvp4d_jax.tracking.landmarks import Landmarks


def turned_upright(
    path: Path, picture: tuple[np.ndarray, np.ndarray], seen: Landmarks, others: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], Landmarks, np.ndarray]:
    """A photo by as many quarter turns as make its face upright; says so where it needs any.

    The model, the detectors and the fit know heads that stand; a camera that lay on its side may not have said so.

    Args:
      picture: [H, W, 3] and [H, W] uint8, its colours and alpha. seen: its landmarks, of one frame.
      others: [K, 478, 2] pixels, other people's faces.

    Returns:
      the three of the photo that stands; itself where a landmark is unknown.
    """
    down = seen.points[0, CHIN] - seen.points[0, list(BROWS)].mean(0)
    if not np.isfinite(down).all():
        return picture, seen, others
    quarters = round(float(np.arctan2(down[0], down[1])) / (np.pi / 2)) % 4  # clockwise, that turn the chin down
    if not quarters:
        return picture, seen, others
    rgb, alpha = (np.ascontiguousarray(np.rot90(part, -quarters)) for part in picture)
    say(f"note: {path.name} is {'upside down' if quarters == 2 else 'on its side'}, it is turned upright")

    def turn(points: np.ndarray) -> np.ndarray:
        height, width = picture[0].shape[:2]
        for _ in range(quarters):
            points = np.stack([height - points[..., 1], points[..., 0]], -1)
            height, width = width, height
        return points

    found = dataclasses.replace(
        seen, points=turn(seen.points), iris=turn(seen.iris), image_size=(rgb.shape[0], rgb.shape[1])
    )
    return (rgb, alpha), found, turn(others)


def head_roll(camera: Camera, motion: Motion) -> float:
    """Degrees about the line of sight by which a head does not stand in its picture. Both unbatched, one frame."""
    up = Rotation.from_rotvec(np.asarray(motion.rotation[0], np.float64)).apply([0.0, 1.0, 0.0])
    x, y = (np.asarray(camera.world_to_camera, np.float64)[:3, :3] @ up)[:2]  # y points down
    return float(np.degrees(np.abs(np.arctan2(x, -y))))
