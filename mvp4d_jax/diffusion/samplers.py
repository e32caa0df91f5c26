"""DDIM and DPM-Solver++(2M) for v-prediction under zero terminal SNR.

A sampling loop is a fold over `SamplerConfig.steps` steps with a small carry, and works as a Python loop (one jitted
step, which a plan of several groups needs) or under `jax.lax`:

    sampler = make_sampler(SamplerConfig(steps=50), schedule)
    state = sampler.start(noise)                                   # clean frames may already stand in it
    for index in range(sampler.config.steps):
        timesteps = sampler.timesteps_for(index, clean)             # [B, V, L], 0 where clean
        v = model(state.sample, timesteps, ...)
        state = sampler.step(state, v, index, key, clean=clean)     # index may be traced
    latents = state.sample
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax.diffusion.schedule import NoiseSchedule

METHODS = ("ddim", "dpm")


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How a sample is denoised.

    Attributes:
      method: "ddim" (first order), or "dpm" (DPM-Solver++(2M), second order).
      steps: denoising steps N, 1 .. 1000; N need not divide 1000.
      stochasticity: how much of a step's noise is drawn anew, 0 .. 1. 0: deterministic. 1: DDPM's ancestral sampling
        ("ddim"), or SDE-DPM-Solver++ ("dpm", what CogVideoX's 5B uses).
    """

    method: str = "ddim"
    steps: int = 50
    stochasticity: float = 0.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; allowed are {', '.join(METHODS)}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least one is needed")
        if not 0.0 <= self.stochasticity <= 1.0:
            raise ValueError(f"stochasticity is {self.stochasticity}; it lies between 0 and 1")


