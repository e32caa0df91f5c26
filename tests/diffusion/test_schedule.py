"""The noise schedule against diffusers and against the published constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d_jax.diffusion.schedule import NoiseSchedule
from tests.small_world import clean_of


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.cogvideox(snr_shift=3.0)


def test_published_constants(schedule):
    alphas = schedule.alphas_cumprod
    assert alphas.dtype == np.float64 and alphas.shape == (1000,)
    assert alphas[0] == pytest.approx(0.997454, abs=5e-7)
    assert alphas[499] == pytest.approx(0.095970, abs=5e-7)
    assert alphas[999] == 0.0
    assert np.all(np.diff(alphas) < 0)


@pytest.mark.parametrize("snr_shift", [3.0, 1.0])
def test_table_equals_diffusers(snr_shift):
    from diffusers import CogVideoXDDIMScheduler

    theirs = CogVideoXDDIMScheduler(snr_shift_scale=snr_shift, rescale_betas_zero_snr=True).alphas_cumprod.numpy()
    np.testing.assert_allclose(NoiseSchedule.cogvideox(snr_shift).alphas_cumprod, theirs, rtol=1e-12, atol=1e-15)


def test_snr_shift_moves_the_log_snr():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    plain = np.cumprod(1 - betas)
    shifted = plain / (3.0 + (1 - 3.0) * plain)
    moved = np.log(shifted / (1 - shifted)) - np.log(plain / (1 - plain))
    np.testing.assert_allclose(moved, -np.log(3.0), rtol=1e-9)


def test_noise_and_v_lead_back_to_sample_and_noise_with_timesteps_per_frame(schedule):
    shape = (2, 3, 4, 5, 6, 7)  # [B, V, L, h, w, C]
    x0, epsilon = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
    timesteps = jax.random.randint(jax.random.key(2), shape[:3], 0, 1000).at[0, 0, 0].set(999).at[0, 0, 1].set(0)
    x_t, v = schedule.add_noise(x0, epsilon, timesteps), schedule.v_target(x0, epsilon, timesteps)
    kept = schedule.alphas_cumprod[np.asarray(timesteps)][..., None, None, None]
    np.testing.assert_allclose(clean_of(schedule, x_t, v, timesteps), x0, atol=2e-6)
    np.testing.assert_allclose(np.sqrt(1 - kept) * x_t + np.sqrt(kept) * v, epsilon, atol=2e-6)
    np.testing.assert_array_equal(x_t[0, 0, 0], epsilon[0, 0, 0])  # zero terminal SNR: pure noise
    np.testing.assert_array_equal(v[0, 0, 0], -x0[0, 0, 0])


def test_add_noise_and_target_equal_diffusers(schedule):
    import torch
    from diffusers import CogVideoXDDIMScheduler

    theirs = CogVideoXDDIMScheduler(snr_shift_scale=3.0, rescale_betas_zero_snr=True)
    generator = np.random.default_rng(0)
    x0, epsilon = (generator.standard_normal((4, 2, 3, 3, 16)).astype(np.float32) for _ in range(2))
    timesteps = np.array([0, 17, 500, 999])
    arguments = [torch.from_numpy(a) for a in (x0, epsilon, timesteps)]
    ours = schedule.add_noise(jnp.asarray(x0), jnp.asarray(epsilon), jnp.asarray(timesteps))
    np.testing.assert_allclose(ours, theirs.add_noise(*arguments).numpy(), atol=1e-6)
    ours = schedule.v_target(jnp.asarray(x0), jnp.asarray(epsilon), jnp.asarray(timesteps))
    np.testing.assert_allclose(ours, theirs.get_velocity(*arguments).numpy(), atol=1e-6)
