"""The paths past the layers: against numpy, nothing at first, and a mesh or padding changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_world import quick_compilation

from mvp4d_jax import parallel
from mvp4d_jax.models.short_paths import DetailHead
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig
from tests.models.test_transformer import CONFIG, gradients, randomised, run, sample, with_config

DETAIL = dataclasses.replace(CONFIG, detail_width=24)


def without(model: MultiViewTransformer, module: str, config: TransformerConfig) -> MultiViewTransformer:
    """The same weights, one module left out."""
    graph = nnx.split(nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0))))[0]
    state = nnx.state(model)
    return nnx.merge(graph, nnx.State({name: state[name] for name in state if name != module}))


def arrays(model: MultiViewTransformer, module: str) -> dict:
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)[module]))


def test_skip_is_zero_at_first_and_a_scaled_linear_map_of_the_patch():
    """Against numpy: what the skip adds, from the latents and the timestep embedding alone."""
    config = dataclasses.replace(CONFIG, skip_width=24)
    inputs, model = sample(), randomised(config)
    added = run(model, **inputs) - run(without(model, "skip", CONFIG), **inputs)
    layers = arrays(model, "skip")
    time = np.asarray(jax.nn.silu(model.time_embedding(jnp.asarray(inputs["timesteps"]))))  # [B, V, L, E]
    b, v, n, h, w, c = inputs["latents"].shape
    patches = inputs["latents"].reshape(b, v, n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 2, 3, 5, 7, 4, 6)
    x = patches.reshape(b, v, n, h // 2, w // 2, c * 4) @ layers["proj_in"]["kernel"] + layers["proj_in"]["bias"]
    x = x * (time @ layers["gain"]["kernel"] + layers["gain"]["bias"])[:, :, :, None, None]
    x = (x @ layers["proj_out"]["kernel"] + layers["proj_out"]["bias"]).reshape(b, v, n, h // 2, w // 2, c, 2, 2)
    expected = x.transpose(0, 1, 2, 3, 6, 4, 7, 5).reshape(inputs["latents"].shape)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(added, expected, atol=1e-4)
    with quick_compilation():
        fresh = MultiViewTransformer(config, rngs=nnx.Rngs(0)).skip
    assert not fresh.gain.kernel.get_value().any() and not fresh.gain.bias.get_value().any()


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_detail_is_a_network_of_each_latent_pixel():
    """Against numpy, one latent pixel after another; only the token's features are the model's own."""
    inputs, model = sample(), randomised(DETAIL)
    layers = arrays(model, "detail")
    apply = lambda name, x: x @ layers[name]["kernel"] + layers[name]["bias"]  # noqa: E731
    b, views, frames, h, w, _ = inputs["latents"].shape
    time = np.asarray(jax.nn.silu(model.time_embedding(jnp.asarray(inputs["timesteps"]))))  # [B, V, L, E]
    shares = apply("of_token", tokens_before_the_end(model, inputs)).reshape(b, h // 2, w // 2, -1, 2, 2, 24)
    expected = np.zeros_like(inputs["latents"])
    for view, frame, row, column in np.ndindex(views, frames, h, w):
        at = (0, view, frame, row, column)
        features = apply("of_pixel", np.concatenate([inputs["latents"][at], inputs["conditioning"][at]]))
        features = features + shares[0, row // 2, column // 2, view * frames + frame, row % 2, column % 2]
        shift, scale = np.split(apply("modulation", time[0, view, frame]), 2)
        expected[at] = apply("out", gelu(apply("hidden", gelu(features * (1 + scale) + shift))))
    added = run(model, **inputs) - run(without(model, "detail", CONFIG), **inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(added, expected, atol=2e-4)


def tokens_before_the_end(model: MultiViewTransformer, inputs: dict) -> np.ndarray:
    """[B, P, V L, D]: what `proj_out` is given, read off it."""
    seen, original = [], DetailHead.__call__

    def spy(self, noisy, maps, tokens, *rest):
        seen.append(np.asarray(tokens))
        return original(self, noisy, maps, tokens, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetailHead, "__call__", spy)
        model(**inputs)
    return seen[0]


def test_detail_is_nothing_at_first():
    with quick_compilation():
        fresh = MultiViewTransformer(DETAIL, rngs=nnx.Rngs(0))
    inputs = sample()
    np.testing.assert_array_equal(run(fresh, **inputs), run(without(fresh, "detail", CONFIG), **inputs))


def test_detail_takes_missing_maps_as_zeros_and_no_reference():
    inputs, model = sample(), randomised(DETAIL)
    bare = {name: inputs[name] for name in ("latents", "timesteps")}
    zeros = run(model, **bare, conditioning=np.zeros_like(inputs["conditioning"]))
    np.testing.assert_array_equal(run(model, **bare), zeros)
    assert np.abs(run(model, **inputs) - zeros).max() > 1e-3


def test_padding_changes_nothing():
    inputs, model = sample(), randomised(DETAIL)
    exact, padded = run(model, **inputs), run(with_config(model, pad_patches_to=5), **inputs)
    assert np.linalg.norm(padded - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 1, 8)])
def test_a_mesh_changes_neither_output_nor_gradients(shape):
    inputs = sample(batch=8, views=2, height=8, width=6)  # 12 patches: 8 devices need padding
    expected = gradients(randomised(DETAIL), inputs)
    with parallel.use_mesh(parallel.make_mesh(shape)) as mesh:
        found = gradients(randomised(DETAIL, mesh=mesh), jax.device_put(inputs, parallel.batch_sharding(mesh)))
    for path, value in expected.items():
        error = np.abs(found[path] - value).max() / max(1e-3, np.abs(value).max())
        assert error <= 1e-5, (path, error)


def test_details_need_maps():
    with pytest.raises(ValueError, match="detail_width"):
        dataclasses.replace(DETAIL, conditioning_channels=0)
