"""The mesh and the logical axes."""

import itertools
import math

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


def axes_of(spec) -> list[tuple[str, ...]]:
    return [(entry,) if isinstance(entry, str) else entry or () for entry in spec]


def most_parts(own: int, other: int, fsdp: int, context: int) -> int:
    """Of a kernel whose `embed` dimension has size `own`: by every way to put each axis on either dimension or none."""
    found = []
    for on_own in itertools.product((0, 1), repeat=2):
        for on_other in itertools.product((0, 1), repeat=2):
            if any(map(min, on_own, on_other)):
                continue  # an axis splits one dimension only
            across, along = (fsdp**first * context**second for first, second in (on_own, on_other))
            found += [across * along] if own % across == other % along == 0 else []
    return max(found)


WIDTHS = (1920, 7680, 5760, 512, 224, 64, 100, 7)
PLANNED = [(1, f, c) for f in (1, 2, 3, 8, 16, 256) for c in (1, 4, 8, 32, 64, 128, 512)] + [(8, 8, 8), (2, 6, 5)]


@pytest.mark.parametrize("shape", PLANNED, ids=str)
def test_parameters_are_split_into_as_many_parts_as_there_can_be(shape):
    mesh = parallel.planned_mesh(shape)
    for own, other in itertools.product(WIDTHS, repeat=2):
        for names, size in (((None, "embed"), (other, own)), (("embed", "mlp"), (own, other))):
            spec = parallel.fit_spec(size, names, mesh)
            axes = axes_of(spec)
            counts = [math.prod(mesh.shape[axis] for axis in those) for those in axes]
            assert all(whole % count == 0 for whole, count in zip(size, counts, strict=True)), (size, spec)
            assert math.prod(counts) == most_parts(own, other, *shape[1:]), (size, spec)
            used = sum(axes, ())
            assert len(set(used)) == len(used) and "data" not in used
            if own % (shape[1] * shape[2]) == 0:  # nothing is left for the other dimension
                assert axes == [("fsdp", "context") if name == "embed" else () for name in names]
            stacked = parallel.fit_spec((64, *size), ("layers", *names), mesh)  # a layer lies as all of them
            assert axes_of(stacked) == [(), *axes]


def test_where_the_kernels_of_2b_lie_on_256_chips():
    mesh = parallel.planned_mesh((1, 8, 32))
    assert parallel.fit_spec((30, 1920, 1920), ("layers", "embed", "heads"), mesh) == P(None, "fsdp", "context")
    assert parallel.fit_spec((30, 7680, 1920), ("layers", "mlp", "embed"), mesh) == P(None, "context", "fsdp")
    assert parallel.fit_spec((1920,), (None,), mesh) == P(None)  # a bias
    # Tokens and samples never move to another dimension.
    assert parallel.fit_spec((8, 5, 1920), ("batch", "tokens", None), mesh) == P(("data", "fsdp"), None, None)


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


@pytest.mark.parametrize(
    "shape, names, part",
    [
        ((16, 6), ("embed", "heads"), (2, 6)),
        ((6, 8), ("embed", "heads"), (3, 2)),  # 2 x 4 does not divide 6: context lies on the other dimension
        ((8, 6), ("heads", "embed"), (2, 3)),
        ((7, 16), ("embed", "heads"), (7, 2)),
        ((7, 6), ("embed", "heads"), (7, 3)),
    ],
)
def test_a_gathered_parameter_is_whole_and_its_gradient_split(shape, names, part):
    with parallel.use_mesh(parallel.make_mesh((1, 2, 4))):
        kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda w: jnp.square(parallel.gather_parameter(parallel.constrain(w, *names), names)).sum()
            )
        )(kernel)
        np.testing.assert_allclose(value, np.square(kernel).sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, 2 * kernel, rtol=1e-6)
        assert gradient.sharding.shard_shape(gradient.shape) == part
