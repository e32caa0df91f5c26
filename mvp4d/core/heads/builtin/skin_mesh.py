"""The skin of the built-in head: topology in a flat domain, places on the field of `field.py`.

The domain unrolls the head around its axis: `across` is the angle from the midline of the face times a radius, `down`
runs from the crown over face, chin and throat to the bust. One half is triangulated and mirrored, so that left and
right correspond exactly. Around eyes, mouth and nostrils the mesh runs in rings, so that lids close and lips part.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial import Delaunay

from mvp4d.core.heads.builtin.field import body_field, cast, cast_front, head_field, project
from mvp4d.core.heads.builtin.measures import (
    EYE_CENTRE,
    EYE_RADIUS,
    INNER_CANTHUS,
    LID_RADIUS,
    MOUTH_HALF_WIDTH,
    OUTER_CANTHUS,
)
from mvp4d.core.ramps import smoothstep

WRAP_RADIUS = 0.090
# Rays that find the surface: down, origin height, origin depth, elevation in degrees.
_ROWS = np.array(
    [
        [0.200, 0.020, 0.000, 90.0],
        [0.055, 0.055, 0.000, 0.0],
        [-0.088, -0.088, 0.000, 0.0],
        [-0.115, -0.088, 0.000, -15.0],
        [-0.165, -0.080, -0.010, -50.0],
        [-0.240, -0.1720, -0.030, 0.0],
        [-0.262, -0.2244, -0.030, 30.0],
        [-0.276, -0.2610, -0.030, 45.0],
        [-0.294, -0.3236, -0.030, 60.0],
        [-0.400, -0.3236, -0.030, 8.0],
    ]
)[::-1]

_THROAT = -0.140  # below this rays end where they first leave the body, above at its outermost crossing
_BUST = -0.236  # below this no ray may meet the chin

EYE_POINTS = 36
EYE_STEPS = np.array([0.0, 0.09, 0.19, 0.30, 0.41, 0.53, 0.70, 1.0])  # from lid margin to the rim of the socket
LIP_POINTS = 15  # from the midline to the corner, upper and lower each
LIP_STEPS = np.array([0.0, 0.16, 0.38, 0.70, 1.0])  # from the contact line to the vermilion border
SURROUND_STEPS = np.array([0.16, 0.38, 0.66, 1.0])  # from there to the outermost ring of the mouth
NOSTRIL_POINTS = 14


@dataclasses.dataclass
class Patch:
    """A piece of mesh under construction: vertices [n, 3], triangles [t, 3], domain or uv points [n, 2]."""

    vertices: np.ndarray
    faces: np.ndarray
    flat: np.ndarray
    tags: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def grid_faces(rows: np.ndarray, closed: bool) -> np.ndarray:
    """Triangles between successive rows of vertex indices [R, C]; `closed` joins the last column to the first."""
    if closed:
        rows = np.concatenate([rows, rows[:, :1]], 1)
    a, b, c, d = rows[:-1, :-1], rows[:-1, 1:], rows[1:, 1:], rows[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def lid_curves(along: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights of the upper margin, the lower margin and the closing line at `along` in [0, 1] from inner to outer
    canthus."""
    base = INNER_CANTHUS[1] + along * (OUTER_CANTHUS[1] - INNER_CANTHUS[1])
    arch = np.maximum(4 * along * (1 - along), 0.0)
    upper = base + 0.0064 * arch**0.72 * (1.0 + 0.14 * (1 - 2 * along))
    lower = base - 0.0040 * arch**0.80 * (1.0 - 0.16 * (1 - 2 * along))
    return upper, lower, base - 0.0026 * arch**0.8


