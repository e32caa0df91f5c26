"""The denoising loop: sharded equals single, clean frames pass through, routing averages what it should."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from small_world import quick_compilation

from mvp4d_jax import parallel
from mvp4d_jax.diffusion.samplers import make_sampler
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.geometry.conditioning import ConditioningConfig
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.sampling.denoise import DenoiseOptions, denoise, window_noise
from mvp4d_jax.sampling.plan import deal_groups, make_plan
from mvp4d_jax.sampling.predictor import Conditions, Predictor
from mvp4d_jax.training.state import ModelTemplate
from mvp4d_jax.training.validation import make_sample

CONDITIONING = ConditioningConfig()
CONFIG = TransformerConfig(
    num_layers=2, num_heads=2, head_dim=16, time_embed_dim=32, text_dim=0, conditioning_channels=CONDITIONING.channels
)
SIZE, LATENTS, VIEWS = 8, 2, 8


@pytest.fixture(scope="module")
def model():
    """Random weights, the zero-initialised conditioning projection and output included."""
    with quick_compilation():
        model = MultiViewTransformer(CONFIG, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    graph, state = nnx.split(model)
    noisy = jax.tree.map(lambda leaf: leaf + rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), state)
    return nnx.merge(graph, noisy)


def _conditions(views=VIEWS, clean_prefix=0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (views, LATENTS, SIZE, SIZE)
    maps = rng.normal(size=(*shape, CONDITIONING.channels)).astype(np.float32)
    clean = np.zeros((views, LATENTS), bool)
    clean[:, :clean_prefix] = True
    maps[..., CONDITIONING.parts["reference"]] = clean[:, :, None, None, None]
    latents = rng.normal(size=(*shape, CONFIG.latent_channels)).astype(np.float32)
    return Conditions(maps, clean, latents, latents[0, 0] * 0.5, maps[0, 0])


def _plan(**changes):
    values = {
        "views": VIEWS,
        "frames": 5,
        "latent_size": (SIZE, SIZE),
        "trained_views": VIEWS,
        "window_frames": 5,
        "steps": 2,
        "guidance_scale": 2.0,
    }
    return make_plan(**{**values, **changes})


def _sample(model, shape=(1, 1, 1), conditions=None, **changes):
    predictor = Predictor(model, parallel.make_mesh(shape, jax.devices()[: int(np.prod(shape))]), CONDITIONING)
    return np.asarray(
        denoise(predictor, conditions or _conditions(), _plan(**changes), 0, DenoiseOptions(), jax.random.key(0))
    )


@pytest.fixture(scope="module")
def single(model):
    return {grouped: _sample(model, group_size=4 if grouped else None) for grouped in (False, True)}


@pytest.mark.parametrize(
    "shape, grouped", [((1, 1, 8), False), ((2, 1, 4), False), ((2, 1, 4), True), ((8, 1, 1), False)]
)
def test_sharded_sampling_equals_one_device(model, single, shape, grouped):
    ours = _sample(model, shape, group_size=4 if grouped else None)
    np.testing.assert_allclose(ours, single[grouped], atol=1e-4)
    assert np.std(ours) > 0.1


def _in_bfloat16(model):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    graph, _ = nnx.split(nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, nnx.state(model))


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 1, 4)])
def test_sharded_sampling_in_bfloat16_equals_one_device_within_its_rounding(model, single, shape):
    """No further apart than bfloat16 is from float32 on one device."""
    narrow = _in_bfloat16(model)
    alone, ours = _sample(narrow), _sample(narrow, shape)
    rounding = np.sqrt(np.mean(np.square(alone - single[False])))
    assert 1e-4 < rounding < 0.1  # it was computed in bfloat16
    assert np.sqrt(np.mean(np.square(ours - alone))) < rounding


def test_nothing_is_copied_while_a_window_is_denoised(model):
    """Under guards against copies between devices, to the host, and implicit ones to the devices."""
    plan, options = _plan(group_size=4), DenoiseOptions()
    predictor = Predictor(model, parallel.make_mesh((2, 1, 4)), CONDITIONING)
    conditions = predictor.place(_conditions())
    sampler = make_sampler(options.sampler(plan), NoiseSchedule.cogvideox(options.snr_shift))
    key = predictor.place(jax.random.key(1))
    state = predictor.place(sampler.start(jax.random.normal(jax.random.key(0), conditions.clean_latents.shape)))
    with (
        jax.transfer_guard_device_to_device("disallow"),
        jax.transfer_guard_device_to_host("disallow"),
        jax.transfer_guard_host_to_device("disallow"),
    ):
        for index in range(plan.steps):
            state = predictor.step(
                sampler, options.guidance(plan), state, index, key, conditions, deal_groups(plan, index)
            )
    assert np.isfinite(np.asarray(state.sample)).all()
    with jax.transfer_guard_host_to_device("disallow"), pytest.raises(Exception, match="Disallowed"):
        jax.jit(lambda a: a + 1)(np.ones(3))  # the guard does guard


def test_same_seed_same_result_and_another_seed_another(model, single):
    np.testing.assert_array_equal(_sample(model), single[False])
    predictor = Predictor(model, parallel.make_mesh((1, 1, 1), jax.devices()[:1]), CONDITIONING)
    other = denoise(predictor, _conditions(), _plan(), 0, DenoiseOptions(), jax.random.key(1))
    assert np.abs(np.asarray(other) - single[False]).max() > 0.1


def test_clean_frames_come_out_bit_identical(model):
    conditions = _conditions(clean_prefix=1)
    out = _sample(model, conditions=conditions)
    np.testing.assert_array_equal(out[:, :1], conditions.clean_latents[:, :1])
    assert np.abs(out[:, 1:] - conditions.clean_latents[:, 1:]).max() > 0.1


def test_grouping_equals_a_loop_over_groups(model):
    """One evaluation against a plain loop: every group on its own, means where a view sits in several."""
    conditions = _conditions()
    groups = np.array([[0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 1, 2]])
    predictor = Predictor(model, parallel.make_mesh((1, 1, 1), jax.devices()[:1]), CONDITIONING)
    timesteps = np.full((VIEWS, LATENTS), 700)
    ours, dropped = predictor(conditions.clean_latents, timesteps, conditions, groups, True)
    for kind, result in ((1.0, ours), (0.0, dropped)):
        found = {view: [] for view in range(VIEWS)}
        for group in groups:
            maps = conditions.maps[group] * kind
            out = model(
                conditions.clean_latents[group][None],
                timesteps[group][None],
                conditioning=maps[None],
                reference_latents=conditions.reference_latents[None] * kind,
                reference_conditioning=conditions.reference_maps[None] * kind,
            )[0]
            for view, row in zip(group, out):
                found[int(view)].append(np.asarray(row))
        expected = np.stack([np.mean(found[view], axis=0) for view in range(VIEWS)])
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_clean_views_inform_but_are_not_returned(model):
    conditions = _conditions(views=3)
    conditions.clean[2:] = True
    out = _sample(model, conditions=conditions, views=2, clean_views=1, trained_views=2)
    assert out.shape[0] == 2
    moved = dataclasses.replace(
        conditions, clean_latents=conditions.clean_latents + conditions.clean[..., None, None, None]
    )
    other = _sample(model, conditions=moved, views=2, clean_views=1, trained_views=2)
    assert np.abs(out - other).max() > 1e-3


def test_validation_draws_what_sampling_makes(model):
    """Two loops, one under `lax`, over one denoising step: the same noise gives the same latents."""
    conditions, plan, key = _conditions(views=2, clean_prefix=1), _plan(views=2, trained_views=2), jax.random.key(0)
    mesh = parallel.make_mesh((1, 1, 1), jax.devices()[:1])
    template = ModelTemplate(lambda rngs: MultiViewTransformer(CONFIG, rngs=rngs), mesh)
    given = SimpleNamespace(
        loss=SimpleNamespace(snr_shift=DenoiseOptions().snr_shift),
        conditioning=CONDITIONING,
        distill=SimpleNamespace(steps=0),
    )
    draw = make_sample(given, template, plan.steps, plan.guidance_scale)
    with parallel.use_mesh(mesh):
        theirs = draw(template.params_of(model), jax.random.split(key)[0], conditions)
    ours = _sample(model, conditions=conditions, views=2, trained_views=2)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_windows_share_their_noise_across_the_seam(overlap):
    """The last latent frame of a window and the first new one of the next start alike; no two of a window do."""
    plan = make_plan(views=2, frames=60, latent_size=(4, 4), trained_views=2, window_frames=17, overlap_latents=overlap)
    assert len(plan.windows) > 3
    windows = [
        np.asarray(window_noise(jax.random.key(3), plan, index, (2, 5, 4, 4, 3))) for index in range(len(plan.windows))
    ]
    for before, after in itertools.pairwise(windows):
        np.testing.assert_array_equal(before[:, -1], after[:, overlap])
    for noise in windows:
        frames = noise.transpose(1, 0, 2, 3, 4).reshape(5, -1)
        correlation = np.corrcoef(frames)[~np.eye(5, dtype=bool)]
        assert np.abs(correlation).max() < 0.4  # 96 numbers a frame: chance gives 0.1
