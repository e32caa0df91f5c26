"""Samplers against diffusers' CogVideoX schedulers, step by step, and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox

from mvp4d_jax.diffusion.samplers import Sampler, SamplerConfig, guidance_acts, guide, trailing_timesteps
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.errors import UserError

SHAPE = (2, 3, 4)
OPTIONS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
           "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
           "clip_sample": False, "set_alpha_to_one": True, "snr_shift_scale": 3.0}


def _model(x, t):
    """A stand-in for a network: smooth, and different at every timestep."""
    return np.sin(x * 1.3 + t / 300) * 0.8 + 0.1 * x


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_diffusers(steps):
    theirs = CogVideoXDDIMScheduler(**OPTIONS)
    theirs.set_timesteps(steps)
    ours = Sampler.create(SamplerConfig("ddim", steps), NoiseSchedule.cogvideox(3.0))
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps.numpy())
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    ours_x, theirs_x, before = jnp.asarray(x), torch.tensor(x), jnp.zeros(SHAPE)
    for index, t in enumerate(theirs.timesteps):
        ours_x, before = ours.step(index, ours_x, jnp.asarray(_model(np.asarray(ours_x), int(t))), before)
        theirs_x = theirs.step(torch.tensor(_model(theirs_x.numpy(), int(t))), t, theirs_x).prev_sample
        np.testing.assert_allclose(ours_x, theirs_x.numpy(), atol=1e-5)


@pytest.mark.parametrize("steps", [10, 50])
def test_dpm_equals_diffusers(steps, monkeypatch):
    theirs = CogVideoXDPMScheduler(**OPTIONS)
    theirs.set_timesteps(steps)
    ours = Sampler.create(SamplerConfig("dpm", steps, eta=1.0), NoiseSchedule.cogvideox(3.0))
    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPE).astype(np.float32)
    ours_x, theirs_x, before, old = jnp.asarray(x), torch.tensor(x), jnp.zeros(SHAPE), None
    for index, t in enumerate(theirs.timesteps):
        noise = rng.normal(size=SHAPE).astype(np.float32)
        back = theirs.timesteps[index - 1] if index else None
        ours_x, before = ours.step(index, ours_x, jnp.asarray(_model(np.asarray(ours_x), int(t))), before,
                                   jnp.asarray(noise))
        # It draws its own noise, twice at a second-order step, whatever `variance_noise` says: give it ours.
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, drawn=noise, **__: torch.tensor(drawn))
        theirs_x, old = theirs.step(torch.tensor(_model(theirs_x.numpy(), int(t))), old, t, back, theirs_x)
        np.testing.assert_allclose(ours_x, theirs_x.numpy(), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 7, 24, 64, 999])
def test_grid_ends_where_it_should_for_any_number_of_steps(steps):
    grid = trailing_timesteps(steps)
    assert len(grid) == steps and grid[0] == 999 and grid[-1] >= 0 and (np.diff(grid) < 0).all()


@pytest.mark.parametrize("kind", ["ddim", "dpm"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 24])
def test_a_perfect_model_of_one_picture_is_sampled_exactly(kind, eta, steps):
    """If the data is one point, v is known in closed form, and every sampler must land on that point."""
    schedule = NoiseSchedule.cogvideox(3.0)
    sampler = Sampler.create(SamplerConfig(kind, steps, eta), schedule)
    target = jnp.linspace(-1, 1, 12)
    x, before = jax.random.normal(jax.random.key(0), (12,)), jnp.zeros(12)
    for index, timestep in enumerate(sampler.timesteps):
        signal, noise = schedule.signal_noise(jnp.asarray(timestep))
        v = (signal * x - target) / noise
        x, before = sampler.step(index, x, v, before, jax.random.normal(jax.random.key(index + 1), (12,)))
    np.testing.assert_allclose(x, target, atol=2e-5)


@pytest.mark.parametrize("kind, steps, bound", [("ddim", 200, 0.02), ("dpm", 50, 0.005)])
def test_gaussian_data_keeps_its_spread(kind, steps, bound):
    """For data N(0, s^2) the best v is linear in x, and the flow carries N(0, 1) to N(0, a s^2 + 1 - a)."""
    spread = 0.5
    schedule = NoiseSchedule.cogvideox(3.0)
    sampler = Sampler.create(SamplerConfig(kind, steps), schedule)
    x = jnp.array([1.0, -2.0, 0.3])
    before, start = jnp.zeros(3), x
    for index, timestep in enumerate(sampler.timesteps[:-1]):  # the last step is a jump to the mean of what is left
        signal, noise = (float(value) for value in schedule.signal_noise(jnp.asarray(timestep)))
        variance = signal**2 * spread**2 + noise**2
        v = x * signal * noise * (1 - spread**2) / variance
        x, before = sampler.step(index, x, v, before)
    signal, noise = (float(value) for value in schedule.signal_noise(jnp.asarray(sampler.timesteps[-1])))
    np.testing.assert_allclose(x, np.sqrt(signal**2 * spread**2 + noise**2) * start, rtol=bound)


def test_guidance():
    c, u = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(guide(c, u, 1.0), c)
    np.testing.assert_allclose(guide(c, u, 2.0), 2 * c - u)
    assert jnp.std(guide(c, u, 4.0, rescale=1.0)) == pytest.approx(float(jnp.std(c)), rel=1e-5)
    assert guidance_acts(999, (0, 1)) and guidance_acts(0, (0, 1)) and not guidance_acts(999, (0.1, 0.9))


@pytest.mark.parametrize("config", [{"kind": "euler"}, {"steps": 0}, {"eta": 1.5}])
def test_bad_options_are_refused(config):
    with pytest.raises(UserError):
        SamplerConfig(**config)
    with pytest.raises(UserError):
        Sampler.create(SamplerConfig(steps=1001), NoiseSchedule.cogvideox(3.0))
