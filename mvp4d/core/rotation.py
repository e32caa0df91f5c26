"""Rotations of three-vectors, written out by components, for numpy and JAX arrays alike.

Sums over an axis of length three are spelt out: batched 3 x 3 products are slow on CPUs and rounded to bfloat16 on
TPUs, and XLA's CPU compiler (jax 0.10.2) gets `sum(M * x[..., None, :], -1) + t` wrong beyond 32768 values
(tests/heads/test_rotation.py compares with numpy at such sizes).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def array_namespace(*arrays: Array) -> Any:
    """The array library that computes with `arrays`: the first that is not numpy (`jax.numpy`), else numpy."""
    for item in arrays:
        if not isinstance(item, (np.ndarray, np.generic)) and hasattr(item, "__array_namespace__"):
            return item.__array_namespace__()
    return np


def float32(array: Array) -> Array:
    """The array as float32, in the library that it comes from; plain numbers as numpy's."""
    return array_namespace(array).asarray(array, dtype=np.float32)


def rotation_matrix(axis_angle: Array) -> Array:
    """[..., 3, 3] from axis-angle [..., 3] radians (Rodrigues); exact, with exact gradients, at zero too."""
    xp = array_namespace(axis_angle)
    axis_angle = xp.asarray(axis_angle)
    x, y, z = axis_angle[..., 0], axis_angle[..., 1], axis_angle[..., 2]
    squared = x * x + y * y + z * z
    small = squared < 1e-8
    safe = xp.where(small, 1.0, squared)
    angle = xp.sqrt(safe)
    first = xp.where(small, 1.0 - squared / 6.0, xp.sin(angle) / angle)
    # 2 sin^2(a/2) does not cancel as 1 - cos(a) does.
    second = xp.where(small, 0.5 - squared / 24.0, 2.0 * xp.sin(angle / 2) ** 2 / safe)
    rows = [
        [1.0 - second * (y * y + z * z), second * x * y - first * z, second * x * z + first * y],
        [second * x * y + first * z, 1.0 - second * (x * x + z * z), second * y * z - first * x],
        [second * x * z - first * y, second * y * z + first * x, 1.0 - second * (x * x + y * y)],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def rotate(matrices: Array, vectors: Array) -> Array:
    """[..., 3, 3] x [..., 3] -> [..., 3]; leading axes broadcast."""
    xp = array_namespace(matrices, vectors)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return xp.stack(
        [matrices[..., row, 0] * x + matrices[..., row, 1] * y + matrices[..., row, 2] * z for row in range(3)], axis=-1
    )


def compose(first: Array, second: Array) -> Array:
    """[..., 3, 3] x [..., 3, 3]."""
    xp = array_namespace(first, second)
    return xp.stack([rotate(first, second[..., column]) for column in range(3)], axis=-1)
