"""Attention against softmax written out in float64, by every backend that runs here, alone and over a mesh."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d_jax import parallel
from mvp4d_jax.models import attention_splash, attention_xla
from mvp4d_jax.models.attention import _cudnn_attention, attention, choose_backend
from mvp4d_jax.models.attention_xla import xla_attention
from mvp4d_jax.models.transformer import _POLICIES


def brute_force(q, k, v, key_length):
    """Softmax attention in float64, head by head."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        logits = q[b, :, h] @ k[b, :key_length, h].T / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        out[b, :, h] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :key_length, h]
    return out


def make(batch: int, tokens: int, heads: int = 3, dim: int = 16, keys: int | None = None):
    generator = np.random.default_rng(0)
    shapes = [(batch, n, heads, dim) for n in (tokens, keys or tokens, keys or tokens)]
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("elements", [1 << 22, 1])  # at once, and in chunks of 128 queries
@pytest.mark.parametrize("key_length", [300, 257])
def test_plain_form(monkeypatch, platform, elements, key_length):
    """Both plain forms, the loop over heads (CPU) and all heads at once, give softmax attention."""
    monkeypatch.setattr(attention_xla, "CHUNK_ELEMENTS", dict.fromkeys(("cpu", "gpu"), elements))
    monkeypatch.setattr(parallel, "platform", lambda: platform)
    q, k, v = make(2, 300)
    found = jax.jit(lambda q, k, v: attention_xla.xla_attention(q, k, v, key_length))(q, k, v)
    np.testing.assert_allclose(found, brute_force(q, k, v, key_length), atol=3e-6)


def test_chunked_gradients_are_those_of_the_whole(monkeypatch):
    q, k, v = make(1, 200, heads=2, dim=8)

    def total(q, k, v):
        return (attention(q, k, v, key_length=190) * jnp.cos(jnp.arange(q.size)).reshape(q.shape)).sum()

    whole = jax.jit(jax.grad(total, (0, 1, 2)))(q, k, v)
    monkeypatch.setattr(attention_xla, "CHUNK_ELEMENTS", {"cpu": 1})
    chunked = jax.jit(jax.grad(lambda *a: total(*a), (0, 1, 2)))(q, k, v)
    for one, other in zip(whole, chunked):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert not np.any(whole[1][:, 190:]) and not np.any(whole[2][:, 190:])  # padded keys have no say


def test_gradients_against_differences():
    from jax.test_util import check_grads

    q, k, v = make(1, 6, heads=2, dim=4)
    check_grads(lambda *a: attention(*a, key_length=5), (q, k, v), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


REAL = 37  # of 48 keys; the last shards of a split sequence are partly or wholly padding


def output_and_gradients():
    q, k, v = make(4, 48)
    weight = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)
    weight[:, REAL:] = 0.0  # what padded queries give means nothing

    def total(q, k, v):
        out = attention(q, k, v, key_length=REAL)
        return (out * weight).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return np.asarray(out), [np.asarray(gradient) for gradient in gradients]


@pytest.fixture(scope="module")
def on_one_device():
    return output_and_gradients()


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 2, 2)])
def test_over_a_mesh(on_one_device, shape):
    _, expected = on_one_device
    with parallel.use_mesh(parallel.make_mesh(shape)):
        assert parallel.axis_size("tokens") == shape[2]
        out, found = output_and_gradients()
    np.testing.assert_allclose(out[:, :REAL], brute_force(*make(4, 48), REAL)[:, :REAL], atol=3e-6)
    assert np.isfinite(out).all()
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_tokens_that_the_mesh_cannot_split_are_refused():
    q, k, v = make(1, 9)
    with parallel.use_mesh(parallel.make_mesh((1, 1, 2))), pytest.raises(ValueError, match="9 tokens"):
        attention(q, k, v)


def test_the_backend_is_chosen_by_device_and_can_be_overridden(monkeypatch):
    for platform, dtype, expected in [
        ("cpu", jnp.bfloat16, "xla"),
        ("gpu", jnp.bfloat16, "cudnn"),
        ("gpu", jnp.float32, "xla"),
        ("tpu", jnp.float32, "splash"),
    ]:
        monkeypatch.setattr(parallel, "platform", lambda platform=platform: platform)
        assert choose_backend(dtype) == expected and choose_backend(dtype, "xla") == "xla"
    monkeypatch.setattr(parallel, "platform", lambda: "cpu")
    with pytest.raises(ValueError, match="does not run on cpu"):
        choose_backend(jnp.bfloat16, "cudnn")
    with pytest.raises(ValueError, match="no attention backend"):
        choose_backend(jnp.bfloat16, "flash")


