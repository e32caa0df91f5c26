"""The transformer against diffusers' CogVideoXTransformer3DModel on the same random weights, float32, CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from flax import nnx

from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig

NAMES = {  # ours: theirs, below the block
    "attn.to_q": "attn1.to_q",
    "attn.to_k": "attn1.to_k",
    "attn.to_v": "attn1.to_v",
    "attn.to_out": "attn1.to_out.0",
    "attn.norm_q": "attn1.norm_q",
    "attn.norm_k": "attn1.norm_k",
    "ff.up": "ff.net.0.proj",
    "ff.down": "ff.net.2",
}


def oracle(config: TransformerConfig, **changes) -> CogVideoXTransformer3DModel:
    """Diffusers' model of our config, every parameter (norms and biases too) random."""
    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.num_layers,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        text_embed_dim=config.text_dim,
        time_embed_dim=config.time_embed_dim,
        sample_height=config.sample_height,
        sample_width=config.sample_width,
        use_rotary_positional_embeddings=config.position == "rotary",
        **changes,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return model.eval()


def from_oracle(model: CogVideoXTransformer3DModel, config: TransformerConfig) -> MultiViewTransformer:
    """Our model with the oracle's weights, written independently of `models.checkpoint`."""
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}

    def read(path: tuple[str, ...]) -> np.ndarray:
        *module, leaf = path
        name = ".".join(module)
        weight = theirs[f"{NAMES.get(name, name)}.{'bias' if leaf == 'bias' else 'weight'}"]
        if leaf == "kernel":
            weight = weight.reshape(len(weight), -1).T  # a convolution's [D, C, p, p] flattens to (C, p, p)
        return weight

    def read_block(path: tuple[str, ...], layer: int) -> np.ndarray:
        *module, leaf = path
        name = ".".join(module)
        weight = theirs[f"transformer_blocks.{layer}.{NAMES.get(name, name)}.{'bias' if leaf == 'bias' else 'weight'}"]
        return weight.T if leaf == "kernel" else weight

    abstract = nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    filled = {}
    for path, variable in nnx.to_flat_state(state):
        if path[0] == "conditioning_embed":
            value = np.zeros(variable.shape, np.float32)
        elif path[0] == "blocks":
            value = np.stack([read_block(path[1:], layer) for layer in range(config.num_layers)])
        else:
            value = read(path)
        assert value.shape == variable.shape, path
        filled[path] = variable.replace(jnp.asarray(value))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def inputs(config, batch, frames, height, width, text_length, seed=1):
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((batch, frames, height, width, config.latent_channels)).astype(np.float32)
    text = generator.standard_normal((batch, text_length, config.text_dim)).astype(np.float32)
    timesteps = generator.integers(0, 1000, batch)
    return latents, text, timesteps


def run_oracle(model, config, latents, text, timesteps):
    model.patch_embed.max_text_seq_length = text.shape[1]
    rotary = None
    if config.position == "rotary":
        grid = (latents.shape[2] // 2, latents.shape[3] // 2)
        crop = get_resize_crop_region_for_grid(grid, config.sample_width // 2, config.sample_height // 2)
        rotary = get_3d_rotary_pos_embed(config.head_dim, crop, grid, latents.shape[1])
    with torch.no_grad():
        out = model(
            torch.from_numpy(latents).permute(0, 1, 4, 2, 3),
            torch.from_numpy(text),
            torch.from_numpy(timesteps),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
    return out.permute(0, 1, 3, 4, 2).numpy()


SIZES = [  # batch, frames, height, width, text tokens (0: no text)
    (1, 1, 8, 8, 226),
    (2, 3, 8, 8, 0),
    (1, 3, 8, 12, 24),
    (1, 1, 12, 4, 0),
    (1, 13, 4, 8, 16),
    (1, 13, 4, 4, 0),
]


@pytest.fixture(scope="module")
def two_layers_of_2b():
    config = TransformerConfig.named("2b", num_layers=2)
    theirs = oracle(config)
    return config, theirs, from_oracle(theirs, config)


@pytest.fixture(scope="module")
def small_rotary():
    config = TransformerConfig.named(
        "5b", num_layers=3, num_heads=4, time_embed_dim=64, text_dim=48, sample_height=24, sample_width=32
    )
    theirs = oracle(config)
    return config, theirs, from_oracle(theirs, config)


def compare(models, size):
    config, theirs, ours = models
    latents, text, timesteps = inputs(config, *size)
    expected = run_oracle(theirs, config, latents, text, timesteps)
    graph, state = nnx.split(ours)
    call = jax.jit(lambda state, latents, timesteps, text: nnx.merge(graph, state)(latents, timesteps, text=text))
    found = call(state, latents[:, None], timesteps, text if size[-1] else None)
    assert found.dtype == jnp.float32
    return relative_error(found[:, 0], expected)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_2b_width_equals_diffusers(two_layers_of_2b, size):
    assert compare(two_layers_of_2b, size) <= 1e-5


@pytest.mark.parametrize(
    "size", [(2, 1, 8, 8, 24), (1, 3, 24, 8, 0), (1, 13, 4, 12, 16)], ids=lambda size: "x".join(map(str, size))
)
def test_rotary_equals_diffusers(small_rotary, size):
    assert compare(small_rotary, size) <= 1e-5


def test_shape_tree_of_2b_is_the_originals():
    """Count and names of all 30 layers, nothing allocated on either side."""
    config = TransformerConfig.named("2b", conditioning_channels=0)
    with torch.device("meta"):
        theirs = {name: tuple(p.shape) for name, p in CogVideoXTransformer3DModel(num_layers=30).named_parameters()}
    abstract = nnx.eval_shape(lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0)))
    ours = {}
    for path, variable in nnx.to_flat_state(nnx.state(abstract, nnx.Param)):
        *module, leaf = path[1:] if path[0] == "blocks" else path
        name = ".".join(module)
        name = f"{NAMES.get(name, name)}.{'bias' if leaf == 'bias' else 'weight'}"
        shape = variable.shape[1:] if path[0] == "blocks" else variable.shape
        for layer in range(config.num_layers) if path[0] == "blocks" else [None]:
            ours[name if layer is None else f"transformer_blocks.{layer}.{name}"] = int(np.prod(shape))
    assert ours == {name: int(np.prod(shape)) for name, shape in theirs.items()}
    assert sum(ours.values()) == sum(int(np.prod(shape)) for shape in theirs.values())


def test_bfloat16_stays_near_float32(two_layers_of_2b):
    config, _, ours = two_layers_of_2b
    low = from_oracle(two_layers_of_2b[1], dataclasses.replace(config, dtype="bfloat16"))
    latents, _, timesteps = inputs(config, 1, 1, 8, 8, 0)
    exact, rounded = (nnx.jit(lambda m: m(latents[:, None], timesteps))(m) for m in (ours, low))
    assert rounded.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(low)))
    assert 1e-5 < relative_error(rounded, exact) < 0.03
