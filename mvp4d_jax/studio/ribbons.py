"""Ribbons, of which hair is made, and what places and colours them on the skin."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvp4d.core.ramps import smoothstep
from mvp4d_jax.studio.traits import Identity


@dataclasses.dataclass
class Ribbons:
    """Ribbons before they become triangles. R ribbons, K points each.

    Attributes:
      points: [R, K, 3] centre lines, metres; width: [R, K] full width.
      outward: [R, K, 3] the side that faces away from the head, any length.
      random: [R] in [0, 1]; colour: [R, 3]; gloss: [R].
      follow: [R] bool: moves with the skin under its root (brows, beard) rather than with the skull.
    """

    points: np.ndarray
    width: np.ndarray
    outward: np.ndarray
    random: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray
    follow: np.ndarray


def scatter(
    weights: np.ndarray, vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points spread evenly by area times weight: the face [count] and barycentrics [count, 3] of each."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    total = np.cumsum(area * weights[faces].mean(1))
    # Shuffled, so that locks left out for want of room are missing evenly.
    ticks = rng.permutation((np.arange(count) + rng.random(count)) / count) * total[-1]
    face = np.minimum(np.searchsorted(total, ticks), len(faces) - 1)
    u, v = rng.random(count), rng.random(count)
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return face, np.stack([1 - u - v, u, v], -1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def on_skin(
    face: np.ndarray, weight: np.ndarray, vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points [R, 3] and normals [R, 3] of the skin at barycentrics."""
    corners = vertices[faces[face]]
    normal = unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    return np.einsum("rc,rcd->rd", weight, corners), normal


def tone(identity: Identity, count: int, rng: np.random.Generator, spread: float) -> np.ndarray:
    """[count, 3] colours of a person's hair that differ in brightness by `spread`, of its logarithm."""
    shade = np.exp(rng.normal(0, spread, count))[:, None] * (1 + rng.normal(0, 0.03, (count, 3)))
    return np.array(identity.hair) * shade


def ease(value: np.ndarray) -> np.ndarray:
    """Smooth from 0 to 1."""
    return smoothstep(value, 0, 1)
