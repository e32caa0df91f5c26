"""The update on meshes of eight host devices against one device, and what lies where."""

import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.diffusion.schedule import NoiseSchedule
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig
from mvp4d_jax.training.state import (
    ModelTemplate,
    OptimiserOptions,
    TrainState,
    abstract_state,
    initial_state,
    make_optimiser,
    path_name,
)
from mvp4d_jax.training.step import LossOptions, draw_timesteps, make_train_step, noisy_batch

CONFIG = TransformerConfig.named(
    "tiny",
    num_layers=2,
    num_heads=2,
    head_dim=16,
    time_embed_dim=32,
    latent_channels=16,
    patch_size=2,
    conditioning_channels=8,
)
SHAPE = (8, 2, 2, 4, 4, 16)  # [B, V, L, h, w, C]


def make_batch(seed: int = 0, shape=SHAPE) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    b, v, n, h, w, c = shape
    clean = np.zeros((b, v, n), bool)
    clean[0, :, 0] = clean[3, 1] = True
    return {
        "latents": random.normal(size=shape).astype(np.float32),
        "conditioning": random.normal(size=(b, v, n, h, w, 8)).astype(np.float32),
        "reference_latents": random.normal(size=(b, h, w, c)).astype(np.float32),
        "reference_conditioning": random.normal(size=(b, h, w, 8)).astype(np.float32),
        "clean": clean,
    }


def run_steps(mesh_shape, accumulation: int, steps: int = 2, freeze: tuple[str, ...] = (), config=CONFIG):
    """Losses and state after some steps on a mesh, and the compiled step."""
    mesh = parallel.make_mesh(mesh_shape)
    options = OptimiserOptions(accumulation=accumulation, ema=0.5, clip=1.0, eps=1e-3, freeze=freeze)
    template = ModelTemplate(lambda rngs: MultiViewTransformer(config, rngs=rngs), mesh)
    optimiser = make_optimiser(options, template.shapes)
    state = initial_state(template, optimiser, mesh, seed=0)
    step = make_train_step(template, optimiser, options, LossOptions(snr_shift=1.0), lambda step: jnp.float32(1e-2))
    losses = []
    with parallel.use_mesh(mesh):
        batches = [jax.device_put(make_batch(index), parallel.batch_sharding(mesh)) for index in range(steps)]
        # As the loop does it; without LLVM's optimisation, which is most of a compilation.
        compiled = step.lower(state, batches[0]).compile(compiler_options={"xla_backend_optimization_level": 0})
        for batch in batches:
            state, metrics = compiled(state, batch)
            losses.append(float(metrics["loss"]))
    return np.asarray(losses), state, compiled


@pytest.fixture(scope="module")
def one_device():
    losses, state, compiled = run_steps((1, 1, 1), 1)
    return losses, jax.tree.map(np.asarray, state), compiled


MESHES = ((8, 1, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8))
CASES = [(mesh, 4 if mesh == (2, 2, 2) else 1) for mesh in MESHES]
MORE = [pytest.param(mesh, 5 - steps, marks=pytest.mark.slow) for mesh, steps in CASES]  # each mesh the other way


@pytest.mark.parametrize("mesh, accumulation", CASES + MORE)
def test_meshes_equal_one_device(mesh, accumulation, one_device):
    losses, state, _ = run_steps(mesh, accumulation)
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    assert_same_state(state, one_device[1])
    assert_split(state, mesh)


def assert_same_state(ours: TrainState, theirs: TrainState) -> None:
    for name in ("params", "ema", "moments"):
        expected = jax.tree.leaves(getattr(theirs, name))
        for mine, other in zip(jax.tree.leaves(getattr(ours, name)), expected, strict=True):
            np.testing.assert_allclose(np.asarray(mine), np.asarray(other), atol=1e-5)


