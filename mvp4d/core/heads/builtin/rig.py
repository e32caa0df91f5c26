"""Joints, skin weights and landmarks of the built-in head."""

from __future__ import annotations

import numpy as np

from mvp4d.core.heads.builtin.assembly import Assembly
from mvp4d.core.heads.builtin.measures import (
    EYE_CENTRE,
    JAW_JOINT,
    MOUTH_HALF_WIDTH,
    MOUTH_HEIGHT,
    NECK_JOINT,
)
from mvp4d.core.heads.builtin.skin_mesh import EYE_POINTS, LIP_POINTS
from mvp4d.core.ramps import smoothstep

JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")
JOINT_PARENTS = (-1, 0, 1, 1, 1)
MIRROR_X = np.array([-1.0, 1.0, 1.0])


def rest_joints() -> np.ndarray:
    """[5, 3] rest positions: bust, base of the skull, jaw hinge, eyeball centres."""
    return np.stack([np.array([0.0, -0.26, -0.02]), NECK_JOINT, JAW_JOINT, EYE_CENTRE, EYE_CENTRE * MIRROR_X])


def upper_share(head: Assembly) -> np.ndarray:
    """[N] 1 above the line where the lips meet, 0 below, 0.5 at the corners; exact on the lips."""
    y = head.vertices[:, 1]
    share = smoothstep(y, MOUTH_HEIGHT - 0.006, MOUTH_HEIGHT + 0.006)
    rows = head.rings["lips"]
    along = np.clip(0.5 + (LIP_POINTS - np.arange(rows.shape[1])) / 5.0, 0.0, 1.0)
    for row, target in zip(rows, np.linspace(1.0, 0.3, len(rows))):
        share[row] = target * along + (1 - target) * share[row]
    bag = head.of("mouth")
    share[bag] = np.clip(0.5 + 1.4 * head.extra[bag], 0.0, 1.0)
    return _mirrored(head, share)


def _mirrored(head: Assembly, values: np.ndarray) -> np.ndarray:
    """Copies values of the left half to the right."""
    right = head.vertices[:, 0] < 0
    values = values.copy()
    values[right] = values[head.mirror[right]]
    return values


def jaw_share(head: Assembly) -> np.ndarray:
    """[N] how much of the jaw's turn each vertex takes."""
    x, y, z = head.vertices.T
    bearing = np.degrees(np.arctan2(JAW_JOINT[1] - y, z - JAW_JOINT[2]))
    skin = smoothstep(bearing, 9.0, 41.0) * smoothstep(z, 0.000, 0.055)
    skin *= smoothstep(y, -0.165, -0.117)
    upper, reach = upper_share(head), np.abs(x)
    corner = smoothstep(reach, 0.002, MOUTH_HALF_WIDTH + 0.002)
    target = upper * 0.42 * corner**1.6 + (1 - upper) * (1.0 - 0.58 * corner**1.6)
    beyond = np.hypot(np.maximum(reach - MOUTH_HALF_WIDTH, 0), y - MOUTH_HEIGHT)
    influence = np.exp(-((beyond / 0.0155) ** 2)) * smoothstep(z, 0.060, 0.085)
    share = skin + influence * (target - skin)
    rings = head.rings["lips"][:5]
    share[rings] = target[rings]
    bag = head.of("mouth")
    share[bag] = target[bag] * 1.0
    deep = bag & (z < 0.082)
    share[deep] = 1.0 - upper[deep]
    share = np.where(head.of("lower_teeth", "lower_gum", "tongue"), 1.0, share)
    share = np.where(head.of("eye", "lashes", "upper_teeth", "upper_gum", "ear"), 0.0, share)
    return _mirrored(head, share)


def skin_weights(head: Assembly) -> np.ndarray:
    """[N, 5] weights of root, neck, jaw, left eye, right eye; rows sum to one."""
    y, z = head.vertices[:, 1], head.vertices[:, 2]
    skull = smoothstep(y + 0.15 * (z + 0.02), -0.195, -0.105)
    skull = np.where(head.of("skin"), skull, 1.0)
    weights = np.zeros((len(y), 5))
    jaw = jaw_share(head) * skull
    weights[:, 0], weights[:, 2] = 1.0 - skull, jaw
    weights[:, 1] = skull - jaw
    eye = head.of("eye")
    weights[eye] = 0.0
    weights[eye & (head.vertices[:, 0] > 0), 3] = 1.0
    weights[eye & (head.vertices[:, 0] < 0), 4] = 1.0
    return weights


