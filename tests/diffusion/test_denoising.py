"""The denoising step, with models whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d_jax.diffusion.denoising import Conditions, StepShape, denoise_step, predict
from mvp4d_jax.diffusion.guidance import GuidanceConfig
from mvp4d_jax.diffusion.samplers import SamplerConfig, insert_clean, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule

MASK = (6, 7)
SHAPE = (3, 2, 4, 4, 16)  # V', L, h, w, C: two noisy views, one clean one


@pytest.fixture()
def conditions() -> Conditions:
    random = np.random.default_rng(0)
    clean = np.zeros(SHAPE[:2], bool)
    clean[0, 0] = clean[2] = True
    return Conditions(
        random.normal(size=(*SHAPE[:4], 8)).astype(np.float32),
        clean,
        random.normal(size=SHAPE).astype(np.float32),
        np.zeros((4, 4, 16), np.float32),
        np.zeros((4, 4, 8), np.float32),
    )


@pytest.mark.parametrize("groups", [[[0, 1]], [[0], [1]]])
def test_a_perfect_model_samples_the_truth(conditions, groups):
    """With the v that leads to the truth, from pure noise, the steps arrive there; clean frames stay untouched."""
    schedule = NoiseSchedule.cogvideox(snr_shift=1.0)
    alphas = jnp.asarray(schedule.alphas_cumprod, jnp.float32)
    truth = jnp.asarray(conditions.clean_latents)

    def oracle(latents, timesteps, conditioning, **_):
        # Its own channels say which view this is, where they are kept; v is the same without them.
        alpha = alphas[timesteps][..., None, None, None]
        latents_of = jnp.stack([truth[view] for view in range(3)])
        nearest = jnp.argmin(
            jnp.sum(jnp.square(conditioning[:, :, None] - conditions.maps[None, None]), axis=(3, 4, 5, 6)), axis=-1
        )
        target = latents_of[nearest]
        noise = (latents - jnp.sqrt(alpha) * target) / jnp.sqrt(jnp.maximum(1 - alpha, 1e-6))
        return jnp.sqrt(alpha) * noise - jnp.sqrt(1 - alpha) * target

    sampler, shape = make_sampler(SamplerConfig("dpm", 8), schedule), StepShape(2, 1, MASK, False)
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    state = sampler.start(insert_clean(noise, truth, jnp.asarray(conditions.clean))[:2])
    for index in range(8):
        state = denoise_step(
            oracle,
            sampler,
            GuidanceConfig(1.0),
            state,
            index,
            jax.random.key(1),
            conditions,
            jnp.asarray(groups),
            shape,
        )
    np.testing.assert_array_equal(state.sample[0, 0], truth[0, 0])
    np.testing.assert_allclose(state.sample, truth[:2], atol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_rows_at_a_time_change_nothing(conditions, rows):
    """Three overlapping groups with and without conditions, some rows of the last turn standing idle."""

    def model(latents, timesteps, conditioning, reference_latents, reference_conditioning):
        return latents + conditioning.sum(axis=(1, 2, 3, 4, 5), keepdims=True)  # depends on the group, and on dropping

    groups = jnp.asarray([[0, 1], [1, 0], [0, 0]])
    found = predict(
        model, conditions.clean_latents, np.zeros(SHAPE[:2], int), conditions, groups, StepShape(2, rows, MASK, True)
    )
    maps = conditions.maps.astype(np.float64)
    for kept, result in zip((True, False), found):
        sums = {view: [] for view in range(2)}
        for group in np.asarray(groups):
            given = maps[[*group, 2]] if kept else maps[[*group, 2]][..., slice(*MASK)]
            for view in group:
                sums[int(view)].append(conditions.clean_latents[view] + given.sum())
        expected = np.stack([np.mean(sums[view], axis=0) for view in range(2)])
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)
