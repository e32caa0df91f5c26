"""Photos laid on the fitted head's lips and lids: the last few millimetres that its expressions cannot follow.

What a photo shows beside the head's own line is painted onto the wrong triangles and stays there as the face moves: the
corner of a smile on a cheek that no longer smiles. Only along these lines, and only in the picture: who the person is,
jaw, nose and brows, is the fit's to find.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import cdist

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.regions import at_landmarks

LINES = (  # of Multi-PIE's 68 points, each from end to end
    (36, 37, 38, 39),  # lids: upper, lower
    (39, 40, 41, 36),
    (42, 43, 44, 45),
    (45, 46, 47, 42),
    (60, 61, 62, 63, 64),  # lips, where they part: how full they are is the person's
    (64, 65, 66, 67, 60),
)
CORNERS = (36, 39, 42, 45, 48, 54)  # ends that heads and detectors mean alike
INNER = ((60, 48), (64, 54))  # ends inside the lips, of which detectors tell little: they move like those outside
FACE = slice(17, 68)  # points that are not the jaw's
REACH = 0.007  # metres: standard deviation of the Gaussian that carries a displacement along the face
EXPECTED, NOISE = 0.0015, 0.0005  # metres: standard deviations of what is to be found and of the detector
MOST = 0.004  # metres that a picture is moved
STEPS = 64  # points of a line for each landmark
BEHIND, TURNED = 0.06, 0.3  # metres from the face to the axis that it is bent around; cosine of the most turned point


def on_head(
    photo: np.ndarray, camera: Camera, head: HeadModel, vertices: np.ndarray, forward: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """A photo uint8 [H, W, 4], straight alpha, whose lips and lids lie on the fitted head's.

    Args:
      camera: unbatched. vertices: [V, 3] the head's in world axes, in the photo's pose.
      forward: [3] unit vector out of the face.
      seen: [68, 2] pixels where the photo has Multi-PIE's points, NaN where unknown.
    """
    if len(head.landmark_faces) != len(seen) or not np.isfinite(seen).all():
        return photo
    points = at_landmarks(head, vertices)
    own, depth = (np.asarray(values) for values in project(camera, points))
    outward = points - points[FACE].mean(0) + BEHIND * forward
    matrix = np.asarray(camera.world_to_camera)
    towards = -matrix[:3, :3].T @ matrix[:3, 3] - points
    cosine = (outward * towards).sum(1) / np.linalg.norm(outward, axis=1) / np.linalg.norm(towards, axis=1)
    pitch = float(np.median(depth) / camera.fx)
    values = photo.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]
    moved = laid_on(values, own, seen, cosine > TURNED, pitch).clip(0, 1)
    moved[..., :3] /= moved[..., 3:].clip(1e-3)
    return np.rint(255 * moved.clip(0, 1)).astype(np.uint8)


def laid_on(picture: np.ndarray, own: np.ndarray, seen: np.ndarray, facing: np.ndarray, pitch: float) -> np.ndarray:
    """A picture float32 [H, W, C] moved so that what it has at `seen` lies at `own`, near lips and lids.

    Args:
      own, seen: [68, 2] pixels of Multi-PIE's points: the fitted head's, and the photo's.
      facing: [68] bool, whether the head's points face the camera; others say nothing.
      pitch: metres that a pixel spans at the head.
    """
    offset = displacements(own, seen) * pitch
    use = facing & np.isfinite(offset).all(1)
    if not use.any():
        return picture
    places, offset = own[use] * pitch, offset[use]
    covariance = EXPECTED**2 * np.exp(-(cdist(places, places) ** 2) / (2 * REACH**2))
    weights = np.linalg.solve(covariance + NOISE**2 * np.eye(len(places)), EXPECTED**2 * offset)  # [P, 2]
    rows, columns = (np.arange(size) for size in picture.shape[:2])
    down, right = (
        np.exp(-(((where[:, None] + 0.5) * pitch - places[:, axis]) ** 2) / (2 * REACH**2))
        for where, axis in ((rows, 1), (columns, 0))
    )
    field = np.einsum("yp,xp,pc->yxc", down, right, weights, optimize=True)
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    field *= np.tanh(length / MOST) * MOST / length.clip(1e-9) / pitch
    where = [rows[:, None] + field[..., 1], columns + field[..., 0]]
    channels = [map_coordinates(picture[..., channel], where, mode="nearest") for channel in range(picture.shape[2])]
    return np.stack(channels, -1)


def displacements(own: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[68, 2] from the head's points to the lines on which a photo has them, NaN where there is no line.

    Along a line detectors and heads do not mean the same places, so points move to its nearest one; corners to corners.

    Args:
      own: [68, 2] pixels, where the fitted head has Multi-PIE's points; seen: [68, 2], where the photo has them.
    """
    moved = np.full((68, 2), np.nan)
    for line in LINES:
        points = seen[list(line)]
        along = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).clip(1e-3).cumsum()])
        curve = CubicSpline(along, points)(np.linspace(0, along[-1], STEPS * len(line)))
        for index in line:
            moved[index] = curve[np.linalg.norm(curve - own[index], axis=1).argmin()] - own[index]
    corners = list(CORNERS)
    moved[corners] = seen[corners] - own[corners]
    for inner, outer in INNER:
        moved[inner] = moved[outer]
    return moved
