"""What is not skin: eyeballs, lashes, the inside of the mouth, teeth, gums, tongue and ears of the built-in head.

Every part is made for the half with x >= 0 (midline vertices at x = 0 exactly) and mirrored by `assembly.py`. `flat`
are uv points in the lower strip of the atlas, of the right half u in [0.5, 1].
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from mvp4d.core.heads.builtin.measures import EYE_CENTRE, EYE_RADIUS, IRIS_RADIUS, PUPIL_RADIUS
from mvp4d.core.heads.builtin.skin_mesh import EYE_POINTS, LIP_POINTS, Patch, grid_faces

EYE_SEGMENTS = 28
UPPER_WIDTHS = np.array([8.4, 6.6, 7.4, 6.8, 6.6, 9.6]) * 1e-3  # central incisor to first molar
LOWER_WIDTHS = np.array([5.3, 5.9, 6.7, 6.9, 7.0, 10.4]) * 1e-3
UPPER_CROWNS = np.array([10.0, 9.0, 10.0, 8.4, 7.8, 7.0]) * 1e-3
LOWER_CROWNS = np.array([9.0, 9.2, 10.0, 8.6, 8.0, 7.0]) * 1e-3
_RING = 10  # points around a tooth


def _disc(radius: np.ndarray, angle: np.ndarray, centre: tuple, size: float) -> np.ndarray:
    return np.asarray(centre) + size * radius[..., None] * np.stack([np.sin(angle), np.cos(angle)], -1)


def eyeball() -> Patch:
    """Left eyeball: rings around the optical axis (+z). Tags: number of triangles of pupil, iris, sclera."""
    pupil, iris = np.arcsin(PUPIL_RADIUS / EYE_RADIUS), np.arcsin(IRIS_RADIUS / EYE_RADIUS)
    polar = np.concatenate([[0.55 * pupil, pupil], np.linspace(pupil, iris, 4)[1:], [0.62, 0.76, 0.95, 1.2, 1.5, 1.85]])
    turn = 2 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
    radius = EYE_RADIUS + 0.0005 * np.clip(1 - (polar / (iris * 1.15)) ** 2, 0, 1)
    ring = (
        np.stack(
            [
                np.sin(polar)[:, None] * np.cos(turn),
                np.sin(polar)[:, None] * np.sin(turn),
                np.broadcast_to(np.cos(polar)[:, None], (len(polar), EYE_SEGMENTS)),
            ],
            -1,
        )
        * radius[:, None, None]
    )
    apex = np.array([[0, 0, EYE_RADIUS + 0.0005]])
    vertices = np.concatenate([apex, ring.reshape(-1, 3)]) + EYE_CENTRE
    rows = 1 + np.arange(len(polar) * EYE_SEGMENTS).reshape(len(polar), EYE_SEGMENTS)
    following = np.roll(rows, -1, 1)
    front = np.stack([np.zeros(EYE_SEGMENTS, int), rows[0], following[0]], -1)
    strips = [grid_faces(rows[k : k + 2], True)[:, ::-1] for k in range(len(polar) - 1)]
    faces = np.concatenate([front, *strips])  # open at the back, which nothing sees
    inner = np.concatenate([[0.0], np.repeat(polar, EYE_SEGMENTS)]) / polar[-1]
    around = np.concatenate([[0.0], np.tile(turn, len(polar))])
    flat = _disc(np.sqrt(inner), around, (0.945, 0.068), 0.050)
    counts = np.array([EYE_SEGMENTS * 3, EYE_SEGMENTS * 6, len(faces) - EYE_SEGMENTS * 9])
    return Patch(vertices, faces, flat, {"counts": counts})


def lashes(margin: np.ndarray) -> Patch:
    """A thin wedge of lashes on the upper lid. margin [P, 3]: the outer edge of the lid, counter-clockwise."""
    chosen = np.arange(0, EYE_POINTS // 2 + 1)
    root = margin[chosen]
    along = chosen / (EYE_POINTS // 2)  # 0 at the outer corner
    length = 0.0026 * np.sin(np.pi * np.clip(along * 0.9 + 0.10, 0, 1)) ** 0.7 + 0.0005
    sideways = (0.55 - along) * 0.7
    direction = np.stack([sideways, np.full_like(along, 0.42), np.full_like(along, 0.8)], -1)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    low = root + np.array([0, 0.0000, 0.0002])
    tip = low + direction * length[:, None]
    high = root + np.array([0, 0.0004, 0.0002])
    vertices = np.concatenate([low, tip, high])
    rows = np.arange(len(vertices)).reshape(3, -1)
    flat = np.stack([np.tile(0.9 + 0.09 * along, 3), np.repeat([0.128, 0.144, 0.160], len(chosen))], -1)
    return Patch(vertices, grid_faces(rows, False)[:, ::-1], flat, {"root": chosen})


def mouth_inside(contact: np.ndarray) -> Patch:
    """The bag behind the lips. contact [2m + 1, 3]: the line where the lips meet, upper then lower; the first row of
    the patch repeats it."""
    turn = 0.5 * np.pi * np.arange(2 * LIP_POINTS + 1) / LIP_POINTS
    up, side = np.cos(turn), np.sin(turn)
    x, y, z = contact.T
    sign = np.clip(up * 3, -1, 1)
    rows = [
        contact,
        np.stack([x * 0.985, y + 0.0009 * sign, z - 0.0026], -1),
        np.stack([x * 1.00, y + 0.0065 * sign, z - 0.0046], -1),
        np.stack([x * 1.06, y + 0.0135 * sign, z - 0.0080], -1),
        np.stack([0.0335 * side, -0.069 + 0.0170 * up, 0.076 + 0.004 * np.abs(up)], -1),
        np.stack([0.0280 * side, -0.069 + 0.0170 * up, np.full_like(up, 0.055)], -1),
        np.stack([0.0120 * side, -0.069 + 0.0100 * up, np.full_like(up, 0.044)], -1),
    ]
    for row in rows:
        row[[0, -1], 0] = 0.0
    index = np.arange(7 * len(turn)).reshape(7, -1)
    radius = np.linspace(1.0, 0.16, 7)[:, None] * np.ones_like(turn)
    flat = _disc(radius, np.broadcast_to(turn, radius.shape), (0.5, 0.083), 0.073)
    throat = np.array([[0.0, -0.069, 0.042]])
    fan = np.stack([index[-1, :-1], index[-1, 1:], np.full(len(turn) - 1, index.size)], -1)
    faces = np.concatenate([grid_faces(index, False), fan])[:, ::-1]
    return Patch(
        np.concatenate([*rows, throat]),
        faces,
        np.concatenate([flat.reshape(-1, 2), [[0.5, 0.083]]]),
        {"up": np.append(np.tile(up, 7), 0.0)},
    )


class _Arch:
    """The dental arch: places by arc length from the midline, and the outward direction there."""

    def __init__(self, half_width: float, front: float, depth: float):
        angle = np.linspace(0, np.radians(100), 200)
        line = np.stack([half_width * np.sin(angle), front - depth + depth * np.cos(angle)], -1)
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        self._line = CubicSpline(length, line)

    def __call__(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, along = self._line(length), self._line(length, 1)
        along = along / np.linalg.norm(along, axis=-1, keepdims=True)
        return place, along, np.stack([-along[..., 1], along[..., 0]], -1)


UPPER_ARCH = _Arch(0.0262, 0.1020, 0.0400)
LOWER_ARCH = _Arch(0.0240, 0.0992, 0.0385)


def teeth(upper: bool) -> Patch:
    """Six teeth of the left half of one jaw, crowns only, rooted in the gum."""
    widths, crowns = (UPPER_WIDTHS, UPPER_CROWNS) if upper else (LOWER_WIDTHS, LOWER_CROWNS)
    arch, down = (UPPER_ARCH, -1.0) if upper else (LOWER_ARCH, 1.0)
    edge = -0.0706 if upper else -0.0690
    turn = 2 * np.pi * np.arange(_RING) / _RING
    vertices, faces, flats = [], [], []
    for tooth, (start, width, crown) in enumerate(zip(np.cumsum(widths) - widths, widths, crowns)):
        thick = (0.0058, 0.0058, 0.0066, 0.0078, 0.0080, 0.0092)[tooth]
        place, along, out = arch(start + width / 2)
        centre = place - out * thick / 2
        tip = edge + down * (0.0, -0.0004, 0.0002, -0.0005, -0.0009, -0.0012)[tooth]
        rings = []
        for height, broad, deep in ((1.12, 0.80, 0.80), (0.55, 0.96, 0.92), (0.14, 0.98, 0.62), (0.0, 0.86, 0.42)):
            cos = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.7
            sin = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.7
            flat = centre + (0.5 * width * broad * cos)[:, None] * along + (0.5 * thick * deep * sin)[:, None] * out
            flat += out * thick * (1 - deep) * 0.28  # crowns lean towards the lips
            rings.append(np.stack([flat[:, 0], np.full(_RING, tip - down * height * crown), flat[:, 1]], -1))
        rings.append(rings[-1].mean(0, keepdims=True))
        first = sum(len(item) for item in vertices)
        rows = first + np.arange(4 * _RING).reshape(4, _RING)
        cap = np.stack([rows[3], np.roll(rows[3], -1), np.full(_RING, first + 4 * _RING)], -1)
        mesh = np.concatenate([grid_faces(rows, True), cap])
        vertices.append(np.concatenate(rings))
        faces.append(mesh[:, ::-1] if upper else mesh)
        radius = np.concatenate([np.repeat([1.0, 0.78, 0.55, 0.34], _RING), [0.0]])
        cell = (0.683 + 0.034 * (0 if upper else 1), 0.016 + 0.0262 * tooth)
        flats.append(_disc(radius, np.concatenate([np.tile(turn, 4), [0.0]]), cell, 0.0125))
    patch = Patch(np.concatenate(vertices), np.concatenate(faces), np.concatenate(flats))
    return _outward_rings(patch)


def _outward_rings(patch: Patch) -> Patch:
    """Flips a closed patch whose signed volume is negative."""
    a, b, c = (patch.vertices[patch.faces[:, k]] - patch.vertices.mean(0) for k in range(3))
    if np.einsum("ij,ij->", a, np.cross(b, c)) < 0:
        patch.faces = patch.faces[:, ::-1].copy()
    return patch


def gum(upper: bool) -> Patch:
    """The left half of one gum: a ridge over the roots."""
    arch, down = (UPPER_ARCH, -1.0) if upper else (LOWER_ARCH, 1.0)
    neck = -0.0706 + 0.0088 if upper else -0.0690 - 0.0082
    length = np.linspace(0, 0.046, 15)
    place, _, out = arch(length)
    rows = []
    for rise, offset in (
        (0.0070, -0.0010),
        (0.0035, 0.0012),
        (0.0008, 0.0008),
        (-0.0006, -0.0012),
        (0.0002, -0.0070),
        (0.0050, -0.0095),
    ):
        flat = place + out * offset
        height = np.full(len(length), neck) - down * (rise + 0.0006 * (length / 0.046))
        row = np.stack([flat[:, 0], height, flat[:, 1]], -1)
        row[0, 0] = 0.0
        rows.append(row)
    index = np.arange(6 * len(length)).reshape(6, -1)
    low = 0.088 if upper else 0.006
    flat = np.stack([np.tile(0.628 + 0.034 * length / 0.046, 6), np.repeat(np.linspace(low, low + 0.072, 6), 15)], -1)
    faces = grid_faces(index, False)
    return Patch(np.concatenate(rows), faces if not upper else faces[:, ::-1], flat)


def tongue() -> Patch:
    """The left half of the tongue, from its tip to its root; rows run over the top from midline to midline."""
    share = np.array([0.02, 0.10, 0.22, 0.38, 0.55, 0.72, 0.88, 1.0])
    turn = np.pi * np.arange(9) / 8
    z = 0.0955 - 0.0430 * share
    wide = PchipInterpolator([0, 0.1, 0.3, 0.6, 1.0], [0.0030, 0.0090, 0.0150, 0.0185, 0.0175])(share)
    tall = PchipInterpolator([0, 0.1, 0.3, 0.6, 1.0], [0.0012, 0.0030, 0.0048, 0.0066, 0.0070])(share)
    middle = PchipInterpolator([0, 0.3, 0.7, 1.0], [-0.0755, -0.0752, -0.0742, -0.0750])(share)
    dip = 0.0012 * np.exp(-0.5 * (turn / 0.35) ** 2)
    x = wide[:, None] * np.sin(turn) ** 0.8
    y = middle[:, None] + tall[:, None] * np.cos(turn) - dip * np.sin(np.pi * share)[:, None]
    x[:, [0, -1]] = 0.0
    rows = np.stack([x, y, np.broadcast_to(z[:, None], x.shape)], -1)
    tip = np.array([[0.0, middle[0], 0.0962]])
    vertices = np.concatenate([rows.reshape(-1, 3), tip])
    index = np.arange(rows.shape[0] * 9).reshape(-1, 9)
    fan = np.stack([np.full(8, len(vertices) - 1), index[0, :-1], index[0, 1:]], -1)
    faces = np.concatenate([grid_faces(index, False), fan[:, ::-1]])
    flat = np.stack([np.tile(0.584 + 0.038 * turn / np.pi, len(share)), np.repeat(0.155 - 0.148 * share, 9)], -1)
    return Patch(vertices, faces, np.concatenate([flat, [[0.603, 0.160]]]))


_EAR_OUTLINE = (
    np.array(
        [
            [0.0, 3],
            [-2.0, 10],
            [0.0, 19],
            [6, 27],
            [14, 31],
            [23, 28.5],
            [30, 20],
            [31.5, 9],
            [29, -3],
            [23.5, -14],
            [18, -23],
            [12.5, -30],
            [6.0, -32],
            [1.0, -28],
            [-1.0, -19],
            [-1.5, -10],
            [-1.0, -3],
        ]
    )
    * 1e-3
)
EAR_SEGMENTS = 34
_EAR_STEPS = np.array([0.0, 0.16, 0.32, 0.45, 0.56, 0.66, 0.76, 0.86, 0.94, 1.0, 1.0, 0.90, 0.62])


def _ear_heights(angle: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Relief of the ear in metres [rows, segments]; angle 0 points up, pi / 2 to the back of the head."""
    plain = np.array([0.0, 0.4, 2.0, 5.6, 9.2, 8.9, 6.8, 7.2, 10.6, 10.4, 8.4, 3.0, -7.0])
    lobe = np.array([0.0, 0.2, 1.0, 2.0, 2.6, 2.9, 3.1, 3.2, 3.0, 2.3, 0.7, -2.0, -7.0])
    front = np.array([0.0, 0.6, 2.0, 5.2, 6.6, 5.6, 3.6, 1.4, -1.0, -3.0, -5.0, -7.0, -9.0])
    helix = np.array([0.0, 0.4, 1.4, 3.2, 4.8, 5.8, 5.2, 6.0, 8.2, 7.6, 5.6, 1.0, -7.0])

    def near(middle: float, spread: float) -> np.ndarray:
        gap = (angle - middle + np.pi) % (2 * np.pi) - np.pi
        return np.exp(-0.5 * (gap / spread) ** 2)

    weights = np.stack([near(1.6, 0.85), near(3.35, 0.52), near(4.65, 0.42), near(0.1, 0.40) + near(5.7, 0.35)])
    weights = weights / weights.sum(0)
    heights = np.einsum("ks,kr->rs", weights, np.stack([plain, lobe, front, helix])) * 1e-3
    return heights + 0.08 * np.maximum(backward - 0.014, 0.0)