def lid_rings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y) of the rings of lid skin with the eye open [K, P, 2], the way of each margin point to the closing line in
    y [P], and how far each ring goes along [K, P]."""
    angle = 2 * np.pi * np.arange(EYE_POINTS) / EYE_POINTS
    cos, upper_half = np.cos(angle), np.sin(angle) >= 0
    along = 0.5 + 0.5 * np.sign(cos) * np.abs(cos) ** 0.92
    x = INNER_CANTHUS[0] + along * (OUTER_CANTHUS[0] - INNER_CANTHUS[0])
    upper, lower, closing = lid_curves(along)
    margin = np.stack([x, np.where(upper_half, upper, lower)], -1)
    outer = np.stack([0.0312 + 0.0216 * cos, 0.0005 + np.where(upper_half, 0.0160, 0.0150) * np.sin(angle)], -1)
    step = EYE_STEPS[:, None, None]
    opened = margin + step * (outer - margin)
    follow = np.where(
        upper_half, 1 - smoothstep(EYE_STEPS[:, None], 0.05, 0.62), 1 - smoothstep(EYE_STEPS[:, None], 0.05, 0.85)
    )
    return opened, closing - margin[:, 1], follow


def lip_curves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contact line, vermilion border and outermost ring: polylines [2m + 1, 2] from the upper to the lower midline."""
    share = np.sin(0.5 * np.pi * np.arange(LIP_POINTS + 1) / LIP_POINTS) ** 0.95
    contact_line = PchipInterpolator([0, 0.30, 0.65, 1.0], [-0.0692, -0.0686, -0.0687, -0.0693])
    upper_border = PchipInterpolator(
        [0, 0.12, 0.25, 0.40, 0.75, 1.0], [-0.0615, -0.0610, -0.0602, -0.0610, -0.0655, -0.0689]
    )
    lower_border = PchipInterpolator([0, 0.35, 0.70, 1.0], [-0.0785, -0.0779, -0.0749, -0.0697])
    x = MOUTH_HALF_WIDTH * share
    contact = np.stack([x, contact_line(share)], -1)
    gap = 0.00006 * (1 - share)[:, None] * np.array([0, 1])
    border_x = x * 1.06
    upper = np.stack([border_x, upper_border(share)], -1)
    lower = np.stack([border_x, lower_border(share)], -1)
    contact = np.concatenate([contact + gap, (contact - gap)[-2::-1]])
    corner = 0.5 * (upper[-1] + lower[-1])
    border = np.concatenate([upper[:-1], corner[None], lower[-2::-1]])
    turn = 0.5 * np.pi * np.arange(2 * LIP_POINTS + 1) / LIP_POINTS
    reach = np.where(turn < 0.5 * np.pi, 0.0175, 0.0225)
    outer = np.stack([0.0385 * np.sin(turn), -0.0695 + reach * np.cos(turn)], -1)
    return contact, border, outer


