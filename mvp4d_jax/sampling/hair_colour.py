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
from mvp4d.core.heads.model import EYES, INTERIOR, HeadModel
from mvp4d.core.ramps import smoothstep
from mvp4d_jax.geometry.frame_by_frame import draw_apart
from mvp4d_jax.geometry.rasterize import Raster, on_pixels, rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.matte import matte
from mvp4d_jax.sampling.photo_detail import vertices_of
from mvp4d_jax.sampling.shot import crop_reference
from mvp4d_jax.small.painting import WHOLE, vertex_colours

BROWS, CHIN, JAW = (19, 24), 8, (0, 16)  # landmarks: the middle of either brow, the chin, the jaw's ends at the ears
# Where hair begins on the neutral head: how far from the ears (0) to the brows (1), and how high over these, in half
# the distance of brows and chin.
HAIRLINE = ((-0.7, -1.15), (0.0, 0.0), (1.0, 1.0))
RAMP = 0.15  # of that unit on either side of it over which hair begins
FACE = (-1.2, -0.3)  # likewise the heights between which a face's front is skin
SEEN = 0.5  # trust in what the photo shows of a vertex from which its colour counts as skin's
FEW = 50  # vertices of skin, fewer of which tell nothing
UNLIKE_SKIN = (1.5, 3.0)  # spreads of skin's colour from its median between which a colour becomes hair's
LEAST_SPREAD = (0.08, 0.03, 0.03)  # of lightness and of the opponents over it
RANGE = (0.3, 0.7)  # quantiles of the photo's hair that count as its own
LEAST_HAIR = 0.12  # share of the scalp in the photo that must be hair
SMOOTH = 1.5 / 128  # standard deviation by which hair begins in a view, over its side
AROUND = 6 / 128  # the same, of the mean hue
LEAST = 1e-3  # share or change that is none
DARK = 0.05  # lightness below which a colour has no hue
SIDE = 192  # pixels a side at which the photo is read
# Of OKLab (Ottosson): linear sRGB to cones, and their cube roots to lightness and opponents. In float32, as pictures
# are: cube roots and powers of float64 take twice as long.
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
FROM_CONES, FROM_LAB = np.linalg.inv(TO_CONES), np.linalg.inv(TO_LAB)


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
    if not len(head.landmark_faces):
        return None
    motion, camera = portrait.motion[slice(index, index + 1)], portrait.camera[index]
    alpha = portrait.photos[index][..., 3:] / np.float32(255)
    photo = np.concatenate([portrait.on_background(index), alpha, np.ones_like(alpha)], axis=-1)
    photo, camera, inside = crop_reference(photo, camera, motion, head, SIDE, margin)
    picture, solid = photo[..., :3], (photo[..., 3] > WHOLE) & (inside > WHOLE)
    painted = vertex_colours(picture, camera, motion, head, solid.astype(np.float32))
    scalp, face = _scalp_and_face(head)
    trust, colours = painted[:, 3], _colours(painted[:, :3])
    face &= trust > SEEN
    if face.sum() < FEW:
        return None
    median = np.median(colours[face], axis=0)
    spread = np.maximum(1.25 * np.abs(colours[face] - median).mean(0), LEAST_SPREAD)  # a normal's standard deviation
    raster = rasterize(camera, np.asarray(skin(head, motion))[0], head.faces, (SIDE, SIDE))
    colours_there = _colours(picture)
    zone = _paint(head, np.asarray(raster.face), np.asarray(raster.barycentric), scalp) * solid
    hair = zone * _unlike(colours_there, median, spread)
    if hair.sum() < max(1.0, LEAST_HAIR * zone.sum()):
        return None
    low, high = _quantiles(colours_there[..., 1:].reshape(-1, 2), hair.reshape(-1))
    where = scalp * (1 - trust * (1 - _unlike(colours, median, spread)))
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
    colours, around = _colours(picture[there]), np.zeros((*share.shape, 3), np.float32)
    around[there] = share[there][:, None] * np.concatenate([colours[:, 1:], np.ones_like(colours[:, :1])], -1)
    around = gaussian_filter(around, sigma, mode="constant", truncate=3)[there]
    mean = around[:, :2] / np.maximum(around[:, 2:], LEAST)
    off = share[there][:, None] * (mean.clip(hair.low, hair.high) - mean)
    colours[:, 1:] += off
    result, moved = frame.copy(), np.abs(off).max(-1) > LEAST
    there[there] = moved
    result[there] = (255 * _rgb(colours[moved]) + 0.5).clip(0, 255)
    return result


def _scalp_and_face(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """[N] in [0, 1] where hair may grow, and [N] bool the front of the face below the brows, but for eyes and mouth."""
    template, faces = np.asarray(head.template), np.asarray(head.faces)
    corners = template[faces[np.asarray(head.landmark_faces)]]
    landmarks = (corners * np.asarray(head.landmark_barycentric)[..., None]).sum(1)
    brow, chin, ear = landmarks[list(BROWS)].mean(0), landmarks[CHIN], landmarks[list(JAW)].mean(0)
    along = (template[:, 2] - ear[2]) / (brow[2] - ear[2])
    height = (template[:, 1] - brow[1]) / ((brow[1] - chin[1]) / 2)
    scalp = smoothstep(height - np.interp(along, *np.transpose(HAIRLINE)), -RAMP, RAMP)
    face = (along > 0.5) & (height > FACE[0]) & (height < FACE[1]) & (vertices_of(head, (*EYES, *INTERIOR)) == 0)
    return (scalp * (1 - vertices_of(head, ("ears",)))).astype(np.float32), face


def _paint(head: HeadModel, face: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[H, W] values of vertices [N] where the rig is drawn, and beside it that of the nearest such pixel."""
    hit = face >= 0
    painted = np.zeros(face.shape, np.float32)
    painted[hit] = on_pixels(head.faces, face[hit], weights[hit], values)
    if hit.all() or not hit.any():
        return painted
    rows, columns = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    return painted[rows, columns]


def _unlike(colours: np.ndarray, median: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """[...] in [0, 1], how far colours [..., 3] are not skin's."""
    return smoothstep(np.sqrt((((colours - median) / spread) ** 2).sum(-1)), *UNLIKE_SKIN)


def _quantiles(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[2, C] the quantiles `RANGE` of values [M, C] weighed by `weight` [M]."""
    order = np.argsort(values, axis=0)
    shares = np.cumsum(weight[order], axis=0) / weight.sum()
    sorted_values = np.take_along_axis(values, order, axis=0)
    found = [np.interp(RANGE, share, column) for share, column in zip(shares.T, sorted_values.T)]
    return np.transpose(found).astype(np.float32)


def _colours(rgb: np.ndarray) -> np.ndarray:
    """OKLab's lightness and its opponents over the lightness, [..., 3], of sRGB [..., 3]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T
    return np.concatenate([lab[..., :1], lab[..., 1:] / np.maximum(lab[..., :1], DARK)], -1).astype(np.float32)


def _rgb(colours: np.ndarray) -> np.ndarray:
    """The inverse of `_colours`, to [0, 1]."""
    lab = np.concatenate([colours[..., :1], colours[..., 1:] * np.maximum(colours[..., :1], DARK)], -1)
    linear = ((lab @ FROM_LAB.T) ** 3 @ FROM_CONES.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
