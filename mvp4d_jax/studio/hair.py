"""Hair as geometry: locks grown from the scalp, each a tapering ribbon with the normals of a round strand.

A lock starts at a point of the scalp, follows its style's direction field and gravity, and is kept outside of head and
shoulders at a height of its own, so that locks lie over each other and the silhouette is uneven. Brows and beards are
ribbons too.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d_jax.studio import face_regions
from mvp4d_jax.studio.facial_hair import grow_beard, grow_brows
from mvp4d_jax.studio.ribbons import Ribbons, ease, on_skin, scatter, tone, unit
from mvp4d_jax.studio.surface import RadialSurface
from mvp4d_jax.studio.traits import Identity

TIE = np.array([0.0, 0.020, -0.105])  # where a ponytail is bound
BUN = np.array([0.0, 0.075, -0.088])


@dataclasses.dataclass(frozen=True)
class Style:
    """How a style grows.

    Attributes:
      locks, points: how many ribbons, and points along each.
      length: shortest and longest, metres; front: factor for locks that start over the forehead.
      width: metres; volume: height of the outermost layer over the scalp.
      flow: direction field, one of "down", "back", "part", "radial", "cloud", "forward", "tie", "bun".
      gravity: 0 stays in the field, 1 falls.
      curl: radius of curls, metres; turns: per metre.
      spread: how much neighbours differ in direction.
      cut: height at which scissors stop, metres; None leaves the length as drawn.
      tip: width of a lock's end, as a share.
    """

    locks: int
    points: int
    length: tuple[float, float]
    width: float
    volume: float
    flow: str
    front: float = 1.0
    gravity: float = 0.5
    curl: float = 0.0
    turns: float = 0.0
    spread: float = 0.15
    cut: float | None = None
    tip: float = 0.15


STYLES = {
    "buzz": Style(2600, 3, (0.005, 0.008), 0.0045, 0.004, "radial", 1.0, 0.0, 0.0, 0.0, 0.5),
    "crop": Style(2200, 4, (0.018, 0.030), 0.0060, 0.010, "forward", 1.0, 0.25, 0.0, 0.0, 0.35),
    "short": Style(1800, 5, (0.035, 0.060), 0.0080, 0.017, "back", 1.1, 0.25, 0.002, 20.0, 0.30),
    "side part": Style(1500, 6, (0.060, 0.100), 0.0090, 0.020, "part", 1.1, 0.45, 0.0, 0.0, 0.15, -0.055),
    "fringe": Style(1300, 7, (0.06, 0.24), 0.0100, 0.018, "down", 0.50, 0.7, 0.0, 0.0, 0.08, -0.085, 0.4),
    "bob": Style(1150, 8, (0.05, 0.26), 0.0110, 0.022, "part", 1.0, 0.9, 0.001, 12.0, 0.06, -0.105, 0.5),
    "long": Style(950, 10, (0.12, 0.40), 0.0120, 0.020, "part", 1.0, 1.0, 0.002, 9.0, 0.06, -0.25, 0.35),
    "wavy": Style(950, 10, (0.10, 0.33), 0.0125, 0.026, "part", 1.0, 1.0, 0.009, 14.0, 0.10, -0.18, 0.35),
    "curly": Style(1850, 5, (0.040, 0.062), 0.0098, 0.042, "cloud", 0.8, 0.9, 0.0070, 26.0, 0.5, None, 0.7),
    "afro": Style(2650, 4, (0.024, 0.034), 0.0085, 0.054, "cloud", 0.9, 0.0, 0.0045, 44.0, 0.9, None, 0.6),
    "ponytail": Style(1000, 8, (0.25, 0.32), 0.0110, 0.008, "tie", 1.0, 0.2, 0.0, 0.0, 0.03),
    "bun": Style(1000, 8, (0.25, 0.32), 0.0110, 0.008, "bun", 1.0, 0.2, 0.0, 0.0, 0.03),
}


def grow(
    identity: Identity,
    vertices: np.ndarray,
    canonical: np.ndarray,
    faces: np.ndarray,
    surface: RadialSurface,
    torso: RadialSurface,
    rng: np.random.Generator,
) -> list[Ribbons]:
    """All hair of a person: scalp, brows, lashes, beard.

    Args:
      vertices: [N, 3] the person at rest; canonical: [N, 3] the head before identity; faces: [T, 3] of the skin.
      surface, torso: of the person's head and shoulders, around the middle of each.
    """
    parts = [grow_brows(identity, vertices, canonical, faces, rng)]
    if identity.beard not in ("none", "stubble"):
        parts.append(grow_beard(identity, vertices, canonical, faces, rng))
    if identity.style in STYLES:
        parts += _scalp_hair(identity, STYLES[identity.style], vertices, canonical, faces, surface, torso, rng)
    return parts


def _scalp_hair(
    identity: Identity,
    style: Style,
    vertices: np.ndarray,
    canonical: np.ndarray,
    faces: np.ndarray,
    surface: RadialSurface,
    torso: RadialSurface,
    rng: np.random.Generator,
) -> list[Ribbons]:
    recede = 0.018 * max(0.0, identity.age - 0.35) * (identity.beard != "none" or rng.random() < 0.3)
    weights = face_regions.scalp(canonical, recede)
    face, weight = scatter(weights, vertices, faces, style.locks, rng)
    roots, normals = on_skin(face, weight, vertices, faces)
    rest, _ = on_skin(face, weight, canonical, faces)
    count = style.locks
    layer = rng.random(count) ** 0.7
    turn = face_regions.azimuth(rest)
    length = rng.uniform(*style.length, count)
    if style.cut is not None:
        length = np.clip((rest[:, 1] - style.cut) * 1.12 + 0.02, *style.length) * rng.uniform(0.9, 1.04, count)
    over_brow = ease((0.75 - turn) / 0.4) * ease((rest[:, 1] - 0.03) / 0.03)
    length *= 1 + (style.front - 1) * over_brow
    if style.flow in ("back", "forward", "radial", "part") and style.length[1] < 0.12:
        length *= 0.45 + 0.55 * ease((rest[:, 1] + 0.02) / 0.07)  # shorter at the nape and the temples
    if style.flow in ("tie", "bun"):
        return _bound_hair(identity, style, roots, layer, surface, rng)
    part = float(rng.choice([-1, 1]) * rng.uniform(0.012, 0.034)) if rng.random() < 0.75 else 0.0
    lift = identity.volume * style.volume * (0.25 + 0.75 * layer)
    free = over_brow > 0.2 if style.front < 0.8 else np.zeros(count, bool)
    if style.flow == "cloud":
        points = _cloud(style, roots, length, lift, surface, rng)
    else:
        points = _follow(style, roots, normals, rest, length, lift, part, free, surface, torso, rng)
    if style.curl:
        points = _curl(points, style, surface, lift, rng)
    along = np.linspace(0, 1, style.points)
    width = style.width * rng.uniform(0.7, 1.3, (count, 1)) * np.minimum(1.0, 0.55 + 2 * along)
    width *= np.maximum(np.clip((1.04 - along) / 0.30, 0.0, 1.0), style.tip)
    colour = tone(identity, count, rng, 0.13) * (0.72 + 0.28 * layer[:, None])
    gloss = np.full(count, {"radial": 0.4, "cloud": 0.3}.get(style.flow, 1.0))
    return [Ribbons(points, width, points - surface.centre, rng.random(count), colour, gloss, np.zeros(count, bool))]


def _direction(style: Style, points: np.ndarray, roots: np.ndarray, part: float, free: np.ndarray) -> np.ndarray:
    """[R, 3] where hair wants to grow at `points`, before gravity."""
    down = np.array([0.0, -1.0, 0.0])
    crown = points - np.array([0.0, 0.10, -0.045])
    if style.flow == "radial":
        return crown * 0.0
    if style.flow == "back":
        side = np.sign(points[:, :1]) * np.array([0.25, 0.0, 0.0])
        top = ease((roots[:, 1:2] - 0.02) / 0.05)
        return top * (np.array([0.0, 0.15, -1.0]) + side) + (1 - top) * np.array([0.0, -0.8, -0.45])
    if style.flow == "forward":
        return unit(crown) + np.array([0.0, -0.3, 0.5])
    if style.flow == "part":
        over = ease((points[:, 1:2] - 0.01) / 0.06)
        side = np.tanh((roots[:, :1] - part) / 0.006)
        sideways = np.concatenate([side, -0.15 + 0 * side, -0.30 + 0 * side], -1)
        behind = ease((-roots[:, 2:3] - 0.02) / 0.05)
        return over * ((1 - behind) * sideways + behind * (unit(crown) * 0.6 + down)) + (1 - over) * down
    fall = unit(crown * np.array([1.0, 0.2, 1.0])) * 0.8 + down
    ahead = unit(crown * np.array([0.4, 0.0, 1.0])) + down * 0.6
    return np.where(free[:, None], ahead, fall)


def _follow(
    style: Style,
    roots: np.ndarray,
    normals: np.ndarray,
    rest: np.ndarray,
    length: np.ndarray,
    lift: np.ndarray,
    part: float,
    free: np.ndarray,
    surface: RadialSurface,
    torso: RadialSurface,
    rng: np.random.Generator,
) -> np.ndarray:
    """Centre lines [R, K, 3]."""
    count = len(roots)
    step = (length / (style.points - 1))[:, None]
    jitter = rng.normal(0, style.spread, (count, 3))
    hangs = style.cut is not None
    points = [roots - 0.001 * normals]
    for k in range(1, style.points):
        here = points[-1]
        outward = unit(here - surface.centre)
        want = _direction(style, here, roots, part, free) + jitter
        if style.flow == "radial":
            want = outward * (1.4 - style.gravity) + jitter * 1.2
        want = want + np.array([0.0, -1.0, 0.0]) * style.gravity * (k / style.points)
        want = want - outward * np.minimum(np.sum(want * outward, -1, keepdims=True), 0)
        rise = 0.8 if k == 1 else 0.12
        ahead = here + step * unit(unit(want) + rise * outward * (style.flow != "radial"))
        climb = np.minimum(1.0, 0.35 + 0.65 * k / max(2.0, 0.35 * style.points))
        tuck = 1.0 - 0.35 * ease((k / (style.points - 1) - 0.7) / 0.3) * (style.flow in ("part", "down"))
        ahead = surface.push_out(ahead, lift * climb * tuck)
        if hangs:
            ahead = _clear_face(ahead, free)
        ahead = _settle(ahead, lift * climb * tuck, surface, style)
        low = ahead[:, 1:2] < -0.11
        points.append(np.where(low, torso.push_out(ahead, 0.010 + 0.4 * lift), ahead))
    return np.stack(points, 1)


def _cloud(
    style: Style,
    roots: np.ndarray,
    length: np.ndarray,
    lift: np.ndarray,
    surface: RadialSurface,
    rng: np.random.Generator,
) -> np.ndarray:
    """Locks of frizzy hair: short arcs at every height of a soft ball around the scalp, [R, K, 3]."""
    outward = unit(roots - surface.centre)
    start = roots + outward * np.maximum(lift - 0.35 * length, 0.0)[:, None]
    tangent = unit(np.cross(outward, rng.normal(0, 1, roots.shape)))
    tangent[:, 1] -= style.gravity
    toward = unit(outward * (0.8 - 0.5 * style.gravity) + style.spread * tangent)
    along = np.linspace(0, 1, style.points)[None, :, None] * length[:, None, None]
    return start[:, None] + along * toward[:, None]


def _settle(points: np.ndarray, height: np.ndarray, surface: RadialSurface, style: Style) -> np.ndarray:
    """Keeps points outside of the head, and, down to the ears, from standing off it farther than their layer."""
    offset = points - surface.centre
    radius = np.maximum(np.linalg.norm(offset, axis=-1), 1e-9)
    ground = surface.radius(points)
    most = ground + height * 1.25 + 0.003 + 0.25 * np.maximum(-0.01 - points[:, 1], 0.0)
    if style.flow == "radial":
        most = most + 1.0
    wanted = np.clip(radius, ground + 0.8 * height, most)
    return surface.centre + offset * (wanted / radius)[:, None]


def _clear_face(points: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Turns points that hang before the face to its side; locks that are `free` may cover the forehead."""
    turn, y = face_regions.azimuth(points), points[:, 1]
    low = np.where(free, 0.024, 0.064)
    keep = 1.12 * ease((low - y) / np.where(free, 0.024, 0.050))
    keep = np.where(y < -0.105, np.maximum(keep - 4.0 * (-0.105 - y), 0.55), keep)
    target = np.maximum(turn, keep)
    radius = np.hypot(points[:, 0], points[:, 2])
    side = np.where(points[:, 0] >= 0, 1.0, -1.0)
    return np.stack([side * radius * np.sin(target), y, radius * np.cos(target)], -1)


