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

    A step is x' = keep x + mix x0 - lean (previous x0) + noise z, with x0 the predicted clean sample and z ~ N(0, I).

    Attributes:
      config, schedule: what it was made of.
      timesteps: int32 [N], falling, the timestep that the model is asked at in each step; the first is 999.
      coefficients: float32 [N, 6]: sqrt(a_t), sqrt(1 - a_t), keep, mix, lean, noise.
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
        signal, sigma, keep, mix, lean, noise = jnp.asarray(self.coefficients)[index]
        x = state.sample.astype(jnp.float32)
        x0 = signal * x - sigma * v.astype(jnp.float32)
        result = keep * x + mix * x0 - lean * state.previous.astype(jnp.float32)
        if self.config.stochasticity:
            result += noise * jax.random.normal(jax.random.fold_in(key, index), x.shape)
        result = result.astype(state.sample.dtype)
        if clean is not None:
            result = insert_clean(result, state.sample, clean)
        return SamplerState(result, x0.astype(state.sample.dtype))


def make_sampler(config: SamplerConfig, schedule: NoiseSchedule) -> Sampler:
    """Work out a sampler's timesteps and coefficients.

    Timesteps are spaced "trailing", from the very last one (pure noise) down, and each step goes to the next of the
    list, the last to a clean sample: nothing misaligns when N does not divide the number of timesteps.

    DDIM: Song et al., arXiv 2010.02502, eqs. 12 and 16. DPM-Solver++(2M) and its SDE form: Lu et al., arXiv 2211.01095,
    with h the step in half log-SNR and r = h_last / h; the first and last steps are of first order, as in CogVideoX.

    Raises:
      ValueError: more steps than timesteps.
    """
    count, total = config.steps, schedule.steps
    if count > total:
        raise ValueError(f"{count} steps are more than the schedule's {total} timesteps")
    # Half to even, like the rounding that the original models' schedulers apply.
    timesteps = np.round((count - np.arange(count)) * (total / count)).astype(np.int32) - 1
    a = schedule.alphas_cumprod[timesteps]
    a_next = np.append(a[1:], 1.0)
    rows = (
        _ddim_rows(a, a_next, config.stochasticity)
        if config.method == "ddim"
        else _dpm_rows(a, a_next, config.stochasticity)
    )
    table = np.stack([np.sqrt(a), np.sqrt(1.0 - a), *rows], axis=1)
    return Sampler(config, schedule, timesteps, table.astype(np.float32))


def _ddim_rows(a: np.ndarray, a_next: np.ndarray, stochasticity: float) -> tuple[np.ndarray, ...]:
    """keep, mix, lean, noise of each step from alpha_bar `a` to `a_next`."""
    variance = (1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next)
    noise = stochasticity * np.sqrt(variance)
    keep = np.sqrt(np.maximum(1.0 - a_next - noise**2, 0.0) / (1.0 - a))
    return keep, np.sqrt(a_next) - np.sqrt(a) * keep, np.zeros_like(a), noise


def _dpm_rows(a: np.ndarray, a_next: np.ndarray, stochasticity: float) -> tuple[np.ndarray, ...]:
    """keep, mix, lean, noise of each step; `stochasticity` runs from the ODE's solver (0) to the SDE's (1).

    With s the stochasticity, both are one formula, which keeps the schedule's mean and variance for every s:
    x' = sqrt((1-a')/(1-a)) exp(-s h) x + sqrt(a') (1 - exp(-(1+s) h)) D + sqrt(1-a') sqrt(1 - exp(-2 s h)) z.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        half_log_snr = 0.5 * (np.log(a) - np.log1p(-a))  # -inf at pure noise
        half_log_snr_next = 0.5 * (np.log(a_next) - np.log1p(-a_next))  # +inf at the clean sample
        h = half_log_snr_next - half_log_snr
        ratio = h[:-1] / h[1:]  # h_last / h of every step but the first
        lean = np.concatenate([[0.0], 0.5 / ratio])  # infinite first h: no lean
    lean[-1] = 0.0  # into the clean sample: first order
    forgotten = stochasticity * h if stochasticity else np.zeros_like(h)  # 0 x infinity is 0 here
    keep = np.sqrt((1.0 - a_next) / (1.0 - a)) * np.exp(-forgotten)
    gain = np.sqrt(a_next) * -np.expm1(-(forgotten + h))
    return keep, gain * (1.0 + lean), gain * lean, np.sqrt((1.0 - a_next) * -np.expm1(-2.0 * forgotten))


def insert_clean(sample: jax.Array, values: jax.Array, clean: jax.Array) -> jax.Array:
    """`values` where `clean` (bool, its shape leads the sample's), `sample` elsewhere; bit for bit."""
    return jnp.where(clean.reshape(clean.shape + (1,) * (sample.ndim - clean.ndim)), values, sample)
