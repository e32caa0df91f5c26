"""A smaller model's weights as the start of a larger one: the same prediction until it is trained."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvp4d.core.errors import UserError
from mvp4d_jax.geometry.conditioning import ConditioningConfig, map_channels
from mvp4d_jax.models.checkpoint import check_transformer, load_transformer, save_transformer
from mvp4d_jax.models.checkpoint_config import to_json
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig
from tests.small_world import quick_compilation

OLD = ConditioningConfig(frequencies=1, image_to_latent=4, temporal_stride=2, painted=4)
NEW = dataclasses.replace(OLD, temporal_stride=1)
SMALL = TransformerConfig(
    num_layers=2,
    num_heads=2,
    head_dim=16,
    latent_channels=4,
    time_embed_dim=16,
    text_dim=0,
    skip_width=8,
    detail_width=8,
    conditioning_channels=OLD.channels,
)


def random_model(config: TransformerConfig) -> MultiViewTransformer:
    """One whose gates and zero layers are open, so that every parameter matters."""
    with quick_compilation():
        model = MultiViewTransformer(config, rngs=nnx.Rngs(0))
    state, key = nnx.state(model, nnx.Param), jax.random.key(1)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(key, len(leaves))
    nnx.update(model, jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]))
    return model


def predict(model: MultiViewTransformer, given: dict) -> np.ndarray:
    with quick_compilation():
        return np.asarray(nnx.jit(lambda model, given: model(**given))(model, given))


def inputs(config: TransformerConfig, channels: int) -> dict:
    keys = jax.random.split(jax.random.key(2), 4)
    return {
        "conditioning": jax.random.normal(keys[0], (1, 2, 3, 4, 4, channels)),
        "reference_latents": jax.random.normal(keys[1], (1, 4, 4, config.latent_channels)),
        "reference_conditioning": jax.random.normal(keys[2], (1, 4, 4, channels)),
        "latents": jax.random.normal(keys[3], (1, 2, 3, 4, 4, config.latent_channels)),
        "timesteps": jnp.asarray([[[0, 400, 900]] * 2]),
    }


@pytest.mark.parametrize("text", [0, 8])
def test_more_layers_compute_the_same_and_can_learn(tmp_path, text):
    small = dataclasses.replace(SMALL, text_dim=text)
    save_transformer(tmp_path / "small", random_model(small), small)
    deep = dataclasses.replace(small, num_layers=5)
    given = inputs(small, OLD.channels)
    if text:
        given["text"] = jax.random.normal(jax.random.key(3), (1, 3, text))
    maps = map_channels(OLD, OLD)
    assert check_transformer(tmp_path / "small", deep, maps) == small
    model, _ = load_transformer(tmp_path / "small", deep, maps=maps)
    before = predict(load_transformer(tmp_path / "small")[0], given)
    np.testing.assert_allclose(predict(model, given), before, rtol=1e-5, atol=1e-5)
    with quick_compilation():
        gradient = nnx.jit(nnx.grad(lambda model: jnp.mean(jnp.square(model(**given)))))(model)
    gates = np.asarray(gradient.blocks.norm1.linear.kernel.get_value()).reshape(5, 16, -1, 32)[:, :, 2]
    assert (np.abs(gates).max(axis=(1, 2)) > 1e-6).all(), "every new layer's gate has a gradient"


def test_maps_that_are_gone_and_maps_that_are_new(tmp_path):
    """Without the motion maps it is the small model shown zeros there; with them again, whatever they show."""
    save_transformer(tmp_path / "old", random_model(SMALL), SMALL)
    fewer = dataclasses.replace(SMALL, conditioning_channels=NEW.channels)
    model, _ = load_transformer(tmp_path / "old", fewer, maps=map_channels(OLD, NEW))
    given, motion = inputs(SMALL, OLD.channels), OLD.parts["motion"]
    shown = {name: np.asarray(value) for name, value in given.items()}
    for name in ("conditioning", "reference_conditioning"):
        shown[name] = shown[name].copy()
        shown[name][..., motion] = 0
    expected = predict(load_transformer(tmp_path / "old")[0], shown)
    cut = {name: np.delete(v, np.r_[motion], axis=-1) if "conditioning" in name else v for name, v in shown.items()}
    np.testing.assert_allclose(predict(model, cut), expected, rtol=1e-5, atol=1e-5)

    save_transformer(tmp_path / "new", model, fewer)
    again, _ = load_transformer(tmp_path / "new", SMALL, maps=map_channels(NEW, OLD))
    np.testing.assert_allclose(predict(again, given), expected, rtol=1e-5, atol=1e-5)


def test_fewer_layers_and_other_maps_are_refused(tmp_path):
    save_transformer(tmp_path / "small", random_model(SMALL), SMALL)
    with pytest.raises(UserError, match="has num_layers 2, the model 1; choose as many or more: layers can be added"):
        load_transformer(tmp_path / "small", dataclasses.replace(SMALL, num_layers=1), maps=map_channels(OLD, OLD))
    with pytest.raises(UserError, match=r"config\.conditioning\.frequencies: is 2, .* trained with 1; train with"):
        map_channels(OLD, dataclasses.replace(OLD, frequencies=2))


def test_weights_that_do_not_fit_their_own_config_are_refused(tmp_path):
    """A layer, or columns of maps, more than config.json says are not left out in silence."""
    save_transformer(tmp_path / "small", random_model(SMALL), SMALL)
    config = tmp_path / "small" / "config.json"
    for changes, told in (
        ({"num_layers": 1}, r"left over: transformer_blocks\.1"),
        ({"conditioning_channels": OLD.channels - 1}, r"misshapen: conditioning_embed\.weight"),
    ):
        config.write_text(json.dumps(to_json(dataclasses.replace(SMALL, **changes))))
        with pytest.raises(UserError, match=told):
            check_transformer(tmp_path / "small", SMALL, map_channels(OLD, OLD))
