"""Rotations of three-vectors, written out by components.

Sums over an axis of length three are spelt out on purpose: batched 3 x 3 products are slow on CPUs and rounded to
bfloat16 on TPUs, and XLA's CPU compiler (jax 0.10.2) gets `sum(M * x[..., None, :], -1) + t` wrong beyond 32768 values
(tests/heads/test_rotation.py holds our version against numpy at such sizes).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


def rotation_matrix(axis_angle: Array) -> Array:
    """[..., 3, 3] from axis-angle [..., 3] radians (Rodrigues); exact, with exact gradients, at zero too."""
    axis_angle = jnp.asarray(axis_angle)
    x, y, z = axis_angle[..., 0], axis_angle[..., 1], axis_angle[..., 2]
    squared = x * x + y * y + z * z
    small = squared < 1e-8
    safe = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe)
    first = jnp.where(small, 1.0 - squared / 6.0, jnp.sin(angle) / angle)
    # 2 sin^2(a/2) does not cancel as 1 - cos(a) does.
    second = jnp.where(small, 0.5 - squared / 24.0, 2.0 * jnp.sin(angle / 2) ** 2 / safe)
    rows = [
        [1.0 - second * (y * y + z * z), second * x * y - first * z, second * x * z + first * y],
        [second * x * y + first * z, 1.0 - second * (x * x + z * z), second * y * z - first * x],
        [second * x * z - first * y, second * y * z + first * x, 1.0 - second * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def rotate(matrices: Array, vectors: Array) -> Array:
    """[..., 3, 3] x [..., 3] -> [..., 3]; leading axes broadcast. numpy where both are numpy, else JAX."""
    xp = jnp if isinstance(matrices, jax.Array) or isinstance(vectors, jax.Array) else np
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return xp.stack([matrices[..., row, 0] * x + matrices[..., row, 1] * y + matrices[..., row, 2] * z
                     for row in range(3)], axis=-1)


def compose(first: Array, second: Array) -> Array:
    """[..., 3, 3] x [..., 3, 3]."""
    return jnp.stack([rotate(first, second[..., column]) for column in range(3)], axis=-1)
