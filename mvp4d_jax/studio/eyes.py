"""The eyeball as it looks from ahead: sclera with veins towards its edge, limbal ring, fibrous iris, pupil."""

from __future__ import annotations

import numpy as np

from mvp4d_jax.studio.traits import Identity, random_for

SIZE = 192
IRIS_RADIUS = 0.50  # of the eyeball's


def paint_eye(identity: Identity) -> np.ndarray:
    """[SIZE, SIZE, 3] float32 linear albedo; pixel (x, y) shows the point at (x, y) seen from the eye's centre."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rng = random_for(identity.number, "iris")
    fibres = np.zeros_like(radius)
    for count in rng.integers(7, 60, 14):
        swirl = rng.uniform(-1, 1) * radius * 3
        fibres += np.sin(angle * count + swirl + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.1, 0.35)
    inner = np.clip(radius / IRIS_RADIUS, 0, 1)
    ring = _step(0.78, 1.0, inner)
    warm = _step(0.62, 0.35, inner)[..., None]
    bright = (0.80 + 0.30 * fibres * inner + 0.45 * _step(0.3, 0.75, inner)) * (1 - 0.80 * ring)
    iris = np.array(identity.iris) * np.maximum(bright, 0.05)[..., None]
    iris = iris * (1 + warm * np.array([0.35, 0.12, -0.15]))
    pupil = _step(identity.pupil * 1.10, identity.pupil * 0.92, radius)[..., None]
    iris = iris * (1 - pupil) + 0.004 * pupil
    veins = np.clip((radius - 0.45) / 0.5, 0, 1)
    thread = _step(0.80, 1.0, np.sin(angle * 17 + 6 * radius + 2 * np.sin(9 * radius + angle * 3))) * veins
    redness = (veins * (1 + 0.8 * thread))[..., None]
    white = 0.60 * np.array([1.0, 0.965, 0.945]) * (1 - redness * np.array([0.05, 0.20, 0.22]))
    edge = _step(IRIS_RADIUS * 1.07, IRIS_RADIUS * 0.95, radius)[..., None]
    return (white * (1 - edge) + iris * edge).astype(np.float32)


def _step(low: float, high: float, value: np.ndarray) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)
