"""Few-step targets against the samplers they stand for, and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax.diffusion.distillation import (
    DistillOptions,
    ddim_step,
    roll_out,
    teacher_path,
    timesteps_at,
    v_that_leads_to,
)
from mvp4d_jax.diffusion.samplers import SamplerConfig, make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from tests.small_world import clean_of

SCHEDULE = NoiseSchedule.cogvideox(snr_shift=1.0)
SHAPE = (2, 2, 3, 2, 2, 4)  # [B, V, L, h, w, C]
OPTIONS = DistillOptions(steps=4, substeps=3)


def network(sample, timesteps):
    """A fixed nonlinear stand-in for the model."""
    return jnp.sin(1.7 * sample + 0.003 * timesteps[..., None, None, None]) - 0.2 * sample


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    clean = np.zeros(SHAPE[:3], bool)
    clean[0, :, 0] = clean[1, 1] = True
    return (
        jnp.asarray(random.normal(size=SHAPE), jnp.float32),
        jnp.asarray(random.normal(size=SHAPE), jnp.float32),
        jnp.asarray(clean),
    )


def walk(sampler, sample, clean, first, last):
    """The sampler's own loop over some of its steps."""
    state = sampler.start(sample)
    for index in range(first, last):
        state = sampler.step(state, network(state.sample, sampler.timesteps_for(index, clean)), index, clean=clean)
    return state.sample


@pytest.mark.parametrize("total, parts", [(4, 3), (4, 4), (3, 7), (1, 5)])
def test_a_students_steps_begin_where_its_teachers_do(total, parts):
    student, teacher = DistillOptions(steps=total, substeps=parts).samplers(SCHEDULE)
    np.testing.assert_array_equal(student.timesteps, teacher.timesteps[::parts])


def test_the_path_is_the_samplers_and_frames_at_steps_of_their_own_do_not_disturb_each_other(drawn):
    noise, _, clean = drawn
    teacher = make_sampler(SamplerConfig("ddim", 12), SCHEDULE)
    for step in range(4):
        index = jnp.full(SHAPE[:3], step)
        expected = walk(teacher, noise, clean, 3 * step, 3 * step + 3)
        ours = teacher_path(network, noise, index, clean, teacher, 3)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(ours)[clean], np.asarray(noise)[clean])
    # The stand-in treats every frame alone, so that a frame's path depends on its own step only.
    index = jnp.asarray(np.random.default_rng(1).integers(0, 4, SHAPE[:3]))
    mixed = teacher_path(network, noise, index, clean, teacher, 3)
    for step in range(4):
        alone = teacher_path(network, noise, jnp.full(SHAPE[:3], step), clean, teacher, 3)
        np.testing.assert_allclose(np.asarray(mixed)[index == step], np.asarray(alone)[index == step], atol=1e-6)


def test_the_target_ends_where_it_should(drawn):
    """One step with the target's v is the teacher's three; with all of the truth its clean sample is the truth."""
    sample, truth, clean = drawn
    student, teacher = OPTIONS.samplers(SCHEDULE)
    index = jnp.asarray(np.random.default_rng(2).integers(0, 4, SHAPE[:3]))
    end = teacher_path(network, sample, index, clean, teacher, 3)
    v = v_that_leads_to(end, sample, index, student, truth, 0.0)
    np.testing.assert_allclose(ddim_step(student, sample, v, index, clean), end, atol=1e-4)
    v = v_that_leads_to(end, sample, index, student, truth, 1.0)
    noisy = ~np.asarray(clean)
    timesteps = timesteps_at(student, index, jnp.zeros_like(clean))
    np.testing.assert_allclose(clean_of(SCHEDULE, sample, v, timesteps)[noisy], np.asarray(truth)[noisy], atol=1e-4)


def test_a_rollout_is_the_students_own_sampling(drawn):
    noise, given, clean = drawn
    student, _ = OPTIONS.samplers(SCHEDULE)
    start = jnp.where(clean[..., None, None, None], given, noise)
    for step in range(4):
        ours = roll_out(network, noise, given, jnp.full(SHAPE[:3], step), clean, student)
        np.testing.assert_allclose(ours, walk(student, start, clean, 0, step), atol=1e-5)
        np.testing.assert_array_equal(np.asarray(ours)[clean], np.asarray(given)[clean])


def test_a_distilled_gaussian_is_sampled_exactly_in_one_step():
    """Data N(m, s^2): the ideal v is linear, and a student of many substeps carries noise z to m + s z."""
    mean, deviation = 0.7, 0.3
    signal, sigma = (np.asarray(part) for part in SCHEDULE.signal_noise(np.arange(1000)))

    def ideal(sample, timesteps):
        a, b = (jnp.asarray(part)[timesteps][..., None, None, None] for part in (signal, sigma))
        x0 = mean + a * deviation**2 / (a**2 * deviation**2 + b**2) * (sample - a * mean)
        return (a * sample - x0) / b

    options = DistillOptions(steps=1, substeps=500)
    student, teacher = options.samplers(SCHEDULE)
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    index, clean = jnp.zeros(SHAPE[:3], int), jnp.zeros(SHAPE[:3], bool)
    end = teacher_path(ideal, noise, index, clean, teacher, options.substeps)
    v = v_that_leads_to(end, noise, index, student, noise, 0.0)
    np.testing.assert_allclose(ddim_step(student, noise, v, index, clean), mean + deviation * noise, atol=0.02)


@pytest.mark.parametrize("change", [{"substeps": 0}, {"steps": 500, "substeps": 3}, {"truth": 1.5}, {"rollout": -0.1}])
def test_options_that_make_no_sense_are_named(change):
    with pytest.raises(UserError, match=r"distill\."):
        DistillOptions(**{"steps": 4, **change})
