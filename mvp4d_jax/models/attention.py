"""Attention over a long joint sequence: one function, several backends, one device or many.

`attention` chooses the backend by the device that is computed (or compiled) for: cuDNN's flash attention on NVIDIA, the
splash kernel on TPU, plain XLA elsewhere. Where the mesh splits the tokens (`context`), every device holds its own
queries and gathers all keys and values of the layer.
"""

import functools
import logging

import jax
import jax.numpy as jnp

from mvp4d_jax import parallel
from mvp4d_jax.models.attention_xla import xla_attention

log = logging.getLogger(__name__)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    key_length: int | None = None,
    backend: str | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v over the whole sequence, every token to every token.

    Args:
      q, k, v: [B, N, H, d], float32 or bfloat16. The softmax is computed in float32.
      key_length: how many of the N keys are real; those behind are padding that nothing attends to. Default all. The
        result of padded queries means nothing but is finite.
      backend: "xla", "cudnn", "splash", or None to choose by device.

    Returns:
      [B, N, H, d] of q's dtype.

    Raises:
      ValueError: N is not divisible by the mesh's `context` axis, or the backend does not run on this device.
    """
    total = q.shape[1]
    key_length = total if key_length is None else key_length
    chosen = choose_backend(q.dtype, backend)
    parts = parallel.axis_size("tokens")
    mesh = parallel.current_mesh()
    _report(chosen, parallel.platform(), parts)
    if mesh is None or mesh.size == 1:
        return _BACKENDS[chosen](q, k, v, key_length)
    if total % parts:
        raise ValueError(f"{total} tokens cannot be split over {parts} devices of the context axis; pad them")

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:  # [B/b, N/c, H, d] each
        if parts == 1:
            return _BACKENDS[chosen](q, k, v, key_length)
        k, v = (parallel.gather_shards(x, "context", 1) for x in (k, v))  # [B/b, N, H, d]
        return _BACKENDS[chosen](q, k, v, key_length)

    spec = parallel.fit_spec(q.shape, ("batch", "tokens", None, None))
    # The kernels' outputs carry no replication types, so that check is off.
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def choose_backend(dtype: jnp.dtype, backend: str | None = None) -> str:
    """The backend for the current device: `backend` where it can run, or the fastest that can.

    Raises:
      ValueError: the backend asked for does not run on this device or dtype.
    """
    platform = parallel.platform()
    runs = {
        "xla": True,
        "cudnn": platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16),
        "splash": platform == "tpu",
    }
    if backend is None:
        return next(name for name in ("splash", "cudnn", "xla") if runs[name])
    if backend not in runs:
        raise ValueError(f"no attention backend is called {backend!r}; there are {', '.join(runs)}")
    if not runs[backend]:
        raise ValueError(f"attention backend {backend!r} does not run on {platform} in {jnp.dtype(dtype).name}")
    return backend


def _cudnn_attention(q: jax.Array, k: jax.Array, v: jax.Array, key_length: int) -> jax.Array:
    """NVIDIA's fused flash attention, forward and backward."""
    return jax.nn.dot_product_attention(q, k[:, :key_length], v[:, :key_length], implementation="cudnn")


def _splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, key_length: int) -> jax.Array:
    """The TPU's kernel; its modules are read where it runs."""
    from mvp4d_jax.models.attention_splash import splash_attention

    return splash_attention(q, k, v, key_length)


_BACKENDS = {"xla": xla_attention, "cudnn": _cudnn_attention, "splash": _splash_attention}


@functools.cache
def _report(backend: str, platform: str, parts: int) -> None:
    """One line in the log for each combination that is used, however many layers and steps use it."""
    over = f", tokens over {parts} devices" if parts > 1 else ""
    log.info("attention: %s on %s%s", backend, platform, over)
