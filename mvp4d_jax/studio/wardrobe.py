"""Clothes and glasses: a garment laid over the shoulders, and frames of round wire or thick plastic."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d_jax.studio.skin_texture import Noise
from mvp4d_jax.studio.surface import RadialSurface
from mvp4d_jax.studio.traits import Identity

TORSO = np.array([0.0, -0.250, -0.030])
_AROUND, _DOWN = 96, 16
_SIDES = 6


@dataclasses.dataclass
class Piece:
    """A mesh of one colour. vertices, normals [n, 3]; faces [t, 3]; uv [n, 2]; colour [3]; gloss."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    colour: tuple[float, float, float]
    gloss: float


def dress(identity: Identity, surface: RadialSurface, rng: np.random.Generator) -> list[Piece]:
    """Garment and collar. `surface`: of the person, around TORSO."""
    if identity.neckline == "bare":
        return []
    turn = np.linspace(-np.pi, np.pi, _AROUND, endpoint=False)
    front, back = np.maximum(np.cos(turn), 0), np.maximum(-np.cos(turn), 0)
    notch = np.maximum(1 - np.abs(turn) / 0.9, 0) ** 0.9
    top = {
        "crew": 48 - 7 * front**2 + 8 * back,
        "vee": 48 + 8 * back - 26 * notch,
        "turtleneck": 58 - 17 * front + 7 * back,
        "shirt": 50 - 10 * front**4 + 8 * back,
    }[identity.neckline]
    rows = np.linspace(0, 1, _DOWN)[:, None] ** 1.15
    elevation = np.radians(top * (1 - rows) - 30 * rows)  # [D, A]
    points = surface.at(np.broadcast_to(turn, elevation.shape), elevation)
    outward = points - surface.centre
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    noise = Noise(rng)
    folds = noise(points.reshape(-1, 3), 26, (1.6, 0.7, 1.0)).reshape(elevation.shape)
    lift = 0.0045 + 0.0030 * np.clip(folds, -1, 1) * np.minimum(rows * 5, 1)
    lift = lift + 0.0030 * np.exp(-((rows / 0.05) ** 2)) + (0.003 if identity.neckline == "turtleneck" else 0.0)
    points = points + outward * lift[..., None]
    points[-1, :, 1] -= 0.03
    pieces = [_sheet(points, identity.cloth, 0.12)]
    if identity.neckline in ("crew", "turtleneck", "shirt", "vee"):
        pieces.append(_collar(identity, points, outward))
    return pieces


def _collar(identity: Identity, points: np.ndarray, outward: np.ndarray) -> Piece:
    """A band along the neckline; on a shirt it stands up and folds over."""
    edge, away = points[0], outward[0]
    flat = away * np.array([1.0, 0.0, 1.0])
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-9)
    up = np.array([0.0, 1.0, 0.0])
    if identity.neckline == "shirt":
        opening = np.abs(np.arctan2(edge[:, 0], edge[:, 2] - TORSO[2]))[:, None]
        tall = 0.020 * np.clip(opening / 0.5, 0.45, 1.0)
        profile = [
            edge - flat * 0.003,
            edge + up * tall + flat * 0.001,
            edge + up * (tall + 0.002) + flat * 0.004,
            edge + flat * 0.013 - up * 0.010 * np.clip(1.3 - opening, 0.4, 1.0),
        ]
        colour = identity.cloth
    else:
        profile = [
            edge - away * 0.003 + up * 0.001,
            edge + up * 0.003 + away * 0.0005,
            edge + away * 0.0025,
            edge + away * 0.0022 - up * 0.010,
            edge - up * 0.011 + away * 0.0,
        ]
        colour = tuple(0.8 * value for value in identity.cloth) if identity.stripes == 0 else identity.collar
    return _sheet(np.stack(profile), colour, 0.12)


def _sheet(points: np.ndarray, colour: tuple, gloss: float) -> Piece:
    """A closed band [D, A, 3], rows from the top down, columns around."""
    down, around = points.shape[:2]
    along = np.roll(points, -1, 1) - np.roll(points, 1, 1)
    fall = np.gradient(points, axis=0)
    normals = np.cross(fall, along)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    index = np.arange(down * around).reshape(down, around)
    index = np.concatenate([index, index[:, :1]], 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])
    turn = np.broadcast_to(np.linspace(0, 2 * np.pi, around, endpoint=False), (down, around))
    uv = np.stack([turn, points[..., 1]], -1)
    return Piece(points.reshape(-1, 3), normals.reshape(-1, 3), faces, uv.reshape(-1, 2), colour, gloss)