class SamplerState(NamedTuple):
    """What goes from one step to the next.

    Attributes:
      sample: the latents, of any shape.
      previous: the clean sample predicted one step before; read by the second-order method from its second step on.
    """

    sample: jax.Array
    previous: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A config worked out for a schedule: one row of coefficients per step, float32 of float64.

    A step from timestep t to s < t, for the v-prediction v (Salimans and Ho, arXiv 2202.00512):

        x0  = alpha_t x_t - sigma_t v
        x_s = sample_coeff x_t + x0_coeff x0 - multistep_coeff (x0 of the step before) + noise_std z,   z ~ N(0, I)

    with alpha_t = sqrt(alphas_cumprod[t]) and sigma_t = sqrt(1 - alphas_cumprod[t]).

    Attributes:
      config, schedule: what it was made of.
      timesteps: int32 [N], falling, the timestep that the model is asked at in each step; the first is 999.
      coefficients: float32 [N, 6]: alpha_t, sigma_t, sample_coeff, x0_coeff, multistep_coeff, noise_std.
    """

    config: SamplerConfig
    schedule: NoiseSchedule
    timesteps: np.ndarray
    coefficients: np.ndarray

    def start(self, noise: jax.Array) -> SamplerState:
        """The state before the first step: standard normal `noise`, clean frames put in beforehand (`insert_clean`)."""
        return SamplerState(noise, jnp.zeros_like(noise))

    def timesteps_for(self, index: int | jax.Array, clean: jax.Array) -> jax.Array:
        """What the model is told at step `index`, of `clean`'s shape: 0 where clean (bool), else the step's."""
        return jnp.where(clean, 0, jnp.asarray(self.timesteps)[index])

    def step(
        self,
        state: SamplerState,
        v: jax.Array,
        index: int | jax.Array,
        key: jax.Array | None = None,
        *,
        clean: jax.Array | None = None,
    ) -> SamplerState:
        """One step of denoising, computed in float32.

        Args:
          state: before the step.
          v: the model's (guided) prediction at `timesteps[index]`, of the sample's shape.
          index: which step, 0 .. N-1; may be traced.
          key: random key of the whole run, folded with `index` here. Needed if `stochasticity` > 0.
          clean: bool, of a shape that leads the sample's (say [B, V, L]); True passes through bit-identically.

        Raises:
          ValueError: a stochastic sampler was given no key.
        """
        if self.config.stochasticity and key is None:
            raise ValueError("a stochastic sampler draws noise: give step() a key")
        alpha, sigma, sample_coeff, x0_coeff, multistep_coeff, noise_std = jnp.asarray(self.coefficients)[index]
        x = state.sample.astype(jnp.float32)
        x0 = alpha * x - sigma * v.astype(jnp.float32)
        result = sample_coeff * x + x0_coeff * x0 - multistep_coeff * state.previous.astype(jnp.float32)
        if self.config.stochasticity:
            result += noise_std * jax.random.normal(jax.random.fold_in(key, index), x.shape)
        result = result.astype(state.sample.dtype)
        if clean is not None:
            result = insert_clean(result, state.sample, clean)
        return SamplerState(result, x0.astype(state.sample.dtype))


def make_sampler(config: SamplerConfig, schedule: NoiseSchedule) -> Sampler:
    """Work out a sampler's timesteps and coefficients.

    Timesteps are spaced "trailing", from the very last one (pure noise) down, and each step goes to the next of the
    list, the last to a clean sample: nothing misaligns when N does not divide the number of timesteps.

    DDIM: Song et al., arXiv 2010.02502. DPM-Solver++(2M) and its SDE form: Lu et al., arXiv 2211.01095; the first and
    last steps are of first order, as in CogVideoX.

    Raises:
      ValueError: more steps than timesteps.
    """
    count, total = config.steps, schedule.steps
    if count > total:
        raise ValueError(f"{count} steps are more than the schedule's {total} timesteps")
    # Half to even, like the rounding that the original models' schedulers apply.
    timesteps = np.round((count - np.arange(count)) * (total / count)).astype(np.int32) - 1
    alpha_bar = schedule.alphas_cumprod[timesteps]
    alpha_bar_next = np.append(alpha_bar[1:], 1.0)
    coefficients = _ddim_coefficients if config.method == "ddim" else _dpm_coefficients
    columns = coefficients(alpha_bar, alpha_bar_next, config.stochasticity)
    table = np.stack([np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar), *columns], axis=1)
    return Sampler(config, schedule, timesteps, table.astype(np.float32))


def _ddim_coefficients(alpha_bar: np.ndarray, alpha_bar_next: np.ndarray, eta: float) -> tuple[np.ndarray, ...]:
    """sample_coeff, x0_coeff, multistep_coeff, noise_std of each step from alpha_bar a to a', [N] each.

    DDIM, Song et al., arXiv 2010.02502, eqs. 12 and 16, with eps = (x - sqrt(a) x0) / sqrt(1 - a):

        noise_std = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')
        x' = sqrt(a') x0 + sqrt(1 - a' - noise_std^2) eps + noise_std z
    """
    variance = (1.0 - alpha_bar_next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_next)
    noise_std = eta * np.sqrt(variance)
    sample_coeff = np.sqrt(np.maximum(1.0 - alpha_bar_next - noise_std**2, 0.0) / (1.0 - alpha_bar))
    x0_coeff = np.sqrt(alpha_bar_next) - np.sqrt(alpha_bar) * sample_coeff
    return sample_coeff, x0_coeff, np.zeros_like(alpha_bar), noise_std


def _dpm_coefficients(
    alpha_bar: np.ndarray, alpha_bar_next: np.ndarray, stochasticity: float
) -> tuple[np.ndarray, ...]:
    """sample_coeff, x0_coeff, multistep_coeff, noise_std of each step from alpha_bar a to a', [N] each.

    DPM-Solver++(2M), Lu et al., arXiv 2211.01095, algorithm 2 (stochasticity s = 0), and SDE-DPM-Solver++(2M) of the
    same paper (s = 1). With lambda = log(alpha / sigma), half the log-SNR, h = lambda' - lambda and r = h_last / h:

        D  = x0 + (x0 - x0_last) / (2 r)
        x' = (sigma' / sigma) exp(-s h) x + alpha' (1 - exp(-(1 + s) h)) D + sigma' sqrt(1 - exp(-2 s h)) z

    which keeps the schedule's mean and variance for every s between the two.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        half_log_snr = 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))  # -inf at pure noise
        half_log_snr_next = 0.5 * (np.log(alpha_bar_next) - np.log1p(-alpha_bar_next))  # +inf at the clean sample
        h = half_log_snr_next - half_log_snr
        r = h[:-1] / h[1:]  # of every step but the first
        correction = np.concatenate([[0.0], 0.5 / r])  # 1 / (2 r); 0 where h_last is infinite
    correction[-1] = 0.0  # into the clean sample: first order
    s_h = stochasticity * h if stochasticity else np.zeros_like(h)  # 0 x infinity is 0 here
    sample_coeff = np.sqrt((1.0 - alpha_bar_next) / (1.0 - alpha_bar)) * np.exp(-s_h)
    d_coeff = np.sqrt(alpha_bar_next) * -np.expm1(-(s_h + h))
    noise_std = np.sqrt((1.0 - alpha_bar_next) * -np.expm1(-2.0 * s_h))
    return sample_coeff, d_coeff * (1.0 + correction), d_coeff * correction, noise_std


def insert_clean(sample: jax.Array, values: jax.Array, clean: jax.Array) -> jax.Array:
    """`values` where `clean` (bool, its shape leads the sample's), `sample` elsewhere; bit for bit."""
    return jnp.where(clean.reshape(clean.shape + (1,) * (sample.ndim - clean.ndim)), values, sample)
