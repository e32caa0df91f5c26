"""Checkpoints: diffusers to ours and back, against diffusers itself and the safetensors library."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from flax import nnx
from safetensors import safe_open
from safetensors.torch import load_file
from small_world import quick_compilation

from mvp4d import cli
from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.models import checkpoint, convert
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.models.transformer import MultiViewTransformer
from mvp4d_jax.models.transformer_config import TransformerConfig


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    merged = {}
    for file in sorted(folder.glob("*.safetensors")):
        merged.update(load_file(file))
    return merged


def raw_bytes(folder: Path) -> dict[str, tuple]:
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors_of(folder).items()
    }


def test_round_trip_is_byte_identical_and_diffusers_loads_it(pipeline, tmp_path):
    convert.convert(pipeline, tmp_path / "ours", shard_bytes=150_000)
    said = convert.convert(tmp_path / "ours", tmp_path / "back", shard_bytes=10**9)
    assert "CogVideoXTransformer3DModel" in said and "AutoencoderKLCogVideoX" in said
    for part in ("vae", "transformer"):
        assert raw_bytes(tmp_path / "back" / part) == raw_bytes(pipeline / part)
    ours = tensors_of(tmp_path / "ours" / "transformer")
    assert ours.keys() - tensors_of(pipeline / "transformer").keys() == {
        "conditioning_embed.weight",
        "conditioning_embed.bias",
    }
    assert ours["conditioning_embed.weight"].shape == (64, 56, 2, 2) and not ours["conditioning_embed.weight"].any()
    # Ours loads too: what is more is ignored.
    for kind, folder in ((AutoencoderKLCogVideoX, "back/vae"), (CogVideoXTransformer3DModel, "ours/transformer")):
        _, info = kind.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
    assert json.loads((tmp_path / "back/transformer/config.json").read_text()) == json.loads(
        (pipeline / "transformer/config.json").read_text()
    )


def test_loaded_transformer_computes_what_diffusers_does(pipeline):
    """Text and video through both, the multi-view model with conditioning that is still zero."""
    config = dataclasses.replace(checkpoint.load_transformer(pipeline / "transformer")[1], conditioning_channels=6)
    model, _ = checkpoint.load_transformer(pipeline / "transformer", config)
    oracle = CogVideoXTransformer3DModel.from_pretrained(pipeline / "transformer").float().eval()
    random = np.random.default_rng(0)
    latents = random.standard_normal((1, 1, 1, 4, 6, 4)).astype(np.float32)
    text = random.standard_normal((1, 3, 24)).astype(np.float32)
    with torch.no_grad():
        theirs = (
            oracle(torch.from_numpy(latents[:, 0]).permute(0, 1, 4, 2, 3), torch.from_numpy(text), torch.tensor([400]))
            .sample.permute(0, 1, 3, 4, 2)
            .numpy()
        )
    maps = random.standard_normal((*latents.shape[:-1], 6)).astype(np.float32)
    ours = model(jnp.asarray(latents), jnp.asarray([400]), text=jnp.asarray(text), conditioning=jnp.asarray(maps))
    assert np.linalg.norm(ours[:, 0] - theirs) / np.linalg.norm(theirs) < 1e-5


def test_a_model_without_text_takes_the_videos_half(pipeline, tmp_path):
    """A checkpoint with text into a model without: its projection is left out, modulations give their first half."""
    own = checkpoint.load_transformer(pipeline / "transformer")[1]
    config = dataclasses.replace(own, text_dim=0, conditioning_channels=0)
    model, loaded = checkpoint.load_transformer(pipeline / "transformer", config)
    assert loaded.text_dim == 0
    checkpoint.save_transformer(tmp_path / "ours", model, config)
    source, ours = tensors_of(pipeline / "transformer"), tensors_of(tmp_path / "ours")
    assert source.keys() - ours.keys() == {"patch_embed.text_proj.weight", "patch_embed.text_proj.bias"}
    for name, tensor in ours.items():
        halved = ".norm1.linear." in name or ".norm2.linear." in name
        assert torch.equal(tensor, source[name].float()[: 3 * 64 if halved else None]), name


def test_a_model_that_holds_the_empty_prompt(pipeline, tmp_path):
    """Given no text it computes what diffusers does with these embeddings; another number of tokens is refused."""
    embeddings = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    np.save(tmp_path / "empty.npy", embeddings)
    words = ["convert", str(pipeline), str(tmp_path / "ours"), "--empty-prompt", str(tmp_path / "empty.npy")]
    assert cli.main([*words, "--dtype", "float32"]) == 0
    model, config = checkpoint.load_transformer(tmp_path / "ours" / "transformer")
    assert config.prompt_tokens == 3 and config.conditioning_channels == 56
    latents = np.random.default_rng(1).normal(size=(1, 2, 8, 8, 4)).astype(np.float32)  # [B, L, h, w, C]
    theirs = CogVideoXTransformer3DModel.from_pretrained(pipeline / "transformer").float().eval()
    with torch.no_grad():
        expected = (
            theirs(
                torch.tensor(latents.transpose(0, 1, 4, 2, 3)),
                torch.tensor(embeddings)[None],
                torch.tensor([500]),
                return_dict=False,
            )[0]
            .numpy()
            .transpose(0, 1, 3, 4, 2)
        )
    made = np.asarray(model(jnp.asarray(latents)[:, None], jnp.array([500])))[:, 0]
    np.testing.assert_allclose(made, expected, atol=2e-4 * np.abs(expected).max())
    # Trained on with and without it; a model that expects one where there is none is told how to get it.
    for source, wanted, fine in (("ours", 3, True), ("ours", 0, True), ("plain", 3, False)):
        folder = pipeline / "transformer" if source == "plain" else tmp_path / "ours" / "transformer"
        target = dataclasses.replace(config, prompt_tokens=wanted)
        if fine:
            checkpoint.check_transformer(folder, target)
        else:
            with pytest.raises(UserError, match="holds no prompt tokens, the model 3; write them into it"):
                checkpoint.check_transformer(folder, target)
    convert.convert(tmp_path / "ours", tmp_path / "back", dtype="bfloat16")
    assert raw_bytes(tmp_path / "back" / "transformer") == raw_bytes(pipeline / "transformer")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_we_save_we_and_safetensors_read(tmp_path, dtype):
    config = TransformerConfig.named(
        "tiny", num_layers=3, num_heads=1, time_embed_dim=8, conditioning_channels=5, latent_channels=16, patch_size=2
    )
    with quick_compilation():
        model = MultiViewTransformer(config, rngs=nnx.Rngs(0))
    checkpoint.save_transformer(tmp_path / "saved", model, config, dtype=dtype, shard_bytes=100_000)
    loaded, again = checkpoint.load_transformer(tmp_path / "saved")
    assert again == config
    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    for file in (tmp_path / "saved").glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            assert handle.metadata() == {"format": "pt"}
            assert {handle.get_slice(name).get_dtype() for name in handle.keys()} == {code}  # noqa: SIM118
    jax.tree.map(
        lambda ours, read: np.testing.assert_array_equal(jnp.asarray(ours, dtype).astype(jnp.float32), read),
        nnx.state(model),
        nnx.state(loaded),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert f"{count:,} parameters" in convert.validate_weights(tmp_path / "saved")


def test_full_2b_has_the_originals_names_and_shapes():
    """Nothing is allocated on either side."""
    with torch.device("meta"):
        transformer, autoencoder = CogVideoXTransformer3DModel(), AutoencoderKLCogVideoX()
    for config, model in (
        (TransformerConfig.named("2b", conditioning_channels=0), transformer),
        (AutoencoderConfig.named("2b"), autoencoder),
    ):
        theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert checkpoint.expected_shapes(config) == theirs
        leaves = jax.tree.leaves(nnx.state(checkpoint.abstract_model(config), nnx.Param))
        assert sum(leaf.size for leaf in leaves) == sum(parameter.numel() for parameter in model.parameters())


def test_loads_onto_a_mesh(pipeline):
    """Every device holds its part only, and the numbers are the same."""
    alone, _ = checkpoint.load_transformer(pipeline / "transformer")
    mesh = parallel.make_mesh((1, 8, 1))

    def spread(leaf):
        axes = [
            "fsdp" if leaf.ndim > 1 and size % 8 == 0 and axis == leaf.ndim - 1 else None
            for axis, size in enumerate(leaf.shape)
        ]
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    shardings = jax.tree.map(spread, nnx.to_pure_dict(nnx.state(alone, nnx.Param)))
    sharded, _ = checkpoint.load_transformer(pipeline / "transformer", shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(alone), nnx.state(sharded))
    kernel = sharded.blocks.ff.up.kernel.get_value()
    assert kernel.addressable_shards[0].data.shape == (2, 64, 32) and len(kernel.addressable_shards) == 8


def test_memory_of_conversion(tmp_path):
    """Peak memory above the interpreter's own stays under 1.3 x (largest shard + output shard)."""
    config = TransformerConfig.named(
        "tiny",
        num_layers=4,
        num_heads=12,
        text_dim=64,
        conditioning_channels=0,
        latent_channels=16,
        patch_size=2,
        skip_width=0,
        detail_width=0,
    )
    shapes = checkpoint.expected_shapes(config)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(checkpoint.to_json(config)))
    random = np.random.default_rng(0)
    shard = 48 << 20
    checkpoint.write_weights(
        source,
        [(name, "F32", shape) for name, shape in shapes.items()],
        lambda name: random.standard_normal(shapes[name], np.float32),
        shard_bytes=shard,
    )
    assert len(list(source.glob("*.safetensors"))) >= 3
    script = (
        "import resource, sys, tracemalloc\n"
        "from mvp4d_jax.models.checkpoint import expected_shapes\n"
        "from mvp4d_jax.models.convert import convert\n"
        "from mvp4d_jax.models.transformer_config import TransformerConfig\n"
        "expected_shapes(TransformerConfig.named('tiny', num_layers=4, num_heads=12, text_dim=64))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tracemalloc.start()\n"
        "convert(sys.argv[1], sys.argv[2], shard_bytes=int(sys.argv[3]))\n"
        "resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"  # kilobytes on Linux
        "print(resident * 1024, tracemalloc.get_traced_memory()[1])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(source), str(tmp_path / "out"), str(shard)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    largest = max(4 * int(np.prod(shape)) for shape in shapes.values())
    resident, allocated = map(int, out.split())
    assert largest < allocated < 1.3 * 2 * shard and resident < 1.3 * 2 * shard
