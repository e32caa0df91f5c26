"""The outer surface of the built-in head as an implicit field: negative inside, zero on the skin, about metres outside.

A head is a stack of superelliptic cross-sections (anthropometric half-widths and depths at heights measured from the
pupils), a neck and a bust, joined by smooth minima; the nose and the lids are ellipsoids and round cones; everything
softer (brow, cheekbones, philtrum, chin fold) is a bump or a groove in the front of the face.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator

from mvp4d.core.heads.builtin.measures import EYE_CENTRE, LID_RADIUS

Field = Callable[[np.ndarray], np.ndarray]

# Cross-sections of head and jaw below the temples: height, half-width, front depth, squareness of the front.
_SECTIONS = np.array(
    [
        [0.030, 0.0775, 0.1000, 2.30],
        [0.010, 0.0765, 0.0970, 2.40],
        [-0.010, 0.0750, 0.0955, 2.50],
        [-0.030, 0.0724, 0.0970, 2.45],
        [-0.050, 0.0700, 0.1000, 2.35],
        [-0.065, 0.0680, 0.1020, 2.30],
        [-0.080, 0.0640, 0.1022, 2.25],
        [-0.095, 0.0570, 0.1035, 2.15],
        [-0.105, 0.0485, 0.1030, 2.05],
        [-0.111, 0.0380, 0.0990, 2.00],
        [-0.118, 0.0200, 0.0860, 2.00],
    ]
)
_BACK = np.array(
    [[0.020, 0.0930], [0.000, 0.0900], [-0.030, 0.0780], [-0.060, 0.0620], [-0.090, 0.0500], [-0.118, 0.0400]]
)
# Lower edge of the mandible: depth, height.
_JAW_EDGE = np.array(
    [
        [-0.080, -0.062],
        [-0.040, -0.060],
        [0.000, -0.068],
        [0.025, -0.085],
        [0.055, -0.1035],
        [0.085, -0.1145],
        [0.110, -0.1135],
    ]
)
CROWN = 0.118
_ROUND_FROM = 0.030  # above this height the skull closes as an ellipse
_BACK_FROM = 0.020

# Soft relief of the face: x, y, sigma x, sigma y, metres outwards. Mirrored; given for the half with x >= 0.
_RELIEF = (
    (0.000, 0.0235, 0.0100, 0.0070, 0.0012),  # glabella
    (0.0280, 0.0215, 0.0170, 0.0062, 0.0040),  # brow ridge
    (0.0480, 0.0150, 0.0090, 0.0080, 0.0030),  # outer brow
    (0.0320, 0.0560, 0.0200, 0.0200, 0.0012),  # frontal eminence
    (0.0300, 0.0010, 0.0150, 0.0115, -0.0090),  # eye socket
    (0.0130, 0.0020, 0.0060, 0.0090, -0.0035),  # inner corner of the socket
    (0.0500, -0.0020, 0.0070, 0.0090, -0.0020),  # outer corner of the socket
    (0.0480, -0.0270, 0.0150, 0.0120, 0.0042),  # cheekbone
    (0.0660, -0.0120, 0.0080, 0.0100, 0.0015),  # zygomatic arch
    (0.0300, -0.0330, 0.0100, 0.0100, 0.0012),  # front of the cheek
    (0.0540, -0.0620, 0.0120, 0.0150, -0.0020),  # hollow of the cheek
    (0.0000, -0.0660, 0.0175, 0.0150, 0.0078),  # muzzle
    (0.0300, -0.0700, 0.0050, 0.0060, -0.0012),  # corner of the mouth
    (0.0000, -0.0870, 0.0190, 0.0040, -0.0034),  # fold above the chin
    (0.0000, -0.1010, 0.0130, 0.0080, 0.0052),  # chin
    (0.0130, -0.1040, 0.0080, 0.0070, 0.0014),  # mental tubercles
    (0.0000, -0.0545, 0.0021, 0.0050, -0.0011),  # philtrum
    (0.0052, -0.0555, 0.0020, 0.0045, 0.0006),  # philtral ridges
)
# Grooves: polyline in (x, y), width, metres inwards.
_GROOVES = (
    (((0.0205, -0.0440), (0.0265, -0.0540), (0.0310, -0.0640)), 0.0030, 0.0010),  # nasolabial
    (((0.0165, -0.0085), (0.0240, -0.0150), (0.0330, -0.0175)), 0.0030, 0.0009),  # tear trough
)


def smooth_min(first: np.ndarray, second: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Polynomial smooth minimum: a fillet of about `radius` where the two fields meet."""
    mix = np.clip(0.5 + 0.5 * (second - first) / radius, 0.0, 1.0)
    return second + (first - second) * mix - radius * mix * (1.0 - mix)


