"""What a release is computed in, and where its weights go."""

import collections
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_world import write_release

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.models.checkpoint import autoencoder_bytes, load_transformer, transformer_bytes
from mvp4d_jax.release import load_release, read_facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("weights") / "release")


def _say(folder, **facts):
    file = folder / "mvp4d.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def test_a_release_knows_its_dtype(folder, tmp_path):
    assert read_facts(folder).dtype == "float32"
    copy = write_release(tmp_path / "copy")
    _say(copy, dtype="bfloat16")
    release = load_release(copy)
    assert release.transformer.config.dtype == "bfloat16" and release.autoencoder.dtype == jnp.bfloat16
    assert load_release(copy, dtype="float32").transformer.config.dtype == "float32"
    with pytest.raises(UserError, match="`dtype`: 'float8' is not one of float32, bfloat16"):
        load_release(copy, dtype="float8")
    _say(copy, dtype="int4")
    with pytest.raises(UserError, match="field 'dtype' is int4"):
        read_facts(copy)


def test_kernels_in_bfloat16_give_the_same_numbers_in_half_the_memory(folder):
    narrow = load_release(folder, dtype="bfloat16").transformer
    wide, _ = load_transformer(folder / "transformer", narrow.config)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(wide))} == {"float32"}
    assert narrow.proj_out.kernel.dtype == jnp.bfloat16 and narrow.norm_final.scale.dtype == jnp.float32
    random = np.random.default_rng(0)
    latents = random.normal(size=(1, 2, 2, 4, 4, 16)).astype(np.float32)
    given = {
        "timesteps": np.full((1, 2, 2), 500),
        "reference_latents": latents[:, 0, 0],
        "conditioning": random.normal(size=(*latents.shape[:5], narrow.config.conditioning_channels)),
    }
    outputs = [np.asarray(nnx.jit(lambda model: model(latents, **given))(model)) for model in (narrow, wide)]
    np.testing.assert_array_equal(*outputs)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(narrow)))
    assert transformer_bytes(narrow.config, "bfloat16", parallel.planned_mesh((1, 1, 1))) == (held, held)


def test_weights_go_to_the_mesh_in_shards(folder):
    mesh = parallel.make_mesh((1, 2, 4))
    release = load_release(folder, mesh=mesh)
    kernel = release.transformer.blocks.ff.up.kernel.get_value()
    assert kernel.sharding.mesh == mesh and kernel.sharding.shard_shape(kernel.shape)[1] == kernel.shape[1] // 8
    alone = load_release(folder).transformer.blocks.ff.up.kernel.get_value()
    np.testing.assert_array_equal(kernel, alone)
    coder = jax.tree.leaves(nnx.state(release.autoencoder))
    assert all(
        leaf.sharding.is_fully_replicated and leaf.sharding.device_set == set(mesh.devices.flat) for leaf in coder
    )
    assert autoencoder_bytes(folder / "vae") == sum(leaf.nbytes for leaf in coder)
    assert dataclasses.is_dataclass(release.facts)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 2, 3), (1, 1, 5)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_weights_is_what_each_device_holds(folder, shape, dtype):
    model = load_release(folder, mesh=parallel.make_mesh(shape), dtype=dtype).transformer
    held = collections.Counter()
    for leaf in jax.tree.leaves(nnx.state(model)):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    _, part = transformer_bytes(model.config, dtype, parallel.planned_mesh(shape))
    assert len(held) == math.prod(shape) and set(held.values()) == {part}


def test_another_kind_of_folder_is_named(tmp_path):
    (tmp_path / "avatar.json").write_text("{}")
    with pytest.raises(UserError, match="is an avatar, not a release; give tiny"):
        load_release(tmp_path)
