"""Attention in plain XLA operations, with memory linear in the number of tokens.

Two forms. On CPU a loop over samples and heads runs plain two-dimensional products, which XLA hands to its fast matrix
kernels (a batched product runs at a third of their speed). Elsewhere all heads go at once. Both work through the
queries in chunks where the logits would be large, and then recompute a chunk's logits in the backward pass.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mvp4d_jax import parallel

# What the backward pass needs of attention is kept under this name (the remat policy "attention"), by every backend
# that can: here and in the splash kernel.
SAVED_NAME = "attention"

# Logits held at a time, in elements: large enough for full-speed products, small enough to stay near the caches.
CHUNK_ELEMENTS = {"cpu": 1 << 22, "gpu": 1 << 28, "tpu": 1 << 26}


def xla_attention(q: jax.Array, k: jax.Array, v: jax.Array, key_length: int) -> jax.Array:
    """`models.attention.attention` on one device: q [B, N, H, d], k v [B, M, H, d], `key_length` of the keys real."""
    platform = parallel.platform()
    k, v = k[:, :key_length], v[:, :key_length]
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, H, N, d]
    if platform == "cpu":
        flat = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))  # [B H, N, d]
        out = jax.lax.map(lambda head: _by_chunks(*head, CHUNK_ELEMENTS["cpu"]), flat).reshape(q.shape)
    else:
        out = _by_chunks(q, k, v, CHUNK_ELEMENTS[platform])
    return checkpoint_name(out.transpose(0, 2, 1, 3), SAVED_NAME)  # [B, N, H, d]


def _by_chunks(q: jax.Array, k: jax.Array, v: jax.Array, elements: int) -> jax.Array:
    """q [..., N, d], k v [..., M, d] -> [..., N, d], at most about `elements` logits at a time."""
    rows, lead = q.shape[-2], math.prod(q.shape[:-2])
    chunk = max(128, elements // (lead * k.shape[-2]) // 128 * 128)
    if rows <= chunk:
        return _softmax_product(q, k, v)
    chunk = -(-rows // -(-rows // chunk))  # even chunks, so that little is padded
    count = -(-rows // chunk)
    padded = jnp.pad(q, [(0, 0)] * (q.ndim - 2) + [(0, count * chunk - rows), (0, 0)])
    pieces = jnp.moveaxis(padded.reshape(*q.shape[:-2], count, chunk, q.shape[-1]), -3, 0)  # [count, ..., chunk, d]
    product: Callable = jax.checkpoint(lambda piece: _softmax_product(piece, k, v), prevent_cse=False)
    out = jnp.moveaxis(jax.lax.map(product, pieces), 0, -3)
    return out.reshape(padded.shape)[..., :rows, :]


def _softmax_product(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of [..., n, d] to [..., M, d] at once; the division comes last, on d instead of M columns."""
    scale = 1.0 / math.sqrt(q.shape[-1])
    logits = jnp.matmul(q * jnp.asarray(scale, q.dtype), jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)
