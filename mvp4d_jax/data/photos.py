"""What a real photo brings and a studio picture does not: a fit that misses, edges cut out badly, blur, noise, JPEG.

A reference that was tracked misses the person as `FitError` does: the surface by a smooth field, expression, gaze, head
pose and camera each by a little, together by a share of the face's size. Exposure, white balance and other colours are
not here: they belong to the generated pictures, too, and are a scene's (`small.recolour`).
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.regions import at_landmarks
from mvp4d_jax.heads.skinning import landmarks, skin

CORRELATION = 0.04  # metres over which the surface's error is alike
WAVES = 24
# Shares of the whole error, in quadrature: surface, expression, place in the picture, head rotation.
SURFACE, EXPRESSION, PLACE, ROTATION = 0.65, 0.5, 0.4, 0.4
TYPICAL = 0.02  # error of a tracker's landmarks over the face's size, at which gaze and jaw err by these:
GAZE, JAW = np.radians(3.0), np.radians(1.5)
REFERENCE_SIZE = 128  # pixels a side at which the widths below are meant


def disturb_head(head: HeadModel, error: float, random: np.random.Generator) -> HeadModel:
    """The rig as a tracker would have fitted it: its surface off by a smooth field, `SURFACE` x `error` at landmarks.

    Args:
      error: root mean square of landmarks' errors over the larger side of the face's landmark box; 0.015 to 0.03 is
        what trackers leave.
    """
    template = np.asarray(head.template, np.float64)
    waves = random.normal(0, 1 / CORRELATION, (WAVES, 3))
    phases, amplitudes = random.uniform(0, 2 * np.pi, WAVES), random.normal(size=(WAVES, 3))
    field = np.cos(template @ waves.T + phases) @ amplitudes  # [N, 3]
    moved, side = _face(head, field)
    scale = SURFACE * error * side / max(_rms(moved), 1e-12)
    return dataclasses.replace(head, template=(template + scale * field).astype(np.float32))


def disturb_pose(
    head: HeadModel, motion: Motion, camera: Camera, error: float, random: np.random.Generator
) -> tuple[Motion, Camera]:
    """Expression, gaze, jaw, head rotation and the camera of one frame, as a tracker would have fitted them.

    Args:
      motion: one frame; camera: of the photo, unbatched.
      error: as in `disturb_head`.
    """
    change = random.normal(size=head.expression_count)
    moved, side = _face(head, np.tensordot(change, np.asarray(head.expression_basis, np.float64), 1))
    change *= EXPRESSION * error * side / max(_rms(moved), 1e-12)
    ratio = error / TYPICAL
    both, own = random.normal(size=(1, 1, 3)), random.normal(size=(1, 2, 3))
    gaze = GAZE * ratio * (0.9 * both + 0.4 * own) * [1, 1, 0]
    turned = dataclasses.replace(
        motion,
        expression=np.asarray(motion.expression) + change[None].astype(np.float32),
        jaw=np.asarray(motion.jaw) + np.float32([[JAW * ratio * random.normal(), 0, 0]]),
        eyes=(np.asarray(motion.eyes) + gaze).astype(np.float32),
        # Half a face's side is the lever arm of a landmark about the head's centre, seen along one of two axes.
        rotation=(np.asarray(motion.rotation) + random.normal(0, 2 * ROTATION * error, (1, 3)) / np.sqrt(2)).astype(
            np.float32
        ),
    )
    pixels = np.asarray(project(camera, np.asarray(landmarks(head, skin(head, motion)))[0])[0])
    width = float((pixels.max(0) - pixels.min(0)).max())
    shift = random.normal(0, PLACE * error * width / np.sqrt(2), 2)
    return turned, Camera(camera.world_to_camera, camera.fx, camera.fy, camera.cx + shift[0], camera.cy + shift[1])


def degrade(
    picture: np.ndarray, alpha: np.ndarray, amount: float, random: np.random.Generator, background: float = 1.0
) -> np.ndarray:
    """A photo as users have them: cut out with errors at the edge, blurred, noisy, compressed.

    Args:
      picture: [H, W, 3] float in [0, 1] on `background`; alpha: [H, W] in [0, 1] of the person in it.
      amount: 0 leaves it as it is; 1: edges off by up to 2 pixels of 128, blur of up to 1.2, noise of up to 0.04, JPEG
        of quality 35 at worst.

    Returns:
      [H, W, 3] float32 in [0, 1].
    """
    if not amount:
        return np.asarray(picture, np.float32)
    scale = min(picture.shape[:2]) / REFERENCE_SIZE
    result = cut_out(picture, alpha, 2.0 * amount * scale * random.uniform(), random, background)
    result = gaussian_filter(result, (*(1.2 * amount * scale * random.uniform() ** 2,) * 2, 0))
    result = result + random.normal(0, 0.04 * amount * random.uniform() ** 2, result.shape)
    return _jpeg(result, int(100 - 65 * amount * random.uniform()))


def cut_out(
    picture: np.ndarray, alpha: np.ndarray, pixels: float, random: np.random.Generator, background: float = 1.0
) -> np.ndarray:
    """A person cut out badly: the edge wanders by about `pixels`; beyond the person what stood behind shows.

    Args: as `degrade`. Returns [H, W, 3] float32.
    """
    inside = alpha > 0.5
    if pixels <= 0 or inside.all() or not inside.any():
        return np.asarray(picture, np.float32)
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)  # positive in the person
    wander = gaussian_filter(random.normal(size=alpha.shape), 0.03 * max(alpha.shape))
    moved = distance + pixels * wander / wander.std()
    kept = 1 / (1 + np.exp(-np.clip(moved / 0.4, -30, 30)))
    kept = np.where(np.abs(distance) > 4 * pixels + 1, alpha, kept)[..., None]  # far from the edge nothing changes
    behind = random.uniform(size=3)  # one colour: little of it shows
    known = np.asarray(alpha, np.float64)[..., None]
    person = picture - (1 - known) * background  # premultiplied
    seen = person + (1 - known) * behind
    # Where the new edge lies within the person, the person is cut; where it lies outside, what stood behind is kept.
    return (background + kept * (seen - background)).astype(np.float32)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32) / 255


def apart(head: HeadModel, motion: Motion) -> np.ndarray:
    """[F, F] metres by which faces of two frames differ in expression alone: root mean square over the landmarks."""
    basis = _face(head, np.asarray(head.expression_basis, np.float64))[0]  # [E, K, 3]
    points = np.tensordot(np.asarray(motion.expression, np.float64), basis, 1)  # [F, K, 3]
    jaw = np.asarray(motion.jaw, np.float64)[:, None] * 0.06  # a jaw's lever arm: some heads open the mouth by it
    difference = (points[:, None] - points[None]) ** 2
    turned = ((jaw[:, None] - jaw[None]) ** 2).sum((-1, -2)) / 4  # a quarter of the landmarks move with it
    return np.sqrt(difference.sum(-1).mean(-1) + turned)


def _face(head: HeadModel, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Values [..., N, 3] at the landmarks [..., K, 3], and the larger side of the landmarks' box in x and y, metres."""
    neutral = at_landmarks(head, np.asarray(head.template, np.float64))
    extent = neutral.max(0) - neutral.min(0)
    return at_landmarks(head, values), float(extent[:2].max())


def _rms(vectors: np.ndarray) -> float:
    return float(np.sqrt((vectors**2).sum(-1).mean()))
