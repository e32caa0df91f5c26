"""What the multi-view transformer must not notice, what it must, and that a mesh changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_world import quick_compilation

from mvp4d_jax import parallel
from mvp4d_jax.models import embeddings
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig, forward_flops

CONFIG = TransformerConfig.named(
    "tiny",
    num_layers=2,
    num_heads=2,
    head_dim=32,
    time_embed_dim=16,
    text_dim=24,
    conditioning_channels=5,
    latent_channels=4,
    patch_size=2,
    skip_width=0,
    detail_width=0,
)


def randomised(config: TransformerConfig, keep_conditioning_zero: bool = False, mesh=None) -> MultiViewTransformer:
    """A model whose every parameter is random, zero-initialised ones included; the same with and without a mesh."""
    create = lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0))  # noqa: E731
    graph, state = nnx.split(nnx.eval_shape(create)) if mesh is None else nnx.get_abstract_model(create, mesh)
    generator, filled = np.random.default_rng(0), {}
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        value = generator.standard_normal(shape) * (shape[-2] ** -0.5 if path[-1] == "kernel" else 0.1)
        value += path[-1] == "scale"
        if keep_conditioning_zero and path[0] == "conditioning_embed":
            value *= 0
        value = np.asarray(value, np.float32)
        sharding = None if mesh is None else variable.get_value().sharding
        filled[path] = variable.replace(jax.device_put(value, sharding))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def with_config(model: MultiViewTransformer, **changes) -> MultiViewTransformer:
    """The same weights computed otherwise."""
    config = dataclasses.replace(model.config, **changes)
    graph = nnx.split(nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0))))[0]
    return nnx.merge(graph, nnx.state(model))


def sample(batch: int = 1, views: int = 3, frames: int = 2, height: int = 4, width: int = 8, config=CONFIG) -> dict:
    """Inputs of `MultiViewTransformer.__call__`, text left out."""
    generator = np.random.default_rng(7)
    lead, space, maps = (batch, views, frames), (height, width), config.conditioning_channels

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    return {
        "latents": normal(*lead, *space, config.latent_channels),
        "timesteps": generator.integers(0, 800, lead),
        "conditioning": normal(*lead, *space, maps),
        "reference_latents": normal(batch, *space, config.latent_channels),
        "reference_conditioning": normal(batch, *space, maps),
    }


def words(batch: int) -> np.ndarray:
    """Text embeddings [B, 6, text_dim]."""
    return np.random.default_rng(8).standard_normal((batch, 6, CONFIG.text_dim)).astype(np.float32)


def run(model: MultiViewTransformer, **inputs) -> np.ndarray:
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, inputs: nnx.merge(graph, state)(**inputs))(state, inputs))


@pytest.fixture(scope="module")
def model() -> MultiViewTransformer:
    return randomised(CONFIG)


def test_one_view_without_conditioning_is_plain_cogvideox_bit_for_bit():
    """Against the forward pass of CogVideoX written down plainly over the same layers, one video, one timestep."""
    model = randomised(CONFIG, keep_conditioning_zero=True)
    inputs = sample(views=1, frames=3)
    latents, timestep, text = inputs["latents"], np.array([521]), words(1)

    def plain(model, video, timestep, text):  # video [1, L, h, w, C]
        _, frames, height, width, _ = video.shape
        x = model.patch_embed.proj(embeddings.patchify(video, 2))
        space, time = embeddings.sincos_positions(frames, height // 2, width // 2, CONFIG.width, 1.875, 1.0)
        x += space[:, None] + time
        text = model.patch_embed.text_proj(text)
        time = jax.nn.silu(model.time_embedding(timestep))
        graph, blocks = nnx.split(model.blocks)

        def layer(carry, state):
            tokens = carry[0].shape[1] * carry[0].shape[2]
            return nnx.merge(graph, state)(*carry, (time[:, None, None], time[:, None]), None, tokens), None

        x = jax.lax.scan(layer, (x, text), blocks)[0][0]
        shift, scale = model.norm_out.modulation(time[:, None, None])
        x = model.norm_out(model.norm_final(x), shift, scale, jnp.float32)
        return embeddings.to_latents(x, *model.proj_out.weights(), 2, height, width)

    graph, state = nnx.split(model)
    expected = jax.jit(lambda state, *a: plain(nnx.merge(graph, state), *a))(state, latents[:, 0], timestep, text)
    shared = run(model, latents=latents, timesteps=timestep, text=text)
    np.testing.assert_array_equal(shared[:, 0], expected)
    # Zero-initialised maps: present or not, the same bits.
    with_maps = run(model, latents=latents, timesteps=timestep, text=text, conditioning=inputs["conditioning"])
    np.testing.assert_array_equal(with_maps, shared)


def test_constant_timesteps_per_frame_equal_the_shared_one(model):
    inputs = sample(batch=2)
    text = words(2)
    inputs["timesteps"] = np.array([3, 977])
    shared = run(model, **inputs, text=text)
    inputs["timesteps"] = np.broadcast_to(inputs["timesteps"][:, None, None], (2, 3, 2))
    np.testing.assert_allclose(run(model, **inputs, text=text), shared, atol=1e-6)


def test_each_frame_feels_its_own_timestep(model):
    inputs = sample()
    before = run(model, **inputs)
    inputs["timesteps"][0, 1, 1] += 150
    after = run(model, **inputs)
    change = np.abs(after - before).max(axis=(-3, -2, -1))[0]  # [V, L]
    assert change[1, 1] > 5 * np.delete(change.ravel(), 3).max() > 0


def test_permuting_views_permutes_the_output(model):
    inputs = sample()
    order = np.array([2, 0, 1])
    moved = {name: value if name.startswith("reference") else value[:, order] for name, value in inputs.items()}
    np.testing.assert_allclose(run(model, **moved), run(model, **inputs)[:, order], atol=1e-5)


def test_reference_and_its_maps_matter_and_missing_maps_are_zeros(model):
    inputs = sample()
    full = run(model, **inputs)
    no_reference_maps = run(model, **{**inputs, "reference_conditioning": None})
    zeros = run(model, **{**inputs, "reference_conditioning": np.zeros_like(inputs["reference_conditioning"])})
    np.testing.assert_array_equal(no_reference_maps, zeros)
    without = run(model, **{**inputs, "reference_latents": None, "reference_conditioning": None})
    assert np.abs(full - zeros).max() > 1e-3 and np.abs(full - without).max() > 1e-3
    bare = {name: inputs[name] for name in ("latents", "timesteps")}
    zeros = run(model, **bare, conditioning=np.zeros_like(inputs["conditioning"]))
    assert np.abs(zeros - run(model, **bare)).max() > 0  # its bias is random here: zeros are maps, None is none


@pytest.mark.parametrize("position", ["sincos", "rotary"])
@pytest.mark.parametrize("with_text", [False, True])
def test_padding_changes_nothing(position, with_text):
    model = randomised(dataclasses.replace(CONFIG, position=position))
    inputs = sample()  # 8 patches a frame
    if with_text:
        inputs["text"] = words(1)
    exact, padded = run(model, **inputs), run(with_config(model, pad_patches_to=5), **inputs)
    assert np.linalg.norm(padded - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("remat", ["full", "attention", "matmuls"])
def test_remat_changes_no_gradient(model, remat):
    inputs = sample(views=2)
    expected, found = (gradients(with_config(model, remat=name), inputs) for name in ("none", remat))
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, atol=1e-5 * max(1.0, np.abs(value).max()), err_msg=str(path))


def gradients(model: MultiViewTransformer, inputs: dict) -> dict:
    """Output and gradients of every parameter of a scalar of the output, by path."""
    graph, state = nnx.split(model)

    def loss(state, inputs):
        out = nnx.merge(graph, state)(**inputs)
        return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).mean(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(state, inputs)
    flat = {path: np.asarray(variable.get_value()) for path, variable in nnx.to_flat_state(gradients)}
    return {("output",): np.asarray(out), **flat}


@pytest.fixture(scope="module")
def one_device() -> tuple[dict, dict]:
    inputs = sample(batch=8, views=2, height=8, width=6)  # 12 patches: 8 devices need padding
    return inputs, gradients(randomised(CONFIG), inputs)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_a_mesh_changes_neither_output_nor_gradients(one_device, shape):
    inputs, expected = one_device
    with parallel.use_mesh(parallel.make_mesh(shape)) as mesh:
        model = randomised(dataclasses.replace(CONFIG, remat="full"), mesh=mesh)
        kernel = model.blocks.ff.up.kernel
        assert kernel.sharding.shard_shape(kernel.shape)[1] == CONFIG.width // (shape[1] * shape[2])
        found = gradients(model, jax.device_put(inputs, parallel.batch_sharding(mesh)))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        error = np.abs(found[path] - value).max() / max(1e-3, np.abs(value).max())
        assert error <= 1e-5, (path, error)


def test_text_on_a_mesh():
    inputs = {**sample(batch=2, height=8, width=6), "text": words(2)}
    expected = run(randomised(CONFIG), **inputs)
    with parallel.use_mesh(parallel.make_mesh((1, 2, 4))) as mesh:
        found = run(randomised(CONFIG, mesh=mesh), **inputs)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_created_inside_jit_parameters_are_split_from_the_start():
    with parallel.use_mesh(parallel.make_mesh((2, 2, 2))):
        model = nnx.jit(lambda: MultiViewTransformer(CONFIG, rngs=nnx.Rngs(0)))()
        for kernel in (model.blocks.ff.up.kernel, model.blocks.attn.to_q.kernel, model.proj_out.kernel):
            assert kernel.get_value().addressable_shards[0].data.size == kernel.size // 4
    with quick_compilation():
        plain = MultiViewTransformer(CONFIG, rngs=nnx.Rngs(0))
    assert jax.tree.structure(nnx.state(plain)) == jax.tree.structure(nnx.state(model))
    assert not np.any(plain.conditioning_embed.kernel) and not np.any(plain.conditioning_embed.bias)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": jnp.zeros((1, 3, 2, 4, 8, 9))}, "latents"),
        ({"latents": jnp.zeros((1, 3, 2, 5, 8, 4))}, "patch size"),
        ({"timesteps": jnp.zeros((1, 2, 2))}, "timesteps"),
        ({"conditioning": jnp.zeros((1, 3, 2, 4, 8, 6))}, "conditioning"),
        ({"reference_latents": None}, "without reference_latents"),
        ({"text": jnp.zeros((1, 3, 23))}, "text"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(**{**sample(), **change})


def test_flops_are_what_is_known_of_cogvideox():
    """CogVideoX-2B at 49 x 480 x 720: 17,776 tokens, about 120 TFLOP a forward pass."""
    assert forward_flops(TransformerConfig.named("2b"), 17_776) == pytest.approx(120e12, rel=0.01)


def test_sizes_by_name():
    counts = {}
    for name in ("tiny", "small", "2b", "5b"):
        config = TransformerConfig.named(name)
        abstract = nnx.eval_shape(lambda config=config: MultiViewTransformer(config, rngs=nnx.Rngs(0)))
        counts[name] = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract)))
    assert counts["tiny"] < 10e6 < 100e6 < counts["small"] < 150e6
    assert 1.69e9 < counts["2b"] < 1.70e9 and 5.5e9 < counts["5b"] < 5.6e9


@pytest.mark.parametrize(
    "change",
    [
        {"position": "learned"},
        {"remat": "some"},
        {"head_dim": 20},
        {"num_layers": 0},
        {"attention_backend": "magic"},
        {"dtype": "float16"},
    ],
)
def test_configs_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TransformerConfig.named("tiny", **change)
