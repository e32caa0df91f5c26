"""Identity modes of the built-in head: smooth warps of space, one anatomical measure each.

A mode moves everything it reaches, skin and parts alike; eyeballs move rigidly with their centres, so that they stay
round. Amounts are millimetres for one standard deviation, about those of adult populations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mvp4d.core.heads.builtin.assembly import Assembly
from mvp4d.core.heads.builtin.measures import EYE_CENTRE
from mvp4d.core.heads.builtin.rig import MIRROR_X, rest_joints, upper_share
from mvp4d.core.ramps import smoothstep

Warp = Callable[[np.ndarray, np.ndarray], np.ndarray]  # points [N, 3], upper-lip share [N] -> offsets [N, 3] mm


def _bell(p: np.ndarray, centre: tuple, spread: tuple) -> np.ndarray:
    return np.exp(-0.5 * np.sum(((p - np.asarray(centre)) / np.asarray(spread)) ** 2, -1))


def _sides(centre: tuple, spread: tuple, offset: tuple) -> Warp:
    """A soft push on the left of the head, mirrored on the right."""

    def warp(p: np.ndarray, upper: np.ndarray) -> np.ndarray:
        left = _bell(p, centre, spread)[:, None] * np.asarray(offset)
        right = _bell(p * MIRROR_X, centre, spread)[:, None] * (np.asarray(offset) * MIRROR_X)
        if centre[0] == 0:
            return np.stack([left[:, 0] * 0, left[:, 1], left[:, 2]], -1)
        return left + right

    return warp


def _spread_x(centre: tuple, spread: tuple, amount: float, half_width: float) -> Warp:
    """Widening in x around the midline: `amount` millimetres at `half_width`."""

    def warp(p: np.ndarray, upper: np.ndarray) -> np.ndarray:
        weight = _bell(np.stack([p[:, 0] * 0, p[:, 1], p[:, 2]], -1), centre, spread)
        pull = weight * np.tanh(p[:, 0] / half_width) / np.tanh(1.0) * amount
        return np.stack([pull, pull * 0, pull * 0], -1)

    return warp


def _field(function: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple]) -> Warp:
    """A warp from a function of x, y, z that returns the three offsets in millimetres."""

    def warp(p: np.ndarray, upper: np.ndarray) -> np.ndarray:
        x, y, z = p.T
        return np.stack([np.broadcast_to(np.asarray(part, float), x.shape) for part in function(x, y, z)], -1)

    return warp


def _sum(*warps: Warp) -> Warp:
    return lambda p, upper: np.sum([warp(p, upper) for warp in warps], axis=0)


def _about(p: np.ndarray, centre: tuple, spread: tuple, amount: tuple, radius: float) -> np.ndarray:
    """Swelling about a centre and its mirror image: `amount` mm at `radius` along each axis."""
    result = np.zeros_like(p)
    for flip in (np.ones(3), MIRROR_X):
        gap = p - np.asarray(centre) * flip
        result += _bell(p, tuple(np.asarray(centre) * flip), spread)[:, None] * gap / radius * np.asarray(amount)
    return result


def _lips(sign: float, amount: float) -> Warp:
    def warp(p: np.ndarray, upper: np.ndarray) -> np.ndarray:
        mine = upper if sign > 0 else 1 - upper
        red = _bell(p, (0, -0.069 + sign * 0.006, 0.113), (0.016, 0.0050, 0.012)) * mine
        return red[:, None] * np.array([0.0, sign * 0.75, 0.9]) * amount

    return warp


def _eye_size(p: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return _about(p, (0.0315, 0.0, 0.088), (0.014, 0.010, 0.020), (0.75, 0.75, 0.0), 0.010)


def _philtrum(x, y):
    ridges = np.exp(-0.5 * ((np.abs(x) - 0.0055) / 0.0022) ** 2) - np.exp(-0.5 * (x / 0.0022) ** 2)
    return 0.8 * ridges * np.exp(-0.5 * ((y + 0.0555) / 0.0045) ** 2)


def _thicken(x, y, z, wide, deep):
    """Widens the column of the neck and nothing of head and bust."""
    neck = smoothstep(y + 0.35 * z, -0.065, -0.125) * smoothstep(y, -0.225, -0.165)
    return x / 0.055 * wide * neck, 0, (z + 0.013) / 0.055 * deep * neck


def _eye_tilt(x, y, z):
    reach = np.exp(-0.5 * (((np.abs(x) - 0.0315) / 0.014) ** 2 + (y / 0.013) ** 2)) * smoothstep(z, 0.05, 0.075)
    return 0, reach * (np.abs(x) - 0.0300) / 0.0140 * 1.3, 0


MODES: dict[str, Warp] = {
    "head_width": _field(lambda x, y, z: (np.tanh(x / 0.075) / 0.76 * 3.0 * smoothstep(y, -0.11, 0.03), 0, 0)),
    "head_length": _field(lambda x, y, z: (0, 0, -5.0 * smoothstep(z, 0.03, -0.08) * smoothstep(y, -0.10, -0.02))),
    "head_height": _field(lambda x, y, z: (0, 5.0 * smoothstep(y, 0.03, 0.12), 0)),
    "face_width": _field(
        lambda x, y, z: (
            np.tanh(x / 0.06) / 0.76 * 2.6 * smoothstep(z, -0.02, 0.05) * np.exp(-0.5 * ((y + 0.035) / 0.05) ** 2),
            0,
            0,
        )
    ),
    "face_length": _field(
        lambda x, y, z: (
            0,
            -4.2 * smoothstep(y, -0.020, -0.100) * smoothstep(z, -0.03, 0.05) * smoothstep(y, -0.175, -0.118),
            0,
        )
    ),
    "jaw_width": _sum(_sides((0.055, -0.075, 0.035), (0.022, 0.022, 0.035), (3.2, 0, 0))),
    "jaw_angle": _sides((0.060, -0.080, 0.020), (0.020, 0.018, 0.028), (0.8, -3.6, -0.6)),
    "chin_length": _sides((0, -0.112, 0.095), (0.024, 0.013, 0.030), (0, -3.2, 0)),
    "chin_projection": _sides((0, -0.102, 0.105), (0.020, 0.014, 0.030), (0, 0, 3.2)),
    "chin_width": _spread_x((0, -0.104, 0.095), (1, 0.013, 0.025), 2.6, 0.018),
    "cheekbone_width": _sides((0.060, -0.020, 0.060), (0.016, 0.014, 0.026), (2.6, 0, 0.4)),
    "cheekbone_projection": _sides((0.043, -0.026, 0.085), (0.014, 0.011, 0.020), (0.3, 0, 2.2)),
    "cheek_fullness": _sides((0.050, -0.062, 0.065), (0.018, 0.018, 0.030), (2.4, 0, 2.0)),
    "face_flatness": _field(
        lambda x, y, z: (
            0,
            0,
            -(np.abs(x) - 0.03) / 0.03 * 1.8 * smoothstep(z, 0.02, 0.07) * np.exp(-0.5 * ((y + 0.03) / 0.04) ** 2),
        )
    ),
    "nose_length": _field(
        lambda x, y, z: (
            0,
            -2.6 * np.exp(-0.5 * ((x / 0.016) ** 2 + ((y + 0.040) / 0.012) ** 2)) * smoothstep(z, 0.085, 0.100),
            0,
        )
    ),
    "nose_width": _spread_x((0, -0.0410, 0.107), (1, 0.0085, 0.014), 1.9, 0.016),
    "nose_bridge_height": _sides((0, -0.0020, 0.102), (0.0095, 0.0130, 0.02), (0, 0, 2.2)),
    "nose_bridge_width": _spread_x((0, -0.0120, 0.105), (1, 0.0140, 0.016), 1.2, 0.008),
    "nose_projection": _sides((0, -0.0370, 0.120), (0.0130, 0.0120, 0.018), (0, 0, 2.6)),
    "nose_tip_up": _field(
        lambda x, y, z: (
            0,
            2.6 * np.exp(-0.5 * ((x / 0.010) ** 2 + ((y + 0.037) / 0.008) ** 2)) * smoothstep(z, 0.104, 0.124),
            0,
        )
    ),
    "nose_tip_size": lambda p, upper: _about(
        p, (0.0, -0.0355, 0.114), (0.009, 0.008, 0.012), (0.55, 0.40, 0.30), 0.009
    ),
    "nose_hump": _sides((0, -0.0170, 0.115), (0.0070, 0.0075, 0.02), (0, 0, 1.5)),
    "upper_lip_fullness": _lips(1.0, 1.5),
    "lower_lip_fullness": _lips(-1.0, 1.5),
    "mouth_width": _spread_x((0, -0.0690, 0.105), (1, 0.0130, 0.025), 2.1, 0.022),
    "mouth_height": _field(
        lambda x, y, z: (
            0,
            1.7 * np.exp(-0.5 * ((x / 0.030) ** 2 + ((y + 0.069) / 0.012) ** 2)) * smoothstep(z, 0.05, 0.09),
            0,
        )
    ),
    "mouth_projection": _sides((0, -0.0690, 0.112), (0.0220, 0.0160, 0.03), (0, 0, 2.3)),
    "philtrum_depth": _field(lambda x, y, z: (0, 0, _philtrum(x, y) * smoothstep(z, 0.08, 0.1))),
    "eye_size": _eye_size,
    "eye_spacing": _sides((0.032, 0.0, 0.085), (0.016, 0.015, 0.030), (1.6, 0, 0)),
    "eye_height": _sides((0.032, 0.0, 0.085), (0.018, 0.014, 0.030), (0, 1.4, 0)),
    "eye_tilt": _field(_eye_tilt),
    "eye_depth": _sides((0.032, 0.002, 0.085), (0.015, 0.012, 0.030), (0, 0, -1.7)),
    "lid_fold": _sides((0.034, 0.0115, 0.092), (0.0130, 0.0036, 0.012), (0, -1.3, 1.0)),
    "brow_height": _sides((0.032, 0.0225, 0.095), (0.022, 0.0075, 0.030), (0, 2.2, 0)),
    "brow_ridge": _sides((0.026, 0.0215, 0.098), (0.019, 0.0075, 0.025), (0, 0, 1.9)),
    "forehead_slope": _field(lambda x, y, z: (0, 0, -4.2 * smoothstep(y, 0.030, 0.095) * smoothstep(z, -0.02, 0.07))),
    "forehead_width": _sides((0.060, 0.045, 0.055), (0.020, 0.024, 0.035), (2.6, 0, 0.6)),
    "ear_size": lambda p, upper: _about(p, (0.084, -0.013, 0.002), (0.016, 0.030, 0.025), (0.0, 2.4, 1.5), 0.022),
    "ear_protrusion": _field(
        lambda x, y, z: (
            np.sign(x)
            * 3.2
            * smoothstep(np.abs(x), 0.0775, 0.095)
            * np.exp(-0.5 * ((y + 0.013) / 0.030) ** 2)
            * smoothstep(z, 0.012, -0.012),
            0,
            0,
        )
    ),
    "neck_thickness": _field(lambda x, y, z: _thicken(x, y, z, 3.4, 2.6)),
    "weight": _sum(
        _sides((0.052, -0.070, 0.055), (0.020, 0.024, 0.035), (3.2, -0.6, 1.6)),
        _sides((0, -0.122, 0.060), (0.034, 0.014, 0.032), (0, -4.2, 1.0)),
        _field(lambda x, y, z: _thicken(x, y, z, 3.0, 2.0)),
    ),
    "age": _sum(
        _sides((0.040, -0.086, 0.075), (0.013, 0.011, 0.02), (0.6, -2.6, 1.2)),
        _sides((0.034, 0.0120, 0.092), (0.015, 0.0045, 0.012), (0, -1.0, 0.4)),
        _sides((0.050, -0.050, 0.075), (0.012, 0.014, 0.025), (-1.6, 0, -1.4)),
        _sides((0, -0.030, 0.118), (0.013, 0.012, 0.02), (0, -1.1, 0.5)),
        _lips(1.0, -0.7),
        _lips(-1.0, -0.5),
    ),
    "masculinity": _sum(
        _sides((0.056, -0.082, 0.035), (0.020, 0.020, 0.035), (2.0, -1.4, 0)),
        _sides((0.024, 0.0215, 0.100), (0.020, 0.0075, 0.025), (0, -1.1, 1.5)),
        _spread_x((0, -0.106, 0.095), (1, 0.012, 0.025), 1.8, 0.018),
        _lips(1.0, -0.5),
        _field(lambda x, y, z: _thicken(x, y, z, 2.6, 2.0)),
        _sides((0, -0.150, 0.045), (0.012, 0.016, 0.02), (0, 0, 1.8)),
    ),
    "shoulder_width": _field(lambda x, y, z: (np.tanh(x / 0.15) / 0.76 * 9.0 * smoothstep(y, -0.150, -0.220), 0, 0)),
    "nose_deviation": _field(
        lambda x, y, z: (
            1.1 * np.exp(-0.5 * ((x / 0.012) ** 2 + ((y + 0.028) / 0.014) ** 2)) * smoothstep(z, 0.095, 0.118),
            0,
            0,
        )
    ),
    "jaw_deviation": _field(
        lambda x, y, z: (
            1.5 * smoothstep(y, -0.050, -0.105) * smoothstep(y, -0.165, -0.118) * smoothstep(z, 0.0, 0.06),
            0,
            0,
        )
    ),
    "eye_asymmetry": _field(
        lambda x, y, z: (
            0,
            np.tanh(x / 0.02) * 0.7 * smoothstep(z, 0.04, 0.08) * np.exp(-0.5 * ((y - 0.008) / 0.016) ** 2),
            0,
        )
    ),
    "mouth_asymmetry": _field(
        lambda x, y, z: (
            0,
            np.tanh(x / 0.02)
            * 0.8
            * smoothstep(z, 0.05, 0.09)
            * np.exp(-0.5 * (((y + 0.069) / 0.011) ** 2 + (x / 0.032) ** 2)),
            0,
        )
    ),
}


def shape_basis(head: Assembly) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of vertices [S, N, 3] and of rest joints [S, J, 3] in metres for one standard deviation of each mode."""
    points, upper, joints = head.vertices, upper_share(head), rest_joints()
    left_eye, right_eye = EYE_CENTRE, EYE_CENTRE * MIRROR_X
    left = points[:, 0] > 0
    centre = np.where(left[:, None], left_eye, right_eye)
    distance = np.linalg.norm(points - centre, axis=-1)
    rigid = np.exp(-((distance / 0.0165) ** 6)) * 0.7  # lids keep to the eyeball
    rigid = np.where(head.of("eye"), 1.0, np.where(head.of("skin", "lashes"), rigid, 0.0))
    shapes, joint_shapes = [], []
    for name, warp in MODES.items():
        offset = warp(points, upper) * 1e-3
        moved = warp(joints, np.full(len(joints), 0.5)) * 1e-3
        carried = np.where(left[:, None], moved[3], moved[4])
        keep = np.where(head.of("eye"), 1.0, 0.0) if name in ("eye_size", "eye_tilt") else rigid
        shapes.append(offset + keep[:, None] * (carried - offset))
        joint_shapes.append(moved)
    return np.stack(shapes), np.stack(joint_shapes)
