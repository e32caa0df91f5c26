"""A motion-compensated temporal filter of generated views: what the model draws anew in every frame is averaged.

The fitted rig tells where a pixel's surface is in the frames before and after; what lies beside the rig (hair, clothes)
moves with the nearest of it. A frame becomes the mean of itself and those neighbours, each carried to it and counted
only where it shows the same: the same part of the head, not hidden, and alike in colour at large. Shading that changes
as the head turns, lids, gaze and lips stay, shimmer and the steps between the two frames of a latent go.

Where two windows of the model meet, what changes at large from one frame to the next is first spread over the frames on
either side (`joined`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, spline_filter

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.geometry.frame_by_frame import draw_apart
from mvp4d_jax.geometry.rasterize import Raster, on_pixels

# Weights of the frames before, of a frame itself and of those after. Their spectrum has a zero at half the frame rate,
# where frames differ that one latent holds in pairs.
KERNEL = (0.5, 1.0, 1.0, 1.0, 0.5)
REACH = len(KERNEL) // 2
HIDDEN = 0.006  # metres behind what a neighbour shows from which it hides a surface
UNLIKE = 0.1  # difference of colours at large by which a neighbour counts 0.6 as much
AT_LARGE = 1 / 128  # standard deviation over which colours are compared, over a picture's side
BESIDE = 4 / 128  # the same, of the motion beside the rig
JOIN = 4  # frames on either side of a seam that its step is spread over
OTHER = 0.25  # difference of colours from which a step is none of the same thing
MARGIN = 3  # pixels beside the person that are worked on, too
WHITE = 250  # of 255: the darkest channel of what nobody is in


@dataclasses.dataclass(frozen=True)
class RigView:
    """The rig in F frames of one view.

    Attributes:
      raster: [F, H, W]. part: [F, H, W] of the head that is shown, -1 for none.
      pixels: [F, N, 2] column and row of its vertices; depth: [F, N] metres.
    """

    raster: Raster
    part: np.ndarray
    pixels: np.ndarray
    depth: np.ndarray

    @classmethod
    def of(cls, head: HeadModel, cameras: Camera, vertices: np.ndarray, raster: Raster) -> RigView:
        """What cameras [F or 1] show of vertices [F, N, 3] in world axes, drawn as `raster`."""
        raster = Raster(*(np.asarray(array) for array in (raster.face, raster.barycentric, raster.depth)))
        shown = [
            project(cameras[frame * int(cameras.batch_shape[0] > 1)], points) for frame, points in enumerate(vertices)
        ]
        pixels, depth = (np.stack([np.asarray(array, np.float32) for array in arrays]) for arrays in zip(*shown))
        part = np.where(raster.face >= 0, np.asarray(head.face_parts, np.int16)[np.maximum(raster.face, 0)], -1)
        return cls(raster, part, pixels, depth)


def joined(head: HeadModel, sight: RigView, frames: np.ndarray, seams: Sequence[int]) -> np.ndarray:
    """Frames [F, H, W, 3] uint8 of one view whose windows meet without a step.

    Args:
      sight: the rig in these frames. seams: the first frame of each window but the first, of those within them.
    """
    if not len(seams):
        return frames
    steps = dict(zip(seams, draw_apart(lambda seam: _step(head, sight, frames, seam), seams)))

    def join(frame: int) -> np.ndarray:
        box, result = _box(frames[frame]), frames[frame].copy()
        change = np.zeros((*result[box].shape[:2], 3), np.float32)
        for seam, step in steps.items():
            away = frame - seam if frame >= seam else frame + 1 - seam
            if abs(away) < JOIN:
                share = 0.5 - abs(away) / (2 * JOIN)
                change += (-share if frame >= seam else share) * _carried(head, sight, step, seam, frame, box)
        change *= (result[box].min(-1) < WHITE)[..., None]
        result[box] = (result[box] + change + 0.5).clip(0, 255)
        return result

    return draw_apart(join, range(len(frames)))


def _carried(
    head: HeadModel, sight: RigView, step: np.ndarray, seam: int, frame: int, box: tuple[slice, slice]
) -> np.ndarray:
    """[h, w, 3] what a picture [H, W, 3] of the frame `seam` is in the box of another frame."""
    if frame == seam or not step[box].size:
        return step[box]
    place, _ = _carrier(head, sight, frame, box)(seam)
    return _found(np.moveaxis(step, -1, 0), place, order=1)


def _step(head: HeadModel, sight: RigView, frames: np.ndarray, frame: int) -> np.ndarray:
    """[H, W, 3] of 255: by how much a frame differs at large from the one before, carried to it, where both show the
    same; it fades beside that."""
    box = slice(0, frames.shape[1]), slice(0, frames.shape[2])
    place, seen = _carrier(head, sight, frame, box)(frame - 1)
    step = frames[frame] - _found(_spline(frames[frame - 1]), place)
    seen = (seen & (np.abs(step).max(-1) < 255 * OTHER) & (frames[frame].min(-1) < WHITE)).astype(np.float32)
    sigma = AT_LARGE * len(frames[frame])
    near = gaussian_filter(seen, sigma)[..., None]
    mean = gaussian_filter(step * seen[..., None], (sigma, sigma, 0)) / np.maximum(near, 1e-3)
    return mean * np.minimum(1, 2 * near)


def steady(head: HeadModel, sight: RigView, frames: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Frames `start` to `stop` of one view, filtered.

    Args:
      sight: the rig in F frames, which reach `REACH` frames beyond those asked for, where there are so many.
      frames: [F, H, W, 3] uint8 on white.

    Returns:
      [stop - start, H, W, 3] uint8.
    """
    splines = [_spline(frame / np.float32(255)) for frame in frames]
    return draw_apart(lambda frame: _mean(head, sight, frames, splines, frame), range(start, stop))


