"""The photo's hair colour in generated views: weights that have seen no such hair draw it in skin's colour, or brown.

The fitted rig tells where hair may be: on the scalp and beside it, but for what the photo shows to be skin. Where the
hue of a view's hair, averaged around a pixel, lies beyond what the photo's hair has (OKLab's opponents over its
lightness), it is moved to the nearest that it has. Lightness stays: the back of a head is lit otherwise than the front.
Nothing is done where the photo shows no hair, or hair of skin's own colour.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mvp4d.core.cameras.crops import MARGIN
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.mesh import neighbour_mean
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.regions import has_landmarks, scalp_and_face
from mvp4d.core.skin_colour import LEAST_HAIR, SkinColour, lightness_and_hue, to_rgb
from mvp4d_jax.geometry.frame_by_frame import draw_apart
from mvp4d_jax.geometry.rasterize import Raster, on_pixels, rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.matte import matte
from mvp4d_jax.sampling.shot import crop_reference
from mvp4d_jax.small.painting import WHOLE, vertex_colours

SEEN = 0.5  # trust in what the photo shows of a vertex from which its colour counts as skin's
FEW = 50  # vertices of skin, fewer of which tell nothing
RANGE = (0.3, 0.7)  # quantiles of the photo's hair that count as its own
SMOOTH = 1.5 / 128  # standard deviation by which hair begins in a view, over its side
AROUND = 6 / 128  # the same, of the mean hue
LEAST = 1e-3  # share or change that is none
SIDE = 192  # pixels a side at which the photo is read


@dataclasses.dataclass(frozen=True)
class Hair:
    """A person's hair.

    Attributes:
      head: personalised rig. where: [N] in [0, 1], vertices that hair covers.
      low, high: [2] the range of its opponents over its lightness.
    """

    head: HeadModel
    where: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_hair(portrait: Portrait, margin: float = MARGIN) -> Hair | None:
    """The hair in a portrait's reference photo; None where it shows none, or the head has no landmarks.

    Args:
      margin: half side of the crop over the larger half extent of the head.

    Raises:
      UserError: the fitted head does not lie in the photo.
    """
    index, head = portrait.reference, portrait.head
    if not has_landmarks(head):
        return None
    motion, camera = portrait.motion[slice(index, index + 1)], portrait.camera[index]
    alpha = portrait.photos[index][..., 3:] / np.float32(255)
    photo = np.concatenate([portrait.on_background(index), alpha, np.ones_like(alpha)], axis=-1)
    photo, camera, inside = crop_reference(photo, camera, motion, head, SIDE, margin)
    picture, solid = photo[..., :3], (photo[..., 3] > WHOLE) & (inside > WHOLE)
    painted = vertex_colours(picture, camera, motion, head, solid.astype(np.float32))
    scalp, face = scalp_and_face(head)
    trust, colours = painted[:, 3], lightness_and_hue(painted[:, :3])
    face &= trust > SEEN
    if face.sum() < FEW:
        return None
    known = SkinColour.of(colours[face])
    raster = rasterize(camera, np.asarray(skin(head, motion))[0], head.faces, (SIDE, SIDE))
    colours_there = lightness_and_hue(picture)
    zone = _paint(head, np.asarray(raster.face), np.asarray(raster.barycentric), scalp) * solid
    hair = zone * known.unlike(colours_there)
    if hair.sum() < max(1.0, LEAST_HAIR * zone.sum()):
        return None
    low, high = _quantiles(colours_there[..., 1:].reshape(-1, 2), hair.reshape(-1))
    where = scalp * (1 - trust * (1 - known.unlike(colours)))
    return Hair(head, neighbour_mean(np.asarray(head.faces), len(where))(where).astype(np.float32), low, high)


def colour_hair(hair: Hair, raster: Raster, frames: np.ndarray) -> np.ndarray:
    """Frames of one view with hair of the photo's colour.

    Args:
      raster: the rig as the view shows it, [F, H, W].
      frames: [F, H, W, 3] uint8 on white.

    Returns:
      [F, H, W, 3] uint8.
    """
    faces, weights = np.asarray(raster.face), np.asarray(raster.barycentric)
    return draw_apart(lambda frame: _coloured(hair, faces[frame], weights[frame], frames[frame]), range(len(frames)))


def _coloured(hair: Hair, face: np.ndarray, weights: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 of one frame, in which the rig is drawn as `face` and barycentric `weights`."""
    if face.max() < 0:
        return frame
    picture, side = frame / np.float32(255), len(frame)
    share = gaussian_filter(_paint(hair.head, face, weights, hair.where), SMOOTH * side) * matte(picture, face >= 0)
    if share.max() < LEAST:
        return frame
    there, sigma = share > LEAST, (AROUND * side, AROUND * side, 0)
    colours, around = lightness_and_hue(picture[there]), np.zeros((*share.shape, 3), np.float32)
    around[there] = share[there][:, None] * np.concatenate([colours[:, 1:], np.ones_like(colours[:, :1])], -1)
    around = gaussian_filter(around, sigma, mode="constant", truncate=3)[there]
    mean = around[:, :2] / np.maximum(around[:, 2:], LEAST)
    off = share[there][:, None] * (mean.clip(hair.low, hair.high) - mean)
    colours[:, 1:] += off
    result, moved = frame.copy(), np.abs(off).max(-1) > LEAST
    there[there] = moved
    result[there] = (255 * to_rgb(colours[moved]) + 0.5).clip(0, 255)
    return result


def _paint(head: HeadModel, face: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[H, W] values of vertices [N] where the rig is drawn, and beside it that of the nearest such pixel."""
    hit = face >= 0
    painted = np.zeros(face.shape, np.float32)
    painted[hit] = on_pixels(head.faces, face[hit], weights[hit], values)
    if hit.all() or not hit.any():
        return painted
    rows, columns = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    return painted[rows, columns]


def _quantiles(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[2, C] the quantiles `RANGE` of values [M, C] weighed by `weight` [M]."""
    order = np.argsort(values, axis=0)
    shares = np.cumsum(weight[order], axis=0) / weight.sum()
    sorted_values = np.take_along_axis(values, order, axis=0)
    found = [np.interp(RANGE, share, column) for share, column in zip(shares.T, sorted_values.T)]
    return np.transpose(found).astype(np.float32)
