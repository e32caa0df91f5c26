"""2D face landmarks: what a fit is made from, and how they are read from a file or from MediaPipe's 478 points."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.files import read_npz

# Multi-PIE's 68 points as MediaPipe face-mesh indices; where two are given the point lies half way between them (a brow
# has an upper and a lower line, Multi-PIE's runs through its middle).
_JAW = (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389)
_BROWS = (
    (70, 46),
    (63, 53),
    (105, 52),
    (66, 65),
    (107, 55),
    (336, 285),
    (296, 295),
    (334, 282),
    (293, 283),
    (300, 276),
)
_NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_MOUTH = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
_PAIRS = np.array(
    [pair if isinstance(pair, tuple) else (pair, pair) for pair in (*_JAW, *_BROWS, *_NOSE, *_EYES, *_MOUTH)]
)
_IRIS = (473, 468)  # centre of the person's own left iris, then the right

POINTS, MESH_POINTS = 68, 478


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Landmarks of one face in every frame. F frames.

    Attributes:
      points: [F, 68, 2] pixels (u, v) in Multi-PIE order, the first pixel's centre at (0.5, 0.5); NaN without a face.
      iris: [F, 2, 2] centres of the irises, the person's left then right; NaN where unknown.
      image_size: (H, W).
      fps: frames per second.
    """

    points: np.ndarray
    iris: np.ndarray
    image_size: tuple[int, int]
    fps: float = 25.0

    @property
    def found(self) -> np.ndarray:
        """[F] whether the frame has a face."""
        return np.isfinite(self.points).all((1, 2))

    @property
    def box_size(self) -> float:
        """Typical side of the face's box in pixels: root of its area, median over the frames with a face."""
        points = self.points[self.found]
        return float(np.median(np.sqrt(np.prod(points.max(1) - points.min(1), axis=-1))))


def from_mesh(mesh: np.ndarray, image_size: tuple[int, int], fps: float = 25.0) -> Landmarks:
    """Landmarks of MediaPipe's face mesh [F, 478, 2] in pixels."""
    points = mesh[:, _PAIRS].mean(2)  # [F, 68, 2]
    return Landmarks(points.astype(np.float64), mesh[:, _IRIS].astype(np.float64), image_size, fps)


def choose_face(faces: np.ndarray, number: int | None, where: object) -> np.ndarray:
    """One face of several through a video.

    Args:
      faces: [F, K, 478, 2] pixels, NaN where a frame has fewer than K faces.
      number: 1 for the leftmost face of the first frame that has one, and so on; None for the largest.

    Returns:
      [F, 478, 2]: from the first frame on, always the face nearest to where it was last, NaN where none is near.

    Raises:
      UserError: there is no face, or fewer than `number`.
    """
    present = np.isfinite(faces).all((2, 3))  # [F, K]
    if not present.any():
        raise UserError(where, "no face was found", "use one with a larger, lit face, or give `landmarks`")
    first = int(np.argmax(present.any(1)))
    candidates = faces[first, present[first]]
    centres, sizes = candidates.mean(1), np.prod(np.ptp(candidates, axis=1), axis=-1)
    if number is not None and not 1 <= number <= len(candidates):
        raise UserError("`face`", f"{number}: {where} has {len(candidates)} faces", "they count from the left, from 1")
    order = np.argsort(centres[:, 0])
    chosen = candidates[int(np.argmax(sizes)) if number is None else order[number - 1]]
    out = np.full((len(faces), *faces.shape[2:]), np.nan)
    last, reach = chosen.mean(0), np.ptp(chosen, axis=0).max()
    for frame in range(first, len(faces)):
        options = faces[frame, present[frame]]
        if not len(options):
            continue
        distance = np.linalg.norm(options.mean(1) - last, axis=-1)
        nearest = int(np.argmin(distance))
        if distance[nearest] < reach:
            out[frame], last = options[nearest], options[nearest].mean(0)
            reach = np.ptp(options[nearest], axis=0).max()
    return out


def read_landmarks(path: str | os.PathLike, image_size: tuple[int, int], frames: int, fps: float) -> Landmarks:
    """Reads `landmarks` from an npz: [68 or 478, 2 or 3] or [F, 68 or 478, 2 or 3] pixels; NaN where there is no face.

    Raises:
      UserError: another shape, another number of frames, or points far outside of the picture.
    """
    arrays = read_npz(path, limit=1 << 30)
    if "landmarks" not in arrays:
        raise UserError(
            path, "lacks the array 'landmarks'", "give [F, 68, 2] in Multi-PIE order or [F, 478, 2] of MediaPipe"
        )
    points = arrays["landmarks"]
    points = points[None] if points.ndim == 2 else points
    if (
        points.ndim != 3
        or points.shape[1] not in (POINTS, MESH_POINTS)
        or points.shape[2] not in (2, 3)
        or points.dtype.kind not in "fiu"
    ):
        raise UserError(path, f"'landmarks' is {points.dtype} {list(points.shape)}, expected [F, 68 or 478, 2]")
    if len(points) != frames:
        raise UserError(path, f"'landmarks' has {len(points)} frames, the picture or video has {frames}")
    points = points[..., :2].astype(np.float64)
    seen = points[np.isfinite(points).all((1, 2))]
    if not len(seen):
        raise UserError(path, "'landmarks' has no frame with a face")
    height, width = image_size
    middle = np.median(seen, axis=(0, 1))
    if not (0 <= middle[0] <= width and 0 <= middle[1] <= height) or np.ptp(seen, axis=1).max() < 4:
        raise UserError(path, f"'landmarks' do not lie in the picture of {height} x {width}", "give them in its pixels")
    if points.shape[1] == MESH_POINTS:
        return from_mesh(points, image_size, fps)
    return Landmarks(points, np.full((frames, 2, 2), np.nan), image_size, fps)