def _spline(picture: np.ndarray) -> np.ndarray:
    """[3, H, W] cubic B-spline coefficients of a picture [H, W, 3]."""
    return np.stack([spline_filter(picture[..., channel], order=3, output=np.float32) for channel in range(3)])


def _found(planes: np.ndarray, place: np.ndarray, order: int = 3) -> np.ndarray:
    """[h, w, 3] what planes [3, H, W], cubic `_spline` coefficients or for order 1 a picture's, have at [2, h, w] row
    and column."""
    planes = [map_coordinates(plane, place, order=order, mode="nearest", prefilter=False) for plane in planes]
    return np.stack(planes, -1)


def _mean(head: HeadModel, sight: RigView, frames: np.ndarray, splines: list[np.ndarray], frame: int) -> np.ndarray:
    """[H, W, 3] uint8 of one frame."""
    box = _box(frames[frame])
    own = frames[frame][box] / np.float32(255)
    if sight.raster.face[frame].max() < 0 or not own.size:
        return frames[frame]
    sigma = AT_LARGE * len(frames[frame])
    large = gaussian_filter(own, (sigma, sigma, 0))
    total, weight = KERNEL[REACH] * own, np.full((*own.shape[:2], 1), KERNEL[REACH], np.float32)
    carry = _carrier(head, sight, frame, box)
    for other in range(max(0, frame - REACH), min(len(frames), frame + REACH + 1)):
        if other == frame:
            continue
        place, seen = carry(other)
        carried = _found(splines[other], place)
        off = gaussian_filter(carried, (sigma, sigma, 0)) - large
        share = KERNEL[REACH + other - frame] * seen * np.exp(np.einsum("hwc,hwc->hw", off, off) / (-2 * UNLIKE**2))
        total += share[..., None] * carried
        weight += share[..., None]
    result = frames[frame].copy()
    result[box] = (255 * total / weight + 0.5).clip(0, 255)
    return result


def _box(frame: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a frame in which anybody is."""
    shown = frame.min(-1) < WHITE
    slices = []
    for line in (shown.any(1), shown.any(0)):
        found = np.flatnonzero(line)
        last = min(found[-1] + MARGIN, len(line) - 1) if len(found) else -1
        slices.append(slice(max(0, found[0] - MARGIN) if len(found) else 0, last + 1))
    return slices[0], slices[1]


def _carrier(
    head: HeadModel, sight: RigView, frame: int, box: tuple[slice, slice]
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """What tells where the pixels of a frame's box are in another frame: [2, h, w] row and column from pixel centres,
    and [h, w] bool, whether they are seen there."""
    face = sight.raster.face[frame][box]
    hit = face >= 0
    surface = head.faces, face[hit], sight.raster.barycentric[frame][box][hit]
    part, grid = sight.part[frame][box][hit], np.mgrid[box].astype(np.float32)
    beside, nearest = hit.any() and not hit.all(), None
    if beside:
        nearest = tuple(distance_transform_edt(~hit, return_distances=False, return_indices=True))
    sigma, size = BESIDE * len(sight.raster.face[frame]), sight.raster.face.shape[1:]

    def carried(other: int) -> tuple[np.ndarray, np.ndarray]:
        motion = np.zeros((*face.shape, 2), np.float32)
        motion[hit] = on_pixels(*surface, sight.pixels[other] - sight.pixels[frame])
        if beside:
            motion[~hit] = gaussian_filter(motion[nearest], (sigma, sigma, 0))[~hit]
        place = grid + np.moveaxis(motion, -1, 0)[::-1]
        near = np.rint(place).astype(np.int32)
        seen = (near >= 0).all(0) & (near[0] < size[0]) & (near[1] < size[1])
        near = near[0].clip(0, size[0] - 1), near[1].clip(0, size[1] - 1)
        depth = on_pixels(*surface, sight.depth[other])
        there = sight.raster.depth[other][near][hit], sight.part[other][near][hit]
        seen[hit] &= (depth < there[0] + HIDDEN) & (there[1] == part)
        return place, seen

    return carried
