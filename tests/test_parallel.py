"""The mesh and the logical axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel


def test_mesh_shapes():
    assert dict(parallel.make_mesh((2, 2, 2)).shape) == {"data": 2, "fsdp": 2, "context": 2}
    assert dict(parallel.make_mesh((1, -1, 2)).shape) == {"data": 1, "fsdp": 4, "context": 2}
    assert parallel.make_mesh((1, 1, 1)).size == 1
    assert [d.id for d in parallel.make_mesh((1, 1, 2), jax.devices()[4:6]).devices.flat] == [4, 5]


@pytest.mark.parametrize("shape", [(3, 3, 3), (0, 1, 1), (-1, -1, 1), (2, 2), (16, -1, 1), (3, -1, 1)])
def test_mesh_that_does_not_fit_is_refused(shape):
    for where in ("`mesh`", "config.mesh"):
        with pytest.raises(UserError, match=f"^{where}: "):
            parallel.make_mesh(shape, where=where)


def test_devices_that_a_mesh_leaves_idle_are_counted():
    assert parallel.say_mesh((1, 1, 3)) == "data 1, fsdp 1, context 3: 3 devices; 5 of 8 stay idle"
    assert parallel.say_mesh((2, 2, 2)) == "data 2, fsdp 2, context 2: 8 devices"


def test_without_a_mesh_constraints_do_nothing():
    x = jnp.ones((4, 2))
    assert parallel.current_mesh() is None and parallel.axis_size("tokens") == 1
    assert parallel.constrain(x, "batch", "tokens") is x
    assert parallel.platform() == jax.default_backend()


def test_specs_keep_only_the_axes_that_divide():
    with parallel.use_mesh(parallel.make_mesh((2, 2, 2))):
        assert parallel.axis_size("tokens") == 2 and parallel.axis_size("views") == 8
        assert parallel.fit_spec((4, 6, 3), ("batch", "tokens", None)) == P(("data", "fsdp"), ("context",), None)
        assert parallel.fit_spec((2, 5), ("batch", "tokens")) == P(("data",), None)
        assert parallel.fit_spec((3,), ("batch",)) == P(None)
        laid = jax.jit(lambda x: parallel.constrain(x, "batch", "tokens"))(jnp.ones((4, 6)))
        assert laid.sharding.shard_shape(laid.shape) == (1, 3)


@pytest.mark.parametrize("at_once", [4, 8])
def test_shards_are_gathered_in_order_and_so_are_their_gradients(at_once, monkeypatch):
    monkeypatch.setattr(parallel, "GATHERED_AT_ONCE", at_once)
    with parallel.use_mesh(parallel.make_mesh((1, 1, 8))):

        def gather(x):
            return jax.shard_map(
                lambda x: parallel.gather_shards(x, "context", 1),
                in_specs=P(None, "context"),
                out_specs=P(),
                check_vma=False,
            )(x)

        x, weight = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
        np.testing.assert_array_equal(jax.jit(gather)(x), x)
        gradient = jax.jit(jax.grad(lambda x: (gather(x) * weight).sum()))(x)
        np.testing.assert_allclose(gradient, weight, rtol=1e-6)


def test_a_gathered_parameter_is_whole_and_its_gradient_split():
    with parallel.use_mesh(parallel.make_mesh((1, 2, 4))):
        kernel = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
        names = ("embed", "heads")
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda w: jnp.square(parallel.gather_parameter(parallel.constrain(w, *names), names)).sum()
            )
        )(kernel)
        np.testing.assert_allclose(value, np.square(kernel).sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, 2 * kernel, rtol=1e-6)
        assert gradient.sharding.shard_shape(gradient.shape) == (2, 6)