def _curl(
    points: np.ndarray, style: Style, surface: RadialSurface, lift: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Winds centre lines into helices that open up along their length."""
    count, number, _ = points.shape
    tangent = unit(np.gradient(points, axis=1))
    outward = unit(points - surface.centre)
    side = unit(np.cross(tangent, outward))
    travelled = np.concatenate([np.zeros((count, 1)), np.linalg.norm(np.diff(points, axis=1), axis=-1).cumsum(1)], 1)
    group = np.round(face_regions.azimuth(points[:, 0]) * 9) + np.sign(points[:, 0, 0]) * 31
    phase = (group * 2.4 + rng.normal(0, 0.9, count))[:, None] + travelled * style.turns * 2 * np.pi
    opening = np.minimum(1.0, 2.5 * np.linspace(0, 1, number)) * style.curl * rng.uniform(0.6, 1.3, (count, 1))
    wound = points + (np.cos(phase) * opening)[..., None] * side + (np.sin(phase) * opening)[..., None] * outward * 0.8
    return surface.push_out(wound, (0.25 * lift)[:, None])


def _bound_hair(
    identity: Identity,
    style: Style,
    roots: np.ndarray,
    layer: np.ndarray,
    surface: RadialSurface,
    rng: np.random.Generator,
) -> list[Ribbons]:
    """Hair combed to a tie, and the tail or the bun behind it."""
    knot = TIE if style.flow == "tie" else BUN
    knot = surface.push_out(knot[None], 0.006)[0]
    count = len(roots)
    along = np.linspace(0, 1, style.points)
    aim = unit(roots - surface.centre)[:, None] * (1 - along[:, None]) + unit(knot - surface.centre) * along[:, None]
    reach = (
        np.linalg.norm(roots - surface.centre, axis=-1)[:, None] * (1 - along)
        + np.linalg.norm(knot - surface.centre) * along
    )
    points = surface.centre + unit(aim) * reach[..., None]
    arch = np.sin(np.pi * np.clip(along * 1.05, 0, 1)) * 0.7 + 0.3 * np.minimum(along * 6, 1)
    points = surface.push_out(points, identity.volume * style.volume * (0.3 + 0.7 * layer[:, None]) * arch)
    points[:, -1] = knot + (points[:, -2] - knot) * 0.12
    width = style.width * rng.uniform(0.7, 1.3, (count, 1)) * (1 - 0.6 * along**2)
    combed = Ribbons(
        points,
        width,
        points - surface.centre,
        rng.random(count),
        tone(identity, count, rng, 0.12),
        np.full(count, 1.2),
        np.zeros(count, bool),
    )
    behind = (
        _tail(identity, style, knot, surface, rng) if style.flow == "tie" else _bun(identity, style, knot, surface, rng)
    )
    return [combed, behind]


def _tail(
    identity: Identity, style: Style, knot: np.ndarray, surface: RadialSurface, rng: np.random.Generator
) -> Ribbons:
    count, number = 220, style.points
    along = np.linspace(0, 1, number)
    length = rng.uniform(0.75, 1.0, (count, 1)) * rng.uniform(*style.length)
    disc = rng.normal(0, 1, (count, 1, 2))
    disc = disc / np.maximum(np.linalg.norm(disc, axis=-1, keepdims=True), 1.0)
    thick = (0.010 + 0.020 * np.sin(np.pi * np.minimum(along * 1.2 + 0.05, 1.0)) ** 0.7)[None, :, None]
    back = 0.055 * np.sqrt(along)[None] * np.ones((count, 1))
    fall = length * along - 0.012 * np.sin(np.pi * np.minimum(along * 4, 1.0))
    centre = knot + np.stack([np.zeros_like(fall), -fall, -back], -1)
    sway = 0.006 * np.sin(along * 7 + rng.uniform(0, 6))
    centre[..., 0] += sway
    points = centre + np.concatenate([disc[..., :1] * thick, np.zeros((count, number, 1)), disc[..., 1:] * thick], -1)
    points = surface.push_out(points, 0.006)
    width = style.width * rng.uniform(0.6, 1.1, (count, 1)) * np.clip((1.03 - along) / 0.4, 0.1, 1.0)
    outward = points - centre + np.array([0, 0.0, -0.01])
    return Ribbons(
        points,
        width,
        outward,
        rng.random(count),
        tone(identity, count, rng, 0.15),
        np.ones(count),
        np.zeros(count, bool),
    )


def _bun(
    identity: Identity, style: Style, knot: np.ndarray, surface: RadialSurface, rng: np.random.Generator
) -> Ribbons:
    count, number, radius = 220, style.points, 0.030 * rng.uniform(0.85, 1.2)
    axis = unit(knot - surface.centre)
    first = unit(np.cross(axis, np.array([1.0, 0.0, 0.0])))
    second = np.cross(axis, first)
    start, tilt = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(-1, 1, (count, 1))
    turn = start + np.linspace(0, 2.2, number)
    polar = np.arccos(np.clip(tilt, -1, 1)) + 0.35 * np.sin(turn * 1.5 + tilt * 3)
    ball = np.cos(polar)[..., None] * axis * 0.8 + np.sin(polar)[..., None] * (
        np.cos(turn)[..., None] * first + np.sin(turn)[..., None] * second
    )
    centre = knot + axis * radius * 0.7
    points = centre + ball * radius * rng.uniform(0.85, 1.08, (count, 1, 1))
    width = np.broadcast_to(style.width * np.sin(np.pi * np.linspace(0.1, 0.9, number)), (count, number))
    return Ribbons(
        points,
        width,
        points - centre,
        rng.random(count),
        tone(identity, count, rng, 0.15),
        np.ones(count),
        np.zeros(count, bool),
    )
