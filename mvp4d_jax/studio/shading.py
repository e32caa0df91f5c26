"""The colour of a sample: skin with fake subsurface scattering, eyes with a catchlight, hair with moving streaks.

Every material is evaluated for every sample and one is picked: that is cheaper than sorting. Highlights are rational
functions that look like the powers and Gaussians of the textbook (Blinn 1977, Kajiya and Kay 1989) and need no
transcendental function.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mvp4d_jax.studio.lighting import LAMPS, Lights

Array = Any
SKIN, EYE, MOUTH, HAIR, CLOTH, METAL = range(6)
# Entries of Figure.traits.
TRAITS = ("scatter", "oiliness", "hair_gloss", "hair_streak", "cloth_pattern", "cloth_scale")


def shade(
    looks: Array,
    corner: Array,
    uv: Array,
    toward: list[Array],
    flip: Array,
    texture: Array,
    eye: Array,
    traits: Array,
    lights: Lights,
) -> list[Array]:
    """Linear RGB, three arrays [P], of P samples.

    Vectors are lists of three [P] arrays throughout: XLA's CPU loops over them run a hundred times faster than
    reductions over an axis of three.

    Args:
      looks: [P, 6] rows of Figure.looks.
      corner: [P, 10] interpolated normal, light, key visibility, tangent.
      uv: [P, 2]; toward: to the camera, any length; flip: [P] -1 where the back of a face is seen.
      texture: [S, S, 4]; eye: [E, E, 3]; traits: [len(TRAITS)].
    """
    trait = dict(zip(TRAITS, traits))
    material, base, random, gloss = looks[:, 0], _columns(looks, 1), looks[:, 4], looks[:, 5]
    across, along_lock = uv[:, 0], uv[:, 1]
    is_eye, is_hair, is_skin, is_cloth = (material == kind for kind in (EYE, HAIR, SKIN, CLOTH))
    turned = jnp.where(is_hair, 1.0, flip)
    normal = _unit([value * turned for value in _columns(corner, 0)])
    view, tangent = _unit(toward), _unit(_columns(corner, 7))
    light = _columns(corner, 3)
    key = jnp.clip((corner[:, 6] - 0.15) / 0.7, 0.0, 1.0)
    key = key * key * (3 - 2 * key)

    texel = _look_up(texture, across, along_lock)  # [P, 4]
    iris = _look_up(eye, 0.5 + 0.5 * across, 0.5 + 0.5 * along_lock)  # [P, 3]
    strands, shift = _streaks(across, along_lock, random, trait)
    stripes = 1.0 + trait["cloth_pattern"] * 0.25 * jnp.sign(_wave(along_lock * trait["cloth_scale"]))
    pattern = jnp.where(is_hair, strands, jnp.where(is_cloth, stripes, 1.0))
    albedo = [jnp.where(is_skin, texel[:, c], jnp.where(is_eye, iris[:, c], base[c] * pattern)) for c in range(3)]
    gloss = jnp.where(is_skin, texel[:, 3], gloss)

    # Key light: wrapped around the terminator, red farthest, as light does that scatters under the skin.
    facing = _dot(normal, lights.directions[0])
    scatter, extra = jnp.where(is_skin, trait["scatter"], 0.25), jnp.where(is_hair, 0.25, 0.0)
    colour = []
    for c, (reach, tint) in enumerate(((1.0, 0.35), (0.45, 0.0), (0.3, -0.10))):
        wrap = scatter * reach + extra
        wrapped = jnp.clip((facing + wrap) / (1.0 + wrap), 0.0, 1.0)
        shadow = 1.0 + jnp.where(is_skin, tint, 0.0) * (1.0 - key)  # shadows on skin end in red
        colour.append(albedo[c] * (light[c] + lights.colours[0, c] * wrapped * key * shadow))

    openness = jnp.clip((light[0] + light[1] + light[2]) / 3 / jnp.mean(lights.sky + lights.ground), 0.0, 1.0)
    power = jnp.where(is_eye, 350.0, 6.0 + 60.0 * gloss * gloss)
    strength = (power + 8.0) / 25.0 * gloss * jnp.where(is_eye, 1.6, trait["oiliness"])
    for lamp in range(LAMPS):
        direction = lights.directions[lamp]
        half = _unit([value + direction[c] for c, value in enumerate(view)])
        reach = key if lamp == 0 else openness
        toward_lamp = _dot(normal, direction)
        # (1 + p (1 - cos) / 4)^-4 stands for cos^p.
        fall = 1.0 / (1.0 + 0.25 * power * (1.0 - jnp.clip(_dot(normal, half), 0.0, 1.0)))
        grazing = 1.0 - jnp.clip(_dot(view, half), 0.0, 1.0)
        fresnel = 0.028 + 0.97 * (grazing * grazing) * (grazing * grazing) * grazing
        smooth = (fall * fall) * (fall * fall) * strength * fresnel * jnp.clip(toward_lamp, 0.0, 1.0)
        along = _dot(tangent, half) + shift
        first, second = _lobe(along / 0.13), _lobe((along - 0.16) / 0.28)
        lit = jnp.clip(0.3 + toward_lamp, 0.0, 1.0) * gloss * trait["hair_gloss"]
        for c in range(3):
            strand = lit * (0.10 * first + second * (0.04 + 0.75 * base[c]))
            colour[c] += reach * lights.colours[lamp, c] * jnp.where(is_hair, strand, smooth)
    grazing = jnp.clip(1.0 - _dot(normal, view), 0.0, 1.0)
    velvet = (grazing * grazing) ** 2 * jnp.where(is_skin, 0.10, jnp.where(is_cloth, 0.06, 0.0)) * openness
    return [value + velvet * lights.sky[c] * 0.8 for c, value in enumerate(colour)]


def _streaks(across: Array, along: Array, random: Array, trait: dict[str, Array]) -> tuple[Array, Array]:
    """Brightness of single strands across a lock of hair, and the shift of their highlight."""
    place = across * 3.1 + random * 57.0
    wave = (
        _wave(place * 2.7)
        + _wave(place * 6.1 + 1.3 + along * 1.5) * 0.8
        + _wave(place * 12.7 + random * 9 + along * 2.0) * 0.6
    )
    root = jnp.clip(along / 0.35, 0.0, 1.0)
    return jnp.maximum(1.0 + trait["hair_streak"] * 0.30 * wave, 0.2) * (0.62 + 0.38 * root), 0.05 * wave


def _wave(angle: Array) -> Array:
    """A sine made of parabolas."""
    turn = angle * (1 / (2 * jnp.pi))
    turn = turn - jnp.floor(turn) - 0.5
    return turn * (jnp.abs(turn) - 0.5) * 16.0


def _lobe(value: Array) -> Array:
    bell = 1.0 / (1.0 + value * value)
    return bell * bell


def _look_up(image: Array, u: Array, v: Array) -> Array:
    """[P, C] nearest texel of an image [S, S, C], v up."""
    size = image.shape[0]
    column = jnp.clip((u * size).astype(jnp.int32), 0, size - 1)
    row = size - 1 - jnp.clip((v * size).astype(jnp.int32), 0, size - 1)
    return image.reshape(size * size, -1)[row * size + column]


def _columns(table: Array, first: int) -> list[Array]:
    return [table[:, first + c] for c in range(3)]


def _dot(a: list[Array], b: Any) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vector: list[Array]) -> list[Array]:
    scale = 1.0 / jnp.sqrt(jnp.maximum(_dot(vector, vector), 1e-12))
    return [value * scale for value in vector]
