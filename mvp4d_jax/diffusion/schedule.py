"""The noise schedule of CogVideoX and the conversions between x0, epsilon and v."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def _expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Append dimensions of size one until `values` broadcasts against `like` from the left."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving schedule: x_t = sqrt(a) x0 + sqrt(1 - a) epsilon, v_t = sqrt(a) epsilon - sqrt(1 - a) x0.

    Timesteps are integers in [0, 1000). Where a method takes `timesteps`, their shape is a prefix of the sample's: one
    per sample [B], or one per view and latent frame [B, V, L]. Computed in float32 from float64 tables.

    Attributes:
      alphas_cumprod: float64 [1000], falling; 0 at the last timestep (zero terminal SNR: there x_t is pure noise).
    """

    alphas_cumprod: np.ndarray

    @classmethod
    def cogvideox(
        cls, snr_shift: float = 3.0, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> "NoiseSchedule":
        """The schedule of CogVideoX-2B (`snr_shift=3`) and 5B (`snr_shift=1`).

        Scaled-linear betas in float64; SNR divided by `snr_shift` (a <- a / (s + (1 - s) a), Stable Diffusion 3's form:
        the log-SNR moves by -log s; more tokens want a larger s); then the rescaling to zero terminal SNR of Lin et
        al., "Common diffusion noise schedules and sample steps are flawed" (arXiv 2305.08891), algorithm 1.
        """
        if snr_shift <= 0:
            raise ValueError(f"snr_shift must be positive, not {snr_shift}")
        betas = np.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=np.float64) ** 2
        alphas = np.cumprod(1.0 - betas)
        alphas = alphas / (snr_shift + (1.0 - snr_shift) * alphas)
        signal = np.sqrt(alphas)
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        return cls(signal**2)

    @property
    def steps(self) -> int:
        """How many timesteps the schedule has."""
        return len(self.alphas_cumprod)

    def signal_noise(self, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """sqrt(a_t) and sqrt(1 - a_t), float32, of `timesteps`' shape."""
        signal = jnp.asarray(np.sqrt(self.alphas_cumprod), jnp.float32)
        noise = jnp.asarray(np.sqrt(1.0 - self.alphas_cumprod), jnp.float32)
        return signal[timesteps], noise[timesteps]

    def add_noise(self, x0: jax.Array, epsilon: jax.Array, timesteps: jax.Array) -> jax.Array:
        """x_t of clean `x0` and standard normal `epsilon`, of `x0`'s dtype."""
        signal, noise = (_expand(value, x0) for value in self.signal_noise(timesteps))
        return (signal * x0 + noise * epsilon).astype(x0.dtype)

    def v_target(self, x0: jax.Array, epsilon: jax.Array, timesteps: jax.Array) -> jax.Array:
        """What the model learns to predict: v_t = sqrt(a_t) epsilon - sqrt(1 - a_t) x0."""
        signal, noise = (_expand(value, x0) for value in self.signal_noise(timesteps))
        return (signal * epsilon - noise * x0).astype(x0.dtype)
