"""One window from noise to latents: the sampler's loop over the predictor."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax.diffusion.guidance import GuidanceConfig
from mvp4d_jax.diffusion.samplers import Sampler, SamplerConfig, SamplerState, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.sampling.plan import SamplingPlan, deal_groups
from mvp4d_jax.sampling.predictor import Conditions, Predictor

Array = Any


@dataclasses.dataclass(frozen=True)
class DenoiseOptions:
    """How to denoise; the number of steps and the guidance scale are the plan's.

    Attributes:
      method: "ddim" or "dpm".
      stochasticity: noise drawn anew at every step, 0 to 1.
      snr_shift: of the schedule the weights were trained with.
      guidance_interval: share of the noise range in which guidance acts.
      guidance_rescale: 0 to 1, see `diffusion.guidance.GuidanceConfig`.
    """

    method: str = "dpm"
    stochasticity: float = 0.0
    snr_shift: float = 3.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0

    def sampler(self, plan: SamplingPlan) -> SamplerConfig:
        return SamplerConfig(self.method, plan.steps, self.stochasticity)

    def guidance(self, plan: SamplingPlan) -> GuidanceConfig:
        return GuidanceConfig(plan.guidance_scale, self.guidance_interval, self.guidance_rescale)


def denoise(
    predictor: Predictor,
    conditions: Conditions,
    plan: SamplingPlan,
    window_index: int,
    options: DenoiseOptions,
    key: Array,
    bar: Any = None,
) -> Array:
    """Samples the latents of one window.

    Args:
      conditions: V noisy views first, then clean views.
      plan: grouping, steps, guidance, seed.
      window_index: which window: its routing differs from the others'.
      key: of the run's noise: the initial one, which all windows share (`window_noise`), and the sampler's.
      bar: progress to `update` once a step.

    Returns:
      [V, L, h, w, C] float32; latent frames that were given clean come out bit-identical.
    """
    sampler = sampler_of(plan, options)
    guidance = options.guidance(plan)
    clean, given = np.asarray(conditions.clean), np.asarray(conditions.clean_latents, np.float32)
    noise_key, step_key = jax.random.split(key)
    step_key = predictor.place(jax.random.fold_in(step_key, window_index))
    noise = window_noise(noise_key, plan, window_index, given.shape)
    start = np.where(clean[..., None, None, None], given, noise)[: plan.views]
    state = predictor.place(SamplerState(start, np.zeros_like(start)))
    conditions = predictor.place(conditions)
    for index in range(plan.steps):
        groups = deal_groups(plan, window_index * plan.steps + index)
        state = predictor.step(sampler, guidance, state, index, step_key, conditions, groups)
        if bar is not None:
            bar.update()
    return state.sample


def window_noise(key: Array, plan: SamplingPlan, window_index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise a window starts from, [V, L, h, w, C] float32: that of its neighbours, mirrored in time.

    The last latent frame of a window and the first new one of the next are thereby drawn from the same noise, so that
    what neither the photo nor the maps decide comes out alike on both sides of a seam. Within a window every number
    is drawn on its own, as in training.
    """
    noise = np.array(jax.random.normal(key, shape, jnp.float32))
    if window_index % 2:
        new = plan.windows[window_index].clean_latents  # the first latent frame that this window makes
        noise[:, new:] = noise[:, new:][:, ::-1].copy()
    return noise


def compile_denoising(
    predictor: Predictor, conditions: Conditions, plan: SamplingPlan, options: DenoiseOptions
) -> None:
    """Compiles what `denoise` runs for conditions of such shapes and dtypes."""
    jax.random.normal(jax.random.key(0), conditions.clean_latents.shape, jnp.float32)
    predictor.compile_step(
        sampler_of(plan, options), options.guidance(plan), conditions, deal_groups(plan, 0).shape, plan.views
    )


def sampler_of(plan: SamplingPlan, options: DenoiseOptions) -> Sampler:
    """The one object of these settings."""
    return _sampler(options.sampler(plan), options.snr_shift)


@functools.lru_cache(maxsize=8)
def _sampler(config: SamplerConfig, snr_shift: float) -> Sampler:
    """One object per setting, so that its step is compiled once for all windows and runs."""
    return make_sampler(config, NoiseSchedule.cogvideox(snr_shift))