def ellipsoid(points: np.ndarray, centre: tuple, radii: tuple) -> np.ndarray:
    """Approximate signed distance to an axis-aligned ellipsoid. points [N, 3] -> [N]."""
    offset = points - np.asarray(centre)
    near = np.linalg.norm(offset / np.asarray(radii), axis=-1)
    far = np.linalg.norm(offset / np.square(radii), axis=-1)
    return near * (near - 1.0) / np.maximum(far, 1e-9)


def round_cone(points: np.ndarray, start: tuple, end: tuple, start_radius: float, end_radius: float) -> np.ndarray:
    """Approximate signed distance to a capsule whose radius runs from one end to the other. points [N, 3] -> [N]."""
    origin, axis = np.asarray(start), np.subtract(end, start)
    along = np.clip((points - origin) @ axis / (axis @ axis), 0.0, 1.0)
    centre = origin + along[..., None] * axis
    return np.linalg.norm(points - centre, axis=-1) - (start_radius + along * (end_radius - start_radius))


def polyline_distance(x: np.ndarray, y: np.ndarray, line: tuple) -> np.ndarray:
    """Distance of points (x, y) from a polyline, all in metres."""
    best = np.full(np.shape(x), np.inf)
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        best = np.minimum(best, np.hypot(x - ax - along * dx, y - ay - along * dy))
    return best


_half_width = PchipInterpolator(_SECTIONS[::-1, 0], _SECTIONS[::-1, 1])
_front = PchipInterpolator(_SECTIONS[::-1, 0], _SECTIONS[::-1, 2])
_square = PchipInterpolator(_SECTIONS[::-1, 0], _SECTIONS[::-1, 3])
_back = PchipInterpolator(_BACK[::-1, 0], _BACK[::-1, 1])
_jaw_edge = PchipInterpolator(_JAW_EDGE[:, 0], _JAW_EDGE[:, 1])


def _ring_distance(x: np.ndarray, z: np.ndarray, width: np.ndarray, depth: np.ndarray, power) -> np.ndarray:
    """Horizontal distance, along the ray from the axis, to a superellipse of half axes (width, depth)."""
    level = (np.abs(x / width) ** power + np.abs(z / depth) ** power) ** (1.0 / power)
    return np.hypot(x, z) * (1.0 - 1.0 / np.maximum(level, 1e-6))


def _closing(y: np.ndarray, start: float, power: float) -> np.ndarray:
    """How much of a section is left at height y between `start` and the crown: 1 to 0 along an ellipse."""
    along = np.clip((y - start) / (CROWN - start), 0.0, 1.0)
    return np.maximum((1.0 - along**power), 1e-6) ** (1.0 / power)


