"""The colour of a sample: skin with fake subsurface scattering, eyes with iris and catchlight, hair with moving streaks.

Every material is evaluated for every sample and one is picked: on a CPU and on a GPU alike that is cheaper than sorting.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mvp4d_jax.studio.lighting import LAMPS, Lights

Array = Any
SKIN, EYE, MOUTH, HAIR, CLOTH, METAL = range(6)
# Entries of Figure.traits.
TRAITS = ("iris_r", "iris_g", "iris_b", "iris_radius", "pupil_radius", "iris_seed", "sclera", "scatter", "oiliness",
          "hair_gloss", "hair_streak", "cloth_pattern", "cloth_scale", "lens")


def shade(looks: Array, corner: Array, uv: Array, toward: Array, flip: Array, texture: Array, traits: Array,
          lights: Lights) -> Array:
    """Linear RGB of P samples.

    Args:
      looks: [P, 8] rows of Figure.looks.
      corner: [P, 10] interpolated normal, light, key visibility, tangent.
      uv: [P, 2]; toward: [P, 3] to the camera, any length; flip: [P] -1 where the back of a face is seen.
      texture: [S, S, 4]; traits: [len(TRAITS)].
    """
    trait = dict(zip(TRAITS, traits))
    material = looks[:, 0]
    is_eye, is_hair, is_skin = material == EYE, material == HAIR, material == SKIN
    normal = corner[:, :3]
    normal = normal * jnp.where(is_hair, 1.0, flip)[:, None]
    normal = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    view = toward / jnp.linalg.norm(toward, axis=-1, keepdims=True)
    light = corner[:, 3:6]
    key = jnp.clip((corner[:, 6] - 0.15) / 0.7, 0.0, 1.0)
    key = key * key * (3 - 2 * key)

    size = texture.shape[0]
    cell = jnp.clip((uv * size).astype(jnp.int32), 0, size - 1)
    texel = texture.reshape(-1, 4)[(size - 1 - cell[:, 1]) * size + cell[:, 0]]  # [P, 4]
    iris = _eye(uv, trait)
    base = looks[:, 1:4]
    strands, shift = _streaks(uv, looks[:, 4], trait)
    cloth = 1.0 + trait["cloth_pattern"] * 0.25 * jnp.sign(jnp.sin(uv[:, 1] * trait["cloth_scale"]))
    albedo = jnp.where(is_skin[:, None], texel[:, :3], base)
    albedo = jnp.where(is_eye[:, None], iris, albedo)
    albedo = jnp.where(is_hair[:, None], albedo * strands[:, None], albedo)
    albedo = jnp.where((material == CLOTH)[:, None], albedo * cloth[:, None], albedo)
    gloss = jnp.where(is_skin, texel[:, 3], looks[:, 5])

    # Key light: wrapped around the terminator, red farthest, as light does that scatters under the skin.
    facing = normal @ lights.directions[0]
    scatter = jnp.where(is_skin, trait["scatter"], 0.25)[:, None]
    wrap = scatter * jnp.array([1.0, 0.45, 0.3]) + jnp.where(is_hair, 0.25, 0.0)[:, None]
    wrapped = jnp.clip((facing[:, None] + wrap) / (1.0 + wrap), 0.0, 1.0)
    tint = jnp.where(is_skin[:, None], jnp.array([0.75, 1.0, 1.1]), 1.0)
    direct = lights.colours[0] * wrapped * jnp.maximum(key, 1e-3)[:, None] ** tint
    colour = albedo * (light + direct)

    openness = jnp.clip(light.mean(-1) / jnp.mean(lights.sky + lights.ground), 0.0, 1.0)
    shine = jnp.zeros_like(colour)
    rim = jnp.clip(1.0 - jnp.sum(normal * view, -1), 0.0, 1.0) ** 4
    tangent = corner[:, 7:10]
    tangent = tangent / jnp.maximum(jnp.linalg.norm(tangent, axis=-1, keepdims=True), 1e-6)
    power = jnp.where(is_eye, 350.0, 6.0 + 60.0 * gloss**2)
    for lamp in range(LAMPS):
        direction = lights.directions[lamp]
        half = view + direction
        half = half / jnp.maximum(jnp.linalg.norm(half, axis=-1, keepdims=True), 1e-6)
        reach = key if lamp == 0 else openness
        facing = jnp.clip(normal @ direction, 0.0, 1.0)
        blinn = jnp.clip(jnp.sum(normal * half, -1), 0.0, 1.0) ** power * (power + 8.0) / 25.0
        fresnel = 0.028 + 0.97 * (1.0 - jnp.clip(jnp.sum(view * half, -1), 0.0, 1.0)) ** 5
        smooth = blinn * fresnel * facing * gloss * jnp.where(is_eye, 1.6, trait["oiliness"])
        along = jnp.sum(tangent * half, -1) + shift
        first = jnp.exp(-((along / 0.10) ** 2))
        second = jnp.exp(-(((along - 0.16) / 0.22) ** 2))
        lit = jnp.clip(0.3 + normal @ direction, 0.0, 1.0)
        strand = lit[:, None] * (0.10 * first[:, None] + second[:, None] * (0.04 + 0.75 * base))
        strand = strand * trait["hair_gloss"] * looks[:, 5:6]
        shine += reach[:, None] * lights.colours[lamp] * jnp.where(is_hair[:, None], strand, smooth[:, None])
    velvet = rim * jnp.where(is_skin, 0.10, jnp.where(material == CLOTH, 0.06, 0.0)) * openness
    return colour + shine + velvet[:, None] * (lights.sky * 0.8)


def _eye(direction: Array, trait: dict[str, Array]) -> Array:
    """Albedo of the eyeball from the direction (x, y) of a point seen from its centre, in units of its radius."""
    radius = jnp.sqrt(jnp.sum(direction**2, -1) + 1e-12)
    angle = jnp.arctan2(direction[:, 1], direction[:, 0])
    inner = jnp.clip(radius / trait["iris_radius"], 0.0, 1.0)
    seed = trait["iris_seed"]
    fibres = (jnp.sin(angle * 23 + seed + 2 * jnp.sin(angle * 7 + seed)) * 0.5
              + jnp.sin(angle * 41 - 3 * seed) * 0.3 + jnp.sin(angle * 11 + 5 * seed) * 0.2)
    iris = jnp.stack([trait["iris_r"], trait["iris_g"], trait["iris_b"]])
    ring = _step(0.78, 1.0, inner)
    warm = _step(0.62, 0.35, inner)
    shade = (0.85 + 0.35 * fibres * inner + 0.45 * _step(0.3, 0.75, inner)) * (1.0 - 0.78 * ring)
    colour = iris * shade[:, None] * (1 + warm[:, None] * jnp.array([0.35, 0.12, -0.15]))
    pupil = _step(trait["pupil_radius"] * 1.12, trait["pupil_radius"] * 0.9, radius)
    colour = colour * (1.0 - pupil[:, None]) + 0.004 * pupil[:, None]
    veins = jnp.clip((radius - 0.45) / 0.5, 0.0, 1.0)[:, None]
    white = trait["sclera"] * jnp.array([1.0, 0.965, 0.945]) * (1 - veins * jnp.array([0.05, 0.22, 0.24]))
    edge = _step(trait["iris_radius"] * 1.06, trait["iris_radius"] * 0.95, radius)[:, None]
    return white * (1 - edge) + colour * edge


def _streaks(uv: Array, random: Array, trait: dict[str, Array]) -> tuple[Array, Array]:
    """Brightness of single strands across a lock of hair, and the shift of their highlight."""
    across = uv[:, 0] * 3.1 + random * 57.0
    wave = (jnp.sin(across * 2.7) + jnp.sin(across * 6.1 + 1.3 + uv[:, 1] * 1.5) * 0.8
            + jnp.sin(across * 12.7 + random * 9 + uv[:, 1] * 2.0) * 0.6)
    bright = 1.0 + trait["hair_streak"] * 0.30 * wave
    root = 0.62 + 0.38 * _step(0.0, 0.35, uv[:, 1])
    return jnp.maximum(bright, 0.2) * root, 0.05 * wave


def _step(low: Any, high: Any, value: Array) -> Array:
    t = jnp.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)
