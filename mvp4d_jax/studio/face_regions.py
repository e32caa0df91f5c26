"""Where things are on the built-in head: hairline, beard, lips, brows, in its canonical coordinates (metres).

Every identity shares the canonical head, so a region is a function of canonical position, whatever the person looks
like. Pupils lie at y = 0, the ear canals near z = 0.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

# Azimuth from the face's midline (0 front, pi back) and the height at which hair begins.
_HAIRLINE = PchipInterpolator(
    [0.0, 0.30, 0.55, 0.80, 1.00, 1.18, 1.34, 1.48, 1.62, 1.80, 2.10, 2.60, 3.15],
    [0.068, 0.0675, 0.061, 0.047, 0.026, 0.004, -0.016, 0.006, 0.008, -0.030, -0.062, -0.076, -0.080],
)
# Upper edge of a beard on the cheek, by azimuth.
_BEARD_TOP = PchipInterpolator(
    [0.0, 0.25, 0.45, 0.75, 1.05, 1.25, 1.45, 1.6], [-0.050, -0.053, -0.066, -0.062, -0.045, -0.020, -0.012, -0.012]
)
_BROW = PchipInterpolator([0.008, 0.014, 0.026, 0.038, 0.048, 0.056], [0.0170, 0.0188, 0.0212, 0.0232, 0.0205, 0.0140])


def azimuth(points: np.ndarray) -> np.ndarray:
    """[...] angle from the midline of the face, 0 front to pi back, the same on both sides."""
    return np.arctan2(np.abs(points[..., 0]), points[..., 2])


def scalp(points: np.ndarray, recede: float = 0.0) -> np.ndarray:
    """[...] 1 where hair grows, 0 where none does; `recede` raises the front hairline, in metres."""
    turn = azimuth(points)
    line = _HAIRLINE(np.clip(turn, 0, np.pi)) + recede * _ramp(turn, 1.1, 0.3)
    return _ramp(points[..., 1], line - 0.004, line + 0.005)


def ear_shells(points: np.ndarray) -> np.ndarray:
    """[...] 1 where an ear stands off the skull, which is no wider than 0.0775 m on either side."""
    return _ramp(np.abs(points[..., 0]), 0.0782, 0.0795) * _ramp(points[..., 1], -0.06, -0.05)


def beard(points: np.ndarray, kind: str) -> np.ndarray:
    """[...] density of facial hair of one of `identity.BEARDS`."""
    turn, y = azimuth(points), points[..., 1]
    front = _ramp(points[..., 2], -0.012, 0.010)
    cheek = _ramp(y, _BEARD_TOP(np.clip(turn, 0, 1.6)) + 0.005, _BEARD_TOP(np.clip(turn, 0, 1.6)) - 0.004)
    under = _ramp(y, -0.150, -0.128)
    full = cheek * under * front
    x = np.abs(points[..., 0])
    moustache = _ramp(y, -0.0665, -0.064) * _ramp(y, -0.048, -0.053) * _ramp(x, 0.036, 0.028) * front
    chin = _ramp(y, -0.060, -0.074) * _ramp(x, 0.030, 0.022) * under * front
    density = {
        "none": 0 * full,
        "stubble": full,
        "full": full,
        "moustache": moustache,
        "goatee": np.maximum(moustache, chin),
    }[kind]
    return (
        density
        * (1.0 - lips(points, 0.002))
        * (1.0 - 0.75 * _ramp(x, 0.012, 0.006) * _ramp(y, -0.080, -0.082) * _ramp(y, -0.091, -0.088) * (kind != "full"))
    )


def lips(points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """[...] 1 on the red of the lips, soft at its border; `margin` widens it, in metres."""
    x = np.abs(points[..., 0]) / (0.0265 + margin)
    share = np.clip(x, 0, 1)
    bow = -0.0592 - 0.0016 * np.exp(-((share / 0.16) ** 2)) - 0.0095 * np.clip((share - 0.28) / 0.72, 0, 1) ** 1.6
    low = -0.0792 + 0.0095 * share**2.6
    y = points[..., 1]
    soft = 0.0011
    inside = _ramp(y, low - margin - soft, low - margin + soft) * _ramp(y, bow + margin + soft, bow + margin - soft)
    return inside * _ramp(x, 1.03, 0.97) * _ramp(points[..., 2], 0.06, 0.075)


def brow(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Density of the eyebrow [...] and how far along it a point lies, 0 at the nose to 1 at the temple."""
    x = np.abs(points[..., 0])
    along = np.clip((x - 0.008) / 0.048, 0, 1)
    line = _BROW(np.clip(x, 0.008, 0.056))
    half = 0.0042 * (1 - 0.62 * along**1.5) * _ramp(along, 0.0, 0.10)
    across = np.abs(points[..., 1] - line) / np.maximum(half, 1e-5)
    inside = _ramp(across, 1.25, 0.55) * _ramp(x, 0.0075, 0.011) * _ramp(x, 0.057, 0.052)
    return inside * _ramp(points[..., 2], 0.03, 0.045), along


def _ramp(value: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    along = np.clip((value - low) / (np.asarray(high) - low), 0.0, 1.0)
    return along * along * (3.0 - 2.0 * along)