# Landmarks of the midline and of one side, as (x, y) seen from the front; the jaw line as (x, y, z).
_JAW_LINE = (
    (0.0745, 0.0000, 0.0200),
    (0.0740, -0.0210, 0.0240),
    (0.0715, -0.0410, 0.0280),
    (0.0670, -0.0600, 0.0340),
    (0.0585, -0.0800, 0.0490),
    (0.0450, -0.0960, 0.0680),
    (0.0305, -0.1060, 0.0820),
    (0.0155, -0.1115, 0.0930),
)
_BROW = ((0.0575, 0.0150), (0.0490, 0.0220), (0.0375, 0.0245), (0.0240, 0.0230), (0.0120, 0.0190))
_NOSE = ((0.0, 0.0030), (0.0, -0.0100), (0.0, -0.0220), (0.0, -0.0350))
_NOSE_BASE = ((0.0125, -0.0462), (0.0062, -0.0480), (0.0, -0.0490))


def landmark_vertices(head: Assembly) -> np.ndarray:
    """[68] vertices of the Multi-PIE landmarks; 0..16 run from the head's right (picture's left) to its left."""
    skin = np.where(head.of("skin") & (head.vertices[:, 0] >= 0) & (head.vertices[:, 2] > 0))[0]

    def nearest(place: tuple, middle: bool = False) -> int:
        chosen = skin[head.vertices[skin, 0] == 0.0] if middle else skin
        gap = head.vertices[chosen][:, : len(place)] - np.asarray(place)
        return int(chosen[np.argmin(np.sum(gap * gap, 1))])

    def both(points: list[int]) -> list[int]:
        """The given vertices of the left side, outermost last to first on the right, then on the left."""
        return [int(head.mirror[p]) for p in points] + points[::-1]

    jaw = [nearest(p) for p in _JAW_LINE]
    chin = nearest((0.0, -0.1145, 0.0930), middle=True)
    brow = [nearest(p) for p in _BROW]
    nose = [nearest(p, middle=True) for p in _NOSE]
    base = [nearest(p, middle=p[0] == 0) for p in _NOSE_BASE]
    margin, half = head.rings["eye"][2], EYE_POINTS // 2
    # Left eye: inner corner, upper inner, upper outer, outer corner, lower outer, lower inner.
    left_eye = [int(margin[k]) for k in (half, half - 6, 6, 0, EYE_POINTS - 6, half + 6)]
    right_eye = [int(head.mirror[left_eye[k]]) for k in (3, 2, 1, 0, 5, 4)]
    border, contact, m = head.rings["lips"][4], head.rings["lips"][0], LIP_POINTS

    def at(ring: np.ndarray, x: float, upper: bool) -> int:
        side = ring[: m + 1] if upper else ring[m:]
        return int(side[np.argmin(np.abs(head.vertices[side, 0] - x))])

    def right(vertex: int) -> int:
        return int(head.mirror[vertex])

    peak, shoulder = at(border, 0.0066, True), at(border, 0.0160, True)
    low, low_side = at(border, 0.0095, False), at(border, 0.0175, False)
    corner, inner_corner = int(border[m]), at(contact, 0.0225, True)
    inner_up, inner_low = at(contact, 0.0095, True), at(contact, 0.0095, False)
    outer = [
        right(corner),
        right(shoulder),
        right(peak),
        int(border[0]),
        peak,
        shoulder,
        corner,
        low_side,
        low,
        int(border[-1]),
        right(low),
        right(low_side),
    ]
    inner = [
        right(inner_corner),
        right(inner_up),
        int(contact[0]),
        inner_up,
        inner_corner,
        inner_low,
        int(contact[-1]),
        right(inner_low),
    ]
    brows = [right(p) for p in brow] + brow[::-1]
    bases = [right(p) for p in base[:2]] + [base[2]] + base[:2][::-1]
    return np.array(
        [right(p) for p in jaw] + [chin] + jaw[::-1] + brows + nose + bases + right_eye + left_eye + outer + inner
    )


def as_barycentric(faces: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [K] as (face [K] int32, barycentric [K, 3]): the first face that holds each."""
    chosen, weights = [], []
    for vertex in vertices:
        face, corner = np.argwhere(faces == vertex)[0]
        chosen.append(face)
        weights.append(np.eye(3)[corner])
    return np.array(chosen, np.int32), np.array(weights, np.float32)