def place(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Points of the surface at domain positions. [N], [N] -> [N, 3]."""
    height, depth, degrees = (np.interp(down, _ROWS[:, 0], _ROWS[:, k]) for k in (1, 2, 3))
    angle, elevation = across / WRAP_RADIUS, np.radians(degrees)
    origins = np.stack([np.zeros_like(down), height, depth], -1)
    flat = np.cos(elevation)
    directions = np.stack([np.sin(angle) * flat, np.sin(elevation), np.cos(angle) * flat], -1)
    points = np.empty_like(origins)
    for rows, field, reach, first in (
        (down >= _THROAT, head_field, 0.16, False),
        ((down < _THROAT) & (down >= _BUST), head_field, 0.16, True),
        (down < _BUST, body_field, 0.34, True),
    ):
        points[rows] = cast(origins[rows], directions[rows], reach, field, first=first)
    points[np.abs(across) < 1e-9, 0] = 0.0
    points[np.abs(angle - np.pi) < 1e-9, 0] = 0.0
    return points


def to_domain(points: np.ndarray) -> np.ndarray:
    """Domain position of points of the face (where rays run level). [..., 3] -> [..., 2]."""
    return np.stack([np.arctan2(points[..., 0], points[..., 2]) * WRAP_RADIUS, points[..., 1]], -1)


def _lid_depth(flat: np.ndarray) -> np.ndarray:
    return cast_front(flat[..., 0].ravel(), flat[..., 1].ravel()).reshape(flat.shape[:-1])


def lid_pose(upper: float, lower: float) -> np.ndarray:
    """Lid rings of the left eye [K + 2, P, 3], from the lining inside the lid outwards, upper and lower lid moved by
    a share of their way to the closing line (0 open, 1 closed, below 0 wider)."""
    flat, way, follow = lid_rings()
    upper_half = np.sin(2 * np.pi * np.arange(EYE_POINTS) / EYE_POINTS) >= 0
    flat = flat.copy()
    flat[..., 1] += follow * way * np.where(upper_half, upper, lower)
    rings = np.concatenate([flat, _lid_depth(flat)[..., None]], -1)
    crease = np.exp(-0.5 * ((EYE_STEPS - 0.41) / 0.07) ** 2)[:, None] * np.where(upper_half, 0.0013, 0.0)
    arch = np.sin(np.pi * np.arange(EYE_POINTS) * 2 / EYE_POINTS) ** 2
    rings[..., 2] -= crease * arch * np.clip(1.0 - upper, 0.0, 1.2)
    return np.concatenate([_lid_lining(rings[0]), rings])


def _lid_lining(margin: np.ndarray) -> np.ndarray:
    """Two rings behind a lid margin [P, 3]: its inner edge on the eyeball and a lining above it. -> [2, P, 3]."""
    offset = margin - EYE_CENTRE
    distance = np.linalg.norm(offset, axis=-1, keepdims=True)
    edge = EYE_CENTRE + offset * np.minimum(1.0, (EYE_RADIUS + 0.00025) / distance)
    edge = np.where(distance > LID_RADIUS + 0.0012, margin - np.array([0, 0, 0.0012]), edge)
    # The lining dips into the eyeball, above the margin or, in the corners, on the way back from there: no gap shows.
    flat = edge[:, :2] - EYE_CENTRE[:2]
    reach = np.linalg.norm(flat, axis=-1, keepdims=True)
    target = np.minimum(reach + 0.0022, 0.0104)
    flat = flat / reach * target
    depth = np.sqrt((EYE_RADIUS - 0.0014) ** 2 - target**2)
    back = EYE_CENTRE + np.concatenate([flat, depth], -1)
    return np.stack([back, edge])


def lip_rings() -> np.ndarray:
    """Lip rings [K, 2m + 1, 3] from the contact line outwards."""
    contact, border, outer = lip_curves()
    flat = [contact + step * (border - contact) for step in LIP_STEPS]
    flat += [border + step * (outer - border) for step in SURROUND_STEPS]
    flat = np.array(flat)
    rings = np.concatenate(
        [flat, cast_front(flat[..., 0].ravel(), flat[..., 1].ravel()).reshape(flat.shape[:-1])[..., None]], -1
    )
    upper = np.array([-0.0022, 0.0012, 0.0026, 0.0020, 0.0006, 0.0001, 0, 0, 0])
    lower = np.array([-0.0022, 0.0012, 0.0028, 0.0022, 0.0002, -0.0003, -0.0001, 0, 0])
    index = np.arange(2 * LIP_POINTS + 1)
    full = np.maximum(1 - (contact[:, 0] / (MOUTH_HALF_WIDTH * 1.02)) ** 2, 0.0) ** 0.55
    profile = np.where(index <= LIP_POINTS, upper[:, None], lower[:, None])
    # The contact line lies in the groove between the lips up to the corner; the bulge fades towards it.
    rings[..., 2] += np.where(np.arange(9)[:, None] == 0, profile * (0.55 + 0.45 * full), profile * full)
    rings[:, 0, 0] = rings[:, -1, 0] = 0.0
    return rings


def nostril_rings() -> np.ndarray:
    """Rings of the left nostril [4, P, 3] from the opening inwards."""
    angle = 2 * np.pi * np.arange(NOSTRIL_POINTS) / NOSTRIL_POINTS
    local = np.stack([0.0034 * np.cos(angle), 0.0023 * np.sin(angle)], -1)
    tilt = np.radians(-28.0)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    flat = np.array([0.0068, -0.0447]) + local @ turn.T
    rim = np.concatenate([flat, cast_front(flat[:, 0], flat[:, 1])[:, None]], -1)
    centre = rim.mean(0)
    rings = [rim]
    for shrink, rise, back in ((0.86, 0.0012, 0.0006), (0.75, 0.0045, 0.0022), (0.45, 0.0085, 0.0045)):
        rings.append(centre + (rim - centre) * shrink + np.array([0.0004, rise, -back]))
    return np.array(rings)


def _spaced(low: float, high: float, spacing: float) -> np.ndarray:
    return np.linspace(low, high, max(round((high - low) / spacing), 1) + 1)


def _grid_points() -> np.ndarray:
    """Free points of half the domain [N, 2]: dense on nose and face, coarse on skull and bust."""
    edge = np.pi * WRAP_RADIUS
    blocks = [
        (0.0, 0.0225, -0.0515, -0.026, 0.0017, 0.0015),
        (0.0, 0.0225, -0.026, 0.012, 0.0022, 0.0029),
        (0.0, 0.078, -0.128, 0.048, 0.0040, 0.0040),
        (0.078, 0.150, -0.128, 0.048, 0.0080, 0.0072),
        (0.150, edge, -0.128, 0.048, 0.0120, 0.0100),
        (0.0, 0.078, 0.048, 0.120, 0.0085, 0.0080),
        (0.078, edge, 0.048, 0.120, 0.0120, 0.0100),
        (0.0, edge, 0.120, 0.170, 0.0200, 0.0110),
        (0.0, edge, 0.170, 0.192, 0.0404, 0.0110),
        (0.0, 0.100, -0.180, -0.128, 0.0070, 0.0060),
        (0.100, edge, -0.180, -0.128, 0.0120, 0.0090),
        (0.0, edge, -0.245, -0.180, 0.0101, 0.0085),
        (0.0, edge, -0.400, -0.245, 0.0086, 0.0110),
    ]
    points: list[np.ndarray] = []
    for left, right, low, high, step_across, step_down in blocks:
        across, down = np.meshgrid(_spaced(left, right, step_across), _spaced(low, high, step_down))
        block = np.stack([across.ravel(), down.ravel()], -1)
        for other in points:
            near = np.abs(block[:, None] - other[None])
            crowded = ((near[..., 0] < 0.42 * step_across) & (near[..., 1] < 0.42 * step_down)).any(1)
            block = block[~crowded]
        inside = np.zeros(len(block), bool)
        for l2, r2, lo2, hi2, *_ in blocks[: blocks.index((left, right, low, high, step_across, step_down))]:
            inside |= (block[:, 0] > l2 - 1e-9) & (block[:, 0] < r2 - 1e-9) & (block[:, 1] > lo2) & (block[:, 1] < hi2)
        points.append(block[~inside])
    return np.concatenate(points)


def _inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Even-odd test. points [N, 2], polygon [P, 2] -> [N] bool."""
    start, end = polygon, np.roll(polygon, -1, 0)
    x, y = points[:, :1], points[:, 1:]
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = start[:, 0] + (y - start[:, 1]) / (end[:, 1] - start[:, 1]) * (end[:, 0] - start[:, 0])
    return (np.sum(crosses & (x < at), 1) % 2).astype(bool)


def _near_polygon(points: np.ndarray, polygon: np.ndarray, margin: float) -> np.ndarray:
    start, end = polygon, np.roll(polygon, -1, 0)
    span = end - start
    offset = points[:, None] - start[None]
    along = np.clip(np.sum(offset * span, -1) / np.maximum(np.sum(span * span, -1), 1e-12), 0, 1)
    return (np.linalg.norm(offset - along[..., None] * span, axis=-1) < margin).any(1)


def build_half() -> Patch:
    """The half of the skin with x >= 0, rings first. Tags: index arrays of rings by name, and the crown vertex."""
    eye_open = lid_pose(0.0, 0.0)
    lips, nostril = lip_rings(), nostril_rings()
    holes = [to_domain(eye_open[-1]), to_domain(lips[-1]), to_domain(nostril[0])]
    free = _grid_points()
    for hole, margin in zip(holes, (0.0022, 0.0022, 0.0007), strict=True):
        free = free[~(_inside_polygon(free, hole) | _near_polygon(free, hole, margin))]
    vertices, flats, tags, count = [], [], {}, 0
    for name, rings in (("eye", eye_open), ("lips", lips), ("nostril", nostril)):
        tags[name] = count + np.arange(rings[..., 0].size).reshape(rings.shape[:2])
        vertices.append(rings.reshape(-1, 3))
        flats.append(to_domain(rings).reshape(-1, 2))
        count += rings[..., 0].size
    tags["free"] = count + np.arange(len(free))
    vertices.append(place(free[:, 0], free[:, 1]))
    flats.append(free)
    count += len(free)
    crown = place(np.zeros(1), np.array([0.2]))
    crown[:, 0] = 0
    vertices.append(crown)
    flats.append(np.array([[0.5 * np.pi * WRAP_RADIUS, 0.2]]))
    tags["crown"], tags["nostril_end"] = np.array([count]), np.array([count + 1])
    vertices.append(nostril[-1].mean(0, keepdims=True) + np.array([0.0, 0.0010, 0.0]))
    flats.append(holes[2].mean(0, keepdims=True))
    vertices, flat = np.concatenate(vertices), np.concatenate(flats)
    _seal_lips(vertices, tags["lips"][0])
    faces = [_fill(flat, tags, holes)]
    faces.append(grid_faces(tags["eye"], True)[:, ::-1])
    faces.append(grid_faces(tags["lips"], False))
    faces.append(grid_faces(tags["nostril"], True))
    deepest = tags["nostril"][-1]
    faces.append(np.stack([deepest, np.roll(deepest, -1), np.full(NOSTRIL_POINTS, tags["nostril_end"][0])], -1))
    top = tags["free"][free[:, 1] > 0.192 - 1e-6]
    top = top[np.argsort(flat[top, 0])]
    faces.append(np.stack([np.full(len(top) - 1, tags["crown"][0]), top[:-1], top[1:]], -1))
    faces = np.concatenate(faces)
    return Patch(_relax(vertices, faces, tags, flat), faces, flat, tags)


def _seal_lips(vertices: np.ndarray, contact: np.ndarray) -> None:
    """Lets the lips overlap by a hair where they meet, so that no light falls between them."""
    index = np.arange(len(contact))
    vertices[contact, 1] -= 0.00025 * np.clip((LIP_POINTS - index) / 3.0, -1.0, 1.0)


def _relax(vertices: np.ndarray, faces: np.ndarray, tags: dict, flat: np.ndarray) -> np.ndarray:
    """Evens out the free vertices along the surface: most at the base of the neck, where rays of successive rows meet
    at narrow angles. The midline stays on the midline, the lower edge of the bust stays put."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    free = tags["free"]
    neck = free[(flat[free, 1] < -0.150) & (flat[free, 1] > -0.285)]
    free = free[vertices[free, 1] > vertices[free, 1].min() + 0.03]
    vertices = vertices.copy()
    for chosen, passes in ((free, 5), (neck, 25)):
        mine = edges[np.isin(edges[:, 0], chosen)]
        degree = np.bincount(mine[:, 0], minlength=len(vertices))[chosen, None]
        middle = vertices[chosen, 0] == 0.0
        for _ in range(passes):
            total = [np.bincount(mine[:, 0], vertices[mine[:, 1], k], len(vertices))[chosen] for k in range(3)]
            moved = 0.5 * vertices[chosen] + 0.5 * np.stack(total, -1) / degree
            # A neighbour across the midline mirrors one on this side: the sideways pull cancels there.
            moved[middle, 0] = 0.0
            moved = project(moved, passes=1)
            moved[middle, 0] = 0.0
            vertices[chosen] = moved
    return vertices


def _fill(flat: np.ndarray, tags: dict, holes: list[np.ndarray]) -> np.ndarray:
    """Delaunay triangles between the outermost rings and the free points, holes left open, counter-clockwise."""
    used = np.concatenate([tags["eye"][-1], tags["lips"][-1], tags["nostril"][0], tags["free"]])
    # Sheared a little: the corners of a rectangle lie on one circle, and rounding would choose its diagonal.
    simplices = Delaunay(flat[used] @ np.array([[1.0, 0.0], [0.06, 1.0]])).simplices
    centre = flat[used][simplices].mean(1)
    keep = ~np.any([_inside_polygon(centre, hole) for hole in holes], 0)
    faces = used[simplices[keep]]
    a, b, c = (flat[faces[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    faces = faces[np.abs(area) > 1e-12]
    area = area[np.abs(area) > 1e-12]
    return np.where(area[:, None] > 0, faces, faces[:, ::-1])
