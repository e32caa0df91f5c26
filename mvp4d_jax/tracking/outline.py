"""Where in a picture a person's skin is, and the line at which a person ends, to which a head's outline is held.

Skin is told by the ratios of its colours, which shading leaves alone and which hair, beards and clothes do not share;
its model is learned from the nose and the cheeks beside it. The person's line is looked for before a background of one
colour. Hair and clothes only add to a head: where the line does not end skin, it says nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from mvp4d.core.cameras.camera import Camera, centre, project, to_camera

RATIO, BRIGHTNESS = 0.05, 0.25  # what the logarithms of skin's colour ratios and of its brightness vary by, at least
MARGIN = 0.01  # over the face box, beside what is no skin
SURE = 0.5, 0.8  # likeness from which a place counts as skin, and counts in full
DARK = 0.03  # of colours in [0, 1]: added before logarithms
PLAIN = 0.05, 0.8  # this share of a picture's border differs by less from a plain background
CONTRAST = 0.06  # colours that differ by less from the background are it
SPECK = 0.02  # what is smaller than this share of the largest part before the background is none of it
INSIDE = 2.5, 4.5  # pixels inside the line at which skin is looked for
OUT = 0.3  # what a place of the head's outline counts at least that lies outside of the person
AGREE = 0.5, 0.9  # cosine between the head's outline and the picture's line from which it counts, and counts in full


@dataclasses.dataclass(frozen=True)
class Skin:
    """Colours of one person's skin.

    Attributes:
      middle: [3].
      ratios, inverse: logarithms of red over green and green over blue [2], and their inverse covariance [2, 2].
      brightness: [2] logarithms between which it lies.
    """

    middle: np.ndarray
    ratios: np.ndarray
    inverse: np.ndarray
    brightness: np.ndarray

    @classmethod
    def of(cls, colours: np.ndarray) -> Skin:
        """From colours [N, 3] in [0, 1], of which a tenth may be something else."""
        ratios, brightness = _ratios(colours)
        middle = np.median(ratios, axis=0)
        away = ((ratios - middle) ** 2).sum(-1)
        kept = ratios[away <= np.quantile(away, 0.9)] - middle
        spread = kept.T @ kept / len(kept) + RATIO**2 * np.eye(2)
        return cls(np.median(colours, axis=0), middle, np.linalg.inv(spread), np.quantile(brightness, [0.05, 0.95]))

    def likeness(self, colours: np.ndarray) -> np.ndarray:
        """[...] 1 where colours [..., 3] are skin, down to 0."""
        ratios, brightness = _ratios(colours)
        off = ratios - self.ratios
        low, high = self.brightness
        beyond = np.maximum(np.maximum(low - brightness, brightness - high), 0) / BRIGHTNESS
        return np.exp(-np.einsum("...i,ij,...j->...", off, self.inverse, off) / 8 - beyond**2 / 2).astype(np.float32)


def _ratios(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logs = np.log(colours + DARK)
    return np.stack([logs[..., 0] - logs[..., 1], logs[..., 1] - logs[..., 2]], -1), logs.mean(-1)


@dataclasses.dataclass(frozen=True)
class Person:
    """A picture as a fit sees it.

    Attributes:
      skin: [H, W, 1] 0 to 1, nothing within a margin of what is no skin.
      inner: [H, W, 1] the least of `skin` in 3 x 3 pixels.
      distance: [H, W, 1] pixels to the line at which the person ends, negative inside; None before a background that is
        not of one colour.
    """

    skin: np.ndarray
    inner: np.ndarray
    distance: np.ndarray | None

    @classmethod
    def of(cls, picture: np.ndarray, skin: Skin, box: float) -> Person:
        """From a picture [H, W, 3] in [0, 1] and the side of the face box in pixels."""
        found = skin.likeness(ndimage.gaussian_filter(picture, (0.7, 0.7, 0)))
        distance = _distance(picture, skin.middle)
        inner = ndimage.minimum_filter(found, 3)[..., None]
        clean = ndimage.minimum_filter(found, 2 * round(MARGIN * box) + 1)
        clean = np.clip((clean - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
        return cls(clean[..., None], inner, None if distance is None else distance[..., None])


def _distance(picture: np.ndarray, skin: np.ndarray) -> np.ndarray | None:
    half = picture.shape[0] // 2
    border = np.concatenate([picture[:4].reshape(-1, 3), picture[:half, [0, 1, -2, -1]].reshape(-1, 3)])
    plain = np.median(border, axis=0)
    if np.quantile(np.abs(border - plain).max(-1), PLAIN[1]) > PLAIN[0]:
        return None
    contrast = ndimage.gaussian_filter(np.linalg.norm(picture - plain, axis=-1), 0.5)
    # The line is where half of the contrast is reached that skin has just inside; that of hair may be more.
    local = ndimage.gaussian_filter(ndimage.maximum_filter(contrast, 7), 1.0)
    local = np.minimum(local, np.linalg.norm(skin - plain))
    inside = ndimage.binary_fill_holes((contrast > 0.5 * local) & (contrast > CONTRAST))
    parts, count = ndimage.label(inside)
    if not count:
        return None
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    inside = (areas > SPECK * areas.max())[parts]
    # To the other side's pixels' centres, which lie half a pixel beyond the line.
    signed = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return ndimage.gaussian_filter((signed - 0.5 * np.sign(signed)).astype(np.float32), 0.7)


@dataclasses.dataclass(frozen=True)
class Contour:
    """K points at which a surface turns away from a camera and behind which there is nothing of the head.

    Attributes:
      first, second: [K] ends of the edge that a point lies on; share: [K] how far along.
      normals: [K, 3] unit, outwards.
    """

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray
    normals: np.ndarray

    def between(self, values: np.ndarray) -> np.ndarray:
        """[K, ...] of what the ends have [N, ...]."""
        share = self.share.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)
        return (1 - share) * values[self.first] + share * values[self.second]


def contour(
    places: np.ndarray, normals: np.ndarray, edges: np.ndarray, camera: Camera, depth: np.ndarray, side: int
) -> Contour:
    """The outline of a surface.

    Args:
      places, normals: [N, 3]; edges: [E, 2]; camera: unbatched.
      depth: [n, n] of the whole head, 0 where it is not, of a square picture of `side` pixels that holds the camera's.
    """
    facing = ((centre(camera) - places) * normals).sum(-1)
    first, second = edges[(facing[edges[:, 0]] > 0) != (facing[edges[:, 1]] > 0)].T
    found = Contour(first, second, facing[first] / (facing[first] - facing[second]), normals[:0])
    inside = ndimage.distance_transform_edt(depth > 0)
    pixels = project(camera, found.between(places))[0] * len(depth) / side
    x, y = np.clip(np.int64(np.floor(pixels)), 0, len(depth) - 1).T
    keep = (inside[y, x] <= 1.6) & ((pixels > 2) & (pixels < len(depth) - 2)).all(-1)
    turned = found.between(normals)[keep]
    turned /= np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-12)
    return Contour(first[keep], second[keep], found.share[keep], turned)


def sampled(picture: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N, C] at pixels [N, 2], bilinear, and their derivatives [N, C, 2]; those of the border beyond it."""
    limit = np.array([picture.shape[1], picture.shape[0]]) - 1.001
    place = np.clip(pixels - 0.5, 0, limit)
    corner = np.floor(place).astype(int)
    (a, b), (x, y) = (place - corner).T[..., None], corner.T
    first, second = picture[y, x], picture[y, x + 1]
    third, fourth = picture[y + 1, x], picture[y + 1, x + 1]
    top, bottom = (1 - a) * first + a * second, (1 - a) * third + a * fourth
    across = (1 - b) * (second - first) + b * (fourth - third)
    return (1 - b) * top + b * bottom, np.stack([across, bottom - top], -1)