def glasses(identity: Identity, eyes: np.ndarray, skin: np.ndarray, ears: np.ndarray) -> list[Piece]:
    """Frames on the nose and behind the ears.

    Args:
      eyes: [2, 3] eye centres; skin: [n, 3] face vertices; ears: [k, 3] ear vertices.
    """
    if identity.glasses == "none":
        return []
    spread = np.abs(eyes[:, 0]).mean()
    eye = eyes.mean(0) * np.array([0, 1, 1])
    near = skin[(np.abs(skin[:, 0]) < 0.005) & (np.abs(skin[:, 1] - eye[1] - 0.006) < 0.008)]
    bridge = near[:, 2].max() + 0.003 if len(near) else eye[2] + 0.022
    plane = max(eye[2] + 0.0215, bridge - 0.004)
    square = identity.glasses == "square"
    half = (0.0255, 0.0190) if square else (0.0225, 0.0210)
    power, thick = (4.0, 0.0019) if square else (2.1, 0.0011)
    turn = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    x = half[0] * np.sign(cos) * np.abs(cos) ** (2 / power)
    y = half[1] * np.sign(sin) * np.abs(sin) ** (2 / power) * np.where(sin < 0, 1.0, 0.92)
    middle = spread + 0.0015
    pieces = []
    reach = np.abs(ears[:, 0]).max() - 0.011
    ear_y, ear_z = ears[:, 1].max() - 0.012, np.median(ears[:, 2])
    for side in (-1.0, 1.0):
        rim = np.stack([side * (middle + x), eye[1] - 0.004 + y, plane - 0.10 * (middle + x - 0.01) ** 2 / 0.03], -1)
        pieces.append(_tube(rim, thick, identity.frame, closed=True))
        hinge = np.array([side * (middle + half[0] + 0.003), eye[1] + 0.004, plane - 0.011])
        ear = np.array([side * reach, ear_y, ear_z + 0.006])
        middle_arm = 0.5 * (hinge + ear) + [side * 0.003, 0, 0]
        arm = np.stack(
            [
                rim[np.argmax(x)] + np.array([0, 0.006, 0]),
                hinge,
                middle_arm,
                ear,
                ear + [-side * 0.003, -0.012, -0.016],
                ear + [-side * 0.006, -0.028, -0.024],
            ]
        )
        pieces.append(_tube(arm, thick * 0.95, identity.frame))
    gap = middle - half[0]
    arch = np.linspace(-1, 1, 7)
    span = np.stack(
        [
            arch * (gap + 0.001),
            eye[1] + 0.004 + 0.004 * (1 - arch**2),
            max(plane, bridge) + 0.001 + 0.002 * (1 - arch**2),
        ],
        -1,
    )
    pieces.append(_tube(span, thick, identity.frame))
    return pieces


def _tube(points: np.ndarray, radius: float, colour: tuple, closed: bool = False) -> Piece:
    """A round tube along a line [K, 3]."""
    ahead = np.roll(points, -1, 0) - np.roll(points, 1, 0) if closed else np.gradient(points, axis=0)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    guide = np.where(np.abs(ahead[:, :1]) < 0.9, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    if closed:
        guide = np.broadcast_to(np.array([0.0, 0.0, 1.0]), ahead.shape)
    first = np.cross(ahead, guide)
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second = np.cross(ahead, first)
    turn = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)
    normals = np.cos(turn)[:, None] * first[:, None] + np.sin(turn)[:, None] * second[:, None]  # [K, sides, 3]
    vertices = points[:, None] + radius * normals
    index = np.arange(len(points) * _SIDES).reshape(-1, _SIDES)
    if closed:
        index = np.concatenate([index, index[:1]])
    index = np.concatenate([index, index[:, :1]], 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return Piece(vertices.reshape(-1, 3), normals.reshape(-1, 3), faces, np.zeros((vertices.size // 3, 2)), colour, 1.4)
