"""Classifier-free guidance: the model with its conditions and without them, and what is made of the two."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """Classifier-free guidance.

    Attributes:
      scale: 1: none, the conditional prediction alone. CAP4D uses 2, CogVideoX's text-to-video 6.
      interval: (low, high) fraction of the schedule's timesteps, 0 clean, 1 noise, within which guidance is applied;
        elsewhere the conditional prediction stands. (0, 1): always.
      rescale: 0 .. 1, how far the guided prediction's deviation (per sample) is pulled back to the conditional one's
        (Lin et al., arXiv 2305.08891, section 3.4); against over-saturation at large scales.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self):
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"interval is {self.interval}; it must lie in 0 .. 1, low first")
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale is {self.rescale}; it lies between 0 and 1")

    def active(self, timestep: int | np.integer, steps: int = 1000) -> bool:
        """Whether guidance applies at a timestep: where not, the unconditional pass need not be run at all."""
        return self.scale != 1.0 and self.interval[0] <= int(timestep) / (steps - 1) <= self.interval[1]


def guide(conditional: jax.Array, unconditional: jax.Array, config: GuidanceConfig) -> jax.Array:
    """The guided v prediction, [B, ...] each: u + scale (c - u), rescaled. The interval is the caller's to ask for."""
    guided = unconditional + config.scale * (conditional - unconditional)
    if config.rescale:
        axes = tuple(range(1, guided.ndim))
        factor = conditional.std(axis=axes, keepdims=True) / guided.std(axis=axes, keepdims=True)
        guided = guided * (config.rescale * factor + (1.0 - config.rescale))
    return guided


def keep_conditions(conditions: dict[str, jax.Array], keep: jax.Array, mask: slice) -> dict[str, jax.Array]:
    """The model's conditions where they are kept, and zeros where they are dropped: in training, in validation and for
    guidance. Arrays of numpy stay so.

    Args:
      conditions: by name: conditioning [R, V, L, h, w, Cc], reference_latents [R, h, w, C], reference_conditioning
        [R, h, w, Cc]; without R where `keep` is a single one.
      keep: bool [R], or [] for all rows.
      mask: the channel of the reference mask: which frames are clean stays known.
    """
    keep = keep if isinstance(keep, jax.Array) else np.asarray(keep)
    always = np.zeros(conditions["conditioning"].shape[-1], bool)
    always[mask] = True

    def times(array: jax.Array, kept: jax.Array) -> jax.Array:
        return array * kept.astype(array.dtype)

    def column(array: jax.Array) -> jax.Array:
        return keep.reshape(keep.shape + (1,) * (array.ndim - keep.ndim))

    kept = {name: times(array, column(array)) for name, array in conditions.items()}
    maps = conditions["conditioning"]
    return {**kept, "conditioning": times(maps, column(maps) | always)}
