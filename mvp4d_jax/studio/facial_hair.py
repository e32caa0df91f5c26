"""Brows and beards: short ribbons that lie on the skin, and move with it."""

from __future__ import annotations

import numpy as np

from mvp4d_jax.studio import face_regions
from mvp4d_jax.studio.ribbons import Ribbons, ease, on_skin, scatter, tone, unit
from mvp4d_jax.studio.traits import Identity


def grow_brows(
    identity: Identity, vertices: np.ndarray, canonical: np.ndarray, faces: np.ndarray, rng: np.random.Generator
) -> Ribbons:
    """Both brows of a person at rest, vertices [N, 3], whose head before identity is `canonical`; skin [T, 3]."""
    count, number = 300, 3
    density, _ = face_regions.brow(canonical)
    face, weight = scatter(density + 1e-9, vertices, faces, count, rng)
    roots, normals = on_skin(face, weight, vertices, faces)
    rest, _ = on_skin(face, weight, canonical, faces)
    inside, along = face_regions.brow(rest)
    side = np.sign(roots[:, :1])
    slope = np.stack([np.ones(count), 1.1 * (1 - along) - 0.55 * along, np.zeros(count)], -1) * np.concatenate(
        [side, np.ones((count, 2))], -1
    )
    slope = unit(slope - np.sum(slope * normals, -1, keepdims=True) * normals + rng.normal(0, 0.15, (count, 3)))
    length = (0.0065 + 0.002 * rng.random(count)) * identity.brow_weight**0.3 * (0.6 + 0.4 * inside)
    t = np.linspace(0, 1, number)[None, :, None]
    points = roots[:, None] + t * length[:, None, None] * slope[:, None] + normals[:, None] * (0.0004 + 0.0006 * t)
    width = 0.0007 * identity.brow_weight * np.array([1.0, 0.9, 0.25]) * np.ones((count, 1))
    colour = np.minimum(np.array(identity.hair) * 0.75, 0.22) * np.exp(rng.normal(0, 0.15, (count, 1)))
    return _on_skin(points, width, normals, colour, 0.2, rng)


def grow_beard(
    identity: Identity, vertices: np.ndarray, canonical: np.ndarray, faces: np.ndarray, rng: np.random.Generator
) -> Ribbons:
    """The beard of a person who has one and no stubble; arguments as of `grow_brows`."""
    count, number = {"moustache": 180, "goatee": 380, "full": 620}[identity.beard], 4
    face, weight = scatter(face_regions.beard(canonical, identity.beard) + 1e-9, vertices, faces, count, rng)
    roots, normals = on_skin(face, weight, vertices, faces)
    rest, _ = on_skin(face, weight, canonical, faces)
    lip = (rest[:, 1] > -0.067)[:, None] & (np.abs(rest[:, :1]) < 0.03)
    flow = np.where(
        lip, np.sign(roots[:, :1]) * np.array([0.7, 0, 0]) + np.array([0.0, -0.7, 0.0]), np.array([0.0, -1.0, 0.15])
    )
    length = rng.uniform(0.008, 0.016, count) * identity.volume * np.where(lip[:, 0], 0.55, 1.0)
    length *= 0.5 + 0.5 * ease((rest[:, 2] - 0.0) / 0.06)
    t = np.linspace(0, 1, number)[None, :, None]
    flow = unit(flow - np.sum(flow * normals, -1, keepdims=True) * normals * 0.9 + rng.normal(0, 0.22, (count, 3)))
    points = roots[:, None] + length[:, None, None] * (t * flow[:, None] + normals[:, None] * 0.45 * np.sqrt(t))
    width = np.array([0.8, 1.0, 0.8, 0.15]) * rng.uniform(0.0034, 0.0055, (count, 1))
    colour = tone(identity, count, rng, 0.18) * np.array([1.05, 0.95, 0.9])
    return _on_skin(points, width, normals, colour, 0.35, rng)


def _on_skin(
    points: np.ndarray,
    width: np.ndarray,
    normals: np.ndarray,
    colour: np.ndarray,
    gloss: float,
    rng: np.random.Generator,
) -> Ribbons:
    """Ribbons of points [R, K, 3], width [R, K] and colour [R, 3] that face along the skin's normals [R, 3] at their
    roots and move with it."""
    count, number = points.shape[:2]
    outward = np.repeat(normals[:, None], number, 1)
    return Ribbons(points, width, outward, rng.random(count), colour, np.full(count, gloss), np.ones(count, bool))