def test_kernels_split_along_both_dimensions_equal_one_device():
    """Context, 3, divides the hidden width of 96 and not the model's 32, of which fsdp takes a half."""
    config = dataclasses.replace(CONFIG, mlp_ratio=3, time_embed_dim=48)
    (expected, whole, _), (losses, state, _) = (run_steps(mesh, 1, config=config) for mesh in ((1, 1, 1), (1, 2, 3)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_same_state(state, whole)
    for kernels in (state.params, state.ema, *state.moments[1][1:]):
        for name, part in (("up", (2, 16, 32)), ("down", (2, 32, 16))):
            assert kernels["blocks"]["ff"][name]["kernel"].addressable_shards[0].data.shape == part


def assert_split(state: TrainState, mesh) -> None:
    """Bytes on each device after the steps: kernels are cut by fsdp x context; biases, norms and one kernel are not."""
    for tree in (state.params, state.ema, state.moments):
        split, whole, held = 0, 0, collections.Counter()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if path_name(path).endswith("kernel") and not path_name(path).endswith("time_embedding/linear_2/kernel"):
                split += leaf.nbytes
            else:
                whole += leaf.nbytes
            for shard in leaf.addressable_shards:
                held[shard.device] += shard.data.nbytes
        assert len(held) == 8 and set(held.values()) == {whole + split // (mesh[1] * mesh[2])}
        assert whole < 0.1 * split


@pytest.mark.parametrize("name", ["tiny", "2b"])
def test_what_is_not_split_is_little(name):
    """The named sizes on eight devices, by shapes alone: each holds an eighth of the state, and at most 1 % more."""
    mesh = parallel.make_mesh((1, 2, 4))
    config = TransformerConfig.named(name, text_dim=0, conditioning_channels=56)
    template = ModelTemplate(lambda rngs: MultiViewTransformer(config, rngs=rngs), mesh)
    state = abstract_state(template, make_optimiser(OptimiserOptions(), template.shapes), mesh)
    for tree in (state.params, state.ema, state.moments):
        leaves = jax.tree.leaves(tree)
        held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
        assert held < sum(leaf.size for leaf in leaves) * (1 / 8 + 0.01)


def test_loss_is_v_mse_of_noisy_frames_only():
    """Against the formula written out in numpy."""
    batch = {name: jnp.asarray(value) for name, value in make_batch(shape=(8, 2, 2, 16, 16, 16)).items()}
    schedule = NoiseSchedule.cogvideox(snr_shift=1.0)
    made = jax.jit(lambda key, batch: noisy_batch(key, batch, LossOptions(snr_shift=1.0), schedule))
    noisy = jax.tree.map(np.asarray, made(jax.random.key(3), batch))
    alphas = schedule.alphas_cumprod[noisy["timesteps"]][..., None, None, None]
    x0, clean = np.asarray(batch["latents"]), np.asarray(batch["clean"])
    np.testing.assert_array_equal(noisy["latents"][clean], x0[clean])
    assert (noisy["timesteps"][clean] == 0).all() and (noisy["weight"][clean] == 0).all()
    np.testing.assert_allclose(noisy["weight"].sum(), 1, rtol=1e-6)
    noise = ((noisy["latents"] - np.sqrt(alphas) * x0) / np.sqrt(1 - alphas))[~clean]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    target = np.sqrt(alphas)[~clean] * noise - np.sqrt(1 - alphas)[~clean] * x0[~clean]
    np.testing.assert_allclose(noisy["target"][~clean], target, atol=1e-4)


def test_timesteps_are_uniform_and_shared_where_asked():
    frame = np.asarray(draw_timesteps(jax.random.key(0), (64, 4, 8), "frame", 1000))
    assert abs(frame.mean() - 499.5) < 15 and frame.min() < 5 and frame.max() > 994
    shared = np.asarray(draw_timesteps(jax.random.key(0), (64, 4, 8), "shared", 1000))
    assert (shared == shared[:, :1, :1]).all() and len(np.unique(shared[:, 0, 0])) > 50
    mixed = np.asarray(draw_timesteps(jax.random.key(0), (64, 4, 8), "mixed", 1000))
    same = (mixed == mixed[:, :1, :1]).all((1, 2)).mean()
    assert 0.3 < same < 0.7


def test_non_finite_step_leaves_the_state_as_it_was(one_device):
    """Nor do the good batches after it change anything: the host may have sent them already."""
    _, before, compiled = one_device
    bad = make_batch()
    bad["latents"][2, 0, 0, 0, 0, 0] = np.nan
    after = jax.device_put(before, jax.devices()[0])
    for batch in (bad, make_batch(), make_batch(1)):
        after, metrics = compiled(after, jax.device_put(batch, jax.devices()[0]))
        assert not bool(metrics["finite"])
    assert int(after.step) == -1 - int(before.step)
    for ours, theirs in zip(
        jax.tree.leaves(dataclasses.replace(after, step=before.step)), jax.tree.leaves(before), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def test_frozen_parameters_stay_on_a_mesh():
    """Two steps on (2,2,2): what is frozen and its average keep their bits, have no moments, and the rest moves."""
    mesh = parallel.make_mesh((2, 2, 2))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(CONFIG, rngs=rngs), mesh)
    before = initial_state(template, make_optimiser(OptimiserOptions(), template.shapes), mesh, seed=0)
    _, after, _ = run_steps((2, 2, 2), 1, freeze=("^blocks/attn", "^patch_embed"))
    for tree, old in ((after.params, before.params), (after.ema, before.ema)):
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        for (path, ours), theirs in zip(paths, jax.tree.leaves(old), strict=True):
            same = np.array_equal(np.asarray(ours), np.asarray(theirs))
            assert same == path_name(path).startswith(("blocks/attn", "patch_embed")), path_name(path)
    moments = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(after.moments)[0]]
    assert any("blocks/ff" in name for name in moments) and not any("blocks/attn" in name for name in moments)


def test_freeze_and_decay():
    """Frozen parameters get no update; decay acts on kernels alone, by AdamW's formula."""
    mesh = parallel.make_mesh((1, 1, 1))
    template = ModelTemplate(lambda rngs: MultiViewTransformer(CONFIG, rngs=rngs), mesh)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), template.shapes)
    zero = jax.tree.map(jnp.zeros_like, params)
    optimiser = make_optimiser(OptimiserOptions(weight_decay=0.1, freeze=("^blocks/attn",)), template.shapes)
    updates, _ = jax.jit(lambda params: optimiser.update(zero, optimiser.init(params), params))(params)
    flat = jax.tree_util.tree_flatten_with_path(updates)[0]
    values = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert any(path_name(path).startswith("blocks/attn") for path, _ in flat)
    for path, update in flat:
        name = path_name(path)
        decays = name.endswith("kernel") and not name.startswith("blocks/attn")
        np.testing.assert_allclose(update, 0.1 * values[name] if decays else 0 * values[name], rtol=1e-6, err_msg=name)
    with pytest.raises(UserError, match="matches no parameter"):
        make_optimiser(OptimiserOptions(freeze=("nothing_like_this",)), template.shapes)
    examples = re.findall(r"`(\w+(?:/\w+)+)`", OptimiserOptions.__doc__ + path_name.__doc__)
    assert len(examples) == 2 and set(examples) <= set(values)
    assert isinstance(optimiser, optax.GradientTransformation)


def test_pixels_that_the_photo_shows_count_more():
    """Weights are one, and 4 times the share of the maps' last channel more, over their sum; none on clean frames."""
    batch = {name: jnp.asarray(value) for name, value in make_batch().items()}
    share = np.random.default_rng(1).uniform(size=SHAPE[:-1]).astype(np.float32)
    batch["conditioning"] = batch["conditioning"].at[..., -1].set(share)
    schedule = NoiseSchedule.cogvideox(snr_shift=1.0)
    weight = np.asarray(noisy_batch(jax.random.key(3), batch, LossOptions(photo=4.0), schedule)["weight"])
    expected = (1 + 4 * share) * ~np.asarray(batch["clean"])[..., None, None]
    np.testing.assert_allclose(weight, expected / expected.sum(), rtol=1e-5)
