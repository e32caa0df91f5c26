"""DDIM and DPM-Solver++(2M) for v-prediction with zero terminal SNR.

Either is linear in what it is given: x_next = a x + b x0 + c x0_before + s noise. The coefficients depend on the step
alone, so they are computed once, in float64; timesteps are read off the grid itself, so that no number of steps leaves
the grid (`t - 1000 // N` does when N does not divide 1000).

DDIM: Song et al. 2020 (arXiv 2010.02502), formulas 12 and 16. DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), and
its stochastic form as CogVideoX uses it, joined by `eta` (Gonzalez et al. 2023, k-diffusion's `dpmpp_2m_sde`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.errors import UserError

KINDS = ("ddim", "dpm")


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """Which sampler, and how.

    Attributes:
      kind: "ddim" or "dpm" (DPM-Solver++(2M)).
      steps: 1 to the schedule's length.
      eta: noise added back at every step: 0 deterministic, 1 as much as the reverse process has. CogVideoX's own are
        DDIM at 0 and DPM at 1.
    """

    kind: str = "dpm"
    steps: int = 50
    eta: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError("sampler", f"'{self.kind}' is unknown", f"choose from {', '.join(KINDS)}")
        if self.steps < 1:
            raise UserError("sampler steps", f"{self.steps} is not positive")
        if not 0 <= self.eta <= 1:
            raise UserError("sampler eta", f"{self.eta} is not between 0 and 1")


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler over a schedule, as tables. N steps.

    Attributes:
      timesteps: [N] int, falling from the schedule's last (trailing spacing).
      coefficients: [N, 4] float64 (a, b, c, s) of x_next = a x + b x0 + c x0_before + s noise.
      stochastic: whether any s is above 0.
    """

    schedule: NoiseSchedule
    timesteps: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def create(cls, config: SamplerConfig, schedule: NoiseSchedule) -> "Sampler":
        """Computes the tables.

        Raises:
          UserError: more steps than the schedule has.
        """
        if config.steps > schedule.steps:
            raise UserError("sampler steps", f"{config.steps} is more than the schedule's {schedule.steps}")
        timesteps = trailing_timesteps(config.steps, schedule.steps)
        # alpha_bar of every grid point, and 1 (clean) behind the last.
        alphas = np.append(schedule.alphas_cumprod[timesteps], 1.0)
        table = (_ddim if config.kind == "ddim" else _dpm)(alphas, config.eta)
        return cls(schedule, timesteps, table)

    @property
    def stochastic(self) -> bool:
        return bool((self.coefficients[:, 3] > 0).any())

    def step(self, index: jax.Array | int, x: jax.Array, v: jax.Array, x0_before: jax.Array,
             noise: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """One step from grid point `index` to the next.

        Args:
          index: 0 .. N - 1; may be traced.
          x: [...] at timesteps[index], float32.
          v: [...] predicted there.
          x0_before: [...] x0 of the step before; anything finite at the first step.
          noise: [...] standard normal; needed when `stochastic`.

        Returns:
          x at the next grid point (clean after the last), and this step's x0.
        """
        timestep = jnp.asarray(self.timesteps)[index]
        x0 = self.schedule.x0_from_v(x, v, timestep)
        a, b, c, s = jnp.asarray(self.coefficients, jnp.float32)[index]
        following = a * x + b * x0 + c * x0_before
        if self.stochastic:
            following += s * noise
        return following, x0


def trailing_timesteps(count: int, length: int = 1000) -> np.ndarray:
    """[count] int timesteps from length - 1 down, evenly ("trailing" of arXiv 2305.08891, table 2)."""
    return np.round(np.arange(count, 0, -1) * (length / count)).astype(np.int64) - 1


def _ddim(alphas: np.ndarray, eta: float) -> np.ndarray:
    """[N, 4] from alpha_bar [N + 1] along the grid, the clean end last."""
    now, after = alphas[:-1], alphas[1:]
    noise = eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
    a = np.sqrt(np.maximum(1 - after - noise**2, 0) / (1 - now))
    b = np.sqrt(after) - a * np.sqrt(now)
    return np.stack([a, b, np.zeros_like(a), noise], axis=1)


def _dpm(alphas: np.ndarray, eta: float) -> np.ndarray:
    """[N, 4] likewise. First order where a log-SNR step is infinite: from pure noise, and to the clean end."""
    with np.errstate(divide="ignore"):
        half_log_snr = 0.5 * (np.log(alphas) - np.log1p(-alphas))  # lambda, -inf .. inf
    table = np.zeros((len(alphas) - 1, 4))
    for index in range(len(table)):
        now, after = alphas[index], alphas[index + 1]
        h = half_log_snr[index + 1] - half_log_snr[index]
        if np.isinf(h) and after == 1:
            table[index] = 0, 1, 0, 0
            continue
        a = np.sqrt((1 - after) / (1 - now)) * np.exp(-eta * h) if eta or np.isfinite(h) else np.sqrt(1 - after)
        b = np.sqrt(after) * -np.expm1(-(1 + eta) * h)
        share = 0.0  # of the difference to the x0 before: 1 / (2 r), r the ratio of the last log-SNR step to this one
        if index and np.isfinite(half_log_snr[index - 1]):
            share = h / (2 * (half_log_snr[index] - half_log_snr[index - 1]))
        s = np.sqrt((1 - after) * -np.expm1(-2 * eta * h)) if eta else 0.0
        table[index] = a, b * (1 + share), -b * share, s
    return table


def guide(conditional: jax.Array, unconditional: jax.Array, scale: float, rescale: float = 0.0) -> jax.Array:
    """Classifier-free guidance on v (or epsilon): u + scale (c - u).

    Args:
      scale: 1 gives `conditional` back.
      rescale: 0 to 1; pulls the result's standard deviation back to the conditional's (arXiv 2305.08891, section 3.4).
    """
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0:
        return guided
    ratio = jnp.std(conditional) / jnp.maximum(jnp.std(guided), 1e-12)
    return guided * (rescale * ratio + 1 - rescale)


def guidance_acts(timestep: int, interval: tuple[float, float], length: int = 1000) -> bool:
    """Whether guidance acts at a timestep: `interval` is a share of the noise range, (0, 1) is everywhere."""
    share = timestep / (length - 1)
    return interval[0] <= share <= interval[1]
