"""Samplers against diffusers' CogVideoX schedulers and against closed forms; guidance; clean frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox

from mvp4d_jax.diffusion import samplers
from mvp4d_jax.diffusion.samplers import SamplerConfig, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule

SHAPE = (2, 3, 4, 4, 5)  # [B, L, h, w, C]
SETTINGS = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}


@pytest.fixture(scope="module")
def schedule():
    return NoiseSchedule.cogvideox(snr_shift=3.0)


def network(x, timestep):
    """A fixed nonlinear stand-in for the model, in numpy."""
    return np.sin(1.7 * x + 0.003 * timestep) - 0.2 * x


def start() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_ddim_equals_diffusers_step_by_step(schedule, steps):
    theirs = CogVideoXDDIMScheduler(**SETTINGS)
    theirs.set_timesteps(steps)
    sampler = make_sampler(SamplerConfig("ddim", steps), schedule)
    np.testing.assert_array_equal(sampler.timesteps, theirs.timesteps.numpy())
    advance = jax.jit(lambda state, v, index: sampler.step(state, v, index))
    state, expected = sampler.start(jnp.asarray(start())), torch.from_numpy(start())
    for index, timestep in enumerate(theirs.timesteps):
        v = network(expected.numpy(), int(timestep)).astype(np.float32)
        expected = theirs.step(torch.from_numpy(v), int(timestep), expected).prev_sample.float()
        state = advance(state, jnp.asarray(v), index)
        np.testing.assert_allclose(state.sample, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_stochastic_dpm_equals_diffusers_step_by_step(schedule, steps, monkeypatch):
    """Diffusers draws its noise; it is handed ours."""
    key = jax.random.key(5)
    theirs = CogVideoXDPMScheduler(**SETTINGS)
    theirs.set_timesteps(steps)
    sampler = make_sampler(SamplerConfig("dpm", steps, stochasticity=1.0), schedule)
    np.testing.assert_array_equal(sampler.timesteps, theirs.timesteps.numpy())
    advance = jax.jit(lambda state, v, index: sampler.step(state, v, index, key))
    state, expected = sampler.start(jnp.asarray(start())), torch.from_numpy(start())
    before, timestep_back = None, None
    for index, timestep in enumerate(theirs.timesteps):
        noise = torch.from_numpy(np.array(jax.random.normal(jax.random.fold_in(key, index), SHAPE)))
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *a, noise=noise, **k: noise)
        v = network(expected.numpy(), int(timestep)).astype(np.float32)
        expected, before = theirs.step(
            torch.from_numpy(v), before, int(timestep), timestep_back, expected, return_dict=False
        )
        expected, before, timestep_back = expected.float(), before.float(), int(timestep)
        state = advance(state, jnp.asarray(v), index)
        np.testing.assert_allclose(state.sample, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(state.previous, before.numpy(), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 7, 30, 77, 999, 1000])
def test_timesteps_never_misalign(schedule, steps):
    """Each step leaves from exactly where the one before arrived, whether N divides 1000 or not."""
    sampler = make_sampler(SamplerConfig("ddim", steps), schedule)
    timesteps = sampler.timesteps
    assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0 and np.all(np.diff(timesteps) < 0)
    # With a perfect model, x stays sqrt(a) x0 + sqrt(1 - a) epsilon of the same x0 and epsilon at every timestep.
    x0, epsilon = (jax.random.normal(jax.random.key(seed), SHAPE) for seed in (1, 2))
    state = sampler.start(epsilon)
    advance = jax.jit(lambda state, index, t: sampler.step(state, schedule.v_target(x0, epsilon, t), index))
    for index, timestep in enumerate(timesteps[:60]):
        np.testing.assert_allclose(state.sample, schedule.add_noise(x0, epsilon, jnp.asarray(timestep)), atol=1e-4)
        state = advance(state, index, jnp.asarray(timestep))
    if steps <= 60:
        np.testing.assert_allclose(state.sample, x0, atol=1e-4)


@pytest.mark.parametrize("method", samplers.METHODS)
@pytest.mark.parametrize("stochasticity", [0.0, 0.4, 1.0])
def test_one_step_keeps_the_schedules_mean_and_variance(schedule, method, stochasticity):
    """x_t of a known x0, stepped with its true v, is x_t' in distribution: closed form on the coefficients."""
    sampler = make_sampler(SamplerConfig(method, 30, stochasticity), schedule)
    a = schedule.alphas_cumprod[sampler.timesteps]
    a_next = np.append(a[1:], 1.0)
    _, _, keep, mix, lean, noise = sampler.coefficients.T.astype(np.float64)
    np.testing.assert_allclose(keep * np.sqrt(a) + mix - lean, np.sqrt(a_next), atol=1e-6)
    np.testing.assert_allclose((keep**2) * (1 - a) + noise**2, 1 - a_next, atol=1e-6)
    assert np.isfinite(sampler.coefficients).all()
    assert (noise[:-1] > 0).all() if stochasticity else (noise == 0).all()


