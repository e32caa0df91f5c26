"""Light of the studio: a soft environment, held as second-order spherical harmonics, and a few lamps with highlights.

Diffuse light is precomputed radiance transfer (Sloan et al. 2002): a vertex stores how much of the sphere it sees,
weighted by the cosine to its normal, in nine coefficients; the environment is nine coefficients per colour, turned
into head space frame by frame; their product is light with soft self-shadowing, and costs nine multiplications.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any
LAMPS = 4  # key, fill, rim, kicker


@dataclasses.dataclass(frozen=True)
class Lights:
    """An environment in world axes.

    Attributes:
      directions: [4, 3] unit vectors towards the lamps; the first is the key light.
      colours: [4, 3] linear RGB strength.
      softness: [4] 0 a small lamp, 1 a window.
      sky, ground: [3] linear RGB radiance from above and from below.
    """

    directions: Array
    colours: Array
    softness: Array
    sky: Array
    ground: Array


jax.tree_util.register_dataclass(Lights, [field.name for field in dataclasses.fields(Lights)], [])


def draw_lights(rng: np.random.Generator) -> Lights:
    """A portrait set-up from a seed: key at 20-60 degrees to one side, fill on the other, rims from behind."""
    side = rng.choice([-1.0, 1.0])
    azimuth = np.radians(
        [
            rng.uniform(15, 60) * side,
            -rng.uniform(25, 75) * side,
            rng.uniform(125, 165) * side,
            -rng.uniform(110, 160) * side,
        ]
    )
    elevation = np.radians([rng.uniform(18, 50), rng.uniform(0, 25), rng.uniform(15, 50), rng.uniform(5, 40)])
    directions = np.stack(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], -1
    )
    warmth = rng.normal(0, 0.06)
    tints = np.array(
        [[1 + warmth, 1.0, 1 - warmth], [1 - warmth, 1.0, 1 + warmth], [1.0, 1.0, 1.03], [1 + warmth, 1.0, 1 - warmth]]
    )
    strength = rng.uniform([0.55, 0.18, 0.25, 0.2], [0.95, 0.4, 0.6, 0.5])
    level = rng.uniform(0.42, 0.6)
    return Lights(
        directions.astype(np.float32),
        (tints * strength[:, None]).astype(np.float32),
        np.array([rng.uniform(0.3, 0.9), 0.9, 0.5, 0.6], np.float32),
        (level * np.array([0.98, 1.0, 1.04])).astype(np.float32),
        (level * rng.uniform(0.45, 0.75) * np.array([1.05, 1.0, 0.94])).astype(np.float32),
    )


def harmonics(d: Array) -> Array:
    """Nine real spherical harmonics of unit vectors [..., 3] -> [..., 9] (orders 0, 1, 2; Ramamoorthi 2001)."""
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    one = x * 0 + 1
    stack = jnp.stack if isinstance(d, jax.Array) else np.stack
    return stack(
        [
            0.282095 * one,
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        -1,
    )


def environment(lights: Lights, rotation: Array) -> Array:
    """Coefficients [9, 3] of all light but the key's, seen from head space.

    Args:
      rotation: [3, 3] head to world.
    """
    # A lamp is a lobe: its bands fall off with order, the faster the softer it is.
    bands = jnp.array([1.0, 1, 1, 1, 2, 2, 2, 2, 2]) - jnp.array([1.0, 0, 0, 0, 0, 0, 0, 0, 0])
    falloff = (1.0 - 0.35 * lights.softness[:, None]) ** (bands**2)  # [4, 9]
    toward = lights.directions @ rotation  # rows are R^T d
    lamps = harmonics(toward) * falloff  # [4, 9]
    share = jnp.ones(LAMPS).at[0].set(0.25)  # most of the key is direct, see `rendering`
    coefficients = jnp.pi * (lamps * share[:, None]).T @ lights.colours  # [9, 3]
    up = jnp.array([0.0, 1.0, 0.0]) @ rotation
    mean, slope = (lights.sky + lights.ground) / 2, (lights.sky - lights.ground) / 2
    coefficients = coefficients.at[0].add(mean * jnp.sqrt(4 * jnp.pi))
    axis = jnp.stack([up[1], up[2], up[0]]) * jnp.sqrt(4 * jnp.pi / 3)
    return coefficients.at[1:4].add(axis[:, None] * slope)