def projected(camera: Camera, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] of places [N, 3], and their derivatives [N, 2, 3]."""
    x, y, z = to_camera(camera, places).T[..., None]
    right, down, forward = np.asarray(camera.world_to_camera)[:3, :3]
    along = [camera.fx * (right - x / z * forward) / z, camera.fy * (down - y / z * forward) / z]
    return project(camera, places)[0], np.stack(along, 1)


def beyond(line: Contour, places: np.ndarray, camera: Camera, person: Person) -> tuple[np.ndarray, np.ndarray]:
    """How far the head's outline lies from the person's line: pixels [K], negative inside, and derivatives by place
    [K, 3]."""
    pixels, by_place = projected(camera, line.between(places))
    off, slope = (part[:, 0] for part in sampled(person.distance, pixels))
    return off, np.einsum("kp,kpc->kc", slope, by_place)


def trust(line: Contour, places: np.ndarray, camera: Camera, person: Person) -> np.ndarray:
    """[K] how far points of the head's outline count, 0 to 1: where the person's line runs as it does and ends skin,
    and where skin is all that lies between."""
    pixels, by_place = projected(camera, line.between(places))
    off, slope = (part[:, 0] for part in sampled(person.distance, pixels))
    outwards = np.einsum("kij,kj->ki", by_place, line.normals)
    lengths = np.linalg.norm(outwards, axis=-1) * np.linalg.norm(slope, axis=-1)
    agree = (outwards * slope).sum(-1) / np.maximum(lengths, 1e-9)
    likeness = [
        sampled(person.inner, pixels - (np.maximum(off, 0) + share * np.minimum(off, 0) + depth)[:, None] * slope)[0]
        for share in (1.0, 0.5, 0.0)
        for depth in INSIDE
    ]
    likeness = np.maximum(np.min(likeness, axis=0)[:, 0], np.where(off > 0, OUT, 0.0))
    return np.clip((agree - AGREE[0]) / (AGREE[1] - AGREE[0]), 0, 1) * likeness