def ear() -> Patch:
    """The left ear: a relief over a polar grid around the ear canal, its back sunk into the side of the head."""
    closed = np.concatenate([_EAR_OUTLINE, _EAR_OUTLINE[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    outline = CubicSpline(length, closed, bc_type="periodic")(np.linspace(0, length[-1], 400)[:-1])
    centre = np.array([0.0085, -0.0045])
    bearing = np.arctan2(outline[:, 0] - centre[0], outline[:, 1] - centre[1]) % (2 * np.pi)
    order = np.argsort(bearing)
    reach = np.linalg.norm(outline - centre, axis=1)[order]
    angle = 2 * np.pi * np.arange(EAR_SEGMENTS) / EAR_SEGMENTS
    reach = np.interp(angle, bearing[order], reach, period=2 * np.pi)
    rows = centre + _EAR_STEPS[:, None, None] * reach[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    height = _ear_heights(angle, rows[..., 0])
    flare, tilt = np.radians(9.0), np.radians(10.0)
    back = np.array([np.sin(flare), 0.0, -np.cos(flare)])
    out = np.array([np.cos(flare), 0.0, np.sin(flare)])
    up = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    back = back - up * (back @ up)
    points = np.array([0.0750, -0.0130, 0.0100]) + rows[..., :1] * back + rows[..., 1:] * up + height[..., None] * out
    vertices = np.concatenate([points[0, :1], points[1:].reshape(-1, 3)])
    index = 1 + np.arange((len(_EAR_STEPS) - 1) * EAR_SEGMENTS).reshape(-1, EAR_SEGMENTS)
    fan = np.stack([np.zeros(EAR_SEGMENTS, int), index[0], np.roll(index[0], -1)], -1)
    faces = np.concatenate([fan[:, ::-1], grid_faces(index, True)])
    radius = np.concatenate([[0.0], np.repeat(np.linspace(0, 1, len(_EAR_STEPS))[1:], EAR_SEGMENTS)])
    flat = _disc(radius, np.concatenate([[0.0], np.tile(angle, len(_EAR_STEPS) - 1)]), (0.818, 0.083), 0.072)
    return Patch(vertices, faces, flat)