def test_second_order_is_nearer_than_first(schedule):
    """On Gaussian data the flow is known, x_t = deviation(t) z. From step 4 to the last but one: the steps out of pure
    noise and into the clean sample are of first order in either method."""
    scale, z = 0.3, np.random.default_rng(0).standard_normal(4000).astype(np.float32)  # data ~ N(0, scale^2)
    errors = {}
    for method in samplers.METHODS:
        sampler = make_sampler(SamplerConfig(method, 20), schedule)
        signal, sigma = sampler.coefficients[:, 0], sampler.coefficients[:, 1]
        deviation = np.sqrt(signal**2 * scale**2 + sigma**2)

        def clean(x, index, signal=signal, deviation=deviation):
            return x * signal[index] * scale**2 / deviation[index] ** 2  # E[x0 | x_t]

        state = samplers.SamplerState(jnp.asarray(deviation[4] * z), jnp.asarray(clean(deviation[3] * z, 3)))
        for index in range(4, 19):
            v = (signal[index] * state.sample - clean(state.sample, index)) / sigma[index]
            state = sampler.step(state, v, index)
        errors[method] = float(jnp.abs(state.sample - deviation[19] * z).max())
    assert errors["dpm"] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("config", [SamplerConfig("ddim", 4), SamplerConfig("dpm", 4, 1.0)])
def test_clean_frames_pass_through_bit_identically(schedule, config):
    sampler = make_sampler(config, schedule)
    clean = jnp.zeros((2, 3), bool).at[:, 0].set(True).at[1, 2].set(True)
    values = jax.random.normal(jax.random.key(9), SHAPE)
    state = sampler.start(samplers.insert_clean(jnp.asarray(start()), values, clean))
    for index in range(config.steps):
        told = sampler.timesteps_for(index, clean)
        assert (told[clean] == 0).all() and (told[~clean] == sampler.timesteps[index]).all()
        v = jax.random.normal(jax.random.key(index), SHAPE)
        state = sampler.step(state, v, index, jax.random.key(3), clean=clean)
    np.testing.assert_array_equal(state.sample[clean], values[clean])
    assert not np.any(np.asarray(state.sample[~clean]) == np.asarray(values[~clean]))


def test_same_key_same_noise_and_a_key_is_needed(schedule):
    sampler = make_sampler(SamplerConfig("ddim", 4, 1.0), schedule)
    state = sampler.start(jnp.asarray(start()))
    first, again, other = (sampler.step(state, state.sample, 1, jax.random.key(k)).sample for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="key"):
        sampler.step(state, state.sample, 1)


@pytest.mark.parametrize("change", [{"method": "euler"}, {"steps": 0}, {"stochasticity": 1.5}])
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SamplerConfig(**change)


def test_more_steps_than_timesteps_are_refused(schedule):
    with pytest.raises(ValueError, match="1001 steps"):
        make_sampler(SamplerConfig(steps=1001), schedule)