def _skull(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, z = points[:, 1], points[:, 2]
    low = np.clip(y, _SECTIONS[-1, 0], _ROUND_FROM)
    width = _half_width(low) * _closing(y, _ROUND_FROM, 2.15)
    front = _front(low) * _closing(y, _ROUND_FROM, 2.0)
    back = _back(np.clip(y, _BACK[-1, 0], _BACK_FROM)) * _closing(y, _BACK_FROM, 2.1)
    distance = np.where(
        z >= 0, _ring_distance(x, z, width, front, _square(low)), _ring_distance(x, z, width, back, 2.15)
    )
    distance = np.maximum(distance, y - CROWN)
    edge = (_jaw_edge(np.clip(z, _JAW_EDGE[0, 0], _JAW_EDGE[-1, 0])) - y) * 0.85
    return -smooth_min(-distance, -edge, 0.014 + 0.022 / (1.0 + np.exp((z + 0.005) / 0.006)))


def _relief(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, height = points[:, 1], np.zeros(len(points))
    for cx, cy, sx, sy, amount in _RELIEF:
        bell = np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
        if 0 < cx < 2 * sx:  # what crosses the midline counts once, with a smooth top there
            bell = np.maximum(bell, 0) + np.exp(-0.5 * (((x + cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
        height += amount * bell
    for line, width, depth in _GROOVES:
        height -= depth * np.exp(-0.5 * (polyline_distance(x, y, line) / width) ** 2)
    front = 1.0 / (1.0 + np.exp(-(points[:, 2] - 0.035) / 0.008))  # none of it on the back of the head
    return height * front


def _nose(points: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = np.stack([x, points[:, 1], points[:, 2]], -1)
    narrow = half * np.array([1.12, 1.0, 1.0])
    bridge = round_cone(narrow, (0, 0.012, 0.0865), (0, -0.030, 0.1115), 0.0098, 0.0105)
    tip = ellipsoid(half, (0, -0.0350, 0.1140), (0.0112, 0.0088, 0.0112))
    columella = round_cone(half, (0, -0.0420, 0.1165), (0, -0.0470, 0.1075), 0.0042, 0.0048)
    wing = ellipsoid(half, (0.0116, -0.0400, 0.1050), (0.0063, 0.0071, 0.0107))
    return bridge, smooth_min(smooth_min(tip, columella, 0.006), wing, 0.0085)


def _neck(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    half = np.stack([x, points[:, 1], points[:, 2]], -1)
    y = points[:, 1]
    lean = -0.0125 + (y + 0.14) * 0.24
    flare = 1.0 + 1.6 * np.clip(-0.16 - y, 0.0, 0.1)
    column = _ring_distance(x, points[:, 2] - lean, 0.0535 * flare, 0.0535 * flare, 2.1)
    column = np.maximum(column, y + 0.035)  # ends inside the head
    sterno = round_cone(half, (0.058, -0.050, -0.014), (0.012, -0.208, 0.024), 0.011, 0.008)
    larynx = ellipsoid(half, (0, -0.150, 0.0335), (0.009, 0.016, 0.009))
    return smooth_min(smooth_min(column, sterno, 0.012), larynx, 0.012)


def _torso(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    half = np.stack([x, points[:, 1], points[:, 2]], -1)
    slope = round_cone(half, (0.024, -0.194, -0.046), (0.150, -0.240, -0.034), 0.028, 0.036)
    shoulder = ellipsoid(half, (0.160, -0.262, -0.030), (0.050, 0.056, 0.054))
    chest = ellipsoid(half, (0, -0.330, -0.010), (0.165, 0.150, 0.092))
    collar = round_cone(half, (0.014, -0.216, 0.036), (0.125, -0.214, 0.000), 0.008, 0.008)
    return smooth_min(smooth_min(smooth_min(chest, shoulder, 0.06), slope, 0.05), collar, 0.03)


def body_field(points: np.ndarray) -> np.ndarray:
    """The field of neck and bust alone, at points [N, 3] -> [N]."""
    x = np.sqrt(np.square(points[:, 0]) + 1e-8)
    return smooth_min(_neck(points, x), _torso(points, x), 0.045)


def head_field(points: np.ndarray) -> np.ndarray:
    """The field of the whole head at points [N, 3] -> [N]."""
    x = np.sqrt(np.square(points[:, 0]) + 1e-8)
    face = _skull(points, x) - _relief(points, x)
    bridge, lower_nose = _nose(points, x)
    face = smooth_min(smooth_min(face, bridge, 0.017), lower_nose, 0.0052)
    half = np.stack([x, points[:, 1], points[:, 2]], -1)
    bulge = np.linalg.norm(half - EYE_CENTRE, axis=-1) - LID_RADIUS
    return smooth_min(smooth_min(face, bulge, 0.0045), body_field(points), 0.016)


def cast(
    origins: np.ndarray, directions: np.ndarray, reach: float, field: Field = head_field, *, first: bool = False
) -> np.ndarray:
    """Crossing of the surface along rays from inside: the outermost within `reach`, or the first on the way out.
    origins, directions [N, 3] -> points [N, 3]."""
    steps = np.linspace(0.0, reach, 48) if first else np.linspace(reach, 0.0, 48)
    outer, inner = np.full(len(origins), reach), np.zeros(len(origins))
    near, far = (inner, outer) if first else (outer, inner)
    open_rays = np.arange(len(origins))
    for before, step in itertools.pairwise(steps):
        crossed = (field(origins[open_rays] + step * directions[open_rays]) < 0) != first
        near[open_rays[crossed]], far[open_rays[crossed]] = before, step
        open_rays = open_rays[~crossed]
    for _ in range(13):
        middle = 0.5 * (outer + inner)
        inside = field(origins + middle[:, None] * directions) < 0
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
    return origins + (0.5 * (outer + inner))[:, None] * directions


def cast_front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth z of the face seen from the front at (x, y) [N] -> [N]."""
    origins = np.stack([x, y, np.full_like(x, 0.03)], -1)
    forward = np.broadcast_to(np.array([0.0, 0.0, 1.0]), origins.shape)
    return cast(origins, forward, 0.12)[:, 2]


def project(points: np.ndarray, passes: int = 2) -> np.ndarray:
    """Points near the surface brought onto it along the field's gradient. [N, 3] -> [N, 3]."""
    step = 2e-4
    for _ in range(passes):
        value = head_field(points)
        ahead = np.concatenate([points + step * axis for axis in np.eye(3)])
        gradient = (head_field(ahead).reshape(3, -1).T - value[:, None]) / step
        square = np.maximum(np.sum(gradient**2, -1), 0.05)
        points = points - np.clip(value / square, -0.002, 0.002)[:, None] * gradient
    return points
