"""One window from noise to latents: the sampler's loop over the predictor."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mvp4d_jax.diffusion.samplers import Sampler, SamplerConfig, guidance_acts, guide
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.sampling.plan import Plan, deal_groups
from mvp4d_jax.sampling.predictor import Conditions, Predictor

Array = Any


@dataclasses.dataclass(frozen=True)
class DenoiseOptions:
    """How to denoise; number of steps and guidance scale are in the plan.

    Attributes:
      sampler: "ddim" or "dpm".
      eta: noise added back at every step.
      snr_shift: of the schedule the weights were trained with.
      guidance_interval: share of the noise range in which guidance acts.
      guidance_rescale: see `diffusion.samplers.guide`.
    """

    sampler: str = "dpm"
    eta: float = 0.0
    snr_shift: float = 3.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0


def denoise(predictor: Predictor, conditions: Conditions, plan: Plan, window_index: int, options: DenoiseOptions,
            key: Array, bar: Any = None) -> Array:
    """Samples the latents of one window.

    Args:
      conditions: V noisy views first, then clean views.
      plan: grouping, steps, guidance, seed.
      window_index: which window: its routing differs from the others'.
      key: of the initial noise and of the sampler's.
      bar: progress to `update` once a step.

    Returns:
      [V, L, h, w, C] float32; latent frames that were given clean come out bit-identical.
    """
    config = SamplerConfig(options.sampler, plan.steps, options.eta)
    sampler = Sampler.create(config, NoiseSchedule.cogvideox(options.snr_shift))
    views = plan.views
    clean = jnp.asarray(conditions.clean)  # [V', L]
    kept = clean[..., None, None, None]
    given = jnp.asarray(conditions.clean_latents, jnp.float32)  # [V', L, h, w, C]
    noise_key, step_key = jax.random.split(key)
    x = jnp.where(kept, given, jax.random.normal(noise_key, given.shape, jnp.float32))
    before = jnp.zeros_like(x[:views])
    advance = jax.jit(sampler.step)
    for index, timestep in enumerate(sampler.timesteps.tolist()):
        groups = deal_groups(plan, window_index * plan.steps + index)
        guided = plan.guidance_scale != 1 and guidance_acts(timestep, options.guidance_interval)
        v, unconditional = predictor(x, jnp.where(clean, 0, timestep), conditions, groups, guided)
        if guided:
            v = guide(v, unconditional, plan.guidance_scale, options.guidance_rescale)
        noise = jax.random.normal(jax.random.fold_in(step_key, index), v.shape) if sampler.stochastic else None
        following, before = advance(index, x[:views], v, before, noise)
        x = jnp.where(kept, given, jnp.concatenate([following, x[views:]]))
        if bar is not None:
            bar.update()
    return x[:views]
