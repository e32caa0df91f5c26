"""The 52 ARKit expressions of the built-in head, as offsets of its vertices in metres.

Left and right are the head's own: its left eye lies at x > 0. One-sided expressions are made for the left and mirrored.
Gaze turns the eyeballs and takes the lids along; jawOpen turns everything that hangs on the jaw by JAW_OPEN_ANGLE, with
the same shares as the jaw joint, so that either opens the mouth alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.builtin.assembly import Assembly
from mvp4d.core.heads.builtin.measures import (
    EYE_CENTRE,
    JAW_JOINT,
    JAW_OPEN_ANGLE,
    LID_RADIUS,
    MOUTH_HALF_WIDTH,
    MOUTH_HEIGHT,
    rotate_x,
)
from mvp4d.core.heads.builtin.rig import MIRROR_X, jaw_share, upper_share
from mvp4d.core.heads.builtin.skin_mesh import lid_pose
from mvp4d.core.ramps import smoothstep

_GAZE = {"Down": (0.42, 0.0), "Up": (-0.36, 0.0), "In": (0.0, -0.46), "Out": (0.0, 0.46)}  # pitch, yaw of the left eye
# How far the lids close (share of the way to the closing line) with each: upper, lower.
_LIDS = {"Down": (0.42, -0.55), "Up": (-0.20, 0.10), "In": (0.0, 0.0), "Out": (0.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class _Face:
    """The neutral head and the soft masks that expressions are painted with."""

    head: Assembly
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    soft: np.ndarray  # [N] what muscles move: skin and the lining of the mouth
    upper: np.ndarray  # [N] above (1) or below (0) the line where the lips meet
    jaw: np.ndarray  # [N] share of the jaw's turn

    def bell(self, cx: float, cy: float, sx: float, sy: float, sy_down: float | None = None) -> np.ndarray:
        """Soft spot on the left of the face; `sy_down` is its spread below the centre where that differs."""
        spread = sy if sy_down is None else np.where(self.y > cy, sy, sy_down)
        return self.soft * np.exp(-0.5 * (((self.x - cx) / sx) ** 2 + ((self.y - cy) / spread) ** 2))

    def middle(self, cx: float, cy: float, sx: float, sy: float, sy_down: float | None = None) -> np.ndarray:
        """The same spot on both sides, never more than one where the two meet."""
        spread = sy if sy_down is None else np.where(self.y > cy, sy, sy_down)
        return self.soft * np.exp(-0.5 * (((np.abs(self.x) - cx) / sx) ** 2 + ((self.y - cy) / spread) ** 2))

    @staticmethod
    def move(weight: np.ndarray, *offset: float) -> np.ndarray:
        """weight [N] times an offset in millimetres -> [N, 3] metres."""
        return weight[:, None] * (np.asarray(offset) * 1e-3)

    def inward(self, weight: np.ndarray, millimetres: float) -> np.ndarray:
        """Both sides towards the midline, as much as they are away from it (full at the corners of the mouth)."""
        pull = np.clip(self.x / MOUTH_HALF_WIDTH, -1.3, 1.3) * weight * millimetres * 1e-3
        return np.stack([-pull, np.zeros_like(pull), np.zeros_like(pull)], -1)


def _gather(head: Assembly) -> _Face:
    x, y, z = head.vertices.T
    soft = np.where(head.of("skin"), smoothstep(z, 0.010, 0.050), 0.0)
    soft = np.where(head.of("mouth"), smoothstep(z, 0.070, 0.096), soft)
    soft[head.rings["eye"][:3]] *= 0.15
    soft[head.rings["eye"][3:6]] *= np.array([0.3, 0.45, 0.7])[:, None]
    right = x < 0
    soft[right] = soft[head.mirror[right]]
    return _Face(head, x, y, z, soft, upper_share(head), jaw_share(head))


def _brows(face: _Face) -> dict[str, np.ndarray]:
    move, bell = face.move, face.bell
    down = move(bell(0.022, 0.023, 0.0150, 0.0150, 0.0080), -3.0, -6.0, 1.0) + move(
        bell(0.042, 0.024, 0.0120, 0.0140, 0.0080), -1.0, -3.0, 0.6
    )
    down += (
        move(face.middle(0.006, 0.018, 0.0055, 0.010), 0.0, -1.2, 0.9)
        * (face.x > 0)[:, None]
        * smoothstep(face.x, 0.0, 0.006)[:, None]
    )
    outer = move(bell(0.0450, 0.0240, 0.0130, 0.0190, 0.0080), 0.6, 8.0, 0.0) + move(
        bell(0.0270, 0.0250, 0.0110, 0.0170, 0.0070), 0.0, 3.2, 0.0
    )
    inner = move(face.middle(0.0110, 0.0235, 0.0110, 0.0190, 0.0080), 0.0, 8.6, 0.3)
    return {"browDownLeft": down, "browOuterUpLeft": outer, "browInnerUp": inner}


def _lid_offset(face: _Face, upper: float, lower: float) -> np.ndarray:
    """Offset of the left lids moved by shares of the way to the closing line."""
    rings = face.head.rings["eye"]
    offset = np.zeros_like(face.head.vertices)
    offset[rings.ravel()] = (lid_pose(upper, lower) - face.head.vertices[rings]).reshape(-1, 3)
    return offset


def _eyes(face: _Face) -> dict[str, np.ndarray]:
    move, bell = face.move, face.bell
    result = {"eyeBlinkLeft": _lid_offset(face, 1.0, 1.0) + move(bell(0.034, 0.019, 0.013, 0.006), 0.0, -0.8, 0.0)}
    result["eyeWideLeft"] = _lid_offset(face, -0.34, -0.30) + move(bell(0.034, 0.022, 0.014, 0.010, 0.006), 0, 1.6, 0)
    squint = _lid_offset(face, 0.30, 1.25)
    result["eyeSquintLeft"] = squint + move(bell(0.036, -0.0160, 0.014, 0.0070), 0.0, 3.0, 0.8)
    ball = face.head.of("eye") & (face.x > 0)
    for name, (pitch, yaw) in _GAZE.items():
        points = face.head.vertices[ball] - EYE_CENTRE
        turned = rotate_x(points, np.zeros(3), pitch)
        cos, sin = np.cos(yaw), np.sin(yaw)
        turned = np.stack(
            [cos * turned[:, 0] + sin * turned[:, 2], turned[:, 1], cos * turned[:, 2] - sin * turned[:, 0]], -1
        )
        offset = _lid_offset(face, *_LIDS[name]) if any(_LIDS[name]) else np.zeros_like(face.head.vertices)
        offset[ball] = turned - points
        result[f"eyeLook{name}Left"] = offset
    return result


def _cheeks_and_nose(face: _Face) -> dict[str, np.ndarray]:
    move, bell = face.move, face.bell
    puff = np.zeros_like(face.head.vertices)
    for side in (1, -1):
        puff += move(bell(side * 0.0430, -0.0640, 0.0155, 0.0170), side * 7.5, 0.0, 7.0)
    puff += move(face.middle(0.0, -0.069, 0.020, 0.010), 0.0, 0.0, 1.8)
    squint = move(bell(0.0400, -0.0260, 0.0150, 0.0120), 0.6, 6.6, 4.2) + _lid_offset(face, 0.06, 0.85)
    sneer = move(bell(0.0140, -0.0400, 0.0085, 0.0100), 1.8, 6.0, 0.8) + move(
        bell(0.0150, -0.0120, 0.0070, 0.0100), -0.8, 4.2, 2.2
    )
    sneer += move(bell(0.0150, -0.0570, 0.0100, 0.0080) * face.upper, 0.6, 3.8, 0.3) + move(
        bell(0.0125, 0.0170, 0.0080, 0.0080), -1.0, -2.6, 0.4
    )
    return {"cheekPuff": puff, "cheekSquintLeft": squint, "noseSneerLeft": sneer}


def _jaw(face: _Face) -> dict[str, np.ndarray]:
    turned = rotate_x(face.head.vertices, JAW_JOINT, face.jaw * JAW_OPEN_ANGLE)
    opened = turned - face.head.vertices
    opened += face.inward(face.middle(0.0, -0.0690, 0.0300, 0.0160), 2.6)  # the cheeks draw the corners in
    forward = face.move(face.jaw, 0.0, -0.8, 7.5)
    # The far side of the jaw swings forwards, and the teeth part a little to let it pass.
    side = face.move(face.jaw, 9.0, -1.6, 0.0) + face.move(face.jaw * smoothstep(face.x, 0.03, -0.06), 0.0, 0.0, 3.5)
    return {
        "jawOpen": opened,
        "jawForward": forward,
        "jawLeft": side,
        "jawRight": (side * MIRROR_X)[face.head.mirror],
        "mouthClose": _close(face, opened),
    }


def _close(face: _Face, opened: np.ndarray) -> np.ndarray:
    """Brings the lips together against a fully open jaw: the lower lip most of the way, the upper the rest."""
    contact = face.head.rings["lips"][0]
    middle = len(contact) // 2
    upper, lower = contact[: middle + 1], contact[middle:][::-1]
    gap = opened[lower] - opened[upper]  # [m + 1, 3] from midline to corner
    reach = np.abs(face.x)
    across = np.stack([np.interp(reach, face.x[upper], gap[:, k]) for k in range(3)], -1)
    across[:, 0] *= np.sign(face.x)
    beyond = np.hypot(np.maximum(reach - MOUTH_HALF_WIDTH, 0), face.y - MOUTH_HEIGHT)
    spread = np.where(face.upper > 0.5, 0.0120, 0.0200)
    near = face.soft * np.exp(-((np.maximum(beyond - 0.006, 0) / spread) ** 2))
    return near[:, None] * across * (0.12 * face.upper - 0.88 * (1 - face.upper))[:, None]


def _mouth_corners(face: _Face) -> dict[str, np.ndarray]:
    move, bell = face.move, face.bell
    corner, wide = bell(0.0270, -0.0690, 0.0110, 0.0110), bell(0.0290, -0.0660, 0.0170, 0.0150)
    cheek = bell(0.0420, -0.0400, 0.0140, 0.0110)
    smile = move(corner, 4.0, 4.2, -2.0) + move(wide, 4.6, 4.0, -3.4) + move(cheek, 1.0, 3.6, 4.6)
    smile += move(bell(0.0120, -0.0690, 0.0110, 0.0100), 0.8, 0.8, -1.6) - move(
        bell(0.0130, -0.0790, 0.0110, 0.0050) * (1 - face.upper), 0.0, -1.2, 0.0
    )
    smile += move(bell(0.0340, -0.0200, 0.013, 0.0080), 0.0, 1.6, 0.8)
    frown = move(corner, 0.5, -5.0, -0.8) + move(bell(0.0280, -0.0730, 0.0140, 0.0130), 0.8, -5.0, -0.6)
    frown += move(face.bell(0.0, -0.095, 0.012, 0.010), 0.0, 0.8, 0.6)
    dimple = (
        move(corner, 4.5, 0.6, -5.0) + move(wide, 2.5, 0.4, -2.2) + move(bell(0.040, -0.066, 0.007, 0.008), 0, 0, 2.2)
    )
    stretch = move(corner, 4.5, -3.0, -2.2) + move(bell(0.0310, -0.0760, 0.0180, 0.0170), 6.5, -4.6, -3.4)
    return {"mouthSmileLeft": smile, "mouthFrownLeft": frown, "mouthDimpleLeft": dimple, "mouthStretchLeft": stretch}


def _lips(face: _Face) -> dict[str, np.ndarray | None]:
    move, bell, up, low = face.move, face.bell, face.upper, 1 - face.upper
    whole = face.middle(0.0, -0.0690, 0.0230, 0.0150)
    tight = face.middle(0.0, -0.0690, 0.0200, 0.0085)
    centre = face.middle(0.0, -0.0690, 0.0130, 0.0100)
    around = face.middle(0.0, -0.0690, 0.0330, 0.0200)
    oval = np.sqrt(np.clip(1 - (face.x / 0.0262) ** 2, 0, 1)) * np.clip(
        centre / np.maximum(np.exp(-0.5 * (face.x / 0.0130) ** 2), 1e-9), 0, 1
    )  # an O rather than a lozenge
    funnel = (
        face.inward(around, 9.5)
        + move(whole, 0, 0, 5.6)
        + move(oval * up, 0, 6.4, 2.4)
        + move(oval * low, 0, -8.6, 2.4)
    )
    pucker = (
        face.inward(around, 13.5)
        + move(whole, 0, 0, 8.5)
        + move(tight * up, 0, -0.6, 1.0)
        + move(tight * low, 0, 0.6, 1.0)
    )
    side = move(face.middle(0.0, -0.0690, 0.0300, 0.0190), 9.5, 0.0, 0.0) + move(
        bell(0.0270, -0.069, 0.012, 0.012), 1.0, 1.8, -1.8
    )
    side += move(bell(0.0430, -0.0600, 0.0110, 0.0140), 1.6, 0.6, 3.0) + move(
        bell(-0.0280, -0.0690, 0.0120, 0.0120), 1.0, -0.8, -1.4
    )  # one cheek bunches, the other is pulled flat
    roll = face.middle(0.0, -0.0690, 0.0120, 0.0056)
    roll_wide = face.middle(0.0, -0.0690, 0.0130, 0.0100)
    roll_upper = move(roll * up, 0, -0.6, -3.4) + move(roll_wide * up, 0, -3.6, -1.6)
    roll_lower = move(roll * low, 0, 0.6, -3.4) + move(roll_wide * low, 0, 4.2, -1.6)
    shrug_upper = move(face.middle(0, -0.064, 0.018, 0.0095) * up, 0, 4.4, 3.2) + move(
        face.middle(0, -0.070, 0.018, 0.0070) * low, 0, 4.2, 1.0
    )
    shrug_lower = move(face.middle(0, -0.074, 0.021, 0.0080) * low, 0, 4.2, 3.8) + move(
        face.middle(0, -0.094, 0.018, 0.0100), 0, 5.2, 1.8
    )
    shrug_lower += move(face.middle(0, -0.064, 0.020, 0.0070) * up, 0, 3.0, 1.0)
    lower_down = move(bell(0.0120, -0.0755, 0.0105, 0.0110) * low, 1.4, -7.2, 0.8)
    upper_up = move(bell(0.0125, -0.0630, 0.0110, 0.0105) * up, 0.6, 6.0, 0.8) + move(
        bell(0.0200, -0.0480, 0.0090, 0.0080), 0.6, 2.2, 1.0
    )
    left = smoothstep(face.x, -0.010, 0.012)
    thin = face.middle(0.0, -0.0690, 0.0160, 0.0068) * left
    press = (
        move(thin * up, 0, -3.0, -2.6)
        + move(thin * low, 0, 4.4, -2.6)
        + move(bell(0.0120, -0.0860, 0.0120, 0.0060), 0, 1.2, 2.0)
    )
    press += move(bell(0.0275, -0.0690, 0.0080, 0.0085), 2.4, 0.6, -1.2)
    return {
        "mouthFunnel": funnel,
        "mouthPucker": pucker,
        "mouthLeft": side,
        "mouthRight": None,
        "mouthRollUpper": roll_upper,
        "mouthRollLower": roll_lower,
        "mouthShrugUpper": shrug_upper,
        "mouthShrugLower": shrug_lower,
        "mouthLowerDownLeft": lower_down,
        "mouthUpperUpLeft": upper_up,
        "mouthPressLeft": press,
    }


def _tongue(face: _Face) -> dict[str, np.ndarray]:
    tongue = face.head.of("tongue")
    forward = np.where(tongue, smoothstep(face.z, 0.050, 0.090), 0.0)
    out = face.move(forward, 0, 4.2, 36.0) + face.move(forward**3, 0, -7.0, 0.0)
    flatten = np.where(tongue, (-0.0752 - face.y) * 0.45, 0.0)
    out[:, 1] += flatten * forward
    centre = face.middle(0.0, -0.0690, 0.0130, 0.0105)
    out += face.move(centre * face.upper, 0, 2.6, 0.8) + face.move(centre * (1 - face.upper), 0, -8.2, 1.6)
    return {"tongueOut": out}


def expression_basis(head: Assembly) -> np.ndarray:
    """[52, N, 3] metres, in the order of ARKIT_NAMES."""
    face = _gather(head)
    made = {
        **_brows(face),
        **_eyes(face),
        **_cheeks_and_nose(face),
        **_jaw(face),
        **_mouth_corners(face),
        **_lips(face),
        **_tongue(face),
    }
    made["mouthRight"] = (made["mouthLeft"] * MIRROR_X)[head.mirror]
    basis = []
    for name in ARKIT_NAMES:
        if name not in made:
            made[name] = (made[name.replace("Right", "Left")] * MIRROR_X)[head.mirror]
        basis.append(_follow_lids(head, _clear_of_eyes(head, made[name])))
    return np.stack(basis)


def _clear_of_eyes(head: Assembly, offset: np.ndarray) -> np.ndarray:
    """Keeps skin that is pushed over an eyeball in front of it."""
    moved = head.vertices + offset
    near = head.of("skin") & (moved[:, 2] > EYE_CENTRE[2])
    near[head.rings["eye"][:3]] = near[head.mirror[head.rings["eye"][:3]]] = False
    centre = EYE_CENTRE * np.where(moved[:, :1] > 0, 1.0, MIRROR_X)
    away = moved - centre
    lift = np.maximum(LID_RADIUS - 0.0002 - np.linalg.norm(away, axis=-1), 0.0) * near
    lift[np.abs(offset).max(1) < 1e-5] = 0.0
    return offset + lift[:, None] * away / np.linalg.norm(away, axis=-1, keepdims=True)


def _follow_lids(head: Assembly, offset: np.ndarray) -> np.ndarray:
    """Lashes go where the lid margin goes that they grow from."""
    offset = offset.copy()
    rows = head.rings["lashes"].reshape(3, -1)
    offset[rows] = offset[head.rings["lash_roots"]]
    offset[head.mirror[rows]] = offset[head.mirror[head.rings["lash_roots"]]]
    return offset
