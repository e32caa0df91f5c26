"""Fitting a head, a camera and a motion to landmarks of a clip, or of photos of one person."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import landmarks
from mvp4d_jax.tracking.landmarks import Landmarks
from mvp4d_jax.tracking.observations import observations
from mvp4d_jax.tracking.problem import (
    UP,
    Layout,
    Problem,
    SolveConfig,
    acceleration_weights,
    draw,
    focal_of,
    landmark_rig,
    minimise,
    motion_of,
)

TOLD = 0.05  # standard deviation of a log focal length that a camera wrote down: whole millimetres, nearer when near


@dataclasses.dataclass(frozen=True)
class Solution:
    """A fitted head.

    Attributes:
      shape: [S] identity coefficients of the head.
      motion: F frames.
      camera: one still camera, unbatched.
      projected: [F, 68, 2] the head's landmarks in pixels.
      error: [F] mean distance to the given landmarks over the face box; NaN where there was no face.
    """

    shape: np.ndarray
    motion: Motion
    camera: Camera
    projected: np.ndarray
    error: np.ndarray


def told(config: SolveConfig, focals: Sequence[float | None]) -> SolveConfig:
    """The config for pictures whose cameras wrote their focal lengths down, over the longer sides; None: did not."""
    known = [focal for focal in focals if focal is not None]
    if not known:
        return config
    spread = dict.fromkeys(("focal_spread", "zoom"), TOLD) if len(known) == len(focals) else {}
    return dataclasses.replace(config, focal=float(np.exp(np.log(known).mean())), **spread)


def solve(
    head: HeadModel,
    seen: Landmarks,
    config: SolveConfig,
    focal: float | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Solution:
    """Fits `head` to landmarks.

    Args:
      head: any HeadModel with 68 landmarks and shape modes.
      seen: landmarks; frames without a face are bridged by smoothness.
      focal: focal length in pixels where it is known.
      report: called with (iteration, of how many) as it goes on.
    """
    return _solve_all(head, [seen], config, focal, report)[0]


def solve_photos(
    head: HeadModel,
    photos: Sequence[Landmarks],
    config: SolveConfig,
    focal: float | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[Solution]:
    """Fits one identity to photos of one person, each with a camera, pose and expression of its own.

    Args:
      photos: landmarks of each, one frame with a face; picture sizes may differ.
      focal, report: as in `solve`.

    Returns:
      a Solution of each photo, all of the same shape coefficients.
    """
    return _solve_all(head, photos, config, focal, report)


def _solve_all(
    head: HeadModel,
    clips: Sequence[Landmarks],
    config: SolveConfig,
    focal: float | None,
    report: Callable[[int, int], None] | None,
) -> list[Solution]:
    """One identity through one clip, or through several photos, which no time connects."""
    photos = len(clips) > 1
    if focal is not None:
        config = dataclasses.replace(config, focal=focal / max(clips[0].image_size), focal_spread=1e-4, zoom=1e-4)
    layout = Layout.of(head, config, photos)
    small = landmark_rig(head)
    parts = [observations(clip, config.landmark) for clip in clips]
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    shared = np.zeros(layout.shapes + 1)
    shared[-1] = np.log(config.focal)
    frames = np.concatenate([start(small, layout, clip, config.focal * max(clip.image_size)) for clip in clips])
    smooth = None if photos or len(frames) < 3 else acceleration_weights(layout, config, clips[0].fps)
    shared, frames = minimise(Problem(small, layout, config, data, smooth), shared, frames, report)
    ends = np.cumsum([len(clip.points) for clip in clips])[:-1]
    return [_solution(head, small, layout, clip, shared, rows) for clip, rows in zip(clips, np.split(frames, ends))]


def start(small: tuple, layout: Layout, seen: Landmarks, focal: float) -> np.ndarray:
    """[F, P] first guess: the neutral head in the pose that a scaled orthographic camera sees best."""
    rig, _ = small
    rest = np.asarray(landmarks(rig, np.asarray(rig.template, np.float64)), np.float64)  # [68, 3]
    centre = rest[17:].mean(0)
    height, width = seen.image_size
    frames = np.zeros((len(seen.points), layout.frame_size))
    found = np.flatnonzero(seen.found)
    for frame in found:
        points = (seen.points[frame, 17:] - [width / 2, height / 2]) * [1, -1]  # y up
        middle = points.mean(0)
        affine = np.linalg.lstsq(rest[17:] - centre, points - middle, rcond=None)[0].T  # [2, 3]
        u, scale, v = np.linalg.svd(affine, full_matrices=False)
        rows = u @ v
        rotation = np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])
        depth = focal / max(float(scale.mean()), 1e-6)
        position = np.array([middle[0] * depth / focal, middle[1] * depth / focal, -depth])
        frames[frame, layout.slices["rotation"]] = Rotation.from_matrix(rotation).as_rotvec()
        frames[frame, layout.slices["translation"]] = position - rotation @ centre
    for frame in np.flatnonzero(~seen.found):  # start from the nearest frame that has a face
        frames[frame] = frames[found[np.argmin(np.abs(found - frame))]]
    return frames


def _solution(
    head: HeadModel, small: tuple, layout: Layout, seen: Landmarks, shared: np.ndarray, frames: np.ndarray
) -> Solution:
    if layout.bounded:
        frames = frames.copy()
        frames[:, layout.slices["expression"]] = np.clip(frames[:, layout.slices["expression"]], 0, 1)
    size = {"image_size": np.tile(np.float32(seen.image_size), (len(frames), 1))}
    projected = draw(*small, np.float32(shared), np.float32(frames), size, layout=layout)[:, 0]
    projected = np.asarray(projected, np.float64)
    error = np.linalg.norm(projected - seen.points, axis=-1).mean(-1) / seen.box_size
    motion = jax.tree.map(lambda array: np.asarray(array, np.float32), motion_of(layout, frames, seen.fps))
    shape = np.zeros(head.shape_count, np.float32)
    shape[: layout.shapes] = shared[:-1]
    focal, (height, width) = float(focal_of(layout, np.float64(seen.image_size), shared, frames[0])), seen.image_size
    camera = Camera(UP.copy(), np.float64(focal), np.float64(focal), np.float64(width / 2), np.float64(height / 2))
    return Solution(shape, motion, camera, projected, error)
