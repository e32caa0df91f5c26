"""The transformer compiled ahead of time for a TPU that is not there: splash kernel, gradients."""

import os
import subprocess
import sys
import textwrap

import pytest

CODE = """
    import dataclasses, sys
    import jax, jax.numpy as jnp
    from flax import nnx
    from jax.experimental import topologies
    from mvp4d_jax import parallel
    from mvp4d_jax.models.transformer import MultiViewTransformer
    from mvp4d_jax.models.transformer_config import TransformerConfig

    devices = topologies.get_topology_desc("v5p:2x2x2", platform="tpu").devices
    config = TransformerConfig.named("2b", num_layers=2, dtype="bfloat16", remat=sys.argv[1])
    mesh = parallel.make_mesh((1, 2, 4), devices)
    with parallel.use_mesh(mesh):
        create = lambda: MultiViewTransformer(config, rngs=nnx.Rngs(0))
        graph, state = nnx.get_abstract_model(create, mesh)
        def array(*shape, dtype=jnp.float32):
            return jax.ShapeDtypeStruct((2, *shape), dtype, sharding=parallel.batch_sharding(mesh))
        inputs = {
            "latents": array(4, 5, 32, 32, 16), "timesteps": array(4, 5, dtype=jnp.int32),
            "conditioning": array(4, 5, 32, 32, 56), "reference_latents": array(32, 32, 16),
        }
        loss = lambda state, inputs: jnp.square(nnx.merge(graph, state)(**inputs)).mean()
        compiled = jax.jit(jax.grad(loss), out_shardings=jax.tree.map(lambda x: x.sharding, state)).lower(
            state, inputs).compile()
    memory = compiled.memory_analysis()
    print("SPLASH", "splash" in compiled.as_text(), "BYTES", memory.temp_size_in_bytes)
    """


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "attention"])
def test_a_train_step_compiles_for_v5p(remat):
    pytest.importorskip("libtpu")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5p-16",
        "XLA_FLAGS": "",
    }
    command = [sys.executable, "-c", textwrap.dedent(CODE), remat]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    assert words[words.index("SPLASH") + 1] == "True"
    assert int(words[words.index("BYTES") + 1]) < 4 << 30
