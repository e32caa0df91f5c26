"""The skin's texture, painted over the atlas of the head: tone, redness, lips, brows, freckles, stubble, pores, gloss.

Everything is a function of canonical position, so that seams of the atlas do not show, and a region is where it is on
every identity.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from mvp4d.core.heads.model import HeadModel
from mvp4d_jax.studio import face_regions
from mvp4d_jax.studio.traits import Identity, random_for
from mvp4d_jax.studio.zbuffer import nearest_face, unpack

TEXTURE_SIZE = 512
SKIN_PARTS = ("skin", "lips", "nostrils", "ears")


class Noise:
    """Smooth random values in about [-1, 1] over space, by interpolating a periodic table."""

    def __init__(self, rng: np.random.Generator, size: int = 24):
        self.table = rng.normal(0, 0.55, (size, size, size)).astype(np.float32)
        self.rng = rng

    def __call__(self, points: np.ndarray, frequency: float, stretch: tuple = (1.0, 1.0, 1.0)) -> np.ndarray:
        """[N] at points [N, 3]; `frequency` in cells a metre."""
        place = points * (frequency * np.asarray(stretch)) + self.rng.uniform(0, 24, 3)
        return map_coordinates(self.table, place.T, order=1, mode="grid-wrap", prefilter=False)


@functools.lru_cache(maxsize=2)
def _atlas(key: _AtlasKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels of the skin: row-major index [K], canonical position [K, 3]; and for every texel the nearest of these."""
    head, size = key.head, key.size
    names = [head.part_names.index(name) for name in SKIN_PARTS if name in head.part_names]
    faces = np.flatnonzero(np.isin(head.face_parts, names))
    uv = np.asarray(head.uv)[np.asarray(head.face_uvs)[faces]] * size
    uv = np.stack([uv[..., 0], size - uv[..., 1]], -1).astype(np.float32)  # row 0 is the top of the atlas
    blocks = int((np.ceil(np.ptp(uv, axis=1) / 4) + 1).prod(-1).sum())
    corners = [(jnp.asarray(uv[:, k, 0]), jnp.asarray(uv[:, k, 1])) for k in range(3)]
    packed, _ = nearest_face(corners, [jnp.zeros(len(faces))] * 3, jnp.ones(len(faces), bool), (size, size), blocks)
    face, _, covered = (np.asarray(item) for item in unpack(packed))
    index = np.flatnonzero(covered)
    place = np.stack([index % size + 0.5, index // size + 0.5], -1)
    a, b, c = (uv[face[index], k] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    wb = ((place[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (place[:, 1] - a[:, 1])) / area
    wc = ((b[:, 0] - a[:, 0]) * (place[:, 1] - a[:, 1]) - (place[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])) / area
    weight = np.stack([1 - wb - wc, wb, wc], -1)
    corners = np.asarray(head.canonical, np.float64)[np.asarray(head.faces)[faces[face[index]]]]
    order = np.full(size * size, -1)
    order[index] = np.arange(len(index))
    rows, columns = distance_transform_edt(~covered.reshape(size, size), return_distances=False, return_indices=True)
    return index, np.einsum("kc,kcd->kd", weight, corners), order.reshape(size, size)[rows, columns].reshape(-1)


class _AtlasKey:
    """Lets the atlas of a head be cached: heads of one name share topology and canonical vertices."""

    def __init__(self, head: HeadModel, size: int):
        self.head, self.size = head, size

    def __hash__(self) -> int:
        return hash((self.head.name, self.head.vertex_count, self.size))

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


def paint(identity: Identity, head: HeadModel, size: int = TEXTURE_SIZE) -> np.ndarray:
    """[size, size, 4] float32: linear albedo and gloss."""
    _, points, nearest = _atlas(_AtlasKey(head, size))
    rng = random_for(identity.number, "skin")
    noise = Noise(rng)
    colour = np.array(identity.skin) * np.ones((len(points), 3))
    front = _ramp(points[:, 2], 0.0, 0.05)
    mottle, blotch, pore = noise(points, 70), noise(points, 260), noise(points, 1100)
    colour *= (1 + 0.05 * mottle + 0.045 * blotch + 0.05 * pore)[:, None]
    colour = _flush(colour, identity, points, front, mottle, blotch)
    colour = _freckles(colour, identity, points, front, noise, rng)
    colour = _lines(colour, identity, points, front, noise)
    colour, lip = _lips(colour, identity, points, noise)
    colour = _hair_shadow(colour, identity, points, noise, rng)
    gloss = 0.72 + 0.12 * blotch + 0.20 * pore
    gloss += 0.35 * front * (_spot(points, (0, -0.035, 0.12), 0.016) + _spot(points, (0, 0.045, 0.095), 0.03))
    gloss = gloss * (1 - lip) + lip * (1.1 + 0.25 * pore)
    gloss *= 1 - 0.75 * _under_hair(points) * (identity.style != "bald")
    texels = np.concatenate([np.clip(colour, 0.004, 0.95), np.clip(gloss, 0.15, 1.6)[:, None]], -1)
    return texels.astype(np.float32)[nearest].reshape(size, size, 4)


def _flush(
    colour: np.ndarray,
    identity: Identity,
    points: np.ndarray,
    front: np.ndarray,
    mottle: np.ndarray,
    blotch: np.ndarray,
) -> np.ndarray:
    """Blood under thin skin: cheeks, nose, ears, chin, lids; darker rings under the eyes; a paler forehead."""
    x = np.abs(points[:, 0])
    mirrored = np.stack([x, points[:, 1], points[:, 2]], -1)
    cheek = _spot(mirrored, (0.043, -0.036, 0.085), 0.022)
    nose = _spot(mirrored, (0.0, -0.036, 0.118), 0.013) + 0.7 * _spot(mirrored, (0.013, -0.042, 0.105), 0.008)
    ear = _ramp(x, 0.072, 0.080) * _ramp(points[:, 1], -0.07, -0.05) * _ramp(points[:, 1], 0.04, 0.03)
    chin = _spot(mirrored, (0, -0.101, 0.105), 0.016)
    inner_eye = _spot(mirrored, (0.017, -0.003, 0.082), 0.006)
    blush = front * (0.8 * cheek + 1.0 * nose + 0.5 * chin + 0.9 * inner_eye) + 0.75 * ear
    blush = np.clip(blush * (1 + 0.5 * mottle + 0.4 * blotch), 0, 1.6) * (0.35 + 0.65 * identity.redness)
    light = 1 - 0.65 * identity.melanin
    colour = colour * (1 + blush[:, None] * np.array([0.10, -0.22, -0.20]) * light)
    lid = 0.5 * _spot(mirrored, (0.030, 0.012, 0.088), 0.009)
    ring = front * (_spot(mirrored, (0.030, -0.017, 0.085), 0.010) + lid)
    colour *= 1 - ring[:, None] * np.array([0.13, 0.20, 0.16]) * (0.5 + 0.5 * identity.age)
    fold = front * _spot(mirrored, (0.026, -0.052, 0.095), 0.008)
    colour *= 1 - fold[:, None] * np.array([0.05, 0.08, 0.08])
    brow = front * _ramp(points[:, 1], 0.03, 0.06)
    return colour * (1 + brow[:, None] * np.array([0.02, 0.03, 0.02]))


def _freckles(
    colour: np.ndarray,
    identity: Identity,
    points: np.ndarray,
    front: np.ndarray,
    noise: Noise,
    rng: np.random.Generator,
) -> np.ndarray:
    where = front * _spot(points * np.array([0.6, 1, 1]), (0, -0.02, 0.1), 0.045)
    spots = _ramp(noise(points, 420) + 0.5 * noise(points, 800), 0.75, 1.25) * where * identity.freckles
    colour = colour * (1 - spots[:, None] * np.array([0.30, 0.45, 0.55]))
    for _ in range(rng.integers(0, 6)):  # moles
        centre = points[rng.integers(len(points))]
        mole = np.exp(-0.5 * (np.linalg.norm(points - centre, axis=-1) / rng.uniform(0.0008, 0.0016)) ** 2)
        colour = colour * (1 - mole[:, None] * np.array([0.55, 0.68, 0.72]))
    return colour


def _lines(colour: np.ndarray, identity: Identity, points: np.ndarray, front: np.ndarray, noise: Noise) -> np.ndarray:
    """Fine wrinkles of the forehead and beside the eyes, as the darker bottom of a crease."""
    if identity.age < 0.25:
        return colour
    x, y = np.abs(points[:, 0]), points[:, 1]
    bend = 0.0015 * noise(points, 60)
    forehead = np.exp(-(((np.sin((y + bend + 0.06 * x**2 / 0.05) * 2 * np.pi / 0.0115)) / 0.22) ** 2))
    forehead *= _ramp(y, 0.030, 0.038) * _ramp(y, 0.066, 0.056) * _ramp(x, 0.045, 0.03)
    around = np.arctan2(y + 0.002, x - 0.040)
    feet = np.exp(-(((np.sin(around * 11)) / 0.3) ** 2)) * _spot(np.stack([x, y], -1), (0.058, -0.002), 0.007)
    depth = front * (forehead + feet) * (identity.age - 0.25) * (0.7 + 0.3 * noise(points, 90))
    return colour * (1 - depth[:, None] * np.array([0.20, 0.26, 0.26]))


def _lips(colour: np.ndarray, identity: Identity, points: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    lip = face_regions.lips(points)
    crease = 1 + 0.10 * noise(points, 700, (1.0, 0.12, 0.3)) + 0.06 * noise(points, 300)
    tint = np.array(identity.lips) * (1 - 0.25 * identity.melanin) + 0.22 * identity.melanin
    contact = np.exp(-(((points[:, 1] + 0.0688) / 0.0016) ** 2))
    red = colour * tint * crease[:, None] * (1 - 0.30 * contact)[:, None]
    return colour * (1 - lip[:, None]) + red * lip[:, None], lip


def _under_hair(points: np.ndarray) -> np.ndarray:
    return face_regions.scalp(points) * (1 - face_regions.ear_shells(points))


def _hair_shadow(
    colour: np.ndarray, identity: Identity, points: np.ndarray, noise: Noise, rng: np.random.Generator
) -> np.ndarray:
    """What lies under hair is painted in its colour: scalp, brows, beard; and stubble as fine dark specks."""
    hair = np.array(identity.hair)
    cover = _under_hair(points)
    if identity.style == "bald":
        cover = cover * 0.18 * _ramp(points[:, 1], 0.08, 0.03)  # shaven sides
    speck = _ramp(noise(points, 1500) + 0.4 * noise(points, 700), -0.5, 0.5)
    density = {"bald": 1.0, "buzz": 0.85}.get(identity.style, 0.97) * (0.75 + 0.25 * speck)
    colour = _mix(colour, hair * 0.55, cover * density)
    brow, _ = face_regions.brow(points)
    strokes = 0.8 + 0.3 * noise(points, 900, (0.7, 1.3, 1.0))
    colour = _mix(colour, np.minimum(hair * 0.8, 0.25), np.clip(brow * strokes * 0.72 * identity.brow_weight, 0, 0.88))
    if identity.beard != "none":
        cover = face_regions.beard(points, identity.beard)
        strength = 0.42 if identity.beard == "stubble" else 0.85
        colour = _mix(colour, hair * 0.7, cover * strength * (0.35 + 0.65 * speck))
    return colour


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first * (1 - share[:, None]) + second * share[:, None]


def _spot(points: np.ndarray, centre: tuple, radius: float) -> np.ndarray:
    return np.exp(-0.5 * ((points - np.asarray(centre)) ** 2).sum(-1) / radius**2)


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    along = np.clip((value - low) / (high - low), 0.0, 1.0)
    return along * along * (3.0 - 2.0 * along)
