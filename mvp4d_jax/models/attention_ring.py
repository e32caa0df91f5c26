"""Attention over a ring of devices: keys and values travel, queries stay.

Memory on a device does not grow with the tokens that others hold. The backward pass is written out (Liu et al., "Ring
attention", arXiv 2310.01889, with FlashAttention-2's formulas): the normaliser is kept, logits are recomputed block by
block, and the gradients of keys and values travel home with them.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mvp4d_jax.models.attention_xla import SAVED_NAME

MASKED = -1e30  # finite, so that a block without any real key does no harm
LOGITS_PER_CHUNK = 1 << 26  # logits held at a time, in elements


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def ring_attention(q: jax.Array, k: jax.Array, v: jax.Array, key_length: int, axis: str) -> jax.Array:
    """`models.attention.attention` inside a `shard_map`: q k v [B, N/c, H, d], this device's part of the sequence.

    Args:
      key_length: how many keys of the whole sequence are real.
      axis: the mesh axis that the sequence is split over, c devices.
    """
    return _ring_forward(q, k, v, key_length, axis)[0]


def _ring_forward(q, k, v, key_length, axis):
    scale = 1.0 / math.sqrt(q.shape[-1])
    queries = _chunks(q * jnp.asarray(scale, q.dtype), k.shape[1])  # [J, B, n, H, d]

    def visit(state, key, value, bias):
        def absorb(piece, state):  # one chunk of queries meets one block of keys: the online softmax
            numerator, denominator, peak = state  # [B, n, H, d], [B, H, n], [B, H, n] float32
            logits = jnp.einsum("bqhd,bkhd->bhqk", piece, key, preferred_element_type=jnp.float32) + bias
            new_peak = jnp.maximum(peak, logits.max(axis=-1))
            weights = jnp.exp(logits - new_peak[..., None])
            fade = jnp.exp(peak - new_peak)
            mixed = jnp.einsum(
                "bhqk,bkhd->bqhd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
            )
            numerator = numerator * fade.swapaxes(1, 2)[..., None] + mixed
            return numerator, denominator * fade + weights.sum(axis=-1), new_peak

        return jax.lax.map(lambda both: absorb(*both), (queries, state))

    count, batch, rows, heads, _ = queries.shape
    state = (
        jnp.zeros(queries.shape, jnp.float32),
        jnp.zeros((count, batch, heads, rows), jnp.float32),
        jnp.full((count, batch, heads, rows), MASKED, jnp.float32),
    )
    numerator, denominator, peak = _around(visit, state, (k, v), key_length, axis)[0]
    out = _join((numerator / denominator.swapaxes(2, 3)[..., None]).astype(q.dtype), q.shape[1])
    out, normaliser = (checkpoint_name(x, SAVED_NAME) for x in (out, peak + jnp.log(denominator)))
    return out, (q, k, v, out, normaliser)


def _ring_backward(key_length, axis, kept, d_out):
    q, k, v, out, normaliser = kept  # normaliser: log sum exp of each query's logits, [J, B, H, n]
    scale = 1.0 / math.sqrt(q.shape[-1])
    queries, d_outs = _chunks(q * jnp.asarray(scale, q.dtype), k.shape[1]), _chunks(d_out, k.shape[1])
    products = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)  # [B, N/c, H, 1]
    deltas = _chunks(products, k.shape[1])[..., 0].swapaxes(2, 3)  # [J, B, H, n]

    def visit(d_queries, key, value, d_key, d_value, bias):
        def one(carry, piece):
            d_key, d_value = carry
            query, grad, norm, delta, d_query = piece
            logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) + bias
            weights = jnp.exp(logits - norm[..., None])
            d_weights = jnp.einsum("bqhd,bkhd->bhqk", grad, value, preferred_element_type=jnp.float32)
            d_logits = (weights * (d_weights - delta[..., None])).astype(query.dtype)
            weights = weights.astype(grad.dtype)
            d_value += jnp.einsum("bhqk,bqhd->bkhd", weights, grad, preferred_element_type=jnp.float32)
            d_key += jnp.einsum("bhqk,bqhd->bkhd", d_logits, query, preferred_element_type=jnp.float32)
            d_query += jnp.einsum("bhqk,bkhd->bqhd", d_logits, key, preferred_element_type=jnp.float32)
            return (d_key, d_value), d_query

        pieces = (queries, d_outs, normaliser, deltas, d_queries)
        (d_key, d_value), d_queries = jax.lax.scan(one, (d_key, d_value), pieces)
        return d_queries, d_key, d_value

    zeros = jnp.zeros(k.shape, jnp.float32)
    d_queries = jnp.zeros(queries.shape, jnp.float32)
    d_queries, (_, _, d_key, d_value) = _around(visit, d_queries, (k, v, zeros, zeros), key_length, axis)
    return (_join(d_queries, q.shape[1]) * scale).astype(q.dtype), d_key.astype(k.dtype), d_value.astype(v.dtype)


ring_attention.defvjp(_ring_forward, _ring_backward)


def _around(visit, state, travelling, key_length, axis):
    """Send `travelling` once around the ring, calling `visit(state, *travelling, bias)` at every stop.

    `visit` returns the new state, and, where more than keys and values travel, the new values of the rest. After the
    last stop everything moves once more, and is home.
    """
    parts, rows = jax.lax.axis_size(axis), travelling[0].shape[1]
    onward = [(index, (index + 1) % parts) for index in range(parts)]

    def stop(carry, step):
        state, travelling = carry
        owner = (jax.lax.axis_index(axis) - step) % parts
        bias = jnp.where(owner * rows + jnp.arange(rows) < key_length, 0.0, MASKED)  # padded keys weigh nothing
        result = visit(state, *travelling, bias)
        if len(travelling) > 2:
            state, travelling = result[0], (*travelling[:2], *result[1:])
        else:
            state = result
        return (state, tuple(jax.lax.ppermute(x, axis, onward) for x in travelling)), None

    return jax.lax.scan(stop, (state, tuple(travelling)), jnp.arange(parts))[0]


def _chunks(x: jax.Array, keys: int) -> jax.Array:
    """[B, N, H, e] -> [J, B, n, H, e], zero-padded, so that n x keys logits of all heads are about LOGITS_PER_CHUNK."""
    batch, rows, heads, _ = x.shape
    chunk = max(128, LOGITS_PER_CHUNK // (batch * heads * keys) // 128 * 128)
    count = -(-rows // chunk)
    chunk = -(-rows // count)
    padded = jnp.pad(x, ((0, 0), (0, count * chunk - rows), (0, 0), (0, 0)))
    return padded.reshape(batch, count, chunk, heads, -1).swapaxes(0, 1)


def _join(pieces: jax.Array, rows: int) -> jax.Array:
    """Undo `_chunks`."""
    count, batch, chunk, heads, width = pieces.shape
    return pieces.swapaxes(0, 1).reshape(batch, count * chunk, heads, width)[:, :rows]