def test_the_choice_is_reported_once(caplog):
    q, k, v = make(1, 11)
    with caplog.at_level(logging.INFO, "mvp4d_jax.models.attention"), parallel.use_mesh(parallel.make_mesh((1, 1, 1))):
        from mvp4d_jax.models.attention import _report

        _report.cache_clear()
        for _ in range(3):
            attention(q, k, v)
    assert [record.getMessage() for record in caplog.records] == ["attention: xla on cpu"]


@pytest.mark.parametrize("length", [1, 128, 226, 4322, 13440, 17776, 107520, 107746])
def test_splash_tiles_divide_what_is_padded_and_little_is(length):
    padded = attention_splash.padded_length(length)
    sizes = attention_splash.block_sizes(padded, padded)
    for tile in (sizes.block_q, sizes.block_kv, sizes.block_q_dkv, sizes.block_kv_dkv):
        assert padded % tile == 0 and tile % 128 == 0
    assert sizes.block_kv % sizes.block_kv_compute == 0
    assert length <= padded < length + 512 and sizes.block_q >= min(512, padded)


def test_splash_kernel_in_the_interpreter(monkeypatch):
    """The kernel itself, run step by step on CPU: padding to its tiles, the mask over padded keys, the scale."""
    interpreted = functools.partial(attention_splash.kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(attention_splash.kernel, "make_splash_mha", interpreted)
    q, k, v = make(2, 200, heads=2, dim=64)
    found = attention_splash.splash_attention(*(jnp.asarray(x) for x in (q, k, v)), 190)
    np.testing.assert_allclose(found, brute_force(q, k, v, 190), atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_splash_gradients_in_the_interpreter(monkeypatch, fused):
    """Both backward passes against plain attention's, over three key tiles, the last of them half padding."""
    interpreted = functools.partial(attention_splash.kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(attention_splash.kernel, "make_splash_mha", interpreted)
    monkeypatch.setattr(attention_splash, "MAX_KEY_TILE", 128)
    monkeypatch.setattr(attention_splash, "FUSED_BYTES", (1 << 30) * fused)
    assert attention_splash.block_sizes(384, 384, 1).use_fused_bwd_kernel == fused
    q, k, v = (jnp.asarray(x) for x in make(1, 300, heads=2, dim=64))
    weight = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    ours, plain = (
        jax.jit(jax.grad(lambda *a, f=f: (f(*a, 300) * weight).sum(), (0, 1, 2)))(q, k, v)
        for f in (attention_splash.splash_attention, xla_attention)
    )
    for one, other in zip(ours, plain):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_cudnn_attention_is_not_computed_again_where_remat_saves_attention(monkeypatch):
    """Traced as if there were a GPU: how often the forward primitive stands in a checkpointed gradient."""
    import jax._src.cudnn.fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    q = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.bfloat16)
    times = {}
    for name in ("full", "attention"):
        layer = jax.checkpoint(
            lambda q, k, v: jnp.sin(_cudnn_attention(jnp.tanh(q), k, v, 120)).sum(),
            policy=_POLICIES[name],
            prevent_cse=False,
        )
        traced = str(jax.make_jaxpr(jax.grad(layer, (0, 1, 2)))(q, q, q))
        times[name] = traced.count("dot_product_attention_fwd_wrapper")
    assert times == {"full": 2, "attention": 1}


@pytest.mark.gpu
@pytest.mark.parametrize("key_length", [1024, 1000])
def test_cudnn_on_a_gpu(key_length):
    if jax.default_backend() not in ("gpu", "cuda"):
        pytest.skip("JAX has no GPU (JAX_PLATFORMS=cuda,cpu where there is one): cuDNN attention cannot run")
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in make(2, 1024, heads=4, dim=64))
    assert choose_backend(q.dtype) == "cudnn"
    found, gradients = jax.jit(
        jax.value_and_grad(lambda *a: attention(*a, key_length=key_length).astype(jnp.float32).sum(), (0, 1, 2))
    )(q, k, v)
    plain, expected = jax.jit(
        jax.value_and_grad(
            lambda *a: attention(*a, key_length=key_length, backend="xla").astype(jnp.float32).sum(), (0, 1, 2)
        )
    )(q, k, v)
    assert abs(float(found - plain)) <= 0.02 * abs(float(plain))
    for one, other in zip(gradients, expected):
        difference = jnp.linalg.norm((one - other).astype(jnp.float32))
        assert difference <= 0.03 * jnp.linalg.norm(other.astype(jnp.float32))
