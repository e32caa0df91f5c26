"""Where things are on the built-in head, for whoever paints, shades or grows hair on it."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from mvp4d.core.heads.builtin.anatomy import smoothstep
from mvp4d.core.heads.builtin.assembly import Assembly, assemble
from mvp4d.core.heads.builtin.skin import EYE_POINTS, LIP_POINTS

# Hairline: angle from the front in degrees, height. Forehead, temple, sideburn, behind the ear, nape.
_HAIRLINE = np.array([[0, 0.070], [20, 0.068], [33, 0.060], [44, 0.066], [54, 0.050], [62, 0.020], [72, 0.004],
                      [80, -0.014], [88, -0.014], [96, 0.012], [112, 0.000], [128, -0.040], [150, -0.066],
                      [180, -0.072]])


def _frame() -> tuple[Assembly, np.ndarray, np.ndarray]:
    """The head, the angle of every vertex from the front in degrees, and which vertices are skin."""
    head = assemble()
    angle = np.degrees(np.arctan2(np.abs(head.vertices[:, 0]), head.vertices[:, 2]))
    return head, angle, head.of("skin")


def scalp_mask() -> np.ndarray:
    """[N] float32 in [0, 1]: where hair grows."""
    head, angle, skin = _frame()
    line = PchipInterpolator(_HAIRLINE[:, 0], _HAIRLINE[:, 1])(angle)
    return (smoothstep(head.vertices[:, 1] - line, -0.008, 0.008) * skin).astype(np.float32)


def beard_mask() -> np.ndarray:
    """[N] float32 in [0, 1]: moustache, chin, jaw and throat, where a beard grows; not the lips."""
    head, angle, skin = _frame()
    x, y, z = np.abs(head.vertices[:, 0]), head.vertices[:, 1], head.vertices[:, 2]
    top = PchipInterpolator([0, 12, 24, 40, 55, 70, 80], [-0.0500, -0.0520, -0.0640, -0.0600, -0.0420, -0.020, -0.005])
    below = smoothstep(top(np.clip(angle, 0, 80)) - y, -0.002, 0.006)
    throat = smoothstep(y, -0.142, -0.120)
    mask = below * throat * smoothstep(angle, 84, 76) * skin * smoothstep(z, 0.0, 0.015)
    under_lip = np.exp(-0.5 * (((x - 0.016) / 0.006) ** 2 + ((y + 0.083) / 0.004) ** 2))
    return (mask * (1 - lip_mask()) * (1 - 0.6 * under_lip)).astype(np.float32)


def lip_mask() -> np.ndarray:
    """[N] float32: 1 on the red of the lips, 0.5 on its border."""
    head = assemble()
    mask = np.zeros(len(head.vertices), np.float32)
    for row, value in zip(head.rings["lips"][:5], (1, 1, 1, 1, 0.5)):
        mask[row] = mask[head.mirror[row]] = value
    return mask


def brow_mask() -> np.ndarray:
    """[N] float32 in [0, 1]: the strip of skin under the brows."""
    head, _, skin = _frame()
    x, y = np.abs(head.vertices[:, 0]), head.vertices[:, 1]
    centre, half = _brow_line(x)
    across = np.exp(-0.5 * ((y - centre) / half) ** 2)
    along = smoothstep(x, 0.009, 0.014) * smoothstep(x, 0.060, 0.053)
    return (across * along * skin * (head.vertices[:, 2] > 0.05)).astype(np.float32)


def _brow_line(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and half thickness of a brow at distance x from the midline."""
    knots = [0.009, 0.020, 0.032, 0.044, 0.058]
    height = PchipInterpolator(knots, [0.0185, 0.0215, 0.0240, 0.0245, 0.0175])
    thick = PchipInterpolator(knots, [0.0034, 0.0036, 0.0030, 0.0023, 0.0010])
    x = np.clip(x, 0.009, 0.058)
    return height(x), thick(x)


def brow_curves(points: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Left and right brow from the nose outwards. -> skin vertices nearest to the line [2, points] int, and half
    thickness along it [points] metres."""
    head, _, skin = _frame()
    front = np.where(skin & (head.vertices[:, 2] > 0.05) & (head.vertices[:, 0] > 0))[0]
    x = np.linspace(0.011, 0.057, points)
    height, half = _brow_line(x)
    gap = head.vertices[front][:, None, :2] - np.stack([x, height], -1)
    left = front[np.argmin(np.sum(gap**2, -1), 0)]
    return np.stack([left, head.mirror[left]]), half


def eyelid_lines() -> np.ndarray:
    """Margins of the lids as vertices [2 eyes, 2 lids, P]: left eye first, upper lid first, from the outer to the inner
    corner."""
    head = assemble()
    margin, half = head.rings["eye"][2], EYE_POINTS // 2
    left = np.stack([margin[:half + 1], np.concatenate([margin[:1], margin[:half - 1:-1]])])
    return np.stack([left, head.mirror[left]])


def lip_lines() -> np.ndarray:
    """Where the lips meet as vertices [2 lips, P]: upper lip first, from the head's right corner to its left."""
    head = assemble()
    contact = head.rings["lips"][0]
    upper, lower = contact[:LIP_POINTS + 1], contact[LIP_POINTS:][::-1]
    return np.stack([np.concatenate([head.mirror[line[:0:-1]], line]) for line in (upper, lower)])


def piece_mask(*names: str) -> np.ndarray:
    """[N] bool: vertices of some pieces of geometry, by the names of `Assembly.pieces`."""
    return assemble().of(*names)


def mirror_map() -> np.ndarray:
    """[N] int: each vertex's partner on the other side of the head."""
    return assemble().mirror.copy()


def domain() -> np.ndarray:
    """[N, 2] metres: skin unrolled, across (positive on the head's left) and down from the crown (0.2) over the pupils
    (0) to the bust (-0.4); NaN for parts."""
    return assemble().domain.copy()
